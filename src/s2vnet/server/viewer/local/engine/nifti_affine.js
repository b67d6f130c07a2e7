// Orientation of a NIfTI header: qform, sform and voxel sizes, also where they contradict each other, as in
// s2vnet/io/nifti_forms.py.

import { determinant3, spacing } from "./geometry.js";

const MM = 2;
const UNITS = { 1: ["metres", 1000], 3: ["microns", 0.001] }; // NIfTI's other units of length, by code
const SIZE_TOLERANCE = 0.01;
const QUATERNION_TOLERANCE = 0.01;
const SHEAR_TOLERANCE = 1e-3;
const SINGULAR = 1e-6;

/**
 * Choose between the forms of a header of an image of `shape`: `{affine, notes}`, voxel to world in RAS+ mm and one line
 * for each contradiction. The sform is used unless it is absent or unusable, or its voxel sizes differ from pixdim's
 * while the qform is valid. Throws an Error where the header states no usable orientation.
 */
export function chooseAffine(forms, shape) {
  const [unit, factor] = UNITS[forms.unit] ?? ["", 1];
  const chosen = choose(factor === 1 ? forms : scale(forms, factor), shape);
  if (!isInvertible(chosen.affine)) throw new Error("the header states no usable orientation; export the image again");
  if (unit) chosen.notes.unshift(`the header states lengths in ${unit}; converted, voxels are ${mm(spacing(chosen.affine))}`);
  else if (forms.unit && forms.unit !== MM) chosen.notes.unshift(`the header's unit of length, code ${forms.unit}, is unknown; mm is assumed`);
  return chosen;
}

function scale(forms, factor) {
  const times = (value) => value * factor;
  return {
    ...forms,
    offset: forms.offset.map(times),
    pixdim: [forms.pixdim[0], ...forms.pixdim.slice(1).map(times)],
    rows: forms.rows.map((row) => row.map(times)),
  };
}

function choose(forms, shape) {
  const sizes = voxelSizes(forms, shape);
  const sform = forms.sformCode > 0 ? fromRows(forms.rows) : null;
  const qform = forms.qformCode > 0 && sizes ? fromQuaternion(forms, sizes, QUATERNION_TOLERANCE) : null;
  if (sform && isInvertible(sform)) {
    if (!sizes) return { affine: sform, notes: ["the header's voxel sizes are invalid; the sform is used"] };
    if (!sizesAgree(sform, sizes, shape)) {
      const difference = `the header's sform has voxels of ${mm(spacing(sform))}, its pixdim of ${mm(sizes)}`;
      if (qform) return { affine: qform, notes: [`${difference}; the qform is used`] };
      return { affine: sform, notes: [`${difference}, and there is no valid qform; the sform is used`] };
    }
    const broken = forms.qformCode > 0 && !qform;
    return { affine: sform, notes: broken ? ["the header's qform is invalid; the sform is used"] : [] };
  }
  const prefix = forms.sformCode > 0 ? "the header's sform is not an invertible matrix; " : "";
  if (qform) return { affine: qform, notes: prefix ? [`${prefix}the qform is used`] : [] };
  const normalised = forms.qformCode > 0 && sizes ? fromQuaternion(forms, sizes, Infinity) : null;
  if (normalised) {
    const text = "the header's qform is not a unit quaternion; it is normalised, check left and right";
    return { affine: normalised, notes: [prefix + text] };
  }
  return withoutOrientation(forms, sizes, shape);
}

/** Sizes by pixdim; 1 for an axis of one voxel without a size; null where another axis has none. */
function voxelSizes({ pixdim }, shape) {
  const sizes = pixdim.slice(1).map(Math.abs);
  const bad = sizes.map((size) => !(Number.isFinite(size) && size > 0));
  if (bad.every(Boolean) || bad.some((isBad, axis) => isBad && shape[axis] > 1)) return null;
  return sizes.map((size, axis) => (bad[axis] ? 1 : size));
}

function fromRows(rows) {
  return rows.flat().every(Number.isFinite) ? [...rows.map((row) => [...row]), [0, 0, 0, 1]] : null;
}

/** Affine of the quaternion, as `nifti_quatern_to_mat44` of nifti1_io.c; null where it is invalid. */
function fromQuaternion({ quaternion, offset, pixdim }, sizes, tolerance) {
  const squared = quaternion.reduce((sum, value) => sum + value * value, 0);
  if (![...quaternion, ...offset].every(Number.isFinite) || squared > 1 + tolerance) return null;
  const real = squared > 1 - 1e-7 ? 0 : Math.sqrt(1 - squared);
  const length = Math.sqrt(real * real + squared);
  const [a, b, c, d] = [real, ...quaternion].map((value) => value / length);
  const rotation = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  const signs = [1, 1, pixdim[0] < 0 ? -1 : 1];
  const rows = rotation.map((row, n) => [...row.map((value, axis) => value * sizes[axis] * signs[axis]), offset[n]]);
  return [...rows, [0, 0, 0, 1]];
}

/** Voxel sizes with the axes that nibabel assumes: to left, front and head, with the centre at the origin. */
function withoutOrientation(forms, sizes, shape) {
  const notes = [];
  const assumed = sizes ?? forms.pixdim.slice(1).map((size) => Math.abs(size) || 1);
  if (!sizes) notes.push(`the header's voxel sizes are ${mm(forms.pixdim.slice(1))}; ${mm(assumed)} are assumed`);
  const stated = forms.qformCode > 0 || forms.sformCode > 0;
  const what = stated ? "the header's qform and sform are invalid" : "the header states no orientation";
  notes.push(`${what}; its axes are assumed to point to left, front and head, check left and right`);
  const steps = [-assumed[0], assumed[1], assumed[2]];
  const rows = steps.map((step, n) => [0, 1, 2].map((axis) => (axis === n ? step : 0)).concat((-step * (shape[n] - 1)) / 2));
  return { affine: [...rows, [0, 0, 0, 1]], notes };
}

/** Whether an affine has these voxel sizes; a sheared one may state distances between slices instead. */
function sizesAgree(affine, sizes, shape) {
  const lengths = spacing(affine);
  if (lengths.every((length, axis) => shape[axis] <= 1 || Math.abs(length / sizes[axis] - 1) <= SIZE_TOLERANCE)) return true;
  const unit = unitColumns(affine);
  const cosines = [[0, 1], [0, 2], [1, 2]].map(([a, b]) => Math.abs(unit.reduce((sum, row) => sum + row[a] * row[b], 0))); // prettier-ignore
  const volume = Math.abs(determinant3(affine)) / (sizes[0] * sizes[1] * sizes[2]);
  return Math.max(...cosines) > SHEAR_TOLERANCE && Math.abs(volume - 1) <= SIZE_TOLERANCE;
}

function isInvertible(affine) {
  return spacing(affine).every((length) => length > 0) && Math.abs(determinant3(unitColumns(affine))) >= SINGULAR;
}

function unitColumns(affine) {
  const lengths = spacing(affine);
  return affine.slice(0, 3).map((row) => row.slice(0, 3).map((value, axis) => value / lengths[axis]));
}

function mm(values) {
  return `${values.map((value) => Number(value.toPrecision(4))).join(" x ")} mm`;
}
