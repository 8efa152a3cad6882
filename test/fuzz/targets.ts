// What reads bytes from outside, one target each, with the inputs to start from. A target throws where something is
// wrong that is no refusal; several also check what was read. To add one (a protocol, say), add an entry: everything
// else (the short run of CI, the long one, the corpus, the replay of findings) goes by this list.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zipSync } from 'fflate';
import { loadAddon } from '../../executor/native/addon.ts';
import { openAudit } from '../../executor/native/audit.ts';
import { attempt } from '../../executor/native/errors.ts';
import { FuscoError } from '../../planner/errors.ts';
import { decodePlan } from '../../planner/format/decode.ts';
import { encodePlan } from '../../planner/format/encode.ts';
import { loadPlanner, nodeHashing, nodeSha256 } from '../../planner/node.ts';
import { makePlacement } from '../../planner/placement.ts';
import { verifyChunked } from '../../planner/verify/chunked.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { readLayout } from '../../tools/audit/layoutFile.ts';
import { parseGolden } from '../../tools/golden/goldenFile.ts';
import { checkReplicas, convertLayer } from '../../tools/placement/convert.ts';
import { FORMATS, readPlacementLayer } from '../../tools/placement/placementFile.ts';
import { type RoutingChoice, readAnyRouting } from '../../tools/readers/anyRouting.ts';
import { numbersOf, parseAxes, parseRanges } from '../../tools/readers/choice.ts';
import { readCounts } from '../../tools/readers/counts.ts';
import { gunzip } from '../../tools/readers/gzip.ts';
import { encodeNpy, parseNpy } from '../../tools/readers/npy.ts';
import { readNpz } from '../../tools/readers/npz.ts';
import { readPlacementFile } from '../../tools/readers/placementMap.ts';
import { openRankArrays } from '../../tools/readers/rankArrays.ts';
import { readSafetensors } from '../../tools/readers/safetensors.ts';
import { readTorch, TorchTensor } from '../../tools/readers/torch.ts';
import { findTopology } from '../../tools/simulate/topology.ts';
import { coverageDefects, executeNaively } from '../support/execute.ts';
import { ACCEPTED, nativeVerdict } from '../support/nativeFile.ts';
import { openFile, sealFile } from '../support/planFile.ts';
import { SAMPLE_NAMES, samplePlan } from '../support/samplePlans.ts';
import type { Target } from './engine.ts';
import { rendezvousSeeds, runRendezvous } from './rendezvous.ts';

/** Codes that no small input may lead to: a program that contradicts itself, and one that asks for the whole memory. */
const NO_REFUSALS: ReadonlySet<string> = new Set(['E_INTERNAL', 'E_MEMORY']);

export function isRefusal(error: unknown): boolean {
  return error instanceof FuscoError && !NO_REFUSALS.has(error.code) && !error.message.includes('\n');
}

/** Runs `step`; a refusal is fine, everything else is thrown. */
async function tolerate<T>(step: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await step();
  } catch (error) {
    if (isRefusal(error)) return undefined;
    throw error;
  }
}

const fixture = (root: string, name: string) =>
  new Uint8Array(readFileSync(join(root, 'test/fixtures', name)));
const text = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

/** Does with `bytes` as a file what `step` does. */
async function asFile<T>(name: string, bytes: Uint8Array, step: (path: string) => Promise<T>): Promise<T> {
  const path = join(directory(), name);
  writeFileSync(path, bytes);
  return step(path);
}

let made: string | undefined;
function directory(): string {
  if (made === undefined) {
    const path = mkdtempSync(join(tmpdir(), 'fusco-fuzz-'));
    process.on('exit', () => rmSync(path, { recursive: true, force: true }));
    made = path;
  }
  return made;
}

/** The verdict of reading and verifying: the code of the refusal, or the plan id. */
async function verdict(read: () => Promise<{ planId: string }>): Promise<string> {
  try {
    return (await read()).planId;
  } catch (error) {
    if (isRefusal(error)) return (error as FuscoError).toString();
    throw error;
  }
}

/** A plan that the verifier accepts must move every row to its place and nothing anywhere else. */
async function runPlan(bytes: Uint8Array): Promise<void> {
  const decoded = await tolerate(() => decodePlan(bytes, nodeSha256, () => {}));
  if (decoded === undefined) return;
  const plan = await tolerate(() => verifyPlan(decoded.plan));
  if (plan === undefined) return;
  const rows = plan.shards.reduce((sum, shard) => sum + shard.recvRows, 0);
  if (rows > 1e5) return;
  const defects = coverageDefects(plan, executeNaively(plan));
  if (defects.length > 0) throw new Error(`a verified plan: ${defects[0]}`);
}

/** With digests made right: all verifiers must come to one verdict. */
async function runSealed(bytes: Uint8Array): Promise<void> {
  let sealed: Uint8Array;
  try {
    sealed = sealFile(openFile(bytes));
  } catch {
    // Nothing that could be sealed.
    return;
  }
  const whole = await verdict(async () => {
    const decoded = await decodePlan(sealed, nodeSha256);
    verifyPlan(decoded.plan);
    return decoded;
  });
  const source = {
    length: sealed.length,
    read: async (at: number, into: Uint8Array) => into.set(sealed.subarray(at, at + into.length)),
  };
  const streamed = await verdict(() => verifyChunked(source, nodeHashing));
  if (whole !== streamed) throw new Error(`two verdicts: ${whole}; streamed: ${streamed}`);
  const native = nativeVerdict(sealed);
  const code = /^E_\w+/.exec(whole)?.[0] ?? ACCEPTED;
  if (native !== undefined && native.split(' ')[0] !== code) {
    throw new Error(`two verdicts: ${whole}; in native code: ${native}`);
  }
}

export async function planSeeds(): Promise<Uint8Array[]> {
  const planner = await loadPlanner();
  return Promise.all(
    SAMPLE_NAMES.map(async (name) => (await encodePlan(samplePlan(planner, name), nodeSha256)).bytes),
  );
}

function runNpy(bytes: Uint8Array): void {
  const { dtype, shape, data } = parseNpy(bytes, 'x.npy');
  const again = parseNpy(Buffer.concat(encodeNpy(dtype, shape, data)), 'again.npy');
  if (String(again.shape) !== String(shape) || Buffer.compare(asBytes(again.data), asBytes(data)) !== 0) {
    throw new Error('an array that was written is another one when read');
  }
}

const asBytes = (data: ArrayBufferView) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Every tensor of a .pt file, however deep; a structure may contain itself. */
function readTensors(bytes: Uint8Array): void {
  const seen = new Set<unknown>();
  const open = [readTorch(bytes, 'x.pt')];
  while (open.length > 0) {
    const value = open.pop();
    if (typeof value !== 'object' || value === null || seen.has(value)) continue;
    seen.add(value);
    if (value instanceof TorchTensor) value.toArray();
    else if (value instanceof Map) open.push(...value.values());
    else if (Array.isArray(value)) open.push(...value);
  }
}

const CHOICES: readonly RoutingChoice[] = [
  { ranks: 2 },
  { format: 'vllm', layer: 1, ranks: 3 },
  { layer: 3, step: 11 },
  { layer: 1, ranks: 2, axes: parseAxes('tokens,layers=2,topk=2') },
  { anyRanks: true, experts: 4, maskIds: parseRanges('ids', '255,3..5') },
  { ranks: 3, physicalIds: true, layer: 1, step: 8 },
  { ranksFrom: [1], layer: 1, axes: parseAxes('layers,tokens,topk') },
  { ranks: 2, multiHot: true, array: 'layer_*', maskRepeatedRows: true },
];

async function runRouting(name: string, bytes: Uint8Array): Promise<void> {
  await asFile(name, bytes, async (path) => {
    for (const choice of CHOICES) {
      const tables = await tolerate(() => readAnyRouting(path, choice));
      for (const { ids, tokens, topk } of tables ?? []) {
        if (ids.length !== tokens * topk) throw new Error(`${ids.length} ids of [${tokens}, ${topk}]`);
      }
    }
  });
}

/** A list or axes as options have them: what is accepted says each number or name once. */
function runOptions(bytes: Uint8Array): void {
  const text = new TextDecoder().decode(bytes);
  for (const parse of [
    () => numbersOf('--ranks-from', parseRanges('--ranks-from', text), 4095),
    () => parseAxes(text).map(({ name }) => name),
  ]) {
    let found: readonly unknown[];
    try {
      found = parse();
    } catch (error) {
      if (isRefusal(error)) continue;
      throw error;
    }
    if (found.length === 0 || new Set(found).size !== found.length)
      throw new Error(`${found.length} of ${text}`);
  }
}

/** A pickle as a .pt file, which no checksum of the archive protects. */
function archiveOf(pickle: Uint8Array): Uint8Array {
  return zipSync(
    { 'v/data.pkl': pickle, 'v/data/0': new Uint8Array(192), 'v/data/1': new Uint8Array(64) },
    { level: 0 },
  );
}

/** data.pkl of a .pt file, as the archive stores it. */
function pickleOf(archive: Uint8Array): Uint8Array {
  const start = Buffer.from(archive).indexOf(Buffer.from([0x80, 2]));
  return archive.slice(start, Buffer.from(archive).indexOf(Buffer.from('PK'), start));
}

async function runPlacement(bytes: Uint8Array): Promise<void> {
  await asFile('p', bytes, async (path) => {
    const map = await tolerate(() => readPlacementFile(path));
    if (map !== undefined) await tolerate(() => makePlacement(map.length, 8, map));
    for (const format of [undefined, ...FORMATS]) {
      for (const layer of [undefined, 0, 3]) {
        await tolerate(async () => {
          const target = { ranks: 4, path };
          const found = convertLayer(await readPlacementLayer(path, format, layer), target);
          makePlacement(found.map.length, 4, found.map);
          checkReplicas(found.slots, found.slots, target);
        });
      }
    }
  });
}

/** Raw int32 ids of two tokens, two layers, top-2. */
const RAW = Buffer.from(Int32Array.of(0, 3, 1, 2, 5, 1, 4, 7).buffer).toString('base64');

const GOLDEN = {
  formatVersion: 1,
  plans: {
    a: {
      routing: 'a.npz',
      read: { format: 'vllm', layer: 3, step: 7 },
      options: { experts: 8, ranks: 4, capacity: 9, placement: [0, [1, 2]] },
    },
  },
  golden: { a: { routingDigest: '0'.repeat(64), planId: 'f'.repeat(64), summary: { rows: 3, id: 'x' } } },
};

const JSON_WORDS = [
  '{',
  '}',
  '[',
  ']',
  '[[',
  ']]',
  ',',
  ':',
  '"',
  'null',
  'true',
  '-1',
  '{}',
  '\n',
  '\\u0000',
];
const NPY_WORDS = ["'descr'", "'<i4'", "'|u1'", "'shape': (", "'fortran_order': True", '(0, ', ', 8)', 'L'];
const ZIP_WORDS = [
  'PK\x03\x04',
  'PK\x01\x02',
  'PK\x05\x06',
  'PK\x06\x06',
  'PK\x06\x07',
  'rank0.npy',
  '/data.pkl',
];
const PICKLE_WORDS = [
  'ctorch._utils\n_rebuild_tensor_v2\n',
  'ctorch\nLongStorage\n',
  'ctorch._utils\n_rebuild_tensor_v3\n',
  'ctorch.storage\nUntypedStorage\n',
  'ctorch\nuint16\n',
  'ccollections\nOrderedDict\n',
  'X\x07\0\0\0records',
  '(',
  't',
  ']',
  '}',
  'R',
  'Q',
  's',
  'u',
  'e',
  '\x85',
  '\x86',
  'q\x01',
  'h\x01',
];

/** All targets. @param root of the repository, where the fixtures are */
/** A layout from a file: if it is accepted, every entry that has a slot has as many origins as the layout says. */
async function runLayout(path: string): Promise<void> {
  if (loadAddon() === undefined) return;
  const { layout } = await readLayout(path);
  const plan = samplePlan(await loadPlanner(), 'crowded');
  const audit = await openAudit(plan, layout);
  try {
    let origins = 0;
    for (const rank of plan.shards.keys()) {
      const rows = attempt(() => audit.rows(rank));
      // The rest of a buffer of fixed size is padding.
      if (rows > 1e5) return;
      const table = attempt(() => audit.origins(rank, rows));
      for (let row = 0; row < rows; row++) if (table[3 * row]! >= 0) origins++;
    }
    const kept = plan.shards.reduce((sum, shard) => sum + shard.kept, 0);
    if (layout.per === 'entry' ? origins !== kept : origins > kept) throw new Error(`${origins} origins`);
  } finally {
    audit.close();
  }
}

async function runRows(path: string): Promise<void> {
  for (const rows of [undefined, [1, 2]]) {
    await tolerate(() => {
      using arrays = openRankArrays(path, { what: 'rows', ranks: 2, part: 'recv', ...(rows && { rows }) });
      for (const rank of [0, 1]) {
        const { shape, data } = arrays.read(rank);
        if (shape.length !== 2 || data.length !== shape[0]! * shape[1]!) throw new Error(`rows ${shape}`);
      }
    });
  }
}

export function targetsOf(root: string): readonly Target[] {
  const foreign = (name: string) => fixture(root, `foreign/${name}`);
  const npy = (name: string) => fixture(root, `npy/${name}`);
  const dump = (rank: number) => foreign(`sglang/expert_distribution_recorder_1750000000.0_${rank}.pt`);
  return [
    { name: 'plan', seeds: planSeeds, words: ['FUSCOPLN', 'FSHD'], maxBytes: 1 << 15, run: runPlan },
    { name: 'sealed-plan', seeds: planSeeds, words: ['FSHD'], maxBytes: 1 << 15, run: runSealed },
    {
      name: 'npy',
      seeds: () => ['i32', 'i64-v2', 'u8-v3', 'structured', 'scalar-f64'].map((name) => npy(`${name}.npy`)),
      words: NPY_WORDS,
      maxBytes: 1024,
      run: runNpy,
    },
    {
      name: 'npz',
      seeds: () => [npy('stored.npz'), npy('compressed.npz'), foreign('vllm.npz')],
      words: [...ZIP_WORDS, ...NPY_WORDS],
      maxBytes: 4096,
      run: (bytes) => void readNpz(bytes, 'x.npz'),
    },
    {
      name: 'safetensors',
      seeds: () => [foreign('trtllm/rank0.safetensors'), foreign('trtllm/rank0_raw.safetensors')],
      words: [...JSON_WORDS, '"dtype":"I64"', '"shape":[0]', '"data_offsets":[0,0]', '__metadata__'],
      maxBytes: 2048,
      run: (bytes) => void readSafetensors(bytes, 'x.safetensors'),
    },
    {
      name: 'torch',
      seeds: () => [
        ...['views.pt', 'sglang-stat.pt', 'torch/uint16.pt', 'torch/dict.pt', 'torch/parameter.pt'].map(
          foreign,
        ),
      ],
      words: [...ZIP_WORDS, ...PICKLE_WORDS],
      maxBytes: 8192,
      run: readTensors,
    },
    {
      name: 'pickle',
      seeds: () =>
        [
          ...['views.pt', 'sglang-stat.pt', 'torch/uint16.pt', 'torch/nested.pt', 'torch/list.pt'].map(
            foreign,
          ),
          ...[dump(0), dump(1)],
        ].map(pickleOf),
      words: PICKLE_WORDS,
      maxBytes: 8192,
      run: async (bytes) => {
        const archive = archiveOf(bytes);
        await tolerate(() => readTensors(archive));
        await runRouting('x.pt', archive);
        await asFile('x.pt', archive, (path) => tolerate(() => readCounts(path)));
      },
    },
    {
      name: 'routing',
      seeds: () => [
        foreign('vllm.jsonl'),
        foreign('vllm-response.json'),
        foreign('vllm.npy'),
        foreign('megatron/router_trace_rank0.jsonl'),
        foreign('trtllm/rank0_raw.safetensors'),
        npy('i32.npy'),
        npy('stored.npz'),
        dump(0),
        text({ meta_info: { prompt_tokens: 3, completion_tokens: 2, routed_experts: RAW } }),
        text([{ choices: [{ sgl_ext: { routed_experts: RAW } }] }]),
        text({ routed_experts: { data: 'AAMBAgUBBAc=', shape: [2, 2, 2], dtype: 'uint8' } }),
      ],
      words: [
        ...JSON_WORDS,
        ...NPY_WORDS,
        ...['"routed_experts"', '"top_indices"', '"choices"', '"num_tokens"', '"meta_info"', '"sgl_ext"'],
        ...['"data"', '"shape"', '"dtype":"int16"', '"prompt_tokens"'],
      ],
      maxBytes: 8192,
      run: (bytes) => runRouting('routing', bytes),
    },
    {
      name: 'arrays',
      seeds: () => [
        ...['torch/layers.safetensors', 'torch/one.safetensors', 'torch/map.pt', 'torch/routed.pt'].map(
          foreign,
        ),
        zipSync({ 'layer_0.npy': npy('i32.npy'), 'layer_1.npy': npy('i32.npy') }, { level: 0 }),
        npy('u8-v3.npy'),
      ],
      words: [...NPY_WORDS, ...ZIP_WORDS, '|b1', 'layer_0', '"dtype":"BOOL"', '"shape":[2,2,2]'],
      maxBytes: 4096,
      run: (bytes) => runRouting('arrays', bytes),
    },
    {
      name: 'gzip',
      seeds: () => [foreign('vllm.jsonl'), npy('i32.npy')].map((bytes) => gzipSync(bytes)),
      words: ['\x1f\x8b\x08', '\x03\0', '\0\0\xff\xff'],
      maxBytes: 4096,
      run: async (bytes) => {
        const unpacked = await tolerate(() => gunzip(bytes, 'x.gz', 1 << 24));
        if (unpacked !== undefined && unpacked.length > 1 << 24) throw new Error(`${unpacked.length} bytes`);
        await runRouting('x.gz', bytes);
      },
    },
    {
      name: 'options',
      seeds: () =>
        ['4..7', '0,2,8..11', 'tokens,layers=48,topk=8'].map((line) => new TextEncoder().encode(line)),
      words: ['..', ',', '=', 'ranks', 'steps', 'requests', 'batch', 'experts', '-1', '4095'],
      maxBytes: 128,
      run: runOptions,
    },
    {
      name: 'counts',
      seeds: () => [
        new TextEncoder().encode('layer_id,expert_id,count\n0,0,1\n1,3,2\n'),
        text([[1, 2, 4]]),
        npy('i32.npy'),
        foreign('torch/uint16.pt'),
        foreign('sglang-counts.json'),
        foreign('sglang-stat.pt'),
        foreign('trtllm/rank0.safetensors'),
      ],
      words: [...JSON_WORDS, '"logical_count"', '0_65535', 'layer_id', 'expert_id', ',4095,', ',65534,'],
      maxBytes: 4096,
      run: (bytes) => asFile('counts', bytes, async (path) => void (await readCounts(path))),
    },
    {
      name: 'placement',
      seeds: () => [
        text([0, 1, [2, 3], 0]),
        text({ phy2log: [[0, 1, 2, 3, 0, 1, 2, 3]], log2phy: [[[0, 4, -1], [1], [2], [3, 5]]] }),
        text({ physical_to_logical_map: [[0, 1, 2, 3]] }),
        npy('i32.npy'),
        foreign('views.pt'),
        new TextEncoder().encode('num_slots: 4\ninitial_global_assignments:\n  3: [0, 1, 2, 0]\n'),
        text({ layer_list: [{ layer_id: 0, device_list: [{ device_id: 0, device_expert: [0, 1] }] }] }),
        text({
          expert_map: [
            [0, 1, -1, -1],
            [-1, -1, 0, 1],
          ],
        }),
        text({ expert_to_ep_rank: [0, 1, 0, 1] }),
      ],
      words: [...JSON_WORDS, '&a', '*a', '!!binary ', '- ', '  3: ', '<<: ', '? ', '|', "'"],
      maxBytes: 4096,
      run: runPlacement,
    },
    {
      name: 'golden',
      seeds: () => [text(GOLDEN)],
      words: [...JSON_WORDS, '"plans"', '"golden"', '"options"', '__proto__'],
      maxBytes: 4096,
      run: (bytes) => void parseGolden(new TextDecoder().decode(bytes), 'fusco.golden.json'),
    },
    {
      name: 'rendezvous',
      seeds: rendezvousSeeds,
      words: [...JSON_WORDS, '"type"', '"seq"', '"gather"', '"sizes"', '"call"', '"enter"', '"gathered"'],
      maxBytes: 4096,
      run: runRendezvous,
    },
    {
      name: 'topology',
      seeds: () => [
        text({ name: 'two', nodes: 2, ranksPerNode: 8, constants: { nicGBps: 43, overlap: 0.5 } }),
      ],
      words: [...JSON_WORDS, '"constants"', '__proto__', '"hbmGBps"'],
      maxBytes: 2048,
      run: (bytes) => asFile('t.json', bytes, async (path) => void (await findTopology(path))),
    },
    {
      name: 'layout',
      seeds: () => [
        text({ preset: 'deepep-v2-expanded', align: 3, padding: 'zero' }),
        text({ per: 'token', blocks: 'source', order: 'any', slots: 'equal', tail: 'zero', partials: 1 }),
      ],
      words: [...JSON_WORDS, '"blocks":"one"', '"slots":40', '"accumulate":"payload"', '"preset":"pplx"'],
      maxBytes: 1024,
      run: (bytes) => asFile('l.json', bytes, runLayout),
    },
    {
      name: 'rows',
      seeds: () => [
        npy('i32.npy'),
        zipSync({ 'rank0.npy': npy('i32.npy'), 'rank1.recv.npy': npy('i32.npy') }, { level: 0 }),
        foreign('torch/routed.pt'),
        foreign('torch/layers.safetensors'),
      ],
      words: [...NPY_WORDS, ...ZIP_WORDS, 'rank0', 'rank1', '"shape":[2,1,2]'],
      maxBytes: 4096,
      run: (bytes) => asFile('rows', bytes, runRows),
    },
  ];
}
