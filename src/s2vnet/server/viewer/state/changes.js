// Voxels that differ between two label maps: where they are, and what each class gained and lost.

/**
 * Differences between labels of one shape within a box (`start`, `stop`). Voxels are in file order, k fastest.
 * Returns `{start, size, mask, slices, total, classes}`: `mask` is 1 for the changed voxels of the smaller box `start`, `size`;
 * `slices[axis]`, voxels by slice; `classes`, a map from class to `[gained, lost]` voxels. Null where nothing differs.
 */
export function findChanges(before, after, shape, { start, stop }) {
  const [, nj, nk] = shape;
  const slices = shape.map((length) => new Uint32Array(length));
  const [gained, lost] = [new Float64Array(256), new Float64Array(256)];
  const size = stop.map((end, n) => end - start[n]);
  const mask = new Uint8Array(size[0] * size[1] * size[2]);
  let [at, total] = [0, 0];
  for (let i = start[0]; i < stop[0]; i++) {
    for (let j = start[1]; j < stop[1]; j++) {
      let from = (i * nj + j) * nk + start[2];
      for (let k = start[2]; k < stop[2]; k++, from++, at++) {
        if (before[from] === after[from]) continue;
        mask[at] = 1;
        total++;
        gained[after[from]]++;
        lost[before[from]]++;
        slices[0][i]++;
        slices[1][j]++;
        slices[2][k]++;
      }
    }
  }
  if (total === 0) return null;
  const ids = [...gained.keys()].filter((id) => gained[id] || lost[id]);
  return { start, size, mask, slices, total, classes: new Map(ids.map((id) => [id, [gained[id], lost[id]]])) };
}

/** Whether a voxel changed. */
export function isChanged({ start, size, mask }, voxel) {
  const [i, j, k] = voxel.map((at, n) => at - start[n]);
  const inside = [i, j, k].every((at, n) => at >= 0 && at < size[n]);
  return inside && mask[(i * size[1] + j) * size[2] + k] === 1;
}

/** Changed voxel nearest to the centre of the changes on a slice. */
export function centerOnSlice({ start, size, mask }, axis, index) {
  const voxels = [];
  const [low, high] = [0, 1, 2].map((n) => (n === axis ? [index - start[n], index - start[n] + 1] : [0, size[n]])).reduce(
    ([lows, highs], [from, to]) => [[...lows, from], [...highs, to]],
    [[], []],
  );
  for (let i = low[0]; i < high[0]; i++) {
    for (let j = low[1]; j < high[1]; j++) {
      for (let k = low[2]; k < high[2]; k++) if (mask[(i * size[1] + j) * size[2] + k]) voxels.push([i, j, k]);
    }
  }
  const mean = [0, 1, 2].map((n) => voxels.reduce((sum, voxel) => sum + voxel[n], 0) / voxels.length);
  const distance = (voxel) => voxel.reduce((sum, at, n) => sum + (at - mean[n]) ** 2, 0);
  const nearest = voxels.reduce((best, voxel) => (distance(voxel) < distance(best) ? voxel : best));
  return nearest.map((at, n) => at + start[n]);
}
