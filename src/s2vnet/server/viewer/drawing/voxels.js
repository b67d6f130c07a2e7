// Voxels of prompts: lines, discs, boxes, centres. Voxels are [i, j, k] in file axis order.

/** Voxels from a to b, both included, without gaps (Bresenham). */
export function voxelLine(a, b) {
  const steps = Math.max(...a.map((from, n) => Math.abs(b[n] - from)));
  const voxels = [];
  for (let s = 0; s <= steps; s++) {
    voxels.push(a.map((from, n) => (steps ? Math.round(from + ((b[n] - from) * s) / steps) : from)));
  }
  return voxels;
}

/** Voxels of the slice across `axis` whose centres lie within `radius` mm of a voxel's, inside the image. */
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

/** Whether a voxel lies in an image of this shape. */
export function inside(voxel, shape) {
  return voxel.every((at, n) => at >= 0 && at < shape[n]);
}

/** The same voxels, each once, in the order in which they came. */
export function uniqueVoxels(voxels) {
  return [...new Map(voxels.map((voxel) => [voxel.join(), voxel])).values()];
}

/** Smallest box around voxels: first, and one past the last. */
export function boundingBox(voxels) {
  const start = [0, 1, 2].map((n) => voxels.reduce((low, voxel) => Math.min(low, voxel[n]), Infinity));
  const stop = [0, 1, 2].map((n) => voxels.reduce((high, voxel) => Math.max(high, voxel[n] + 1), 0));
  return { start, stop };
}

/** One place of an entry, where the view can go. */
export function promptCenter(entry) {
  if (entry.kind === "point") return entry.voxel;
  if (entry.kind === "scribble") return entry.voxels[entry.voxels.length >> 1];
  if (entry.kind === "lasso") {
    const sums = entry.vertices.reduce((sum, voxel) => sum.map((at, n) => at + voxel[n]));
    return sums.map((sum) => Math.round(sum / entry.vertices.length));
  }
  if (entry.kind === "lock") return null;
  return entry.start.map((start, n) => (start + entry.stop[n]) >> 1);
}
