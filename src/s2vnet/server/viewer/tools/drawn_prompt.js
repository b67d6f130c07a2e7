// A prompt while it is being drawn.

import { boundingBox, uniqueVoxels, voxelLine } from "../drawing/voxels.js";
import { encodeMask } from "../network/mask_codec.js";

/** A prompt of `tool` for a class, drawn on planes perpendicular to the file axis `axis`. */
export class DrawnPrompt {
  /** Voxels pointed at, in order. */
  path = [];
  #covered = new Map();

  constructor(tool, classId, positive, axis) {
    Object.assign(this, { tool, classId, positive, axis });
  }

  /** Voxels of a scribble or brush. */
  get voxels() {
    return [...this.#covered.values()];
  }

  /** Draw on to a voxel; `disc(voxel, axis)` gives the brush's voxels. Returns whether anything was added. */
  extend(voxel, disc) {
    const last = this.path.at(-1) ?? voxel;
    if (this.path.length && last.join() === voxel.join()) return false;
    this.path.push(voxel);
    for (const crossed of voxelLine(last, voxel)) {
      if (this.tool === "scribble") this.#covered.set(crossed.join(), crossed);
      if (this.tool === "mask") for (const one of disc(crossed, this.axis)) this.#covered.set(one.join(), one);
    }
    return true;
  }

  /** Log entry as far as it is drawn, for display; masks have no bits. */
  preview() {
    return this.#entry(uniqueVoxels(this.path));
  }

  /** Log entry to send; null for a lasso of less than 3 voxels, or a brush that covers none. */
  complete() {
    const vertices = uniqueVoxels(this.path);
    if (this.tool === "lasso" && vertices.length < 3) return null;
    if (this.tool === "mask") return this.#covered.size ? { ...this.#entry(), ...encodeMask(this.voxels) } : null;
    return this.#entry(vertices);
  }

  #entry(vertices) {
    const entry = { kind: this.tool, class_id: this.classId, positive: this.positive };
    if (this.tool === "point") return { ...entry, voxel: this.path.at(-1) };
    if (this.tool === "box") return { ...entry, ...boundingBox([this.path[0], this.path.at(-1)]) };
    if (this.tool === "scribble") return { ...entry, voxels: this.voxels };
    return this.tool === "lasso" ? { ...entry, axis: this.axis, vertices } : entry;
  }
}
