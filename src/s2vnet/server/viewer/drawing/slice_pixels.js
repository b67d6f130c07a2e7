// Pixels of one slice: greys of the image through the window, and areas and outlines of its labels.
//
// Drawn on the processor from the volume in memory, so that a step of the window or a slice costs one slice: NiiVue colours
// the whole volume for each step of the window, and its shader reads it for each pixel of the screen.

const TABLES = [Uint8Array, Int8Array, Uint16Array, Int16Array]; // stored values that a table of greys covers
const BLACK = 0xff000000;
const GREY = 0x010101;

/** Greys, RGBA, of stored values from the lowest of an integer type on; null for others. */
function greyTable(data, low, high) {
  if (!TABLES.some((type) => data instanceof type)) return null;
  const count = 256 ** data.BYTES_PER_ELEMENT;
  const lowest = data instanceof Int8Array || data instanceof Int16Array ? -count / 2 : 0;
  const colors = new Uint32Array(count);
  for (let n = 0; n < count; n++) colors[n] = greyOf(n + lowest, low, high);
  return { colors, lowest };
}

function greyOf(value, low, high) {
  const share = (value - low) / (high - low);
  return (BLACK | (GREY * (share >= 1 ? 255 : share > 0 ? (255 * share + 0.5) | 0 : 0))) >>> 0; // NaN is black
}

/** Greys of an image, shared by its planes: a table is computed once for each window. */
export class Greys {
  #key = "";
  #table = null;

  /** Write the RGBA of stored values `[low, high]` as black and white. */
  write(values, low, high, pixels) {
    const key = `${low} ${high} ${values.constructor.name}`;
    if (key !== this.#key) [this.#key, this.#table] = [key, greyTable(values, low, high)];
    if (!this.#table) return values.forEach((value, n) => (pixels[n] = greyOf(value, low, high)));
    const { colors, lowest } = this.#table;
    for (let n = 0; n < values.length; n++) pixels[n] = colors[values[n] - lowest];
  }
}

/** Copy a slice out of a volume; the first pixel is the highest along u and v, since planes are seen from the front, right and feet. */
function copySlice(data, { first, strides }, { normal, u, v, depth, shape }, target) {
  const [su, sv] = [strides[u], strides[v]];
  let at = 0;
  for (let y = shape[v] - 1; y >= 0; y--) {
    let from = first + depth * strides[normal] + y * sv + (shape[u] - 1) * su;
    for (let x = shape[u]; x > 0; x--, from -= su) target[at++] = data[from];
  }
}

/** One plane's slice as two canvases of a pixel per voxel. */
export class SlicePixels {
  #values = null;
  #classes = null;
  #image = null;
  #areas = null;
  #keys = {};
  #lines = [];

  /** Canvas of the image's slice. `window`: stored values that are black and white. */
  image(image, greys, window, place, { imageRevision }) {
    this.#resize(image, place);
    const key = [imageRevision, place.depth];
    if (this.#changed("values", key)) copySlice(image.data, image.imageGrid, place, this.#values);
    if (this.#changed("image", [...key, ...window])) {
      greys.write(this.#values, ...window, this.#image.pixels);
      this.#image.show();
    }
    return this.#image.canvas;
  }

  /** Canvas of the labels' areas. `colors`: RGBA by label. */
  areas(image, labels, colors, place, { labelRevision, colorRevision }) {
    this.#resize(image, place);
    this.#read(image, labels, place, labelRevision);
    if (this.#changed("areas", [place.depth, labelRevision, colorRevision])) {
      const { pixels } = this.#areas;
      for (let n = 0; n < pixels.length; n++) pixels[n] = colors[this.#classes[n]];
      this.#areas.show();
    }
    return this.#areas.canvas;
  }

  /** Borders of classes in runs, `{label, vertical, at, from, to, side}`; `side`: 1 where the class lies after the line, else -1. */
  borders(image, labels, place, { labelRevision }) {
    this.#resize(image, place);
    this.#read(image, labels, place, labelRevision);
    if (this.#changed("lines", [place.depth, labelRevision])) {
      this.#lines = findBorders(this.#classes, place.shape[place.u], place.shape[place.v]);
    }
    return this.#lines;
  }

  #read(image, labels, place, labelRevision) {
    if (this.#changed("classes", [place.depth, labelRevision])) copySlice(labels, image.labelGrid, place, this.#classes);
  }

  #resize(image, { shape, u, v }) {
    const [width, height] = [shape[u], shape[v]];
    if (this.#values?.constructor === image.data.constructor && this.#image.canvas.width === width && this.#image.canvas.height === height) return;
    this.#values = new image.data.constructor(width * height);
    this.#classes = new Uint8Array(width * height);
    [this.#image, this.#areas] = [new Pixels(width, height), new Pixels(width, height)];
    this.#keys = {};
  }

  #changed(part, values) {
    const key = values.join();
    const changed = this.#keys[part] !== key;
    this.#keys[part] = key;
    return changed;
  }
}

/** A canvas whose pixels are written as 32-bit numbers. */
class Pixels {
  constructor(width, height) {
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true }); // in memory, where it is written
    this.data = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.data.data.buffer);
  }

  show() {
    this.context.putImageData(this.data, 0, 0);
  }
}

/** Borders between classes, in runs: `{label, vertical, at, from, to, side}` in pixels of the slice. */
function findBorders(classes, width, height) {
  const lines = [];
  scanLines(classes, true, width, height, 1, width, lines);
  scanLines(classes, false, height, width, width, 1, lines);
  return lines;
}

/** Borders along `count` - 1 lines of `length` pixels; `across` and `along`: distance of pixels across and along a line. */
function scanLines(classes, vertical, count, length, across, along, lines) {
  for (let at = 1; at < count; at++) {
    let [before, after, from] = [0, 0, 0];
    let index = at * across;
    for (let n = 0; n <= length; n++, index += along) {
      let a = 0;
      let b = 0;
      if (n < length) {
        a = classes[index];
        b = classes[index - across];
        if (a === b) a = b = 0;
      }
      if (a === after && b === before) continue;
      if (before) lines.push({ label: before, vertical, at, from, to: n, side: -1 });
      if (after) lines.push({ label: after, vertical, at, from, to: n, side: 1 });
      before = b;
      after = a;
      from = n;
    }
  }
}
