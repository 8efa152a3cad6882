// How a group over processes opens: what ranks compare, what each is told, and what is left of a failure. The addon is
// played, so that this needs neither NCCL nor a GPU; sessions are real.

import { beforeEach, describe, expect, it, vi } from 'vitest';
import { Cuda } from '../../../../executor/backends/cuda/context.ts';
import { type NcclOptions, ncclBackend } from '../../../../executor/backends/nccl/backend.ts';
import { createGroup } from '../../../../executor/group.ts';
import type { Addon, NativeCudaContext } from '../../../../executor/native/addon.ts';
import type { NativeNcclGroupDesc } from '../../../../executor/native/types.ts';
import type { Session } from '../../../../executor/rendezvous/session.ts';
import { closeAll, localGroup } from '../../rendezvous/support.ts';

/** What the addon plays in a test. */
const played = vi.hoisted(() => ({
  versions: [] as number[],
  open: (_: NativeNcclGroupDesc): Promise<void> => Promise.resolve(),
  uniqueId: () => new Uint8Array(128).fill(7),
  descs: [] as NativeNcclGroupDesc[],
  /** What a native group's kernels have recorded. */
  check: (): Promise<void> => Promise.resolve(),
  /** Why each rank's native group was told to give up. */
  aborted: [] as string[],
}));

vi.mock('../../../../executor/native/addon.ts', () => {
  class NcclGroup {
    readonly #desc: NativeNcclGroupDesc;
    constructor(_: unknown, desc: NativeNcclGroupDesc) {
      this.#desc = desc;
      played.descs[desc.rank] = desc;
    }
    open = () => played.open(this.#desc);
    check = () => played.check();
    abort = (why: string) => {
      played.aborted[this.#desc.rank] = why;
    };
    close = async () => {};
  }
  const addon = {
    NcclGroup,
    ncclLibrary: () => ({ path: 'played', version: played.versions.shift() ?? 22_000 }),
    ncclUniqueId: () => played.uniqueId(),
  };
  const found = addon as unknown as Addon;
  return { findAddon: () => ({ addon: found }), needAddon: () => found };
});

const cuda = new Cuda(1, {} as NativeCudaContext);
const nativeError = (code: string, message: string) => Object.assign(new Error(message), { code });

beforeEach(() => {
  played.versions = [];
  played.open = () => Promise.resolve();
  played.uniqueId = () => new Uint8Array(128).fill(7);
  played.descs = [];
  played.check = () => Promise.resolve();
  played.aborted = [];
});

/** Opens every rank's backend; gives what each ended with. */
async function openAll(sessions: readonly Session[], options: (rank: number) => NcclOptions = () => ({})) {
  const opened = await Promise.allSettled(
    sessions.map((session, rank) =>
      ncclBackend({ coordinator: session, ownsCoordinator: false, cuda }, options(rank)),
    ),
  );
  return opened.map((one) => (one.status === 'rejected' ? one.reason : undefined));
}

describe('a group over processes', () => {
  it('gives every rank the same id, settings and hosts, and a mailbox to those that share a machine', async () => {
    const sessions = await localGroup(4);
    const hosts = ['a', 'b', 'a', 'c'];
    const options = (rank: number) => ({ host: hosts[rank]!, stepBytes: 4096, maxCtas: rank });
    expect(await openAll(sessions, options)).toEqual(new Array(4).fill(undefined));
    const [zero] = played.descs;
    for (const [rank, desc] of played.descs.entries()) {
      expect(desc).toMatchObject({ ranks: 4, rank, roundBytes: 4096, maxCtas: rank, deadlineMs: 10_000 });
      expect([...desc.machines]).toEqual([0, 1, 0, 2]);
      expect([...desc.id]).toEqual(new Array(128).fill(7));
    }
    expect(zero!.mailbox).toMatch(/^\/fusco-[0-9a-f]{16}-0$/);
    expect(played.descs.map(({ mailbox }) => mailbox)).toEqual([zero!.mailbox, '', zero!.mailbox, '']);
    await closeAll(sessions);
  });

  it('has another mailbox each time', async () => {
    const sessions = await localGroup(2);
    await openAll(sessions);
    const [{ mailbox }] = played.descs as [NativeNcclGroupDesc];
    await openAll(sessions);
    expect(played.descs[0]!.mailbox).not.toBe(mailbox);
    await closeAll(sessions);
  });

  it.each<[string, (rank: number) => NcclOptions, number[], RegExp]>([
    [
      'another version of NCCL',
      () => ({}),
      [22_000, 22_000, 22_103, 22_000, 22_000, 22_103],
      /^NCCL version /,
    ],
    ['rounds of another size', (rank) => ({ stepBytes: rank === 2 ? 5 : 4 }), [], /^stepBytes /],
  ])('with %s in one rank says so on every rank', async (_, options, versions, message) => {
    const sessions = await localGroup(3);
    played.versions = versions;
    for (const error of await openAll(sessions, options)) {
      expect(error).toMatchObject({ code: 'E_PEER_MISMATCH' });
      expect(error.message).toMatch(message);
    }
    await closeAll(sessions);
  });

  it('refuses settings out of range before anything else', async () => {
    const sessions = await localGroup(2);
    const errors = await openAll(sessions, () => ({ maxCtas: 65 }));
    expect(errors).toMatchObject([{ code: 'E_OPTION' }, { code: 'E_OPTION' }]);
    await Promise.all(sessions.map((session) => session.barrier()));
    await closeAll(sessions);
  });
});

describe('what fails natively while a group opens', () => {
  it.each(['E_LIMIT', 'E_BACKEND', 'E_PEER_TIMEOUT'])('with %s is what the rank is told', async (code) => {
    const sessions = await localGroup(2);
    played.open = () => Promise.reject(nativeError(code, 'as it says'));
    for (const error of await openAll(sessions)) {
      expect(error).toMatchObject({ name: 'FuscoError', code, message: 'as it says' });
    }
    // Not the end of the session, which is the caller's.
    await Promise.all(sessions.map((session) => session.barrier()));
    await closeAll(sessions);
  });

  it('in making the id is one of this package’s errors, too', async () => {
    const sessions = await localGroup(1);
    played.uniqueId = () => {
      throw nativeError('E_BACKEND', 'NCCL makes no id');
    };
    expect(await openAll(sessions)).toMatchObject([{ name: 'FuscoError', code: 'E_BACKEND' }]);
    await closeAll(sessions);
  });

  it('after the session has failed is told as the session says it, and native code is told to give up', async () => {
    const sessions = await localGroup(3);
    // Native code of every rank waits for rank 2 until it is told to give up.
    played.open = async ({ rank }) => {
      await expect.poll(() => played.aborted[rank]).toBeDefined();
      throw nativeError('E_PEER_TIMEOUT', played.aborted[rank]!);
    };
    const opening = openAll(sessions);
    await expect.poll(() => Object.keys(played.descs)).toHaveLength(3);
    sessions[0]!.announce(2, Uint8Array.of(1));
    sessions[2]!.announce(2, Uint8Array.of(2));
    for (const [rank, error] of (await opening).entries()) {
      expect(error).toBe(sessions[rank]!.failure);
      expect(error).toMatchObject({ code: 'E_PEER_MISMATCH' });
    }
    expect(played.aborted).toHaveLength(3);
    for (const why of played.aborted) expect(why).toMatch(/^in call 2 rank [02] makes a different exchange/);
    await closeAll(sessions);
  });
});

describe('createGroup', () => {
  it('over a session of another size refuses before ranks compare anything', async () => {
    const sessions = await localGroup(2);
    const [session] = sessions;
    await expect(
      createGroup({ backend: 'nccl', ranks: 3, nccl: { session: session! }, cuda }),
    ).rejects.toMatchObject({
      code: 'E_RANKS',
      message: 'a group of 3 ranks in a session of 2',
      details: { value: 3, limit: 2 },
    });
    await Promise.all(sessions.map((one) => one.barrier()));
    await closeAll(sessions);
  });
});

describe('check of a group over processes', () => {
  it('rejects with what the kernels have recorded until then, and with nothing before', async () => {
    const [session] = (await localGroup(1)) as [Session];
    const group = await createGroup({ backend: 'nccl', nccl: { session }, cuda });
    await group.check();
    played.check = () => Promise.reject(nativeError('E_PEER_TIMEOUT', 'rank 3 did not take part'));
    await expect(group.check()).rejects.toMatchObject({
      name: 'FuscoError',
      code: 'E_PEER_TIMEOUT',
      message: 'rank 3 did not take part',
    });
    played.check = () => Promise.resolve();
    await group.close();
    await expect(group.check()).rejects.toMatchObject({ code: 'E_CLOSED' });
    await closeAll([session]);
  });

  it('rejects with the failure of the session', async () => {
    const sessions = await localGroup(2);
    const opening = sessions.map((session) => createGroup({ backend: 'nccl', nccl: { session }, cuda }));
    const groups = await Promise.all(opening);
    for (const group of groups) await group.check();
    sessions[0]!.announce(2, Uint8Array.of(1));
    sessions[1]!.announce(2, Uint8Array.of(2));
    for (const [rank, group] of groups.entries()) {
      await expect.poll(() => sessions[rank]!.failure).toBeDefined();
      await expect(group.check()).rejects.toBe(sessions[rank]!.failure);
    }
    await closeAll(sessions);
  });
});
