// Removal of detached parts, as in s2vnet/inference/postprocessing.py: 26-connected components that are small compared
// with the largest one of their class.

import { roundToHalf } from "./float16.js";

/**
 * Class of every cell of a detached part, 0 elsewhere. `labels` are slices (h, w) of most probable classes; parts of
 * fewer cells than `share` of the class's largest part are detached. Returns slices, or null if there are none.
 */
export function findDetachedParts(labels, [height, width], share) {
  if (!share) return null;
  const parts = findParts(labels, height, width);
  const largest = new Map();
  for (const { value, cells } of parts) largest.set(value, Math.max(largest.get(value) ?? 0, cells.length));
  const detached = parts.filter(({ value, cells }) => cells.length < share * largest.get(value));
  if (detached.length === 0) return null;
  const slices = labels.map(({ length }) => new Uint8Array(length));
  const area = height * width;
  for (const { value, cells } of detached) for (const cell of cells) slices[Math.floor(cell / area)][cell % area] = value;
  return slices;
}

/** Components of all classes but background: `{value, cells}` with the indices of their cells in the volume. */
function findParts(labels, height, width) {
  const area = height * width;
  const seen = new Uint8Array(labels.length * area);
  const parts = [];
  for (let start = 0; start < seen.length; start++) {
    const value = labels[Math.floor(start / area)][start % area];
    if (!value || seen[start]) continue;
    seen[start] = 1;
    const cells = [start];
    for (let n = 0; n < cells.length; n++) {
      const [d, rest] = [Math.floor(cells[n] / area), cells[n] % area];
      const [row, column] = [Math.floor(rest / width), rest % width];
      for (let dd = Math.max(0, d - 1); dd <= Math.min(labels.length - 1, d + 1); dd++) {
        for (let r = Math.max(0, row - 1); r <= Math.min(height - 1, row + 1); r++) {
          for (let c = Math.max(0, column - 1); c <= Math.min(width - 1, column + 1); c++) {
            const at = dd * area + r * width + c;
            if (seen[at] || labels[dd][r * width + c] !== value) continue;
            seen[at] = 1;
            cells.push(at);
          }
        }
      }
    }
    parts.push({ value, cells });
  }
  return parts;
}

/**
 * Class probabilities (K, h, w) of a slice in which detached parts are background. The class is also removed from
 * neighbours, from which interpolation to finer pixels would restore it; where those have another class, the remaining
 * classes share its probability. `labels` and `detached` are the slice's (h, w).
 */
export function suppressDetachedParts(probabilities, labels, detached, [height, width]) {
  let suppressed = probabilities;
  for (const value of [...new Set(detached)].sort((a, b) => a - b)) {
    if (value === 0) continue;
    suppressed = suppressed.slice();
    for (let cell = 0; cell < height * width; cell++) {
      const own = detached[cell] === value;
      if (!own && (labels[cell] === value || !touches(detached, value, cell, height, width))) continue;
      const at = value * height * width + cell;
      if (own || labels[cell] === 0) suppressed[cell] += suppressed[at];
      suppressed[at] = 0;
    }
    suppressed = roundToHalf(normaliseCells(suppressed, height * width));
  }
  return suppressed;
}

/** Whether a cell of the 3 x 3 cells around one is of a detached part of a class. */
function touches(detached, value, cell, height, width) {
  const [row, column] = [Math.floor(cell / width), cell % width];
  for (let r = Math.max(0, row - 1); r <= Math.min(height - 1, row + 1); r++) {
    for (let c = Math.max(0, column - 1); c <= Math.min(width - 1, column + 1); c++) {
      if (detached[r * width + c] === value) return true;
    }
  }
  return false;
}

function normaliseCells(probabilities, cells) {
  const sums = new Float32Array(cells);
  for (let at = 0; at < probabilities.length; at++) sums[at % cells] += probabilities[at];
  return probabilities.map((value, at) => value / sums[at % cells]);
}
