// Preprocessing: from the file's voxels to the network's slices, as in s2vnet/data/preprocess.py.
//
// An image is an object with `shape` (I, J, K), `affine` (voxel to world, RAS+ mm), `channels` (typed arrays of stored
// values, i fastest), and `slope` and `inter`, by which stored values become intensities.

import { SliceGrid } from "./geometry.js";
import { resizeSlice } from "./resize.js";

const PERCENTILES = [0.005, 0.995];
const SMALLEST_DEVIATION = 1e-8;

/** Network slices of an image, each computed from its voxels when it is asked for. */
export class PreparedSlices {
  #source;
  #context;
  #flipped; // axis of the slice that is flipped: 0 rows, 1 columns; -1 none
  #recent = new Map();

  /** `plan` as in a model's model.json. Throws an Error for another number of channels than the plan's. */
  static of(image, plan) {
    const source = new NormalisedSlices(image, plan);
    return new PreparedSlices(source, source.grid, plan.context_slices, -1);
  }

  constructor(source, grid, context, flipped) {
    [this.#source, this.grid, this.#context, this.#flipped] = [source, grid, context, flipped];
  }

  /** Slices of the same image with an in-plane canonical axis flipped; nothing is copied. */
  mirror(axis) {
    return new PreparedSlices(this.#source, this.grid.mirror(axis), this.#context, this.grid.axes.indexOf(axis) - 1);
  }

  /** Slice with its neighbours as channels, (channels * (2 context + 1), H'', W''); the outermost repeat beyond the ends. */
  withNeighbours(d) {
    const wanted = Array.from({ length: 2 * this.#context + 1 }, (_, n) =>
      Math.min(this.grid.depth - 1, Math.max(0, d + n - this.#context)),
    );
    this.#recent = new Map(wanted.map((index) => [index, this.#recent.get(index) ?? this.#padded(index)]));
    const { length } = this.#recent.get(d);
    const stacked = new Float32Array(wanted.length * length);
    wanted.forEach((index, n) => stacked.set(this.#recent.get(index), n * length));
    return stacked;
  }

  /** Slice (channels, H'', W''). */
  #padded(d) {
    const [[height, width], [rows, columns]] = [this.grid.sampled, this.grid.padded];
    const channels = this.#source.slice(d);
    const padded = new Float32Array(channels.length * rows * columns);
    channels.forEach((slice, n) => {
      const to = n * rows * columns;
      padded.fill(this.#source.fill[n], to, to + rows * columns);
      for (let row = 0; row < height; row++) {
        const from = this.#flipped === 0 ? height - 1 - row : row;
        const line = slice.slice(from * width, (from + 1) * width);
        padded.set(this.#flipped === 1 ? line.reverse() : line, to + row * columns);
      }
    });
    return padded;
  }
}

/** Slices after cropping, averaging in slabs, resampling and normalisation, before padding. */
class NormalisedSlices {
  #image;
  #schemes;
  #layout;
  #whole = null; // all slices, where a channel is normalised by all its values

  constructor(image, plan) {
    if (image.channels.length !== plan.channels.length) {
      throw new Error(`the scan has ${image.channels.length} channels, the model needs ${plan.channels.join(", ")}`);
    }
    this.#image = image;
    this.#schemes = plan.intensities;
    const grid = new SliceGrid(image.shape, image.affine, plan);
    /** Grid of the slices. */
    this.grid = plan.crop_to_nonzero ? new SliceGrid(image.shape, image.affine, plan, ...nonzeroBox(image, grid)) : grid;
    this.#layout = this.grid.layout(voxelStrides(image.shape));
    if (plan.intensities.some(({ kind }) => kind !== "ct")) this.#whole = this.#normaliseAll();
    const needsPadding = this.grid.sampled.some((length, n) => length !== this.grid.padded[n]);
    /** Value of each channel beyond the image: its smallest one. */
    this.fill = needsPadding ? this.#minima() : plan.channels.map(() => 0);
  }

  /** Channels (H', W') of slice `d`. */
  slice(d) {
    if (this.#whole) return this.#whole.map((channel) => channel[d]);
    return this.#schemes.map((scheme, n) => normalise([this.#resampled(n, d)], scheme)[0]);
  }

  /** Slice (H', W') of a channel in the file's units. */
  #resampled(channel, d) {
    const [, height, width] = this.grid.size;
    const [start, stop] = this.grid.slab(d);
    const slice = new Float32Array(height * width);
    for (let at = start; at < stop; at++) addSlice(slice, this.#image, channel, this.#layout, at, width);
    if (stop - start > 1) for (let n = 0; n < slice.length; n++) slice[n] /= stop - start;
    return resizeSlice(slice, [height, width], this.grid.sampled);
  }

  #normaliseAll() {
    return this.#schemes.map((scheme, n) =>
      normalise(Array.from({ length: this.grid.depth }, (_, d) => this.#resampled(n, d)), scheme),
    );
  }

  /** Smallest normalised value of each channel; stops once all have reached their lower bound. */
  #minima() {
    const bounds = this.#schemes.map((scheme) =>
      scheme.kind === "ct" ? normalise([new Float32Array([scheme.low])], scheme)[0][0] : -Infinity,
    );
    const minima = bounds.map(() => Infinity);
    for (let d = 0; d < this.grid.depth; d++) {
      this.slice(d).forEach((slice, n) => {
        for (const value of slice) if (value < minima[n]) minima[n] = value;
      });
      if (minima.every((value, n) => value <= bounds[n])) break;
    }
    return minima;
  }
}

/** Strides along i, j, k of voxels with i fastest. */
function voxelStrides([ni, nj]) {
  return [1, ni, ni * nj];
}

/** Add slice `at` of the crop to `sum` (H, W), in the file's units. */
function addSlice(sum, { channels, slope, inter }, channel, { offset, steps }, at, width) {
  const stored = channels[channel];
  const height = sum.length / width;
  for (let row = 0, to = 0; row < height; row++) {
    let from = offset + at * steps[0] + row * steps[1];
    for (let column = 0; column < width; column++, to++, from += steps[2]) {
      const value = Math.fround(Number(stored[from]) * slope + inter);
      if (Number.isFinite(value)) sum[to] += value; // others count as 0
    }
  }
}

/** Start and size (D, H, W) of the bounding box of voxels that are not zero in any channel; all where all are zero. */
function nonzeroBox(image, grid) {
  const layout = grid.layout(voxelStrides(image.shape));
  const [depth, height, width] = grid.size;
  const [low, high] = [[...grid.size], [-1, -1, -1]];
  for (let d = 0; d < depth; d++) {
    for (let channel = 0; channel < image.channels.length; channel++) {
      const slice = new Float32Array(height * width);
      addSlice(slice, image, channel, layout, d, width);
      for (let n = 0; n < slice.length; n++) {
        if (slice[n] === 0) continue;
        [d, Math.floor(n / width), n % width].forEach((at, axis) => {
          low[axis] = Math.min(low[axis], at);
          high[axis] = Math.max(high[axis], at);
        });
      }
    }
  }
  return high[0] < 0 ? [[0, 0, 0], grid.size] : [low, low.map((at, axis) => high[axis] - at + 1)];
}

/** Normalise the slices of a channel by its scheme; a constant channel becomes zero. */
export function normalise(slices, { kind, low, high, mean, std }) {
  if (kind === "ct") {
    const [bottom, top, centre, scale] = [low, high, mean, std].map(Math.fround);
    return slices.map((slice) =>
      slice.map((value) => Math.fround(Math.min(top, Math.max(bottom, value)) - centre) / scale),
    );
  }
  const [bottom, top] = percentiles(slices);
  const clipped = (value) => Math.min(top, Math.max(bottom, value));
  const count = slices.reduce((sum, { length }) => sum + length, 0);
  const sum = (term) => slices.reduce((total, slice) => slice.reduce((part, value) => part + term(clipped(value)), total), 0);
  const centre = sum((value) => value) / count;
  const deviation = Math.max(Math.sqrt(sum((value) => (value - centre) ** 2) / count), SMALLEST_DEVIATION);
  return slices.map((slice) => slice.map((value) => (clipped(value) - centre) / deviation));
}

/** Percentiles of all values, linear between neighbouring ones (numpy's default). */
function percentiles(slices) {
  const sorted = new Float32Array(slices.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const slice of slices) {
    sorted.set(slice, at);
    at += slice.length;
  }
  sorted.sort();
  return PERCENTILES.map((share) => {
    const position = share * (sorted.length - 1);
    const [before, after] = [sorted[Math.floor(position)], sorted[Math.ceil(position)]];
    return before + Math.fround(after - before) * (position - Math.floor(position));
  });
}
