// `fusco audit`: exit codes, what it prints, and the files that it takes.

import { zipSync } from 'fflate';
import { beforeEach, expect, it } from 'vitest';
import { encodeNpy } from '../../../tools/readers/npy.ts';
import { describeNative } from '../../support/addon.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  loadNpy,
  save,
  saveNpy,
  saveRouting,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import { dict, tensor, torchOf } from '../../support/handTorch.ts';

const HIDDEN = 4;
const ROUTING = [
  [
    [0, 3],
    [1, -1],
    [2, 0],
  ],
  [
    [3, 1],
    [0, 2],
    [1, 3],
  ],
];
const AUDIT = ['audit', 'plan.fusco', '--input', 'x.npy'];

/** Element i of a token of a rank. */
const elementOf = (rank: number, token: number, i: number) => 100 * rank + 10 * token + i + 1;
const rows = (rank: number) =>
  Float32Array.from({ length: 3 * HIDDEN }, (_, i) => elementOf(rank, Math.floor(i / HIDDEN), i % HIDDEN));

/** Changes a .npy file of float32 in place. */
function change(file: string, edit: (data: Float32Array) => void): void {
  const { data, shape } = loadNpy(file);
  const copy = Float32Array.from(data as Float32Array);
  edit(copy);
  saveNpy(file, 'f32', shape, copy);
}

const bytesOf = (array: ArrayBufferView) =>
  new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);

/** A safetensors file of float32 arrays. */
function safetensorsOf(arrays: Readonly<Record<string, { shape: readonly number[]; data: Float32Array }>>) {
  const header: Record<string, object> = {};
  let at = 0;
  for (const [name, { shape, data }] of Object.entries(arrays)) {
    header[name] = { dtype: 'F32', shape, data_offsets: [at, (at += data.byteLength)] };
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, ...Object.values(arrays).map(({ data }) => bytesOf(data))]);
}

useTemporaryDirectory();
beforeEach(async () => {
  saveRouting('routing.npy', ROUTING);
  saveNpy('x.npy', 'f32', [2, 3, HIDDEN], Float32Array.of(...rows(0), ...rows(1)));
  saveNpy(
    'w.npy',
    'f32',
    [2, 3, 2],
    Float32Array.from({ length: 12 }, (_, i) => (i + 1) / 16),
  );
  await fusco('plan', 'routing.npy', '--experts', '4', '--hidden', '4', '--align', '4', '-o', 'plan.fusco');
  const run = ['run', 'plan.fusco', '--input', 'x.npy', '--weights', 'w.npy', '--backend', 'reference'];
  expect((await fusco(...run, '--out', 'out')).code).toBe(0);
});

describeNative('fusco audit', () => {
  it('finds what fusco run wrote right', async () => {
    const args = [...AUDIT, '--received', 'out', '--combined', 'out', '--weights', 'w.npy', '--order', 'k'];
    const report = await fuscoJson(...args);
    expect(report).toMatchObject({
      ok: true,
      layout: 'fusco',
      first: null,
      differences: {},
      dispatch: { rows: 16, wrong: 0 },
      combine: { rows: 6, wrong: 0, reordered: 0 },
    });
    expect((report.combine as { orders: string[] }).orders).toContain('k');
    const { stdout, stderr } = await fusco(...args);
    expect(stdout).toMatch(/^right: nothing differs from the plan in the layout fusco\n/);
    expect(stderr).toBe('');
  });

  it('names the first wrong row, says what is there, and exits with 1', async () => {
    change('out/rank1.recv.npy', (data) => data.copyWithin(0, HIDDEN, 2 * HIDDEN));
    const { code, stdout } = await fusco(...AUDIT, '--received', 'out', '--json');
    expect(code).toBe(1);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ formatVersion: 1, ok: false, differences: { 'other-token': 1 } });
    // Expert 2 of rank 1: token 2 of rank 0, then token 1 of rank 1.
    expect(report.first).toEqual({
      stage: 'dispatch',
      rank: 1,
      slot: 0,
      expected: { sourceRank: 0, token: 2, k: 0 },
      found: { kind: 'other-token', what: 'token', sourceRank: 1, token: 1, bytes: [2, 16] },
    });
    const text = await fusco(...AUDIT, '--received', 'out');
    expect(text.stdout).toContain(
      'wrong: 1 row, the first at rank 1 slot 0: token 2 of rank 0 (k 0) belongs there; ' +
        'found the row of another token: token 1 of rank 1\n',
    );
  });

  it('lists the requested number of differences per rank, and counts all', async () => {
    change('out/rank0.recv.npy', (data) => void data.fill(0));
    const report = async (...more: string[]) =>
      JSON.parse((await fusco(...AUDIT, '--received', 'out', '--json', ...more)).stdout);
    const { listed, differences } = await report('--list', '2');
    expect(listed).toHaveLength(2);
    expect(differences).toEqual({ zeros: 6 });
    expect((await report()).listed).toHaveLength(6);
  });

  it('prints for pull requests, test reports and annotations', async () => {
    const right = (format: string) => fusco(...AUDIT, '--received', 'out', '--format', format);
    expect((await right('markdown')).stdout).toMatch(/^### 🟢 fusco audit: right: /);
    expect((await right('github')).stdout).toMatch(/^::notice title=fusco audit%3A right::right: /);
    expect((await right('junit')).stdout).toContain('tests="2" failures="0"');
    change('out/rank1.recv.npy', (data) => void data.fill(0, 0, HIDDEN));
    const wrong = await right('markdown');
    expect(wrong.code).toBe(1);
    expect(wrong.stdout).toMatch(/^### 🔴 fusco audit: wrong: 1 row, /);
    expect(wrong.stdout).toContain('| zeros | 1 | zeros in place of a token |');
    expect((await right('github')).stdout).toMatch(/^::error title=fusco audit%3A wrong::wrong: 1 row/);
    expect((await right('junit')).stdout).toContain(
      '<failure message="1 row wrong: rank 1 slot 0: token 2 of rank 0 (k 0) belongs there; found zeros in place of a token">',
    );
    expect(JSON.parse((await right('json')).stdout)).toMatchObject({ ok: false });
  });

  it('plans a routing first', async () => {
    const args = ['--experts', '4', '--align', '4', '--input', 'x.npy', '--received', 'out'];
    const found = await fusco('audit', 'routing.npy', ...args, '--axes', 'ranks,tokens,topk', '--json');
    expect(found).toMatchObject({ code: 0, stderr: '' });
    // Without an align the blocks start elsewhere, and the buffers are too long.
    const other = await fusco('audit', 'routing.npy', '--input', 'x.npy', '--received', 'out', '--json');
    expect(other.code).toBe(1);
    expect(JSON.parse(other.stdout).notices).toContain('4 experts: the largest id plus one (--experts)');
  });

  it('recognizes rows of the step before', async () => {
    saveNpy(
      'before.npy',
      'f32',
      [2, 3, HIDDEN],
      Float32Array.from({ length: 24 }, (_, i) => -i - 1),
    );
    change('out/rank0.recv.npy', (data) => data.set([-5, -6, -7, -8], 0));
    const args = [...AUDIT, '--received', 'out', '--previous', 'before.npy', '--json'];
    const { first } = JSON.parse((await fusco(...args)).stdout);
    expect(first.found).toEqual({ kind: 'stale', what: 'previous', sourceRank: 0, token: 1, bytes: [2, 16] });
  });

  it('takes outputs of experts, and an order that the bits must have', async () => {
    for (const rank of [0, 1]) {
      const { data, shape } = loadNpy(`out/rank${rank}.recv.npy`);
      saveNpy(
        `y/rank${rank}.npy`,
        'f32',
        shape,
        (data as Float32Array).map((value) => 2 * value),
      );
      change(`out/rank${rank}.combined.npy`, (sums) => sums.set(sums.map((sum) => 2 * sum)));
    }
    const args = [...AUDIT, '--combined', 'out', '--weights', 'w.npy', '--outputs', 'y'];
    expect((await fusco(...args, '--order', 'k')).code).toBe(0);
    expectRefusal(await fusco(...args, '--order', 'z'), 'E_OPTION', 'there is no order of addition z');
    expectRefusal(await fusco(...args, '--order', 'z'), 'E_OPTION', 'Give one of k, k-fused, ');
  });
});

describeNative('layouts of fusco audit', () => {
  it('are read from JSON, on top of a known one', async () => {
    save('layout.json', '{"preset": "once-per-rank", "tail": "any"}');
    const once = [
      ...rows(0),
      ...rows(1).subarray(0, 2 * HIDDEN),
      ...rows(1).subarray(2 * HIDDEN),
      9,
      9,
      9,
      9,
    ];
    saveNpy('r/rank0.npy', 'f32', [7, HIDDEN], Float32Array.from(once));
    const second = [rows(0).subarray(0, HIDDEN), rows(0).subarray(2 * HIDDEN), rows(1)];
    saveNpy('r/rank1.npy', 'f32', [5, HIDDEN], Float32Array.from(second.flatMap((part) => [...part])));
    const args = [...AUDIT, '--received', 'r', '--layout'];
    expect(await fuscoJson(...args, './layout.json')).toMatchObject({ ok: true, layout: './layout.json' });
    // Without the tail the last row of rank 0 is one too many.
    const { code, stdout } = await fusco(...args, 'once-per-rank', '--json');
    expect([code, JSON.parse(stdout).differences]).toEqual([1, { extra: 1 }]);
  });

  it.each([
    ['{"preset": "other"}', 'there is no layout "other"'],
    ['{"preset": "toString"}', 'there is no layout "toString"'],
    ['{"rows": 1}', 'a layout has no field "rows"'],
    ['{"slots": -1}', 'slots is -1'],
    ['{"order": "sort"}', 'order is "sort"'],
    ['{"per": "token"}', 'a layout with one row per token and rank has no blocks by expert'],
    ['[]', 'a layout is a JSON object'],
    ['{', 'it is not JSON'],
  ])('that say nothing sensible are refused: %s', async (text, message) => {
    save('layout.json', text);
    const found = await fusco(...AUDIT, '--received', 'out', '--layout', './layout.json');
    expectRefusal(found, 'E_OPTION', message);
  });

  it('says how many slots a layout needs', async () => {
    save('layout.json', '{"preset": "fusco", "slots": 1, "tail": "any"}');
    const found = await fusco(...AUDIT, '--received', 'out', '--layout', './layout.json');
    expectRefusal(found, 'E_LIMIT', /rows > 1 slots \(Give the layout at least \d+ slots, or with "equal"/);
  });

  it('are listed where a name is not known', async () => {
    const found = await fusco(...AUDIT, '--received', 'out', '--layout', 'deepep');
    expectRefusal(
      found,
      'E_OPTION',
      /layout "deepep" is neither known nor a file \(Give one of fusco, .*deepep-v1,/,
    );
  });
});

describeNative('files of fusco audit', () => {
  const received = () => [0, 1].map((rank) => loadNpy(`out/rank${rank}.recv.npy`));
  const arraysOf = () => received().map(({ data, shape }) => ({ shape, data: data as Float32Array }));

  it('may be one per rank, in any form', async () => {
    for (const [rank, { shape, data }] of arraysOf().entries()) {
      const npy = Buffer.concat(encodeNpy('f32', shape, data));
      save(`npz/rank${rank}.npz`, zipSync({ 'a.npy': new Uint8Array(npy) }));
      const strides = [shape[1]!, 1];
      save(
        `pt/rank${rank}.pt`,
        torchOf(tensor(shape, strides, data.length, { type: 'Float' }), bytesOf(data)),
      );
      save(`safe/rank${rank}.safetensors`, safetensorsOf({ rows: { shape, data } }));
    }
    for (const form of ['npz', 'pt', 'safe'])
      expect(await fuscoJson(...AUDIT, '--received', form), form).toMatchObject({ ok: true });
  });

  it('may hold all ranks by name', async () => {
    const [a, b] = arraysOf() as [
      { shape: number[]; data: Float32Array },
      { shape: number[]; data: Float32Array },
    ];
    save('all.safetensors', safetensorsOf({ rank0: a, 'rank1.recv': b }));
    const npz = [a, b].map(({ shape, data }, rank) => [
      `rank${rank}.npy`,
      new Uint8Array(Buffer.concat(encodeNpy('f32', shape, data))),
    ]);
    save('all.npz', zipSync(Object.fromEntries(npz)));
    const tensors = [a, b].map(({ shape, data }, key) =>
      tensor(shape, [shape[1]!, 1], data.length, { key: String(key), type: 'Float' }),
    );
    save(
      'all.pt',
      torchOf(dict({ rank0: tensors[0]!, rank1: tensors[1]! }), bytesOf(a.data), bytesOf(b.data)),
    );
    for (const form of ['npz', 'pt', 'safetensors'])
      expect(await fuscoJson(...AUDIT, '--received', `all.${form}`), form).toMatchObject({ ok: true });
  });

  it('may be one array with an axis of ranks, and more axes in between', async () => {
    const [a, b] = arraysOf();
    saveNpy('all.npy', 'f32', [2, 2, 4, HIDDEN], Float32Array.of(...a!.data, ...b!.data));
    expect(await fuscoJson(...AUDIT, '--received', 'all.npy')).toMatchObject({ ok: true });
    // The input of all ranks, rank after rank.
    saveNpy('flat.npy', 'f32', [6, HIDDEN], Float32Array.of(...rows(0), ...rows(1)));
    const flat = ['audit', 'plan.fusco', '--input', 'flat.npy', '--received', 'out'];
    expect(await fuscoJson(...flat)).toMatchObject({ ok: true });
  });

  it.each([
    [
      'without a rank',
      () => saveNpy('r/rank0.npy', 'f32', [6, HIDDEN], new Float32Array(24)),
      'E_RANKS',
      'contains 1 rank, not the 2',
    ],
    [
      'without names of ranks',
      () => saveNpy('r/a.npy', 'f32', [6, HIDDEN], new Float32Array(24)),
      'E_RANKS',
      /contains no received named rank0, rank1, …, or rank0\.recv/,
    ],
    [
      'with a hole',
      () => saveNpy('r/rank1.npy', 'f32', [6, HIDDEN], new Float32Array(24)),
      'E_RANKS',
      'received of rank 0 is missing',
    ],
  ] as const)('are refused %s', async (_, write, code, message) => {
    write();
    expectRefusal(await fusco(...AUDIT, '--received', 'r'), code, message);
  });

  it('are refused with rows of another dtype or size', async () => {
    for (const rank of [0, 1]) saveNpy(`h/rank${rank}.npy`, 'u16', [6, HIDDEN], new Uint16Array(24));
    const wanted =
      /received of rank 0 is u16 \(6, 4\), not f32 \[rows, 4\] .*in the dtype in which they travel/;
    expectRefusal(await fusco(...AUDIT, '--received', 'h'), 'E_SHAPE', wanted);
    saveNpy('two.npy', 'f32', [2, 2, HIDDEN], new Float32Array(16));
    const short = ['audit', 'plan.fusco', '--input', 'two.npy', '--received', 'out'];
    expectRefusal(await fusco(...short), 'E_SHAPE', /input of rank 0 is f32 \(2, 4\), not f32 \[3, 4\]/);
    const one = [...AUDIT, '--combined', 'x.npy', '--weights', 'x.npy'];
    expectRefusal(
      await fusco(...one),
      'E_SHAPE',
      /weights of rank 0 is f32 \(3, 4\), not f32 or f16 \[3, 2\] \(Give the gate weights/,
    );
    saveNpy('line.npy', 'f32', [24], new Float32Array(24));
    expectRefusal(await fusco(...AUDIT, '--received', 'line.npy'), 'E_SHAPE', 'has no axis of ranks');
  });

  it('are required', async () => {
    expectRefusal(await fusco('audit', 'plan.fusco'), 'E_USAGE', 'audit needs --input <x>');
    expectRefusal(await fusco(...AUDIT), 'E_USAGE', 'give --received, --combined or both');
    const weights = [...AUDIT, '--received', 'out', '--weights', 'w.npy'];
    expectRefusal(await fusco(...weights), 'E_USAGE', '--weights is only valid with --combined');
    expectRefusal(await fusco(...AUDIT, '--received', 'none'), 'E_FILE_NOT_FOUND');
  });
});
