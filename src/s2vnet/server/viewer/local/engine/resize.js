// Bilinear resampling with antialiasing, as torch's interpolate(mode="bilinear", antialias=True).

/**
 * A banded matrix (rows, columns): row r has `width` weights from `weights[r * width]` on, for the columns from
 * `first[r]` on; unused weights are 0.
 */
class BandedMatrix {
  constructor(rows, columns, width) {
    Object.assign(this, { rows, columns, width });
    this.first = new Int32Array(rows);
    this.weights = new Float32Array(rows * width);
  }
}

/** Matrix (to, from) that resamples a line of `from` values to `to` values. */
export function resizeMatrix(from, to) {
  const scale = from / to;
  const support = Math.max(1, scale);
  const matrix = new BandedMatrix(to, from, Math.min(from, 2 * Math.ceil(support) + 1));
  for (let row = 0; row < to; row++) {
    if (from === to) {
      [matrix.first[row], matrix.weights[row * matrix.width]] = [Math.min(row, from - matrix.width), 0];
      matrix.weights[row * matrix.width + row - matrix.first[row]] = 1;
      continue;
    }
    const centre = scale * (row + 0.5);
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const stop = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: stop - start }, (_, n) =>
      Math.max(0, 1 - Math.abs((n + start - centre + 0.5) / support)),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    matrix.first[row] = Math.min(start, from - matrix.width);
    weights.forEach((weight, n) => (matrix.weights[row * matrix.width + n + start - matrix.first[row]] = weight / total));
  }
  return matrix;
}

/** Product of `outer` and the first `kept` rows of `inner`. */
export function compose(outer, inner, kept) {
  const product = new BandedMatrix(outer.rows, inner.columns, 0);
  const lines = [];
  for (let row = 0; row < outer.rows; row++) {
    const line = new Float32Array(inner.columns);
    for (let n = 0; n < outer.width; n++) {
      const [weight, middle] = [outer.weights[row * outer.width + n], outer.first[row] + n];
      if (weight === 0 || middle >= kept) continue;
      for (let m = 0; m < inner.width; m++) {
        line[inner.first[middle] + m] += weight * inner.weights[middle * inner.width + m];
      }
    }
    const first = line.findIndex((weight) => weight !== 0);
    const last = line.findLastIndex((weight) => weight !== 0);
    lines.push(line.subarray(first, last + 1));
    product.first[row] = first;
  }
  product.width = Math.max(...lines.map((line) => line.length));
  product.weights = new Float32Array(product.rows * product.width);
  lines.forEach((line, row) => {
    const first = Math.min(product.first[row], inner.columns - product.width);
    product.weights.set(line, row * product.width + product.first[row] - first);
    product.first[row] = first;
  });
  return product;
}

/** Slice (height, width) resampled to `[rows, columns]` pixels; returned as it is where it has that size. */
export function resizeSlice(slice, [height, width], [rows, columns]) {
  if (height === rows && width === columns) return slice;
  return multiplyRows(resizeMatrix(height, rows), multiplyColumns(slice, resizeMatrix(width, columns), height));
}

/** Product (m, width) of a banded matrix (m, height) and a slice (height, width). */
export function multiplyRows(matrix, slice) {
  const width = slice.length / matrix.columns;
  const product = new Float32Array(matrix.rows * width);
  for (let row = 0; row < matrix.rows; row++) {
    const line = product.subarray(row * width, (row + 1) * width);
    for (let n = 0; n < matrix.width; n++) {
      const weight = matrix.weights[row * matrix.width + n];
      if (weight === 0) continue;
      const from = (matrix.first[row] + n) * width;
      for (let column = 0; column < width; column++) line[column] += weight * slice[from + column];
    }
  }
  return product;
}

/** Product (height, m) of a slice (height, width) and the transpose of a banded matrix (m, width). */
function multiplyColumns(slice, matrix, height) {
  const product = new Float32Array(height * matrix.rows);
  for (let row = 0, to = 0; row < height; row++) {
    const from = row * matrix.columns;
    for (let column = 0; column < matrix.rows; column++, to++) {
      const [first, weights] = [from + matrix.first[column], column * matrix.width];
      let sum = 0;
      for (let n = 0; n < matrix.width; n++) sum += matrix.weights[weights + n] * slice[first + n];
      product[to] = sum;
    }
  }
  return product;
}
