// Conversion between float32 and float16 (IEEE 754 binary16), rounded to the nearest, ties to even.

const NATIVE = globalThis.Float16Array;
const FLOAT = new Float32Array(1);
const BITS = new Uint32Array(FLOAT.buffer);
const FROM = NATIVE ? null : makeTable();

/** Float32 values as the bits (Uint16Array) of float16 ones. */
export function toHalf(values) {
  if (NATIVE) return new Uint16Array(new NATIVE(values).buffer);
  const halves = new Uint16Array(values.length);
  for (let n = 0; n < values.length; n++) halves[n] = halfBits(values[n]);
  return halves;
}

/** Float32 values of the bits of float16 ones. */
export function fromHalf(halves) {
  if (NATIVE) return new Float32Array(new NATIVE(halves.buffer, halves.byteOffset, halves.length));
  const values = new Float32Array(halves.length);
  for (let n = 0; n < halves.length; n++) values[n] = FROM[halves[n]];
  return values;
}

/** Float32 values rounded to float16. */
export function roundToHalf(values) {
  return fromHalf(toHalf(values));
}

function halfBits(value) {
  FLOAT[0] = value;
  const bits = BITS[0];
  const sign = (bits >>> 16) & 0x8000;
  const exponent = (bits >>> 23) & 0xff;
  const fraction = bits & 0x7fffff;
  if (exponent === 0xff) return sign | 0x7c00 | (fraction ? 0x200 : 0);
  if (exponent > 142) return sign | 0x7c00;
  if (exponent < 102) return sign;
  if (exponent > 112) return sign | roundShifted(((exponent - 112) << 23) | fraction, 13);
  return sign | roundShifted(fraction | 0x800000, 126 - exponent);
}

/** `bits` without the last `count`, rounded to the nearest, ties to even. */
function roundShifted(bits, count) {
  const half = 2 ** (count - 1);
  const rest = bits % (2 * half);
  const kept = Math.floor(bits / (2 * half));
  return kept + Number(rest > half || (rest === half && kept % 2 === 1));
}

function makeTable() {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else table[bits] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  }
  return table;
}
