// Features of slices in memory, as float16 and under a bound.

import { fromHalf, toHalf } from "./float16.js";

/**
 * Features by slice. Beyond `limit` bytes the slices that were added first are forgotten: sweeps from both ends need
 * those again that were encoded last. A forgotten slice is encoded again.
 */
export class FeatureCache {
  #limit;
  #encode;
  #slices = new Map();
  #nbytes = 0;

  /** `encode(d)` resolves to the features of a slice, a list of `{dims, data}`. */
  constructor(encode, limit) {
    [this.#encode, this.#limit] = [encode, limit];
  }

  /** Features of a slice, rounded to float16 whether they were cached or not. */
  async get(d) {
    if (!this.#slices.has(d)) this.#add(d, (await this.#encode(d)).map(({ dims, data }) => ({ dims, halves: toHalf(data) })));
    return this.#slices.get(d).map(({ dims, halves }) => ({ dims, data: fromHalf(halves) }));
  }

  #add(d, features) {
    this.#slices.set(d, features);
    this.#nbytes += nbytes(features);
    for (const [oldest, cached] of this.#slices) {
      if (this.#nbytes <= this.#limit || oldest === d) break;
      this.#slices.delete(oldest);
      this.#nbytes -= nbytes(cached);
    }
  }
}

function nbytes(features) {
  return features.reduce((sum, { halves }) => sum + halves.byteLength, 0);
}
