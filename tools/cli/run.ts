import type { Command } from 'commander';
import type { BackendName } from '../../executor/backends/types.ts';
import { type FloatDtype, f16ToFloat } from '../../executor/numeric.ts';
import { scaleBlocks } from '../../executor/training/fp8.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { type Execution, type ExecutionInput, execute, findMismatch } from '../execution/execute.ts';
import { formatMs } from '../figures/format.ts';
import { encodeNpy, type NdArray, type NdDtype, shapeText } from '../readers/npy.ts';
import { readPerRank } from '../readers/numpyRouting.ts';
import { readVerifiedPlan } from '../readers/planFile.ts';
import { OutputDirectory } from '../writers/outputFile.ts';
import { ComparisonFailed, command, printJson, say } from './io.ts';
import { choice, needs } from './options.ts';

interface RunArguments {
  input: string;
  out: string;
  weights?: string;
  scales?: string;
  backend: BackendName | 'auto';
  check?: boolean;
  json?: boolean;
}

/** Payload dtypes by their names in NumPy; bf16 is stored as u16. */
const PAYLOADS = new Map<NdDtype, FloatDtype>([
  ['f32', 'f32'],
  ['f16', 'f16'],
  ['u16', 'bf16'],
]);

function shapeError(what: string, rank: number, array: NdArray, wanted: string): FuscoError {
  const found = `${array.dtype} ${shapeText(array.shape)}`;
  return new FuscoError('E_SHAPE', `${what} of rank ${rank} is ${found}, not ${wanted}`, { rank });
}

function tokensOf({ shards }: VerifiedPlan): number[] {
  return shards.map((shard) => shard.tokens);
}

function bytesOf({ data }: { readonly data: ArrayBufferView }): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** An input as its files hold it: what execution needs, and the dtype of its arrays. */
type StoredInput = ExecutionInput & { readonly hidden: number; readonly stored: NdDtype };

async function readInput(plan: VerifiedPlan, args: RunArguments): Promise<StoredInput> {
  const { spec, shards } = plan;
  const arrays = await readPerRank(args.input, tokensOf(plan), 'input');
  const [first] = arrays;
  const hidden = first!.shape.at(-1) ?? 0;
  const stored = first!.dtype;
  const isFp8 = spec.dtype === 'fp8';
  const known = isFp8 ? ['u8'] : [...PAYLOADS.keys()];
  arrays.forEach((array, rank) => {
    const dtypes = known.includes(stored) ? stored : isFp8 ? 'u8' : 'f32, f16 or u16';
    const fits =
      array.shape.length === 2 && array.shape[0] === shards[rank]!.tokens && array.shape[1] === hidden;
    if (!known.includes(array.dtype) || array.dtype !== stored || !fits || hidden === 0)
      throw shapeError('input', rank, array, `${dtypes} [${shards[rank]!.tokens}, ${hidden}]`);
  });
  if (!isFp8 && args.scales !== undefined)
    throw new FuscoError(
      'E_USAGE',
      `--scales is only valid for plans of fp8 rows; this one has ${spec.dtype}`,
    );
  const weights = args.weights === undefined ? undefined : await readWeights(plan, args.weights);
  const rows = arrays.map(bytesOf);
  if (isFp8) {
    const dtype = spec.combineDtype as FloatDtype;
    return {
      dtype,
      stored,
      hidden,
      rowBytes: hidden,
      rows,
      weights,
      scales: await readScales(plan, args, hidden),
    };
  }
  return {
    dtype: PAYLOADS.get(stored)!,
    stored,
    hidden,
    rowBytes: hidden * (stored === 'f32' ? 4 : 2),
    rows,
    weights,
  };
}

/** Scales of fp8 rows, f32 [tokens, ceil(hidden / 128)] per rank; all 1 if none are given. */
async function readScales(plan: VerifiedPlan, args: RunArguments, hidden: number): Promise<Uint8Array[]> {
  const blocks = scaleBlocks(hidden);
  if (args.scales === undefined)
    return plan.shards.map(({ tokens }) => bytesOf({ data: new Float32Array(tokens * blocks).fill(1) }));
  const arrays = await readPerRank(args.scales, tokensOf(plan), 'scales');
  return arrays.map((array, rank) => {
    const { tokens } = plan.shards[rank]!;
    const fits = array.shape.length === 2 && array.shape[0] === tokens && array.shape[1] === blocks;
    if (fits && array.dtype === 'f32') return bytesOf(array);
    throw shapeError('scales', rank, array, `f32 [${tokens}, ${blocks}]`);
  });
}

/** A plan counts rows, so rows of other sizes and dtypes can be moved along it; a note reports this. */
function noteOtherRows({ spec }: VerifiedPlan, { hidden, dtype, scales }: StoredInput): void {
  const found = scales === undefined ? dtype : 'fp8';
  if (hidden === spec.hidden && found === spec.dtype) return;
  say(
    `note: the plan says rows of ${spec.hidden} x ${spec.dtype}, the input has ${hidden} x ${found}; a plan counts rows, so both work`,
  );
}

async function readWeights(plan: VerifiedPlan, path: string): Promise<Float32Array[]> {
  const arrays = await readPerRank(path, tokensOf(plan), 'weights');
  return arrays.map((array, rank) => {
    const { tokens, topk } = plan.shards[rank]!;
    const fits = array.shape.length === 2 && array.shape[0] === tokens && array.shape[1] === topk;
    if (fits && array.dtype === 'f32') return array.data as Float32Array;
    if (fits && array.dtype === 'f16') return Float32Array.from(array.data as Uint16Array, f16ToFloat);
    throw shapeError('weights', rank, array, `f32 or f16 [${tokens}, ${topk}]`);
  });
}

/** How NumPy stores each dtype of combined rows. */
const STORED = new Map([...PAYLOADS].map(([stored, dtype]) => [dtype, stored]));

async function writeResult(plan: VerifiedPlan, input: StoredInput, result: Execution, out: string) {
  const directory = await OutputDirectory.create(out);
  const { hidden, stored, dtype, scales } = input;
  const write = (rank: number, name: string, as: NdDtype, shape: number[], bytes: Uint8Array) =>
    directory.write(`rank${rank}.${name}.npy`, encodeNpy(as, shape, bytes));
  for (const rank of result.localRanks) {
    const { recvRows, tokens } = plan.shards[rank]!;
    await write(rank, 'recv', stored, [recvRows, hidden], result.received[rank]!);
    if (scales !== undefined)
      await write(rank, 'recv_scales', 'f32', [recvRows, scaleBlocks(hidden)], result.receivedScales[rank]!);
    await write(rank, 'combined', STORED.get(dtype)!, [tokens, hidden], result.combined[rank]!);
  }
}

async function run(file: string, args: RunArguments): Promise<void> {
  const { plan, planId } = await readVerifiedPlan(file);
  const input = await readInput(plan, args);
  const result = await execute(plan, input, args.backend);
  await writeResult(plan, input, result, args.out);
  const mismatch = args.check ? await findMismatch(plan, input, result) : undefined;
  const { backend, dispatch, combine } = result;
  if (args.json) {
    const checked = args.check ? { checked: mismatch === undefined, mismatch: mismatch ?? null } : {};
    printJson({ planId, backend, dispatch, combine, out: args.out, ...checked });
  } else {
    const who = backend === 'nccl' ? `rank ${result.localRanks.join()}: ` : '';
    const times = `dispatch ${formatMs(dispatch.nanoseconds / 1e6)}, combine ${formatMs(combine.nanoseconds / 1e6)}`;
    say(`${who}${backend} backend, ${dispatch.strategy} plan: ${times} -> ${args.out}`);
    noteOtherRows(plan, input);
    if (args.check && mismatch === undefined) say('checked: every byte is correct');
  }
  if (mismatch !== undefined) {
    say(`check failed: ${mismatch.what} row ${mismatch.row} of rank ${mismatch.rank} differs`);
    throw new ComparisonFailed();
  }
}

export function runCommand(): Command {
  return command('run', 'Execute dispatch and combine, with experts that return their input.')
    .argument('<file>', 'a plan file')
    .option(
      '--input <x>',
      '[ranks, tokens, hidden], [tokens, hidden] or a directory of rank{r}.npy; f32, f16, u16 for bf16, or u8 for a plan of fp8 rows (required)',
    )
    .option('--out <dir>', 'directory for rank{r}.recv.npy and rank{r}.combined.npy (required)')
    .option(
      '--scales <s>',
      'scales of fp8 rows: f32, in the same forms with ceil(hidden / 128) columns (default: 1)',
    )
    .option(
      '--weights <w>',
      'weights of combine: f32 or f16, in the same forms with topk columns (default: unweighted)',
    )
    .addOption(
      choice(
        '--backend <name>',
        'backend to use; auto is host if the native addon is present, else reference; nccl needs a launcher',
        ['auto', 'reference', 'host', 'cuda', 'nccl'],
      ),
    )
    .option(
      '--check',
      'compare every byte with the result expected from the input; exit with 1 if one differs',
    )
    .option('--json', 'print one JSON object')
    .hook('preAction', needs('input', 'out'))
    .action(run);
}
