// List of prompts.

import { promptCenter } from "../drawing/voxels.js";
import { findClass } from "../state/classes.js";
import { $, createButton, createElement } from "./dom.js";

const KINDS = { point: "point", scribble: "scribble", box: "box", lasso: "lasso", mask: "brush", lock: "lock" };

/** The log, newest first. Handlers: go(index), remove(index), light(index or null), giveUp(key). */
export class PromptList {
  #list = $("prompts");
  #shown = "";
  #handlers;

  constructor(handlers) {
    this.#handlers = handlers;
    this.#list.addEventListener("keydown", (event) => this.#key(event));
  }

  /** `waiting`: operations that have not been sent. */
  update(entries, classes, waiting = []) {
    $("prompts-none").hidden = entries.length + waiting.length > 0;
    $("prompts-count").textContent = entries.length || "";
    const key = JSON.stringify([
      entries.map((entry) => [entry.kind, entry.class_id, entry.positive, promptCenter(entry)]),
      waiting.map((operation) => operation.key),
    ]);
    if (key === this.#shown) return;
    this.#shown = key;
    const focused = this.#indexOf(document.activeElement);
    const classOf = (entry) => findClass(entry.class_id, classes, entries);
    const rows = entries.map((entry, index) => this.#row(entry, index, classOf(entry)));
    rows.push(...waiting.map((operation) => this.#waitingRow(operation, classOf)));
    this.#list.replaceChildren(...rows.reverse());
    if (focused === null) return;
    const index = Math.min(focused, entries.length - 1);
    (this.#list.querySelector(`[data-index="${index}"] .go`) ?? $("slices")).focus();
  }

  #row(entry, index, { name, color }) {
    const { go, remove, light } = this.#handlers;
    const swatch = createElement("span", { className: "swatch" });
    swatch.style.setProperty("--color", color);
    const description = describePrompt(entry, name);
    const place = promptCenter(entry);
    const jump = createElement(
      "button",
      { type: "button", className: "go", title: "go to this prompt (Delete removes it)", onclick: () => go(index) },
      createElement("span", { className: "number", textContent: index }),
      swatch,
      createElement("span", { className: "name", textContent: description, title: description }),
      createElement("span", { className: "amount", textContent: place ? place.join(" ") : "" }),
    );
    const cross = createButton("cross", "×", () => remove(index));
    cross.setAttribute("aria-label", `remove prompt ${index}: ${description}`);
    const row = createElement("li", {}, jump, cross);
    row.addEventListener("pointerenter", () => light(index));
    row.addEventListener("pointerleave", () => light(null));
    row.addEventListener("focusin", () => light(index));
    row.addEventListener("focusout", () => light(null));
    row.dataset.index = index;
    return row;
  }

  #waitingRow({ op, entries = [], key }, classOf) {
    const what = entries.length ? describePrompt(entries[0], classOf(entries[0]).name) : op;
    const text = `${what}, not sent yet`;
    const cross = createButton("cross", "×", () => this.#handlers.giveUp(key));
    cross.setAttribute("aria-label", `do not send: ${what}`);
    return createElement("li", { className: "waiting" }, createElement("span", { className: "name", textContent: text }), cross);
  }

  #indexOf(target) {
    const row = target?.closest?.("#prompts [data-index]");
    return row ? Number(row.dataset.index) : null;
  }

  #key(event) {
    const index = this.#indexOf(event.target);
    if (index === null || !["Delete", "Backspace"].includes(event.key)) return;
    event.preventDefault();
    this.#handlers.remove(index);
  }
}

function describePrompt(entry, name) {
  if (entry.kind === "lock") return `${entry.locked ? "lock" : "unlock"} ${name}`;
  if (entry.kind === "extent") return `${name}, as given`;
  if (entry.kind === "class") return `class ${name}`;
  return `${entry.positive ? "+" : "− not"} ${name}, ${KINDS[entry.kind]}`;
}
