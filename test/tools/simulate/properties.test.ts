// What holds for every plan: loads add up, more bandwidth is never slower, and a plan remembers its routing.

import { describe, expect, it } from 'vitest';
import { planId } from '../../../planner/format/digest.ts';
import { nodeSha256 } from '../../../planner/node.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import { nodeOf, optionsOf, type PlanOptions } from '../../../planner/spec.ts';
import { compare, routingOf } from '../../../tools/simulate/compare.ts';
import { planLoads } from '../../../tools/simulate/loads.ts';
import { scaleExchange, timeExchange } from '../../../tools/simulate/model.ts';
import { flatFused, hierFused, unfused } from '../../../tools/simulate/strategies.ts';
import type { Constants } from '../../../tools/simulate/topology.ts';
import { FAMILIES, makeRouting, randomFrom, toTables } from '../../support/workloads.ts';
import { machine, planner, ROUND } from './support.ts';

const SHAPES = [
  { ranks: 4, ranksPerNode: 2 },
  { ranks: 8, ranksPerNode: 4 },
  { ranks: 6, ranksPerNode: 1 },
  { ranks: 4, ranksPerNode: 4 },
];

/** A plan of every kind: families, masks, capacity, replicas, all balancers. */
function draw(seed: number): VerifiedPlan {
  const random = randomFrom(seed);
  const { ranks, ranksPerNode } = SHAPES[seed % SHAPES.length]!;
  const experts = 16;
  const options: PlanOptions = {
    ranks,
    ranksPerNode,
    experts,
    hidden: 500,
    strategy: seed % 3 === 0 ? 'flat' : 'hier',
    balance: (['static', 'rotate', 'lpt', 'best'] as const)[seed % 4]!,
    capacity: seed % 5 === 0 ? 20 : 0,
    sliceBytes: 5000,
    placement:
      seed % 2 === 0
        ? []
        : Array.from({ length: experts }, (_, e) =>
            random() < 0.3 ? [...new Set([e % ranks, (e * 7 + 1) % ranks])] : e % ranks,
          ),
  };
  const family = FAMILIES[seed % FAMILIES.length]!;
  const routing = makeRouting({ family, seed, ranks, tokens: 40, topk: 3, experts, masked: 0.1 });
  return planner.planAll(toTables(routing, 3), options);
}

const PLANS = Array.from({ length: 48 }, (_, seed) => draw(seed));

function exchangesOf(plan: VerifiedPlan) {
  const loads = planLoads(plan);
  if (plan.spec.strategy === 'hier') return [hierFused(loads, plan.spec)];
  return [flatFused(loads, plan.spec), unfused(loads, plan.spec)];
}

describe('loads', () => {
  it('are those of walking every entry and every distribution list', () => {
    for (const plan of PLANS) {
      const { spec, shards, decision } = plan;
      const zeros = () => new Array<number>(spec.ranks).fill(0);
      const expected = {
        interOut: zeros(),
        interIn: zeros(),
        intraOut: zeros(),
        intraIn: zeros(),
        local: zeros(),
      };
      const move = (from: number, to: number) => {
        const near = nodeOf(spec, from) === nodeOf(spec, to);
        if (from === to) {
          expected.local[from]!++;
        } else {
          (near ? expected.intraOut : expected.interOut)[from]!++;
          (near ? expected.intraIn : expected.interIn)[to]!++;
        }
      };
      for (const [rank, shard] of shards.entries()) {
        const {
          entryInstance,
          entrySlot,
          sendEntry,
          distributeEntry,
          distributeOffset,
          forwardRows,
          forwardTarget,
        } = shard;
        const rankOf = (entry: number) => spec.placement.instanceRank[entryInstance[entry]!]!;
        for (const entry of sendEntry) move(rank, rankOf(entry));
        let row = 0;
        forwardRows.forEach((rows, node) => {
          const via = shards.findIndex(
            (_, r) => nodeOf(spec, r) === node && decision.groups[r] === decision.groups[rank],
          );
          for (const end = row + rows; row < end; row++) {
            move(rank, via);
            for (const entry of distributeEntry.subarray(
              distributeOffset[row]!,
              distributeOffset[row + 1]!,
            )) {
              if (rankOf(entry) !== via || entrySlot[entry] !== forwardTarget[row]) move(via, rankOf(entry));
            }
          }
        });
      }
      const { inter, intra, local } = planLoads(plan);
      expect({
        interOut: [...inter.nic.out],
        interIn: [...inter.nic.in],
        intraOut: [...intra.nvlink.out],
        intraIn: [...intra.nvlink.in],
        local: [...local],
      }).toEqual(expected);
    }
  });

  it('arrive as often as they leave', () => {
    const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);
    for (const plan of PLANS) {
      const { inter, intra, kept, received } = planLoads(plan);
      for (const { nic, nvlink } of [inter, intra]) {
        expect([sum(nic.in), sum(nvlink.in)]).toEqual([sum(nic.out), sum(nvlink.out)]);
      }
      expect(sum(received)).toBe(sum(kept));
    }
  });
});

const FASTER: [keyof Constants, number][] = [
  ['nvlinkGBps', 2],
  ['nicGBps', 1.5],
  ['hbmGBps', 3],
  ['channels', 2],
  ['nicLatencyUs', 0.5],
  ['nvlinkLatencyUs', 0],
  ['launchUs', 0.1],
];

it.each(FASTER)('%s x %d is never slower', (name, factor) => {
  let gained = 0;
  for (const [seed, plan] of PLANS.entries()) {
    const random = randomFrom(seed);
    const slow: Constants = {
      ...ROUND,
      nicGBps: 1 + 50 * random(),
      nvlinkGBps: 1 + 50 * random(),
      hbmGBps: 10 + 100 * random(),
      launchUs: 1,
      overlap: random(),
    };
    const fast = { ...slow, [name]: slow[name] * factor };
    for (const { dispatch, combine } of exchangesOf(plan)) {
      for (const exchange of [dispatch, combine]) {
        const before = timeExchange(exchange, slow).us;
        const after = timeExchange(exchange, fast).us;
        expect(after).toBeLessThanOrEqual(before);
        if (after < before) gained++;
      }
    }
  }
  expect(gained).toBeGreaterThan(0);
});

it('an exchange reduced to its slowest ranks takes the same time', () => {
  for (const [seed, plan] of PLANS.entries()) {
    const random = randomFrom(seed + 1000);
    const c = {
      ...ROUND,
      nicGBps: 1 + 50 * random(),
      nvlinkGBps: 1 + 50 * random(),
      hbmGBps: 1 + 100 * random(),
    };
    for (const { dispatch, combine } of exchangesOf(plan)) {
      for (const exchange of [dispatch, combine]) {
        expect(timeExchange(scaleExchange(exchange, 1), c).us).toBe(timeExchange(exchange, c).us);
      }
    }
  }
});

it('the routing that a plan remembers gives the same plan again', async () => {
  for (const plan of PLANS) {
    const again = planner.planAll(routingOf(plan), optionsOf(plan.spec));
    expect(await planId(again, nodeSha256)).toBe(await planId(plan, nodeSha256));
  }
});

it("a plan's own prediction is among those compared, with its strategy and its rule", () => {
  for (const plan of PLANS) {
    const { predictions, own, best } = compare(plan, planner, machine());
    const { strategy, rule, ranksPerNode } = predictions[own]!;
    const { spec, decision } = plan;
    const hier =
      spec.ranksPerNode === 1 ? ['once per rank', 'none', 1] : ['hier', decision.rule, spec.ranksPerNode];
    expect([strategy, rule, ranksPerNode]).toEqual(
      spec.strategy === 'flat' ? ['flat fused', 'none', spec.ranksPerNode] : hier,
    );
    expect(predictions[best]!.us).toBe(Math.min(...predictions.map(({ us }) => us)));
  }
});
