// What all pages share: elements without markup in strings, and requests with the key that was typed.

let key = "";

export function setKey(value) {
  key = value.trim();
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// An answer of the endpoint: its JSON, and the milliseconds until it was here. Throws Refused.
export async function ask(path, { method = "GET", type, body } = {}) {
  const headers = {};
  if (key) headers["x-api-key"] = key;
  if (type) headers["content-type"] = type;
  const started = performance.now();
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch {
    throw new Refused(0, "The endpoint does not answer. Is it running, and can this browser reach it?");
  }
  const json = await answer.json().catch(() => null);
  const elapsed = performance.now() - started;
  if (!answer.ok) throw new Refused(answer.status, json?.error ?? `the endpoint answers ${answer.status}`);
  return { json, elapsed };
}

// An element; strings among the children become text, never markup.
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [property, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (property.startsWith("on")) element.addEventListener(property.slice(2), value);
    else if (property === "class") element.className = value;
    else if (property === "value") element.value = value;
    else element.setAttribute(property, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// JSON as people read it: a list of plain values stays on its line.
export function pretty(value) {
  return JSON.stringify(value, null, 2).replace(/\[\s+([^[\]{}"]*?)\s+\]/g, (_, inside) => `[${inside.replace(/\s+/g, " ")}]`);
}

export function copyButton(text, what = "Copy") {
  const button = h("button", { type: "button", class: "quiet", onclick: copy }, what);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it by hand"; // no clipboard without https or loopback
    }
    setTimeout(() => (button.textContent = what), 1500);
  }
  return button;
}

export function failure(error) {
  return h("div", { class: "card failure", role: "alert" }, h("strong", {}, title(error.status)), h("p", {}, error.message));
}

function title(status) {
  if (status === 0) return "No answer";
  if (status === 401 || status === 403) return "A key is needed";
  if (status === 429 || status === 503) return "Too much at once";
  return `Refused (${status})`;
}
