import { describe, expect, it } from 'vitest';
import { hostIdentity, numberHosts } from '../../../../executor/backends/nccl/hosts.ts';

describe('ranks share a host', () => {
  it('where their machine is the same, whatever their rank', () => {
    expect(hostIdentity(0, {}, {})).toBe(hostIdentity(7, {}, {}));
    expect(hostIdentity(0, {}, {})).toMatch(/^machine ./);
  });

  it('never where memory is not to be reached: by option, or by FUSCO_IPC=0', () => {
    expect(hostIdentity(3, { directMemory: false }, {})).toBe('rank 3');
    expect(hostIdentity(3, {}, { FUSCO_IPC: '0' })).toBe('rank 3');
    expect(hostIdentity(3, { directMemory: true }, { FUSCO_IPC: '0' })).toMatch(/^machine /);
  });

  it('where they are told so: by option before FUSCO_HOSTID', () => {
    expect(hostIdentity(0, {}, { FUSCO_HOSTID: 'a' })).toBe('host a');
    expect(hostIdentity(0, { host: 'b' }, { FUSCO_HOSTID: 'a' })).toBe('host b');
    expect(hostIdentity(0, { directMemory: false, host: 'b' }, {})).toBe('rank 0');
  });

  it('under numbers in the order in which hosts appear', () => {
    expect([...numberHosts(['x', 'y', 'x', 'z', 'y'])]).toEqual([0, 1, 0, 2, 1]);
    expect([...numberHosts([])]).toEqual([]);
  });
});
