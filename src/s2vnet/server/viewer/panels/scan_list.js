// The list of scans on the start page.

import { $, createButton, createElement } from "./dom.js";

const MOST_LISTED = 300;

/** Scans to choose from, those that hold all words of what was typed. */
export function listScans(scans, typed, choose) {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const found = scans.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  const rows = found.slice(0, MOST_LISTED).map((scan) => createElement("li", {}, createButton("", scan.name, () => choose(scan))));
  $("scans").replaceChildren(...rows);
  const left = found.length - rows.length;
  const more = left ? `${left} more; type a part of the name` : "";
  const none = scans.length ? "no such scan here" : "none; send one below";
  $("scans-note").textContent = found.length ? more : none;
}
