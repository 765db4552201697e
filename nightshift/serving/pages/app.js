// The pages are one document: going from one to another keeps the key in memory, and nothing else keeps it anywhere.

import { ask, failure, h, pretty, setKey } from "./api.js";
import { docs } from "./docs.js";
import { playground } from "./playground.js";

const main = document.querySelector("#main");
const keyPanel = document.querySelector(".key");
const keyField = document.querySelector("#key");
let leave = () => {};

async function show({ focus = false } = {}) {
  leave();
  const path = decodeURIComponent(location.pathname);
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.pathname === "/" ? path === "/" : path.startsWith(link.pathname);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(h("p", { class: "waiting" }, "Asking the endpoint …"));
  const page = h("div");
  const asked = location.href;
  leave = () => {};
  try {
    let left;
    if (path.startsWith("/playground")) left = await playground(page, path.split("/")[2], needKey);
    else if (path.startsWith("/docs")) await docs(page);
    else await home(page);
    if (asked !== location.href) return left?.(); // somebody went on meanwhile
    leave = left ?? leave;
    main.replaceChildren(page);
  } catch (error) {
    if (!("status" in error)) throw error;
    main.replaceChildren(failure(error));
    if (error.status === 401 || error.status === 403) needKey();
  }
  if (focus) main.focus({ preventScroll: true });
}

function needKey() {
  keyPanel.open = true;
  keyField.focus();
}

async function home(page) {
  document.title = "Models · Nightshift";
  const { json } = await ask("/v1/models");
  page.append(h("h1", {}, "Models"));
  if (!json.models.length) {
    page.append(h("p", { class: "card" }, "Nothing is served yet. A night ends with a model here: ", h("code", {}, "make night")));
    return;
  }
  page.append(h("p", { class: "lead" }, "What this endpoint serves now. Every answer names the release that gave it."));
  page.append(h("ul", { class: "models" }, json.models.map(card)));
}

function card(model) {
  const name = encodeURIComponent(model.name);
  return h(
    "li",
    { class: "card" },
    h("h2", {}, h("a", { href: `/playground/${name}` }, model.name)),
    h("p", { class: "hint" }, about(model)),
    h(
      "ul",
      { class: "serving" },
      model.serving.map((each) =>
        h("li", {}, h("span", { class: `role ${each.role}` }, each.role), h("code", { title: each.digest }, each.version)),
      ),
    ),
    h(
      "p",
      { class: "links" },
      h("a", { class: "button", href: `/playground/${name}` }, "Try it"),
      h("a", { href: `/docs#${name}` }, "API"),
    ),
    metadata(`/v2/models/${name}`),
  );
}

// Asked for with the key, where a plain link could not bring one.
function metadata(path) {
  const shown = h("pre", {}, "…");
  const details = h("details", {}, h("summary", {}, "Metadata"), shown);
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    try {
      shown.textContent = pretty((await ask(path)).json);
    } catch (error) {
      shown.textContent = error.message;
    }
  });
  return details;
}

export function about(model) {
  const [height, width, channels] = model.shape ?? [];
  const takes = {
    image: () => `Takes an image (${width} × ${height}, ${channels === 1 ? "gray" : "color"})`,
    text: () => "Takes a text",
    row: () => `Takes a row of ${model.columns.length} columns`,
    tensor: () => "Takes tensors",
  }[model.kind]();
  const labels = model.labels?.length ?? 0;
  return `${takes}, answers ${labels ? `with one of ${labels} labels` : "with numbers"}.`;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  if (link.origin !== location.origin || !/^\/($|docs|playground)/.test(link.pathname)) return;
  if (link.pathname === location.pathname && link.hash) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  show({ focus: true });
  window.scrollTo(0, 0);
});
window.addEventListener("popstate", () => show());
keyPanel.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(keyField.value);
  keyPanel.open = false;
  keyPanel.querySelector("summary").textContent = keyField.value.trim() ? "Key ✓" : "Key";
  show({ focus: true });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") keyPanel.open = false;
});

show();
