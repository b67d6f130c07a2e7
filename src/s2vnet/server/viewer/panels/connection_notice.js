// Notice that the connection is lost, and of the operations that wait for it.

import * as api from "../network/api.js";
import { $ } from "./dom.js";

const START = "If the server was stopped, start it again with the same command.";

/** Show the state of a session's connection. */
export async function showConnection(session) {
  $("link").hidden = session.connected;
  if (session.connected) return;
  const say = (text) => ($("link").textContent = `${text} ${describeWaiting(session.waiting.length)}`.trim());
  say(`Connection lost, reconnecting. ${START}`);
  try {
    await api.info();
  } catch (error) {
    if (session.connected || !(error instanceof api.Refused)) return;
    say("The server does not accept this page: open the address that it printed in another tab, then return here.");
  }
}

function describeWaiting(count) {
  if (count === 0) return "";
  return count === 1 ? "1 operation waits in this page and is sent then." : `${count} operations wait in this page and are sent then.`;
}

/** Ask before the page is closed while operations wait. */
export function keepOpen(waiting) {
  window.addEventListener("beforeunload", (event) => waiting() > 0 && event.preventDefault());
}
