// A plan's predicted timeline as Chrome trace JSON, which Perfetto (ui.perfetto.dev) and chrome://tracing open.
//
// One process per rank, one track in it per stage of dispatch and combine. A track contains one event: the time during
// which this rank is busy in this stage. The stage may last longer, until its slowest rank is done. The time of the
// experts between dispatch and combine is not included; combine follows immediately.

import type { VerifiedPlan } from '../../planner/plan.ts';
import { type Exchange, timeExchange, timeRank } from './model.ts';
import { planExchanges } from './strategies.ts';
import { checkFit, linkedRanks, type Topology } from './topology.ts';

/** An event of the trace format: `M` names a process or a thread, `X` is a span; times in microseconds. */
export interface TraceEvent {
  readonly ph: 'M' | 'X';
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly cat?: string;
  readonly ts?: number;
  readonly dur?: number;
  readonly args: Readonly<Record<string, string | number>>;
}

export interface Trace {
  readonly displayTimeUnit: 'ns';
  readonly otherData: Readonly<Record<string, string | number>>;
  readonly traceEvents: readonly TraceEvent[];
}

/** Maximum number of tracks of one process. Perfetto needs track ids that are unique over all processes. */
const TRACKS = 64;

/** Process and thread 0 belong to the idle task of an operating system, and Perfetto hides them. */
const pidOf = (rank: number): number => rank + 1;

function nameEvents(pid: number, name: string, tracks: readonly string[]): TraceEvent[] {
  const meta = (kind: string, tid: number, args: TraceEvent['args']): TraceEvent => ({
    ph: 'M',
    name: kind,
    pid,
    tid,
    args,
  });
  return [
    meta('process_name', pid * TRACKS, { name }),
    meta('process_sort_index', pid * TRACKS, { sort_index: pid }),
    ...tracks.flatMap((track, i) => [
      meta('thread_name', pid * TRACKS + i, { name: track }),
      meta('thread_sort_index', pid * TRACKS + i, { sort_index: i }),
    ]),
  ];
}

/** Spans of one exchange that starts at `startUs`; its stages take tracks from `firstTrack`. */
function spansOf(
  exchange: Exchange,
  what: string,
  ranks: number,
  firstTrack: number,
  startUs: number,
  topology: Topology,
) {
  const { constants } = topology;
  const timed = timeExchange(exchange, constants);
  const spans: TraceEvent[] = [];
  const stages = exchange.groups.flat();
  for (const [i, stage] of stages.entries()) {
    for (let rank = 0; rank < ranks; rank++) {
      const { us, resource } = timeRank(stage, rank, constants);
      if (us === 0) continue;
      spans.push({
        ph: 'X',
        name: stage.name,
        cat: what,
        pid: pidOf(rank),
        tid: pidOf(rank) * TRACKS + firstTrack + i,
        ts: startUs + timed.stages[i]!.startUs,
        dur: us + constants.launchUs,
        args: {
          waitsFor: resource,
          nicBytes: stage.nic?.bytes[rank] ?? 0,
          nvlinkBytes: stage.nvlink?.bytes[rank] ?? 0,
          memoryBytes: stage.hbm?.[rank] ?? stage.permute?.[rank] ?? 0,
        },
      });
    }
  }
  return { spans, us: timed.us, tracks: stages.map((stage) => `${what}: ${stage.name}`) };
}

/**
 * The timeline of a plan's dispatch and combine on a machine, from a model and not measured.
 *
 * @throws FuscoError E_OPTION if the plan does not fit the topology
 */
export function traceOf(plan: VerifiedPlan, topology: Topology): Trace {
  const { spec } = plan;
  checkFit(topology, spec.ranks);
  const joined = linkedRanks(topology, spec.ranks);
  const { dispatch, combine } = planExchanges(plan, joined);
  const there = spansOf(dispatch, 'dispatch', spec.ranks, 0, 0, topology);
  const back = spansOf(combine, 'combine', spec.ranks, there.tracks.length, there.us, topology);
  const tracks = [...there.tracks, ...back.tracks];
  const node = (rank: number) => Math.floor(rank / joined);
  const names = Array.from({ length: spec.ranks }, (_, rank) =>
    nameEvents(pidOf(rank), `rank ${rank}, node ${node(rank)}`, tracks),
  );
  return {
    displayTimeUnit: 'ns',
    otherData: {
      label: 'model: predicted from a cost model, not measured',
      topology: topology.name,
      strategy: spec.strategy,
      dispatchUs: there.us,
      combineUs: back.us,
    },
    traceEvents: [...names.flat(), ...there.spans, ...back.spans],
  };
}

/** The trace as the bytes of a file, one event per line, so that two traces can be compared line by line. */
export function encodeTrace({ traceEvents, ...head }: Trace): Uint8Array {
  const events = traceEvents.map((event) => JSON.stringify(event)).join(',\n');
  const open = JSON.stringify(head).slice(0, -1);
  return new TextEncoder().encode(`${open},"traceEvents":[\n${events}\n]}\n`);
}
