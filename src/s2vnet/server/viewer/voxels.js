// Voxels of prompts: lines, discs, and masks as bits. Knows neither the page nor NiiVue.
// Voxels are [i, j, k] in file axis order, everywhere but in scene.js.

const LARGEST_STORED = 65535;
const ADLER = 65521;

/** Voxels from a to b, both included, without gaps (Bresenham). */
export function line(a, b) {
  const steps = Math.max(...a.map((from, n) => Math.abs(b[n] - from)));
  const voxels = [];
  for (let s = 0; s <= steps; s++) {
    voxels.push(a.map((from, n) => (steps ? Math.round(from + ((b[n] - from) * s) / steps) : from)));
  }
  return voxels;
}

/** Voxels of the slice across `axis` whose centres lie within `radius` mm of a voxel's, inside the image. */
export function disc(centre, axis, radius, spacing, shape) {
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
export function unique(voxels) {
  return [...new Map(voxels.map((voxel) => [voxel.join(), voxel])).values()];
}

/** Smallest box around voxels: first, and one past the last. */
export function bounds(voxels) {
  const start = [0, 1, 2].map((n) => voxels.reduce((low, voxel) => Math.min(low, voxel[n]), Infinity));
  const stop = [0, 1, 2].map((n) => voxels.reduce((high, voxel) => Math.max(high, voxel[n] + 1), 0));
  return { start, stop };
}

/** One place of an entry, where the view can go. */
export function placeOf(entry) {
  if (entry.kind === "point") return entry.voxel;
  if (entry.kind === "scribble") return entry.voxels[entry.voxels.length >> 1];
  if (entry.kind === "lasso") {
    const sums = entry.vertices.reduce((sum, voxel) => sum.map((at, n) => at + voxel[n]));
    return sums.map((sum) => Math.round(sum / entry.vertices.length));
  }
  if (entry.kind === "lock") return null;
  return entry.start.map((start, n) => (start + entry.stop[n]) >> 1);
}

/** A mask prompt's box and bits: C order, the first voxel in the highest bit, zlib, base64. */
export function pack(voxels) {
  const { start, stop } = bounds(voxels);
  const [, nj, nk] = stop.map((end, n) => end - start[n]);
  const count = stop.reduce((product, end, n) => product * (end - start[n]), 1);
  const bytes = new Uint8Array(Math.ceil(count / 8));
  for (const [i, j, k] of voxels) {
    const at = ((i - start[0]) * nj + (j - start[1])) * nk + (k - start[2]);
    bytes[at >> 3] |= 0x80 >> (at & 7);
  }
  return { start, stop, bits: base64(stored(bytes)) };
}

/** Voxels of a mask prompt. */
export async function unpack({ start, stop, bits }) {
  const bytes = await inflate(Uint8Array.from(atob(bits), (c) => c.charCodeAt(0)));
  const voxels = [];
  let at = 0;
  for (let i = start[0]; i < stop[0]; i++) {
    for (let j = start[1]; j < stop[1]; j++) {
      for (let k = start[2]; k < stop[2]; k++, at++) {
        if (bytes[at >> 3] & (0x80 >> (at & 7))) voxels.push([i, j, k]);
      }
    }
  }
  return voxels;
}

/** What a zlib stream holds. */
export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A zlib stream without compression: a stroke is small, and nothing asynchronous may let the next prompt overtake. */
function stored(bytes) {
  const blocks = Math.max(1, Math.ceil(bytes.length / LARGEST_STORED));
  const out = new Uint8Array(2 + 5 * blocks + bytes.length + 4);
  out.set([0x78, 0x01]);
  let at = 2;
  for (let n = 0; n < blocks; n++) {
    const part = bytes.subarray(n * LARGEST_STORED, (n + 1) * LARGEST_STORED);
    out.set([Number(n === blocks - 1), part.length & 255, part.length >> 8], at);
    out.set([~part.length & 255, (~part.length >> 8) & 255], at + 3);
    out.set(part, at + 5);
    at += 5 + part.length;
  }
  new DataView(out.buffer).setUint32(at, adler32(bytes));
  return out;
}

function adler32(bytes) {
  let [a, b] = [1, 0];
  for (const byte of bytes) {
    a = (a + byte) % ADLER;
    b = (b + a) % ADLER;
  }
  return ((b << 16) | a) >>> 0;
}

function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
