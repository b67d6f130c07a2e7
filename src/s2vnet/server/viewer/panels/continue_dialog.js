// Choice between the sessions of a scan.

import { $, createButton, createElement } from "./dom.js";

/** Text of a session: its number of prompts, and when it was changed last. */
export function describeSession({ prompts, changed }) {
  return `${prompts} ${prompts === 1 ? "prompt" : "prompts"}, ${formatTime(changed)}`;
}

/** Time of day, with the date unless it is today. `seconds`: Unix time. */
function formatTime(seconds) {
  const time = new Date(1000 * seconds);
  const clock = time.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (time.toDateString() === new Date().toDateString()) return clock;
  const year = time.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return `${time.toLocaleDateString("en-GB", { day: "numeric", month: "short", ...year })}, ${clock}`;
}

/** Let the user choose a session, the newest by default; resolves to its name, "new" for a new one, or null. */
export function chooseSession(title, sessions) {
  let chosen = null;
  const choose = (name) => {
    chosen = name;
    $("continue").close();
  };
  const buttons = sessions.map((session, n) => {
    const text = `${n ? "Open" : "Continue"} (${describeSession(session)})`;
    return createElement("li", {}, createButton(n ? "" : "main", text, () => choose(session.session)));
  });
  $("continue-title").textContent = title;
  $("continue-list").replaceChildren(...buttons);
  $("continue-new").onclick = () => choose("new");
  $("continue").showModal();
  $("continue-list").querySelector("button").focus();
  return new Promise((resolve) => {
    $("continue").addEventListener("close", () => resolve(chosen), { once: true });
  });
}
