// Sends one half of a batch to its experts while they work on the other, and shows when what ran:
//
//   npm run example:overlap -- [--backend auto|reference|host|cuda] [--tokens N] [--threads N] [--runs N]
//                              [--expert-us N] [--out FILE]
//
// FILE becomes a trace that Perfetto opens. Exit 0: both orders gave the same bits; 1: they did not; 2: an error.

import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type BackendName, FuscoError } from 'fusco';
import { openCudaEngine } from './cuda.ts';
import { type Engine, runInTurn, runOverlapped, type Sizes } from './engine.ts';
import { openHostEngine } from './host.ts';
import { draw, lengthOf, overlapOf, type Span, traceOf } from './timeline.ts';

const WARM_UP_RUNS = 2;

function readOptions() {
  const { values } = parseArgs({
    options: {
      backend: { type: 'string', default: 'auto' },
      tokens: { type: 'string', default: '4096' },
      threads: { type: 'string', default: '1' },
      runs: { type: 'string', default: '9' },
      'expert-us': { type: 'string', default: '300' },
      out: { type: 'string' },
    },
  });
  const whole = (name: 'tokens' | 'threads' | 'runs' | 'expert-us', max: number) => {
    const text = values[name];
    if (/^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= max) return Number(text);
    throw new Error(`--${name} ${text} is not a whole number from 1 to ${max}`);
  };
  return {
    backend: values.backend as BackendName | 'auto',
    tokens: whole('tokens', 1 << 16),
    threads: whole('threads', 1024),
    runs: whole('runs', 10_000),
    expertUs: whole('expert-us', 1_000_000),
    out: values.out,
  };
}

const bytesOf = (results: readonly Float32Array[]) =>
  Buffer.concat(
    results.map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)),
  );

/** Runs in turn and overlapped by turns, so that a busy machine slows down both. */
async function measure(engine: Engine, runs: number) {
  const kinds = { 'in turn': runInTurn, overlapped: runOverlapped };
  const measured = Object.entries(kinds).map(([name, run]) => ({
    name,
    run,
    spans: [] as Span[],
    length: Number.POSITIVE_INFINITY,
    result: Buffer.alloc(0),
  }));
  for (let i = -WARM_UP_RUNS; i < runs; i++) {
    for (const kind of measured) {
      const spans = await kind.run(engine);
      kind.result = bytesOf(engine.results());
      if (i < 0 || lengthOf(spans) >= kind.length) continue;
      kind.spans = spans;
      kind.length = lengthOf(spans);
    }
  }
  return measured as [(typeof measured)[0], (typeof measured)[0]];
}

async function main(): Promise<number> {
  const { backend, tokens, threads, runs, expertUs, out } = readOptions();
  const sizes: Sizes = { ranks: 4, tokens: Math.ceil(tokens / 2), topk: 2, experts: 8, hidden: 1024 };
  using engine =
    backend === 'cuda'
      ? { ...(await openCudaEngine(sizes, expertUs * 1000)), backend: 'cuda' }
      : await openHostEngine(sizes, backend, threads);
  console.log(
    `${engine.backend}: 4 ranks, 2 halves of ${sizes.tokens} tokens a rank, top-2 of 8, rows of 4 KiB; shortest of ${runs} runs`,
  );
  const measured = await measure(engine, runs);
  const [inTurn, overlapped] = measured;
  const scale = Math.max(inTurn.length, overlapped.length);
  for (const { name, spans, length } of measured) {
    console.log(`\n${name}: ${length.toFixed(2)} ms, both at work for ${overlapOf(spans).toFixed(2)} ms`);
    console.log(draw(spans, scale));
  }
  const isSame = inTurn.result.equals(overlapped.result);
  const faster = (inTurn.length / overlapped.length).toFixed(2);
  console.log(`\n${faster} times as fast; results are ${isSame ? 'the same bits' : 'DIFFERENT'}`);
  if (out !== undefined) {
    const facts = { backend: engine.backend, tokensPerHalf: sizes.tokens, hidden: sizes.hidden, runs };
    const runsByName = Object.fromEntries(measured.map(({ name, spans }) => [name, spans]));
    writeFileSync(out, `${JSON.stringify(traceOf(runsByName, facts), null, 1)}\n`);
  }
  return isSame ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  const text = error instanceof Error ? error.message : String(error);
  console.error(
    error instanceof FuscoError ? `error[${error.code}]: ${text} (${error.hint})` : `error: ${text}`,
  );
  process.exitCode = 2;
}
