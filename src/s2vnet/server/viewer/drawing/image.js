// The image: its voxels, axes and intensities. Other modules use file voxels [i, j, k] or RAS voxels (reoriented by the
// nearest axes of the affine); they are converted only here.

/** A volume that NiiVue has read. */
export class ScanImage {
  /** Voxels along the file axes. */
  shape;
  /** Voxel size in mm along the file axes. */
  spacing;
  channel = 0;
  /** File axis of each RAS axis. */
  axes;
  #volume;
  #flips;

  constructor(volume) {
    this.#volume = volume;
    this.shape = volume.hdr.dims.slice(1, 4).map((length) => Math.max(1, length));
    this.spacing = volume.hdr.pixDims.slice(1, 4).map(Math.abs);
    this.axes = volume.permRAS.map((axis) => Math.abs(axis) - 1);
    this.#flips = volume.permRAS.map((axis) => axis < 0);
  }

  /** Read the bytes of a NIfTI file; `NVImage` is NiiVue's. */
  static async read(NVImage, buffer) {
    const plain = await decompressed(buffer);
    const volume = await NVImage.loadFromUrl({ url: "image.nii", name: "image.nii", buffer: plain });
    return new ScanImage(volume);
  }

  get channels() {
    return this.#volume.nFrame4D ?? 1;
  }

  /** Lowest and highest intensity. */
  get range() {
    return [this.#volume.global_min, this.#volume.global_max];
  }

  /** A window `[low, high]` that fits most intensities. */
  get automatic() {
    return [this.#volume.robust_min, this.#volume.robust_max];
  }

  /** Stored voxels of all channels, i fastest. */
  get data() {
    return this.#volume.img;
  }

  /** Stored value of an intensity. */
  stored(intensity) {
    return (intensity - this.#intercept) / this.#slope;
  }

  /** Intensity of a file voxel in the displayed channel. */
  valueAt([i, j, k]) {
    const [ni, nj] = this.shape;
    return this.data[this.#start + i + ni * (j + nj * k)] * this.#slope + this.#intercept;
  }

  /** Convert a file voxel to RAS, also fractional; `edge` is 1 for indices and 0 for corners. */
  toRas(voxel, edge = 1) {
    return this.axes.map((axis, n) => (this.#flips[n] ? this.shape[axis] - edge - voxel[axis] : voxel[axis]));
  }

  /** Convert a RAS voxel to a file voxel. */
  toFile(ras) {
    const voxel = [0, 0, 0];
    this.axes.forEach((axis, n) => (voxel[axis] = this.#flips[n] ? this.shape[axis] - 1 - ras[n] : ras[n]));
    return voxel;
  }

  /** Voxels along the RAS axes. */
  get rasShape() {
    return this.axes.map((axis) => this.shape[axis]);
  }

  /** Voxel size in mm along the RAS axes. */
  get rasSpacing() {
    return this.axes.map((axis) => this.spacing[axis]);
  }

  /** First element and strides along the RAS axes in the stored voxels of the displayed channel. */
  get imageGrid() {
    const [ni, nj] = this.shape;
    const { first, strides } = this.#grid([1, ni, ni * nj]);
    return { first: this.#start + first, strides };
  }

  /** The same in an array of labels in file order, k fastest. */
  get labelGrid() {
    const [, nj, nk] = this.shape;
    return this.#grid([nj * nk, nk, 1]);
  }

  #grid(fileStrides) {
    const strides = this.axes.map((axis, n) => (this.#flips[n] ? -fileStrides[axis] : fileStrides[axis]));
    const first = this.axes.reduce((at, axis, n) => at + (this.#flips[n] ? (this.shape[axis] - 1) * fileStrides[axis] : 0), 0);
    return { first, strides };
  }

  get #start() {
    return this.channel * this.shape.reduce((a, b) => a * b);
  }

  get #slope() {
    return this.#volume.hdr.scl_slope || 1;
  }

  get #intercept() {
    return this.#volume.hdr.scl_inter || 0;
  }
}

/** The browser's decompression takes a fraction of the time of NiiVue's own. */
async function decompressed(buffer) {
  const [a, b] = new Uint8Array(buffer, 0, 2);
  if (a !== 0x1f || b !== 0x8b) return buffer;
  return new Response(new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
