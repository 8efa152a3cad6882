// The exported timeline: one track per rank and stage, nothing overlapping, and the times of the simulator.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { encodeTrace, type TraceEvent, traceOf } from '../../../tools/simulate/chromeTrace.ts';
import { findTopology } from '../../../tools/simulate/topology.ts';
import { planOf } from '../../support/buffers.ts';
import { expectRefusal, fusco, fuscoJson, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';
import { makeRouting } from '../../support/workloads.ts';

useTemporaryDirectory();

const ROUTING = makeRouting({ family: 'hotExperts', seed: 3, ranks: 4, tokens: 50, topk: 2, experts: 8 });

/** Two nodes of two ranks. */
const TWO_NODES = { ...(await findTopology('h100-2x8')), ranksPerNode: 2 };

/** Spans of every track, in the order of time. */
function tracks(events: readonly TraceEvent[]): Map<number, TraceEvent[]> {
  const found = new Map<number, TraceEvent[]>();
  for (const event of events) {
    if (event.ph === 'X') found.set(event.tid, [...(found.get(event.tid) ?? []), event]);
  }
  for (const spans of found.values()) spans.sort((a, b) => a.ts! - b.ts!);
  return found;
}

describe.each(['flat', 'hier'] as const)('the timeline of a %s plan', (strategy) => {
  const make = async () => {
    const plan = await planOf(ROUTING, 2, { experts: 8, ranksPerNode: 2, strategy });
    return { plan, trace: traceOf(plan, TWO_NODES) };
  };

  it('names a process per rank and a track per stage, with ids of their own', async () => {
    const { plan, trace } = await make();
    const named = (kind: string) => trace.traceEvents.filter(({ ph, name }) => ph === 'M' && name === kind);
    expect(named('process_name').map(({ args }) => args.name)).toEqual([
      'rank 0, node 0',
      'rank 1, node 0',
      'rank 2, node 1',
      'rank 3, node 1',
    ]);
    const stages =
      strategy === 'flat'
        ? ['dispatch: send', 'combine: send back', 'combine: add']
        : [
            'dispatch: forward',
            'dispatch: distribute',
            'combine: gather',
            'combine: send home',
            'combine: add',
          ];
    const threads = named('thread_name');
    expect(threads.map(({ args }) => args.name)).toEqual(plan.shards.flatMap(() => stages));
    expect(new Set(threads.map(({ tid }) => tid)).size).toBe(threads.length);
    expect(threads.every(({ pid, tid }) => pid > 0 && tid > 0)).toBe(true);
    // Every span lies on a named track of its own process.
    const owner = new Map(threads.map(({ tid, pid }) => [tid, pid]));
    const spans = trace.traceEvents.filter(({ ph }) => ph === 'X');
    expect(spans.length).toBeGreaterThan(0);
    for (const { pid, tid } of spans) expect(owner.get(tid)).toBe(pid);
  });

  it('has nothing that overlaps on a track, and ends when the simulator says', async () => {
    const { trace } = await make();
    for (const spans of tracks(trace.traceEvents).values()) {
      for (const [i, span] of spans.entries()) {
        expect(span.dur).toBeGreaterThan(0);
        if (i > 0) expect(span.ts).toBeGreaterThanOrEqual(spans[i - 1]!.ts! + spans[i - 1]!.dur!);
      }
    }
    const { dispatchUs, combineUs } = trace.otherData as { dispatchUs: number; combineUs: number };
    const end = (what: string) =>
      Math.max(...trace.traceEvents.filter(({ cat }) => cat === what).map(({ ts, dur }) => ts! + dur!));
    expect(end('dispatch')).toBeLessThanOrEqual(dispatchUs + 1e-9);
    expect(end('combine')).toBeLessThanOrEqual(dispatchUs + combineUs + 1e-9);
    const start = Math.min(...trace.traceEvents.filter(({ cat }) => cat === 'combine').map(({ ts }) => ts!));
    expect(start).toBeCloseTo(dispatchUs + TWO_NODES.constants.setupUs, 9);
    // The slowest rank of the slowest stage is what the exchange takes, less what waits for slices.
    expect(end('dispatch')).toBeGreaterThan(0.5 * dispatchUs);
  });
});

describe('fusco simulate --trace', () => {
  it('writes the trace beside the prediction', async () => {
    saveRouting('r.npy', ROUTING);
    await fuscoJson(
      'plan',
      'r.npy',
      '-o',
      'p.fusco',
      '--experts',
      '8',
      '--ranks-per-node',
      '2',
      '--strategy',
      'hier',
    );
    const { code, stderr } = await fusco(
      'simulate',
      'p.fusco',
      '--topology',
      'h100-8x8',
      '--trace',
      't.json',
    );
    expect([code, stderr]).toEqual([0, 'timeline of 4 ranks -> t.json (open it in ui.perfetto.dev)\n']);
    const text = readFileSync('t.json', 'utf8');
    const plan = await planOf(ROUTING, 2, { experts: 8, ranksPerNode: 2, strategy: 'hier' });
    const trace = traceOf(plan, await findTopology('h100-8x8'));
    expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(trace)));
    expect(text).toBe(new TextDecoder().decode(encodeTrace(trace)));
    const json = await fusco('simulate', 'p.fusco', '--topology', 'h100-8x8', '--json');
    const { strategies, own } = JSON.parse(json.stdout);
    expect(strategies[own].dispatch.us).toBe(trace.otherData.dispatchUs);
    expect(strategies[own].combine.us).toBe(trace.otherData.combineUs);
  });

  it('belongs to a plan', async () => {
    expectRefusal(await fusco('simulate', '--paper', '--trace', 't.json'), 'E_USAGE', 'has no timeline');
  });
});
