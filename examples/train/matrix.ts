// Products of small float32 matrices on the CPU. Each sum is added in the order written here and rounded to float32 at
// every addition, so that a row's result does not depend on the rows next to it, and a sum over rows only on their order.

/** A range of rows. */
export interface Rows {
  readonly begin: number;
  readonly end: number;
}

/** y[r] = x[r] w, plus the bias if there is one: x [., from], w [from, to], y [., to]. Ascending in `from`. */
export function product(
  rows: Rows,
  from: number,
  to: number,
  x: Float32Array,
  w: Float32Array,
  y: Float32Array,
  bias?: Float32Array,
): void {
  for (let r = rows.begin; r < rows.end; r++) {
    const out = r * to;
    for (let j = 0; j < to; j++) y[out + j] = bias === undefined ? 0 : bias[j]!;
    for (let i = 0; i < from; i++) {
      const a = x[r * from + i]!;
      // Paper, and what relu cut off.
      if (a === 0) continue;
      const row = i * to;
      for (let j = 0; j < to; j++) y[out + j]! += a * w[row + j]!;
    }
  }
}

/** The gradient of `product`'s w and bias, added to what is there: rows ascending. */
export function productGradient(
  rows: Rows,
  from: number,
  to: number,
  x: Float32Array,
  dy: Float32Array,
  dw: Float32Array,
  dbias?: Float32Array,
): void {
  for (let r = rows.begin; r < rows.end; r++) {
    const up = r * to;
    for (let i = 0; i < from; i++) {
      const a = x[r * from + i]!;
      if (a === 0) continue;
      const row = i * to;
      for (let j = 0; j < to; j++) dw[row + j]! += a * dy[up + j]!;
    }
    if (dbias === undefined) continue;
    for (let j = 0; j < to; j++) dbias[j]! += dy[up + j]!;
  }
}

/** The gradient of `product`'s x, added to what is there: dx[r] += dy[r] w^T, each dot product ascending in `to`. */
export function inputGradient(
  rows: Rows,
  from: number,
  to: number,
  dy: Float32Array,
  w: Float32Array,
  dx: Float32Array,
): void {
  for (let r = rows.begin; r < rows.end; r++) {
    const up = r * to;
    for (let i = 0; i < from; i++) {
      const row = i * to;
      let sum = 0;
      for (let j = 0; j < to; j++) sum = Math.fround(sum + Math.fround(dy[up + j]! * w[row + j]!));
      dx[r * from + i]! += sum;
    }
  }
}

/** Cuts off what is below zero. */
export function relu(rows: Rows, width: number, x: Float32Array): void {
  for (let i = rows.begin * width; i < rows.end * width; i++) if (x[i]! < 0) x[i] = 0;
}

/** The gradient of relu, in place: none where the output is zero. */
export function reluGradient(rows: Rows, width: number, y: Float32Array, dy: Float32Array): void {
  for (let i = rows.begin * width; i < rows.end * width; i++) if (y[i] === 0) dy[i] = 0;
}
