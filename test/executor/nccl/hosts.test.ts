// Which ranks take themselves for neighbours: wrongly apart costs speed, wrongly together costs the exchange.

import { hostname } from 'node:os';
import { describe, expect, it } from 'vitest';
import { hostIdentity, numberHosts } from '../../../executor/nccl/hosts.ts';

describe('the host of a rank', () => {
  it('is this machine since its start, alike for all its ranks', () => {
    const zero = hostIdentity(0, {}, {});
    expect(zero).toBe(hostIdentity(1, {}, {}));
    expect(zero).toMatch(/^machine /);
    expect(zero).toContain(hostname());
  });

  it('names the boot and the namespace of shared memory, where the system has them', () => {
    if (process.platform !== 'linux') return;
    expect(hostIdentity(0, {}, {})).toMatch(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12} ipc:\[\d+\]$/);
  });

  it('is the rank itself where memory is not to be shared, whatever else is said', () => {
    expect(hostIdentity(3, { directMemory: false, host: 'a' }, { FUSCO_HOSTID: 'b' })).toBe('rank 3');
    expect(hostIdentity(3, { host: 'a' }, { FUSCO_IPC: '0', FUSCO_HOSTID: 'b' })).toBe('rank 3');
    expect(hostIdentity(3, {}, { FUSCO_IPC: '0' })).not.toBe(hostIdentity(4, {}, { FUSCO_IPC: '0' }));
  });

  it('is shared for every other value of FUSCO_IPC, and where the option overrules it', () => {
    const machine = hostIdentity(0, {}, {});
    for (const FUSCO_IPC of ['1', '', 'yes']) expect(hostIdentity(3, {}, { FUSCO_IPC })).toBe(machine);
    expect(hostIdentity(3, { directMemory: true }, { FUSCO_IPC: '0' })).toBe(machine);
  });

  it('is the name that an option gives, else FUSCO_HOSTID; an empty one is none', () => {
    expect(hostIdentity(0, { host: 'a' }, { FUSCO_HOSTID: 'b' })).toBe('host a');
    expect(hostIdentity(0, {}, { FUSCO_HOSTID: 'b' })).toBe('host b');
    expect(hostIdentity(0, {}, { FUSCO_HOSTID: '' })).toBe(hostIdentity(0, {}, {}));
  });

  it('that is named is never taken for a rank that shares nothing', () => {
    expect(hostIdentity(0, { host: 'rank 1' }, {})).not.toBe(hostIdentity(1, { directMemory: false }, {}));
  });
});

describe('hosts', () => {
  it('are numbered in the order of their first rank', () => {
    expect([...numberHosts(['b', 'a', 'b', 'c', 'a'])]).toEqual([0, 1, 0, 2, 1]);
    expect(numberHosts([])).toEqual(new Uint32Array(0));
  });

  it('are one for every rank where none shares', () => {
    const identities = [0, 1, 2].map((rank) => hostIdentity(rank, { directMemory: false }, {}));
    expect([...numberHosts(identities)]).toEqual([0, 1, 2]);
  });
});
