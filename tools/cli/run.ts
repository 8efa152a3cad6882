import type { Command } from 'commander';
import type { BackendName } from '../../executor/backends/types.ts';
import { type FloatDtype, f16ToFloat } from '../../executor/numeric.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { type Execution, type ExecutionInput, execute, findMismatch } from '../execution/execute.ts';
import { formatMs } from '../figures/format.ts';
import { encodeNpy, type NdArray, type NdDtype, shapeText } from '../readers/npy.ts';
import { readPerRank } from '../readers/numpyRouting.ts';
import { readVerifiedPlan } from '../readers/planFile.ts';
import { OutputDirectory } from '../writers/outputFile.ts';
import { ComparisonFailed, command, printJson, say } from './io.ts';
import { choice } from './options.ts';

interface RunArguments {
  input: string;
  out: string;
  weights?: string;
  backend: BackendName | 'auto';
  check?: boolean;
  json?: boolean;
}

/** Payload dtypes by what NumPy calls them; bf16 travels as u16. */
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

function bytesOf(array: NdArray): Uint8Array {
  return new Uint8Array(array.data.buffer, array.data.byteOffset, array.data.byteLength);
}

async function readInput(
  plan: VerifiedPlan,
  args: RunArguments,
): Promise<ExecutionInput & { stored: NdDtype }> {
  const arrays = await readPerRank(args.input, tokensOf(plan), 'input');
  const [first] = arrays;
  const hidden = first!.shape.at(-1) ?? 0;
  const stored = first!.dtype;
  const dtype = PAYLOADS.get(stored);
  arrays.forEach((array, rank) => {
    const wanted = `${dtype === undefined ? 'f32, f16 or u16' : stored} [${plan.shards[rank]!.tokens}, ${hidden}]`;
    const fits =
      array.shape.length === 2 && array.shape[0] === plan.shards[rank]!.tokens && array.shape[1] === hidden;
    if (dtype === undefined || array.dtype !== stored || !fits || hidden === 0) {
      throw shapeError('input', rank, array, wanted);
    }
  });
  const weights = args.weights === undefined ? undefined : await readWeights(plan, args.weights);
  const rowBytes = hidden * (stored === 'f32' ? 4 : 2);
  return { dtype: dtype!, stored, rowBytes, rows: arrays.map(bytesOf), weights };
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

async function writeResult(
  plan: VerifiedPlan,
  input: ExecutionInput & { stored: NdDtype },
  result: Execution,
  out: string,
) {
  const directory = await OutputDirectory.create(out);
  const hidden = input.rowBytes / (input.stored === 'f32' ? 4 : 2);
  for (const rank of result.localRanks) {
    const { recvRows, tokens } = plan.shards[rank]!;
    const received = encodeNpy(input.stored, [recvRows, hidden], result.received[rank]!);
    await directory.write(`rank${rank}.recv.npy`, received);
    const combined = encodeNpy(input.stored, [tokens, hidden], result.combined[rank]!);
    await directory.write(`rank${rank}.combined.npy`, combined);
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
    if (args.check && mismatch === undefined) say('checked: every byte is right');
  }
  if (mismatch !== undefined) {
    say(`check failed: ${mismatch.what} row ${mismatch.row} of rank ${mismatch.rank} differs`);
    throw new ComparisonFailed();
  }
}

export function runCommand(): Command {
  return command('run', 'Execute dispatch and combine, with experts that return their input.')
    .argument('<file>', 'a plan file')
    .requiredOption(
      '--input <x>',
      '[ranks, tokens, hidden], [tokens, hidden] or a directory of rank{r}.npy; f32, f16, or u16 for bf16',
    )
    .requiredOption('--out <dir>', 'directory for rank{r}.recv.npy and rank{r}.combined.npy')
    .option('--weights <w>', 'f32 or f16, in the same forms with topk columns (default: unweighted)')
    .addOption(
      choice(
        '--backend <name>',
        'what executes; auto is host if the native addon is there; nccl needs a launcher',
        ['auto', 'reference', 'host', 'cuda', 'nccl'],
      ),
    )
    .option('--check', 'compare every byte with what the input implies; exit 1 if one differs')
    .option('--json', 'one JSON object')
    .action(run);
}
