import { existsSync } from 'node:fs';
import { arch, cpus, platform, totalmem } from 'node:os';
import type { Command } from 'commander';
import { cudaDevices } from '../../executor/backends/cuda/context.ts';
import { ncclLibrary } from '../../executor/backends/nccl/backend.ts';
import { findAddon } from '../../executor/native/addon.ts';
import { loadPlanner } from '../../planner/node.ts';
import { formatBytes, formatFacts } from '../figures/format.ts';
import { command, print, printJson } from './io.ts';

/** The GPU kernels are compiled for sm_90. */
const LEAST_COMPUTE = 9;

/** One part that may or may not work on this machine. */
interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly found: string;
  /** What to do about it if it is missing. */
  readonly advice?: string;
}

/** The result of `probe`, or the error that it throws, with advice. */
async function probed(name: string, advice: string, probe: () => string | Promise<string>): Promise<Finding> {
  try {
    return { name, ok: true, found: await probe() };
  } catch (error) {
    return { name, ok: false, found: (error as Error).message, advice };
  }
}

async function plannerFinding(): Promise<Finding> {
  return probed('planner', 'npm run build', async () => {
    await loadPlanner();
    return 'Wasm, built and loaded';
  });
}

function nodeFinding(): Finding {
  const machine = `${platform()}-${arch()}, ${cpus().length} cores, ${formatBytes(totalmem())}`;
  return { name: 'node', ok: true, found: `${process.version} on ${machine}` };
}

/** Opens and closes a context, to detect an addon that loads but cannot start its threads. */
async function hostFinding(): Promise<Finding> {
  const name = 'host';
  const result = findAddon();
  if (result.addon === undefined) {
    const advice = 'it needs a C++20 compiler and CMake 3.20; until then the reference runs';
    return { name, ok: false, found: result.reason, advice };
  }
  const { addon } = result;
  return probed(name, 'npm run build:native', () => {
    const context = new addon.Context({});
    const { kernels, threads } = context;
    context.close();
    return `native addon ${addon.version}, ${kernels} kernels, ${threads} threads`;
  });
}

function gpuFinding(): Finding {
  const { devices, reason } = cudaDevices();
  const [first] = devices;
  if (first !== undefined) {
    const { name, totalBytes, compute, driver } = first;
    const cuda = `driver for CUDA ${Math.floor(driver / 1000)}.${Math.floor((driver % 1000) / 10)}`;
    const others = devices.length > 1 ? `${devices.length} x ` : '';
    return {
      name: 'GPU',
      ok: Number(compute) >= LEAST_COMPUTE,
      found: `${others}${name}, ${formatBytes(totalBytes)}, compute capability ${compute}, ${cuda}`,
      advice: `the cuda and nccl backends need compute capability ${LEAST_COMPUTE}.0`,
    };
  }
  const hasDriver = existsSync('/proc/driver/nvidia/version');
  const advice = hasDriver
    ? 'a driver is installed: build the addon with nvcc (npm run build:native) to use the cuda backend'
    : 'not needed to plan, inspect, verify or run on the CPU';
  return { name: 'GPU', ok: false, found: reason ?? 'no NVIDIA driver', advice };
}

function ncclFinding(): Finding {
  const { path, version, reason } = ncclLibrary();
  if (reason === undefined) return { name: 'NCCL', ok: true, found: `${version}, ${path}` };
  const advice =
    'only for the nccl backend: install NCCL 2.19 or later, or set FUSCO_NCCL_PATH to its libnccl.so.2';
  return { name: 'NCCL', ok: false, found: reason, advice };
}

async function doctor(options: { json?: boolean }): Promise<void> {
  const always = 'TypeScript, always available; the other backends are compared with it';
  const reference: Finding = { name: 'reference', ok: true, found: always };
  const [planner, host] = [await plannerFinding(), await hostFinding()];
  const findings = [nodeFinding(), planner, reference, host, gpuFinding(), ncclFinding()];
  if (options.json) {
    printJson({ findings });
    return;
  }
  print(formatFacts(findings.map(({ name, ok, found }) => [ok ? `ok  ${name}` : ` -  ${name}`, found])));
  for (const { ok, name, advice } of findings)
    if (!ok && advice !== undefined) print(`    ${name}: ${advice}`);
}

export function doctorCommand(): Command {
  return command('doctor', 'Show what this machine can run, and what to do about missing parts.')
    .option('--json', 'print one JSON object')
    .action(doctor);
}
