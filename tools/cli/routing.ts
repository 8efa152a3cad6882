// The options by which commands say what to take of a routing file.

import { type Command, Option } from 'commander';
import { ROUTING_FORMATS, type RoutingFormat } from '../readers/foreign.ts';
import { integer } from './io.ts';

export interface RoutingArguments {
  format: RoutingFormat;
  layer?: number;
  step?: number;
}

/** Adds `--format`, `--layer` and `--step` to a command that reads a routing. */
export function addRoutingOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--format <name>', 'whose file the routing is, where its first bytes do not say')
        .choices(ROUTING_FORMATS)
        .default('auto'),
    )
    .option('--layer <n>', 'layer of a recording', integer(0))
    .option('--step <n>', 'step, forward pass, iteration or request of a recording', integer(0));
}
