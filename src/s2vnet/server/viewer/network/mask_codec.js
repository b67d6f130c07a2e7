// Mask prompts as a box and compressed bits.

import { boundingBox } from "../drawing/voxels.js";

const LARGEST_STORED = 65535;
const ADLER = 65521;

/** Encode voxels as a mask prompt's box and bits: C order, the first voxel in the highest bit, zlib, base64. */
export function encodeMask(voxels) {
  const { start, stop } = boundingBox(voxels);
  const [, nj, nk] = stop.map((end, n) => end - start[n]);
  const count = stop.reduce((product, end, n) => product * (end - start[n]), 1);
  const bytes = new Uint8Array(Math.ceil(count / 8));
  for (const [i, j, k] of voxels) {
    const at = ((i - start[0]) * nj + (j - start[1])) * nk + (k - start[2]);
    bytes[at >> 3] |= 0x80 >> (at & 7);
  }
  return { start, stop, bits: base64(zlibStored(bytes)) };
}

/** Encode a block of a volume (1 in its voxels) as the box and compressed bits of an entry. */
export async function encodeBlock(mask, { start, size }) {
  const bytes = new Uint8Array(Math.ceil(mask.length / 8));
  mask.forEach((value, at) => value && (bytes[at >> 3] |= 0x80 >> (at & 7)));
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  return { start, stop: start.map((at, n) => at + size[n]), bits: base64(packed) };
}

/** Decode the voxels of a mask prompt. */
export async function decodeMask({ start, stop, bits }) {
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

/** Decompress a zlib stream. */
export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Write a zlib stream without compression: the browser's compression is asynchronous, so prompts could be sent out of order. */
function zlibStored(bytes) {
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
