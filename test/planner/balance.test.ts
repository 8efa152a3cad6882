// Which rank forwards for which: hand-worked groups, and what `best` promises.

import { describe, expect, it } from 'vitest';
import { balance, forwardersOf, groupLoads, receivedRows } from '../../planner/balance.ts';
import { BALANCE_RULES, type PlanSpec, resolveOptions } from '../../planner/spec.ts';
import { randomFrom } from '../support/workloads.ts';

function specOf(nodes: number, ranksPerNode: number): PlanSpec {
  return resolveOptions({ experts: 64, ranks: nodes * ranksPerNode, ranksPerNode, strategy: 'hier' }, 2);
}

/** Rows to every other node, evenly, from each rank's rows to one node. */
function evenly(spec: PlanSpec, rows: readonly number[]): Uint32Array {
  const table = new Uint32Array(spec.ranks * spec.nodes);
  for (let rank = 0; rank < spec.ranks; rank++) {
    for (let node = 0; node < spec.nodes; node++) {
      if (node !== Math.floor(rank / spec.ranksPerNode)) table[rank * spec.nodes + node] = rows[rank]!;
    }
  }
  return table;
}

describe('2 nodes x 4 ranks that send 8, 4, 2, 1 and 9, 5, 3, 1 rows', () => {
  const spec = specOf(2, 4);
  const rows = evenly(spec, [8, 4, 2, 1, 9, 5, 3, 1]);

  it('static pairs equal local indices', () => {
    const { groups, busiestRows } = balance('static', spec, rows);
    expect([...groups]).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
    expect(groupLoads(spec, groups, rows)).toEqual([17, 9, 5, 2]);
    expect(busiestRows).toBe(9);
  });

  it('rotate puts the heaviest of node 1 one group further', () => {
    const { groups } = balance('rotate', spec, rows);
    expect([...groups]).toEqual([0, 1, 2, 3, 1, 2, 3, 0]);
    expect(groupLoads(spec, groups, rows)).toEqual([9, 13, 7, 4]);
  });

  it('lpt gives the heaviest of node 1 to the lightest group', () => {
    const { groups } = balance('lpt', spec, rows);
    expect([...groups]).toEqual([0, 1, 2, 3, 3, 2, 1, 0]);
    expect(groupLoads(spec, groups, rows)).toEqual([9, 7, 7, 10]);
  });

  it('names the forwarders of a rank, itself on its own node, and what they receive', () => {
    const { groups } = balance('lpt', spec, rows);
    expect([...forwardersOf(spec, groups, 0)]).toEqual([0, 7]);
    expect([...forwardersOf(spec, groups, 6)]).toEqual([1, 6]);
    // Each rank receives what the other member of its group sends.
    expect(receivedRows(spec, groups, rows)).toEqual([1, 3, 5, 9, 1, 2, 4, 8]);
  });
});

describe('loads out of order', () => {
  const spec = specOf(3, 2);
  const rows = evenly(spec, [1, 6, 2, 2, 5, 0]);

  it('rotate sorts by load, lower rank first among equals', () => {
    // Sorted: node 0 (1, 0), node 1 (2, 3), node 2 (4, 5); node n starts at group n mod 2.
    expect([...balance('rotate', spec, rows).groups]).toEqual([1, 0, 1, 0, 0, 1]);
  });

  it('lpt counts what the members send to all nodes', () => {
    // After node 0 the groups hold 12 and 2; node 1 adds 4 to each in the order 1, 0; node 2's 10 joins the lighter.
    const { groups } = balance('lpt', spec, rows);
    expect([...groups]).toEqual([1, 0, 1, 0, 1, 0]);
    expect(groupLoads(spec, groups, rows)).toEqual([16, 16]);
  });
});

it('one node has nothing to balance', () => {
  const spec = specOf(1, 4);
  const { rule, groups, busiestRows } = balance('best', spec, new Uint32Array(4));
  expect([rule, [...groups], busiestRows]).toEqual(['static', [0, 1, 2, 3], 0]);
});

it('the same local index hot on every node: rotate and lpt spread it, static cannot', () => {
  const spec = specOf(8, 8);
  const rows = evenly(
    spec,
    Array.from({ length: 64 }, (_, rank) => (rank % 8 === 0 ? 20 : 1)),
  );
  const ratio = (rule: 'static' | 'rotate' | 'lpt') => {
    const loads = groupLoads(spec, balance(rule, spec, rows).groups, rows);
    return (Math.max(...loads) * 8) / loads.reduce((sum, load) => sum + load, 0);
  };
  expect(ratio('static')).toBeCloseTo((20 * 8) / 27, 10);
  expect([ratio('rotate'), ratio('lpt')]).toEqual([1, 1]);
});

describe('1,000 seeded draws of node loads', () => {
  const shapes = [
    [2, 8],
    [8, 8],
    [4, 4],
    [16, 2],
    [3, 1],
  ] as const;

  /** Bimodal senders, and nodes that are wanted unequally. */
  function draw(seed: number, spec: PlanSpec): Uint32Array {
    const random = randomFrom(seed);
    const wanted = Array.from({ length: spec.nodes }, () => random());
    const table = new Uint32Array(spec.ranks * spec.nodes);
    for (let rank = 0; rank < spec.ranks; rank++) {
      const heavy = random() < 0.3 ? 1000 : 100;
      for (let node = 0; node < spec.nodes; node++) {
        if (node === Math.floor(rank / spec.ranksPerNode)) continue;
        table[rank * spec.nodes + node] = Math.floor(heavy * wanted[node]! * random());
      }
    }
    return table;
  }

  /** The objective from its definition: a member of a group receives what the other members send to its node. */
  function busiest(spec: PlanSpec, groups: Uint16Array, rows: Uint32Array): number {
    let most = 0;
    for (let rank = 0; rank < spec.ranks; rank++) {
      let sent = 0;
      let received = 0;
      for (let node = 0; node < spec.nodes; node++) sent += rows[rank * spec.nodes + node]!;
      for (let source = 0; source < spec.ranks; source++) {
        if (groups[source] !== groups[rank]) continue;
        received += rows[source * spec.nodes + Math.floor(rank / spec.ranksPerNode)]!;
      }
      most = Math.max(most, sent, received);
    }
    return most;
  }

  it('every node holds every group once, and best is never worse than the other three', () => {
    const won = new Map<string, number>();
    for (let seed = 0; seed < 1000; seed++) {
      const [nodes, ranksPerNode] = shapes[seed % shapes.length]!;
      const spec = specOf(nodes, ranksPerNode);
      const rows = draw(seed, spec);
      const found = BALANCE_RULES.map((rule) => balance(rule, spec, rows));
      for (const { groups, busiestRows } of found) {
        expect(busiestRows).toBe(busiest(spec, groups, rows));
        for (let node = 0; node < nodes; node++) {
          const members = groups.subarray(node * ranksPerNode, (node + 1) * ranksPerNode);
          expect(new Set(members).size).toBe(ranksPerNode);
        }
      }
      const best = balance('best', spec, rows);
      expect(best.busiestRows).toBe(Math.min(...found.map(({ busiestRows }) => busiestRows)));
      const equals = found.filter(({ busiestRows }) => busiestRows === best.busiestRows);
      const least = Math.min(...equals.map(({ busiestReceived }) => busiestReceived));
      expect(best).toEqual(equals.find(({ busiestReceived }) => busiestReceived === least));
      won.set(best.rule, (won.get(best.rule) ?? 0) + 1);
    }
    // Each rule is the best one sometimes, or `best` would be one of them.
    expect([...won.keys()].sort()).toEqual([...BALANCE_RULES].sort());
  });
});
