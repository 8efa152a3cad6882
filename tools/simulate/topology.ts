// Machines as the cost model sees them: constants per rank and direction, and how many nodes there are.

import { FuscoError } from '../../planner/errors.ts';
import { readJson, shown } from '../readers/json.ts';

/** Every constant of the cost model; docs/simulate.md says where the defaults come from. */
export interface Constants {
  /** Effective rate of a rank's NVLink, a direction, in GB/s. */
  readonly nvlinkGBps: number;
  readonly nvlinkLatencyUs: number;
  /** Effective rate of a rank's NIC, a direction, in GB/s. */
  readonly nicGBps: number;
  readonly nicLatencyUs: number;
  /** Nominal rate of a GPU's memory, reads and writes together, in GB/s. */
  readonly hbmGBps: number;
  /** Share of it that the exchange reaches, 0..1. */
  readonly hbmReached: number;
  /** Share of it that a permutation pass of its own reaches, 0..1. */
  readonly permuteReached: number;
  /** Start of one stage. */
  readonly launchUs: number;
  /** Fixed cost of one exchange, in addition to its stages. */
  readonly setupUs: number;
  /** Peers that are served at once: the latency counts once for each group of that many. */
  readonly channels: number;
  /** How much of a stage can run while the one before it still runs: 0 nothing, 1 all but the first slice. */
  readonly overlap: number;
}

export interface Topology {
  readonly name: string;
  /** Nodes and ranks a node that exist; a plan may use fewer. */
  readonly nodes: number;
  readonly ranksPerNode: number;
  readonly constants: Constants;
}

const H100: Constants = {
  nvlinkGBps: 370,
  nvlinkLatencyUs: 1.9,
  nicGBps: 43,
  nicLatencyUs: 5,
  hbmGBps: 3350,
  hbmReached: 0.88,
  permuteReached: 0.88,
  launchUs: 4,
  setupUs: 0,
  channels: 8,
  overlap: 1,
};
const H200: Constants = { ...H100, hbmGBps: 4800 };

/** The machines that are known by name; `h100-8x8` is the cluster of the paper's evaluation. */
export const TOPOLOGIES: readonly Topology[] = [
  { name: 'h100-8x8', nodes: 8, ranksPerNode: 8, constants: H100 },
  { name: 'h200-nvl8', nodes: 1, ranksPerNode: 8, constants: H200 },
  { name: 'h200-8x8', nodes: 8, ranksPerNode: 8, constants: H200 },
];

/** Ranges of the constants; rates must be positive, latencies may be 0. */
const RANGES: Readonly<Record<keyof Constants, readonly [min: number, max: number]>> = {
  nvlinkGBps: [1e-3, 1e6],
  nvlinkLatencyUs: [0, 1e6],
  nicGBps: [1e-3, 1e6],
  nicLatencyUs: [0, 1e6],
  hbmGBps: [1e-3, 1e6],
  hbmReached: [1e-3, 1],
  permuteReached: [1e-3, 1],
  launchUs: [0, 1e6],
  setupUs: [0, 1e9],
  channels: [1, 4096],
  overlap: [0, 1],
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

/** `base` with the constants of a JSON object in their place. Throws E_FORMAT or E_OPTION. */
export function overrideConstants(base: Constants, value: unknown, path: string): Constants {
  const changed: Partial<Record<keyof Constants, number>> = {};
  for (const [name, given] of fieldsOf(value, path)) {
    if (!Object.hasOwn(RANGES, name)) {
      const known = Object.keys(RANGES).join(', ');
      throw new FuscoError('E_FORMAT', `${name} is not one of ${known}`, { path, hint });
    }
    const key = name as keyof Constants;
    changed[key] = checkNumber(name, given, RANGES[key], path);
  }
  return { ...base, ...changed };
}

/** The topology in a JSON object: {name, nodes, ranksPerNode, constants?}; what it leaves out is h100-8x8's. */
export function parseTopology(value: unknown, path: string): Topology {
  const fields = new Map(fieldsOf(value, path));
  for (const name of fields.keys()) {
    if (['name', 'nodes', 'ranksPerNode', 'constants'].includes(name)) continue;
    throw new FuscoError('E_FORMAT', `${name} is not one of name, nodes, ranksPerNode, constants`, {
      path,
      hint,
    });
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
  return { name, nodes: size('nodes'), ranksPerNode: size('ranksPerNode'), constants };
}

/**
 * A topology by its name or from a JSON file.
 *
 * @param calibration JSON file with constants that take the place of the topology's
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, E_FORMAT, E_OPTION
 */
export async function findTopology(nameOrPath: string, calibration?: string): Promise<Topology> {
  const known = TOPOLOGIES.find(({ name }) => name === nameOrPath);
  const isName = known === undefined && /^[\w-]+$/.test(nameOrPath);
  if (isName) {
    const names = TOPOLOGIES.map(({ name }) => name).join(', ');
    throw new FuscoError(
      'E_OPTION',
      `topology ${nameOrPath} is not one of ${names}, nor the name of a .json file`,
      { hint: `Give --topology one of ${names}, or a .json file.` },
    );
  }
  const topology = known ?? parseTopology(await readJson(nameOrPath), nameOrPath);
  if (calibration === undefined) return topology;
  const constants = overrideConstants(topology.constants, await readJson(calibration), calibration);
  return { ...topology, constants };
}

/** Throws E_OPTION if the plan's group does not fit the machine. */
export function checkFit(topology: Topology, nodes: number, ranksPerNode: number): void {
  if (nodes <= topology.nodes && ranksPerNode <= topology.ranksPerNode) return;
  const has = `${topology.nodes} x ${topology.ranksPerNode}`;
  const text = `a plan for ${nodes} nodes x ${ranksPerNode} ranks does not fit ${topology.name}, which has ${has}`;
  throw new FuscoError('E_OPTION', text, { hint: 'Choose a larger --topology, or plan for its nodes.' });
}
