// Draw the planes on a canvas: only those that changed since the last frame.

import { Greys, SlicePixels } from "./slice_pixels.js";

const BACKGROUND = "#08090a";
const OUTLINE_OPACITY = 0.95;

export class PlanePainter {
  #canvas;
  #context;
  #greys = new Greys();
  #slices = new Map();
  #drawn = new Map();

  /** `slow`: there is no GPU, so that a canvas in memory is faster. */
  constructor(canvas, slow) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false, willReadFrequently: slow });
  }

  /**
   * Draw the tiles.
   * `content`: image, labels (null if there are none), `window` in stored values, `colors` (RGBA of areas as 32-bit numbers,
   * by label), `lines` (CSS colours of outlines by label), `outline`, `hidden`; `revisions`: image, color, and labels by RAS
   * normal, which change with what they stand for.
   */
  draw(tiles, content, revisions) {
    const scale = this.#resize(tiles);
    for (const tile of tiles) {
      const { left, top, width, height } = tile.box;
      const { window, labels, outline, hidden } = content;
      const key = [
        ...[left, top, width, height, scale, tile.scale, tile.centre, tile.depth, window, outline, hidden, Boolean(labels)],
        ...[revisions.image, revisions.color, revisions.labels[tile.normal]],
      ].join();
      if (this.#drawn.get(tile.normal) === key) continue;
      this.#drawn.set(tile.normal, key);
      this.#tile(tile, content, revisions, scale);
    }
  }

  /** Fit the canvas to its element; clears it where its size or the layout changed. */
  #resize(tiles) {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [this.#canvas.clientWidth, this.#canvas.clientHeight].map((length) => Math.round(length * scale));
    const layout = JSON.stringify([width, height, tiles.map(({ box }) => box)]);
    if (this.#drawn.get("layout") === layout) return scale;
    if (this.#canvas.width !== width || this.#canvas.height !== height) [this.#canvas.width, this.#canvas.height] = [width, height];
    this.#drawn = new Map([["layout", layout]]);
    this.#context.fillStyle = BACKGROUND;
    this.#context.fillRect(0, 0, width, height);
    return scale;
  }

  #tile(tile, content, revisions, scale) {
    const context = this.#context;
    const { image, labels, window, colors, hidden } = content;
    const { normal, u, v, depth, shape } = tile;
    const place = { normal, u, v, depth, shape };
    const corner = [0, 0, 0];
    [corner[u], corner[v]] = [shape[u], shape[v]]; // the first pixel
    const { x, y } = tile.project(corner);
    const pixel = [u, v].map((axis) => tile.spacing[axis] * tile.scale * scale);
    const target = [x * scale, y * scale, shape[u] * pixel[0], shape[v] * pixel[1]];
    const pixels = this.#pixelsOf(normal);
    const keys = { imageRevision: revisions.image, labelRevision: revisions.labels[normal], colorRevision: revisions.color };
    context.save();
    context.beginPath();
    const { left, top, width, height } = tile.box;
    context.rect(left * scale, top * scale, width * scale, height * scale);
    context.clip();
    context.fillStyle = BACKGROUND;
    context.fillRect(left * scale, top * scale, width * scale, height * scale);
    context.imageSmoothingEnabled = true;
    context.drawImage(pixels.image(image, this.#greys, window, place, keys), ...target);
    if (labels && !hidden) {
      context.imageSmoothingEnabled = false;
      context.drawImage(pixels.areas(image, labels, colors, place, keys), ...target);
      if (content.outline) this.#outline(pixels.borders(image, labels, place, keys), content.lines, target, pixel, scale);
    }
    context.restore();
  }

  #pixelsOf(normal) {
    if (!this.#slices.has(normal)) this.#slices.set(normal, new SlicePixels());
    return this.#slices.get(normal);
  }

  /** Draw lines one pixel wide inside the areas, at any zoom. */
  #outline(borders, colors, [left, top], [width, height], scale) {
    const thickness = Math.max(1, Math.round(scale));
    const x = (at) => Math.round(left + at * width);
    const y = (at) => Math.round(top + at * height);
    const paths = new Map();
    for (const { label, vertical, at, from, to, side } of borders) {
      if (!colors[label]) continue;
      if (!paths.has(label)) paths.set(label, new Path2D());
      const inside = side > 0 ? 0 : -thickness;
      if (vertical) paths.get(label).rect(x(at) + inside, y(from), thickness, y(to) - y(from));
      else paths.get(label).rect(x(from), y(at) + inside, x(to) - x(from), thickness);
    }
    this.#context.globalAlpha = OUTLINE_OPACITY;
    for (const [label, path] of paths) {
      this.#context.fillStyle = colors[label];
      this.#context.fill(path);
    }
    this.#context.globalAlpha = 1;
  }
}
