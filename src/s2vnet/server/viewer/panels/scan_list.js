// List of scans on the start page.

import { describeSession } from "./continue_dialog.js";
import { $, createButton, createElement } from "./dom.js";

const MOST_LISTED = 300;

/** List the scans whose names contain all typed words, each with its newest session that has prompts. */
export function listScans(scans, sessions, typed, choose) {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = scans.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  const newest = new Map([...sessions].reverse().filter(({ prompts }) => prompts).map((one) => [one.image.id, one]));
  const rows = matching.slice(0, MOST_LISTED).map((scan) => createElement("li", {}, scanButton(scan, newest.get(scan.id), choose)));
  $("scans").replaceChildren(...rows);
  const hidden = matching.length - rows.length;
  const more = hidden ? `${hidden} more; type a part of the name` : "";
  const none = scans.length ? "no scan matches" : "none; upload one below";
  $("scans-note").textContent = matching.length ? more : none;
}

function scanButton(scan, session, choose) {
  const button = createButton("", "", () => choose(scan));
  button.append(createElement("span", { textContent: scan.name }));
  if (session) button.append(createElement("span", { className: "amount", textContent: describeSession(session) }));
  return button;
}
