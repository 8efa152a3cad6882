// Which ranks share a host: they reach each other's device memory, if nothing says otherwise.

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

/** What an option or the environment says about sharing memory with other ranks. */
export interface HostChoice {
  /** False: no other rank's memory is reached, all rows go through NCCL. Default: FUSCO_IPC is not 0. */
  readonly directMemory?: boolean | undefined;
  /** Ranks with equal texts reach each other's memory. Default: FUSCO_HOSTID, or this machine since its start. */
  readonly host?: string | undefined;
}

/**
 * Text that is equal for ranks that can share device memory and different for others: the machine since its start,
 * and its namespace of shared memory.
 */
export function hostIdentity(
  rank: number,
  { directMemory, host }: HostChoice = {},
  environment: Environment = process.env,
): string {
  if (!(directMemory ?? environment.FUSCO_IPC !== '0')) return `rank ${rank}`;
  const named = host ?? environment.FUSCO_HOSTID;
  if (named) return `host ${named}`;
  const boot = readOr(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8'));
  const namespace = readOr(() => readlinkSync('/proc/self/ns/ipc'));
  return `machine ${hostname()} ${boot} ${namespace}`;
}

/** Numbers for texts: equal ones get equal numbers, in the order of their first appearance. */
export function numberHosts(identities: readonly string[]): Uint32Array {
  const numbers = new Map<string, number>();
  return Uint32Array.from(identities, (identity) => {
    const known = numbers.get(identity) ?? numbers.size;
    numbers.set(identity, known);
    return known;
  });
}
