// Builds the native executor. Where that is impossible the package still works, more slowly, so a failure is a
// message and not an error, unless FUSCO_REQUIRE_NATIVE=1.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const built = spawnSync('npm', ['run', '--silent', 'build:native'], { cwd: root, encoding: 'utf8' });
if (built.status !== 0 || !existsSync(`${root}build/native/Release/fusco.node`)) {
  const lines = `${built.stdout ?? ''}\n${built.stderr ?? ''}`.trim().split('\n');
  if (process.env.FUSCO_REQUIRE_NATIVE === '1') {
    process.stderr.write(`${lines.join('\n')}\n`);
    process.exitCode = 1;
  } else {
    const reason =
      built.error?.message ?? lines.findLast((line) => /error|not found/i.test(line)) ?? 'unknown';
    process.stderr.write(
      `fusco: the native executor was not built, the reference backend will be used (${reason.replace(/^ERROR\s+\w+\s+/, '').trim()}).\n` +
        'It needs CMake 3.20 and a C++20 compiler; `npm run build:native` shows the whole output.\n',
    );
  }
}
