// Grids of files and of the network's slices, as in s2vnet/io/geometry.py and s2vnet/data/slice_grid.py. Voxel axes are
// i, j, k; the world is RAS+ mm; an affine is four rows of four numbers.

import { compose, resizeMatrix } from "./resize.js";

const AXES = "RAS";
const PLANES = ["sagittal", "coronal", "axial"];
const POLAR_STEPS = 60;

/**
 * Permutation and flips from file axes to the closest RAS axes (nibabel's `io_orientation`): `axes[c]` is the file axis
 * that becomes canonical axis c, `flips[c]` whether their directions are opposite.
 */
export function closestAxes(affine) {
  const rotation = polarFactor(affine.slice(0, 3).map((row) => row.slice(0, 3)));
  const strength = [0, 1, 2].map((axis) => Math.max(...rotation.map((row) => row[axis] ** 2)));
  const order = [0, 1, 2].sort((a, b) => strength[b] - strength[a]);
  const [axes, flips] = [[0, 0, 0], [false, false, false]];
  for (const axis of order) {
    const column = rotation.map((row) => Math.abs(row[axis]));
    const canonical = column.indexOf(Math.max(...column));
    [axes[canonical], flips[canonical]] = [axis, rotation[canonical][axis] < 0];
    rotation[canonical].fill(0);
  }
  return { axes, flips };
}

/** Orthogonal matrix closest to a 3 x 3 matrix with columns of unit length, by Newton's iteration (Higham 1986). */
function polarFactor(matrix) {
  const lengths = [0, 1, 2].map((column) => Math.hypot(...matrix.map((row) => row[column])));
  let current = matrix.map((row) => row.map((value, column) => value / (lengths[column] || 1)));
  for (let step = 0; step < POLAR_STEPS; step++) {
    const inverse = invert3(current);
    current = current.map((row, r) => row.map((value, c) => (value + inverse[c][r]) / 2));
  }
  return current;
}

/** Determinant of a 3 x 3 matrix. */
export function determinant3([[a, b, c], [d, e, f], [g, h, i]]) {
  return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
}

function invert3(matrix) {
  const [[a, b, c], [d, e, f], [g, h, i]] = matrix;
  const scale = 1 / determinant3(matrix);
  const adjugate = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ];
  return adjugate.map((row) => row.map((value) => value * scale));
}

/** Voxel size in mm along i, j, k. */
export function spacing(affine) {
  return [0, 1, 2].map((column) => Math.hypot(affine[0][column], affine[1][column], affine[2][column]));
}

/** Round half to even, as Python does. */
function roundEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

/** Grid of a volume's network slices, and the conversions to and from the file's grid. */
export class SliceGrid {
  /**
   * `shape` (I, J, K) and `affine` of the file; `plan` as in a model's model.json; `start` and `size` (D, H, W) of a crop
   * of the slice stack, by default all of it.
   */
  constructor(shape, affine, plan, start = [0, 0, 0], size = null) {
    this.shape = shape;
    ({ axes: this.fileAxes, flips: this.flips } = closestAxes(affine));
    this.axis = PLANES.indexOf(plan.plane);
    /** Canonical axes of D, H, W. */
    this.axes = [this.axis, ...[0, 1, 2].filter((axis) => axis !== this.axis)];
    this.uncroppedSize = this.axes.map((axis) => shape[this.fileAxes[axis]]);
    this.start = start;
    this.size = size ?? this.uncroppedSize;
    const canonicalSpacing = this.fileAxes.map((axis) => spacing(affine)[axis]);
    const multiple = 8 * plan.stem_stride;
    /** Pixels (H', W') after resampling. */
    this.sampled = [1, 2].map((n) =>
      Math.max(1, roundEven((this.size[n] * canonicalSpacing[this.axes[n]]) / plan.spacing[n - 1])),
    );
    /** Pixels (H'', W'') of the network's input. */
    this.padded = this.sampled.map((length) => multiple * Math.ceil(length / multiple));
    const thinnest = plan.seen?.spacing[0][this.axis];
    /** Adjacent slices that are averaged into one network slice. */
    this.slabSize = thinnest ? Math.max(1, roundEven(thinnest / canonicalSpacing[this.axis])) : 1;
    /** Number of network slices. */
    this.depth = Math.ceil(this.size[0] / this.slabSize);
  }

  /** The grid for a file whose canonical axis `axis` is flipped. */
  mirror(axis) {
    const mirrored = Object.assign(Object.create(SliceGrid.prototype), this);
    const n = this.axes.indexOf(axis);
    mirrored.flips = this.flips.map((flip, c) => flip !== (c === axis));
    mirrored.start = this.start.with(n, this.uncroppedSize[n] - this.start[n] - this.size[n]);
    return mirrored;
  }

  /** Directions of the file axes, such as `LPS`. */
  get codes() {
    const letters = ["", "", ""];
    this.fileAxes.forEach((axis, c) => (letters[axis] = this.flips[c] ? "LPI"[c] : AXES[c]));
    return letters.join("");
  }

  /** Slices start..stop of the crop that network slice `d` is the mean of. */
  slab(d) {
    return [d * this.slabSize, Math.min((d + 1) * this.slabSize, this.size[0])];
  }

  /** File axis across which the slices lie. */
  get fileAxis() {
    return this.fileAxes[this.axis];
  }

  /**
   * Offset of the crop's first voxel, and steps along its D, H, W, in an array of the file's shape with these strides
   * along i, j, k.
   */
  layout(strides) {
    let offset = 0;
    const steps = this.axes.map((axis, n) => {
      const [fileAxis, flip] = [this.fileAxes[axis], this.flips[axis]];
      const first = flip ? this.shape[fileAxis] - 1 - this.start[n] : this.start[n];
      offset += first * strides[fileAxis];
      return flip ? -strides[fileAxis] : strides[fileAxis];
    });
    return { offset, steps };
  }

  /**
   * Slices start..stop of the crop that all have the labels (H, W), as a block of the file: `start` and `shape` along
   * i, j, k, and `labels` with k fastest.
   */
  fileBlock(start, stop, labels) {
    const [first, shape] = [[0, 0, 0], [0, 0, 0]];
    const ranges = [[start, stop], [0, this.size[1]], [0, this.size[2]]];
    ranges.forEach(([low, high], n) => {
      const [axis, flip] = [this.fileAxes[this.axes[n]], this.flips[this.axes[n]]];
      first[axis] = flip ? this.shape[axis] - this.start[n] - high : this.start[n] + low;
      shape[axis] = high - low;
    });
    const strides = [shape[1] * shape[2], shape[2], 1];
    const steps = this.axes.map((axis) => (this.flips[axis] ? -1 : 1) * strides[this.fileAxes[axis]]);
    const lengths = ranges.map(([low, high]) => high - low);
    const corner = steps.reduce((sum, step, n) => sum + (step < 0 ? -step * (lengths[n] - 1) : 0), 0);
    const block = new Uint8Array(shape[0] * shape[1] * shape[2]);
    for (let d = 0; d < lengths[0]; d++) {
      for (let row = 0, from = 0; row < lengths[1]; row++) {
        let to = corner + d * steps[0] + row * steps[1];
        for (let column = 0; column < lengths[2]; column++, from++, to += steps[2]) block[to] = labels[from];
      }
    }
    return { start: first, shape, labels: block };
  }

  /** Network slices before and after a slice of the crop, and the weight of the latter. */
  neighbours(slice) {
    const position = Math.min(this.depth - 1, Math.max(0, Math.fround((slice + 0.5) / this.slabSize) - 0.5));
    const before = Math.floor(position);
    return { before, after: Math.min(before + 1, this.depth - 1), weight: Math.fround(position - before) };
  }

  /** Matrices from a grid of `height` x `width` cells over the padded slice to the crop; null for the identity. */
  upsamplingMatrices(height, width) {
    return [height, width].map((cells, n) => {
      const [padded, sampled, voxels] = [this.padded[n], this.sampled[n], this.size[n + 1]];
      if (cells === padded && padded === sampled && sampled === voxels) return null;
      return compose(resizeMatrix(sampled, voxels), resizeMatrix(cells, padded), sampled);
    });
  }
}
