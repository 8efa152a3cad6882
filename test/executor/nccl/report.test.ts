// What an exchange over processes says of itself; figures here are worked by hand.

import { describe, expect, it } from 'vitest';
import type { NativeNcclReport } from '../../../executor/addonNccl.ts';
import { wireLine, wireReport } from '../../../executor/nccl/report.ts';

const MIB = 2 ** 20;

/** Of rank 1 of 3: rank 0 shares its host, rank 2 does not. */
const NATIVE: NativeNcclReport = {
  nanoseconds: 2_500_000,
  started: 1,
  rows: 12,
  bytesRead: 100,
  bytesWritten: 200,
  wireSent: 3 * MIB,
  wireReceived: MIB / 2,
  directBytes: 7 * MIB,
  readyNs: 40_000,
  steps: 2,
  slices: 5,
};

const DETAILED: NativeNcclReport = {
  ...NATIVE,
  packNs: 400_000,
  packHiddenNs: 300_000,
  wireNs: 900_000,
  peers: {
    sentBytes: Float64Array.of(0, 0, 3 * MIB),
    receivedBytes: Float64Array.of(0, 0, MIB / 2),
    waitNs: Float64Array.of(30_000, 0, 0),
    wireNs: Float64Array.of(0, 0, 900_000),
  },
};

describe('a report', () => {
  it('has bytes, steps and the wait for the own host, and no times of peers unless they were asked for', () => {
    expect(wireReport(NATIVE, [], 1)).toEqual({
      sentBytes: 3 * MIB,
      receivedBytes: MIB / 2,
      directBytes: 7 * MIB,
      steps: 2,
      slices: 5,
      readyNanoseconds: 40_000,
    });
  });

  it('with details says what was hidden, and for each peer what moved and how long it was waited for', () => {
    // Rank 2 was 6 ms behind, this rank 1 ms: it was waited for 5 ms. Rank 0's own clock is the better one.
    const report = wireReport(DETAILED, [100, 1, 6], 1);
    expect(report).toMatchObject({
      packNanoseconds: 400_000,
      packHiddenNanoseconds: 300_000,
      wireNanoseconds: 900_000,
    });
    expect(report.peers).toEqual([
      { rank: 0, sentBytes: 0, receivedBytes: 0, waitNanoseconds: 30_000, wireNanoseconds: 0 },
      { rank: 1, sentBytes: 0, receivedBytes: 0, waitNanoseconds: 0, wireNanoseconds: 0 },
      {
        rank: 2,
        sentBytes: 3 * MIB,
        receivedBytes: MIB / 2,
        waitNanoseconds: 5_000_000,
        wireNanoseconds: 900_000,
      },
    ]);
  });

  it('never waits a negative time: for ranks that were earlier, or where lateness is not known', () => {
    const waits = (behindMs: number[]) =>
      wireReport(DETAILED, behindMs, 1).peers!.map((peer) => peer.waitNanoseconds);
    expect(waits([0, 8, 3])).toEqual([30_000, 0, 0]);
    expect(waits([])).toEqual([30_000, 0, 0]);
  });

  it('is plain data, as JSON brings it back', () => {
    const report = wireReport(DETAILED, [0, 1, 6], 1);
    expect(JSON.parse(JSON.stringify(report))).toEqual(report);
  });
});

describe('the line of a report', () => {
  it('says time, bytes and steps', () => {
    expect(wireLine('dispatch', 7, 1, NATIVE.nanoseconds, wireReport(NATIVE, [], 1))).toBe(
      'fusco rank 1 step 7 dispatch 2.50 ms, wire 3.0 MiB out 0.5 MiB in, direct 7.0 MiB, 2 steps 5 slices',
    );
  });

  it('adds the share of packing that was hidden, and who was waited for longest', () => {
    const line = wireLine('combine', 8, 1, NATIVE.nanoseconds, wireReport(DETAILED, [0, 1, 6], 1));
    expect(line).toBe(
      'fusco rank 1 step 8 combine 2.50 ms, wire 3.0 MiB out 0.5 MiB in, direct 7.0 MiB, 2 steps 5 slices, ' +
        'packing 0.40 ms (75 % hidden), longest wait 5.00 ms for rank 2',
    );
  });

  it('leaves out packing where nothing was packed, and waits where nobody was late', () => {
    const idle = {
      ...DETAILED,
      packNs: 0,
      packHiddenNs: 0,
      peers: { ...DETAILED.peers!, waitNs: new Float64Array(3) },
    };
    expect(wireLine('dispatch', 9, 1, 1000, wireReport(idle, [], 1))).toBe(
      'fusco rank 1 step 9 dispatch 0.00 ms, wire 3.0 MiB out 0.5 MiB in, direct 7.0 MiB, 2 steps 5 slices',
    );
  });
});
