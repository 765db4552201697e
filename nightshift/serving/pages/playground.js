// One model, asked by hand: the form is drawn from the model's input kind, the answer from what came back.

import { ask, copyButton, failure, h, pretty } from "./api.js";
import { about } from "./app.js";
import { form } from "./forms.js";

const SHOWN = 10; // labels before "all"
const KEPT = 12; // answers in the history

export async function playground(page, name, needKey) {
  document.title = "Playground · Nightshift";
  const { models } = (await ask("/v1/models")).json;
  const model = name ? models.find((each) => each.name === name) : models[0];
  if (!model) {
    const text = name ? `There is no model ${name} here.` : "Nothing is served yet.";
    page.append(h("h1", {}, "Playground"), h("p", { class: "card" }, text, " ", h("a", { href: "/" }, "See the models")));
    return;
  }
  document.title = `${model.name} · Nightshift`;
  const version = choice(
    "Version",
    [["", "what serves"], ...model.serving.map((each) => [each.version, `${each.version} (${each.role})`])],
    "",
  );
  const others = choice("Model", models.map((each) => [each.name, each.name]), model.name);
  others.select.addEventListener("change", () => {
    const link = h("a", { href: `/playground/${encodeURIComponent(others.select.value)}` });
    page.append(link);
    link.click();
  });
  const answer = h("section", { class: "card answer", "aria-live": "polite", "aria-label": "Answer" });
  const history = h("ol", { class: "history" });
  const past = h("section", { class: "past", hidden: true, "aria-label": "History" }, h("h2", {}, "Asked before"), history);
  const input = form(model, send);

  let newest = 0;
  async function send({ type, body, what, raw }) {
    const mine = ++newest;
    answer.classList.add("busy");
    const path = encodeURIComponent(model.name);
    const pinned = version.select.value && `/versions/${encodeURIComponent(version.select.value)}`;
    let shown;
    try {
      const url = raw ? `/v2/models/${path}${pinned}/infer` : `/v1/models/${path}${pinned}:predict`;
      const { json, elapsed } = await ask(url, { method: "POST", type, body });
      const said = raw ? { predictions: [{ raw: json }], version: json.model_version } : json;
      remember(said, elapsed, what);
      shown = told(said, elapsed, what);
    } catch (error) {
      if (!("status" in error)) throw error;
      if (error.status === 401 || error.status === 403) needKey();
      shown = [failure(error)];
    }
    if (mine !== newest) return; // a later question is on its way
    answer.classList.remove("busy");
    answer.replaceChildren(...shown);
    answer.scrollIntoView({ block: "nearest" }); // on a phone it is below the question
  }

  function remember(said, elapsed, what) {
    const first = said.predictions[0];
    const button = h(
      "button",
      { type: "button", onclick: () => answer.replaceChildren(...told(said, elapsed, what)) },
      what.thumbnail ? h("img", { src: what.thumbnail, alt: "", class: what.pixelated ? "pixelated" : "" }) : null,
      h(
        "span",
        { class: "lines" },
        h("span", {}, what.text),
        h("strong", {}, headline(first)),
        h("span", { class: "hint" }, `${said.version} · ${milliseconds(elapsed)}`),
      ),
    );
    history.prepend(h("li", {}, button));
    while (history.children.length > KEPT) history.lastChild.remove();
    past.hidden = false;
  }

  answer.append(h("p", { class: "hint empty" }, input.invitation));
  page.append(
    h("div", { class: "title" }, h("h1", {}, model.name), h("p", { class: "lead" }, about(model))),
    h("div", { class: "choices" }, models.length > 1 ? others.label : null, model.serving.length > 1 ? version.label : null),
    h("div", { class: "bench" }, h("section", { class: "card ask", "aria-label": "Question" }, input.element), answer),
    past,
  );
  return input.leave;
}

function told(said, elapsed, what) {
  const { labels, label, values, raw, notes = [] } = said.predictions[0];
  const parts = [];
  if (label !== undefined) {
    parts.push(h("p", { class: "best" }, h("strong", {}, label), h("span", {}, amount(labels[0]))));
    parts.push(bars(labels.slice(0, SHOWN)));
    if (labels.length > SHOWN)
      parts.push(h("details", {}, h("summary", {}, `All ${labels.length} labels`), bars(labels.slice(SHOWN))));
  } else if (values) {
    const rows = Object.entries(values).map(([name, value]) => [h("dt", {}, name), h("dd", {}, number(value))]);
    parts.push(h("dl", { class: "values" }, rows));
  } else {
    parts.push(h("pre", {}, pretty(raw.outputs)));
  }
  if (notes.length) parts.push(h("ul", { class: "notes" }, notes.map((note) => h("li", {}, note))));
  const meta = [
    said.role && h("span", { class: `role ${said.role}` }, said.role),
    h("span", {}, "release ", h("code", { title: said.digest ?? "" }, said.version)),
    said.digest && copyButton(said.digest, "Copy digest"),
    said.seconds !== undefined && h("span", {}, `${milliseconds(said.seconds * 1000)} in the endpoint`),
    h("span", {}, `${milliseconds(elapsed)} round trip`),
  ];
  parts.push(h("p", { class: "meta" }, meta));
  if (what.text) parts.unshift(h("p", { class: "asked hint" }, what.text));
  return parts;
}

function bars(labels) {
  return h(
    "ol",
    { class: "bars" },
    labels.map((each) => {
      const fill = h("span", { class: "fill" });
      fill.style.width = `${100 * Math.max(0, Math.min(1, each.probability ?? 0))}%`;
      const track = each.probability === undefined ? null : h("span", { class: "track" }, fill);
      return h("li", {}, h("span", { class: "label", title: each.label }, each.label), track, h("span", { class: "amount" }, amount(each)));
    }),
  );
}

function headline({ label, labels, values, raw }) {
  if (label !== undefined) return `${label} ${amount(labels[0])}`;
  if (values) return Object.entries(values).map(([name, value]) => `${name} ${number(value)}`).join(", ");
  return raw.outputs.map((output) => `${output.name} ${JSON.stringify(output.shape)}`).join(", ");
}

function amount({ probability, score }) {
  if (probability === undefined) return number(score);
  return `${(100 * probability).toFixed(1)} %`;
}

function number(value) {
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  return value.toLocaleString("en", { maximumSignificantDigits: 6 });
}

function milliseconds(value) {
  return value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

function choice(name, options, chosen) {
  const select = h("select", {}, options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return { select, label: h("label", { class: "choice" }, h("span", {}, name), select) };
}
