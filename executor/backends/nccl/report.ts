// The report of an exchange between processes, as JSON and as a line of a log.

import type { NativeNcclReport } from '../../native/types.ts';
import type { PeerReport, WireReport } from '../types.ts';

function peersOf(
  { peers }: NativeNcclReport,
  behindMs: readonly number[],
  localRank: number,
): PeerReport[] | undefined {
  if (peers === undefined) return undefined;
  return Array.from(peers.sentBytes, (sentBytes, rank) => ({
    rank,
    sentBytes,
    receivedBytes: peers.receivedBytes[rank]!,
    // The ranks of a machine share a clock. For other ranks, it is the time at which rank 0 received their message.
    waitNanoseconds:
      peers.waitNs[rank]! || Math.max(0, 1e6 * ((behindMs[rank] ?? 0) - (behindMs[localRank] ?? 0))),
    wireNanoseconds: peers.wireNs[rank]!,
  }));
}

/**
 * The part of a native report that concerns peers.
 *
 * @param behindMs [ranks]: how much later than the first rank each one entered its calls since the last report; empty if
 *   unknown
 */
export function wireReport(
  native: NativeNcclReport,
  behindMs: readonly number[],
  localRank: number,
): WireReport {
  const { wireSent, wireReceived, directBytes, rounds, slices, readyNs, packNs, packHiddenNs, wireNs } =
    native;
  const { readbackBytes, readbackNs } = native;
  const peers = peersOf(native, behindMs, localRank);
  const report = {
    sentBytes: wireSent,
    receivedBytes: wireReceived,
    directBytes,
    rounds,
    slices,
    readyNanoseconds: readyNs,
    ...(readbackBytes > 0 ? { readbackBytes, readbackNanoseconds: readbackNs } : {}),
  };
  if (peers === undefined) return report;
  const times = { packNanoseconds: packNs!, packHiddenNanoseconds: packHiddenNs!, wireNanoseconds: wireNs! };
  return { ...report, ...times, peers };
}

const ms = (nanoseconds: number) => `${(nanoseconds / 1e6).toFixed(2)} ms`;
const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** One line: time, bytes, overlap, and the peer that was waited for longest. */
export function wireLine(
  { name, call, rank, nanoseconds }: { name: string; call: number; rank: number; nanoseconds: number },
  wire: WireReport,
): string {
  const parts = [
    `fusco rank ${rank} call ${call} ${name} ${ms(nanoseconds)}`,
    `wire ${mib(wire.sentBytes)} out ${mib(wire.receivedBytes)} in`,
    `direct ${mib(wire.directBytes)}`,
    `${wire.rounds} rounds ${wire.slices} slices`,
  ];
  if (wire.packNanoseconds !== undefined && wire.packNanoseconds > 0) {
    const share = Math.round((100 * wire.packHiddenNanoseconds!) / wire.packNanoseconds);
    parts.push(`packing ${ms(wire.packNanoseconds)} (${share} % hidden)`);
  }
  if (wire.readbackBytes !== undefined) {
    parts.push(`read back ${mib(wire.readbackBytes)} of the plan in ${ms(wire.readbackNanoseconds!)}`);
  }
  const slowest = wire.peers?.reduce((a, b) => (b.waitNanoseconds > a.waitNanoseconds ? b : a));
  if (slowest !== undefined && slowest.waitNanoseconds > 0) {
    parts.push(`longest wait ${ms(slowest.waitNanoseconds)} for rank ${slowest.rank}`);
  }
  return parts.join(', ');
}
