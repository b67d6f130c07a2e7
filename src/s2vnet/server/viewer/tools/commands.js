// Commands of buttons, keys and lists.

import { promptCenter } from "../drawing/voxels.js";
import * as api from "../network/api.js";
import { goToChanges } from "../panels/change_report.js";
import { lockedClasses } from "../panels/class_list.js";
import { showConnection } from "../panels/connection_notice.js";
import { $ } from "../panels/dom.js";
import { saveLabels, saveLog } from "../panels/label_files.js";
import { confirmAction, showProblem } from "../panels/messages.js";
import { showMessage, updateStatus } from "../panels/status.js";
import { classColors, updateLists } from "../panels/refresh_lists.js";
import { app } from "../state/app.js";
import { findClass } from "../state/classes.js";

export function sendOperation(operation) {
  app.session.send(operation);
  if (!app.session.connected) onWaiting();
  app.scene.redrawOverlay();
}

/** Give up an operation that has not been sent. */
export function giveUp(key) {
  app.session.giveUp(key);
  onWaiting();
}

function onWaiting() {
  showConnection(app.session);
  updateLists();
  updateStatus();
}

/** Make the class of a voxel the current one; background only while a tool is chosen that can erase. */
export function takeClass(voxel) {
  const { session, tools } = app;
  if (!session?.labels) return;
  const id = session.labelAt(...voxel);
  if (id === 0 && tools.tool === "look") return;
  tools.chooseClass(id);
  const { name } = findClass(id, app.classes, session.state.entries);
  showMessage(tools.tool === "look" ? `${name}; choose a tool to correct it` : name);
}

export async function runCommand(name) {
  const { session, scene } = app;
  if (name === "help") return $("help").showModal();
  if (name === "hide") return setLabelsHidden(!app.labelsHidden);
  if (name === "outline") return $("outline").click();
  if (name === "search") return $("class-search").focus();
  if (!session?.state) return;
  if (name === "undo" && session.state.can_undo) sendOperation({ op: "undo" });
  if (name === "redo" && session.state.can_redo) sendOperation({ op: "redo" });
  if (name === "reset") await removeAllPrompts(session);
  if (name === "changes" && !goToChanges(showVoxel)) showMessage("no changes off the screen");
  if (name === "next") await goToDoubtfulPlace(session);
  if (name === "save") await saveLabels(session);
  if (name === "save-log") await saveLog(session);
  if (name === "load-labels") $("labels-file").click();
  if (name === "load-log") $("log-file").click();
  if (name === "fit") scene.fit();
}

async function removeAllPrompts({ state }) {
  const count = state.entries.length;
  if (count === 0) return showMessage("there are no prompts");
  if (await confirmAction(`Remove all ${count} prompts? Undo restores them.`)) sendOperation({ op: "reset" });
}

const doubtful = { session: null, places: [], next: 0 };

/** Go to the next place of a session's list of doubtful places; after the last one the list is made again. */
async function goToDoubtfulPlace(session) {
  if (doubtful.session !== session || doubtful.next === doubtful.places.length) {
    showMessage("searching for places to check");
    try {
      const { places } = await api.suggestions(session.name);
      if (session !== app.session) return;
      Object.assign(doubtful, { session, places, next: 0 });
    } catch (error) {
      return showProblem(error.message);
    }
  }
  const { places } = doubtful;
  if (places.length === 0) return showMessage("no doubtful place is left to check");
  const place = places[doubtful.next];
  doubtful.next += 1;
  showVoxel(place, app.scene.normalOf(session.state.plane));
  if (!session.labels) return; // the first ones are still on their way
  const name = findClass(session.labelAt(...place), app.classes, session.state.entries).name;
  const further = doubtful.next < places.length ? "" : "; all were shown, E begins again without those that prompts correct";
  showMessage(`doubtful place ${doubtful.next} of ${places.length}: ${name}${further}`);
}

/** Go to a voxel; a layout of a single plane changes to the plane with this RAS normal. */
function showVoxel(voxel, normal) {
  const single = ["sagittal", "coronal", "axial"];
  if (normal !== null && [...single, "render"].includes($("layout").value)) {
    $("layout").value = single[normal];
    app.scene.setLayout(single[normal]);
  }
  app.scene.goTo(voxel);
}

export function goToPrompt(index) {
  const entry = app.session.state.entries[index];
  const place = promptCenter(entry);
  if (place) showVoxel(place, entry.kind === "lasso" ? app.scene.normalOf(entry.axis) : null);
}

export function removePrompt(index) {
  sendOperation({ op: "remove", index });
}

export function highlightPrompt(index) {
  if (app.highlighted === index) return;
  app.highlighted = index;
  app.scene.redrawOverlay();
}

export function toggleLock(id) {
  if (!app.session?.state) return;
  const locked = !lockedClasses(app.session.state.entries).has(id);
  sendOperation({ op: "add", entries: [{ kind: "lock", class_id: id, locked }] });
}

export function toggleClass(id) {
  if (!app.hidden.delete(id)) app.hidden.add(id);
  app.scene.setColors(classColors());
  updateLists();
}

function setLabelsHidden(hidden) {
  app.labelsHidden = hidden;
  app.scene.setLabelStyle({ hidden });
  showMessage(hidden ? "labels hidden" : "labels shown");
}
