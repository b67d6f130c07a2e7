// Lists, buttons and messages. Knows the page's elements; what a button does is its owner's business.

import { placeOf } from "./voxels.js";

const KINDS = { point: "point", scribble: "scribble", box: "box", lasso: "lasso", mask: "brush", lock: "lock" };
const MOST_LISTED = 300;
const SAY_EVERY_MS = 250;
const FORGET_MS = 20000;

const SERIES_FORMATS = { dcm: "dcm (SEG)", rtstruct: "dcm (RTSTRUCT)" };

export const $ = (id) => document.getElementById(id);

/** An element with properties (attributes where the name has a dash, as for aria) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Fill the select with the formats that a scan's labels can be saved in; what was chosen stays, if it can. */
export function offer(formats) {
  const select = $("format");
  if (formats.join() === [...select.options].map(({ value }) => value).join()) return;
  const chosen = select.value;
  const made = formats.map((value) => element("option", { value, textContent: SERIES_FORMATS[value] ?? value }));
  select.replaceChildren(...made);
  if (formats.includes(chosen)) select.value = chosen;
}

/** The format that is chosen, and the ending of its files. */
export function format() {
  const { value } = $("format");
  return { format: value, ending: value === "rtstruct" ? "rtstruct.dcm" : value };
}

function button(className, textContent, onclick) {
  return element("button", { type: "button", className, textContent, onclick });
}

/** Classes that the log has locked by its end. */
export function lockedBy(entries) {
  const locked = new Set();
  for (const entry of entries.filter((one) => one.kind === "lock")) {
    if (entry.locked) locked.add(entry.class_id);
    else locked.delete(entry.class_id);
  }
  return locked;
}

/** The list of classes. Handlers: choose(id), show(id), lock(id). */
export class ClassList {
  #rows = new Map();
  #list = $("classes");

  constructor(classes, handlers) {
    this.#list.replaceChildren(...classes.map((one) => this.#row(one, handlers)));
  }

  #row({ id, name, color }, { choose, show, lock }) {
    const eye = button("eye", "", () => show(id));
    eye.title = `show or hide ${name}`;
    eye.style.setProperty("--color", color);
    eye.disabled = id === 0;
    const pick = element(
      "button",
      { type: "button", className: "pick", onclick: () => choose(id) },
      element("kbd", { textContent: id }),
      element("span", { className: "name", textContent: name, title: name }),
      element("span", { className: "amount" }),
    );
    const bolt = button("bolt", "Lock", () => lock(id));
    bolt.title = `no later prompt changes ${name}`;
    bolt.setAttribute("aria-label", `lock ${name}`);
    eye.setAttribute("aria-label", `show ${name}`);
    this.#rows.set(id, { eye, pick, bolt, amount: pick.lastChild });
    return element("li", {}, eye, pick, bolt);
  }

  /** `counts`: voxels of each class; `volume`: ml of a voxel. */
  update({ current, hidden, locked, counts, volume }) {
    for (const [id, { eye, pick, bolt, amount }] of this.#rows) {
      const chosen = id === current;
      if (chosen && pick.getAttribute("aria-pressed") === "false") pick.scrollIntoView({ block: "nearest" });
      pick.setAttribute("aria-pressed", chosen);
      eye.setAttribute("aria-pressed", !hidden.has(id));
      bolt.setAttribute("aria-pressed", locked.has(id));
      amount.textContent = id && counts ? millilitres(counts[id] * volume) : "";
    }
  }
}

function millilitres(amount) {
  if (amount === 0) return "–";
  return `${amount < 10 ? amount.toFixed(1) : Math.round(amount).toLocaleString("en")} ml`;
}

/** The log, newest first. Handlers: go(index), remove(index), light(index or null). */
export class PromptList {
  #list = $("prompts");
  #shown = "";
  #handlers;

  constructor(handlers) {
    this.#handlers = handlers;
    this.#list.addEventListener("keydown", (event) => this.#key(event));
  }

  update(entries, classes) {
    $("prompts-none").hidden = entries.length > 0;
    $("prompts-count").textContent = entries.length || "";
    const key = JSON.stringify(entries.map((entry) => [entry.kind, entry.class_id, entry.positive, placeOf(entry)]));
    if (key === this.#shown) return;
    this.#shown = key;
    const focused = this.#indexOf(document.activeElement);
    const classOf = (entry) => classes.find((one) => one.id === entry.class_id);
    const rows = entries.map((entry, index) => this.#row(entry, index, classOf(entry)));
    this.#list.replaceChildren(...rows.reverse());
    if (focused === null) return;
    const index = Math.min(focused, entries.length - 1);
    (this.#list.querySelector(`[data-index="${index}"] .go`) ?? $("slices")).focus();
  }

  #row(entry, index, { name, color }) {
    const { go, remove, light } = this.#handlers;
    const swatch = element("span", { className: "swatch" });
    swatch.style.setProperty("--color", color);
    const what = textOf(entry, name);
    const place = placeOf(entry);
    const jump = element(
      "button",
      { type: "button", className: "go", title: "go there (Delete takes it out)", onclick: () => go(index) },
      element("span", { className: "number", textContent: index }),
      swatch,
      element("span", { className: "name", textContent: what, title: what }),
      element("span", { className: "amount", textContent: place ? place.join(" ") : "" }),
    );
    const cross = button("cross", "×", () => remove(index));
    cross.setAttribute("aria-label", `take out prompt ${index}: ${what}`);
    const row = element("li", {}, jump, cross);
    row.addEventListener("pointerenter", () => light(index));
    row.addEventListener("pointerleave", () => light(null));
    row.addEventListener("focusin", () => light(index));
    row.addEventListener("focusout", () => light(null));
    row.dataset.index = index;
    return row;
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

function textOf(entry, name) {
  if (entry.kind === "lock") return `${entry.locked ? "lock" : "unlock"} ${name}`;
  return `${entry.positive ? "+" : "− not"} ${name}, ${KINDS[entry.kind]}`;
}

/** Scans to choose from, those that hold all words of what was typed. */
export function listScans(scans, typed, choose) {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const found = scans.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  const rows = found.slice(0, MOST_LISTED).map((scan) => element("li", {}, button("", scan.name, () => choose(scan))));
  $("scans").replaceChildren(...rows);
  const left = found.length - rows.length;
  const more = left ? `${left} more; type a part of the name` : "";
  const none = scans.length ? "no such scan here" : "none; send one below";
  $("scans-note").textContent = found.length ? more : none;
}

/** Something went wrong: stays until it is closed or old. */
export function complain(text) {
  const said = [...$("problems").children].find((one) => one.dataset.text === text);
  said?.remove();
  const problem = element("p", {}, text);
  problem.dataset.text = text;
  const cross = button("cross", "×", () => problem.remove());
  cross.setAttribute("aria-label", "close this message");
  problem.append(cross);
  $("problems").append(problem);
  setTimeout(() => problem.remove(), FORGET_MS);
}

/** What the server remarks about the scan or the prompts. */
export function remark(notes) {
  const key = notes.join("\n");
  if ($("notes").dataset.key === key) return;
  $("notes").dataset.key = key;
  $("notes").hidden = notes.length === 0;
  $("notes").replaceChildren(...notes.map(noteOf));
}

function noteOf(note) {
  const row = element("li", {}, element("span", { textContent: note }));
  const cross = button("cross", "×", () => {
    row.remove();
    $("notes").hidden = $("notes").children.length === 0;
  });
  cross.setAttribute("aria-label", "close this note");
  row.append(cross);
  return row;
}

let said = 0;
let saying = 0;

/** Say what is being done; not so often that a screen reader has no end. */
export function say(text, busy, progress = null) {
  $("spinner").classList.toggle("busy", busy);
  $("progress").hidden = progress === null;
  if (progress !== null) $("progress").value = progress;
  clearTimeout(saying);
  const wait = busy ? Math.max(0, said + SAY_EVERY_MS - performance.now()) : 0;
  saying = setTimeout(() => {
    said = performance.now();
    if ($("status").textContent !== text) $("status").textContent = text;
  }, wait);
}

/** Offer a file for download. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** Ask before something is lost; true for yes. */
export function sure(question) {
  $("sure-question").textContent = question;
  $("sure").returnValue = "no";
  $("sure").showModal();
  return new Promise((resolve) => {
    $("sure").addEventListener("close", () => resolve($("sure").returnValue === "yes"), { once: true });
  });
}
