import { describe, expect, it } from 'vitest';
import {
  type BootstrapOptions,
  jobPort,
  resolveBootstrap,
} from '../../../executor/rendezvous/environment.ts';
import { firstHost, tasksOfNode } from '../../../executor/rendezvous/slurm.ts';

const TORCHRUN = {
  RANK: '5',
  WORLD_SIZE: '8',
  LOCAL_RANK: '1',
  LOCAL_WORLD_SIZE: '4',
  MASTER_ADDR: 'head',
  MASTER_PORT: '29500',
};
const SLURM = {
  SLURM_PROCID: '5',
  SLURM_NTASKS: '6',
  SLURM_LOCALID: '1',
  SLURM_NODEID: '2',
  SLURM_TASKS_PER_NODE: '2(x3)',
  SLURM_JOB_NODELIST: 'node[003-005]',
  SLURM_JOB_ID: '4711',
  SLURM_STEP_ID: '0',
};
const OPEN_MPI = {
  OMPI_COMM_WORLD_RANK: '3',
  OMPI_COMM_WORLD_SIZE: '4',
  OMPI_COMM_WORLD_LOCAL_RANK: '3',
  OMPI_COMM_WORLD_LOCAL_SIZE: '4',
  PMIX_NAMESPACE: 'prterun-host-17@1',
};

const refusal = (options: BootstrapOptions, env: Record<string, string>) => {
  try {
    resolveBootstrap(options, env);
  } catch (error) {
    return String(error);
  }
  return 'accepted';
};

describe('where a process stands in its group', () => {
  it('is what torchrun says', () => {
    expect(resolveBootstrap({}, TORCHRUN)).toEqual({
      rank: 5,
      worldSize: 8,
      localRank: 1,
      localWorldSize: 4,
      host: 'head',
      port: 29500,
      secret: '',
      deadlineMs: 60_000,
      heartbeatMs: 250,
    });
  });

  it('meets beside the store that torchrun itself keeps at MASTER_PORT', () => {
    const agent = { ...TORCHRUN, TORCHELASTIC_USE_AGENT_STORE: 'True', TORCHELASTIC_RUN_ID: 'none' };
    const port = resolveBootstrap({}, agent).port;
    expect(port).toBeGreaterThanOrEqual(15_000);
    expect(port).toBeLessThan(30_000);
    expect(resolveBootstrap({}, { ...agent, RANK: '0' }).port).toBe(port);
    // Two runs on one machine have two stores, and meet at two ports.
    expect(resolveBootstrap({}, { ...agent, MASTER_PORT: '29501' }).port).not.toBe(port);
    expect(resolveBootstrap({ address: 'head:4000' }, agent)).toMatchObject({ host: 'head', port: 4000 });
    expect(resolveBootstrap({}, { ...TORCHRUN, TORCHELASTIC_USE_AGENT_STORE: 'False' }).port).toBe(29500);
  });

  it('is what Slurm says, with a port that follows from the job', () => {
    const bootstrap = resolveBootstrap({}, SLURM);
    expect(bootstrap).toMatchObject({
      rank: 5,
      worldSize: 6,
      localRank: 1,
      localWorldSize: 2,
      host: 'node003',
    });
    expect(bootstrap.port).toBe(
      resolveBootstrap({}, { ...SLURM, SLURM_PROCID: '0', SLURM_NODEID: '0' }).port,
    );
    const ports = ['4711', '4712'].map((job) => resolveBootstrap({}, { ...SLURM, SLURM_JOB_ID: job }).port);
    expect(ports[0]).not.toBe(ports[1]);
    expect(Math.min(...ports)).toBeGreaterThanOrEqual(15_000);
    expect(Math.max(...ports)).toBeLessThan(30_000);
  });

  it('takes the nodes of the call, and MASTER_ADDR and MASTER_PORT before what follows from the job', () => {
    const call = { ...SLURM, SLURM_STEP_NODELIST: 'node005', SLURM_STEP_NUM_TASKS: '7' };
    expect(resolveBootstrap({}, call)).toMatchObject({ host: 'node005', worldSize: 7 });
    const told = { ...SLURM, MASTER_ADDR: 'other', MASTER_PORT: '1234' };
    expect(resolveBootstrap({}, told)).toMatchObject({ host: 'other', port: 1234 });
  });

  it('is what Open MPI says: on one host loopback, else MASTER_ADDR', () => {
    expect(resolveBootstrap({}, OPEN_MPI)).toMatchObject({
      rank: 3,
      worldSize: 4,
      localRank: 3,
      localWorldSize: 4,
      host: '127.0.0.1',
      port: jobPort('prterun-host-17@1'),
    });
    const spread = { ...OPEN_MPI, OMPI_COMM_WORLD_LOCAL_SIZE: '2', OMPI_COMM_WORLD_LOCAL_RANK: '1' };
    expect(refusal({}, spread)).toMatch(/^E_BOOTSTRAP .*MASTER_ADDR/);
    const told = { ...spread, MASTER_ADDR: 'head', MASTER_PORT: '7777' };
    expect(resolveBootstrap({}, told)).toMatchObject({ host: 'head', port: 7777, localWorldSize: 2 });
  });

  it('is what the nearest launcher says: torchrun in mpirun in a Slurm job', () => {
    expect(resolveBootstrap({}, { ...SLURM, ...OPEN_MPI })).toMatchObject({ rank: 3, worldSize: 4 });
    expect(resolveBootstrap({}, { ...SLURM, ...OPEN_MPI, ...TORCHRUN })).toMatchObject({
      rank: 5,
      worldSize: 8,
    });
  });

  it('is what the options say before any launcher', () => {
    const options = { rank: 1, worldSize: 2, localRank: 0, localWorldSize: 1, address: '10.0.0.7:99' };
    expect(resolveBootstrap({ ...options, secret: 's', deadlineMs: 500 }, TORCHRUN)).toEqual({
      ...{ rank: 1, worldSize: 2, localRank: 0, localWorldSize: 1, host: '10.0.0.7', port: 99 },
      ...{ secret: 's', deadlineMs: 500, heartbeatMs: 250 },
    });
    expect(resolveBootstrap({ rank: 1, worldSize: 2, address: '[fe80::1]:99' }, {})).toMatchObject({
      ...{ host: 'fe80::1', port: 99, localRank: undefined, localWorldSize: undefined },
    });
    expect(resolveBootstrap({ address: 'fe80::1' }, TORCHRUN)).toMatchObject({
      host: 'fe80::1',
      port: 29500,
    });
  });

  it('leaves out the local rank of a launcher whose rank it does not take', () => {
    const { localRank, localWorldSize } = resolveBootstrap({ rank: 0, worldSize: 2 }, TORCHRUN);
    expect([localRank, localWorldSize]).toEqual([undefined, undefined]);
  });

  it('needs no address alone', () => {
    expect(resolveBootstrap({ rank: 0, worldSize: 1 }, {})).toMatchObject({ host: '127.0.0.1', port: 0 });
  });

  it('reads secret and deadline from the environment', () => {
    const env = { ...TORCHRUN, FUSCO_SECRET: 'x', FUSCO_DEADLINE_MS: '1500' };
    expect(resolveBootstrap({}, env)).toMatchObject({ secret: 'x', deadlineMs: 1500 });
    for (const wrong of ['0', '99', '86400001', 'soon', '1.5']) {
      expect(refusal({}, { ...env, FUSCO_DEADLINE_MS: wrong })).toMatch(/^E_OPTION FUSCO_DEADLINE_MS/);
    }
    expect(refusal({}, { ...env, FUSCO_DEADLINE_MS: 'soon' })).toContain('FUSCO_DEADLINE_MS is "soon"');
  });

  it.each<[string, BootstrapOptions, Record<string, string>, RegExp]>([
    ['nothing', {}, {}, /rank and worldSize/],
    ['a rank alone', { rank: 0 }, {}, /nothing says worldSize/],
    ['no WORLD_SIZE', {}, { RANK: '0' }, /nothing says worldSize/],
    ['an empty RANK', {}, { ...TORCHRUN, RANK: '' }, /nothing says rank/],
    ['a rank that is no number', {}, { ...TORCHRUN, RANK: 'one' }, /RANK is "one"/],
    ['a negative rank', {}, { ...TORCHRUN, RANK: '-1' }, /RANK is "-1"/],
    ['a rank beyond the group', {}, { ...TORCHRUN, RANK: '8' }, /rank 8 of 8/],
    ['a group too large', {}, { ...TORCHRUN, WORLD_SIZE: '4097' }, /WORLD_SIZE is "4097"/],
    ['a local rank beyond its node', {}, { ...TORCHRUN, LOCAL_RANK: '4' }, /LOCAL_RANK is "4"/],
    ['a node larger than the group', {}, { ...TORCHRUN, LOCAL_WORLD_SIZE: '9' }, /LOCAL_WORLD_SIZE is "9"/],
    ['no MASTER_ADDR', {}, { ...TORCHRUN, MASTER_ADDR: '' }, /set MASTER_ADDR/],
    ['no MASTER_PORT', {}, { ...TORCHRUN, MASTER_PORT: '' }, /set MASTER_PORT/],
    ['a port out of range', {}, { ...TORCHRUN, MASTER_PORT: '65536' }, /MASTER_PORT is "65536"/],
    ['port 0 for several', {}, { ...TORCHRUN, MASTER_PORT: '0' }, /MASTER_PORT is "0"/],
    ['a node list of another form', {}, { ...SLURM, SLURM_JOB_NODELIST: 'node[1-' }, /SLURM_JOB_NODELIST/],
    ['a rank option that is no integer', { rank: 0.5, worldSize: 2 }, {}, /option rank is 0.5/],
    ['an address of another form', { ...{ rank: 0, worldSize: 2 }, address: 'a b:c' }, {}, /option address/],
  ])('is refused with %s', (_, options, env, text) => {
    expect(refusal(options, env)).toMatch(/^E_BOOTSTRAP /);
    expect(refusal(options, env)).toMatch(text);
  });
});

describe("Slurm's lists", () => {
  it.each([
    ['node1', 'node1'],
    ['node1,node2', 'node1'],
    ['node[003-010,012],gpu5', 'node003'],
    ['node[7]', 'node7'],
    ['rack[1-2]n[30,40-41]-ib,other', 'rack1n30-ib'],
    ['c1-a.b.example', 'c1-a.b.example'],
  ])('%s begins with %s', (list, host) => {
    expect(firstHost(list)).toBe(host);
  });

  it.each(['', ',a', 'node[', 'node[1-2', 'node]', 'node[a-b]'])('"%s" is no list', (list) => {
    expect(firstHost(list)).toBeUndefined();
  });

  it('say how many tasks a node has', () => {
    expect([0, 2, 3, 4, 5].map((node) => tasksOfNode('2(x3),1,4', node))).toEqual([2, 2, 1, 4, undefined]);
    expect(tasksOfNode('two', 0)).toBeUndefined();
  });
});
