// Voxels of prompts: lines, discs, boxes, centres. Voxels are [i, j, k] in file axis order.

/** Connected voxels from a to b, both included (Bresenham). */
export function voxelLine(a, b) {
  const steps = Math.max(...a.map((from, n) => Math.abs(b[n] - from)));
  const voxels = [];
  for (let s = 0; s <= steps; s++) {
    voxels.push(a.map((from, n) => (steps ? Math.round(from + ((b[n] - from) * s) / steps) : from)));
  }
  return voxels;
}

/** Voxels inside the image, on a slice normal to `axis`, whose centres are within `radius` mm of the centre of a voxel. */
export function voxelDisc(centre, axis, radius, spacing, shape) {
  const [u, v] = [0, 1, 2].filter((n) => n !== axis);
  const [ru, rv] = [Math.floor(radius / spacing[u]), Math.floor(radius / spacing[v])];
  const voxels = [];
  for (let du = -ru; du <= ru; du++) {
    for (let dv = -rv; dv <= rv; dv++) {
      const voxel = [...centre];
      voxel[u] += du;
      voxel[v] += dv;
      const near = (du * spacing[u]) ** 2 + (dv * spacing[v]) ** 2 <= radius ** 2;
      if (near && inside(voxel, shape)) voxels.push(voxel);
    }
  }
  return voxels;
}

/** Voxels inside the image whose centres are within `radius` mm of the centre of a voxel, on all slices. */
export function voxelBall(centre, radius, spacing, shape) {
  const voxels = [];
  const reach = Math.floor(radius / spacing[2]);
  for (let dk = -reach; dk <= reach; dk++) {
    const within = Math.sqrt(radius ** 2 - (dk * spacing[2]) ** 2);
    voxels.push(...voxelDisc([centre[0], centre[1], centre[2] + dk], 2, within, spacing, shape));
  }
  return voxels;
}

/** Whether a voxel lies in an image of this shape. */
export function inside(voxel, shape) {
  return voxel.every((at, n) => at >= 0 && at < shape[n]);
}

/** The voxels without duplicates, in order of first occurrence. */
export function uniqueVoxels(voxels) {
  return [...new Map(voxels.map((voxel) => [voxel.join(), voxel])).values()];
}

/** Bounding box of voxels, half-open: `start` and `stop`. */
export function boundingBox(voxels) {
  const start = [0, 1, 2].map((n) => voxels.reduce((low, voxel) => Math.min(low, voxel[n]), Infinity));
  const stop = [0, 1, 2].map((n) => voxels.reduce((high, voxel) => Math.max(high, voxel[n] + 1), 0));
  return { start, stop };
}

/** Representative voxel of an entry, to navigate to; null for locks and added classes. */
export function promptCenter(entry) {
  if (entry.kind === "point") return entry.voxel;
  if (entry.kind === "scribble") return entry.voxels[entry.voxels.length >> 1];
  if (entry.kind === "lasso") {
    const sums = entry.vertices.reduce((sum, voxel) => sum.map((at, n) => at + voxel[n]));
    return sums.map((sum) => Math.round(sum / entry.vertices.length));
  }
  if (entry.kind === "lock" || entry.kind === "class") return null;
  return entry.start.map((start, n) => (start + entry.stop[n]) >> 1);
}

/** Volume of a voxel in millilitres. */
export function voxelVolumeMl(affine) {
  if (!affine) return 0;
  const [[a, b, c], [d, e, f], [g, h, i]] = affine;
  return Math.abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) / 1000;
}
