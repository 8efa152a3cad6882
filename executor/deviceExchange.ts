// Exchanges along plans that were made on the devices, from expert ids in device memory.

import { decide } from '../planner/decide.ts';
import { FuscoError } from '../planner/errors.ts';
import { hex, joinBytes } from '../planner/format/bytes.ts';
import { coreOf, DIGEST_BYTES, idOf, pack } from '../planner/format/digest.ts';
import { encodePlan } from '../planner/format/encode.ts';
import { Shard } from '../planner/format/shard.ts';
import { nodeSha256 } from '../planner/node.ts';
import type { Plan, VerifiedPlan } from '../planner/plan.ts';
import type { PlanSpec } from '../planner/spec.ts';
import { verifyPlan } from '../planner/verify/verify.ts';
import type { DevicePlanRequest, ExternalMemory, IdDtype, PreparedDevicePlan } from './backends/types.ts';
import { bytesOf, type Memory } from './memory.ts';
import { needAddon } from './native/addon.ts';
import { attempt } from './native/errors.ts';
import { PlanExchange } from './planExchange.ts';
import type { ExpertBlocks } from './training/expertBlocks.ts';

export type { IdDtype } from './backends/types.ts';

/** Expert ids of the local ranks in device memory. Lists have one element for each local rank. */
export interface DeviceRouting {
  /**
   * [tokens, topk] each, contiguous; -1: masked. Device memory, which must not change until planning is done; typed arrays
   * are copied to the device, which a capture does not allow.
   */
  readonly ids: readonly Memory[];
  /** Default: that of typed arrays; of device memory i32, as `group.gate` writes ids. */
  readonly idDtype?: IdDtype;
  readonly tokens: readonly number[];
  readonly topk: number;
  /** Most tokens of any rank, which sizes the tables; the same on all ranks. Default: the most of the local ranks. */
  readonly maxTokens?: number;
  /**
   * Rows of every receive buffer; the same on all ranks. Slots at or beyond it behave as dropped and are counted. Without
   * it, receive buffers have exactly the rows of the plan, which costs one wait for the device. Needed in a capture.
   */
  readonly maxRecvRows?: number;
}

/** Bytes of all ranks, of any length; what a rank throws is thrown on all ranks. */
export type GatherAll = (what: string, make: () => Promise<Uint8Array>) => Promise<Uint8Array[]>;

/** What an exchange needs to know of its group. */
interface DeviceGroup {
  readonly localRanks: readonly number[];
  readonly gather: GatherAll | undefined;
  readonly onClose: () => void;
}

/** What the host has read of the receive side: of a plan without a bound. */
interface ReceiveSide {
  readonly recvRows: readonly number[];
  readonly blocks: readonly ExpertBlocks[] | undefined;
}

/** Reads the sizes of the receive side, and each local rank's expert blocks. */
async function readReceiveSide(
  spec: PlanSpec,
  localRanks: readonly number[],
  prepared: PreparedDevicePlan,
): Promise<ReceiveSide> {
  const recvRows = await prepared.recvRows();
  const { rankFirst, instanceExpert } = spec.placement;
  const blocks = localRanks.map((rank, local) => {
    const { localInstances, expertCounts, expertOffsets } = prepared.view(local);
    const first = rankFirst[rank]!;
    return {
      rank,
      experts: instanceExpert.subarray(first, first + localInstances),
      expertOffsets: prepared.words(local, expertOffsets, localInstances + 1),
      expertCounts: prepared.words(local, expertCounts, localInstances),
    };
  });
  return { recvRows, blocks };
}

/**
 * An exchange along a plan that was made on the devices. Its calls enqueue, and wait for nothing. The plan itself, and what
 * follows from it, is read back when it is asked for: these methods wait, and throw the error of a bad id. Calls treat a
 * bad id as masked.
 *
 * If ranks live in other processes, `plan`, `planId` and `save` are collective: all ranks call them.
 */
export class DeviceExchange extends PlanExchange {
  /** The options of the plan, with every default filled in. */
  readonly spec: PlanSpec;
  readonly #plan: PreparedDevicePlan;
  readonly #group: DeviceGroup;
  readonly #blocks: readonly ExpertBlocks[] | undefined;

  private constructor(
    request: DevicePlanRequest,
    prepared: PreparedDevicePlan,
    group: DeviceGroup,
    side: ReceiveSide,
  ) {
    const tokens = request.ids.map((ids) => ids.tokens);
    const entries = tokens.map((count) => count * request.spec.topk);
    super(group.localRanks, { tokens, entries, recvRows: side.recvRows }, prepared, group.onClose);
    this.spec = request.spec;
    this.#plan = prepared;
    this.#group = group;
    this.#blocks = side.blocks;
  }

  /** For Group.planOnDevice. */
  static async open(
    request: DevicePlanRequest,
    prepared: PreparedDevicePlan,
    group: DeviceGroup,
  ): Promise<DeviceExchange> {
    const { spec, maxRecvRows } = request;
    if (maxRecvRows > 0) {
      const recvRows = group.localRanks.map(() => maxRecvRows);
      return new DeviceExchange(request, prepared, group, { recvRows, blocks: undefined });
    }
    try {
      const side = await readReceiveSide(spec, group.localRanks, prepared);
      return new DeviceExchange(request, prepared, group, side);
    } catch (error) {
      prepared.close();
      throw error;
    }
  }

  /** Throws E_OPTION for an exchange with a bound: only the device knows its blocks then. */
  expertBlocks(): readonly ExpertBlocks[] {
    if (this.#blocks !== undefined) return this.#blocks;
    throw new FuscoError('E_OPTION', 'with maxRecvRows the expert blocks are known on the device only', {
      hint: 'Read expertCounts and expertOffsets on the device, or plan without maxRecvRows.',
    });
  }

  /** u32 [local experts] in device memory: real rows of each expert's block, at most what fits below the bound. */
  expertCounts(local: number): ExternalMemory {
    const { expertCounts, localInstances } = this.#view(local);
    return { address: expertCounts, bytes: 4 * localInstances };
  }

  /** u32 [local experts + 1] in device memory: first row of each expert's block, at most the bound. */
  expertOffsets(local: number): ExternalMemory {
    const { expertOffsets, localInstances } = this.#view(local);
    return { address: expertOffsets, bytes: 4 * (localInstances + 1) };
  }

  /** Rows at or beyond maxRecvRows, for each local rank. Waits. */
  async overflowRows(): Promise<number[]> {
    this.refuseClosed();
    await this.#plan.recvRows();
    return this.localRanks.map((_, local) => {
      const { overflowRows } = this.#view(local);
      return this.#plan.words(local, overflowRows, 1)[0]!;
    });
  }

  #view(local: number) {
    this.refuseClosed();
    if (this.localRanks[local] === undefined) {
      throw new FuscoError('E_OPTION', `local rank ${local} of ${this.localRanks.length}`, {
        value: local,
        limit: this.localRanks.length,
      });
    }
    return this.#plan.view(local);
  }

  /** SHA-256 of each local rank's shard, 64 hex digits. */
  async shardDigests(): Promise<string[]> {
    this.refuseClosed();
    const digests: string[] = [];
    for (const bytes of await this.#plan.shards()) digests.push(hex(await nodeSha256([bytes])));
    return digests;
  }

  /**
   * The whole plan, verified. Collective.
   *
   * @throws FuscoError E_ROUTING_ID, E_ROUTING_DUPLICATE for a bad id of any rank; E_PEER_TIMEOUT
   */
  async plan(): Promise<VerifiedPlan> {
    this.refuseClosed();
    const parts = await this.#gathered('shards of a plan', () => this.#plan.shards());
    const shards = parts.map((bytes, rank) => Shard.open(bytes, rank));
    return verifyPlan({ ...this.#decided(joinRows(shards)), shards });
  }

  /** The plan id, 64 hex digits. Collective; only digests and row counts travel. Throws as plan does. */
  async planId(): Promise<string> {
    this.refuseClosed();
    const parts = await this.#gathered('digests of a plan', async () => {
      const shards = await this.#plan.shards();
      return Promise.all(
        shards.map(async (bytes, local) => {
          const { forwardRows } = Shard.open(bytes, this.localRanks[local]!);
          return joinBytes([Uint8Array.from(await nodeSha256([bytes])), bytesOf(forwardRows)]);
        }),
      );
    });
    const rows = parts.map((bytes) => new Uint32Array(Uint8Array.from(bytes.subarray(DIGEST_BYTES)).buffer));
    const core = pack(coreOf(this.#decided(joinLists(rows))));
    const digests = parts.map((bytes) => bytes.subarray(0, DIGEST_BYTES));
    return hex(await idOf(core, digests, nodeSha256));
  }

  /**
   * Writes the plan as a file. Collective: rank 0 writes it, under a temporary name that is renamed.
   *
   * @returns the plan id
   * @throws FuscoError as plan does; E_FILE_WRITE, on every rank
   */
  async save(path: string): Promise<string> {
    const plan = await this.plan();
    const { bytes, planId } = await encodePlan(plan, nodeSha256);
    await this.#gathered('a written plan', async () => {
      if (this.localRanks[0] === 0) writePlan(path, bytes);
      return this.localRanks.map(() => new Uint8Array(0));
    });
    return planId;
  }

  /** Strategy and forwarders, from the rows per node of all ranks. */
  #decided(nodeRows: Uint32Array): Omit<Plan, 'shards'> {
    return decide(this.spec, { counts: new Uint32Array(0), nodeRows });
  }

  /** One element for each rank of the group; `make` returns those of the local ranks. */
  async #gathered(what: string, make: () => Promise<Uint8Array[]>): Promise<Uint8Array[]> {
    const { gather } = this.#group;
    return gather === undefined ? make() : gather(what, async () => (await make())[0]!);
  }
}

function joinLists(lists: readonly Uint32Array[]): Uint32Array {
  return Uint32Array.from(lists.flatMap((list) => [...list]));
}

function joinRows(shards: readonly Shard[]): Uint32Array {
  return joinLists(shards.map(({ forwardRows }) => forwardRows));
}

function writePlan(path: string, bytes: Uint8Array): void {
  const { PlanFile } = needAddon('native plan file');
  attempt(() => {
    const file = new PlanFile(bytes);
    try {
      file.write(path, '');
    } finally {
      file.close();
    }
  });
}
