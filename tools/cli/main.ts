// The command line. Each command has its file; this one joins them.

import type { Command } from 'commander';
import { packageVersion } from '../../executor/version.ts';
import { auditCommand } from './audit.ts';
import { benchCommand } from './bench/index.ts';
import { checkCommand } from './check.ts';
import { completionCommand } from './completion.ts';
import { demoCommand } from './demo.ts';
import { diffCommand } from './diff.ts';
import { doctorCommand } from './doctor.ts';
import { addExamples } from './examples.ts';
import { exportCommand } from './export.ts';
import { inspectCommand } from './inspect.ts';
import { command, explain } from './io.ts';
import { launchCommand } from './launch.ts';
import { placementCommand } from './placement.ts';
import { planCommand } from './plan.ts';
import { runCommand } from './run.ts';
import { simulateCommand } from './simulate/index.ts';
import { verifyCommand } from './verify.ts';
import { viewCommand } from './view.ts';
import { workloadCommand } from './workload.ts';

/** The program with all of its commands. */
export function createProgram(): Command {
  const program = command('fusco', 'Plans, inspects and executes the exchanges of expert parallelism.')
    .version(packageVersion())
    .addCommand(demoCommand())
    .addCommand(planCommand())
    .addCommand(inspectCommand())
    .addCommand(verifyCommand())
    .addCommand(viewCommand())
    .addCommand(exportCommand())
    .addCommand(runCommand())
    .addCommand(launchCommand())
    .addCommand(diffCommand())
    .addCommand(checkCommand())
    .addCommand(auditCommand())
    .addCommand(simulateCommand())
    .addCommand(workloadCommand())
    .addCommand(placementCommand())
    .addCommand(doctorCommand())
    .addCommand(benchCommand())
    .addCommand(completionCommand());
  addExamples(program);
  return program;
}

/**
 * Runs one command and returns the exit code: 0 success, 1 a comparison failed, 2 an error; `launch` returns that of its
 * program.
 */
export async function main(args: readonly string[]): Promise<number> {
  const program = createProgram();
  if (args.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync(args, { from: 'user' });
    return 0;
  } catch (error) {
    return explain(error);
  }
}
