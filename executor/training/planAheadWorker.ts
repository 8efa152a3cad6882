// The thread behind planAhead.ts: a planner that answers one request after the other.

import { parentPort, workerData } from 'node:worker_threads';
import { FuscoError } from '../../planner/errors.ts';
import { Planner } from '../../planner/planner.ts';
import { specFields } from '../../planner/spec.ts';
import type { PlanAnswer, PlanRefusal, PlanRequest, WorkerStart } from './planAhead.ts';

const port = parentPort!;
const planner = await Planner.create((workerData as WorkerStart).module);

/** What an error says, without its class, which does not cross threads. */
function refusalOf(error: unknown): PlanRefusal {
  if (!(error instanceof FuscoError)) {
    return { error: { message: error instanceof Error ? (error.stack ?? error.message) : String(error) } };
  }
  const { code, message, details } = error;
  const { cause: _, path, ...rest } = details;
  // The constructor puts the path in front of the text again.
  const text = path === undefined ? message : message.slice(path.length + 2);
  return { error: { code, message: text, details: path === undefined ? rest : { ...rest, path } } };
}

port.on('message', ({ tables, options }: PlanRequest) => {
  const started = Number(process.hrtime.bigint());
  try {
    const { spec, decision, shards } = planner.planAll(tables, options);
    const ended = Number(process.hrtime.bigint());
    const answer: PlanAnswer = {
      fields: specFields(spec),
      decision,
      shards: shards.map((shard) => shard.bytes),
      started,
      ended,
    };
    // A shard owns its memory: it moves to the other thread, and this one keeps nothing of it.
    port.postMessage(
      answer,
      answer.shards.map((bytes) => bytes.buffer as ArrayBuffer),
    );
  } catch (error) {
    port.postMessage(refusalOf(error));
  }
});
