// The view of a scan: planes, 3D, crosshair and appearance. Voxels are file voxels [i, j, k] where nothing else is said.

import { ADDED_COLOR } from "../state/classes.js";
import { ScanImage } from "./image.js";
import { arrange, RENDER } from "./layouts.js";
import { PlanePainter } from "./planes.js";
import { rendering, Solid } from "./solid.js";
import { Tile } from "./tile.js";

const MOST_ZOOM = 20;

export class Scene {
  /** Called with every frame, to draw the overlay. */
  onDraw = () => {};
  /** Called when the tiles have moved. */
  onLayout = () => {};
  /** Whether there is no GPU. */
  slow;
  /** Whether the browser can render 3D. */
  has3D;
  #module;
  #canvas;
  #painter;
  #solid;
  #image = null;
  #labels = null;
  #layout = "planes";
  #at = [0, 0, 0];
  #view = { centre: [0, 0, 0], zoom: 1 };
  #window = [0, 1];
  #style = { opacity: 0.35, outline: true, hidden: false };
  #classes = [];
  #colors = new Uint32Array(256);
  #lines = [];
  #revisions = { image: 0, color: 0, labels: [0, 0, 0] };
  #frame = 0;
  #sceneDirty = false;
  #opening = Promise.resolve();
  #places = "";

  /** Create a scene: `canvas` of the planes, `solidElement` with that of 3D; `module` is NiiVue. */
  constructor(module, canvas, solidElement) {
    const speed = rendering();
    [this.#module, this.#canvas] = [module, canvas];
    [this.slow, this.has3D] = [speed !== "fast", speed !== null];
    this.#painter = new PlanePainter(canvas, this.slow);
    this.#solid = new Solid(solidElement, module, speed);
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Show an image (bytes of a NIfTI file) in a window `[low, high]`, by default one that fits most intensities. */
  open(buffer, window) {
    // in order, so that the image requested last is the one displayed
    this.#opening = this.#opening.catch(() => {}).then(() => this.#open(buffer, window));
    return this.#opening;
  }

  async #open(buffer, window) {
    this.close();
    this.#image = await ScanImage.read(this.#module.NVImage, buffer);
    this.#solid.setImage(this.#image);
    this.#revisions.image++;
    this.setWindow(...(window ?? this.automatic));
    this.goTo(this.shape.map((length) => length >> 1));
    this.fit();
  }

  close() {
    [this.#image, this.#labels] = [null, null];
    this.#solid.place(null);
    this.#places = "";
  }

  /** Voxels along the file axes; null while no image is shown. */
  get shape() {
    return this.#image?.shape ?? null;
  }

  /** Voxel size in mm along the file axes. */
  get spacing() {
    return this.#image.spacing;
  }

  /** Intensity of a voxel. */
  valueAt(voxel) {
    return this.#image.valueAt(voxel);
  }

  /** Convert a file voxel to RAS, also fractional; `edge` is 1 for indices and 0 for corners. */
  toRas(voxel, edge = 1) {
    return this.#image.toRas(voxel, edge);
  }

  /** Convert a RAS voxel to a file voxel. */
  toFile(ras) {
    return this.#image.toFile(ras);
  }

  /** File axis normal to the plane with this RAS normal. */
  fileAxis(normal) {
    return this.#image.axes[normal];
  }

  /** RAS normal of the plane normal to a file axis. */
  normalOf(axis) {
    return this.#image.axes.indexOf(axis);
  }

  /** Content at a viewport position: `{tile, voxel}` (voxel null outside the image), `{render: true}`, or null. */
  pick(clientX, clientY) {
    if (!this.shape) return null;
    const { x, y } = this.onCanvas(clientX, clientY);
    const tile = this.tiles().find((one) => one.holds(x, y));
    if (!tile) return this.#arranged().some(({ plane }) => plane === RENDER) ? { render: true } : null;
    const ras = tile.place(x, y).map(Math.floor);
    const outside = ras.some((at, n) => at < 0 || at >= this.#image.rasShape[n]);
    return outside ? { tile, voxel: null } : { tile, voxel: this.toFile(ras) };
  }

  /** Voxel of a tile nearest to a viewport position, which may be outside the image. */
  nearest(tile, clientX, clientY) {
    const { x, y } = this.onCanvas(clientX, clientY);
    const ras = tile.place(x, y).map((at, n) => Math.min(this.#image.rasShape[n] - 1, Math.max(0, Math.floor(at))));
    ras[tile.normal] = this.#at[tile.normal];
    return this.toFile(ras);
  }

  /** Canvas position of a voxel's centre in CSS pixels; null if no plane shows it. `normal`: only on this plane. */
  canvasOf(i, j, k, normal = null) {
    this.flush();
    const ras = this.toRas([i, j, k]);
    const shown = this.tiles().filter((tile) => tile.depth === ras[tile.normal]);
    const tile = normal === null ? shown[0] : shown.find((one) => one.normal === normal);
    return tile ? tile.project(ras.map((at) => at + 0.5)) : null;
  }

  onCanvas(clientX, clientY) {
    const { left, top } = this.#canvas.getBoundingClientRect();
    return { x: clientX - left, y: clientY - top };
  }

  /** Displayed planes. */
  tiles() {
    if (!this.#image) return [];
    return this.#arranged()
      .filter(({ plane }) => plane !== RENDER)
      .map(({ plane, box }) => new Tile(plane, box, this.#image, this.#at, this.#view));
  }

  #arranged() {
    return arrange(this.#layout, this.#canvas.clientWidth, this.#canvas.clientHeight);
  }

  // ---- navigation ----

  /** File voxel at which the planes intersect. */
  get at() {
    return this.toFile(this.#at);
  }

  goTo(voxel) {
    this.#at = this.toRas(voxel);
    this.draw();
  }

  /** Move `count` voxels along a RAS axis, at most to the image's border. */
  step(axis, count) {
    const last = this.#image.rasShape[axis] - 1;
    this.#at[axis] = Math.min(last, Math.max(0, this.#at[axis] + count));
    this.draw();
  }

  get layout() {
    return this.#layout;
  }

  /** Set the layout, by its name in layouts.js. */
  setLayout(name) {
    this.#layout = name;
    this.draw();
  }

  /** Zoom about a viewport position. */
  zoom(tile, clientX, clientY, factor) {
    const { x, y } = this.onCanvas(clientX, clientY);
    const { centre, zoom: before } = this.#view;
    const zoom = Math.min(MOST_ZOOM, Math.max(1, before * factor));
    if (zoom === 1) return this.#centre();
    const fixed = tile.place(x, y).map((at, n) => (n === tile.normal ? centre[n] : at * this.#image.rasSpacing[n]));
    this.#view = { zoom, centre: centre.map((at, n) => fixed[n] - ((fixed[n] - at) * before) / zoom) };
    this.draw();
  }

  /** Pan a plane by CSS pixels. */
  pan(tile, dx, dy) {
    const centre = [...this.#view.centre];
    centre[tile.u] += dx / tile.scale;
    centre[tile.v] += dy / tile.scale;
    this.#view = { ...this.#view, centre };
    this.draw();
  }

  fit() {
    this.#solid.fit();
    this.#centre();
  }

  #centre() {
    const { rasShape, rasSpacing } = this.#image;
    this.#view = { zoom: 1, centre: rasShape.map((length, n) => (length * rasSpacing[n]) / 2) };
    this.draw();
  }

  rotate(dx, dy) {
    this.#solid.rotate(dx, dy);
  }

  zoom3D(factor) {
    this.#solid.zoom(factor);
  }

  // ---- appearance ----

  /** Intensities displayed as black and white, `[low, high]`. */
  get window() {
    return this.#window;
  }

  setWindow(low, high) {
    this.#window = [low, Math.max(high, low + 1e-6)];
    this.#solid.setWindow(this.#storedWindow);
    this.draw();
  }

  get #storedWindow() {
    return this.#window.map((intensity) => this.#image.stored(intensity));
  }

  /** A window that fits most intensities. */
  get automatic() {
    return this.#image.automatic;
  }

  /** Lowest and highest intensity. */
  get range() {
    return this.#image.range;
  }

  get channels() {
    return this.#image.channels;
  }

  setChannel(index) {
    this.#image.channel = index;
    this.#revisions.image++;
    this.#solid.setWindow(this.#storedWindow);
    this.draw();
  }

  /** Set the colours of classes: `[{id, color: "#rrggbb", visible}]`. */
  setColors(classes) {
    const given = new Set(classes.map(({ id }) => id));
    const added = [...Array(255).keys()].map((n) => n + 1).filter((id) => !given.has(id));
    this.#classes = [...classes, ...added.map((id) => ({ id, color: ADDED_COLOR, visible: true }))];
    this.#solid.setColors(this.#classes);
    this.#color();
  }

  #color() {
    const opacity = Math.round(255 * this.#style.opacity);
    this.#colors.fill(0);
    this.#lines = [];
    for (const { id, color, visible } of this.#classes) {
      if (id === 0 || !visible) continue;
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
      this.#colors[id] = ((opacity << 24) | (b << 16) | (g << 8) | r) >>> 0;
      this.#lines[id] = color;
    }
    this.#revisions.color++;
    this.draw();
  }

  /** Set how labels are drawn in the planes: opacity of areas, with or without outlines, or hidden. */
  setLabelStyle(style) {
    this.#style = { ...this.#style, ...style };
    this.#solid.setHidden(this.#style.hidden);
    this.#color();
  }

  get labelsHidden() {
    return this.#style.hidden;
  }

  set imageIn3D(shown) {
    this.#solid.withImage = shown;
  }

  /** Class that is shown alone in 3D, the others as a veil; null for all alike. */
  get focus() {
    return this.#solid.focus;
  }

  set focus(id) {
    this.#solid.setFocus(id);
  }

  /** Show labels of the whole image, in file order, of which a block changed. */
  showLabels(labels, start = [0, 0, 0], size = this.shape) {
    this.#labels = labels;
    const at = this.at;
    for (let normal = 0; normal < 3; normal++) {
      const axis = this.fileAxis(normal);
      if (at[axis] >= start[axis] && at[axis] < start[axis] + size[axis]) this.#revisions.labels[normal]++;
    }
    this.#solid.setLabels(labels);
    this.draw();
  }

  /** Redraw with the next frame, planes only where they changed; further calls until then have no effect. */
  draw() {
    this.#sceneDirty = true;
    this.redrawOverlay();
  }

  /** Redraw only the overlay with the next frame. */
  redrawOverlay() {
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Draw immediately if a redraw is pending. */
  flush() {
    if (!this.#frame) return;
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#sceneDirty) this.#drawPlanes();
    this.#sceneDirty = false;
    this.onDraw();
  }

  #drawPlanes() {
    if (!this.#image) return;
    const tiles = this.#arranged();
    this.#solid.place(tiles.find(({ plane }) => plane === RENDER)?.box ?? null);
    this.#solid.postpone();
    const { outline, hidden } = this.#style;
    const content = { image: this.#image, labels: this.#labels, window: this.#storedWindow, outline, hidden };
    this.#painter.draw(this.tiles(), { ...content, colors: this.#colors, lines: this.#lines }, this.#revisions);
    const places = JSON.stringify(tiles);
    if (places !== this.#places) this.onLayout(tiles);
    this.#places = places;
  }
}
