// Recordings of groups whose ranks are processes: every rank writes its own files.
//
//   recording/
//     index-rank0.jsonl      one line a step of rank 0: {"formatVersion": 1, "step": 0, "directory": "step-000000",
//                            "rank": 0, "shardDigest": …, "nodeRows": […], "options": …, "table": {"sha256", …}}
//     step-000000/rank0.npy  ids of rank 0, as in a recording of one process
//
// A step is complete when all ranks have its line. Its plan id follows from the digests of all shards and, in hierarchical
// plans, from the rows that each rank sends to each node, which say who forwards.

import { decide } from '../../planner/decide.ts';
import { hex } from '../../planner/format/bytes.ts';
import { coreOf, idOf, pack } from '../../planner/format/digest.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { Plan } from '../../planner/plan.ts';
import { optionsOf, type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import { type Check, type Checked, hasFields, isCount, isListOf, isMatch } from '../fields.ts';
import type { NdDtype } from './npy.ts';

/** The entry of one rank's file in an index. */
export interface RecordedTable {
  /** SHA-256 of the whole file, in hex. */
  readonly sha256: string;
  readonly dtype: NdDtype;
  readonly tokens: number;
  readonly topk: number;
}

/** One step of one rank. */
export interface RankStep {
  readonly formatVersion: number;
  readonly step: number;
  readonly directory: string;
  readonly rank: number;
  /** SHA-256 of the rank's shard, in hex. */
  readonly shardDigest: string;
  /** [nodes]: forwarded rows of the rank; empty in flat plans. */
  readonly nodeRows: readonly number[];
  readonly options: PlanOptions;
  readonly table: RecordedTable;
}

export const rankIndex = (rank: number) => `index-rank${rank}.jsonl`;

const isDigest = isMatch(/^[0-9a-f]{64}$/);

/** Whether a line is a step of `rank`, given what a directory and a table are. */
export const isRankStep = (
  rank: number,
  isDirectory: Check<string>,
  isTable: Check<RecordedTable>,
): Check<RankStep> => {
  const fields = {
    formatVersion: isCount,
    step: isCount,
    directory: isDirectory,
    rank: (value: unknown): value is number => value === rank,
    shardDigest: isDigest,
    nodeRows: isListOf(isCount),
    options: (value: unknown): value is PlanOptions => typeof value === 'object' && value !== null,
    table: isTable,
  };
  return hasFields(fields) as Check<Checked<typeof fields>>;
};

/** The line of a rank's step. */
export async function rankStep(
  plan: Plan,
  rank: number,
  table: RecordedTable,
  where: Pick<RankStep, 'formatVersion' | 'step' | 'directory'>,
): Promise<RankStep> {
  const shard = plan.shards[rank]!;
  return {
    ...where,
    rank,
    shardDigest: hex(await nodeSha256([shard.bytes])),
    nodeRows: [...shard.forwardRows],
    options: optionsOf(plan.spec),
    table,
  };
}

/** The plan id of a step, from the lines of all ranks. */
export async function planIdOf(ranks: readonly RankStep[]): Promise<string> {
  const { options, table } = ranks[0]!;
  const nodeRows = Uint32Array.from(ranks.flatMap((line) => line.nodeRows));
  const decided = decide(resolveOptions(options, table.topk), { counts: new Uint32Array(0), nodeRows });
  const digests = ranks.map(({ shardDigest }) => Uint8Array.from(Buffer.from(shardDigest, 'hex')));
  return hex(await idOf(pack(coreOf(decided)), digests, nodeSha256));
}
