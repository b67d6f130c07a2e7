// Labels of file slices from class probabilities of network slices, as in s2vnet/inference/segmentation.py.

import { findDetachedParts, suppressDetachedParts } from "./detached_parts.js";
import { fromHalf } from "./float16.js";
import { Upsampler } from "./upsampling.js";

/** Turns class probabilities of network slices into labels of file slices. */
export class BlockWriter {
  #grid;
  #size;
  #classes;
  #upsampler;
  #scores = [];
  #labels = [];
  #detached = null;

  constructor(grid, size, classes) {
    [this.#grid, this.#size, this.#classes] = [grid, size, classes];
    this.#upsampler = new Upsampler(grid, size);
  }

  /** Take the scores (float16 bits) and labels of all network slices, and remove detached parts (detached_parts.js). */
  setScores(scores, labels, share) {
    [this.#scores, this.#labels] = [scores, labels];
    this.#detached = findDetachedParts(labels, this.#size, share);
  }

  /** Block of the file slices that network slice `d` is made of, by its class probabilities (K, h, w). */
  preview(d, probabilities) {
    const [start, stop] = this.#grid.slab(d);
    return this.#grid.fileBlock(start, stop, this.#upsampler.labels(probabilities, this.#classes));
  }

  /** Block of one slice of the crop, by the scores of the network slices on either side. */
  final(slice) {
    const { before, after, weight } = this.#grid.neighbours(slice);
    let probabilities = this.#probabilities(before);
    if (this.#grid.slabSize > 1 && after !== before) {
      const next = this.#probabilities(after);
      probabilities = probabilities.map((value, at) => value + weight * (next[at] - value));
    }
    return { ...this.#grid.fileBlock(slice, slice + 1, this.#upsampler.labels(probabilities, this.#classes)), final: true };
  }

  #probabilities(d) {
    const scores = fromHalf(this.#scores[d]);
    const detached = this.#detached?.[d];
    return detached?.some(Boolean) ? suppressDetachedParts(scores, this.#labels[d], detached, this.#size) : scores;
  }
}
