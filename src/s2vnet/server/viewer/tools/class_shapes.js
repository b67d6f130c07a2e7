// Shapes of a whole class: islands, holes, smoothing, growing. A shape is a block of the volume: `start` and `size` in file
// voxels, `mask` with 1 in the class, and `free` with 1 in voxels that the class may gain; k fastest.

const NEIGHBOURS = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]];
const MAJORITY = 14; // of the 27 voxels around one

/** Shape of a class with a margin of one voxel; null if it has no voxel. It may gain background. */
export function shapeOf(labels, shape, id) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-1, -1, -1];
  const [ni, nj, nk] = shape;
  for (let i = 0, at = 0; i < ni; i++) {
    for (let j = 0; j < nj; j++) {
      for (let k = 0; k < nk; k++, at++) {
        if (labels[at] !== id) continue;
        [i, j, k].forEach((voxel, n) => {
          if (voxel < low[n]) low[n] = voxel;
          if (voxel > high[n]) high[n] = voxel;
        });
      }
    }
  }
  if (high[0] < 0) return null;
  const start = low.map((at) => Math.max(0, at - 1));
  const size = high.map((at, n) => Math.min(shape[n], at + 2) - start[n]);
  const count = size[0] * size[1] * size[2];
  const [mask, free] = [new Uint8Array(count), new Uint8Array(count)];
  let to = 0;
  for (let i = 0; i < size[0]; i++) {
    for (let j = 0; j < size[1]; j++) {
      let from = ((i + start[0]) * nj + j + start[1]) * nk + start[2];
      for (let k = 0; k < size[2]; k++, from++, to++) {
        mask[to] = Number(labels[from] === id);
        free[to] = Number(labels[from] === 0);
      }
    }
  }
  return { start, size, mask, free };
}

/** Only the largest connected part. */
export function removeIslands({ size, mask }) {
  const parts = new Int32Array(mask.length);
  const counts = [0];
  for (let at = 0; at < mask.length; at++) {
    if (mask[at] && !parts[at]) counts.push(flood(size, at, parts, counts.length, (next) => mask[next]));
  }
  const largest = counts.indexOf(Math.max(...counts));
  return parts.map((part) => Number(part === largest));
}

/** With all free voxels of the holes that the class encloses: a lesion inside of an organ stays. */
export function fillHoles({ size, mask, free }) {
  const outside = new Int32Array(mask.length);
  const [ni, nj, nk] = size;
  for (let at = 0; at < mask.length; at++) {
    const [i, j, k] = [Math.floor(at / (nj * nk)), Math.floor(at / nk) % nj, at % nk];
    const border = i === 0 || j === 0 || k === 0 || i === ni - 1 || j === nj - 1 || k === nk - 1;
    if (border && !mask[at] && !outside[at]) flood(size, at, outside, 1, (next) => !mask[next]);
  }
  return outside.map((reached, at) => Number(mask[at] || (!reached && free[at])));
}

/** A voxel belongs to the class where most of the 27 voxels around it do. */
export function smooth({ size, mask, free }) {
  return filter(size, mask, (count, at) => (count >= MAJORITY ? mask[at] || free[at] : 0), true);
}

/** With all free voxels beside it. */
export function grow({ size, mask, free }) {
  return filter(size, mask, (count, at) => (mask[at] || (count > 0 && free[at]) ? 1 : 0), false);
}

/** Without all voxels beside others. */
export function shrink({ size, mask }) {
  return filter(size, mask, (count, at) => Number(mask[at] && count === NEIGHBOURS.length), false);
}

/** New mask from the number of voxels of the class among each voxel's neighbours; outside of the block there are none. */
function filter([ni, nj, nk], mask, decide, corners) {
  const result = new mask.constructor(mask.length);
  for (let i = 0, at = 0; i < ni; i++) {
    for (let j = 0; j < nj; j++) {
      for (let k = 0; k < nk; k++, at++) {
        let count = 0;
        if (corners) {
          for (let a = Math.max(0, i - 1); a <= Math.min(ni - 1, i + 1); a++) {
            for (let b = Math.max(0, j - 1); b <= Math.min(nj - 1, j + 1); b++) {
              for (let c = Math.max(0, k - 1); c <= Math.min(nk - 1, k + 1); c++) count += mask[(a * nj + b) * nk + c];
            }
          }
        } else {
          if (i > 0) count += mask[at - nj * nk];
          if (i < ni - 1) count += mask[at + nj * nk];
          if (j > 0) count += mask[at - nk];
          if (j < nj - 1) count += mask[at + nk];
          if (k > 0) count += mask[at - 1];
          if (k < nk - 1) count += mask[at + 1];
        }
        result[at] = decide(count, at);
      }
    }
  }
  return result;
}

/** Number the voxels connected to one by their faces; returns how many there are. */
function flood([ni, nj, nk], first, numbers, number, belongs) {
  const stack = [first];
  numbers[first] = number;
  let count = 0;
  while (stack.length) {
    const at = stack.pop();
    count++;
    const place = [Math.floor(at / (nj * nk)), Math.floor(at / nk) % nj, at % nk];
    for (const [di, dj, dk] of NEIGHBOURS) {
      const [i, j, k] = [place[0] + di, place[1] + dj, place[2] + dk];
      if (i < 0 || j < 0 || k < 0 || i >= ni || j >= nj || k >= nk) continue;
      const next = (i * nj + j) * nk + k;
      if (numbers[next] || !belongs(next)) continue;
      numbers[next] = number;
      stack.push(next);
    }
  }
  return count;
}
