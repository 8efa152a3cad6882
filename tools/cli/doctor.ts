import { existsSync } from 'node:fs';
import { arch, cpus, platform, totalmem } from 'node:os';
import type { Command } from 'commander';
import { loadPlanner } from '../../planner/node.ts';
import { formatBytes, formatFacts } from '../format.ts';
import { command, print, printJson } from './io.ts';

/** One thing that may or may not work here. */
interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly found: string;
  /** What to do about it where it is missing. */
  readonly advice?: string;
}

async function plannerFinding(): Promise<Finding> {
  try {
    await loadPlanner();
    return { name: 'planner', ok: true, found: 'Wasm, built and loaded' };
  } catch (error) {
    return { name: 'planner', ok: false, found: (error as Error).message, advice: 'npm run build' };
  }
}

function systemFindings(): Finding[] {
  const hasDriver = existsSync('/proc/driver/nvidia/version');
  return [
    {
      name: 'node',
      ok: true,
      found: `${process.version} on ${platform()}-${arch()}, ${cpus().length} cores, ${formatBytes(totalmem())}`,
    },
    {
      name: 'GPU',
      ok: hasDriver,
      found: hasDriver ? 'NVIDIA driver is loaded' : 'no NVIDIA driver',
      ...(hasDriver ? {} : { advice: 'not needed to plan, inspect, verify or run on the CPU' }),
    },
  ];
}

async function doctor(options: { json?: boolean }): Promise<void> {
  const [node, gpu] = systemFindings();
  const reference: Finding = { name: 'reference', ok: true, found: 'TypeScript, the oracle; always there' };
  const findings = [node!, await plannerFinding(), reference, gpu!];
  if (options.json) {
    printJson({ findings });
    return;
  }
  print(formatFacts(findings.map(({ name, ok, found }) => [ok ? `ok  ${name}` : ` -  ${name}`, found])));
  for (const { ok, name, advice } of findings)
    if (!ok && advice !== undefined) print(`    ${name}: ${advice}`);
}

export function doctorCommand(): Command {
  return command('doctor', 'Say what this machine can run, and what to do about what is missing.')
    .option('--json', 'one JSON object')
    .action(doctor);
}
