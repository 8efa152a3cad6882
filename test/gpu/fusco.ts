// The command line, for a machine on which the package is not installed.

import { main } from '../../tools/cli/main.ts';

process.exitCode = await main(process.argv.slice(2));
