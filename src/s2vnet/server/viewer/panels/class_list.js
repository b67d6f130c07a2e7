// List of classes.

import { $, createButton, createElement } from "./dom.js";

/** Classes that are locked at the end of the log. */
export function lockedClasses(entries) {
  const locked = new Set();
  for (const entry of entries.filter((one) => one.kind === "lock")) {
    if (entry.locked) locked.add(entry.class_id);
    else locked.delete(entry.class_id);
  }
  return locked;
}

/** The list of classes. Handlers: choose(id), show(id), lock(id), edit(id). */
export class ClassList {
  #rows = new Map();
  #list = $("classes");
  #handlers;

  constructor(handlers) {
    this.#handlers = handlers;
    $("class-search").oninput = () => this.#filter();
    $("class-search").onkeydown = (event) => this.#searchKey(event, handlers.choose);
  }

  setClasses(classes) {
    this.#rows.clear();
    this.#list.replaceChildren(...classes.map((one) => this.#row(one, this.#handlers)));
    this.#filter();
  }

  #row({ id, name, color }, { choose, show, lock, edit }) {
    const eye = createButton("eye", "", () => show(id));
    eye.title = `show or hide ${name}`;
    eye.style.setProperty("--color", color);
    eye.disabled = id === 0;
    const pick = createElement(
      "button",
      { type: "button", className: "pick", onclick: () => choose(id) },
      createElement("kbd", { textContent: id }),
      createElement("span", { className: "name", textContent: name, title: name }),
      createElement("span", { className: "amount" }),
    );
    const bolt = createButton("bolt", "Lock", () => lock(id));
    bolt.title = `protect ${name} from later prompts`;
    bolt.setAttribute("aria-label", `lock ${name}`);
    eye.setAttribute("aria-label", `show ${name}`);
    const pen = createButton("pen", "✎", () => edit(id));
    pen.title = `name and colour of ${name}`;
    pen.setAttribute("aria-label", `edit ${name}`);
    pen.disabled = id === 0;
    pick.ondblclick = () => id && edit(id);
    const row = createElement("li", {}, eye, pick, pen, bolt);
    this.#rows.set(id, { row, name, eye, pick, bolt, amount: pick.lastChild });
    return row;
  }

  #filter() {
    const typed = $("class-search").value.trim().toLowerCase();
    for (const { row, name } of this.#rows.values()) row.hidden = !name.toLowerCase().includes(typed);
  }

  /** Enter takes the first class that is listed, Escape ends the search. */
  #searchKey(event, choose) {
    if (!["Enter", "Escape"].includes(event.key)) return;
    const first = [...this.#rows].find(([, { row }]) => !row.hidden);
    if (event.key === "Enter" && first) choose(first[0]);
    $("class-search").value = "";
    this.#filter();
    $("slices").focus();
    event.preventDefault();
  }

  /** Update the rows. `counts`: voxels of each class; `volume`: ml of a voxel. */
  update({ current, hidden, locked, counts, volume }) {
    for (const [id, { eye, pick, bolt, amount }] of this.#rows) {
      const chosen = id === current;
      if (chosen && pick.getAttribute("aria-pressed") === "false") pick.scrollIntoView({ block: "nearest" });
      pick.setAttribute("aria-pressed", chosen);
      eye.setAttribute("aria-pressed", !hidden.has(id));
      bolt.setAttribute("aria-pressed", locked.has(id));
      amount.textContent = id && counts ? formatMl(counts[id] * volume) : "";
    }
  }
}

function formatMl(amount) {
  if (amount === 0) return "–";
  return `${amount < 10 ? amount.toFixed(1) : Math.round(amount).toLocaleString("en")} ml`;
}
