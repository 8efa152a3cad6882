// The paper's evaluation (FUSCO, arXiv 2512.22036, section 5): 8 nodes x 8 H100, hidden 7168, top-8 of 256, bf16.

export const PAPER = {
  ranks: 64,
  ranksPerNode: 8,
  experts: 256,
  topk: 8,
  hidden: 7168,
  dtype: 'bf16',
  topology: 'h100-8x8',
} as const;

export const SYSTEMS = ['NCCL', 'DeepEP V1', 'FUSCO'] as const;
export type System = (typeof SYSTEMS)[number];

export const LENGTHS = [4096, 8192, 16384, 32768] as const;
/** The constants are fitted to these columns; the others are predictions. */
export const FITTED_LENGTHS: readonly number[] = [4096, 16384];

export const PATTERNS = ['real', 'one-node', 'imbalanced'] as const;
export type Pattern = (typeof PATTERNS)[number];

/** Total of permutations, dispatch and combine in ms: [pattern][length][system]. */
export const PUBLISHED_MS: Readonly<Record<Pattern, readonly (readonly [number, number, number])[]>> = {
  real: [
    [44.4, 30.7, 27.2],
    [80.2, 58.4, 50.1],
    [143.6, 116.1, 86.8],
    [266.4, 219.6, 164.4],
  ],
  'one-node': [
    [44.0, 24.7, 12.6],
    [81.4, 43.8, 22.3],
    [150.1, 81.8, 41.0],
    [274.8, 144.2, 71.5],
  ],
  imbalanced: [
    [86.2, 56.0, 43.3],
    [167.5, 108.5, 78.9],
    [339.3, 216.2, 151.3],
    [656.2, 420.9, 305.0],
  ],
};
