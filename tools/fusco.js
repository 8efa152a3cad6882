#!/usr/bin/env node
import { existsSync } from 'node:fs';

const main = new URL('../dist/tools/cli/main.js', import.meta.url);
if (!existsSync(main)) {
  process.stderr.write(
    'error[E_BACKEND]: fusco is not built (Run `npm ci` in the checkout, which builds it.)\n',
  );
  process.exit(2);
}

// A reader that closes early, such as `head`, is no error.
process.stdout.on('error', (error) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});
process.exitCode = await (await import(main.href)).main(process.argv.slice(2));
