// Entry point of the page: creates the parts and connects their events.

import { PromptOverlay } from "./drawing/overlay.js";
import { drawOverlay, updateReadout } from "./drawing/readout.js";
import { Scene } from "./drawing/scene.js";
import { dragWindow, setPreset, setWindow, sliderWindow } from "./drawing/window_level.js";
import * as api from "./network/api.js";
import { addClass, editClass } from "./panels/class_dialog.js";
import { ClassList } from "./panels/class_list.js";
import { $, createElement } from "./panels/dom.js";
import { keepOpen } from "./panels/connection_notice.js";
import { loadLabels, loadLog } from "./panels/label_files.js";
import { PromptList } from "./panels/prompt_list.js";
import { listScans } from "./panels/scan_list.js";
import { showMessage } from "./panels/status.js";
import { updateLists } from "./panels/refresh_lists.js";
import { app } from "./state/app.js";
import { keepView } from "./state/kept_view.js";
import { findClass } from "./state/classes.js";
import { listModels, useModel } from "./state/model.js";
import { followAddress, openScan, openWith, upload } from "./state/open_scan.js";
import {
  giveUp,
  goToPrompt,
  highlightPrompt,
  removePrompt,
  runCommand,
  sendOperation,
  takeClass,
  toggleClass,
  toggleLock,
} from "./tools/commands.js";
import { changeClass } from "./tools/class_operations.js";
import { Tools, TOOLS } from "./tools/pointer_and_keys.js";

const NIIVUE = "./vendor/niivue.js";
const MISSING = "NiiVue, which draws the slices, is missing: in the clone of s2vnet, run `pip install -e .`, then reload the page.";

/**
 * For tests and debugging: `state`, the session's last state from the server; `labels` (Uint8Array, file order, k fastest);
 * `labelAt(i, j, k)`; `ready`, whether image and labels of every operation are displayed; `scene`
 * (`canvasOf(i, j, k)`: CSS pixels on the canvas; `goTo([i, j, k])`; `setLayout(name)`) and `tools`.
 */
window.s2vnet = {
  get state() {
    return app.session?.state ?? null;
  },
  get labels() {
    return app.session?.labels ?? null;
  },
  labelAt: (i, j, k) => app.session.labelAt(i, j, k),
  get ready() {
    return Boolean(app.session?.settled && app.displayed === app.session);
  },
  get scene() {
    return app.scene;
  },
  get tools() {
    return app.tools;
  },
};

async function start() {
  const module = await import(NIIVUE).catch(() => null);
  if (!module) return showFatalError(MISSING);
  try {
    app.info = await api.info();
  } catch (error) {
    return showFatalError(error.message ?? String(error));
  }
  app.scene = new Scene(module, $("slices"), $("solid"));
  initialize();
  window.addEventListener("hashchange", followAddress);
  window.addEventListener("pagehide", keepView);
  followAddress();
}

function showFatalError(text) {
  $("start").hidden = false;
  $("start-form").hidden = true;
  $("fatal").hidden = false;
  $("fatal").textContent = text;
}

function initialize() {
  const { info, scene } = app;
  app.promptList = new PromptList({ go: goToPrompt, remove: removePrompt, light: highlightPrompt, giveUp });
  app.overlay = new PromptOverlay($("marks"), scene);
  app.tools = new Tools($("slices"), scene, {
    act: sendOperation,
    changed: onToolChanged,
    hover: updateReadout,
    level: dragWindow,
    take: takeClass,
    say: showMessage,
    command: runCommand,
  });
  app.tools.frozen = true;
  app.classList = new ClassList({
    choose: (id) => app.tools.chooseClass(id),
    show: toggleClass,
    lock: toggleLock,
    edit: editClass,
  });
  createButtons();
  listModels((name) => openWith(app.session.state.image, name));
  useModel(info.models[0].name);
  scene.onDraw = drawOverlay;
  if (!scene.has3D) for (const option of document.querySelectorAll("#layout option:is([value*='3d'], [value=render])")) option.remove();
  scene.setLayout(($("layout").value = scene.slow ? "planes" : "planes3d"));
  scene.setLabelStyle({ opacity: Number($("opacity").value), outline: $("outline").checked });
  keepOpen(() => app.session?.waiting.length ?? 0);
  connectControls();
  connectFileInputs();
  onToolChanged();
}

function createButtons() {
  const buttons = TOOLS.map(({ id, key, name }) => {
    const button = createElement("button", { type: "button", onclick: () => app.tools.choose(id) }, `${name} `);
    button.append(createElement("kbd", { textContent: key.toUpperCase() }));
    button.dataset.tool = id;
    return button;
  });
  $("tool-list").replaceChildren(...buttons);
  $("sign").onclick = () => app.tools.turn();
  for (const button of document.querySelectorAll("[data-command]")) {
    button.onclick = () => runCommand(button.dataset.command);
  }
}

function connectControls() {
  const { scene } = app;
  $("ball").onchange = () => (app.tools.ball = $("ball").checked);
  $("threshold").onchange = () => (app.tools.withinWindow = $("threshold").checked);
  $("operation").onchange = () => {
    changeClass($("operation").value);
    $("operation").value = "";
  };
  $("layout").onchange = () => scene.setLayout($("layout").value);
  $("window").onchange = () => setPreset($("window").value);
  $("level").oninput = $("width").oninput = () => setWindow(...sliderWindow());
  $("opacity").oninput = () => scene.setLabelStyle({ opacity: Number($("opacity").value) });
  $("outline").onchange = () => scene.setLabelStyle({ outline: $("outline").checked });
  $("image3d").onchange = () => (scene.imageIn3D = $("image3d").checked);
  $("channel").onchange = () => scene.setChannel(Number($("channel").value));
  $("radius").oninput = () => app.tools.resize(Number($("radius").value));
  $("class-add").onclick = () => addClass(sendOperation);
  $("other").onclick = () => (location.hash = "");
  returnFocusToSlices();
  for (const event of ["online", "focus"]) window.addEventListener(event, () => app.session?.reconnect());
}

/** Move the keyboard focus back to the slices after a list or slider was changed with the pointer. */
function returnFocusToSlices() {
  let byPointer = false;
  document.addEventListener("pointerdown", () => (byPointer = true), true);
  document.addEventListener("keydown", () => (byPointer = false), true);
  document.addEventListener("change", ({ target }) => {
    if (byPointer && target.closest("header, nav")) $("slices").focus({ preventScroll: true });
  });
}

function connectFileInputs() {
  $("search").oninput = () => listScans(app.scans, app.sessions, $("search").value, openScan);
  $("file").onchange = () => upload([...$("file").files]);
  $("labels-file").onchange = () => loadLabels($("labels-file").files[0]);
  $("log-file").onchange = () => loadLog($("log-file").files[0]);
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("dragenter", () => document.body.classList.add("dragging"));
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    upload([...event.dataTransfer.files]);
  });
}

/** Show the current tool, class, sign and brush size. */
function onToolChanged() {
  const { tool, positive, radius, classId } = app.tools;
  for (const button of $("tool-list").children) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  $("sign").setAttribute("aria-pressed", !positive);
  $("sign-text").textContent = positive ? "+ is" : "− is not";
  $("radius-label").hidden = $("brush-options").hidden = tool !== "mask";
  $("radius").value = radius;
  $("radius-text").textContent = `${radius} mm`;
  const { name, color } = findClass(classId, app.classes, []);
  $("current").textContent = name;
  document.documentElement.style.setProperty("--current", color);
  $("slices").dataset.tool = tool;
  updateLists();
}

await start();
