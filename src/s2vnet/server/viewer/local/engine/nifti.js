// NIfTI files: images are read, labels are written on exactly their grid, as by s2vnet/io/nifti.py.

import { NIFTI1 } from "../../vendor/nifti1.js";
import { NIFTI2 } from "../../vendor/nifti2.js";
import { chooseAffine } from "./nifti_affine.js";

const GZIP = [0x1f, 0x8b];
const VERSION_2 = 540;
const TYPES = {
  2: Uint8Array,
  4: Int16Array,
  8: Int32Array,
  16: Float32Array,
  64: Float64Array,
  256: Int8Array,
  512: Uint16Array,
  768: Uint32Array,
  1024: BigInt64Array,
  1280: BigUint64Array,
};
const NOT_NIFTI = "not a readable NIfTI image, truncated or damaged";

/**
 * Read an image from the bytes of a file, gzipped or not: `shape`, `affine`, `channels`, `slope` and `inter` as in
 * prepared_slices.js, and `header`, for `writeLabels`. Frames become channels. Throws an Error with one line for users.
 */
export async function readImage(bytes) {
  const buffer = isGzip(bytes) ? await gunzip(bytes) : bytes.slice().buffer;
  if (buffer.byteLength < NIFTI1.STANDARD_HEADER_SIZE) throw new Error(NOT_NIFTI);
  const header = readHeader(buffer);
  const { dims, datatypeCode, vox_offset: offset } = header;
  const Type = TYPES[datatypeCode];
  if (!Type || dims[0] < 2) throw new Error("a grey-value volume is needed, without colours or complex numbers");
  const lengths = Array.from({ length: 7 }, (_, n) => (n < dims[0] ? dims[n + 1] : 1));
  const shape = lengths.slice(0, 3);
  const [voxels, frames] = [product(shape), product(lengths.slice(3))];
  if (!(voxels > 0) || !(frames > 0)) throw new Error(NOT_NIFTI);
  const nbytes = voxels * frames * Type.BYTES_PER_ELEMENT;
  if (offset + nbytes > buffer.byteLength) throw new Error(NOT_NIFTI);
  const data = buffer.slice(offset, offset + nbytes);
  if (!header.littleEndian) swapBytes(data, Type.BYTES_PER_ELEMENT);
  const channels = Array.from({ length: frames }, (_, n) => new Type(data, n * voxels * Type.BYTES_PER_ELEMENT, voxels));
  const scaled = Number.isFinite(header.scl_slope) && header.scl_slope !== 0 && Number.isFinite(header.scl_inter);
  const [slope, inter] = scaled ? [header.scl_slope, header.scl_inter] : [1, 0];
  const { affine, notes } = chooseAffine(forms(header, buffer), shape);
  const size = header instanceof NIFTI2 ? NIFTI2.MAGIC_COOKIE : NIFTI1.STANDARD_HEADER_SIZE;
  return { shape, affine, channels, slope, inter, notes, header: new Uint8Array(buffer.slice(0, size)) };
}

/** Bytes of a gzipped NIfTI file of labels (Uint8Array, k fastest) on the grid of an image that `readImage` returned. */
export async function writeLabels({ shape, header }, labels) {
  const second = header.length === VERSION_2;
  const start = header.length + 4; // followed by four bytes that say that there are no extensions
  const bytes = new Uint8Array(start + labels.length);
  bytes.set(header);
  describeLabels(new DataView(bytes.buffer), shape, second, start);
  const [ni, nj, nk] = shape;
  for (let i = 0, from = 0; i < ni; i++) {
    for (let j = 0; j < nj; j++) {
      for (let k = 0, to = start + i + ni * j; k < nk; k++, from++, to += ni * nj) bytes[to] = labels[from];
    }
  }
  return compress(bytes, "gzip");
}

/** Set type, shape and scaling in the header of an image; its orientation stays as it is. */
function describeLabels(view, shape, second, start) {
  const little = view.getInt32(0, true) === (second ? VERSION_2 : NIFTI1.STANDARD_HEADER_SIZE);
  const bytes = new Uint8Array(view.buffer);
  const lengths = [3, ...shape, 1, 1, 1, 1];
  if (second) {
    lengths.forEach((length, n) => view.setBigInt64(16 + 8 * n, BigInt(length), little));
    view.setInt16(12, 2, little);
    view.setInt16(14, 8, little);
    view.setBigInt64(168, BigInt(start), little);
    [[176, 1], [184, 0], [192, 0], [200, 0]].forEach(([at, value]) => view.setFloat64(at, value, little)); // prettier-ignore
    bytes.fill(0, 240, 344); // description and auxiliary file, which may name a patient
    return;
  }
  lengths.forEach((length, n) => view.setInt16(40 + 2 * n, length, little));
  bytes.fill(0, 4, 39);
  view.setInt16(70, 2, little);
  view.setInt16(72, 8, little);
  [[108, start], [112, 1], [116, 0], [124, 0], [128, 0]].forEach(([at, value]) => view.setFloat32(at, value, little)); // prettier-ignore
  bytes.fill(0, 148, 252);
  bytes.set([0x6e, 0x2b, 0x31, 0], 344); // one file
}

function readHeader(buffer) {
  const view = new DataView(buffer);
  const second = [true, false].some((little) => view.getInt32(0, little) === VERSION_2);
  const header = second ? new NIFTI2() : new NIFTI1();
  try {
    header.readHeader(buffer);
  } catch {
    throw new Error(NOT_NIFTI);
  }
  return header;
}

/** Fields that state the orientation, as stored. The reader's own affine prefers the qform in some cases. */
function forms(header, buffer) {
  const [view, little] = [new DataView(buffer), header.littleEndian];
  const read = header instanceof NIFTI2 ? (n) => view.getFloat64(400 + 8 * n, little) : (n) => view.getFloat32(280 + 4 * n, little);
  return {
    qformCode: header.qform_code,
    sformCode: header.sform_code,
    quaternion: [header.quatern_b, header.quatern_c, header.quatern_d],
    offset: [header.qoffset_x, header.qoffset_y, header.qoffset_z],
    pixdim: header.pixDims.slice(0, 4),
    rows: [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => read(4 * row + column))),
    unit: header.xyzt_units & 7,
  };
}

function product(values) {
  return values.reduce((total, value) => total * value, 1);
}

function isGzip(bytes) {
  return GZIP.every((value, n) => bytes[n] === value);
}

async function gunzip(bytes) {
  try {
    return await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  } catch {
    throw new Error(NOT_NIFTI);
  }
}

/** Bytes compressed as `gzip` or `deflate` (zlib). */
export async function compress(bytes, format) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function swapBytes(buffer, size) {
  const bytes = new Uint8Array(buffer);
  if (size > 1) for (let at = 0; at < bytes.length; at += size) bytes.subarray(at, at + size).reverse();
}
