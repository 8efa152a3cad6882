// On the cuda backend, exchanges and experts are enqueued on two streams of every rank, and events order them. This thread
// waits only at the end. The spans are times between events.
//
// The package has no matrix product. Each expert copies its rows and then repeats a gate over a few tokens for a given
// time: a stand-in that shows how stages overlap. It does not show how fast a product is, and uses few SMs and little
// bandwidth.

import {
  type Cuda,
  type CudaEvent,
  createGroup,
  type DeviceBuffer,
  type Exchange,
  ExpertLayer,
  type GateCall,
  type Group,
  openCuda,
} from 'fusco';
import { type Engine, routingOf, type Sizes, tokensOf } from './engine.ts';
import type { Span, Stage } from './timeline.ts';

const F32_BYTES = 4;
/** The gate that experts repeat: a few tokens, each with a long choice. */
const BUSY_GATE = { experts: 1024, topk: 128, tokens: 32 };
const TIMED_REPEATS = 32;

interface Half {
  readonly exchange: Exchange;
  readonly layer: ExpertLayer;
  readonly tokens: readonly DeviceBuffer[];
  readonly rows: readonly DeviceBuffer[];
  /** What the experts made of the rows. */
  readonly made: readonly DeviceBuffer[];
  readonly weights: readonly DeviceBuffer[];
  readonly combined: readonly DeviceBuffer[];
}

/** Events around one stage, one for each rank's stream. */
interface Marks {
  readonly stage: Stage;
  readonly half: number;
  readonly starts: readonly CudaEvent[];
  readonly ends: readonly CudaEvent[];
}

/** Work that keeps every rank's stream busy for a while: enqueues and returns. */
function openBusyWork(group: Group, cuda: Cuda): () => void {
  const { tokens, ...options } = BUSY_GATE;
  const onEachRank = (words: number) =>
    group.localRanks.map((rank) => {
      const buffer = cuda.alloc(rank, words * F32_BYTES);
      cuda.fill(buffer, 0);
      return buffer;
    });
  const call: GateCall = {
    options,
    tokens: group.localRanks.map(() => tokens),
    logits: onEachRank(tokens * options.experts),
    ids: onEachRank(tokens * options.topk),
    weights: onEachRank(tokens * options.topk),
    scores: onEachRank(tokens * options.experts),
  };
  return () => void group.gate(call);
}

/** Nanoseconds that some work takes on the device when it is repeated. */
function timeOf(cuda: Cuda, work: () => void): number {
  const [start, end] = [cuda.event(0), cuda.event(0)];
  // The first time loads the kernel.
  work();
  cuda.synchronize();
  start.record();
  for (let i = 0; i < TIMED_REPEATS; i++) work();
  end.record();
  cuda.synchronize();
  const nanoseconds = (end.since(start) * 1e6) / TIMED_REPEATS;
  for (const event of [start, end]) event.close();
  return nanoseconds;
}

/** @param expertNanoseconds how long the experts of one half keep their stream busy */
export async function openCudaEngine(sizes: Sizes, expertNanoseconds: number): Promise<Engine> {
  const { ranks, hidden, topk, experts } = sizes;
  // All ranks on one GPU: times between events are those of one device.
  const devices = new Array<number>(ranks).fill(0);
  const cuda = openCuda(ranks, devices);
  // A second context, for its streams.
  const second = openCuda(ranks, devices);
  const group = await createGroup({ ranks, backend: 'cuda', cuda });
  const everyRank = Array.from({ length: ranks }, (_, rank) => rank);
  const up = (values: Float32Array, rank: number) => {
    const buffer = cuda.alloc(rank, values.byteLength);
    cuda.copy(rank, buffer, values, values.byteLength);
    return buffer;
  };
  const openHalf = async (half: number): Promise<Half> => {
    const plan = group.plan(routingOf(sizes, half), { experts, hidden, dtype: 'f32' });
    const exchange = await group.prepare(plan);
    const sized = (counts: readonly number[]) =>
      counts.map((count, rank) => cuda.alloc(rank, Math.max(1, count * hidden * F32_BYTES)));
    return {
      exchange,
      layer: new ExpertLayer(exchange, { hidden, dtype: 'f32' }),
      tokens: everyRank.map((rank) => up(tokensOf(sizes, half, rank), rank)),
      rows: sized(exchange.recvRows),
      made: sized(exchange.recvRows),
      weights: exchange.tokens.map((count, rank) => up(new Float32Array(count * topk).fill(1 / topk), rank)),
      combined: sized(exchange.tokens),
    };
  };
  const halves = [await openHalf(0), await openHalf(1)];
  const busyWork = openBusyWork(group, cuda);
  const repeats = Math.max(1, Math.round(expertNanoseconds / timeOf(cuda, busyWork)));
  let marks: Marks[] = [];
  const markOn = () =>
    everyRank.map((rank) => {
      const event = cuda.event(rank);
      event.record();
      return event;
    });
  /** Enqueues a stage on one of the two streams of every rank, behind the stage that it needs. */
  const enqueue = async (stage: Stage, half: number, needs: Stage | undefined, work: () => unknown) => {
    for (const rank of everyRank) cuda.setStream(rank, stage === 'experts' ? second.stream(rank) : 0n);
    const needed = marks.find((each) => each.stage === needs && each.half === half);
    needed?.ends.forEach((event, rank) => {
      event.wait(rank);
    });
    const starts = markOn();
    // On device memory this enqueues before it returns, so the next stage can be enqueued behind it at once.
    const enqueued = work();
    marks.push({ stage, half, starts, ends: markOn() });
    await enqueued;
  };
  return {
    dispatch: (half) => {
      const { layer, tokens, rows } = halves[half]!;
      return enqueue('dispatch', half, undefined, () => layer.dispatch({ tokens, rows }));
    },
    experts: (half) =>
      enqueue('experts', half, 'dispatch', () => {
        const { rows, made } = halves[half]!;
        for (const rank of everyRank) {
          cuda.copy(rank, made[rank]!, rows[rank]!, rows[rank]!.bytes);
        }
        for (let i = 0; i < repeats; i++) busyWork();
      }),
    combine: (half) => {
      const { layer, made: rows, combined: tokens, weights } = halves[half]!;
      return enqueue('combine', half, 'experts', () => layer.combine({ rows, tokens, weights }));
    },
    async finish() {
      for (const { ends } of marks) for (const event of ends) event.synchronize();
      const origin = marks[0]!.starts[0]!;
      const spans = marks.map(({ stage, half, starts, ends }): Span => {
        const times = (events: readonly CudaEvent[]) => events.map((event) => event.since(origin));
        return { stage, half, start: Math.min(...times(starts)), end: Math.max(...times(ends)) };
      });
      for (const { starts, ends } of marks) for (const event of [...starts, ...ends]) event.close();
      marks = [];
      return spans;
    },
    results: () => {
      for (const rank of everyRank) cuda.setStream(rank, 0n);
      const read = halves.flatMap(({ combined }) =>
        combined.map((buffer) => {
          const values = new Float32Array(buffer.bytes / F32_BYTES);
          cuda.copy(buffer.rank, values, buffer, buffer.bytes);
          return values;
        }),
      );
      cuda.synchronize();
      return read;
    },
    [Symbol.dispose]: () => {
      for (const rank of everyRank) cuda.setStream(rank, 0n);
      void group.close();
      second.close();
      cuda.close();
    },
  };
}
