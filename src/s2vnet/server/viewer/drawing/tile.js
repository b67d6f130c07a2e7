// One plane on the screen: positions on the canvas to voxels and back.

const NAMES = ["Sagittal", "Coronal", "Axial"]; // by the RAS axis across which the plane lies

/** One plane on the screen. RAS axes: across it `normal`, rightwards `u`, upwards `v`. */
export class Tile {
  constructor(slice, volume, depth, scale) {
    this.normal = 2 - slice.axCorSag;
    [this.u, this.v] = [0, 1, 2].filter((axis) => axis !== this.normal);
    this.name = NAMES[this.normal];
    this.depth = depth[this.normal];
    const [left, top, width, height] = slice.leftTopWidthHeight.map((length) => length / scale);
    this.box = { left: Math.min(left, left + width), top, width: Math.abs(width), height };
    this.mirrored = width < 0;
    this.from = slice.leftTopMM;
    this.field = slice.fovMM;
    this.volume = volume;
  }

  /** Canvas position in CSS pixels of a place in RAS voxels; a voxel's centre is at its index plus a half. */
  project(place) {
    let x = (this.#mm(this.u, place[this.u]) - this.from[0]) / this.field[0];
    const y = (this.#mm(this.v, place[this.v]) - this.from[1]) / this.field[1];
    if (this.mirrored) x = 1 - x;
    return { x: this.box.left + x * this.box.width, y: this.box.top + (1 - y) * this.box.height };
  }

  /** The place in RAS voxels, on the plane, of a canvas position. */
  place(x, y) {
    let right = (x - this.box.left) / this.box.width;
    if (this.mirrored) right = 1 - right;
    const up = 1 - (y - this.box.top) / this.box.height;
    const place = [0, 0, 0];
    place[this.normal] = this.depth;
    place[this.u] = this.#voxel(this.u, this.from[0] + right * this.field[0]);
    place[this.v] = this.#voxel(this.v, this.from[1] + up * this.field[1]);
    return place;
  }

  holds(x, y) {
    const { left, top, width, height } = this.box;
    return x >= left && x < left + width && y >= top && y < top + height;
  }

  /** CSS pixels of a millimetre. */
  get scale() {
    return Math.abs(this.box.width / this.field[0]);
  }

  // NiiVue draws oblique images along their own axes, so that a plane is a slice: in millimetres of an upright grid
  #mm(axis, voxels) {
    const { dimsRAS, frac2mmOrtho } = this.volume;
    return (voxels / dimsRAS[axis + 1]) * frac2mmOrtho[axis * 5] + frac2mmOrtho[12 + axis];
  }

  #voxel(axis, mm) {
    const fraction = (mm - this.volume.frac2mmOrtho[12 + axis]) / this.volume.frac2mmOrtho[axis * 5];
    return fraction * this.volume.dimsRAS[axis + 1];
  }
}
