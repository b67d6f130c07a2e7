// Most probable class of every pixel of the file's slices, from class probabilities on the mask grid, as in
// s2vnet/inference/upsampling.py.

import { argmax } from "./sweep.js";

const NEGLIGIBLE = 0.9; // of 1 / K; rounded probabilities need not sum to 1

/** Upsamples slices of one size. */
export class Upsampler {
  #size;
  #rows;
  #columns;

  /** `grid` is a SliceGrid; `size` are the cells (h, w) of the mask grid. */
  constructor(grid, size) {
    const [rows, columns] = grid.upsamplingMatrices(...size);
    this.#size = size;
    this.#rows = footprints(rows, size[0]);
    this.#columns = footprints(columns, size[1]);
  }

  /** Most probable class (H, W) of the crop's pixels, from class probabilities (K, h, w) of one slice. */
  labels(probabilities, classes) {
    const [[, width], rows, columns] = [this.#size, this.#rows, this.#columns];
    const labels = new Uint8Array(rows.length * columns.length);
    const possible = possibleClasses(probabilities, classes);
    if (possible.length === 1) return labels;
    const area = probabilities.length / classes;
    const chosen = new Float32Array(possible.length * area);
    possible.forEach((k, n) => chosen.set(probabilities.subarray(k * area, (k + 1) * area), n * area));
    const cells = argmax(chosen, possible.length);
    let to = 0;
    for (const row of rows) {
      for (const column of columns) {
        const nearest = cells[row.first * width + column.first];
        const uniform = isUniform(cells, row, column, width);
        labels[to++] = possible[uniform ? nearest : mostProbable(chosen, area, possible.length, row, column, width)];
      }
    }
    return labels;
  }
}

/** Cells from `first` on that each pixel of an axis is interpolated from, and their weights. */
function footprints(matrix, cells) {
  if (matrix === null) return Array.from({ length: cells }, (_, first) => ({ first, weights: [1] }));
  return Array.from({ length: matrix.rows }, (_, row) => {
    const weights = matrix.weights.subarray(row * matrix.width, (row + 1) * matrix.width);
    const start = weights.findIndex((weight) => weight !== 0);
    const stop = weights.findLastIndex((weight) => weight !== 0) + 1;
    return { first: matrix.first[row] + start, weights: weights.slice(start, stop) };
  });
}

/** Background, and the classes that reach a probability of 1 / K in some cell: others are never the most probable. */
function possibleClasses(probabilities, classes) {
  const area = probabilities.length / classes;
  const reaches = (k) => {
    for (let at = k * area; at < (k + 1) * area; at++) if (probabilities[at] > NEGLIGIBLE / classes) return true;
    return false;
  };
  return Array.from({ length: classes }, (_, k) => k).filter((k) => k === 0 || reaches(k));
}

function isUniform(cells, row, column, width) {
  const nearest = cells[row.first * width + column.first];
  for (let r = 0; r < row.weights.length; r++) {
    const from = (row.first + r) * width + column.first;
    for (let c = 0; c < column.weights.length; c++) if (cells[from + c] !== nearest) return false;
  }
  return true;
}

function mostProbable(probabilities, area, classes, row, column, width) {
  let [best, highest] = [0, -Infinity];
  for (let k = 0; k < classes; k++) {
    let sum = 0;
    for (let c = 0; c < column.weights.length; c++) {
      let line = 0;
      let at = k * area + row.first * width + column.first + c;
      for (let r = 0; r < row.weights.length; r++, at += width) line += row.weights[r] * probabilities[at];
      sum += column.weights[c] * line;
    }
    if (sum > highest) [best, highest] = [k, sum];
  }
  return best;
}
