// Machines as the cost model sees them: constants per rank and direction, and how many nodes there are.

import { FuscoError } from '../../planner/errors.ts';
import { readJson, shown } from '../readers/json.ts';

/** Every constant of the cost model; docs/simulate.md says where the defaults come from. */
export interface Constants {
  /** Effective rate of a rank's NVLink per direction, in GB/s. */
  readonly nvlinkGBps: number;
  readonly nvlinkLatencyUs: number;
  /** Fraction of the NVLink rate that is reached when rows are stored straight into the slots of several peers, 0..1. */
  readonly scatterReached: number;
  /** Effective rate of a rank's NIC per direction, in GB/s. */
  readonly nicGBps: number;
  readonly nicLatencyUs: number;
  /** Nominal rate of a GPU's memory, reads and writes together, in GB/s. */
  readonly hbmGBps: number;
  /** Fraction of `hbmGBps` that the exchange reaches, 0..1. */
  readonly hbmReached: number;
  /** Fraction of `hbmGBps` that a separate permutation pass reaches, 0..1. */
  readonly permuteReached: number;
  /** Start of one stage. */
  readonly launchUs: number;
  /** Fixed cost of one exchange, in addition to its stages. */
  readonly setupUs: number;
  /** Number of peers served at the same time: the latency counts once for each group of this size. */
  readonly channels: number;
  /** How much of a stage can run while the one before it still runs: 0 nothing, 1 all but the first slice. */
  readonly overlap: number;
  /** Nominal rate of matrix products in bf16, in TFLOP/s; fp8 has twice that. */
  readonly gemmTflops: number;
  /** Fraction of `gemmTflops` that the experts' matrix products reach, 0..1. */
  readonly gemmReached: number;
}

export interface Topology {
  readonly name: string;
  /**
   * Number of nodes, and ranks per node; a plan may use fewer. NVLink connects the ranks of a node, NICs connect the
   * nodes.
   */
  readonly nodes: number;
  readonly ranksPerNode: number;
  /** GB of a rank's memory. */
  readonly memoryGB: number;
  readonly constants: Constants;
  /** Where the constants come from, in a few words. */
  readonly source: string;
}

const H100: Constants = {
  nvlinkGBps: 350,
  nvlinkLatencyUs: 1.9,
  scatterReached: 0.78,
  nicGBps: 43,
  nicLatencyUs: 5,
  hbmGBps: 3350,
  hbmReached: 0.88,
  permuteReached: 0.88,
  launchUs: 4,
  setupUs: 60,
  channels: 8,
  overlap: 1,
  gemmTflops: 989,
  gemmReached: 0.6,
};

/** A kind of GPU, and how many of them NVLink connects. */
interface Machine {
  readonly constants: Constants;
  readonly memoryGB: number;
  readonly source: string;
}

const MACHINES: Readonly<Record<'h100' | 'h200' | 'gb200', Machine>> = {
  h100: { constants: H100, memoryGB: 80, source: 'fitted to two and four H100; eight and NICs not measured' },
  h200: {
    constants: { ...H100, hbmGBps: 4800 },
    memoryGB: 141,
    source: 'the constants of H100 with the memory rate of H200; not measured',
  },
  gb200: {
    constants: { ...H100, nvlinkGBps: 700, hbmGBps: 8000, gemmTflops: 2500 },
    memoryGB: 186,
    source: 'data sheet rates, scaled as those of H100; not measured',
  },
};

/** Constants that `fusco simulate --paper` fits, with FUSCO's fixed cost; they explain the paper's totals, not parts. */
const PAPER_FIT: Constants = {
  ...H100,
  nicGBps: 44.4,
  nvlinkGBps: 111,
  permuteReached: 0.0658,
  overlap: 0,
  setupUs: 1735,
};

/** Maximum number of nodes in a name: that of the largest group. */
const MAX_NODES = 4096;

/** Every name, with N for a number of nodes and M for GPUs of a node: what an error lists. */
export const TOPOLOGY_NAMES = [
  ...['h100', 'h200'].flatMap((gpu) => [2, 4, 8].map((ranks) => `${gpu}-nvl${ranks}`)),
  'h100-NxM and h200-NxM (N nodes of M GPUs, M up to 8)',
  'gb200-nvl72',
  'h100-8x8-paper',
];

/** A known machine by its name; `h100-8x8` is the cluster of the paper's evaluation. */
export function namedTopology(name: string): Topology | undefined {
  if (name === 'gb200-nvl72') return { name, nodes: 1, ranksPerNode: 72, ...MACHINES.gb200 };
  if (name === 'h100-8x8-paper') {
    const source = "fitted to the paper's totals; see docs/simulate.md";
    return { name, nodes: 8, ranksPerNode: 8, memoryGB: 80, constants: PAPER_FIT, source };
  }
  const [, gpu, joined, count, size] = /^(h100|h200)-(?:nvl([248])|([1-9]\d{0,3})x([1-8]))$/.exec(name) ?? [];
  if (gpu === undefined) return undefined;
  const machine = MACHINES[gpu as 'h100' | 'h200'];
  if (joined !== undefined) return { name, nodes: 1, ranksPerNode: Number(joined), ...machine };
  const nodes = Number(count);
  return nodes <= MAX_NODES ? { name, nodes, ranksPerNode: Number(size), ...machine } : undefined;
}

/** GPUs per node if the plan does not determine it: one rank per node means once per rank. */
const DEFAULT_JOINED = 8;

/**
 * The default machine of a group: H100 with the nodes of the plan, or with nodes of eight GPUs if the plan has one rank
 * per node.
 */
export function defaultTopology({ ranks, ranksPerNode }: { ranks: number; ranksPerNode: number }): Topology {
  const joined = ranksPerNode > 1 ? ranksPerNode : Math.min(DEFAULT_JOINED, ranks);
  if (ranks <= joined && ranks <= 8) return namedTopology('h100-nvl8')!;
  const nodes = Math.ceil(ranks / joined);
  const name = `h100-${nodes}x${joined}`;
  return { name, nodes, ranksPerNode: joined, ...MACHINES.h100 };
}

/** Ranges of the constants; rates must be positive, latencies may be 0. */
const RANGES: Readonly<Record<keyof Constants, readonly [min: number, max: number]>> = {
  nvlinkGBps: [1e-3, 1e6],
  nvlinkLatencyUs: [0, 1e6],
  scatterReached: [1e-3, 1],
  nicGBps: [1e-3, 1e6],
  nicLatencyUs: [0, 1e6],
  hbmGBps: [1e-3, 1e6],
  hbmReached: [1e-3, 1],
  permuteReached: [1e-3, 1],
  launchUs: [0, 1e6],
  setupUs: [0, 1e9],
  channels: [1, 4096],
  overlap: [0, 1],
  gemmTflops: [1e-3, 1e6],
  gemmReached: [1e-3, 1],
};

/** What to do about the contents of a file. */
const hint = 'docs/simulate.md lists the keys of a topology file and their ranges.';

function fieldsOf(value: unknown, path: string): [string, unknown][] {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return Object.entries(value);
  throw new FuscoError('E_FORMAT', 'it is not a JSON object', { path, hint });
}

function checkNumber(
  name: string,
  value: unknown,
  [min, max]: readonly [number, number],
  path: string,
): number {
  if (typeof value === 'number' && value >= min && value <= max) return value;
  const text = `${name} is ${shown(value)}; it must be a number from ${min} to ${max}`;
  throw new FuscoError('E_OPTION', text, { path, limit: `${min}..${max}`, hint });
}

/** The constants in a JSON object, or in the `constants` of what \`simulate --json\` printed. */
function constantFields(value: unknown, path: string): [string, unknown][] {
  const fields = fieldsOf(value, path);
  const printed = new Map(fields);
  if (!printed.has('formatVersion')) return fields;
  const topology = printed.get('topology');
  const inner = topology === undefined ? printed : new Map(fieldsOf(topology, path));
  return fieldsOf(inner.get('constants'), path);
}

/** `base` with the constants of a JSON object in their place. Throws E_FORMAT or E_OPTION. */
function overrideConstants(base: Constants, value: unknown, path: string): Constants {
  const changed: Partial<Record<keyof Constants, number>> = {};
  for (const [name, given] of constantFields(value, path)) {
    if (!Object.hasOwn(RANGES, name)) {
      const known = Object.keys(RANGES).join(', ');
      throw new FuscoError('E_FORMAT', `${name} is not one of ${known}`, { path, hint });
    }
    const key = name as keyof Constants;
    changed[key] = checkNumber(name, given, RANGES[key], path);
  }
  return { ...base, ...changed };
}

/** The topology in a JSON object: {name, nodes, ranksPerNode, memoryGB?, constants?}; what it leaves out is H100's. */
function parseTopology(value: unknown, path: string): Topology {
  const fields = new Map(fieldsOf(value, path));
  const known = ['name', 'nodes', 'ranksPerNode', 'memoryGB', 'constants'];
  for (const name of fields.keys()) {
    if (known.includes(name)) continue;
    throw new FuscoError('E_FORMAT', `${name} is not one of ${known.join(', ')}`, { path, hint });
  }
  const size = (name: string) => {
    const found = checkNumber(name, fields.get(name), [1, 4096], path);
    if (Number.isInteger(found)) return found;
    throw new FuscoError('E_OPTION', `${name} is ${found}; it must be an integer`, { path, hint });
  };
  const name = fields.get('name');
  if (typeof name !== 'string' || name === '')
    throw new FuscoError('E_FORMAT', 'name is not a string', { path, hint });
  const constants = overrideConstants(H100, fields.get('constants') ?? {}, path);
  const memoryGB = checkNumber('memoryGB', fields.get('memoryGB') ?? 80, [1e-3, 1e6], path);
  return {
    name,
    nodes: size('nodes'),
    ranksPerNode: size('ranksPerNode'),
    memoryGB,
    constants,
    source: path,
  };
}

/**
 * A topology by its name or from a JSON file.
 *
 * @param calibration JSON file with constants that take the place of the topology's
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, E_FORMAT, E_OPTION
 */
export async function findTopology(nameOrPath: string, calibration?: string): Promise<Topology> {
  const known = namedTopology(nameOrPath);
  const isName = known === undefined && /^[\w-]+$/.test(nameOrPath);
  if (isName) {
    throw new FuscoError(
      'E_OPTION',
      `topology ${nameOrPath} is not one of ${TOPOLOGY_NAMES.join(', ')}, nor the name of a .json file`,
      { hint: 'Give --topology one of these names, or a .json file.' },
    );
  }
  const topology = known ?? parseTopology(await readJson(nameOrPath), nameOrPath);
  return calibration === undefined ? topology : calibrated(topology, calibration);
}

/** The topology with the constants of a JSON file. */
export async function calibrated(topology: Topology, path: string): Promise<Topology> {
  const constants = overrideConstants(topology.constants, await readJson(path), path);
  return { ...topology, constants, source: path };
}

/** Throws E_OPTION unless the machine has that many ranks. */
export function checkFit({ name, nodes, ranksPerNode }: Topology, ranks: number): void {
  if (ranks <= nodes * ranksPerNode) return;
  const text = `a group of ${ranks} ranks does not fit ${name}, which has ${nodes} x ${ranksPerNode}`;
  throw new FuscoError('E_OPTION', text, {
    value: ranks,
    limit: nodes * ranksPerNode,
    hint: 'Choose a larger --topology, or plan for fewer ranks.',
  });
}

/** Number of ranks of a group that NVLink connects on this machine. */
export function linkedRanks({ ranksPerNode }: Topology, ranks: number): number {
  return Math.min(ranksPerNode, ranks);
}
