import type { Command } from 'commander';
import { command } from '../io.ts';
import { compareBenchCommand } from './compare.ts';
import { cudaBenchCommand } from './cuda.ts';
import { gpusBenchCommand } from './gpus.ts';
import { hostBenchCommand } from './host.ts';
import { ncclBenchCommand } from './nccl.ts';
import { planBenchCommand } from './plan.ts';
import { scaleBenchCommand } from './scale.ts';

export function benchCommand(): Command {
  return command('bench', 'Measure medians, with the baseline and the ceiling of the same run.')
    .addCommand(planBenchCommand())
    .addCommand(hostBenchCommand())
    .addCommand(cudaBenchCommand())
    .addCommand(gpusBenchCommand())
    .addCommand(ncclBenchCommand())
    .addCommand(scaleBenchCommand())
    .addCommand(compareBenchCommand());
}
