// Compares the engine's preprocessing and its way back with the vectors of scripts/browser_vectors.py. Runs in Node.js
// and in a browser.

const TOLERANCE = 2e-5;

/** Differences between the engine in a folder (URL) and the vectors, one line each. */
export async function compare(engine, vectors) {
  const load = (name) => import(new URL(name, engine));
  const [prepared, segment, parts, half, sweep, nifti] = await Promise.all(
    ["prepared_slices.js", "block_writer.js", "detached_parts.js", "float16.js", "sweep.js", "nifti.js"].map(load),
  );
  const differences = [];
  for (const [name, vector] of Object.entries(vectors)) {
    if (vector.file) {
      differences.push(...(await compareFile(nifti, vector)).map((line) => `${name}, ${line}`));
      continue;
    }
    const expect = (what, difference) => difference && differences.push(`${name}, ${what}: ${difference}`);
    const { plan, grid: expected } = vector;
    const channels = vector.image.channels.map((text) => decode(text, Int16Array));
    const slices = prepared.PreparedSlices.of({ ...vector.image, channels }, plan);
    for (const [key, value] of Object.entries(expected)) expect(key, differ([slices.grid[key]].flat(), [value].flat(), 0));
    for (const [d, text] of Object.entries(vector.slices)) {
      expect(`slice ${d}`, differ(slices.withNeighbours(Number(d)), decode(text, Float32Array), TOLERANCE));
    }
    const mirrored = slices.mirror(vector.mirrored.axis);
    const middle = Math.floor(expected.depth / 2);
    expect("mirrored", differ(mirrored.withNeighbours(middle), decode(vector.mirrored.slice, Float32Array), TOLERANCE));

    const size = expected.padded.map((length) => length / plan.stem_stride);
    const all = decode(vector.scores, Float32Array);
    const length = all.length / expected.depth;
    const scores = Array.from({ length: expected.depth }, (_, d) => half.toHalf(all.subarray(d * length, (d + 1) * length)));
    const classes = Object.keys(plan.labels).length;
    const labels = scores.map((each) => sweep.argmax(half.fromHalf(each), classes));
    const detached = parts.findDetachedParts(labels, size, plan.smallest_part) ?? labels.map(({ length }) => new Uint8Array(length));
    expect("detached parts", differ(detached.flatMap((each) => [...each]), decode(vector.detached, Uint8Array), 0));
    for (const [grid, text] of [[slices.grid, vector.labels], [mirrored.grid, vector.mirrored.labels]]) {
      const writer = new segment.BlockWriter(grid, size, classes);
      writer.setScores(scores, labels, plan.smallest_part);
      expect("labels", differ(assemble(writer, grid), decode(text, Uint8Array), 0));
    }
  }
  return differences;
}

/** Differences in how a NIfTI file is read, and in the grid of labels that are written for it. */
async function compareFile(nifti, { file, affine, notes, values }) {
  const differences = [];
  const expect = (what, difference) => difference && differences.push(`${what}: ${difference}`);
  const image = await nifti.readImage(decode(file, Uint8Array));
  expect("affine", differ(image.affine.flat(), affine.flat(), TOLERANCE));
  expect("number of notes", differ([image.notes.length], [notes], 0));
  const scaled = [...image.channels[0]].map((value) => value * image.slope + image.inter);
  expect("values", differ(scaled, decode(values, Float32Array), TOLERANCE));
  const labels = Uint8Array.from({ length: scaled.length }, (_, n) => n);
  const written = await nifti.readImage(await nifti.writeLabels(image, labels));
  expect("affine of labels", differ(written.affine.flat(), image.affine.flat(), 0));
  const [ni, nj, nk] = written.shape;
  const back = labels.map((_, at) => written.channels[0][Math.floor(at / (nj * nk)) + ni * ((Math.floor(at / nk) % nj) + nj * (at % nk))]);
  expect("labels", differ(back, labels, 0));
  expect("scaling of labels", differ([written.slope, written.inter], [1, 0], 0));
  return differences;
}

/** Labels of the whole file, k fastest. */
function assemble(writer, grid) {
  const [ni, nj, nk] = grid.shape;
  const volume = new Uint8Array(ni * nj * nk);
  for (let slice = 0; slice < grid.size[0]; slice++) {
    const { start, shape, labels } = writer.final(slice);
    labels.forEach((label, at) => {
      const [i, j, k] = [Math.floor(at / (shape[1] * shape[2])), Math.floor(at / shape[2]) % shape[1], at % shape[2]];
      volume[((start[0] + i) * nj + start[1] + j) * nk + start[2] + k] = label;
    });
  }
  return volume;
}

function decode(text, Type) {
  return new Type(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);
}

function differ(found, wanted, tolerance) {
  if (found.length !== wanted.length) return `${found.length} values instead of ${wanted.length}`;
  for (let n = 0; n < found.length; n++) {
    const equal = tolerance ? Math.abs(found[n] - wanted[n]) <= tolerance * Math.max(1, Math.abs(wanted[n])) : found[n] === wanted[n];
    if (!equal) return `value ${n} is ${found[n]} instead of ${wanted[n]}`;
  }
  return "";
}

if (globalThis.process?.versions.node && process.argv[1]?.endsWith("compare.mjs")) {
  const { readFileSync } = await import("node:fs");
  const [engine, vectors] = process.argv.slice(2);
  const differences = await compare(engine, JSON.parse(readFileSync(vectors, "utf-8")));
  differences.forEach((line) => console.log(line));
  process.exit(differences.length ? 1 : 0);
}
