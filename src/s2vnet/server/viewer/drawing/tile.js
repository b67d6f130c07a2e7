// One displayed plane: conversion between canvas positions and voxels.

const NAMES = ["Sagittal", "Coronal", "Axial"]; // by RAS normal

/**
 * One displayed plane. RAS axes: `normal` to it, `u` horizontal, `v` up. The radiological convention: the patient's right is
 * at the left of axial and coronal planes, and anterior at the left of sagittal ones.
 */
export class Tile {
  /** Whether the RAS axis u runs to the left. */
  mirrored = true;

  /**
   * `box`: left, top, width, height on the canvas, CSS pixels; `at`: RAS voxel of the crosshair; `view`: centre, mm along the
   * RAS axes from the first voxel's corner, and zoom.
   */
  constructor(normal, box, image, at, view) {
    this.normal = normal;
    [this.u, this.v] = [0, 1, 2].filter((axis) => axis !== normal);
    this.name = NAMES[normal];
    this.depth = at[normal];
    this.box = box;
    this.shape = image.rasShape;
    this.spacing = image.rasSpacing;
    this.centre = view.centre;
    const [width, height] = [this.u, this.v].map((axis) => this.shape[axis] * this.spacing[axis]);
    /** CSS pixels per millimetre. */
    this.scale = Math.min(box.width / width, box.height / height) * view.zoom;
  }

  /** Convert a position in RAS voxels to the canvas, in CSS pixels; a voxel's centre is at its index plus 0.5. */
  project(place) {
    const { left, top, width, height } = this.box;
    const [right, up] = [this.u, this.v].map((axis) => (place[axis] * this.spacing[axis] - this.centre[axis]) * this.scale);
    return { x: left + width / 2 - right, y: top + height / 2 - up };
  }

  /** Convert a canvas position to a position on the plane in RAS voxels. */
  place(x, y) {
    const { left, top, width, height } = this.box;
    const place = [0, 0, 0];
    place[this.normal] = this.depth;
    place[this.u] = ((left + width / 2 - x) / this.scale + this.centre[this.u]) / this.spacing[this.u];
    place[this.v] = ((top + height / 2 - y) / this.scale + this.centre[this.v]) / this.spacing[this.v];
    return place;
  }

  holds(x, y) {
    const { left, top, width, height } = this.box;
    return x >= left && x < left + width && y >= top && y < top + height;
  }
}
