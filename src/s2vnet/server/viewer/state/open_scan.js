// Choose, upload and open a scan, and handle the events of its session.

import { CT } from "../drawing/readout.js";
import { presetRange, setPreset } from "../drawing/window_level.js";
import * as api from "../network/api.js";
import { $, createElement } from "../panels/dom.js";
import { reportChanges } from "../panels/change_report.js";
import { showConnection } from "../panels/connection_notice.js";
import { chooseSession } from "../panels/continue_dialog.js";
import { setFormats } from "../panels/label_files.js";
import { showNotes, showProblem } from "../panels/messages.js";
import { listScans } from "../panels/scan_list.js";
import { updateStatus } from "../panels/status.js";
import { classColors, updateClasses, updateLists } from "../panels/refresh_lists.js";
import { app } from "./app.js";
import { restoreView } from "./kept_view.js";
import { useModel } from "./model.js";
import { displayName, ownSessions, rememberFile, rememberSession } from "./own_sessions.js";
import { Session } from "./session.js";

const SCAN = "scan="; // start of an address that names a scan, whose session is then chosen

export function followAddress() {
  const name = location.hash.slice(1);
  closeSession();
  if (name && !name.startsWith(SCAN)) return openSession(name);
  showStartPage();
  if (name) openScan({ id: decodeURIComponent(name.slice(SCAN.length)) });
}

function closeSession() {
  app.generation++;
  app.session?.close();
  Object.assign(app, { session: null, displayed: null, downloaded: null, statusText: "", highlighted: null });
  app.tools.frozen = true;
  app.scene.close();
  showNotes([]);
  $("link").hidden = true;
  reportChanges(null);
  updateClasses();
}

/** Show the page on which a scan is chosen. */
async function showStartPage() {
  document.title = "s2vnet";
  $("start").hidden = false;
  $("app").inert = true;
  $("search").focus();
  try {
    [app.scans, app.sessions] = await Promise.all([api.scans(), api.sessions(ownSessions())]);
  } catch (error) {
    showProblem(error.message);
  }
  listScans(app.scans, app.sessions, $("search").value, openScan);
}

/** Open a session on a scan: one that the user chooses, where there are any with prompts. */
export async function openScan(scan) {
  try {
    const sessions = (await api.sessions(ownSessions())).filter(({ image }) => image.id === scan.id);
    const [begun, unused] = [sessions.filter(({ prompts }) => prompts), sessions.find(({ prompts }) => !prompts)];
    const choice = begun.length ? await chooseSession(displayName(begun[0].image), begun) : "new";
    if (!choice) return history.replaceState(null, "", " "); // the start page stays
    location.hash = choice !== "new" ? choice : (unused?.session ?? (await api.open(scan.id)).session);
  } catch (error) {
    showProblem(error.message);
  }
}

/** Open a new session on a scan with a model, by its name. */
export async function openWith(scan, model) {
  try {
    location.hash = (await api.open(scan.id, model)).session;
  } catch (error) {
    showProblem(error.message);
  }
}

export async function upload(chosen) {
  if (chosen.length === 0) return;
  if (chosen.length > 1) return showProblem("A scan is one file; put the files of a DICOM series into a .zip.");
  const [file] = chosen;
  if (file.size > app.info.max_upload_mb * 2 ** 20) {
    return showProblem(`${file.name} is larger than the ${app.info.max_upload_mb} MB that this server accepts.`);
  }
  $("sending").textContent = `uploading ${file.name} …`;
  try {
    const scan = await api.send(file);
    rememberFile(scan.id, file.name);
    await openScan(scan);
  } catch (error) {
    showProblem(error.message);
  }
  $("sending").textContent = "";
  $("file").value = "";
}

/** Open a session by its name: a new one, or one from the address. */
function openSession(name) {
  $("start").hidden = true;
  $("app").inert = false;
  $("slices").focus({ preventScroll: true });
  const session = new Session(name);
  app.session = session;
  rememberSession(name);
  const listen = (type, handle) => {
    session.addEventListener(type, ({ detail }) => session === app.session && handle(detail));
  };
  listen("state", onState);
  listen("block", ({ start, shape }) => onLabels(start, shape));
  listen("settled", onSettled);
  listen("problem", showProblem);
  listen("closed", onClosed);
  listen("connection", onConnection);
  updateStatus();
}

export function onClosed(detail) {
  showProblem(detail);
  location.hash = "";
}

function onConnection() {
  showConnection(app.session);
  updateLists();
  updateStatus();
}

/** Download and show the image once the server has read it. */
async function loadImage(session) {
  if (!session.state.shape || app.downloaded !== null || [app.displayed, app.failed].includes(session)) return;
  const generation = app.generation;
  app.downloaded = 0;
  try {
    const blob = await api.image(session.name, (fraction) => {
      if (generation !== app.generation) return;
      app.downloaded = fraction;
      updateStatus();
    });
    const bytes = await blob.arrayBuffer();
    if (generation === app.generation) await showImage(session, bytes);
  } catch (error) {
    if (generation !== app.generation) return;
    if (!(error instanceof api.Unreachable)) {
      app.failed = session;
      showProblem(error.message ?? String(error));
    }
  }
  if (generation !== app.generation) return;
  app.downloaded = null;
  updateStatus();
}

async function showImage(session, bytes) {
  const { scene, model } = app;
  const preset = CT.test(model.channels[0] ?? "") ? "abdomen" : "auto";
  await scene.open(bytes, presetRange(preset));
  if (session !== app.session) return scene.close();
  app.displayed = session;
  setPreset(preset);
  prepareChannels();
  restoreView(session);
  scene.setColors(classColors());
  if (session.labels) onLabels([0, 0, 0], scene.shape);
  app.tools.frozen = false;
}

function prepareChannels() {
  const { channels } = app.scene;
  const names = app.model.channels.slice(0, channels);
  $("channel").replaceChildren(...names.map((name, n) => createElement("option", { value: n, textContent: name })));
  $("channel-label").hidden = channels < 2;
}

function onState(state) {
  const name = displayName(state.image);
  document.title = `${name} · s2vnet`;
  Object.assign($("scan"), { textContent: name, title: name });
  showNotes([...state.unlike, ...state.notes]);
  useModel(state.model);
  setFormats(state.formats);
  if (state.status === "failed" && app.displayed !== app.session) return onClosed(state.error); // no scan to show
  if (state.status === "failed") showProblem(state.error);
  loadImage(app.session);
  updateClasses();
  updateLists();
  updateStatus();
  app.scene.redrawOverlay();
}

function onLabels(start, shape) {
  if (app.displayed === app.session && app.session.labels) app.scene.showLabels(app.session.labels, start, shape);
  updateLists();
  updateStatus();
}

function onSettled({ changes, first }) {
  const count = changes ? changes.slices[app.session.state.plane].filter(Boolean).length : 0;
  if (first) app.statusText = app.info.automatic_only ? "ready" : "ready; choose a tool to correct the labels (? lists the keys)";
  else app.statusText = count === 0 ? "nothing changed" : `${count} ${count === 1 ? "slice" : "slices"} changed:`;
  reportChanges(changes);
  updateStatus();
}
