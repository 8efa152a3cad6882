import type { Command } from 'commander';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { launch } from '../launch/processes.ts';
import { command, ExitWith, say } from './io.ts';
import { integer } from './options.ts';

interface LaunchFlags {
  ranks: number;
  port?: number;
  prefix: boolean;
  grace: number;
}

async function run(program: readonly string[], flags: LaunchFlags): Promise<void> {
  const code = await launch({
    ranks: flags.ranks,
    command: program,
    port: flags.port,
    prefix: flags.prefix,
    graceMs: flags.grace * 1000,
    say: (line) => say(`fusco launch: ${line}`),
  });
  if (code !== 0) throw new ExitWith(code);
}

export function launchCommand(): Command {
  return command('launch', 'Start one process per rank on this machine: fusco launch -n 4 -- node train.js')
    .argument('<program...>', 'the program and its arguments, after --')
    .requiredOption('-n, --ranks <n>', 'number of processes', integer(1, MAX_RANKS))
    .option('--port <port>', 'port of the rendezvous (default: a free one)', integer(1, 65_535))
    .option('--no-prefix', 'do not write the rank before every line of output')
    .option(
      '--grace <seconds>',
      'time between SIGTERM and SIGKILL after a rank has failed',
      integer(0, 3600),
      5,
    )
    .action(run);
}
