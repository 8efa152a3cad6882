// fusco.golden.json: which plans to make (written by people), and their golden entries (written by `fusco check
// --update`).
//
//   {"formatVersion": 1,
//    "plans":  {NAME: {"routing": PATH, "read"?: {"format", "layer", "step"}, "options": {"experts", …}}},
//    "golden": {NAME: {"routingDigest", "planId", "summary": {METRIC: number}}}}
//
// Paths are relative to the file. Unknown keys are refused, because a misspelled option would otherwise be ignored
// silently.

import { FuscoError } from '../../planner/errors.ts';
import type { PlacementMap } from '../../planner/placement.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { ROUTING_FORMATS, type RoutingFormat } from '../readers/anyRouting.ts';
import { readWhole } from '../readers/file.ts';
import { isCount, jsonOf, shown } from '../readers/json.ts';

const GOLDEN_FORMAT_VERSION = 1;

/** Options of a plan in the file: those of `fusco plan`; a placement may be the path of a file. */
export type GoldenOptions = Omit<PlanOptions, 'ranks' | 'placement'> & {
  ranks?: number;
  placement?: PlacementMap | string;
};

/** What to read from a routing: the options of `fusco plan` in camel case; lists and axes are text. */
export interface GoldenRead {
  readonly format?: RoutingFormat;
  readonly layer?: number;
  readonly step?: number;
  readonly array?: string;
  readonly axes?: string;
  readonly ranksFrom?: string;
  readonly asBatch?: boolean;
  readonly maskIds?: string;
  readonly maskRepeatedRows?: boolean;
  readonly multiHot?: boolean;
  readonly physicalIds?: boolean;
}

const READ_TEXTS = ['array', 'axes', 'ranksFrom', 'maskIds'] as const;
const READ_FLAGS = ['asBatch', 'maskRepeatedRows', 'multiHot', 'physicalIds'] as const;
const READ_COUNTS = ['layer', 'step'] as const;

export interface PlanEntry {
  readonly routing: string;
  readonly read: GoldenRead;
  readonly options: GoldenOptions;
}

export interface GoldenEntry {
  /** SHA-256 of the ids, independent of the format of their file; 64 hex digits. */
  readonly routingDigest: string;
  readonly planId: string;
  readonly summary: Readonly<Record<string, number | string>>;
}

export interface GoldenFile {
  readonly plans: ReadonlyMap<string, PlanEntry>;
  readonly golden: ReadonlyMap<string, GoldenEntry>;
}

const OPTION_KEYS: readonly (keyof PlanOptions)[] = [
  'experts',
  'ranks',
  'ranksPerNode',
  'ranksPerHost',
  'hidden',
  'dtype',
  'combineDtype',
  'align',
  'capacity',
  'strategy',
  'balance',
  'partial',
  'sum',
  'placement',
  'replicas',
  'sliceBytes',
];

type Fields = Readonly<Record<string, unknown>>;

/** Checks the parts of one file; errors name it and the place inside it. */
class Reader {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  fail(where: string, text: string): never {
    throw new FuscoError('E_GOLDEN', `${where}: ${text}`, { path: this.#path });
  }

  fields(value: unknown, where: string, known?: readonly string[]): Fields {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      this.fail(where, 'it is not an object');
    for (const key of Object.keys(value)) {
      if (known !== undefined && !known.includes(key))
        this.fail(`${where}/${key}`, `it is not one of ${known.join(', ')}`);
    }
    return value as Fields;
  }

  text(value: unknown, where: string): string {
    return typeof value === 'string' && value !== '' ? value : this.fail(where, 'it is not text');
  }

  count(value: unknown, where: string): number {
    return isCount(value) ? value : this.fail(where, 'it is not an integer from 0');
  }

  plan(value: unknown, where: string): PlanEntry {
    const { routing, read = {}, options } = this.fields(value, where, ['routing', 'read', 'options']);
    const given = this.fields(options, `${where}/options`, OPTION_KEYS);
    this.count(given.experts, `${where}/options/experts`);
    if (given.ranks !== undefined) this.count(given.ranks, `${where}/options/ranks`);
    return {
      routing: this.text(routing, `${where}/routing`),
      read: this.read(read, `${where}/read`),
      // The planner checks ranges and choices.
      options: given as unknown as GoldenOptions,
    };
  }

  read(value: unknown, where: string): GoldenRead {
    const known = ['format', ...READ_COUNTS, ...READ_TEXTS, ...READ_FLAGS];
    const choice = this.fields(value, where, known);
    const { format } = choice;
    if (format !== undefined && !(ROUTING_FORMATS as readonly unknown[]).includes(format)) {
      this.fail(`${where}/format`, `it is not one of ${ROUTING_FORMATS.join(', ')}`);
    }
    const given = (names: readonly string[]) => names.filter((name) => choice[name] !== undefined);
    for (const name of given(READ_COUNTS)) this.count(choice[name], `${where}/${name}`);
    for (const name of given(READ_TEXTS)) this.text(choice[name], `${where}/${name}`);
    for (const name of given(READ_FLAGS)) {
      if (typeof choice[name] !== 'boolean') this.fail(`${where}/${name}`, 'it is neither true nor false');
    }
    return choice as GoldenRead;
  }

  golden(value: unknown, where: string): GoldenEntry {
    const known = ['routingDigest', 'planId', 'summary'];
    const { routingDigest, planId, summary } = this.fields(value, where, known);
    const digest = (text: unknown, name: string): string =>
      typeof text === 'string' && /^[0-9a-f]{64}$/.test(text)
        ? text
        : this.fail(`${where}/${name}`, 'it is not 64 hex digits');
    const figures = this.fields(summary, `${where}/summary`);
    for (const [name, figure] of Object.entries(figures)) {
      if (typeof figure !== 'number' && typeof figure !== 'string')
        this.fail(`${where}/summary/${name}`, 'it is not a figure');
    }
    return {
      routingDigest: digest(routingDigest, 'routingDigest'),
      planId: digest(planId, 'planId'),
      summary: figures as GoldenEntry['summary'],
    };
  }

  map<T>(value: unknown, where: string, read: (value: unknown, where: string) => T): Map<string, T> {
    const entries = Object.entries(this.fields(value, where));
    return new Map(entries.map(([name, item]) => [name, read(item, `${where}/${name}`)]));
  }
}

/** Parses a golden file. Throws E_GOLDEN that names the place. */
export function parseGolden(text: string, path: string): GoldenFile {
  const reader = new Reader(path);
  const value = jsonOf(text, path, 'E_GOLDEN');
  const fields = reader.fields(value, '', ['formatVersion', 'plans', 'golden']);
  const { formatVersion, plans, golden = {} } = fields;
  if (formatVersion !== GOLDEN_FORMAT_VERSION) {
    reader.fail('/formatVersion', `${shown(formatVersion)} is not ${GOLDEN_FORMAT_VERSION}`);
  }
  return {
    plans: reader.map(plans, '/plans', (item, where) => reader.plan(item, where)),
    golden: reader.map(golden, '/golden', (item, where) => reader.golden(item, where)),
  };
}

/** Reads a golden file. Throws E_GOLDEN, E_FILE_NOT_FOUND, E_FILE_READ. */
export async function readGolden(path: string): Promise<GoldenFile> {
  return parseGolden(new TextDecoder().decode(await readWhole(path)), path);
}

/** The file's text: two spaces of indentation, plans unchanged, golden entries in the order of the plans. */
export function formatGolden({ plans, golden }: GoldenFile): string {
  const shown = [...plans].map(([name, { routing, read, options }]) => [
    name,
    Object.keys(read).length === 0 ? { routing, options } : { routing, read, options },
  ]);
  const kept = [...plans.keys()].filter((name) => golden.has(name)).map((name) => [name, golden.get(name)]);
  const value = {
    formatVersion: GOLDEN_FORMAT_VERSION,
    plans: Object.fromEntries(shown),
    golden: Object.fromEntries(kept),
  };
  return `${JSON.stringify(value, null, 2)}\n`;
}
