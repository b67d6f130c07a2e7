// The 3D view, with NiiVue on a canvas of its own. It shows a coarser copy of the labels, since software renderers need
// seconds for each frame of a large volume, and is drawn after the planes, when nothing else changes.

import { FRAGMENT, VERTEX } from "./solid_shader.js";

const DRAWING_UNIT = 7; // texture unit from which NiiVue's shaders read the drawing
const LENGTH = { slow: 128, fast: 256 }; // most voxels along an axis
const IDLE_MS = { slow: 300, fast: 60 }; // after the last change of the labels or planes
const RATIO = { slow: 0.75, fast: -1 }; // device pixels per CSS pixel; -1: the browser's
const AZIMUTH = 150;
const ELEVATION = 15;
const VEIL = 26; // opacity, of 255, of classes that are not in focus
const IMAGE_OPACITY = 0.6;

/** Names of the renderer if it runs on the processor. */
const SOFTWARE = /swiftshader|llvmpipe|software/i;

/** How 3D is rendered: "fast" with a GPU, "slow" without one, or null if the browser has no WebGL 2. */
export function rendering() {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl) return null;
  const extension = gl.getExtension("WEBGL_debug_renderer_info");
  const slow = SOFTWARE.test(gl.getParameter(extension?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return slow ? "slow" : "fast";
}

export class Solid {
  /** Label of the class in focus; null to show all alike. */
  focus = null;
  #element;
  #module;
  #speed;
  #nv = null;
  #starting = null;
  #image = null;
  #labels = null;
  #classes = [];
  #window = [0, 1];
  #stale = { image: true, labels: true, colors: true };
  #timer = 0;
  #frame = 0;
  #hidden = false;
  #withImage = false;

  /** `element`: holds the canvas, whose size NiiVue sets; `speed`: as returned by `rendering`. */
  constructor(element, module, speed) {
    [this.#element, this.#module, this.#speed] = [element, module, speed];
  }

  /** Move the view to a box in CSS pixels; null hides it. */
  place(box) {
    const shown = Boolean(box && this.#speed);
    if (!shown) {
      this.#element.hidden = true;
      return;
    }
    const style = Object.entries(box).map(([side, length]) => `${side}: ${length}px`).join("; ");
    if (!this.#element.hidden && this.#element.style.cssText === style + ";") return;
    this.#element.style.cssText = style;
    this.#element.hidden = false;
    this.refresh();
  }

  setImage(image) {
    [this.#image, this.#labels] = [image, null];
    this.#stale = { image: true, labels: true, colors: true };
    if (this.#nv) this.#nv.setRenderAzimuthElevation(AZIMUTH, ELEVATION);
    this.refresh();
  }

  /** `window`: stored values that are black and white. */
  setWindow(window) {
    this.#window = window;
    if (!this.#withImage) return;
    this.#stale.image = true;
    this.refresh();
  }

  setLabels(labels) {
    this.#labels = labels;
    this.#stale.labels = true;
    this.refresh();
  }

  /** `[{id, color: "#rrggbb", visible}]`. */
  setColors(classes) {
    this.#classes = classes;
    this.#stale.colors = true;
    this.refresh();
  }

  setFocus(id) {
    this.focus = id;
    this.setColors(this.#classes);
  }

  setHidden(hidden) {
    if (this.#hidden === hidden) return;
    this.#hidden = hidden;
    this.setColors(this.#classes);
  }

  set withImage(shown) {
    this.#withImage = shown;
    this.#stale.image = true;
    this.refresh();
  }

  rotate(dx, dy) {
    if (!this.#nv) return;
    const { scene } = this.#nv;
    scene.renderAzimuth = (scene.renderAzimuth - dx * 0.6 + 360) % 360;
    scene.renderElevation = Math.min(90, Math.max(-90, scene.renderElevation + dy * 0.6));
    this.#drawSoon();
  }

  zoom(factor) {
    if (!this.#nv) return;
    const { scene } = this.#nv;
    scene.volScaleMultiplier = Math.min(4, Math.max(0.5, scene.volScaleMultiplier * factor));
    this.#drawSoon();
  }

  fit() {
    if (!this.#nv) return;
    this.#nv.scene.volScaleMultiplier = 1;
    this.#drawSoon();
  }

  /** Bring the view up to date once nothing has changed for a while. */
  refresh() {
    if (this.#element.hidden || !this.#speed || !this.#image) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#update(), IDLE_MS[this.#speed]);
  }

  /** Wait longer where the view is not up to date: something else is being drawn. */
  postpone() {
    if (this.#timer) this.refresh();
  }

  #drawSoon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#nv.drawScene();
    });
  }

  async #update() {
    this.#timer = 0;
    await (this.#starting ??= this.#start());
    if (this.#element.hidden || !this.#image) return;
    const nv = this.#nv;
    if (this.#stale.image) await this.#loadImage();
    if (this.#stale.labels && this.#labels) this.#loadLabels();
    if (this.#stale.colors) this.#loadColors();
    this.#stale = { image: false, labels: !this.#labels, colors: false };
    nv.renderShader.use(nv.gl);
    nv.gl.uniform1f(nv.renderShader.uniforms.backOpacity, this.#withImage ? IMAGE_OPACITY : 0);
    this.#drawSoon();
  }

  async #start() {
    const nv = new this.#module.Niivue({
      backColor: [0.03, 0.035, 0.04, 1],
      crosshairWidth: 0,
      dragAndDropEnabled: false,
      fontColor: [0.75, 0.8, 0.85, 1],
      forceDevicePixelRatio: RATIO[this.#speed],
      gradientOrder: 1,
      interactive: false, // tools/ handles pointer and keys
      isOrientCube: true,
      loadingText: "",
      logLevel: "error",
      sliceType: this.#module.SLICE_TYPE.RENDER,
    });
    await nv.attachToCanvas(this.#element.querySelector("canvas"), true);
    const { gl } = nv;
    const shader = new nv.renderShader.constructor(gl, VERTEX, FRAGMENT);
    shader.use(gl);
    for (const [name, unit] of Object.entries({ volume: 0, colormap: 1, drawing: DRAWING_UNIT })) gl.uniform1i(shader.uniforms[name], unit);
    nv.renderShader = shader;
    // gradients of the image serve NiiVue's own shader, and take most of the time of loading it
    nv.blurShader = nv.sobelFirstOrderShader = { use: () => gl.viewport(0, 0, 0, 0), uniforms: {} };
    nv.setRenderAzimuthElevation(AZIMUTH, ELEVATION);
    this.#nv = nv;
  }

  /** RAS shape of the coarser copy, and the number of voxels along each axis for one of its. */
  get #grid() {
    const by = this.#image.rasShape.map((length) => Math.ceil(length / LENGTH[this.#speed]));
    return { by, shape: this.#image.rasShape.map((length, n) => Math.max(1, Math.floor(length / by[n]))) };
  }

  async #loadImage() {
    const nv = this.#nv;
    const { by, shape } = this.#grid;
    const { rasSpacing, data, imageGrid } = this.#image;
    const buffer = nifti(shape, rasSpacing.map((length, n) => length * by[n]));
    if (this.#withImage) {
      const [low, high] = this.#window;
      const scale = 255 / (high - low);
      copyCoarse(data, imageGrid, by, shape, new Uint8ClampedArray(buffer, HEADER), (value) => (value - low) * scale);
    }
    nv.volumes = [];
    await nv.addVolumeFromUrl({ url: "image.nii", buffer, cal_min: 0, cal_max: 255 });
    nv.drawTexture = nv.r8Tex(nv.drawTexture, nv.gl.TEXTURE0 + DRAWING_UNIT, nv.volumes[0].dimsRAS, true);
    nv.drawBitmap = new Uint8Array(9); // NiiVue renders the texture only if it has a bitmap
    this.#stale.labels = true;
  }

  #loadLabels() {
    const { by, shape } = this.#grid;
    const coarse = new Uint8Array(shape.reduce((a, b) => a * b));
    copyCoarse(this.#labels, this.#image.labelGrid, by, shape, coarse, (label) => label);
    const { gl, drawTexture } = this.#nv;
    gl.activeTexture(gl.TEXTURE0 + DRAWING_UNIT);
    gl.bindTexture(gl.TEXTURE_3D, drawTexture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, 0, ...shape, gl.RED, gl.UNSIGNED_BYTE, coarse);
  }

  #loadColors() {
    const lut = new Uint8ClampedArray(1024);
    for (const { id, color, visible } of this.#classes) {
      const opacity = this.focus === null || this.focus === id ? 255 : VEIL;
      const rgb = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
      lut.set([...rgb, id > 0 && visible && !this.#hidden ? opacity : 0], 4 * id);
    }
    this.#nv.drawLut = { lut, labels: [] };
    this.#nv.refreshColormaps();
  }
}

const HEADER = 352;

/** Copy the middle voxel of each block of a volume in RAS order, x fastest. */
function copyCoarse(data, { first, strides }, by, shape, target, convert) {
  const [sx, sy, sz] = strides.map((stride, n) => stride * by[n]);
  const middle = by.reduce((at, length, n) => at + strides[n] * (length >> 1), first);
  let to = 0;
  for (let z = 0; z < shape[2]; z++) {
    for (let y = 0; y < shape[1]; y++) {
      let from = middle + z * sz + y * sy;
      for (let x = 0; x < shape[0]; x++, from += sx) target[to++] = convert(data[from]);
    }
  }
}

/** A NIfTI file of zeros, uint8, in RAS. */
function nifti(shape, spacing) {
  const buffer = new ArrayBuffer(HEADER + shape.reduce((a, b) => a * b));
  const head = new DataView(buffer);
  const floats = (at, values) => values.forEach((value, n) => head.setFloat32(at + 4 * n, value, true));
  head.setInt32(0, 348, true);
  [3, ...shape, 1, 1, 1, 1].forEach((length, n) => head.setInt16(40 + 2 * n, length, true));
  head.setInt16(70, 2, true);
  head.setInt16(72, 8, true);
  floats(76, [1, ...spacing]);
  floats(108, [HEADER, 1, 0]);
  head.setUint8(123, 2);
  head.setInt16(254, 1, true);
  spacing.forEach((length, n) => floats(280 + 16 * n, [0, 1, 2].map((m) => (m === n ? length : 0))));
  head.setUint32(344, 0x00312b6e, true);
  return buffer;
}
