import { describe, expect, it } from 'vitest';
import { machineIdentity, numberMachines } from '../../../../executor/backends/nccl/machines.ts';

describe('ranks share a host', () => {
  it('where their machine is the same, whatever their rank', () => {
    expect(machineIdentity(0, {}, {})).toBe(machineIdentity(7, {}, {}));
    expect(machineIdentity(0, {}, {})).toMatch(/^machine ./);
  });

  it('never where memory is not to be reached: by option, or by FUSCO_IPC=0', () => {
    expect(machineIdentity(3, { directMemory: false }, {})).toBe('rank 3');
    expect(machineIdentity(3, {}, { FUSCO_IPC: '0' })).toBe('rank 3');
    expect(machineIdentity(3, { directMemory: true }, { FUSCO_IPC: '0' })).toMatch(/^machine /);
  });

  it('where they are told so: by option before FUSCO_HOSTID', () => {
    expect(machineIdentity(0, {}, { FUSCO_HOSTID: 'a' })).toBe('host a');
    expect(machineIdentity(0, { host: 'b' }, { FUSCO_HOSTID: 'a' })).toBe('host b');
    expect(machineIdentity(0, { directMemory: false, host: 'b' }, {})).toBe('rank 0');
  });

  it('under numbers in the order in which hosts appear', () => {
    expect([...numberMachines(['x', 'y', 'x', 'z', 'y'])]).toEqual([0, 1, 0, 2, 1]);
    expect([...numberMachines([])]).toEqual([]);
  });
});
