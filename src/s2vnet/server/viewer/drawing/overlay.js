// Overlay on the slices: prompts, the current stroke, the crosshair and captions.

import { decodeMask } from "../network/mask_codec.js";

const HALO = "rgba(0, 0, 0, 0.75)";
const LINES = "rgba(150, 200, 255, 0.35)";
const TEXT = "rgba(200, 210, 220, 0.85)";
const GAP = 12; // CSS pixels around the crosshair's centre that are left empty
const FILL = 0.55;

export class PromptOverlay {
  #scene;
  #canvas;
  #context;
  #masks = new Map();

  constructor(canvas, scene) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { willReadFrequently: scene.slow }); // without a GPU, in memory
    this.#scene = scene;
  }

  /**
   * Redraw everything.
   * `entries`: the log; `waiting`: entries that have not been sent; `draft`: `{entry, voxels}` of a prompt being drawn; `highlighted`: index of an entry to emphasise;
   * `colorOf`: returns the colour of a class ID; `cursor`: `{x, y, radius, entry}` of a brush (viewport pixels, radius in mm);
   * `flash`: of changed voxels.
   */
  draw({ entries, waiting, draft, highlighted, colorOf, cursor, flash }) {
    this.#clear();
    const tiles = this.#scene.tiles();
    for (const tile of tiles) {
      this.#clipTo(tile, () => {
        flash?.draw(this.#context, tile);
        if (tiles.length > 1) this.#crosshair(tile);
        entries.forEach((entry, n) => this.#entry(tile, entry, colorOf(entry.class_id), n === highlighted));
        for (const entry of waiting) this.#entry(tile, entry, colorOf(entry.class_id), false);
        if (draft) this.#entry(tile, draft.entry, colorOf(draft.entry.class_id), true, draft.voxels);
        if (cursor) this.#brush(tile, cursor, colorOf(cursor.entry.class_id));
        this.#caption(tile);
      });
    }
  }

  #clear() {
    const { clientWidth, clientHeight } = this.#canvas;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(clientWidth * scale), Math.round(clientHeight * scale)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      [this.#canvas.width, this.#canvas.height] = [width, height];
    }
    this.#context.setTransform(scale, 0, 0, scale, 0, 0);
    this.#context.clearRect(0, 0, clientWidth, clientHeight);
  }

  #clipTo(tile, paint) {
    const { left, top, width, height } = tile.box;
    this.#context.save();
    this.#context.beginPath();
    this.#context.rect(left, top, width, height);
    this.#context.clip();
    paint();
    this.#context.restore();
  }

  #caption(tile) {
    const length = this.#scene.shape[this.#scene.fileAxis(tile.normal)];
    const number = this.#scene.at[this.#scene.fileAxis(tile.normal)];
    this.#context.font = "12px system-ui, sans-serif";
    this.#context.fillStyle = TEXT;
    this.#context.shadowColor = "black";
    this.#context.shadowBlur = 3;
    const { left, top, height } = tile.box;
    this.#context.fillText(`${tile.name} ${number} of 0–${length - 1}`, left + 8, top + height - 8);
  }

  #crosshair(tile) {
    const { x, y } = tile.project(this.#scene.toRas(this.#scene.at).map((at) => at + 0.5));
    const { left, top, width, height } = tile.box;
    this.#context.strokeStyle = LINES;
    this.#context.lineWidth = 1;
    this.#context.beginPath();
    for (const [x0, y0, x1, y1] of [
      [left, y, x - GAP, y],
      [x + GAP, y, left + width, y],
      [x, top, x, y - GAP],
      [x, y + GAP, x, top + height],
    ]) {
      this.#context.moveTo(x0, y0);
      this.#context.lineTo(x1, y1);
    }
    this.#context.stroke();
  }

  #entry(tile, entry, color, highlighted, voxels = null) {
    const style = { color, dashed: !entry.positive, width: highlighted ? 3 : 2 };
    if (entry.kind === "point") this.#point(tile, entry, style);
    if (entry.kind === "box") this.#box(tile, entry, style);
    if (entry.kind === "lasso") this.#lasso(tile, entry, style);
    if (entry.kind === "scribble") this.#voxels(tile, voxels ?? entry.voxels, style);
    if (entry.kind === "mask") this.#voxels(tile, voxels ?? this.#maskOf(entry), style);
  }

  /** Canvas position of a voxel's centre; null if the tile shows another slice. */
  #project(tile, voxel) {
    const ras = this.#scene.toRas(voxel);
    return ras[tile.normal] === tile.depth ? tile.project(ras.map((at) => at + 0.5)) : null;
  }

  #point(tile, entry, { color, dashed, width }) {
    const at = this.#project(tile, entry.voxel);
    if (!at) return;
    const radius = 3 + width;
    this.#strokeWithHalo(color, width, [], (context) => {
      context.arc(at.x, at.y, radius, 0, 2 * Math.PI);
      context.moveTo(at.x - radius + 2, at.y);
      context.lineTo(at.x + radius - 2, at.y);
      if (dashed) return;
      context.moveTo(at.x, at.y - radius + 2);
      context.lineTo(at.x, at.y + radius - 2);
    });
  }

  #box(tile, { start, stop }, { color, dashed, width }) {
    const axis = this.#scene.fileAxis(tile.normal);
    const depth = this.#scene.at[axis];
    if (depth < start[axis] || depth >= stop[axis]) return;
    const [a, b] = [start, stop].map((corner) => tile.project(this.#scene.toRas(corner, 0)));
    this.#strokeWithHalo(color, width, dashed ? [6, 4] : [], (context) => context.rect(a.x, a.y, b.x - a.x, b.y - a.y));
  }

  #lasso(tile, { vertices }, { color, dashed, width }) {
    const places = vertices.map((voxel) => this.#project(tile, voxel));
    if (places.some((place) => !place)) return;
    this.#strokeWithHalo(color, width, dashed ? [6, 4] : [], (context) => {
      places.forEach(({ x, y }) => context.lineTo(x, y));
      context.closePath();
    });
  }

  /** Draw the voxels of a prompt as rectangles. */
  #voxels(tile, voxels, { color, dashed, width }) {
    const [u, v] = [tile.u, tile.v];
    this.#context.beginPath();
    for (const voxel of voxels) {
      const ras = this.#scene.toRas(voxel);
      if (ras[tile.normal] !== tile.depth) continue;
      const a = tile.project(ras);
      const b = tile.project(ras.map((at, n) => at + Number(n === u || n === v)));
      this.#context.rect(Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(b.x - a.x), Math.abs(b.y - a.y));
    }
    this.#context.globalAlpha = width > 2 ? FILL + 0.2 : FILL;
    this.#context.fillStyle = color;
    this.#context.fill();
    this.#context.globalAlpha = 1;
    if (!dashed) return;
    this.#context.save();
    this.#context.clip();
    this.#context.fillStyle = this.#hatch();
    this.#context.fillRect(tile.box.left, tile.box.top, tile.box.width, tile.box.height);
    this.#context.restore();
  }

  /** Pattern of stripes that marks negative prompts. */
  #hatch() {
    const tile = new OffscreenCanvas(6, 6);
    const context = tile.getContext("2d");
    context.strokeStyle = "black";
    context.lineWidth = 1.5;
    for (const shift of [-6, 0, 6]) {
      context.moveTo(shift, 6);
      context.lineTo(shift + 6, 0);
    }
    context.stroke();
    return this.#context.createPattern(tile, "repeat");
  }

  #brush(tile, { x, y, radius, entry }, color) {
    const at = this.#scene.onCanvas(x, y);
    if (!tile.holds(at.x, at.y)) return;
    const dashes = entry.positive ? [] : [4, 3];
    const size = Math.max(2, radius * tile.scale);
    this.#strokeWithHalo(color, 1.5, dashes, (context) => context.arc(at.x, at.y, size, 0, 2 * Math.PI));
  }

  /** Stroke a path with a dark border, so that it is visible on any background. */
  #strokeWithHalo(color, width, dashes, path) {
    const context = this.#context;
    for (const [style, thickness] of [
      [HALO, width + 2],
      [color, width],
    ]) {
      context.beginPath();
      path(context);
      context.strokeStyle = style;
      context.lineWidth = thickness;
      context.setLineDash(style === HALO ? [] : dashes);
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** Voxels of a mask prompt; empty until they are decoded. */
  #maskOf(entry) {
    const key = `${entry.start}:${entry.bits}`;
    if (!this.#masks.has(key)) {
      this.#masks.set(key, []);
      decodeMask(entry).then((voxels) => {
        this.#masks.set(key, voxels);
        this.#scene.redrawOverlay();
      });
    }
    return this.#masks.get(key);
  }
}
