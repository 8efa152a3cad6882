// Which ranks share a machine. They access each other's device memory unless an option forbids it.

import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import type { Environment } from '../../environment.ts';

function readOr(read: () => string): string {
  try {
    return read().trim();
  } catch {
    return '';
  }
}

/** Options that determine with which ranks this one shares memory. */
export interface MachineChoice {
  /** If false, all rows go through NCCL, and none straight into another rank's memory. Default: FUSCO_IPC is not 0. */
  readonly directMemory?: boolean | undefined;
  /** Ranks with the same text access each other's memory. Default: FUSCO_HOSTID, or this machine since its last boot. */
  readonly host?: string | undefined;
}

/**
 * Text that is identical on ranks that can share device memory, and different on others: the machine, its last boot, and
 * its namespace of shared memory.
 */
export function machineIdentity(
  rank: number,
  { directMemory, host }: MachineChoice = {},
  environment: Environment = process.env,
): string {
  if (!(directMemory ?? environment.FUSCO_IPC !== '0')) return `rank ${rank}`;
  const named = host ?? environment.FUSCO_HOSTID;
  if (named) return `host ${named}`;
  const boot = readOr(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8'));
  const namespace = readOr(() => readlinkSync('/proc/self/ns/ipc'));
  return `machine ${hostname()} ${boot} ${namespace}`;
}

/** A number for each text. Identical texts get the same number, in the order of their first appearance. */
export function numberMachines(identities: readonly string[]): Uint32Array {
  const numbers = new Map<string, number>();
  return Uint32Array.from(identities, (identity) => {
    const known = numbers.get(identity) ?? numbers.size;
    numbers.set(identity, known);
    return known;
  });
}
