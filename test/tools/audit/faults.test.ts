// Faults planted in a pipeline of index_select and all_to_all_single, one at a time: each must be named for what it is.

import { expect, it } from 'vitest';
import {
  type AuditKind,
  auditLayouts,
  type NativeAudit,
  type NativeDifference,
  openAudit,
} from '../../../executor/native/audit.ts';
import { attempt } from '../../../executor/native/errors.ts';
import { bf16ToFloat, floatToBf16 } from '../../../executor/numeric.ts';
import { loadPlanner } from '../../../planner/node.ts';
import { describeNative } from '../../support/addon.ts';
import { toTables } from '../../support/workloads.ts';
import {
  type Bf16Row,
  ELEMENTS,
  type Entry,
  EXPERTS,
  exchange,
  expertOrder,
  expertOutput,
  gather,
  joined,
  placesOf,
  RANKS,
  sendOrder,
  stepOf,
  sumOf,
  TOPK,
  termsOf,
  toExpert,
} from './pipeline.ts';

const step = stepOf(1);
const before = stepOf(2);
/** The rank in which most faults are planted. */
const RANK = 2;

async function openWith(layout: string, align = 1): Promise<NativeAudit> {
  const planner = await loadPlanner();
  const plan = planner.planAll(toTables(step.routing, TOPK), { experts: EXPERTS, ranks: RANKS, align });
  const audit = await openAudit(plan, auditLayouts()[layout]!);
  const rows = step.input.map(joined);
  const previous = before.input.map(joined);
  attempt(() => audit.setInput({ dtype: 'bf16', rowBytes: 2 * ELEMENTS, rows, previous }));
  return audit;
}

/** What one kind of fault must be reported as: its count, and fields of the first difference. */
type Verdict = [counts: Partial<Record<AuditKind, number>>, first: Partial<NativeDifference>];

const places = placesOf(step, 1);
const slots = places[RANK] as Entry[];
const rowsOf = () => gather(step, slots);
const expectedAt = (slot: number) => {
  const { source, token, k } = slots[slot]!;
  return { row: slot, source, token, k };
};
const foundAt = ({ source, token }: Entry) => ({ foundSource: source, foundToken: token });

/** Rounds to e4m3 with one scale for the row, as quantized dispatches do. */
function throughE4m3(row: Bf16Row): Bf16Row {
  const values = [...row].map(bf16ToFloat);
  const scale = Math.max(...values.map(Math.abs)) / 448;
  return Uint16Array.from(values, (value) => {
    const scaled = Math.abs(value) / scale;
    const unit = 2 ** (Math.max(-6, Math.floor(Math.log2(scaled || 1))) - 3);
    return floatToBf16(Math.sign(value) * Math.round(scaled / unit) * unit * scale);
  });
}

const half = ELEMENTS / 2;

/** Faults of a dispatch in the project's layout: the rows of one rank, and what they must be called. */
const DISPATCH_FAULTS: Readonly<Record<string, (rows: Bf16Row[]) => Verdict>> = {
  'two rows exchanged': (rows) => {
    [rows[3], rows[7]] = [rows[7]!, rows[3]!];
    return [{ 'other-token': 2 }, { ...expectedAt(3), found: 'token', ...foundAt(slots[7]!) }];
  },
  'a row that was never sent': (rows) => {
    rows[5]!.fill(0);
    return [{ zeros: 1 }, { ...expectedAt(5), found: 'zeros' }];
  },
  'a row left over from the step before': (rows) => {
    rows[4] = before.input[1]![6]!;
    return [{ stale: 1 }, { ...expectedAt(4), found: 'previous', foundSource: 1, foundToken: 6 }];
  },
  'a row whose second half was not written': (rows) => {
    rows[6]!.fill(0, half);
    return [{ partial: 1 }, { ...expectedAt(6), found: 'zeros', firstByte: 2 * half, endByte: 2 * ELEMENTS }];
  },
  'a row whose first half is of the step before': (rows) => {
    rows[6]!.set(before.input[0]![2]!.subarray(0, half));
    return [
      { partial: 1 },
      { ...expectedAt(6), found: 'previous', foundSource: 0, foundToken: 2, firstByte: 0 },
    ];
  },
  'a row whose second half is that of another token': (rows) => {
    rows[1]!.set(step.input[3]![9]!.subarray(half), half);
    return [{ partial: 1 }, { ...expectedAt(1), found: 'token', foundSource: 3, foundToken: 9 }];
  },
  'rows rounded to e4m3 and back': (rows) => {
    for (const i of rows.keys()) rows[i] = throughE4m3(rows[i]!);
    return [{ rounding: rows.length }, { ...expectedAt(0), precision: 4 }];
  },
  'a NaN in a row': (rows) => {
    rows[2]![11] = 0x7fc0;
    return [{ nan: 1 }, { ...expectedAt(2), firstByte: 22, endByte: 24 }];
  },
  'a flipped bit': (rows) => {
    rows[8]![40]! ^= 0x4000;
    return [{ values: 1 }, { ...expectedAt(8), found: 'unknown', firstByte: 81, endByte: 82 }];
  },
  'a split that is one row too small': (rows) => {
    rows.pop();
    return [{ missing: 1 }, { ...expectedAt(slots.length - 1), found: 'nothing' }];
  },
  'a split that is one row too large': (rows) => {
    rows.push(step.input[0]![0]!);
    return [{ extra: 1 }, { row: slots.length, source: -1, foundSource: 0, foundToken: 0 }];
  },
};

describeNative('a fault of a dispatch', () => {
  it('is found in none of the ranks of a right pipeline', async () => {
    for (const align of [1, 4]) {
      const audit = await openWith('fusco', align);
      for (const [rank, entries] of placesOf(step, align).entries()) {
        const received = joined(gather(step, entries));
        expect(audit.dispatch({ rank, received, room: 1 })).toMatchObject({ wrong: 0, rows: entries.length });
      }
      audit.close();
    }
  });

  it.each(Object.entries(DISPATCH_FAULTS))('%s is named', async (_, plant) => {
    const audit = await openWith('fusco');
    const rows = rowsOf();
    const [counts, first] = plant(rows);
    const report = audit.dispatch({ rank: RANK, received: joined(rows), room: 5 });
    expect(report.counts).toEqual(counts);
    expect(report.differences[0]).toMatchObject({ kind: Object.keys(counts)[0], ...first });
    audit.close();
  });

  it('that shifts the gathered rows by one names the token that is there', async () => {
    const sent = step.routing.map((_, source) => sendOrder(step, source));
    // index_select with an index that is off by one on rank 1.
    const shifted = sent[1]!.map((entry, i) => ({
      ...entry,
      token: sent[1]![(i + 1) % sent[1]!.length]!.token,
    }));
    const arrived = exchange([sent[0]!, shifted, ...sent.slice(2)], toExpert)[RANK]!;
    const rows = gather(step, expertOrder(arrived, RANK, 1));
    const audit = await openWith('fusco');
    const report = audit.dispatch({ rank: RANK, received: joined(rows), room: 50 });
    const wrong = slots.filter(({ source, token }, slot) => source === 1 && arrivedToken(slot) !== token);
    function arrivedToken(slot: number) {
      return (expertOrder(arrived, RANK, 1)[slot] as Entry).token;
    }
    expect(report.counts).toEqual({ 'other-token': wrong.length });
    for (const { row, foundSource, foundToken } of report.differences)
      expect([foundSource, foundToken]).toEqual([1, arrivedToken(row)]);
    audit.close();
  });

  it('that takes the sources in another order names the first row of another source', async () => {
    const sent = step.routing.map((_, source) => sendOrder(step, source));
    const rows = gather(step, expertOrder(exchange([...sent].reverse(), toExpert)[RANK]!, RANK, 1));
    const audit = await openWith('fusco');
    const report = audit.dispatch({ rank: RANK, received: joined(rows), room: 1 });
    expect(Object.keys(report.counts)).toEqual(['other-token']);
    expect(report.differences[0]).toMatchObject({ row: 0, source: slots[0]!.source, foundSource: RANKS - 1 });
    audit.close();
  });

  it('that exchanges the blocks of two experts is one of whole blocks', async () => {
    const [first, second] = [4, 5].map((expert) => slots.filter((entry) => entry.expert === expert));
    const audit = await openWith('fusco');
    const received = joined(gather(step, [...second!, ...first!]));
    const report = audit.dispatch({ rank: RANK, received, room: 1 });
    expect(Object.keys(report.counts)).toEqual(['other-token']);
    expect(report.differences[0]).toMatchObject({ ...expectedAt(0), ...foundAt(second![0]!) });
    audit.close();
  });

  it('that gives a rank the buffer of its neighbor is found at slot 0', async () => {
    const audit = await openWith('fusco');
    const received = joined(gather(step, places[RANK + 1]!));
    const { differences, wrong, rows } = audit.dispatch({ rank: RANK, received, room: 1 });
    expect(wrong).toBeGreaterThan(rows / 2);
    expect(differences[0]).toMatchObject({ ...expectedAt(0), kind: 'other-token' });
    audit.close();
  });

  it('that writes into padding is not taken for a token', async () => {
    const audit = await openWith('fusco', 8);
    const entries = placesOf(step, 8)[RANK]!;
    const rows = gather(step, entries);
    const slot = entries.indexOf(undefined);
    rows[slot] = step.input[3]![1]!;
    const report = audit.dispatch({ rank: RANK, received: joined(rows), room: 1 });
    expect(report.counts).toEqual({ padding: 1 });
    expect(report.differences[0]).toMatchObject({ row: slot, source: -1, foundSource: 3, foundToken: 1 });
    audit.close();
  });

  it('that delivers a row twice and another never is a duplicate, in no specified order', async () => {
    const audit = await openWith('deepep-v2-expanded');
    const block = slots.filter(({ expert }) => expert === 4);
    const rest = slots.slice(block.length);
    const [lost, doubled] = [block[2]!, block[0]!];
    const arrived = [...block.filter((entry) => entry !== lost).reverse(), doubled];
    const report = audit.dispatch({
      rank: RANK,
      received: joined(gather(step, [...arrived, ...rest])),
      room: 1,
    });
    expect(report.counts).toEqual({ duplicate: 1 });
    const { source, token, k } = lost;
    expect(report.differences[0]).toMatchObject({ source, token, k, ...foundAt(doubled) });
    audit.close();
  });

  it('in no specified order pairs a damaged row with the row that is missing', async () => {
    const audit = await openWith('pplx');
    const block = slots.filter(({ expert }) => expert === 4);
    const rows = [...gather(step, block).reverse(), ...gather(step, slots.slice(block.length))];
    rows[1]!.fill(0, half);
    const report = audit.dispatch({ rank: RANK, received: joined(rows), room: 1 });
    const { source, token, k } = block.at(-2)!;
    expect(report.counts).toEqual({ partial: 1 });
    expect(report.differences[0]).toMatchObject({ row: 1, source, token, k, found: 'zeros' });
    audit.close();
  });
});

/** What the experts return, by slot of every rank. */
const outputs = places.map((entries) =>
  joined(
    (entries as Entry[]).map(({ source, token, expert }) =>
      expertOutput(step.input[source]![token]!, expert),
    ),
  ),
);
const weights = step.weights.map((tokens) => Float32Array.from(tokens.flat()));
const terms = termsOf(step, RANK);
const toBf16 = (value: number) => bf16ToFloat(floatToBf16(value));

async function auditSums(rows: readonly Bf16Row[], more: { order?: string; isIdentity?: boolean } = {}) {
  const audit = await openWith('fusco');
  const { order, isIdentity } = more;
  const given = isIdentity ? {} : { outputs };
  const call = { rank: RANK, combined: joined(rows), weights: weights[RANK], order, room: 5, ...given };
  const report = attempt(() => audit.combine(call));
  audit.close();
  return report;
}

/** Faults of a combine: what becomes of the sums, and what they must be called. */
const COMBINE_FAULTS: Readonly<Record<string, (rows: Bf16Row[]) => Verdict>> = {
  'a row that was not added': (rows) => {
    rows[4] = sumOf(terms[4]!.filter(({ k }) => k !== 1));
    return [{ 'term-missing': 1 }, { row: 4, source: RANK, token: 4, k: 1 }];
  },
  'a row that was added twice': (rows) => {
    rows[7] = sumOf([...terms[7]!, terms[7]![2]!]);
    return [{ 'term-twice': 1 }, { row: 7, k: 2 }];
  },
  'weights that were not applied': (rows) => {
    for (const i of rows.keys()) rows[i] = sumOf(terms[i]!.map((term) => ({ ...term, weight: 1 })));
    return [{ unweighted: rows.length }, { row: 0 }];
  },
  'the sum of another token': (rows) => {
    for (const i of rows.keys()) rows[i] = sumOf(terms[(i + 1) % rows.length]!);
    return [{ 'other-token': rows.length }, { row: 0, found: 'token', foundSource: RANK, foundToken: 1 }];
  },
  'a token that was not combined': (rows) => {
    rows[9]!.fill(0);
    return [{ zeros: 1 }, { row: 9, found: 'zeros' }];
  },
  'half of a row that was not combined': (rows) => {
    rows[3]!.fill(0, half);
    return [{ partial: 1 }, { row: 3, found: 'zeros', firstByte: 2 * half }];
  },
  'a sum kept in bf16': (rows) => {
    // Many roundings: the terms once more in small parts.
    rows[5] = sumOf(terms[5]!, (value) => toBf16(value * (1 - 2 ** -9)));
    return [{ rounding: 1 }, { row: 5 }];
  },
  'a factor on the whole row': (rows) => {
    rows[6] = sumOf(terms[6]!.map((term) => ({ ...term, weight: term.weight * 1.25 })));
    return [{ scaled: 1 }, { row: 6 }];
  },
  'a NaN in a sum': (rows) => {
    rows[1]![0] = 0x7fc0;
    return [{ nan: 1 }, { row: 1, firstByte: 0, endByte: 2 }];
  },
  'a changed element': (rows) => {
    rows[2]![30] = floatToBf16(bf16ToFloat(rows[2]![30]!) + 1);
    return [{ values: 1 }, { row: 2, firstByte: 60, endByte: 62 }];
  },
};

describeNative('a fault of a combine', () => {
  it('is found in no right sum, whose order is named', async () => {
    const report = await auditSums(terms.map((of) => sumOf(of)));
    expect(report).toMatchObject({ wrong: 0, rows: terms.length });
    expect(report.orders).toContain('k');
    expect(report.orders).not.toContain('k-rounded');
    expect(report.largestError).toBeLessThanOrEqual(1);
  });

  it.each(Object.entries(COMBINE_FAULTS))('%s is named', async (_, plant) => {
    const rows = terms.map((of) => sumOf(of));
    const [counts, first] = plant(rows);
    const report = await auditSums(rows);
    expect(report.counts).toEqual(counts);
    expect(report.differences[0]).toMatchObject({ kind: Object.keys(counts)[0], ...first });
    // The rows that are right still say in which order they were added.
    if (report.wrong < report.rows) expect(report.orders).toContain('k');
  });

  it('is stale where the result is the row of the step before, whatever its weights were', async () => {
    const rows = step.input[RANK]!.map((row, token) =>
      sumOf(terms[token]!.map((term) => ({ ...term, row }))),
    );
    expect((await auditSums(rows, { isIdentity: true })).wrong).toBe(0);
    rows[8] = sumOf([{ row: before.input[RANK]![8]!, weight: 0.875, k: 0, expert: 0 }]);
    const report = await auditSums(rows, { isIdentity: true });
    expect(report.counts).toEqual({ stale: 1 });
    expect(report.differences[0]).toMatchObject({
      row: 8,
      found: 'previous',
      foundSource: RANK,
      foundToken: 8,
    });
  });

  it('is absent if another order gives other bits, unless that order was requested', async () => {
    const rows = terms.map((of) => sumOf([...of].reverse()));
    const report = await auditSums(rows);
    expect(report.wrong).toBe(0);
    expect(report.orders).toContain('k-reverse');
    const exact = await auditSums(
      terms.map((of) => sumOf(of, toBf16)),
      { order: 'k' },
    );
    expect(exact.reordered).toBeGreaterThan(0);
    expect(exact.counts).toEqual({ rounding: exact.wrong });
    expect((await auditSums(rows, { order: 'k-reverse' })).wrong).toBe(0);
  });
});
