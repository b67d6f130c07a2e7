// One displayed plane: conversion between canvas positions and voxels.

const NAMES = ["Sagittal", "Coronal", "Axial"]; // by RAS normal

/** One displayed plane. RAS axes: `normal` to it, `u` to the right, `v` up. */
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

  /** Convert a position in RAS voxels to the canvas, in CSS pixels; a voxel's centre is at its index plus 0.5. */
  project(place) {
    let x = (this.#mm(this.u, place[this.u]) - this.from[0]) / this.field[0];
    const y = (this.#mm(this.v, place[this.v]) - this.from[1]) / this.field[1];
    if (this.mirrored) x = 1 - x;
    return { x: this.box.left + x * this.box.width, y: this.box.top + (1 - y) * this.box.height };
  }

  /** Convert a canvas position to a position on the plane in RAS voxels. */
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

  /** CSS pixels per millimetre. */
  get scale() {
    return Math.abs(this.box.width / this.field[0]);
  }

  // NiiVue displays oblique images along their own axes, in millimetres of an axis-aligned grid, so that a plane is a slice
  #mm(axis, voxels) {
    const { dimsRAS, frac2mmOrtho } = this.volume;
    return (voxels / dimsRAS[axis + 1]) * frac2mmOrtho[axis * 5] + frac2mmOrtho[12 + axis];
  }

  #voxel(axis, mm) {
    const fraction = (mm - this.volume.frac2mmOrtho[12 + axis]) / this.volume.frac2mmOrtho[axis * 5];
    return fraction * this.volume.dimsRAS[axis + 1];
  }
}
