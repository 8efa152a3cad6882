import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // Examples import the package as users do; under test that is its sources.
    alias: [{ find: /^fusco$/, replacement: new URL('executor/index.ts', import.meta.url).pathname }],
    include: ['test/**/*.test.ts'],
    // A process per file: a crash in native code fails one file instead of ending the run.
    pool: 'forks',
    globalSetup: ['test/tools/cli/globalSetup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
