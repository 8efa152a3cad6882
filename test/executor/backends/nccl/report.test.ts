import { describe, expect, it } from 'vitest';
import { wireLine, wireReport } from '../../../../executor/backends/nccl/report.ts';
import type { NativeNcclReport } from '../../../../executor/native/types.ts';

const plain: NativeNcclReport = {
  bytesRead: 1,
  bytesWritten: 2,
  rows: 3,
  nanoseconds: 2_500_000,
  started: 5,
  wireSent: 3 * 2 ** 20,
  wireReceived: 2 ** 20,
  directBytes: 2 ** 19,
  readyNs: 7,
  rounds: 2,
  enqueued: false,
  slices: 4,
  readbackBytes: 0,
  readbackNs: 0,
};
const detailed: NativeNcclReport = {
  ...plain,
  packNs: 1000,
  packHiddenNs: 750,
  wireNs: 5000,
  peers: {
    sentBytes: Float64Array.of(0, 10, 20),
    receivedBytes: Float64Array.of(0, 30, 40),
    waitNs: Float64Array.of(0, 0, 9_000_000),
    wireNs: Float64Array.of(0, 50, 60),
  },
};

describe('the report of an exchange between processes', () => {
  it('has totals without details', () => {
    expect(wireReport(plain, [], 0)).toEqual({
      sentBytes: 3 * 2 ** 20,
      receivedBytes: 2 ** 20,
      directBytes: 2 ** 19,
      rounds: 2,
      slices: 4,
      readyNanoseconds: 7,
    });
  });

  it('names what was read back of a plan made on the devices of several machines', () => {
    const native = { ...plain, readbackBytes: 2 ** 20, readbackNs: 1_500_000 };
    const report = wireReport(native, [], 0);
    expect(report).toMatchObject({ readbackBytes: 2 ** 20, readbackNanoseconds: 1_500_000 });
    const dispatch = { name: 'dispatch', call: 2, rank: 0, nanoseconds: 2_500_000 };
    expect(wireLine(dispatch, report)).toContain('4 slices, read back 1.0 MiB of the plan in 1.50 ms');
  });

  it('says of each peer what travelled and how long it was waited for', () => {
    // Rank 1 came 4 ms later than this rank as rank 0 heard it; rank 2 shares this rank's clock.
    const { peers, packHiddenNanoseconds } = wireReport(detailed, [1, 5, 6], 0);
    expect(packHiddenNanoseconds).toBe(750);
    expect(peers).toEqual([
      { rank: 0, sentBytes: 0, receivedBytes: 0, waitNanoseconds: 0, wireNanoseconds: 0 },
      { rank: 1, sentBytes: 10, receivedBytes: 30, waitNanoseconds: 4_000_000, wireNanoseconds: 50 },
      { rank: 2, sentBytes: 20, receivedBytes: 40, waitNanoseconds: 9_000_000, wireNanoseconds: 60 },
    ]);
  });

  it('fits on a line that names the rank that was waited for longest', () => {
    const dispatch = { name: 'dispatch', call: 12, rank: 0, nanoseconds: 2_500_000 };
    const combine = { name: 'combine', call: 1, rank: 3, nanoseconds: 1e6 };
    expect(wireLine(dispatch, wireReport(detailed, [1, 5, 6], 0))).toBe(
      'fusco rank 0 call 12 dispatch 2.50 ms, wire 3.0 MiB out 1.0 MiB in, direct 0.5 MiB, 2 rounds 4 slices, ' +
        'packing 0.00 ms (75 % hidden), longest wait 9.00 ms for rank 2',
    );
    expect(wireLine(combine, wireReport(plain, [], 3))).toBe(
      'fusco rank 3 call 1 combine 1.00 ms, wire 3.0 MiB out 1.0 MiB in, direct 0.5 MiB, 2 rounds 4 slices',
    );
  });
});
