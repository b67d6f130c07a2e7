// Translate pointer and keyboard events to prompts and navigation.

import { promptCenter, voxelBall, voxelDisc } from "../drawing/voxels.js";
import { DrawnPrompt } from "./drawn_prompt.js";
import { followTouch } from "./touch.js";

export const TOOLS = [
  { id: "look", key: "v", name: "Look" },
  { id: "point", key: "p", name: "Point" },
  { id: "scribble", key: "s", name: "Scribble" },
  { id: "box", key: "b", name: "Box" },
  { id: "lasso", key: "l", name: "Lasso" },
  { id: "mask", key: "m", name: "Brush" },
  { id: "ruler", key: "u", name: "Ruler" },
];
const LARGE_STEP = 10; // slices or voxels of a large step
const WHEEL_STEP = 40; // CSS pixels of fine scrolling (touchpads) per slice
const ONE_NUMBER_MS = 500; // two digits typed within this time are one number
const MAX_RADIUS = 60; // mm
const TYPED_INTO = "input:not([type=checkbox], [type=range], [type=button]), select, textarea, [contenteditable]";
const ARROWS_OF_ITS_OWN = "input, select, textarea";

/**
 * Prompt tools and navigation. Listener: `act(operation)`; `changed()`, when tool, class, sign or brush size change;
 * `hover(pick)`; `level(dx, dy)`, for dragging with the right button; `say(text)`, for the status line; and
 * `take(voxel)`, to take the class of a voxel; `command(name)`: undo, redo, reset, next, help, hide, outline, save.
 */
export class Tools {
  tool = "look"; // so that no click changes anything before a tool is chosen
  classId = 1;
  positive = true;
  radius = 6;
  /** Whether the brush is a ball instead of a disc. */
  ball = false;
  /** Whether the brush paints only intensities within the window. */
  withinWindow = false;
  /** Distance last measured: file voxels `from` and `to` on the plane with a RAS `normal`. */
  ruler = null;
  classes = [];
  cursor = null;
  #scene;
  #canvas;
  #listener;
  #draft = null;
  #drag = null;
  #normal = 2;
  #wheel = 0;
  #digits = { text: "", at: 0 };
  #frozen = false;
  #pointer = null;

  constructor(canvas, scene, listener) {
    [this.#canvas, this.#scene, this.#listener] = [canvas, scene, listener];
    followTouch(canvas, scene, () => this.cancel());
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => this.#leave());
    canvas.addEventListener("wheel", (event) => this.#scroll(event), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("auxclick", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Whether keys and pointer are ignored, such as while no scan is open. */
  set frozen(frozen) {
    this.#frozen = frozen;
    if (frozen) this.cancel();
  }

  choose(tool) {
    this.cancel();
    this.tool = tool;
    this.#listener.changed();
  }

  chooseClass(id) {
    if (!this.classes.some((one) => one.id === id)) return;
    this.cancel();
    this.classId = id;
    this.#listener.changed();
  }

  turn(positive = !this.positive) {
    this.positive = positive;
    this.#listener.changed();
  }

  resize(radius) {
    this.radius = Math.min(MAX_RADIUS, Math.max(0, Math.round(radius * 10) / 10));
    this.#listener.changed();
    this.#scene.redrawOverlay();
  }

  /** RAS normal of the plane that keys refer to: the one last pointed at, if it is displayed. */
  get normal() {
    const displayed = this.#scene.tiles().map((tile) => tile.normal);
    return displayed.includes(this.#normal) ? this.#normal : (displayed[0] ?? 2);
  }

  /** Prompt being drawn, for the overlay. */
  get draft() {
    return this.#draft && { entry: this.#draft.preview(), voxels: this.#draft.voxels };
  }

  cancel() {
    this.#drag = null;
    if (!this.#draft) return;
    this.#draft = null;
    this.#scene.redrawOverlay();
  }

  // ---- prompts ----

  /** Begin a prompt; a point is complete at once, unless `later`. */
  #begin(tile, voxel, inverted, later = false) {
    this.#draft = new DrawnPrompt(this.tool, this.classId, this.positive !== inverted, this.#scene.fileAxis(tile.normal));
    this.#extend(voxel);
    if (this.tool === "point" && !later) this.#finish();
  }

  #extend(voxel) {
    if (this.#draft.extend(voxel, (center, axis) => this.#disc(center, axis))) this.#scene.redrawOverlay();
  }

  #disc(voxel, axis) {
    const { spacing, shape } = this.#scene;
    const covered = this.ball ? voxelBall(voxel, this.radius, spacing, shape) : voxelDisc(voxel, axis, this.radius, spacing, shape);
    if (!this.withinWindow) return covered;
    const [low, high] = this.#scene.window;
    return covered.filter((one) => this.#scene.valueAt(one) >= low && this.#scene.valueAt(one) <= high);
  }

  #finish() {
    const draft = this.#draft;
    this.#draft = null;
    const entry = draft.complete();
    if (!entry) return this.#listener.say(draft.tool === "mask" ? "no voxel there is within the window" : "the lasso is too short; draw around an area");
    this.#listener.act({ op: "add", entries: [entry] });
    const place = promptCenter(entry);
    place[draft.axis] = this.#scene.at[draft.axis]; // move the other planes, not this one
    this.#scene.goTo(place);
  }

  // ---- pointer ----

  #down(event) {
    if (this.#frozen) return;
    this.#canvas.focus({ preventScroll: true });
    this.#digits.text = "";
    const hit = this.#scene.pick(event.clientX, event.clientY);
    if (!hit || this.#drag || this.#draft) return;
    event.preventDefault();
    this.#canvas.setPointerCapture(event.pointerId);
    const { tile, voxel } = hit;
    if (tile) this.#normal = tile.normal;
    const kind = this.#kindOf(event, hit);
    this.#drag = { kind, tile, x: event.clientX, y: event.clientY };
    if (!voxel) return;
    // a finger may be the first of two, which navigate: its point is sent when it is lifted
    if (kind === "prompt") this.#begin(tile, voxel, event.shiftKey || event.altKey, event.pointerType === "touch");
    if (kind === "look") this.#look(voxel); // the tool may change, which ends the drag
    if (kind === "ruler") this.#measure({ from: voxel, to: voxel, normal: tile.normal });
  }

  #look(voxel) {
    this.#scene.goTo(voxel);
    if (this.tool === "look") this.#listener.take(voxel);
  }

  /** Take the class under the pointer, or at the crosshair. */
  #take() {
    const hit = this.#pointer && this.#scene.pick(this.#pointer.clientX, this.#pointer.clientY);
    this.#listener.take(hit?.voxel ?? this.#scene.at);
  }

  #kindOf(event, { render }) {
    if (event.button === 2) return "level";
    if (render) return "rotate";
    if (event.button === 1) return "pan";
    if (this.tool === "ruler" && !event.ctrlKey) return "ruler";
    return this.tool === "look" || event.ctrlKey || event.metaKey ? "look" : "prompt";
  }

  #move(event) {
    if (this.#frozen || !this.#scene.shape) return;
    const drag = this.#drag;
    if (drag) this.#dragged(drag, event);
    const hit = this.#scene.pick(event.clientX, event.clientY);
    this.#pointer = event;
    if (hit?.tile && !drag) this.#normal = hit.tile.normal;
    this.#listener.hover(hit);
    this.#pointed(event, hit);
  }

  #dragged(drag, { clientX, clientY }) {
    const [dx, dy] = [clientX - drag.x, clientY - drag.y];
    [drag.x, drag.y] = [clientX, clientY];
    if (drag.kind === "rotate") this.#scene.rotate(dx, dy);
    if (drag.kind === "pan") this.#scene.pan(drag.tile, dx, dy);
    if (drag.kind === "level") this.#listener.level(dx, dy);
    if (drag.kind === "look") this.#scene.goTo(this.#scene.nearest(drag.tile, clientX, clientY));
    if (drag.kind === "prompt" && this.#draft) this.#extend(this.#scene.nearest(drag.tile, clientX, clientY));
    if (drag.kind === "ruler" && this.ruler) this.#measure({ ...this.ruler, to: this.#scene.nearest(drag.tile, clientX, clientY) });
  }

  #measure(ruler) {
    const length = Math.hypot(...ruler.to.map((at, n) => (at - ruler.from[n]) * this.#scene.spacing[n]));
    this.ruler = { ...ruler, length };
    this.#listener.say(`${length.toFixed(1)} mm`);
    this.#scene.redrawOverlay();
  }

  /** Move the brush's outline to the pointer. */
  #pointed({ clientX, clientY, shiftKey, altKey }, hit) {
    const previous = this.cursor;
    const positive = this.positive !== (shiftKey || altKey);
    const entry = { class_id: this.classId, positive };
    this.cursor = this.tool === "mask" && hit?.tile ? { x: clientX, y: clientY, radius: this.radius, entry } : null;
    if (this.cursor || previous) this.#scene.redrawOverlay();
  }

  #up(event) {
    const drag = this.#drag;
    this.#drag = null;
    if (drag?.kind !== "prompt" || !this.#draft) return;
    this.#extend(this.#scene.nearest(drag.tile, event.clientX, event.clientY));
    this.#finish();
  }

  #leave() {
    this.cursor = this.#pointer = null;
    this.#listener.hover(null);
    this.#scene.redrawOverlay();
  }

  #scroll(event) {
    if (this.#frozen || !this.#scene.shape) return;
    event.preventDefault();
    const hit = this.#scene.pick(event.clientX, event.clientY);
    const factor = Math.exp(-event.deltaY / 400);
    if (hit?.render) return this.#scene.zoom3D(factor);
    if (!hit?.tile) return;
    this.#normal = hit.tile.normal;
    if (event.ctrlKey) return this.#scene.zoom(hit.tile, event.clientX, event.clientY, factor);
    if (event.shiftKey && this.tool === "mask") return this.resize(this.radius * factor);
    this.#slices(-this.#notches(event));
  }

  /** Number of slices for a movement of the wheel or touchpad. */
  #notches({ deltaMode, deltaY }) {
    if (deltaMode !== WheelEvent.DOM_DELTA_PIXEL || Math.abs(deltaY) >= 2 * WHEEL_STEP) return Math.sign(deltaY);
    this.#wheel += deltaY / WHEEL_STEP;
    const whole = Math.trunc(this.#wheel);
    this.#wheel -= whole;
    return whole;
  }

  #slices(count) {
    // only a box may span several slices
    if (count === 0 || (this.#draft && this.#draft.tool !== "box")) return;
    this.#scene.step(this.normal, count);
    this.#afterStep(this.#pointer && this.#scene.pick(this.#pointer.clientX, this.#pointer.clientY));
  }

  #afterStep(hit) {
    if (this.#draft) this.#extend(this.#drag ? this.#under(this.#drag) : this.#scene.at);
    this.#listener.hover(hit);
  }

  #under({ tile, x, y }) {
    return this.#scene.nearest(tile, x, y);
  }

  // ---- keyboard ----

  #key(event) {
    if (this.#frozen || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest(TYPED_INTO);
    if (typing && !(typing.matches("select") && event.ctrlKey)) return;
    if (this.#run(event)) event.preventDefault();
  }

  /** Run a key's action; returns whether it has one. */
  #run(event) {
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) return this.#control(key, event);
    if (event.target.closest(ARROWS_OF_ITS_OWN) && /^(arrow|page|home|end)/.test(key)) return false;
    if (event.shiftKey && key.startsWith("arrow")) return this.#walk(key, 1);
    if (/^[0-9]$/.test(key)) return this.#digit(key);
    if (key === "enter") return event.target === this.#canvas && this.#enter(event.shiftKey || event.altKey);
    if (event.altKey) return false;
    const tool = TOOLS.find((one) => one.key === key);
    if (tool) return this.#done(() => this.choose(tool.id));
    const run = this.#plain()[key];
    return run ? this.#done(run) : false;
  }

  #plain() {
    const { command } = this.#listener;
    return {
      t: () => this.turn(),
      r: () => command("reset"),
      e: () => command("next"),
      n: () => command("next"),
      h: () => command("hide"),
      o: () => command("outline"),
      f: () => this.#scene.fit(),
      c: () => this.#take(),
      g: () => command("changes"),
      "/": () => command("search"),
      "?": () => command("help"),
      escape: () => this.cancel(),
      arrowup: () => this.#slices(1),
      arrowdown: () => this.#slices(-1),
      pageup: () => this.#slices(LARGE_STEP),
      pagedown: () => this.#slices(-LARGE_STEP),
      home: () => this.#slices(-Infinity),
      end: () => this.#slices(Infinity),
      arrowleft: () => this.#nextClass(-1),
      arrowright: () => this.#nextClass(1),
      "[": () => this.#nextClass(-1),
      "]": () => this.#nextClass(1),
      ",": () => this.resize(this.radius - 1),
      ".": () => this.resize(this.radius + 1),
      "+": () => this.#magnify(1.25),
      "=": () => this.#magnify(1.25),
      "-": () => this.#magnify(0.8),
    };
  }

  #done(run) {
    run();
    return true;
  }

  #control(key, { shiftKey }) {
    const { command } = this.#listener;
    if (key.startsWith("arrow")) return shiftKey && this.#walk(key, LARGE_STEP);
    if (key === "z") return this.#done(() => command(shiftKey ? "redo" : "undo"));
    if (key === "y") return this.#done(() => command("redo"));
    if (key === "s") return this.#done(() => command("save"));
    return false;
  }

  /** Move the crosshair within the plane, in screen directions. */
  #walk(key, count) {
    const tile = this.#scene.tiles().find((one) => one.normal === this.normal);
    if (!tile) return false;
    const right = tile.mirrored ? -count : count;
    if (key === "arrowleft") this.#scene.step(tile.u, -right);
    if (key === "arrowright") this.#scene.step(tile.u, right);
    if (key === "arrowup") this.#scene.step(tile.v, count);
    if (key === "arrowdown") this.#scene.step(tile.v, -count);
    this.#afterStep(null);
    return true;
  }

  /** Begin a prompt at the crosshair, or end the one being drawn. */
  #enter(inverted) {
    const tile = this.#scene.tiles().find((one) => one.normal === this.normal);
    if (this.#draft) this.#finish();
    else if (tile && !["look", "ruler"].includes(this.tool)) this.#begin(tile, this.#scene.at, inverted);
    return true;
  }

  #magnify(factor) {
    const tile = this.#scene.tiles().find((one) => one.normal === this.normal);
    if (!tile) return this.#scene.zoom3D(factor);
    const { left, top } = this.#canvas.getBoundingClientRect();
    const { x, y } = tile.project(this.#scene.toRas(this.#scene.at).map((at) => at + 0.5));
    this.#scene.zoom(tile, left + x, top + y, factor);
  }

  #digit(digit) {
    const now = performance.now();
    const both = now - this.#digits.at < ONE_NUMBER_MS ? this.#digits.text + digit : digit;
    const text = this.classes.some((one) => one.id === Number(both)) ? both : digit;
    this.#digits = { text, at: now };
    this.chooseClass(Number(text));
    return true;
  }

  #nextClass(by) {
    const at = this.classes.findIndex((one) => one.id === this.classId);
    this.chooseClass(this.classes[(at + by + this.classes.length) % this.classes.length].id);
  }
}
