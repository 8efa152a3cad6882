// The known layouts, each against the dispatch that it is of, rebuilt from the library's definition.

import { expect, it } from 'vitest';
import { auditLayouts, type NativeAudit } from '../../../executor/native/audit.ts';
import { describeNative } from '../../support/addon.ts';
import { makeRouting, type Workload } from '../../support/workloads.ts';
import { dispatchOf, LIBRARY_NAMES, type Row, type Setting } from './libraries.ts';
import { auditOf, bufferOf, rowOf } from './rows.ts';

const WORKLOADS: readonly (Workload & { align: number })[] = [
  { family: 'balanced', seed: 1, ranks: 4, tokens: 9, topk: 2, experts: 8, align: 1 },
  { family: 'hotExperts', seed: 2, ranks: 4, tokens: 13, topk: 3, experts: 16, masked: 0.2, align: 4 },
  { family: 'raggedSources', seed: 5, ranks: 2, tokens: 20, topk: 1, experts: 6, align: 3 },
  { family: 'rankWithoutRows', seed: 4, ranks: 6, tokens: 5, topk: 4, experts: 12, align: 2 },
];

function settingOf(workload: Workload & { align: number }): Setting {
  const { experts, align, tokens: maxTokens, seed } = workload;
  return { routing: makeRouting(workload), experts, align, maxTokens, seed };
}

const isToken = (row: Row) => typeof row === 'object';

/** The origins of a buffer as rows. */
function originRows(audit: NativeAudit, rank: number, count: number): Row[] {
  const origins = audit.origins(rank, count);
  return Array.from({ length: count }, (_, row) => {
    const [source, token] = [origins[3 * row]!, origins[3 * row + 1]!];
    return source === -1 ? 'zero' : source === -2 ? 'any' : { source, token };
  });
}

describeNative('a known layout', () => {
  it('is compared with a library below, each of them', () => {
    expect(LIBRARY_NAMES).toEqual(Object.keys(auditLayouts()));
  });

  it.each(LIBRARY_NAMES)(
    '%s finds every row of that dispatch right, and two exchanged rows wrong',
    async (name) => {
      for (const workload of WORKLOADS) {
        const setting = settingOf(workload);
        const { routing, experts, align } = setting;
        const audit = await auditOf(routing, { experts, align }, name);
        for (const [rank, rows] of dispatchOf(name, setting).entries()) {
          const received = bufferOf(rows);
          const report = audit.dispatch({ rank, received, room: 1 });
          expect(report, `rank ${rank}`).toMatchObject({ wrong: 0, counts: {} });
          expect(report.rows).toBe(rows.filter((row) => row !== 'any').length);
          // The last row of a token becomes that of another rank's token, which this rank may not even receive.
          const last = rows.findLastIndex(isToken);
          if (last < 0) continue;
          const { source, token } = rows[last] as Exclude<Row, string>;
          const other = (source + 1) % routing.length;
          if (routing[other]!.length === 0) continue;
          received.set(rowOf(other, 0), last * (received.length / rows.length));
          const found = audit.dispatch({ rank, received, room: 1 });
          expect(found.wrong).toBe(1);
          expect(['other-token', 'duplicate']).toContain(found.differences[0]!.kind);
          expect(found.differences[0]).toMatchObject({ row: last, foundSource: other, foundToken: 0 });
          // In no specified order the row that is missing is known, and no other.
          expect(found.differences[0]).toMatchObject({ source, token });
        }
        audit.close();
      }
    },
  );

  it.each(LIBRARY_NAMES.filter((name) => !/any/.test(auditOrderOf(name))))(
    '%s, whose rows are sorted, has the origins of that dispatch',
    async (name) => {
      for (const workload of WORKLOADS) {
        const setting = settingOf(workload);
        const audit = await auditOf(
          setting.routing,
          { experts: setting.experts, align: setting.align },
          name,
        );
        for (const [rank, rows] of dispatchOf(name, setting).entries()) {
          expect(originRows(audit, rank, rows.length)).toEqual(rows);
        }
        audit.close();
      }
    },
  );

  it.each(LIBRARY_NAMES)('%s has the origins of that dispatch, but for their order', async (name) => {
    const setting = settingOf(WORKLOADS[1]!);
    const audit = await auditOf(setting.routing, { experts: setting.experts, align: setting.align }, name);
    const sorted = (rows: readonly Row[]) => rows.map((row) => JSON.stringify(row)).sort();
    for (const [rank, rows] of dispatchOf(name, setting).entries()) {
      expect(sorted(originRows(audit, rank, rows.length))).toEqual(sorted(rows));
    }
    audit.close();
  });
});

function auditOrderOf(name: string): string {
  return auditLayouts()[name]!.order;
}

describeNative('origins', () => {
  const routing = [
    [
      [0, 1],
      [1, -1],
    ],
    [[1, 0]],
  ];

  it('name k where a row belongs to one entry', async () => {
    const audit = await auditOf(routing, { experts: 2, align: 4 }, 'fusco');
    expect([...audit.origins(1, 4)]).toEqual([0, 0, 1, 0, 1, 0, 1, 0, 0, -1, -1, -1]);
    expect(audit.rows(1)).toBe(4);
    audit.close();
  });

  it('leave out what a capacity drops', async () => {
    const audit = await auditOf(routing, { experts: 2, capacity: 1 }, 'once-per-rank');
    // Expert 1 keeps the first of its three rows, expert 0 the first of two.
    expect([...audit.origins(0, 1), ...audit.origins(1, 1)]).toEqual([0, 0, -1, 0, 0, -1]);
    audit.close();
  });

  it('follow the placement, replicas included', async () => {
    const audit = await auditOf(routing, { experts: 2, placement: [1, [0, 1]], replicas: 'local' }, 'fusco');
    // Expert 0 lives on rank 1; expert 1 on both, and each rank prefers the local one.
    expect([...audit.origins(0, 2)]).toEqual([0, 0, 1, 0, 1, 0]);
    expect([...audit.origins(1, 3)]).toEqual([0, 0, 0, 1, 0, 1, 1, 0, 0]);
    audit.close();
  });

  it('refuse sizes that the layout does not have', async () => {
    const audit = await auditOf(routing, { experts: 2 }, 'fusco');
    expect(() => audit.origins(1, 4)).toThrow(expect.objectContaining({ code: 'E_BUFFER' }));
    expect(() => audit.origins(2, 4)).toThrow(expect.objectContaining({ code: 'E_OPTION' }));
    audit.close();
    const slots = { ...auditLayouts().fusco!, align: 1, slots: 2 };
    const small = await auditOf(routing, { experts: 2 }, slots);
    expect(() => small.origins(1, 2)).toThrow('rank 1: block 0 has 3 rows > 2 slots');
    small.close();
    const equal = await auditOf(routing, { experts: 2 }, 'rank-major');
    const received = new Float32Array(3 * 8);
    expect(() => equal.dispatch({ rank: 0, received, room: 0 })).toThrow(
      '3 rows are not 2 blocks of equal size',
    );
    equal.close();
  });
});
