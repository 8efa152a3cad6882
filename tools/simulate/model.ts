// The cost model: stages with the bytes that every rank moves in them, the time of each stage, and a schedule with
// overlap. The constants are in topology.ts.
//
// A rank's stage takes as long as its busiest resource; a stage takes as long as its slowest rank. The model uses maxima,
// never averages, because a whole group waits for one busy NIC.

import type { Constants } from './topology.ts';

export type Resource = 'nic' | 'nvlink' | 'hbm' | 'permute' | 'none';

/** Bytes that a rank moves over one kind of link, in the busier direction, and the number of peers. */
export interface Transfer {
  readonly bytes: Float64Array;
  readonly peers: Float64Array;
}

/** One stage; arrays have an element per rank. */
export interface Stage {
  readonly name: string;
  readonly nic?: Transfer;
  readonly nvlink?: Transfer;
  /** Rows go straight to their slots: with several peers, NVLink reaches `scatterReached` of its rate. */
  readonly isScattered?: boolean;
  /** Bytes read and written in a rank's memory by the exchange. */
  readonly hbm?: Float64Array;
  /** Bytes read and written by a separate permutation pass. */
  readonly permute?: Float64Array;
}

/** Stages of one group overlap, slice by slice; groups follow one another. */
export interface Exchange {
  readonly groups: readonly (readonly Stage[])[];
  /** Number of slices by which overlapping stages pass on rows. */
  readonly slices: number;
}

/** A stage's time, and the rank and the resource for which all others wait. */
export interface TimedStage {
  readonly name: string;
  readonly startUs: number;
  readonly endUs: number;
  /** Time of the stage alone. */
  readonly us: number;
  readonly resource: Resource;
  readonly rank: number;
}

export interface TimedExchange {
  readonly stages: readonly TimedStage[];
  readonly us: number;
}

/** Microseconds for bytes at GB/s. */
function transferUs(bytes: number, gbps: number): number {
  return bytes / (gbps * 1e3);
}

function linkUs(
  transfer: Transfer | undefined,
  rank: number,
  gbps: number,
  latencyUs: number,
  c: Constants,
): number {
  const bytes = transfer?.bytes[rank] ?? 0;
  if (bytes === 0) return 0;
  return latencyUs * Math.ceil(transfer!.peers[rank]! / c.channels) + transferUs(bytes, gbps);
}

function ranksOf({ nic, nvlink, hbm, permute }: Stage): number {
  return Math.max(...[nic?.bytes, nvlink?.bytes, hbm, permute].map((values) => values?.length ?? 0));
}

/** The resource for which one rank waits longest in a stage, without the start of the stage. */
export function timeRank(stage: Stage, rank: number, c: Constants): { us: number; resource: Resource } {
  const isScattered = stage.isScattered === true && stage.nvlink!.peers[rank]! > 1;
  const nvlinkGBps = c.nvlinkGBps * (isScattered ? c.scatterReached : 1);
  const times: readonly [Resource, number][] = [
    ['nic', linkUs(stage.nic, rank, c.nicGBps, c.nicLatencyUs, c)],
    ['nvlink', linkUs(stage.nvlink, rank, nvlinkGBps, c.nvlinkLatencyUs, c)],
    ['hbm', transferUs(stage.hbm?.[rank] ?? 0, c.hbmGBps * c.hbmReached)],
    ['permute', transferUs(stage.permute?.[rank] ?? 0, c.hbmGBps * c.permuteReached)],
  ];
  let busiest = { us: 0, resource: 'none' as Resource };
  for (const [resource, us] of times) if (us > busiest.us) busiest = { us, resource };
  return busiest;
}

/** Time of a stage alone: its slowest rank on its busiest resource; ties go to the lower rank. */
export function timeStage(stage: Stage, c: Constants): Omit<TimedStage, 'startUs' | 'endUs'> {
  const ranks = ranksOf(stage);
  let worst = { us: 0, resource: 'none' as Resource, rank: 0 };
  for (let rank = 0; rank < ranks; rank++) {
    const busiest = timeRank(stage, rank, c);
    if (busiest.us > worst.us) worst = { ...busiest, rank };
  }
  // A stage in which nothing moves is not started.
  return { name: stage.name, ...worst, us: worst.us === 0 ? 0 : worst.us + c.launchUs };
}

/**
 * Schedules an exchange. With `u` the fraction of a stage that is passed on at a time, a stage starts when the first
 * fraction of the previous stage has arrived, and ends no earlier than its last fraction after the end of that stage. Two
 * stages take max + u x min, where u = 1/slices if they overlap fully. A stage that waits for its input lasts longer than
 * `us`.
 */
export function timeExchange(exchange: Exchange, c: Constants): TimedExchange {
  const handOver = 1 - c.overlap * (1 - 1 / Math.max(1, exchange.slices));
  const stages: TimedStage[] = [];
  let clock = c.setupUs;
  for (const group of exchange.groups) {
    let startUs = clock;
    for (const stage of group) {
      const timed = timeStage(stage, c);
      const share = handOver * timed.us;
      clock = Math.max(startUs + timed.us, clock + share);
      stages.push({ ...timed, startUs, endUs: clock });
      startUs += share;
    }
  }
  return { stages, us: clock };
}

/** The stage with only some of its ranks, and its bytes times a factor. */
function pickRanks(stage: Stage, ranks: readonly number[], factor: number): Stage {
  const pick = (values: Float64Array, by: number) => Float64Array.from(ranks, (rank) => values[rank]! * by);
  const link = ({ bytes, peers }: Transfer) => ({ bytes: pick(bytes, factor), peers: pick(peers, 1) });
  const { name, nic, nvlink, isScattered, hbm, permute } = stage;
  return {
    name,
    ...(isScattered && { isScattered }),
    ...(nic && { nic: link(nic) }),
    ...(nvlink && { nvlink: link(nvlink) }),
    ...(hbm && { hbm: pick(hbm, factor) }),
    ...(permute && { permute: pick(permute, factor) }),
  };
}

/** Ranks of which one is the slowest for any constants: on some resource, no other rank moves as much. */
function contenders(stage: Stage): number[] {
  const ranks = Array.from({ length: ranksOf(stage) }, (_, rank) => rank);
  const { nic, nvlink, hbm, permute } = stage;
  const resources = [
    nic,
    nvlink,
    hbm && { bytes: hbm, peers: hbm },
    permute && { bytes: permute, peers: permute },
  ];
  const found = resources.flatMap((load) => {
    if (load === undefined) return [];
    const { bytes, peers } = load;
    const exceeds = (a: number, b: number) =>
      bytes[a]! >= bytes[b]! &&
      peers[a]! >= peers[b]! &&
      (bytes[a]! > bytes[b]! || peers[a]! > peers[b]! || a < b);
    return ranks.filter((rank) => !ranks.some((other) => exceeds(other, rank)));
  });
  return [...new Set(found)].sort((a, b) => a - b);
}

/**
 * The same exchange with `factor` times the tokens, reduced to the ranks that can be the slowest. The times are the same,
 * but ranks have other numbers.
 */
export function scaleExchange({ groups, slices }: Exchange, factor: number): Exchange {
  return {
    groups: groups.map((group) => group.map((stage) => pickRanks(stage, contenders(stage), factor))),
    slices: slices * factor,
  };
}
