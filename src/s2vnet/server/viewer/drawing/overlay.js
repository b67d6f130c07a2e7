// Overlay on the slices: prompts, the current stroke, the crosshair and captions.

import { decodeMask } from "../network/mask_codec.js";

const HALO = "rgba(0, 0, 0, 0.75)";
const LINES = "rgba(150, 200, 255, 0.35)";
const TEXT = "#e6edf3";
const LETTERS = ["APSI", "RLSI", "RLAP"]; // left, right, top, bottom; by RAS normal
const BARS = [1, 2, 5, 10, 20, 50, 100]; // mm
const FADE_MS = 2500; // after which the mark of a brush or scribble is gone, since the labels show its effect
const FADE_STEP_MS = 80;
const GAP = 12; // CSS pixels around the crosshair's centre that are left empty
const FILL = 0.55;

export class PromptOverlay {
  #scene;
  #canvas;
  #context;
  #masks = new Map();
  #drawnSince = new Map();
  #fading = 0;

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
  draw({ entries, waiting, draft, highlighted, colorOf, cursor, flash, ruler }) {
    this.#clear();
    const tiles = this.#scene.tiles();
    for (const tile of tiles) {
      this.#clipTo(tile, () => {
        flash?.draw(this.#context, tile);
        if (tiles.length > 1) this.#crosshair(tile);
        for (const [n, entry] of entries.entries()) this.#entry(tile, entry, colorOf(entry.class_id), n === highlighted);
        for (const entry of waiting) this.#entry(tile, entry, colorOf(entry.class_id), false);
        if (draft) this.#entry(tile, draft.entry, colorOf(draft.entry.class_id), true, draft.voxels);
        if (cursor) this.#brush(tile, cursor, colorOf(cursor.entry.class_id));
        if (ruler?.normal === tile.normal) this.#ruler(tile, ruler);
        this.#caption(tile);
        this.#letters(tile);
        this.#scaleBar(tile);
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
    const axis = this.#scene.fileAxis(tile.normal);
    const { left, top, height } = tile.box;
    const text = `${tile.name} ${this.#scene.at[axis]} of 0–${this.#scene.shape[axis] - 1}`;
    this.#text(text, left + 8, top + height - 8);
  }

  /** Directions at the four sides: the radiological convention. */
  #letters(tile) {
    const { left, top, width, height } = tile.box;
    const [l, r, t, b] = LETTERS[tile.normal];
    this.#text(l, left + 6, top + height / 2, "bold 14px");
    this.#text(r, left + width - 18, top + height / 2, "bold 14px");
    this.#text(t, left + width / 2 - 5, top + 16, "bold 14px");
    this.#text(b, left + width / 2 - 5, top + height - 8, "bold 14px");
  }

  #ruler(tile, { from, to, length }) {
    const [a, b] = [from, to].map((voxel) => this.#project(tile, voxel));
    if (!a || !b) return;
    this.#strokeWithHalo("#ffd33d", 1.5, [], (context) => {
      context.moveTo(a.x, a.y);
      context.lineTo(b.x, b.y);
    });
    this.#text(`${length.toFixed(1)} mm`, b.x + 6, b.y - 6);
  }

  /** A bar of a round length in millimetres. */
  #scaleBar(tile) {
    const { left, top, width, height } = tile.box;
    const length = BARS.findLast((mm) => mm * tile.scale < width / 4) ?? BARS[0];
    const [x, y] = [left + width - 12, top + height - 10];
    this.#strokeWithHalo("#e6edf3", 2, [], (context) => {
      context.moveTo(x - length * tile.scale, y);
      context.lineTo(x, y);
    });
    this.#text(length < 10 ? `${length} mm` : `${length / 10} cm`, x - 36, y - 7, "11px");
  }

  /** Text with a halo, which is legible on any image. */
  #text(text, x, y, font = "12px") {
    const context = this.#context;
    context.font = `${font} system-ui, sans-serif`;
    [context.strokeStyle, context.lineWidth, context.lineJoin] = ["black", 3, "round"];
    context.strokeText(text, x, y);
    context.fillStyle = TEXT;
    context.fillText(text, x, y);
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
    if (entry.kind !== "scribble" && entry.kind !== "mask") return;
    const opacity = voxels || highlighted ? 1 : this.#fade(entry);
    if (opacity > 0) this.#voxels(tile, voxels ?? entry.voxels ?? this.#maskOf(entry), { ...style, opacity });
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
      for (const { x, y } of places) context.lineTo(x, y);
      context.closePath();
    });
  }

  /** Opacity of an entry's mark: it fades from when it is first drawn. */
  #fade(entry) {
    const key = JSON.stringify(entry);
    if (!this.#drawnSince.has(key)) this.#drawnSince.set(key, performance.now());
    const opacity = 1 - (performance.now() - this.#drawnSince.get(key)) / FADE_MS;
    if (opacity > 0) {
      this.#fading ||= setTimeout(() => {
        this.#fading = 0;
        this.#scene.redrawOverlay();
      }, FADE_STEP_MS);
    }
    return opacity;
  }

  /** Draw the voxels of a prompt as rectangles. */
  #voxels(tile, voxels, { color, dashed, width, opacity }) {
    const [u, v] = [tile.u, tile.v];
    this.#context.beginPath();
    for (const voxel of voxels) {
      const ras = this.#scene.toRas(voxel);
      if (ras[tile.normal] !== tile.depth) continue;
      const a = tile.project(ras);
      const b = tile.project(ras.map((at, n) => at + Number(n === u || n === v)));
      this.#context.rect(Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(b.x - a.x), Math.abs(b.y - a.y));
    }
    this.#context.globalAlpha = opacity * (width > 2 ? FILL + 0.2 : FILL);
    this.#context.fillStyle = color;
    this.#context.fill();
    if (dashed) this.#stripe(tile);
    this.#context.globalAlpha = 1;
  }

  /** Mark the current path as negative. */
  #stripe(tile) {
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
