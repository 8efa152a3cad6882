// What the nccl backend says where it cannot run, and what it shares with groups of one process.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { connect, createGroup, cudaDevices, ncclLibrary, type Session } from '../../../../executor/index.ts';
import { ncclCall } from '../../../../executor/internal.ts';
import { makeRouting, toTables } from '../../../support/workloads.ts';
import { freePort } from '../../rendezvous/support.ts';

const sessions: Session[] = [];
afterEach(async () => {
  vi.unstubAllEnvs();
  await Promise.all(sessions.splice(0).map((session) => session.close()));
});

async function alone(): Promise<Session> {
  const session = await connect({ rank: 0, worldSize: 1, logger: () => {} });
  sessions.push(session);
  return session;
}

const canRun = ncclLibrary().reason === undefined && cudaDevices().devices.length > 0;
const tables = toTables(
  makeRouting({ family: 'balanced', seed: 1, ranks: 2, tokens: 6, topk: 2, experts: 8 }),
  2,
);

describe('a group of processes', () => {
  it.skipIf(canRun)(
    'is refused where NCCL or a GPU is missing, with the reason, and leaves the session alone',
    async () => {
      const session = await alone();
      const made = createGroup({ backend: 'nccl', nccl: { session } });
      await expect(made).rejects.toMatchObject({
        code: 'E_BACKEND',
        message: expect.stringMatching(/NCCL|GPU/),
      });
      await session.barrier();
    },
  );

  it.skipIf(canRun)('closes the session that it made when it is refused', async () => {
    vi.stubEnv('RANK', '0');
    vi.stubEnv('WORLD_SIZE', '1');
    vi.stubEnv('MASTER_ADDR', '127.0.0.1');
    vi.stubEnv('MASTER_PORT', String(await freePort()));
    // Were the first session still there, the second could not listen.
    for (let i = 0; i < 2; i++) {
      await expect(createGroup({ backend: 'nccl' })).rejects.toMatchObject({ code: 'E_BACKEND' });
    }
  });

  it('ends the process by itself where NCCL is missing, on every rank and long before the deadline', async () => {
    const script = `
      import { createGroup } from ${JSON.stringify(new URL('../../../../dist/executor/index.js', import.meta.url))};
      await createGroup({ backend: 'nccl' }).catch(({ code }) => console.log(code));
    `;
    const port = await freePort();
    const started = performance.now();
    const ranks = ['0', '1'].map((RANK) => {
      const group = { RANK, WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port) };
      const env = { PATH: process.env.PATH, ...group, FUSCO_NCCL_PATH: '/nowhere/libnccl.so.2' };
      const args = ['--input-type=module', '-e', script];
      return promisify(execFile)(process.execPath, args, { env, timeout: 50_000 });
    });
    const ended = await Promise.all(ranks);
    expect(ended.map(({ stdout }) => stdout)).toEqual(['E_BACKEND\n', 'E_BACKEND\n']);
    expect(performance.now() - started).toBeLessThan(30_000);
  });

  it('has as many ranks as its session', async () => {
    const made = createGroup({ backend: 'nccl', ranks: 4, nccl: { session: await alone() } });
    await expect(made).rejects.toMatchObject({
      code: 'E_RANKS',
      message: expect.stringContaining('4 ranks in a session of 1'),
    });
  });

  it.each([
    [{ stepBytes: 0 }, 'stepBytes'],
    [{ stepBytes: 1.5 }, 'stepBytes'],
    [{ maxCtas: 65 }, 'maxCtas'],
  ])('refuses %o', async (option, name) => {
    const made = createGroup({ backend: 'nccl', nccl: { session: await alone(), ...option } });
    await expect(made).rejects.toMatchObject({ code: 'E_OPTION', message: expect.stringContaining(name) });
  });

  it('refuses a FUSCO_STEP_BYTES that is no number, by its name', async () => {
    vi.stubEnv('FUSCO_STEP_BYTES', 'many');
    const made = createGroup({ backend: 'nccl', nccl: { session: await alone() } });
    await expect(made).rejects.toMatchObject({
      code: 'E_OPTION',
      message: expect.stringContaining('FUSCO_STEP_BYTES'),
    });
  });
});

describe('a group of one process', () => {
  it.each(['reference', 'auto'] as const)(
    'plans from local routing as from all routing: %s',
    async (backend) => {
      await using group = await createGroup({ ranks: 2, backend });
      const options = { experts: 8, hidden: 4 };
      const [local, whole] = [await group.planLocal(tables, options), group.plan(tables, options)];
      expect(local.shards.map((shard) => Buffer.from(shard.bytes))).toEqual(
        whole.shards.map((shard) => Buffer.from(shard.bytes)),
      );
    },
  );

  it('needs no memory beside the caller’s, and says so', async () => {
    await using group = await createGroup({ ranks: 2 });
    using exchange = await group.prepare(group.plan(tables, { experts: 8, hidden: 4 }));
    expect(exchange.bufferBytes(64)).toEqual({ tables: 0, dispatch: 0, combine: 0 });
    for (const rowBytes of [0, -1, 1.5, 2 ** 24 + 1]) {
      expect(() => exchange.bufferBytes(rowBytes)).toThrow(expect.objectContaining({ code: 'E_OPTION' }));
    }
    const call = ncclCall(exchange, 'unfused dispatch', async () => {});
    await expect(call).rejects.toMatchObject({ code: 'E_BACKEND' });
  });
});
