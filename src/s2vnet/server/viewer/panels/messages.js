// Error messages, notes, the status line, and confirmation dialogs.

import { $, createButton, createElement } from "./dom.js";

const STATUS_INTERVAL_MS = 250;
const PROBLEM_MS = 20000;

/** Show an error until it is closed or times out. */
export function showProblem(text) {
  const duplicate = [...$("problems").children].find((one) => one.dataset.text === text);
  duplicate?.remove();
  const problem = createElement("p", {}, text);
  problem.dataset.text = text;
  const cross = createButton("cross", "×", () => problem.remove());
  cross.setAttribute("aria-label", "close this message");
  problem.append(cross);
  $("problems").append(problem);
  setTimeout(() => problem.remove(), PROBLEM_MS);
}

/** Show the server's notes on the scan or the prompts. */
export function showNotes(notes) {
  const key = notes.join("\n");
  if ($("notes").dataset.key === key) return;
  $("notes").dataset.key = key;
  $("notes").hidden = notes.length === 0;
  $("notes").replaceChildren(...notes.map(noteRow));
}

function noteRow(note) {
  const row = createElement("li", {}, createElement("span", { textContent: note }));
  const cross = createButton("cross", "×", () => {
    row.remove();
    $("notes").hidden = $("notes").children.length === 0;
  });
  cross.setAttribute("aria-label", "close this note");
  row.append(cross);
  return row;
}

let shownAt = 0;
let timer = 0;

/** Set the status line, rate-limited for screen readers. */
export function setStatus(text, busy, progress = null) {
  $("spinner").classList.toggle("busy", busy);
  $("progress").hidden = progress === null;
  if (progress !== null) $("progress").value = progress;
  clearTimeout(timer);
  const wait = busy ? Math.max(0, shownAt + STATUS_INTERVAL_MS - performance.now()) : 0;
  timer = setTimeout(() => {
    shownAt = performance.now();
    if ($("status").textContent !== text) $("status").textContent = text;
  }, wait);
}

/** Ask for confirmation; resolves to true for yes. */
export function confirmAction(question) {
  $("sure-question").textContent = question;
  $("sure").returnValue = "no";
  $("sure").showModal();
  return new Promise((resolve) => {
    $("sure").addEventListener("close", () => resolve($("sure").returnValue === "yes"), { once: true });
  });
}
