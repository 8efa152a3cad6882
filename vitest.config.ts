import { defineConfig } from 'vitest/config';
import { filesOf, LANES } from './test/lanes.ts';

export default defineConfig({
  test: {
    // Examples import the package as users do; under test that is its sources.
    alias: [{ find: /^fusco$/, replacement: new URL('executor/index.ts', import.meta.url).pathname }],
    // A process per file: a crash in native code fails one file instead of ending the run.
    pool: 'forks',
    // Vitest's default leaves one core to itself, which it does not use.
    maxWorkers: '100%',
    globalSetup: ['test/support/globalSetup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // `vitest run --project LANE` runs one lane; docs/testing.md says what each is for.
    projects: LANES.map((lane) => ({ extends: true as const, test: { name: lane, ...filesOf(lane) } })),
  },
});
