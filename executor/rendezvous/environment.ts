// The rank of this process and the address of rank 0, from options and from the variables of torchrun, Open MPI and Slurm.

import { createHash } from 'node:crypto';
import { checkInteger, FuscoError } from '../../planner/errors.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { type Environment, integerVariable } from '../environment.ts';
import { firstHost, tasksOfNode } from './slurm.ts';

/** Options take precedence over the environment. */
export interface BootstrapOptions {
  rank?: number;
  /** Ranks of the group, 1..4096. */
  worldSize?: number;
  localRank?: number;
  localWorldSize?: number;
  /** Where rank 0 listens: `host:port`, `[ipv6]:port`, or a host alone if MASTER_PORT gives the port. */
  address?: string;
  /** Secret that all ranks share, at most 1024 characters. Default: empty, which means no secret. */
  secret?: string;
  /** Default of every wait, 100..86400000 ms. Default 60000. */
  deadlineMs?: number;
  /** Interval of heartbeats, 10..10000 ms. Default 250. */
  heartbeatMs?: number;
}

/** Everything that connecting needs. */
export interface Bootstrap {
  readonly rank: number;
  readonly worldSize: number;
  /** Undefined if no option or variable gives it; ranks with the same machine name are then counted. */
  readonly localRank: number | undefined;
  readonly localWorldSize: number | undefined;
  readonly host: string;
  /** 0, any free one, only for a group of one rank. */
  readonly port: number;
  readonly secret: string;
  readonly deadlineMs: number;
  readonly heartbeatMs: number;
}

/** A value with the name of the option or variable that it comes from, for errors. */
interface Found {
  readonly name: string;
  readonly value: number | string;
}

/** The values of a launcher. */
interface Launch {
  readonly rank?: Found | undefined;
  readonly worldSize?: Found | undefined;
  readonly localRank?: Found | undefined;
  readonly localWorldSize?: Found | undefined;
  readonly host?: string | undefined;
  /** Text from which a port is derived: identical on all ranks of this run, and different for other runs. */
  readonly job?: string | undefined;
  /** Whether the launcher listens at MASTER_PORT. */
  readonly isPortTaken?: boolean;
}

const DEFAULT_DEADLINE_MS = 60_000;
const MIN_DEADLINE_MS = 100;
/** Longest deadline: a day. */
export const MAX_DEADLINE_MS = 86_400_000;
const DEFAULT_HEARTBEAT_MS = 250;
/** Ports that are derived from a job's id: below the range that systems use for outgoing connections. */
const JOB_PORTS = { first: 15_000, count: 15_000 };

function refuse(text: string): never {
  throw new FuscoError('E_BOOTSTRAP', text);
}

/** The first of these variables that is set and not empty. */
function find(env: Environment, ...names: string[]): Found | undefined {
  for (const name of names) {
    const value = env[name];
    if (value !== undefined && value !== '') return { name, value };
  }
  return undefined;
}

/** The agent of torchrun listens at MASTER_PORT, so the rendezvous uses another port. */
function torchrun(env: Environment): Launch {
  const isPortTaken = env.TORCHELASTIC_USE_AGENT_STORE === 'True';
  const { MASTER_PORT, TORCHELASTIC_RUN_ID, TORCHELASTIC_RESTART_COUNT } = env;
  return {
    isPortTaken,
    job: isPortTaken
      ? `torchrun ${MASTER_PORT} ${TORCHELASTIC_RUN_ID} ${TORCHELASTIC_RESTART_COUNT}`
      : undefined,
    rank: find(env, 'RANK'),
    worldSize: find(env, 'WORLD_SIZE'),
    localRank: find(env, 'LOCAL_RANK'),
    localWorldSize: find(env, 'LOCAL_WORLD_SIZE'),
  };
}

function openMpi(env: Environment): Launch {
  const launch = {
    rank: find(env, 'OMPI_COMM_WORLD_RANK'),
    worldSize: find(env, 'OMPI_COMM_WORLD_SIZE'),
    localRank: find(env, 'OMPI_COMM_WORLD_LOCAL_RANK'),
    localWorldSize: find(env, 'OMPI_COMM_WORLD_LOCAL_SIZE'),
    job: env.PMIX_NAMESPACE ?? env.OMPI_MCA_ess_base_jobid,
  };
  const isOneMachine = launch.worldSize?.value === launch.localWorldSize?.value;
  return isOneMachine ? { ...launch, host: '127.0.0.1' } : launch;
}

function slurm(env: Environment): Launch {
  const perNode = find(env, 'SLURM_STEP_TASKS_PER_NODE', 'SLURM_TASKS_PER_NODE');
  const tasks = perNode && tasksOfNode(String(perNode.value), Number(env.SLURM_NODEID ?? Number.NaN));
  const nodes = find(env, 'SLURM_STEP_NODELIST', 'SLURM_JOB_NODELIST', 'SLURM_NODELIST');
  const host = nodes && firstHost(String(nodes.value));
  if (nodes !== undefined && host === undefined)
    refuse(`${nodes.name} is ${JSON.stringify(nodes.value)}: no node list`);
  const id = find(env, 'SLURM_JOB_ID', 'SLURM_JOBID');
  return {
    rank: find(env, 'SLURM_PROCID'),
    worldSize: find(env, 'SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS', 'SLURM_NPROCS'),
    localRank: find(env, 'SLURM_LOCALID'),
    localWorldSize:
      tasks === undefined ? find(env, 'SLURM_NTASKS_PER_NODE') : { name: perNode!.name, value: tasks },
    host,
    job: id && `slurm ${id.value} ${env.SLURM_STEP_ID ?? env.SLURM_STEPID ?? ''}`,
  };
}

/**
 * The innermost launcher. torchrun may have been started by mpirun or srun, and mpirun inside a Slurm job, so the variables
 * of the outer launchers are set as well.
 */
function detect(env: Environment): Launch {
  if (env.RANK !== undefined || env.WORLD_SIZE !== undefined) return torchrun(env);
  if (env.OMPI_COMM_WORLD_RANK !== undefined) return openMpi(env);
  if (env.SLURM_PROCID !== undefined) return slurm(env);
  return {};
}

/** An integer from an option or else from the launcher. */
function integer(
  name: keyof BootstrapOptions,
  option: number | undefined,
  found: Found | undefined,
  min: number,
  max: number,
): number | undefined {
  const given = option === undefined ? found : { name: `option ${name}`, value: option };
  if (given === undefined) return undefined;
  const text = String(given.value).trim();
  const value = option ?? (/^\d+$/.test(text) ? Number(text) : Number.NaN);
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
  const shown = option === undefined ? `"${given.value}"` : given.value;
  return refuse(`${given.name} is ${shown}; it must be an integer from ${min} to ${max}`);
}

/** The port of a job without MASTER_PORT: every rank of the job computes the same one. */
export function jobPort(job: string): number {
  const hash = createHash('sha256').update(job).digest().readUInt32LE(0);
  return JOB_PORTS.first + (hash % JOB_PORTS.count);
}

/** `host:port`, `[ipv6]:port`, `host`, `ipv6`. */
function splitAddress(address: string): { host: string; port: string | undefined } {
  const match = /^(?:\[([^\]]+)\]|([^:\s]+))(?::(\d+))?$/.exec(address);
  if (match !== null) return { host: (match[1] ?? match[2])!, port: match[3] };
  if (/^[\da-f:.]+$/i.test(address)) return { host: address, port: undefined };
  return refuse(`option address is "${address}"; it must be host:port`);
}

/** Where rank 0 listens. */
function meetingPoint(
  options: BootstrapOptions,
  env: Environment,
  launch: Launch,
  worldSize: number,
): { host: string; port: number } {
  const given = options.address === undefined ? undefined : splitAddress(options.address);
  const host = given?.host ?? (find(env, 'MASTER_ADDR')?.value as string | undefined) ?? launch.host;
  const written: Found | undefined =
    given?.port === undefined
      ? launch.isPortTaken
        ? undefined
        : find(env, 'MASTER_PORT')
      : { name: 'the port of address', value: given.port };
  const port = integer('address', undefined, written, worldSize === 1 ? 0 : 1, 65_535);
  const derived = launch.job === undefined ? undefined : jobPort(launch.job);
  if (worldSize === 1) return { host: host ?? '127.0.0.1', port: port ?? derived ?? 0 };
  if (host === undefined) refuse('nothing says where rank 0 is: set MASTER_ADDR or the option address');
  const chosen = port ?? derived;
  if (chosen === undefined)
    return refuse('nothing says at which port rank 0 listens: set MASTER_PORT or the option address');
  return { host, port: chosen };
}

/** Throws E_OPTION unless the secret is a text of at most 1024 characters. */
function checkSecret(secret: string): string {
  checkInteger('secret.length', secret.length, 0, 1024);
  return secret;
}

function checkDeadline(options: BootstrapOptions, env: Environment): number {
  const { deadlineMs } = options;
  if (deadlineMs !== undefined)
    return checkInteger('deadlineMs', deadlineMs, MIN_DEADLINE_MS, MAX_DEADLINE_MS);
  return integerVariable(env, 'FUSCO_DEADLINE_MS', MIN_DEADLINE_MS, MAX_DEADLINE_MS) ?? DEFAULT_DEADLINE_MS;
}

/**
 * Determines the rank, the world size and the address of rank 0.
 *
 * @throws FuscoError E_BOOTSTRAP for values that are missing, malformed or contradictory; E_OPTION for other invalid
 *   options
 */
export function resolveBootstrap(options: BootstrapOptions, env: Environment): Bootstrap {
  const launch = detect(env);
  const worldSize = integer('worldSize', options.worldSize, launch.worldSize, 1, MAX_RANKS);
  const rank = integer('rank', options.rank, launch.rank, 0, MAX_RANKS - 1);
  if (rank === undefined || worldSize === undefined) {
    const missing = [rank === undefined ? 'rank' : [], worldSize === undefined ? 'worldSize' : []]
      .flat()
      .join(' and ');
    refuse(
      `nothing says ${missing}: start under a launcher (RANK and WORLD_SIZE, Slurm, Open MPI) or give the options`,
    );
  }
  if (rank >= worldSize) refuse(`rank ${rank} of ${worldSize}: ranks count from 0 to ${worldSize - 1}`);
  // A rank that is given explicitly may differ from the launcher's rank, whose local rank then does not apply.
  const isLaunchers = options.rank === undefined || options.rank === Number(launch.rank?.value ?? Number.NaN);
  const localSize = isLaunchers ? launch.localWorldSize : undefined;
  const localWorldSize = integer('localWorldSize', options.localWorldSize, localSize, 1, worldSize);
  const localFound = isLaunchers ? launch.localRank : undefined;
  const localRank = integer('localRank', options.localRank, localFound, 0, (localWorldSize ?? worldSize) - 1);
  return {
    rank,
    worldSize,
    localRank,
    localWorldSize,
    ...meetingPoint(options, env, launch, worldSize),
    secret: checkSecret(options.secret ?? env.FUSCO_SECRET ?? ''),
    deadlineMs: checkDeadline(options, env),
    heartbeatMs: checkInteger('heartbeatMs', options.heartbeatMs ?? DEFAULT_HEARTBEAT_MS, 10, 10_000),
  };
}
