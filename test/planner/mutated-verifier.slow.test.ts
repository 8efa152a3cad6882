// The verifier with one check taken away at a time. What the check alone refused must then change its verdict, so a
// check that is lost does not go unnoticed; and what is accepted in its place must not make native code touch a
// byte outside its buffers. docs/security.md has the argument that this supports.

import { readdirSync, readFileSync } from 'node:fs';
import { beforeAll, expect, it, vi } from 'vitest';
import { findAddon } from '../../executor/native/addon.ts';
import {
  decodePlan,
  encodePlan,
  FuscoError,
  type Plan,
  type PlanOptions,
  verifyPlan,
} from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { upload } from '../support/addon.ts';
import { honestFile, honestHierFile } from '../support/honest.ts';
import type { PlainRouting } from '../support/obviousPlan.ts';
import { type FileParts, openFile, sealFile } from '../support/planFile.ts';
import { buildShard, parseShard, SECTION, WORD } from '../support/shardParts.ts';
import { toTables } from '../support/workloads.ts';

const checks = vi.hoisted(() => ({ fired: '', removed: '' }));

// Checks stop by calling halt or checkWord, so that a check is the place of that call.
vi.mock('../../planner/verify/halt.ts', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../planner/verify/halt.ts')>();
  const placeOf = () => {
    for (const line of new Error().stack!.split('\n')) {
      const place = /planner\/verify\/(?!halt)(\w+\.ts):(\d+)/.exec(line);
      if (place !== null) return `${place[1]}:${place[2]}`;
    }
    throw new Error('no check called');
  };
  const halt = (...parameters: Parameters<typeof original.halt>) => {
    const place = placeOf();
    if (place === checks.removed) return;
    checks.fired = place;
    original.halt(...parameters);
  };
  const checkWord = (rank: number, name: string, found: number, wanted: number) => {
    if (found !== wanted) {
      halt('E_SHARD_HEAD', rank, '/head', `${name} is ${found}, not ${wanted}`, found, wanted);
    }
  };
  return { ...original, halt, checkWord };
});

/** Lines of the verifier that call halt or checkWord. */
function allChecks(): string[] {
  const folder = new URL('../../planner/verify/', import.meta.url);
  return readdirSync(folder)
    .filter((name) => name !== 'halt.ts')
    .flatMap((name) =>
      readFileSync(new URL(name, folder), 'utf8')
        .split('\n')
        .flatMap((line, i) => (/(?<!function )\b(halt|checkWord)\(/.test(line) ? [`${name}:${i + 1}`] : [])),
    );
}

const MIXED: PlainRouting = [
  [
    [0, 1],
    [0, 2],
    [0, -1],
  ],
  [
    [1, 3],
    [0, 2],
  ],
];

async function honestFiles(): Promise<FileParts[]> {
  const planner = await loadPlanner();
  const file = async (routing: PlainRouting, topk: number, options: Omit<PlanOptions, 'ranks'>) => {
    const plan = planner.planAll(toTables(routing, topk), { ranks: routing.length, ...options });
    return openFile((await encodePlan(plan, nodeSha256)).bytes);
  };
  const replicated = { experts: 1, ranksPerNode: 1, placement: [[0, 1]] };
  const four = [[0], [0], [0], [0]];
  return [
    await honestFile(),
    await honestHierFile(),
    await file(MIXED, 2, { experts: 4, capacity: 2, tileTokens: 2 }),
    await file(MIXED, 2, { experts: 4, ranksPerNode: 1, strategy: 'hier', align: 2 }),
    // Both rules choose the instances of these in different ways.
    await file([[], [], four], 1, replicated),
    await file([[], [], four], 1, { ...replicated, replicas: 'local' }),
    await file([four, [], []], 1, { ...replicated, replicas: 'local' }),
  ];
}

/** The other replica rule in the header. */
function otherRule({ core: { replicas, ...core }, ...file }: FileParts): Uint8Array {
  if (replicas !== undefined) return sealFile({ ...file, version: [1, 0], core });
  const keys = Object.entries({ ...core, replicas: 'local' }).sort(([a], [b]) => (a < b ? -1 : 1));
  return sealFile({ ...file, version: [1, 1], core: Object.fromEntries(keys) });
}

/** Every word and element of every shard by one more, one less, and another's value; header numbers likewise. */
function* forgeries(honest: FileParts): Generator<Uint8Array> {
  yield sealFile({ ...honest, core: { ...honest.core, capacity: 1 } });
  yield otherRule(honest);
  for (const [rank, shard] of honest.shards.entries()) {
    const { words, sections } = parseShard(shard);
    for (const list of [words, ...sections]) {
      for (let at = 0; at < list.length; at++) {
        const before = list[at]!;
        for (const value of new Set([before + 1, before - 1, list[(at + 1) % list.length]!, 0])) {
          if (value === before || (list === words && at === 0)) continue;
          list[at] = value;
          const shards = honest.shards.with(rank, buildShard({ words, sections }));
          yield sealFile({ ...honest, shards });
        }
        list[at] = before;
      }
    }
    // Sums that still hold: rows that change their kind, or their node.
    const forge = (change: (parts: ReturnType<typeof parseShard>) => void) => {
      const parts = parseShard(shard);
      change(parts);
      return sealFile({ ...honest, shards: honest.shards.with(rank, buildShard(parts)) });
    };
    for (const [from, to] of [
      [WORD.masked, WORD.dropped],
      [WORD.dropped, WORD.masked],
    ] as const) {
      if (words[from] === 0) continue;
      yield forge((parts) => {
        parts.words[from]! -= 1;
        parts.words[to]! += 1;
      });
    }
    yield forge((parts) => {
      parts.words[WORD.kept]! -= 1;
      parts.words[WORD.masked]! += 1;
      parts.sections[SECTION.sendEntry]!.pop();
    });
    if (sections[SECTION.forwardRows]!.some((rows) => rows > 0)) {
      yield forge((parts) => void parts.sections[SECTION.forwardRows]!.reverse());
    }
    for (const [section, list] of sections.entries()) {
      if (section >= 20 || list.length === 0) continue;
      for (const longer of [[...list, 0], list.slice(0, -1), [...list, 0, 0, 0], list.slice(3)]) {
        const shards = honest.shards.with(
          rank,
          buildShard({ words, sections: sections.with(section, longer) }),
        );
        yield sealFile({ ...honest, shards });
      }
    }
  }
}

/** `accepted`, or how the verifier refuses. Losing a check may make it stumble, which refuses as well. */
function verdictOf(plan: Plan): string {
  checks.fired = '';
  try {
    verifyPlan(plan);
    return 'accepted';
  } catch (error) {
    return error instanceof FuscoError ? error.toString() : String(error);
  }
}

/** Runs the plan through native code between guard bytes: a coded refusal, or no guard byte changed. */
function runGuarded(plan: Plan): 'refused' | 'ran' {
  const GUARD = 256;
  const buffers = (rows: readonly number[]) =>
    rows.map((count) => new Uint8Array(8 * count + 2 * GUARD).fill(0xaa).subarray(GUARD, GUARD + 8 * count));
  let context: ReturnType<typeof upload>['context'] | undefined;
  try {
    const uploaded = upload(plan, { threads: 1 });
    context = uploaded.context;
    const from = buffers(plan.shards.map((shard) => shard.tokens));
    const to = buffers(plan.shards.map((shard) => shard.recvRows));
    uploaded.native.dispatchSync({ payloads: [{ rowBytes: 8, from, to }] });
    uploaded.native.combineSync({ dtype: 'f32', rowBytes: 8, from: to, to: from });
    for (const { buffer, length } of [...from, ...to]) {
      const whole = new Uint8Array(buffer);
      const guards = [...whole.subarray(0, GUARD), ...whole.subarray(GUARD + length)];
      expect(guards.every((byte) => byte === 0xaa)).toBe(true);
    }
    return 'ran';
  } catch (error) {
    expect((error as { code?: string }).code).toMatch(/^E_[A-Z_]+$/);
    return 'refused';
  } finally {
    context?.close();
  }
}

const caught = new Map<string, Plan[]>();
/** Accepted with every check in place, because they are sound plans of another routing. */
const others: Plan[] = [];
let total = 0;

beforeAll(async () => {
  for (const honest of await honestFiles()) {
    for (const bytes of forgeries(honest)) {
      let plan: Plan;
      try {
        ({ plan } = await decodePlan(bytes, nodeSha256));
      } catch (error) {
        expect(error).toBeInstanceOf(FuscoError);
        continue;
      }
      const verdict = verdictOf(plan);
      if (verdict === 'accepted') {
        others.push(plan);
        continue;
      }
      total++;
      if (checks.fired === '') continue;
      const plans = caught.get(checks.fired) ?? [];
      if (plans.length < 25) plans.push(plan);
      caught.set(checks.fired, plans);
    }
  }
});

it('every forgery is refused, and by nearly every check', () => {
  expect(total).toBeGreaterThan(1000);
  const silent = allChecks().filter((check) => !caught.has(check));
  const text = (check: string) => {
    const [name, line] = check.split(':') as [string, string];
    const source = readFileSync(new URL(`../../planner/verify/${name}`, import.meta.url), 'utf8');
    return source.split('\n')[Number(line) - 1]!.trim();
  };
  // The first is hidden by the walk over the entries in these plans, the second and third follow from other sums and
  // say more about the place; the last needs 2^31 rows. hier-forgeries and forgeries.test.ts reach what can be.
  expect(silent.map(text).sort()).toEqual([
    "checkWord(rank, 'direct and distributed entries', direct + distributeEntry.length, kept);",
    "checkWord(rank, 'dropped', shard.dropped, dropped);",
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the text of a line of source.
    "halt('E_FORWARD', rank, `/forward/${row}`, `a row for node ${node} that no token needs`);",
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the text of a line of source.
    "halt('E_LIMIT', rank, '/experts', `${block} rows > ${L.MAX_ROWS}`, block, L.MAX_ROWS);",
  ]);
  expect(others).toHaveLength(1);
});

it('a check that is taken away is missed, and native code keeps inside its buffers without it', () => {
  let accepted = 0;
  let ran = 0;
  for (const [check, plans] of caught) {
    const verdicts = plans.map((plan) => {
      checks.removed = '';
      const with_ = verdictOf(plan);
      checks.removed = check;
      const without = verdictOf(plan);
      checks.removed = '';
      expect(without).not.toBe(with_);
      if (without === 'accepted') {
        accepted++;
        if (findAddon().addon !== undefined && runGuarded(plan) === 'ran') ran++;
      }
      return without;
    });
    expect(verdicts.length, check).toBeGreaterThan(0);
  }
  // Most of what the verifier refuses is about the plan's promises and not about memory: native code runs it, inside.
  expect(accepted).toBeGreaterThan(100);
  if (findAddon().addon !== undefined) expect(ran).toBeGreaterThan(50);
  expect(accepted - ran).toBeGreaterThan(50);
});
