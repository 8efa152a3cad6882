// Shards as plain numbers, read and written from the drawing in planner/format/layout.ts rather than through the code
// under test: 16 words, then a table of 24 sections, then the sections at multiples of 64.

import type { Delivery, ObviousForward, ObviousRank, Slice } from './obviousPlan.ts';

const WORDS = 16;
const SECTIONS = 24;
const TABLE = 64;
const BODY = 256;
const MAGIC = 0x44485346;

/** Numbers of the sections that plans fill, and of one that is reserved. */
export const SECTION = {
  expertOffset: 0,
  expertRows: 1,
  runRow: 2,
  runRows: 3,
  sendRow: 4,
  sendRows: 5,
  slice: 6,
  entrySlot: 7,
  entryInstance: 8,
  sendEntry: 9,
  forwardRow: 10,
  forwardRows: 11,
  forwardToken: 12,
  forwardTarget: 13,
  distributeOffset: 14,
  distributeEntry: 15,
  forwardSlice: 16,
  stageRow: 17,
  stageRows: 18,
  tileOrder: 19,
  reserved: 20,
} as const;

/** Positions of the words in a shard's head. */
export const WORD = {
  magic: 0,
  rank: 1,
  ranks: 2,
  tokens: 3,
  topk: 4,
  instances: 5,
  firstInstance: 6,
  localInstances: 7,
  recvRows: 8,
  kept: 9,
  masked: 10,
  dropped: 11,
  reserved: 12,
  stageRows: 13,
  staged: 14,
  tileTokens: 15,
} as const;

export interface ShardParts {
  words: number[];
  sections: number[][];
}

function widthOf(section: number): 1 | 2 | 4 {
  if (section === SECTION.entryInstance) return 2;
  return section === SECTION.tileOrder ? 1 : 4;
}

const roundUp = (bytes: number) => Math.ceil(bytes / 64) * 64;

const SIGNED: readonly number[] = [SECTION.entrySlot, SECTION.forwardTarget];

/** Every word and element, slots and targets signed and all else unsigned. */
export function parseShard(bytes: Uint8Array): ShardParts {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const words = Array.from({ length: WORDS }, (_, i) => view.getUint32(4 * i, true));
  const sections = Array.from({ length: SECTIONS }, (_, section) => {
    const start = view.getUint32(TABLE + 8 * section, true);
    const count = view.getUint32(TABLE + 8 * section + 4, true);
    const width = widthOf(section);
    return Array.from({ length: count }, (_, i) => {
      if (SIGNED.includes(section)) return view.getInt32(start + 4 * i, true);
      if (width === 2) return view.getUint16(start + 2 * i, true);
      return width === 1 ? view.getUint8(start + i) : view.getUint32(start + 4 * i, true);
    });
  });
  return { words, sections };
}

/** The bytes of a shard; numbers wrap to the width of their section. */
export function buildShard({ words, sections }: ShardParts): Uint8Array {
  const starts: number[] = [];
  let end = BODY;
  sections.forEach((elements, section) => {
    starts.push(elements.length === 0 ? 0 : end);
    end = roundUp(end + elements.length * widthOf(section));
  });
  const bytes = new Uint8Array(end);
  const view = new DataView(bytes.buffer);
  words.forEach((word, i) => {
    view.setUint32(4 * i, word, true);
  });
  sections.forEach((elements, section) => {
    const start = starts[section]!;
    view.setUint32(TABLE + 8 * section, start, true);
    view.setUint32(TABLE + 8 * section + 4, elements.length, true);
    elements.forEach((element, i) => {
      const width = widthOf(section);
      if (width === 4) view.setUint32(start + 4 * i, element, true);
      else if (width === 2) view.setUint16(start + 2 * i, element, true);
      else view.setUint8(start + i, element);
    });
  });
  return bytes;
}

/** The entries of each tile sorted by (instance, row), those without a row last and as they were. */
function fillTileOrder({ words, sections }: ShardParts, tileTokens: number, topk: number): void {
  words[WORD.tileTokens] = tileTokens;
  const rows = sections[SECTION.entrySlot]!;
  const instances = sections[SECTION.entryInstance]!;
  for (let first = 0; first < rows.length; first += tileTokens * topk) {
    const tile = rows.slice(first, first + tileTokens * topk).map((row, at) => ({
      at,
      key: row < 0 ? [1, at, 0] : [0, instances[first + at]!, row],
    }));
    tile.sort(({ key: a }, { key: b }) => a[0]! - b[0]! || a[1]! - b[1]! || a[2]! - b[2]!);
    sections[SECTION.tileOrder]!.push(...tile.map(({ at }) => at));
  }
}

/** The shard that the obvious plan asks for; instances are numbered by (rank, expert). */
export function expectedShard(
  plans: readonly ObviousRank[],
  rank: number,
  topk: number,
  tileTokens = 0,
): ShardParts {
  const plan = plans[rank]!;
  const instanceOf = new Map<string, number>();
  const firstInstance: number[] = [];
  for (const [host, { experts }] of plans.entries()) {
    firstInstance.push(instanceOf.size);
    for (const expert of experts) instanceOf.set(`${host}/${expert}`, instanceOf.size);
  }
  const instances = instanceOf.size;
  const fates = plan.fates.flat();
  const words = new Array<number>(WORDS).fill(0);
  words[WORD.magic] = MAGIC;
  words[WORD.rank] = rank;
  words[WORD.ranks] = plans.length;
  words[WORD.tokens] = plan.fates.length;
  words[WORD.topk] = topk;
  words[WORD.instances] = instances;
  words[WORD.firstInstance] = firstInstance[rank]!;
  words[WORD.localInstances] = plan.experts.length;
  words[WORD.recvRows] = plan.expertOffsets.at(-1)!;
  words[WORD.kept] = fates.filter(({ kind }) => kind === 'kept').length;
  words[WORD.masked] = plan.masked;
  words[WORD.dropped] = plan.dropped;

  const sections = Array.from({ length: SECTIONS }, (): number[] => []);
  sections[SECTION.expertOffset] = plan.expertOffsets;
  sections[SECTION.expertRows] = plan.expertCounts;
  sections[SECTION.runRow] = plan.arrivals.map((run) => run.row);
  sections[SECTION.runRows] = plan.arrivals.map((run) => run.rows);
  sections[SECTION.sendRow] = plan.departures.map((run) => run.row);
  sections[SECTION.sendRows] = plan.departures.map((run) => run.rows);
  sections[SECTION.slice] = plan.slices.flatMap(sliceWords);
  sections[SECTION.entrySlot] = fates.map((fate) =>
    fate.kind === 'kept' ? fate.row : fate.kind === 'masked' ? -1 : -2,
  );
  sections[SECTION.entryInstance] = fates.map((fate) =>
    fate.kind === 'masked' ? instances : instanceOf.get(`${fate.rank}/${fate.expert}`)!,
  );
  const entryOf = ({ token, k }: Delivery) => token * topk + k;
  sections[SECTION.sendEntry] = plan.stream.map(entryOf);
  if (tileTokens > 0) fillTileOrder({ words, sections }, tileTokens, topk);
  if (plan.forward !== undefined) fillForward({ words, sections }, plan.forward, entryOf);
  return { words, sections };
}

const sliceWords = ({ peer, first, rows }: Slice) => [peer, first, rows];

/** The words and sections that only a hierarchical plan has. */
function fillForward(
  { words, sections }: ShardParts,
  forward: ObviousForward,
  entryOf: (entry: Delivery) => number,
): void {
  const { rows, sources } = forward;
  words[WORD.stageRows] = forward.stageRows;
  words[WORD.staged] = rows.filter(({ slot }) => slot === undefined).length;
  sections[SECTION.forwardRow] = forward.firstStageRow;
  sections[SECTION.forwardRows] = forward.nodeRows;
  sections[SECTION.forwardToken] = rows.map(({ token }) => token);
  sections[SECTION.forwardTarget] = rows.map(({ slot, stageRow }) => slot ?? -1 - stageRow);
  const offsets = [0];
  for (const { entries } of rows) offsets.push(offsets.at(-1)! + entries.length);
  sections[SECTION.distributeOffset] = offsets;
  sections[SECTION.distributeEntry] = rows.flatMap(({ entries }) => entries.map(entryOf));
  sections[SECTION.forwardSlice] = forward.slices.flatMap(sliceWords);
  sections[SECTION.stageRow] = sources.map(({ row }) => row);
  sections[SECTION.stageRows] = sources.map((source) => source.rows);
}

/** Where two shards differ first, in words; undefined where they are equal. */
export function shardDifference(actual: Uint8Array, expected: ShardParts): string | undefined {
  const found = parseShard(actual);
  const lists: [string, number[], number[]][] = [['words', found.words, expected.words]];
  expected.sections.forEach((elements, section) => {
    const name =
      Object.entries(SECTION).find(([, number]) => number === section)?.[0] ?? `section ${section}`;
    lists.push([name, found.sections[section]!, elements]);
  });
  for (const [name, a, b] of lists) {
    if (a.length !== b.length) return `${name}: ${a.length} elements, expected ${b.length}`;
    const at = a.findIndex((value, i) => value !== b[i]);
    if (at >= 0) return `${name}[${at}] is ${a[at]}, expected ${b[at]}`;
  }
  const bytes = buildShard(expected);
  if (bytes.length !== actual.length) return `${actual.length} bytes, expected ${bytes.length}`;
  const at = bytes.findIndex((byte, i) => byte !== actual[i]);
  return at < 0 ? undefined : `byte ${at} is ${actual[at]}, expected ${bytes[at]}`;
}
