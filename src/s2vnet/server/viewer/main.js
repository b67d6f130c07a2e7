// The page: brings the session, the scene, the tools and the lists together.

import * as api from "./api.js";
import { Marks } from "./marks.js";
import * as panel from "./panel.js";
import { $, complain, element, say } from "./panel.js";
import { Scene } from "./scene.js";
import { Session } from "./session.js";
import { Tools, TOOLS } from "./tools.js";
import { placeOf } from "./voxels.js";

const NIIVUE = "./vendor/niivue.js";
const MISSING = "The page lacks NiiVue, which draws the slices: run `python scripts/viewer.py`, then load it again.";
const CT = /^ct\b/i;
const WINDOWS = {
  abdomen: [40, 400],
  liver: [60, 160],
  lung: [-600, 1500],
  bone: [400, 1800],
  brain: [40, 80],
};
const ENDINGS = /\.(nii\.gz|nii|nrrd|nhdr|mha|mhd|zip|dcm)$/i;
const SLIDER_STEPS = 1000;
const DRAG_PER_PIXEL = 1 / 400; // of the window's width

const app = {
  info: null,
  scene: null,
  marks: null,
  tools: null,
  session: null,
  classList: null,
  promptList: null,
  hidden: new Set(), // classes that are not shown
  scans: [],
  lit: null, // prompt pointed at in the list
  shown: null, // session whose image is on the screen
  broken: null, // session whose image cannot be shown
  fetching: null, // part of the image that has come
  labelsOff: false,
  under: null, // what the pointer is over
  lastSaid: "",
  turn: 0,
};

/**
 * For tests and the curious: `state` as the server told it last, `labels` (Uint8Array, file order, k fastest),
 * `labelAt(i, j, k)`, `ready` (image and labels of everything asked for are on the screen), `scene`
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
    return Boolean(app.session?.settled && app.shown === app.session);
  },
  get scene() {
    return app.scene;
  },
  get tools() {
    return app.tools;
  },
};

// ---- start ----

async function start() {
  const module = await import(NIIVUE).catch(() => null);
  if (!module) return fatal(MISSING);
  try {
    app.info = await api.info();
    app.scene = await Scene.on(module, $("slices"));
  } catch (error) {
    return fatal(error instanceof api.Unreachable || error instanceof api.Refused ? error.message : noGraphics(error));
  }
  prepare();
  window.addEventListener("hashchange", route);
  route();
}

function noGraphics(error) {
  return `The browser offers no WebGL 2, which drawing the slices needs (${error.message ?? error}).`;
}

function fatal(text) {
  $("start").hidden = false;
  $("start-form").hidden = true;
  $("fatal").hidden = false;
  $("fatal").textContent = text;
}

function prepare() {
  const { info, scene } = app;
  app.marks = new Marks($("marks"), scene);
  app.tools = new Tools($("slices"), scene, { act, changed, hover, level, say: tell, command });
  app.tools.classes = info.classes;
  app.tools.classId = info.classes.find(({ id }) => id > 0)?.id ?? 0;
  app.tools.frozen = true;
  app.classList = new panel.ClassList(info.classes, {
    choose: (id) => app.tools.chooseClass(id),
    show: showClass,
    lock: lockClass,
  });
  app.promptList = new panel.PromptList({ go, remove, light });
  scene.drawn = drawMarks;
  scene.setLayout(($("layout").value = scene.slow ? "planes" : "planes3d"));
  scene.setLook({ opacity: Number($("opacity").value), outline: $("outline").checked });
  $("model").textContent = `${info.model}, ${info.classes.length - 1} classes`;
  buttons();
  controls();
  files();
  changed();
}

function buttons() {
  const made = TOOLS.map(({ id, key, name }) => {
    const button = element("button", { type: "button", onclick: () => app.tools.choose(id) }, `${name} `);
    button.append(element("kbd", { textContent: key.toUpperCase() }));
    button.dataset.tool = id;
    return button;
  });
  $("tool-list").replaceChildren(...made);
  $("sign").onclick = () => app.tools.turn();
  for (const button of document.querySelectorAll("[data-command]")) {
    button.onclick = () => command(button.dataset.command);
  }
}

function controls() {
  const { scene } = app;
  $("layout").onchange = () => scene.setLayout($("layout").value);
  $("window").onchange = () => setPreset($("window").value);
  $("level").oninput = $("width").oninput = () => setWindow(...slidden());
  $("opacity").oninput = () => scene.setLook({ opacity: Number($("opacity").value) });
  $("outline").onchange = () => scene.setLook({ outline: $("outline").checked });
  $("image3d").onchange = () => (scene.imageIn3D = $("image3d").checked);
  $("channel").onchange = () => scene.setChannel(Number($("channel").value));
  $("radius").oninput = () => app.tools.resize(Number($("radius").value));
  $("other").onclick = () => (location.hash = "");
  keysBack();
  for (const event of ["online", "focus"]) window.addEventListener(event, () => app.session?.reconnect());
}

/** Keys go to the slices again after a list or slider was set with the pointer. */
function keysBack() {
  let pointed = false;
  document.addEventListener("pointerdown", () => (pointed = true), true);
  document.addEventListener("keydown", () => (pointed = false), true);
  document.addEventListener("change", ({ target }) => {
    if (pointed && target.closest("header, nav")) $("slices").focus({ preventScroll: true });
  });
}

function files() {
  $("search").oninput = () => panel.listScans(app.scans, $("search").value, openScan);
  $("file").onchange = () => upload([...$("file").files]);
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

// ---- which scan ----

function route() {
  const name = location.hash.slice(1);
  leave();
  if (name) enter(name);
  else choose();
}

function leave() {
  app.turn++;
  app.session?.close();
  Object.assign(app, { session: null, shown: null, fetching: null, lastSaid: "", lit: null });
  app.tools.frozen = true;
  app.scene.shape = null;
  panel.remark([]);
  $("link").hidden = true;
}

/** Choose a scan. */
async function choose() {
  document.title = "s2vnet";
  $("start").hidden = false;
  $("app").inert = true;
  $("search").focus();
  try {
    app.scans = await api.scans();
  } catch (error) {
    complain(error.message);
  }
  panel.listScans(app.scans, $("search").value, openScan);
}

async function openScan(scan) {
  try {
    location.hash = (await api.open(scan.id)).session;
  } catch (error) {
    complain(error.message);
  }
}

async function upload(chosen) {
  if (chosen.length === 0) return;
  if (chosen.length > 1) return complain("One file a scan, please: put the files of a DICOM series into a .zip.");
  const [file] = chosen;
  if (file.size > app.info.max_upload_mb * 2 ** 20) {
    return complain(`${file.name} is larger than the ${app.info.max_upload_mb} MB that this server takes.`);
  }
  $("sending").textContent = `sending ${file.name} …`;
  try {
    await openScan(await api.send(file));
  } catch (error) {
    complain(error.message);
  }
  $("sending").textContent = "";
  $("file").value = "";
}

/** Take up a session: new, or known from the address. */
function enter(name) {
  $("start").hidden = true;
  $("app").inert = false;
  $("slices").focus({ preventScroll: true });
  const session = new Session(name);
  app.session = session;
  const listen = (type, handle) => {
    session.addEventListener(type, ({ detail }) => session === app.session && handle(detail));
  };
  listen("state", told);
  listen("block", ({ start, shape }) => showBlock(start, shape));
  listen("settled", settled);
  listen("problem", complain);
  listen("gone", gone);
  listen("link", linked);
  describe();
}

function gone(detail) {
  complain(detail);
  location.hash = "";
}

function linked(connected) {
  $("link").hidden = connected;
  describe();
}

/** Fetch and show the image, once the server could read it. */
async function loadImage(session) {
  if (!session.state.shape || app.fetching !== null || [app.shown, app.broken].includes(session)) return;
  const turn = app.turn;
  app.fetching = 0;
  try {
    const blob = await api.image(session.name, (part) => {
      if (turn !== app.turn) return;
      app.fetching = part;
      describe();
    });
    const bytes = await blob.arrayBuffer();
    if (turn === app.turn) await showImage(session, bytes);
  } catch (error) {
    if (turn !== app.turn) return;
    if (!(error instanceof api.Unreachable)) {
      app.broken = session;
      complain(error.message ?? String(error));
    }
  }
  if (turn !== app.turn) return;
  app.fetching = null;
  describe();
}

async function showImage(session, bytes) {
  const { scene, info } = app;
  const preset = CT.test(info.channels[0] ?? "") ? "abdomen" : "auto";
  await scene.open(bytes, rangeOf(preset));
  if (session !== app.session) return (scene.shape = null);
  app.shown = session;
  scene.setColours(coloured());
  setPreset(preset);
  prepareChannels();
  if (session.labels) showBlock([0, 0, 0], scene.shape);
  app.tools.frozen = false;
}

function prepareChannels() {
  const { channels } = app.scene;
  const names = app.info.channels.slice(0, channels);
  $("channel").replaceChildren(...names.map((name, n) => element("option", { value: n, textContent: name })));
  $("channel-label").hidden = channels < 2;
}

// ---- what the server tells ----

function told(state) {
  document.title = `${state.image.name} · s2vnet`;
  Object.assign($("scan"), { textContent: state.image.name, title: state.image.name });
  panel.remark([...state.unlike, ...state.notes]);
  panel.offer(state.formats);
  if (state.status === "failed") complain(state.error);
  loadImage(app.session);
  lists();
  describe();
  app.scene.mark();
}

function showBlock(start, shape) {
  if (app.shown === app.session && app.session.labels) app.scene.showLabels(app.session.labels, start, shape);
  lists();
  describe();
}

function settled({ changed: slices, first }) {
  if (first) app.lastSaid = "ready; click where it is wrong";
  else app.lastSaid = slices === 0 ? "nothing changed" : `${slices} ${slices === 1 ? "slice" : "slices"} changed`;
  describe();
}

/** Say what is being done. */
function describe() {
  const { session, fetching } = app;
  if (!session) return say("", false);
  const { state } = session;
  if (!session.connected) return say(waitingText(session), true);
  if (state?.status === "failed") return say(state.error, false);
  if (fetching !== null && state?.status !== "opening") {
    return say(`loading the image ${percent(fetching)}`, true, fetching);
  }
  if (!state || state.status === "opening") return say(openingText(state), true, state?.progress ?? 0);
  if (!session.settled) return say(workingText(session), true);
  say(app.lastSaid, false);
}

function waitingText({ waiting }) {
  return waiting ? `no connection; ${waiting} waiting to be sent` : "connecting";
}

function openingText(state) {
  return state?.progress ? `encoding the slices ${percent(state.progress)}` : "reading the scan";
}

function workingText({ changedSlices }) {
  return changedSlices ? `working: ${changedSlices} slices changed so far` : "working";
}

function percent(part) {
  return part ? `${Math.floor(100 * part)} %` : "";
}

// ---- what the user does ----

function act(operation) {
  app.session.ask(operation);
  app.scene.mark();
}

async function command(name) {
  const { session, scene } = app;
  if (name === "help") return $("help").showModal();
  if (name === "hide") return hideLabels(!app.labelsOff);
  if (name === "outline") return $("outline").click();
  if (!session?.state) return;
  if (name === "undo" && session.state.can_undo) act({ op: "undo" });
  if (name === "redo" && session.state.can_redo) act({ op: "redo" });
  if (name === "reset") await reset(session);
  if (name === "next") await next(session);
  if (name === "save") await saveLabels(session);
  if (name === "save-log") await saveLog(session);
  if (name === "load-log") $("log-file").click();
  if (name === "fit") scene.fit();
}

async function reset({ state }) {
  const count = state.entries.length;
  if (count === 0) return tell("there are no prompts");
  if (await panel.sure(`Take out all ${count} prompts? Undo brings them back.`)) act({ op: "reset" });
}

/** Go to the slice where the network is least sure. */
async function next(session) {
  tell("looking for the slice to check");
  try {
    const found = await api.suggestion(session.name);
    if (session !== app.session) return;
    if (!found) return tell("no slice left that needs a look");
    const voxel = app.scene.at;
    voxel[found.axis] = found.index;
    see(voxel, app.scene.normalOf(found.axis));
    tell(`least sure here: slice ${found.index}`);
  } catch (error) {
    complain(error.message);
  }
}

/** Go to a voxel; where one plane alone is shown, it becomes the one across this RAS axis. */
function see(voxel, normal) {
  const single = ["sagittal", "coronal", "axial"];
  if (normal !== null && [...single, "render"].includes($("layout").value)) {
    $("layout").value = single[normal];
    app.scene.setLayout(single[normal]);
  }
  app.scene.goTo(voxel);
}

function go(index) {
  const entry = app.session.state.entries[index];
  const place = placeOf(entry);
  if (place) see(place, entry.kind === "lasso" ? app.scene.normalOf(entry.axis) : null);
}

function remove(index) {
  act({ op: "remove", index });
}

function light(index) {
  if (app.lit === index) return;
  app.lit = index;
  app.scene.mark();
}

function lockClass(id) {
  if (!app.session?.state) return;
  const locked = !panel.lockedBy(app.session.state.entries).has(id);
  act({ op: "add", entries: [{ kind: "lock", class_id: id, locked }] });
}

function showClass(id) {
  if (!app.hidden.delete(id)) app.hidden.add(id);
  app.scene.setColours(coloured());
  lists();
}

function hideLabels(hidden) {
  app.labelsOff = hidden;
  app.scene.setLook({ hidden });
  tell(hidden ? "labels hidden" : "labels shown");
}

function tell(text) {
  app.lastSaid = text;
  describe();
}

/** Tool, class, sign or brush are others than before. */
function changed() {
  const { tool, positive, radius, classId } = app.tools;
  for (const button of $("tool-list").children) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  $("sign").setAttribute("aria-pressed", !positive);
  $("sign-text").textContent = positive ? "+ is" : "− is not";
  $("radius-label").hidden = tool !== "mask";
  $("radius").value = radius;
  $("radius-text").textContent = `${radius} mm`;
  const { name, color } = app.info.classes.find(({ id }) => id === classId);
  $("current").textContent = name;
  document.documentElement.style.setProperty("--current", color);
  $("slices").dataset.tool = tool;
  lists();
}

function lists() {
  const { session, info, tools, hidden } = app;
  const entries = session?.state?.entries ?? [];
  const counts = session?.labels ? session.counts : null;
  const locked = panel.lockedBy(entries);
  app.classList.update({ current: tools.classId, hidden, locked, counts, volume: volumeOf(session?.state?.affine) });
  app.promptList.update(entries, info.classes);
  for (const [name, possible] of [
    ["undo", session?.state?.can_undo],
    ["redo", session?.state?.can_redo],
    ["reset", entries.length],
  ]) {
    document.querySelector(`[data-command="${name}"]`).disabled = !possible;
  }
}

/** Millilitres of a voxel. */
function volumeOf(affine) {
  if (!affine) return 0;
  const [[a, b, c], [d, e, f], [g, h, i]] = affine;
  return Math.abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) / 1000;
}

function coloured() {
  return app.info.classes.map(({ id, color }) => ({ id, color, visible: !app.hidden.has(id) }));
}

function drawMarks() {
  app.marks.draw({
    entries: app.scene.shape ? (app.session?.state?.entries ?? []) : [],
    draft: app.tools.draft,
    cursor: app.tools.cursor,
    lit: app.lit,
    colourOf: (id) => (id === 0 ? "#ffffff" : app.info.classes.find((one) => one.id === id).color),
  });
  hover(app.under);
}

/** What lies under the pointer, else where the planes meet. */
function hover(hit) {
  app.under = hit;
  const { info, scene, session } = app;
  if (!scene.shape || !session?.state?.shape) return ($("readout").textContent = "");
  const voxel = hit?.voxel ?? scene.at;
  const value = scene.valueAt(voxel);
  const label = session.labels ? info.classes.find(({ id }) => id === session.labelAt(...voxel))?.name : "";
  const unit = CT.test(info.channels[0]) ? " HU" : "";
  $("readout").textContent = `voxel ${voxel.join(" ")}    ${Number(value.toPrecision(4))}${unit}    ${label ?? ""}`;
}

// ---- window ----

/** Intensities that are black and white by a preset; undefined where they follow from the image. */
const rangeOf = (name) => WINDOWS[name]?.map((_, n, [middle, width]) => middle + (n - 0.5) * width);

function setPreset(name) {
  if (name === "own" || !app.scene.shape) return;
  const [low, high] = rangeOf(name) ?? app.scene.automatic;
  setWindow((low + high) / 2, high - low, name);
}

function setWindow(middle, width, name = "own") {
  if (!app.scene.shape) return;
  app.scene.setWindow(middle - width / 2, middle + width / 2);
  const [least, greatest] = app.scene.range;
  const range = Math.max(greatest - least, width) || 1;
  Object.assign($("level"), { min: least, max: greatest, step: range / SLIDER_STEPS, value: middle });
  Object.assign($("width"), { min: range / SLIDER_STEPS, max: range, step: range / SLIDER_STEPS, value: width });
  $("window").value = name;
  $("window-text").textContent = `${short(middle)} / ${short(width)}`;
}

function short(value) {
  return Math.abs(value) >= 10 ? Math.round(value) : Number(value.toPrecision(2));
}

function slidden() {
  return [Number($("level").value), Number($("width").value)];
}

/** Dragging with the right button: sideways its width, upwards its level. */
function level(dx, dy) {
  const [low, high] = app.scene.window;
  const width = high - low;
  const grown = width * Math.exp(2 * dx * DRAG_PER_PIXEL);
  setWindow((low + high) / 2 + dy * width * DRAG_PER_PIXEL, grown);
}

// ---- files ----

async function saveLabels(session) {
  const { format, ending } = panel.format();
  await save(session, () => api.labels(session.name, format), `labels.${ending}`);
}

async function saveLog(session) {
  await save(session, () => api.log(session.name), "prompts.json");
}

async function save(session, fetched, ending) {
  tell("preparing the file");
  try {
    const name = `${session.state.image.name.split("/").at(-1).replace(ENDINGS, "").replaceAll(" ", "-")}-${ending}`;
    panel.download(await fetched(), name);
    tell(`saved ${name}`);
  } catch (error) {
    tell("");
    complain(error.message);
  }
}

async function loadLog(file) {
  $("log-file").value = "";
  const { session, info } = app;
  if (!file || !session?.state?.shape) return;
  try {
    const log = JSON.parse(await file.text());
    if (!Array.isArray(log.entries)) throw new Error("it is no prompt log");
    if (log.shape?.join() !== session.state.shape.join()) throw new Error("it belongs to an image of another shape");
    if (log.model_sha256 !== info.model_sha256) throw new Error("it belongs to another model");
    await api.replace(session.name, log.entries);
  } catch (error) {
    complain(`${file.name}: ${error.message}`);
  }
}

start();
