// Adapter of NiiVue. Other modules, except tile.js, use file voxels [i, j, k]; NiiVue's voxels are reoriented to RAS, by
// the nearest axes of the affine. They are converted only here.

import { ADDED_COLOR } from "../state/classes.js";
import { Tile } from "./tile.js";

const AXIAL = 0;
const RENDER = 4;
const DRAWING_UNIT = 7; // texture unit from which NiiVue's shaders read the drawing

const SOFTWARE = /swiftshader|llvmpipe|software/i;
const PACE_MS = 400; // without a GPU: interval of redrawing for labels outside the displayed slice

const MOST_ZOOM = 20;
const LAYOUTS = {
  planes3d: [
    { sliceType: 0, position: [0, 0, 0.6, 1] },
    { sliceType: 1, position: [0.6, 0, 0.4, 0.33] },
    { sliceType: 2, position: [0.6, 0.33, 0.4, 0.33] },
    { sliceType: RENDER, position: [0.6, 0.66, 0.4, 0.34] },
  ],
  planes: [
    { sliceType: 0, position: [0, 0, 0.6, 1] },
    { sliceType: 1, position: [0.6, 0, 0.4, 0.5] },
    { sliceType: 2, position: [0.6, 0.5, 0.4, 0.5] },
  ],
};

const SINGLE = { axial: 0, coronal: 1, sagittal: 2, render: RENDER };

/** Replaces the gradient shaders: they serve lighting, which is off, and took most of the time of a change of the window. */
const NO_SHADER = { use: (gl) => gl.viewport(0, 0, 0, 0), uniforms: {} };

/** NiiVue with labels that are opaque in 3D, independent of their opacity in the planes, and an optional image behind them. */
function solid(Niivue) {
  return class extends Niivue {
    imageIn3D = 0;
    labelsIn3D = true;

    drawImage3D(...args) {
      const { drawOpacity } = this;
      this.renderShader.use(this.gl);
      this.gl.uniform1f(this.renderShader.uniforms.backOpacity, this.imageIn3D);
      this.drawOpacity = this.labelsIn3D ? 1 : 0;
      super.drawImage3D(...args);
      this.drawOpacity = drawOpacity;
    }
  };
}

export class Scene {
  /** Called with every frame, to draw the overlay. */
  onDraw = () => {};
  shape = null;
  /** Whether rendering is in software, without a GPU, which makes 3D slow. */
  slow = false;
  #nv;
  #canvas;
  #perm = [];
  #flip = [];
  #at = [0, 0, 0];
  #frame = 0;
  #sceneDirty = false;
  #delayed = 0;
  #opening = Promise.resolve();
  #recolor = false;
  #opacity = 0.4;
  #outline = true;
  #hidden = false;

  /** Create a scene on a canvas; `module` is NiiVue. */
  static async on(module, canvas) {
    const scene = new Scene();
    const Solid = solid(module.Niivue);
    scene.#canvas = canvas;
    scene.#nv = new Solid({
      backColor: [0.03, 0.035, 0.04, 1],
      gradientOrder: 1,
      crosshairWidth: 0, // drawn with the prompts, one pixel wide at any voxel size
      dragAndDropEnabled: false,
      fontColor: [0.55, 0.6, 0.65, 1],
      interactive: false, // tools/ handles pointer and keys
      isOrientCube: true,
      isRadiologicalConvention: true,
      loadingText: "",
      logLevel: "error",
      multiplanarPadPixels: 2,
      sagittalNoseLeft: true,
    });
    await scene.#nv.attachToCanvas(canvas, true);
    scene.#nv.blurShader = scene.#nv.sobelFirstOrderShader = NO_SHADER;
    const { gl } = scene.#nv;
    const extension = gl.getExtension("WEBGL_debug_renderer_info");
    scene.slow = SOFTWARE.test(gl.getParameter(extension?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER));
    new ResizeObserver(() => scene.draw()).observe(canvas);
    return scene;
  }

  get #volume() {
    return this.#nv.volumes[0];
  }

  /** Show an image (bytes of a NIfTI file) in a window `[low, high]`, by default one that fits most intensities. */
  open(buffer, window = []) {
    // in order, so that the image requested last is the one displayed
    this.#opening = this.#opening.catch(() => {}).then(() => this.#open(buffer, window));
    return this.#opening;
  }

  async #open(buffer, [low, high]) {
    const nv = this.#nv;
    this.shape = null;
    nv.volumes = [];
    await nv.addVolumeFromUrl({ url: "image.nii.gz", buffer, cal_min: low, cal_max: high });
    const volume = this.#volume;
    this.#perm = volume.permRAS.map((axis) => Math.abs(axis) - 1);
    this.#flip = volume.permRAS.map((axis) => axis < 0);
    nv.drawTexture = nv.r8Tex(nv.drawTexture, nv.gl.TEXTURE0 + DRAWING_UNIT, volume.dimsRAS, true);
    // NiiVue renders the texture in 3D only if it has a bitmap; labels are written to the texture directly, so this is a dummy
    nv.drawBitmap = new Uint8Array(9);
    nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    nv.setRenderAzimuthElevation(150, 15);
    this.shape = volume.hdr.dims.slice(1, 4);
    this.goTo(this.shape.map((length) => length >> 1));
  }

  // ---- voxels ----

  /** Convert a file voxel to RAS, also fractional; `edge` is 1 for indices and 0 for corners. */
  toRas(voxel, edge = 1) {
    return this.#perm.map((axis, n) => (this.#flip[n] ? this.shape[axis] - edge - voxel[axis] : voxel[axis]));
  }

  /** Convert a RAS voxel to a file voxel. */
  toFile(ras) {
    const voxel = [0, 0, 0];
    this.#perm.forEach((axis, n) => (voxel[axis] = this.#flip[n] ? this.shape[axis] - 1 - ras[n] : ras[n]));
    return voxel;
  }

  /** File axis normal to the plane with this RAS normal. */
  fileAxis(normal) {
    return this.#perm[normal];
  }

  /** RAS normal of the plane normal to a file axis. */
  normalOf(axis) {
    return this.#perm.indexOf(axis);
  }

  /** Voxel size in mm along the file axes. */
  get spacing() {
    return this.#volume.hdr.pixDims.slice(1, 4).map(Math.abs);
  }

  /** Intensity of a voxel. */
  valueAt([i, j, k]) {
    const { img, hdr } = this.#volume;
    const [ni, nj] = this.shape;
    return img[i + ni * (j + nj * k)] * (hdr.scl_slope || 1) + hdr.scl_inter;
  }

  /** Content at a viewport position: `{tile, voxel}` (voxel null outside the image), `{render: true}`, or null. */
  pick(clientX, clientY) {
    if (!this.shape) return null;
    const { x, y } = this.onCanvas(clientX, clientY);
    const tile = this.tiles().find((one) => one.holds(x, y));
    if (!tile) return this.#inRender(x, y) ? { render: true } : null;
    const ras = tile.place(x, y).map(Math.floor);
    const outside = ras.some((at, n) => at < 0 || at >= this.shape[this.#perm[n]]);
    return outside ? { tile, voxel: null } : { tile, voxel: this.toFile(ras) };
  }

  /** Voxel of a tile nearest to a viewport position, which may be outside the image. */
  nearest(tile, clientX, clientY) {
    const { x, y } = this.onCanvas(clientX, clientY);
    const ras = tile.place(x, y).map((at, n) => Math.min(this.shape[this.#perm[n]] - 1, Math.max(0, Math.floor(at))));
    ras[tile.normal] = this.#at[tile.normal];
    return this.toFile(ras);
  }

  /** Canvas position of a voxel's centre in CSS pixels; null if no plane shows it. `normal`: only on this plane. */
  canvasOf(i, j, k, normal = null) {
    this.flush();
    const ras = this.toRas([i, j, k]);
    const shown = this.tiles().filter((tile) => tile.depth === ras[tile.normal]);
    const tile = normal === null ? shown[0] : shown.find((one) => one.normal === normal);
    return tile ? tile.project(ras.map((at) => at + 0.5)) : null;
  }

  onCanvas(clientX, clientY) {
    const { left, top } = this.#canvas.getBoundingClientRect();
    return { x: clientX - left, y: clientY - top };
  }

  /** Displayed planes. */
  tiles() {
    if (!this.shape) return [];
    return this.#nv.screenSlices
      .filter((slice) => slice.axCorSag < 3)
      .map((slice) => new Tile(slice, this.#volume, this.#at, this.#scale));
  }

  get #scale() {
    return this.#canvas.width / this.#canvas.clientWidth;
  }

  #inRender(x, y) {
    return this.#nv.inRenderTile(x * this.#scale, y * this.#scale) >= 0;
  }

  // ---- navigation ----

  /** File voxel at which the planes intersect. */
  get at() {
    return this.toFile(this.#at);
  }

  goTo(voxel) {
    this.#at = this.toRas(voxel);
    this.#showCrosshair();
  }

  /** Move `count` voxels along a RAS axis, at most to the image's border. */
  step(axis, count) {
    const last = this.shape[this.#perm[axis]] - 1;
    this.#at[axis] = Math.min(last, Math.max(0, this.#at[axis] + count));
    this.#showCrosshair();
  }

  #showCrosshair() {
    this.#nv.scene.crosshairPos = this.#nv.vox2frac(this.#at);
    this.draw();
  }

  /** Set the layout: planes3d, planes, axial, coronal, sagittal or render. */
  setLayout(name) {
    const nv = this.#nv;
    nv.customLayout = LAYOUTS[name] ?? null;
    nv.opts.sliceType = SINGLE[name] ?? AXIAL;
    this.draw();
  }

  /** Zoom about a viewport position. */
  zoom(tile, clientX, clientY, factor) {
    const { x, y } = this.onCanvas(clientX, clientY);
    const pan = this.#nv.scene.pan2Dxyzmm;
    const zoom = Math.min(MOST_ZOOM, Math.max(1, pan[3] * factor));
    const place = this.#nv.frac2mm(tile.place(x, y).map((at, n) => at / this.#volume.dimsRAS[n + 1]));
    const shift = zoom === 1 ? () => 0 : (n) => pan[n] + place[n] * (pan[3] - zoom);
    this.#nv.scene.pan2Dxyzmm = [shift(0), shift(1), shift(2), zoom];
    this.draw();
  }

  /** Pan a plane by CSS pixels. */
  pan(tile, dx, dy) {
    const pan = [...this.#nv.scene.pan2Dxyzmm];
    pan[tile.u] += (dx / tile.box.width) * tile.field[0] * (tile.mirrored ? -1 : 1) * pan[3];
    pan[tile.v] -= (dy / tile.box.height) * tile.field[1] * pan[3];
    this.#nv.scene.pan2Dxyzmm = pan;
    this.draw();
  }

  fit() {
    this.#nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.#nv.scene.volScaleMultiplier = 1;
    this.draw();
  }

  rotate(dx, dy) {
    const { scene } = this.#nv;
    scene.renderAzimuth = (scene.renderAzimuth - dx * 0.6 + 360) % 360;
    scene.renderElevation = Math.min(90, Math.max(-90, scene.renderElevation + dy * 0.6));
    this.draw();
  }

  zoom3D(factor) {
    const { scene } = this.#nv;
    scene.volScaleMultiplier = Math.min(4, Math.max(0.5, scene.volScaleMultiplier * factor));
    this.draw();
  }

  // ---- appearance ----

  /** Intensities displayed as black and white, `[low, high]`. */
  get window() {
    return [this.#volume.cal_min, this.#volume.cal_max];
  }

  setWindow(low, high) {
    const [before, after] = [this.window, [low, Math.max(high, low + 1e-6)]];
    [this.#volume.cal_min, this.#volume.cal_max] = after;
    this.#recolor ||= before.some((limit, n) => limit !== after[n]);
    this.draw();
  }

  /** A window that fits most intensities. */
  get automatic() {
    return [this.#volume.robust_min, this.#volume.robust_max];
  }

  /** Lowest and highest intensity. */
  get range() {
    return [this.#volume.global_min, this.#volume.global_max];
  }

  get channels() {
    return this.#volume.nFrame4D ?? 1;
  }

  setChannel(index) {
    this.#volume.frame4D = index;
    this.#recolor = true;
    this.draw();
  }

  /** Set the colours of classes: `[{id, color: "#rrggbb", visible}]`. */
  setColors(classes) {
    const lut = new Uint8ClampedArray(1024);
    const added = [1, 3, 5].map((at) => parseInt(ADDED_COLOR.slice(at, at + 2), 16));
    for (let id = 1; id < 256; id++) lut.set([...added, 255], 4 * id);
    for (const { id, color, visible } of classes) {
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
      lut.set([r, g, b, id > 0 && visible ? 255 : 0], 4 * id);
    }
    this.#nv.drawLut = { lut, labels: [] };
    this.#nv.refreshColormaps();
    this.draw();
  }

  /** Set how labels are drawn in the planes: opacity of areas, with or without outlines, or hidden. */
  setLabelStyle({ opacity = this.#opacity, outline = this.#outline, hidden = this.#hidden }) {
    [this.#opacity, this.#outline, this.#hidden] = [opacity, outline, hidden];
    this.#nv.drawOpacity = hidden ? 0 : Math.max(opacity, outline ? 0.004 : 0);
    this.#nv.drawRimOpacity = outline && !hidden ? 0.9 : -1;
    this.#nv.labelsIn3D = !hidden;
    this.draw();
  }

  set imageIn3D(shown) {
    this.#nv.imageIn3D = shown ? 0.6 : 0;
    this.draw();
  }

  /** Upload a block of the labels to the GPU. `labels`: of the whole image, in file order. */
  showLabels(labels, start = [0, 0, 0], size = this.shape) {
    const strides = [this.shape[1] * this.shape[2], this.shape[2], 1];
    const [sx, sy, sz] = this.#perm.map((axis, n) => (this.#flip[n] ? -strides[axis] : strides[axis]));
    const [nx, ny, nz] = this.#perm.map((axis) => size[axis]);
    const corner = this.#perm.map((axis, n) => (this.#flip[n] ? start[axis] + size[axis] - 1 : start[axis]));
    const first = this.#perm.reduce((at, axis, n) => at + corner[n] * strides[axis], 0);
    const block = new Uint8Array(nx * ny * nz);
    let to = 0;
    for (let z = 0; z < nz; z++) {
      for (let y = 0; y < ny; y++) {
        let from = first + z * sz + y * sy;
        for (let x = 0; x < nx; x++, from += sx) block[to++] = labels[from];
      }
    }
    const [x0, y0, z0] = corner.map((at, n) => (this.#flip[n] ? this.shape[this.#perm[n]] - 1 - at : at));
    const { gl, drawTexture } = this.#nv;
    gl.activeTexture(gl.TEXTURE0 + DRAWING_UNIT);
    gl.bindTexture(gl.TEXTURE_3D, drawTexture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, x0, y0, z0, nx, ny, nz, gl.RED, gl.UNSIGNED_BYTE, block);
    const thin = size.indexOf(Math.min(...size));
    const displayed = this.at[thin] >= start[thin] && this.at[thin] < start[thin] + size[thin];
    if (displayed || !this.slow) this.draw();
    else this.#delayed ||= setTimeout(() => this.draw(), PACE_MS);
  }

  /** Redraw with the next frame; further calls until then have no effect. */
  draw() {
    this.#sceneDirty = true;
    this.redrawOverlay();
  }

  /** Redraw only the overlay with the next frame, in a hundredth of the time. */
  redrawOverlay() {
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Draw immediately if a redraw is pending. */
  flush() {
    if (!this.#frame && !this.#delayed) return;
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#delayed);
    this.#sceneDirty ||= Boolean(this.#delayed);
    this.#frame = this.#delayed = 0;
    if (this.#recolor) this.#nv.updateGLVolume();
    else if (this.#sceneDirty) this.#nv.drawScene();
    this.#recolor = this.#sceneDirty = false;
    this.onDraw();
  }
}
