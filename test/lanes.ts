// The lanes of the tests. The name of a test file says its lane: NAME.slow.test.ts, NAME.release.test.ts and
// NAME.gpu.test.ts; NAME.test.ts without a lane is fast.

export const LANES = ['fast', 'slow', 'release', 'gpu'] as const;
export type Lane = (typeof LANES)[number];

const NAMED: readonly Lane[] = LANES.filter((lane) => lane !== 'fast');

/** Globs of the test files of a lane. */
export function filesOf(lane: Lane): { include: string[]; exclude: string[] } {
  return lane === 'fast'
    ? { include: ['test/**/*.test.ts'], exclude: [`test/**/*.{${NAMED.join(',')}}.test.ts`] }
    : { include: [`test/**/*.${lane}.test.ts`], exclude: [] };
}
