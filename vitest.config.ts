import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // A process per file: a crash in native code fails one file instead of ending the run.
    pool: 'forks',
    globalSetup: ['test/tools/cli/globalSetup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
