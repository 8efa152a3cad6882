// Sums and maxima over the ranks, nodes and rows of a plan.

export function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** The largest value; 0 for none. */
export function largest(values: Iterable<number>): number {
  let most = 0;
  for (const value of values) if (value > most) most = value;
  return most;
}

/** Sum of every column of a square matrix. */
export function columnSums(matrix: readonly (readonly number[])[]): number[] {
  return matrix.map((_, column) => sum(matrix.map((row) => row[column]!)));
}
