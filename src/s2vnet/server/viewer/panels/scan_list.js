// List of scans on the start page.

import { $, createButton, createElement } from "./dom.js";

const MOST_LISTED = 300;

/** List the scans whose names contain all typed words. */
export function listScans(scans, typed, choose) {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = scans.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  const rows = matching.slice(0, MOST_LISTED).map((scan) => createElement("li", {}, createButton("", scan.name, () => choose(scan))));
  $("scans").replaceChildren(...rows);
  const hidden = matching.length - rows.length;
  const more = hidden ? `${hidden} more; type a part of the name` : "";
  const none = scans.length ? "no scan matches" : "none; upload one below";
  $("scans-note").textContent = matching.length ? more : none;
}
