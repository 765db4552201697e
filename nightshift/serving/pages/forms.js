// A form per input kind. Each calls send({type, body, what}) with the request, and what was asked in a few words.

import { h, pretty } from "./api.js";

const TYPES = "image/png,image/jpeg,image/webp,image/gif,image/bmp";
const SMALL = 64; // pixels; smaller pictures are shown with their pixels
const STROKE = 22; // of the 280 pixels of the drawing's edge

export function form(model, send) {
  return { image, text, row, tensor }[model.kind](model, send);
}

function image(model, send) {
  const [height, width, channels] = model.shape;
  const urls = [];
  const preview = h("img", { alt: "", hidden: true });
  const hint = h("span", { class: "invite" }, h("strong", {}, "Drop an image here"), h("span", {}, "or choose a file, or paste one"));
  const file = h("input", { type: "file", accept: TYPES, multiple: true, class: "hidden-input", "aria-label": "Image file" });
  const drop = h("label", { class: "drop" }, file, preview, hint);

  async function take(blobs) {
    for (const blob of blobs) {
      const url = URL.createObjectURL(blob);
      urls.push(url);
      const loaded = new Promise((done) => (preview.onload = preview.onerror = done));
      preview.src = url;
      await loaded;
      const pixelated = preview.naturalWidth > 0 && preview.naturalWidth <= SMALL;
      preview.className = pixelated ? "pixelated" : "";
      preview.hidden = !preview.naturalWidth || !blob.name; // a drawing is seen where it was drawn
      hint.classList.toggle("over", !preview.hidden);
      const what = { text: blob.name ?? "a drawing", thumbnail: preview.naturalWidth ? url : null, pixelated };
      await send({ type: blob.type || "application/octet-stream", body: blob, what });
    }
  }

  file.addEventListener("change", () => {
    take([...file.files]);
    file.value = ""; // the same file may be chosen again
  });
  for (const name of ["dragenter", "dragover"])
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("hover");
    });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("hover"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
  const paste = (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length) take(pasted);
  };
  document.addEventListener("paste", paste);

  const parts = [h("h2", {}, "Image"), drop];
  parts.push(h("p", { class: "hint" }, `PNG, JPEG, WebP, GIF or BMP; other sizes become ${width} × ${height}.`));
  if (channels === 1 && Math.max(height, width) <= SMALL) parts.push(...drawing(width / height, take));
  return {
    element: h("div", {}, parts),
    invitation: "The answer comes here as soon as there is an image.",
    leave: () => {
      document.removeEventListener("paste", paste);
      urls.forEach((url) => URL.revokeObjectURL(url));
    },
  };
}

// White strokes on black, as such data sets are; asked about a moment after each stroke.
function drawing(ratio, take) {
  const canvas = h("canvas", { width: 280, height: Math.round(280 / ratio), class: "pad", "aria-label": "Drawing" });
  const pen = canvas.getContext("2d");
  let waiting;
  function clear() {
    clearTimeout(waiting);
    pen.fillStyle = "black";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  }
  function at(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
  }
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    clearTimeout(waiting);
    Object.assign(pen, { strokeStyle: "white", lineWidth: STROKE, lineCap: "round", lineJoin: "round" });
    pen.beginPath();
    pen.moveTo(...at(event));
    pen.lineTo(...at(event));
    pen.stroke();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    pen.lineTo(...at(event));
    pen.stroke();
  });
  canvas.addEventListener("pointerup", () => {
    waiting = setTimeout(() => canvas.toBlob((blob) => take([blob]), "image/png"), 400);
  });
  clear();
  const wipe = h("button", { type: "button", class: "quiet", onclick: clear }, "Clear");
  return [h("div", { class: "draw" }, h("h2", {}, "Or draw one"), wipe), canvas];
}

function text(model, send) {
  const field = h("textarea", { id: "text", rows: 6, required: true, spellcheck: false });
  const element = h("form", {}, h("label", { for: "text" }, h("h2", {}, "Text")), field, button());
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    send({ ...json({ text: field.value }), what: { text: field.value } });
  });
  withEnter(field, element);
  return { element, invitation: "The answer comes here when you ask (Ctrl + Enter)." };
}

function row(model, send) {
  const fields = model.columns.map((column, index) => {
    const id = `column-${index}`;
    const { minimum: low, maximum: high } = column;
    const range = [low !== null && `from ${low}`, high !== null && `to ${high}`].filter(Boolean).join(" ");
    const field =
      column.kind === "category"
        ? h("select", { id }, column.categories.map((each) => h("option", { value: each }, each)))
        : h("input", { id, type: "number", step: "any", required: true, inputmode: "decimal", value: String(low ?? 0) });
    const label = h("label", { for: id }, column.name, range ? h("span", { class: "hint" }, `${range} in training`) : null);
    return { column, field, element: h("div", { class: "field" }, label, field) };
  });
  const element = h("form", {}, h("h2", {}, "Row"), h("div", { class: "fields" }, fields.map((each) => each.element)), button());
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = fields.map(({ column, field }) => [column.name, column.kind === "category" ? field.value : Number(field.value)]);
    const words = values.map(([name, value]) => `${name} ${value}`).join(", ");
    send({ ...json(Object.fromEntries(values)), what: { text: words } });
  });
  return { element, invitation: "The answer comes here when you ask." };
}

function tensor(model, send) {
  const inputs = model.inputs.map(({ name, datatype, shape }) => {
    const sizes = shape.map((size) => Math.max(size, 1));
    const count = sizes.reduce((product, size) => product * size, 1);
    const zero = { BYTES: "", BOOL: false }[datatype] ?? 0;
    return { name, datatype, shape: sizes, data: count <= 256 ? Array(count).fill(zero) : [] };
  });
  const field = h("textarea", { id: "tensors", rows: 14, spellcheck: false, class: "code", required: true });
  field.value = pretty({ inputs });
  const element = h("form", {}, h("label", { for: "tensors" }, h("h2", {}, "Tensors")), field, button());
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    send({ type: "application/json", body: field.value, raw: true, what: { text: "tensors" } });
  });
  withEnter(field, element);
  return { element, invitation: "This model takes tensors only, in the words of the Open Inference Protocol." };
}

function button() {
  return h("button", { type: "submit", class: "button" }, "Ask");
}

function json(value) {
  return { type: "application/json", body: JSON.stringify(value) };
}

function withEnter(field, element) {
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element.requestSubmit();
  });
}
