// Trains a small Mixture-of-Experts network to read handwritten digits, expert-parallel, and once more on one rank:
//
//   npm run example:train -- [--steps N | --short] [--ranks 1|2|4] [--backend auto|reference|host|cuda|nccl]
//                            [--plan host|device] [--one-rank-blocks N] [--json FILE]
//
// With nccl it is started once for each rank, and every process compares what it knows:
//
//   fusco launch -n 4 -- node build/examples/train/main.js --backend nccl
//
// Both trainings must give the same losses and the same weights to the last bit. Exit 0: they do, and the network has
// learned; 1: they do not; 2: an error.

import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type BackendName, createGroup, FuscoError, STEP_STAGES, type StepTimes } from 'fusco';
import { type Digits, loadDigits, pick, randomFrom, shuffled } from './digits.ts';
import { Trainer } from './trainer.ts';

const BATCH = 126;
const BLOCKS = 4;
const SHORT_STEPS = 40;
const FULL_STEPS = 1000;
const ORDER_SEED = 3;

interface Options {
  readonly steps: number;
  readonly ranks: number;
  readonly backend: BackendName | 'auto';
  readonly plansOnDevice: boolean;
  readonly oneRankBlocks: number;
  readonly json: string | undefined;
}

interface Training {
  readonly ranks: number;
  readonly backend: BackendName;
  readonly losses: Float32Array;
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** Share of the held-out digits that are read right, before and after. */
  readonly accuracy: readonly [number, number];
  readonly seconds: number;
  readonly times: readonly StepTimes[];
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      steps: { type: 'string' },
      short: { type: 'boolean', default: false },
      ranks: { type: 'string', default: String(BLOCKS) },
      backend: { type: 'string', default: 'auto' },
      plan: { type: 'string', default: 'host' },
      'one-rank-blocks': { type: 'string', default: String(BLOCKS) },
      json: { type: 'string' },
    },
  });
  const whole = (name: string, text: string, max: number) => {
    if (/^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= max) return Number(text);
    throw new Error(`--${name} ${text} is not a whole number from 1 to ${max}`);
  };
  const ranks = whole('ranks', values.ranks, BLOCKS);
  if (values.plan !== 'host' && values.plan !== 'device') {
    throw new Error(`--plan ${values.plan} is neither host nor device`);
  }
  return {
    steps: whole('steps', values.steps ?? String(values.short ? SHORT_STEPS : FULL_STEPS), 1_000_000),
    ranks,
    backend: values.backend as Options['backend'],
    plansOnDevice: values.plan === 'device',
    oneRankBlocks: whole('one-rank-blocks', values['one-rank-blocks'], BATCH),
    json: values.json,
  };
}

/** Batches of one epoch after another, each in its own order; the last of an epoch may be smaller. */
function* batches(digits: Digits): Generator<Digits, never> {
  const random = randomFrom(ORDER_SEED);
  while (true) {
    const order = shuffled(digits.count, random);
    for (let at = 0; at < order.length; at += BATCH) yield pick(digits, order.subarray(at, at + BATCH));
  }
}

async function accuracyOf(trainer: Trainer, digits: Digits): Promise<number> {
  const order = Uint32Array.from({ length: digits.count }, (_, i) => i);
  let correct = 0;
  for (let at = 0; at < order.length; at += BATCH) {
    correct += (await trainer.judge(pick(digits, order.subarray(at, at + BATCH)))).correct;
  }
  return correct / digits.count;
}

async function train(
  ranks: number,
  blocks: number,
  { steps, backend, plansOnDevice }: Options,
  { training, heldOut }: ReturnType<typeof loadDigits>,
): Promise<Training> {
  const start = performance.now();
  // A launcher says how many ranks the nccl backend has.
  await using group = await createGroup(backend === 'nccl' ? { backend } : { ranks, backend });
  const size = group.ranks;
  if (blocks % size > 0) throw new Error(`${blocks} blocks do not fill ${size} ranks evenly`);
  using trainer = await Trainer.open(group, { images: BATCH, blocks, plansOnDevice });
  const say = group.localRanks[0] === 0 ? console.log : () => {};
  say(`\n${size} rank${size === 1 ? '' : 's'} on ${group.backend}, ${steps} steps of ${BATCH} images`);
  const before = await accuracyOf(trainer, heldOut);
  say(`  held-out accuracy ${(100 * before).toFixed(2)} %`);
  const losses = new Float32Array(steps);
  const times: StepTimes[] = [];
  trainer.clock.take();
  const source = batches(training);
  const every = Math.ceil(steps / 10);
  for (let step = 0; step < steps; step++) {
    losses[step] = (await trainer.train(source.next().value)).loss;
    times.push(trainer.clock.take());
    if (step % every === 0 || step === steps - 1) {
      say(`  step ${String(step + 1).padStart(4)} of ${steps}  loss ${losses[step]!.toFixed(6)}`);
    }
  }
  const after = await accuracyOf(trainer, heldOut);
  const seconds = (performance.now() - start) / 1000;
  say(`  held-out accuracy ${(100 * after).toFixed(2)} %, ${seconds.toFixed(1)} s`);
  const weights = trainer.weights();
  return {
    ranks: size,
    backend: group.backend,
    losses,
    weights,
    accuracy: [before, after],
    seconds,
    times,
  };
}

/** Median milliseconds of the stages. */
function stageMedians(times: readonly StepTimes[]): Record<string, number> {
  return Object.fromEntries(
    STEP_STAGES.map((stage) => {
      const sorted = times.map((step) => step[stage]).sort((a, b) => a - b);
      return [stage, Number((sorted[sorted.length >> 1]! / 1e6).toFixed(4))];
    }),
  );
}

/** Where two arrays first differ in a bit; -1 where they do not. */
function firstDifference(a: Float32Array, b: Float32Array): number {
  const [x, y] = [a, b].map((values) => new Uint32Array(values.buffer, values.byteOffset, values.length));
  return x!.findIndex((bits, i) => bits !== y![i]);
}

/** Compares two trainings bit for bit and says what it found. */
function compare(a: Training, b: Training): boolean {
  const step = firstDifference(a.losses, b.losses);
  if (step >= 0) {
    console.log(`\nlosses differ from step ${step + 1} on: ${a.losses[step]} and ${b.losses[step]}`);
    return false;
  }
  let count = 0;
  for (const [name, values] of a.weights) {
    if (firstDifference(values, b.weights.get(name)!) >= 0) {
      console.log(`\n${name} differ`);
      return false;
    }
    count += values.length;
  }
  console.log(
    `\n${a.ranks} ranks and ${b.ranks}: all ${a.losses.length} losses and ${count} weights are the same bits`,
  );
  return true;
}

async function main(): Promise<number> {
  const options = readOptions();
  const digits = loadDigits();
  console.log(
    `digits: ${digits.training.count} to learn from, ${digits.heldOut.count} held out, 14 x 14 pixels`,
  );
  const many = await train(options.ranks, BLOCKS, options, digits);
  console.log(`  median ms of a stage: ${JSON.stringify(stageMedians(many.times))}`);
  // One rank without a launcher plans on the host, with the same bits.
  const isLaunched = options.backend === 'nccl';
  const plansOnDevice = options.plansOnDevice && !isLaunched;
  const alone = { ...options, plansOnDevice, backend: isLaunched ? 'auto' : options.backend } as const;
  const one = await train(1, options.oneRankBlocks, alone, digits);
  const isSame = compare(many, one);
  const learned = many.accuracy[1] > many.accuracy[0] && many.losses.at(-1)! < many.losses[0]!;
  if (!learned) console.log('the network has not learned');
  if (options.json !== undefined) {
    const runs = [many, one].map(({ weights: _, times, losses, ...rest }) => ({
      ...rest,
      losses: [...losses],
      stageMilliseconds: stageMedians(times),
    }));
    writeFileSync(options.json, `${JSON.stringify({ formatVersion: 1, isSame, learned, runs }, null, 2)}\n`);
  }
  return isSame && learned ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(
    error instanceof FuscoError
      ? `error[${error.code}]: ${error.message} (${error.hint})`
      : `error: ${error instanceof Error ? error.message : String(error)}`,
  );
  process.exitCode = 2;
}
