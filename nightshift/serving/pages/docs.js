// The OpenAPI document, for people: what there is, what it takes, and a line to try.

import { ask, copyButton, h } from "./api.js";

const ENDLESS = 1e15; // a limit beyond it is the datatype's, nothing that a person meets

export async function docs(page) {
  document.title = "API · Nightshift";
  const { json: api } = await ask("/openapi.json");
  const groups = new Map(api.tags.map((tag) => [tag.name, { tag, operations: [] }]));
  for (const [path, methods] of Object.entries(api.paths)) {
    if (path.includes("{version}")) continue; // said at the path without it
    const pinned = path.replace(/(\/models\/[^/:]+)/, "$1/versions/{version}");
    for (const [method, operation] of Object.entries(methods))
      groups.get(operation.tags[0]).operations.push({ path, method, operation, pinned: pinned in api.paths && pinned });
  }
  const shown = [...groups.values()].filter((group) => group.operations.length);
  page.append(
    h("h1", {}, api.info.title),
    h("p", { class: "lead" }, api.info.description),
    h("p", { class: "links" }, h("a", { href: "/openapi.json", download: "openapi.json" }, `openapi.json (${api.openapi})`)),
    h(
      "nav",
      { class: "contents", "aria-label": "Contents" },
      shown.map(({ tag }) => h("a", { href: `#${encodeURIComponent(tag.name)}` }, tag.name)),
    ),
    ...shown.map((group) => section(api, group)),
  );
  requestAnimationFrame(() => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView());
}

function section(api, { tag, operations }) {
  return h(
    "section",
    { id: tag.name, class: "group" },
    h("h2", {}, tag.name),
    h("p", { class: "lead" }, tag.description),
    operations.map((each) => entry(api, each)),
  );
}

function entry(api, { path, method, operation, pinned }) {
  const contents = Object.entries(operation.requestBody?.content ?? {});
  const answers = Object.entries(operation.responses).map(([status, answer]) => [status, resolve(api, answer)]);
  return h(
    "details",
    { class: "card operation" },
    h(
      "summary",
      {},
      h("span", { class: `method ${method}` }, method.toUpperCase()),
      h("code", {}, path),
      h("span", { class: "hint" }, operation.summary),
    ),
    operation.description ? h("p", {}, operation.description) : null,
    pinned ? h("p", { class: "hint" }, "One release by its digest: ", h("code", {}, pinned)) : null,
    (operation.parameters ?? []).map((each) => h("p", { class: "hint" }, h("code", {}, each.name), ` ${each.description}`)),
    samples(api, path, method, operation, contents),
    contents.length ? h("h3", {}, "Body") : null,
    contents.map(([type, content]) =>
      content.schema.format === "binary"
        ? h("p", { class: "response" }, h("code", {}, type), type.startsWith("image/") ? " the file itself" : " with binary tensors")
        : h("details", { open: contents.length === 1 }, h("summary", {}, h("code", {}, type)), tree(api, content.schema)),
    ),
    h("h3", {}, "Answers"),
    answers.filter(([status]) => status[0] === "2").map((each) => response(api, ...each)),
    h("details", {}, h("summary", { class: "hint" }, "Refusals"), answers.filter(([status]) => status[0] !== "2").map((each) => response(api, ...each))),
  );
}

function response(api, status, answer) {
  const schema = answer.content?.["application/json"]?.schema;
  const line = [h("span", { class: `status s${status[0]}` }, status), " ", answer.description];
  if (!schema || status[0] !== "2") return h("p", { class: "response" }, line);
  return h("details", { class: "response" }, h("summary", {}, line), tree(api, schema));
}

// One curl line per kind of body, as a shell takes it.
function samples(api, path, method, operation, contents) {
  const url = location.origin + path;
  const needs = operation.security ?? api.security;
  const key = needs.length && needs.every((each) => Object.keys(each).length) ? ` -H "X-API-Key: $NIGHTSHIFT_API_KEY"` : "";
  const verb = method === "post" && !contents.length ? " -X POST" : "";
  const lines = contents.length ? contents.flatMap(([type, content]) => bodies(type, content)) : [""];
  const texts = lines.map((line) => `curl -s ${quote(url)}${verb}${key}${line}`);
  return [
    h("h3", {}, "Try it"),
    texts.map((text) => h("div", { class: "sample" }, h("pre", {}, text), copyButton(text))),
  ];
}

function bodies(type, { example }) {
  if (type.startsWith("image/")) return type === "image/png" ? [" --data-binary @picture.png"] : [];
  if (type === "multipart/form-data") return [" -F file=@one.png -F file=@two.png"];
  if (example === undefined) return [];
  const data = typeof example === "string" && type.startsWith("text/") ? example : JSON.stringify(example);
  return [` -H 'Content-Type: ${type}' -d ${quote(data)}`];
}

function quote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

// A schema as a list of names, types and limits.
function tree(api, given, depth = 0) {
  const schema = resolve(api, given);
  if (!schema || depth > 6) return null;
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) {
    const items = choices.map((each) => {
      const list = each.type === "array" && JSON.stringify(each.items) === JSON.stringify(choices[0]);
      return h("li", {}, words(resolve(api, each)), list ? ", of the same" : tree(api, each, depth + 1));
    });
    return h("ul", { class: "tree" }, h("li", { class: "hint" }, "one of"), items);
  }
  if (schema.type === "array") return schema.items ? tree(api, schema.items, depth + 1) : null;
  if (!schema.properties) return depth ? null : h("p", {}, words(schema));
  const required = new Set(schema.required ?? []);
  return h(
    "ul",
    { class: "tree" },
    Object.entries(schema.properties).map(([name, each]) =>
      h(
        "li",
        {},
        h("code", {}, name),
        required.has(name) ? null : h("span", { class: "hint" }, " optional"),
        " ",
        words(resolve(api, each)),
        tree(api, each, depth + 1),
      ),
    ),
  );
}

function words(schema) {
  if ("const" in schema) return `is ${JSON.stringify(schema.const)}`;
  const parts = [];
  if (schema.enum) parts.push(`one of ${schema.enum.slice(0, 12).map((each) => JSON.stringify(each)).join(", ")}${schema.enum.length > 12 ? ", …" : ""}`);
  else if (schema.type) parts.push([schema.type].flat().join(" or "));
  if (schema.minimum > -ENDLESS) parts.push(`from ${schema.minimum}`);
  if (schema.maximum < ENDLESS) parts.push(`to ${schema.maximum}`);
  if (schema.maxItems !== undefined) parts.push(`at most ${schema.maxItems}`);
  const about = schema.description ? ` · ${schema.description}` : "";
  return parts.join(", ") + about;
}

function resolve(api, value) {
  if (!value?.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((part, name) => part[name.replaceAll("~1", "/").replaceAll("~0", "~")], api);
}
