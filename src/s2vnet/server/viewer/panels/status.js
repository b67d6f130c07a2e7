// Text of the status line.

import { app } from "../state/app.js";
import { setStatus } from "./messages.js";

/** Show the current activity. */
export function updateStatus() {
  const { session, downloaded } = app;
  if (!session) return setStatus("", false);
  const { state } = session;
  if (!session.connected) return setStatus(waitingText(session), true);
  if (state?.status === "failed") return setStatus(state.error, false);
  if (downloaded !== null && state?.status !== "opening") {
    return setStatus(`loading the image ${formatPercent(downloaded)}`, true, downloaded);
  }
  if (!state || state.status === "opening") return setStatus(openingText(state), true, state?.progress ?? 0);
  if (!session.settled) return setStatus(workingText(session), true);
  setStatus(app.statusText, false);
}

export function showMessage(text) {
  app.statusText = text;
  updateStatus();
}

function waitingText({ waiting }) {
  return waiting.length ? `no connection; ${waiting.length} waiting to be sent` : "connecting";
}

function openingText(state) {
  return state?.progress ? `encoding the slices ${formatPercent(state.progress)}` : "reading the scan";
}

function workingText({ changedSlices }) {
  return changedSlices ? `working: ${changedSlices} slices changed so far` : "working";
}

function formatPercent(fraction) {
  return fraction ? `${Math.floor(100 * fraction)} %` : "";
}
