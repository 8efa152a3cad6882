// Which ranks share a host: they reach each other's device memory, if nothing says otherwise.

import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

type Environment = Readonly<Record<string, string | undefined>>;

function readOr(read: () => string): string {
  try {
    return read().trim();
  } catch {
    return '';
  }
}

/**
 * Text that is equal for ranks that can share device memory and different for others: the machine since its start,
 * and its namespace of shared memory. `FUSCO_HOSTID` replaces it; `FUSCO_IPC=0` makes every rank its own host.
 */
export function hostIdentity(rank: number, environment: Environment = process.env): string {
  if (environment.FUSCO_IPC === '0') return `rank ${rank}`;
  if (environment.FUSCO_HOSTID) return `host ${environment.FUSCO_HOSTID}`;
  const boot = readOr(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8'));
  const namespace = readOr(() => readlinkSync('/proc/self/ns/ipc'));
  return `host ${hostname()} ${boot} ${namespace}`;
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
