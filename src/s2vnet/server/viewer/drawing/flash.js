// Flash of the voxels that an operation changed, on the planes that are displayed.

import { isChanged } from "../state/changes.js";

const LASTS_MS = 1600;
const STRENGTH = 0.85;
const COLOR = [255, 255, 255];

export class Flash {
  #scene;
  #changes = null;
  #started = 0;
  #pictures = new Map(); // by plane and slice

  constructor(scene) {
    this.#scene = scene;
  }

  /** Whether changed voxels are being shown. */
  get active() {
    return this.#changes !== null;
  }

  start(changes) {
    this.#changes = changes;
    this.#started = performance.now();
    this.#pictures.clear();
    if (changes) this.#scene.redrawOverlay();
  }

  /** Draw the changed voxels of a plane, fainter with time; asks for the next frame until they have faded. */
  draw(context, tile) {
    if (!this.#changes) return;
    const left = 1 - (performance.now() - this.#started) / LASTS_MS;
    if (left <= 0) return this.start(null);
    const picture = this.#picture(tile);
    const places = [0, 1].map((end) => tile.project([0, 1, 2].map((n) => end * this.#scene.shape[this.#scene.fileAxis(n)])));
    const { width, height } = picture;
    context.save();
    context.globalAlpha = STRENGTH * Math.min(1, 1.5 * left);
    context.imageSmoothingEnabled = false;
    context.translate(places[0].x, places[0].y);
    context.scale((places[1].x - places[0].x) / width, (places[1].y - places[0].y) / height);
    context.drawImage(picture, 0, 0);
    context.restore();
    requestAnimationFrame(() => this.#scene.redrawOverlay());
  }

  #picture(tile) {
    const key = `${tile.normal} ${tile.depth}`;
    if (!this.#pictures.has(key)) this.#pictures.set(key, this.#paint(tile));
    return this.#pictures.get(key);
  }

  /** Picture of the changed voxels on a plane, one pixel a voxel, along its RAS axes u and v. */
  #paint({ normal, u, v, depth }) {
    const scene = this.#scene;
    const [width, height] = [u, v].map((axis) => scene.shape[scene.fileAxis(axis)]);
    const picture = new OffscreenCanvas(width, height);
    const pixels = new ImageData(width, height);
    const ras = [0, 0, 0];
    ras[normal] = depth;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        [ras[u], ras[v]] = [x, y];
        if (isChanged(this.#changes, scene.toFile(ras))) pixels.data.set([...COLOR, 255], 4 * (y * width + x));
      }
    }
    picture.getContext("2d").putImageData(pixels, 0, 0);
    return picture;
  }
}
