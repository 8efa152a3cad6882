// Files made to do harm: small ones that would take all memory or time, numbers beyond every range, names that mean
// something to a file system. Each is refused with a code and in one line, at once.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { deflateSync } from 'fflate';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FuscoError } from '../../../planner/errors.ts';
import { parseGolden } from '../../../tools/golden/goldenFile.ts';
import { NAMES, readLayer, readPlacementLayer } from '../../../tools/placement/placementFile.ts';
import { readAnyRouting } from '../../../tools/readers/anyRouting.ts';
import { readCounts } from '../../../tools/readers/counts.ts';
import { gunzip } from '../../../tools/readers/gzip.ts';
import { encodeNpy, parseNpy } from '../../../tools/readers/npy.ts';
import { readNpz } from '../../../tools/readers/npz.ts';
import { readSafetensors } from '../../../tools/readers/safetensors.ts';
import { readTorch, type TorchTensor } from '../../../tools/readers/torch.ts';
import { findTopology } from '../../../tools/simulate/topology.ts';
import { int, tensor, torchOf, word } from '../../support/handTorch.ts';
import { NPY, zip } from '../../support/handZip.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fusco-hostile-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function saved(name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** Code and message of the refusal that `step` ends with; anything else fails the test. */
async function refusal(step: () => unknown): Promise<string> {
  try {
    await step();
  } catch (error) {
    if (!(error instanceof FuscoError)) throw error;
    expect(error.message).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u);
    expect(error.message.length).toBeLessThan(600);
    return error.toString();
  }
  throw new Error('accepted');
}

/** A .npy file of a header alone. */
function npyOf(shape: string, descr = '<i8'): Uint8Array {
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }`;
  const head = `\x93NUMPY\x01\x00${String.fromCharCode(text.length & 255, text.length >> 8)}`;
  return new Uint8Array(Buffer.from(head + text, 'latin1'));
}

/** A safetensors file of a header and `body` zeros. */
function safetensorsOf(header: object | string, body = 0): Uint8Array {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return new Uint8Array(Buffer.concat([size, text, Buffer.alloc(body)]));
}

describe('zip bombs', () => {
  it('a member that inflates to more than it declares', async () => {
    const bomb = deflateSync(new Uint8Array(1 << 26));
    const bytes = zip([{ name: 'a.npy', data: bomb, method: 8, size: 64 }]);
    expect(await refusal(() => readNpz(bytes, 'x.npz'))).toMatch(
      /^E_FORMAT .*inflates to more than 64 bytes/,
    );
  });

  it('a member that declares more than deflate can hold', async () => {
    const bytes = zip([{ name: 'a.npy', data: deflateSync(NPY), method: 8, size: 2 ** 31 }]);
    expect(await refusal(() => readNpz(bytes, 'x.npz'))).toMatch(/^E_FORMAT .*declares 2147483648 bytes/);
  });

  it('members that share one stream', async () => {
    const first = { name: 'a.npy', data: deflateSync(new Uint8Array(1 << 20)), method: 8, size: 1 << 20 };
    const others = Array.from({ length: 50 }, (_, i) => ({
      ...first,
      name: `b${i}.npy`,
      data: new Uint8Array(0),
      compressed: first.data.length,
      local: 0,
    }));
    expect(await refusal(() => readNpz(zip([first, ...others]), 'x.npz'))).toMatch(/members overlap/);
  });

  it('tensors of a .pt file that share one storage: no more bytes than twice what the archive holds', async () => {
    const elements = 1 << 20;
    const count = 40;
    const body = `(${tensor([elements], [1], elements).repeat(count)}t`;
    const list = readTorch(torchOf(body, new Uint8Array(elements)), 'x.pt') as TorchTensor[];
    expect(list).toHaveLength(count);
    const read = () => list.map((item) => item.toArray());
    expect(await refusal(read)).toMatch(/^E_FOREIGN .*tensors share their storages/);
  });
});

describe('headers of billions of entries', () => {
  it.each(['(1000000000000,)', '(1000000, 1000000)'])('.npy %s without data', async (shape) => {
    expect(await refusal(() => parseNpy(npyOf(shape), 'x.npy'))).toMatch(/^E_FORMAT .*truncated/);
  });

  it('arrays without elements that still have a trillion layers', async () => {
    const path = saved('layers.npy', npyOf('(0, 1000000000000, 8)'));
    const choice = { format: 'vllm', layer: 3, ranks: 1 } as const;
    expect(await refusal(() => readAnyRouting(path, choice))).toMatch(/^E_FOREIGN .*more than 65536 layers/);
  });

  it('a trillion tokens without choices', async () => {
    const path = saved('tokens.npy', npyOf('(2, 1000000000000, 0)'));
    expect(await refusal(() => readAnyRouting(path))).toMatch(/^E_FOREIGN .*topk 0 is not in 1\.\.256/);
  });

  it('a dump of a trillion layers of no tokens', async () => {
    const layers = 1e12;
    const none = tensor([layers, 0, 8], [0, 8, 1], 0);
    const record = `}(${word('forward_pass_id')}${int(0)}${word('rank')}${int(0)}${word('topk_ids_of_layer')}${none}u`;
    const map = `${word('last_physical_to_logical_map')}${tensor([layers, 0], [0, 1], 0)}`;
    const path = saved('dump.pt', torchOf(`}(${word('records')}](${record}e${map}u`, new Uint8Array(0)));
    expect(await refusal(() => readAnyRouting(path, { layer: 1 }))).toMatch(/more than 65536 layers/);
  });

  it('counts of one layer with a high number: the layers below take no memory of their own', async () => {
    const experts = 60_000;
    const header = { '0_4000': { dtype: 'U8', shape: [experts], data_offsets: [0, experts] } };
    const before = process.memoryUsage().rss;
    const layers = await readCounts(saved('c.safetensors', safetensorsOf(header, experts)));
    expect([layers.length, layers[4000]!.length]).toEqual([4001, experts]);
    // 4000 layers of 60,000 numbers are 1.8 GiB.
    expect(process.memoryUsage().rss - before).toBeLessThan(1 << 28);
    const far = { '0_65535': { dtype: 'U8', shape: [8], data_offsets: [0, 8] } };
    expect(await refusal(() => readCounts(saved('far.safetensors', safetensorsOf(far, 8))))).toMatch(
      /^E_FORMAT .*layer 65535 > 4095/,
    );
  });

  it('counts of the last expert of every layer, in a few lines of CSV', async () => {
    const lines = Array.from({ length: 4096 }, (_, layer) => `${layer},65534,1`);
    const path = saved('c.csv', `layer_id,expert_id,count\n${lines.join('\n')}\n`);
    expect(await refusal(() => readCounts(path))).toMatch(
      /^E_FORMAT .*layers of 65535 experts > 16777216 counts/,
    );
  });

  it('a gzip file that unpacks to more than its bytes can hold, or is cut', async () => {
    const packed = gzipSync(Buffer.alloc(1 << 20));
    expect(await refusal(() => gunzip(packed, 'x.gz', 1 << 16))).toMatch(
      /^E_FORMAT .*unpacks to more than 65536/,
    );
    const cut = saved('cut.jsonl.gz', packed.subarray(0, -9));
    expect(await refusal(() => readAnyRouting(cut))).toMatch(/^E_FORMAT .*damaged or truncated/);
    const flipped = Buffer.from(packed);
    flipped[flipped.length - 6]! ^= 1;
    expect(await refusal(() => gunzip(flipped, 'x.gz'))).toMatch(/^E_FORMAT /);
  });

  it('requests without tokens, a trillion of them', async () => {
    const path = saved('requests.npy', npyOf('(1000000000000, 0, 2, 2)'));
    const choice = { layer: 1, ranks: 1 } as const;
    expect(await refusal(() => readAnyRouting(path, choice))).toMatch(/^E_FOREIGN .*holds no ids/);
  });

  it('YAML of aliases, of a hundred thousand lists, of a key twice', async () => {
    const texts = ['a: &x [1, 1]\nb: [*x, *x]', `a: ${'['.repeat(100_000)}`, 'a: 1\na: 2'];
    for (const text of texts) {
      const path = saved('p.yaml', text);
      expect(await refusal(() => readPlacementLayer(path, undefined, 0))).toMatch(/^E_FORMAT .*nor YAML/);
    }
  });

  it('a shape of a million axes, again and again', async () => {
    const shape = new Array<number>(20_000).fill(1);
    const one = tensor(shape, shape, 1).replace(/R$/, '');
    expect(await refusal(() => readTorch(torchOf(`${one}R`, new Uint8Array(1)), 'x.pt'))).toMatch(
      /^E_FOREIGN .*is not a storage with offset, size and stride/,
    );
  });

  it.each(['routing', 'placement', 'counts'])('JSON nested a hundred thousand deep: %s', async (what) => {
    const path = saved('deep', '['.repeat(100_000) + ']'.repeat(100_000));
    const read = {
      routing: () => readAnyRouting(path, { ranks: 1 }),
      placement: () => readLayer(path, NAMES.phy2log, 1, 0),
      counts: () => readCounts(path),
    }[what]!;
    expect(await refusal(read)).toMatch(/^E_(FOREIGN|FORMAT) /);
  });

  it('a value of a record that is nested a hundred thousand deep', async () => {
    const deep = '['.repeat(100_000) + ']'.repeat(100_000);
    const record = `{"layer": 0, "step": 0, "rank": 0, "top_indices": [], "block": ${deep}}\n`;
    expect(await refusal(() => readAnyRouting(saved('m.jsonl', record)))).toMatch(/^E_FOREIGN /);
    const topology = saved('t.json', `{"name": "t", "nodes": ${deep}, "ranksPerNode": 1}`);
    expect(await refusal(() => findTopology(topology))).toMatch(/^E_OPTION /);
  });
});

describe('negative and overflowing sizes', () => {
  it.each([
    ['(-1,)', /negative dimension/],
    ['(9007199254740993,)', /exceeds 2\^53/],
    ['(4294967296, 4294967296)', /exceeds 2\^53/],
    ['(1152921504606846977, 16)', /exceeds 2\^53/],
  ])('.npy %s', async (shape, text) => {
    expect(await refusal(() => parseNpy(npyOf(shape), 'x.npy'))).toMatch(text);
  });

  it.each([
    [{ dtype: 'I64', shape: [-1], data_offsets: [0, 8] }],
    [{ dtype: 'I64', shape: [2 ** 53], data_offsets: [0, 8] }],
    [{ dtype: 'I64', shape: [2 ** 32, 2 ** 32], data_offsets: [0, 0] }],
    [{ dtype: 'I64', shape: [1], data_offsets: [8, 0] }],
    [{ dtype: 'I64', shape: [1], data_offsets: [-8, 0] }],
    [{ dtype: 'I64', shape: [1], data_offsets: [2 ** 53 - 9, 2 ** 53 - 1] }],
  ])('safetensors %j', async (entry) => {
    expect(await refusal(() => readSafetensors(safetensorsOf({ a: entry }, 8), 'x'))).toMatch(/^E_FOREIGN /);
  });

  it.each([
    ['a negative stride', [2], [-1]],
    ['a product beyond 2^53', [2 ** 40, 2 ** 40], [1, 1]],
    ['a stride that wraps', [2], [2 ** 53 - 1]],
  ])('.pt: %s', async (_, shape, stride) => {
    const read = () => readTorch(torchOf(tensor(shape, stride, 8), new Uint8Array(8)), 'x.pt');
    expect(await refusal(read)).toMatch(/^E_FOREIGN /);
  });

  it('ids beyond 32 bits are refused, not cut to 32 bits', async () => {
    const ids = BigInt64Array.of(2n ** 32n + 1n, 0n, 1n, 2n, 0n, 1n, 2n, 3n);
    const path = saved('wide.npy', Buffer.concat(encodeNpy('i64', [2, 2, 2], ids)));
    const choice = { format: 'vllm', layer: 0, ranks: 1 } as const;
    expect(await refusal(() => readAnyRouting(path, choice))).toMatch(
      /^E_FOREIGN .*id 4294967297 is not a 32-bit integer/,
    );
  });
});

describe('duplicate keys', () => {
  it('two members of one name', async () => {
    const bytes = zip([{ name: 'a.npy' }, { name: 'a.npy' }]);
    expect(await refusal(() => readNpz(bytes, 'x.npz'))).toMatch(/^E_FORMAT .*two members are named "a"/);
  });

  it('a key of a .npy header that occurs twice', async () => {
    const text = "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (0,)}";
    const head = `\x93NUMPY\x01\x00${String.fromCharCode(text.length, 0)}`;
    const bytes = new Uint8Array(Buffer.from(head + text, 'latin1'));
    expect(await refusal(() => parseNpy(bytes, 'x.npy'))).toMatch(/unknown or repeated key/);
  });

  it('an array of a safetensors header that occurs twice', async () => {
    const entry = '{"dtype":"U8","shape":[8],"data_offsets":[0,8]}';
    const bytes = safetensorsOf(`{"a":${entry},"a":${entry}}`, 8);
    expect(await refusal(() => readSafetensors(bytes, 'x'))).toMatch(/^E_FOREIGN .*"a" occurs twice/);
    const escaped = safetensorsOf(`{"a":${entry},"\\u0061":${entry}}`, 8);
    expect(await refusal(() => readSafetensors(escaped, 'x'))).toMatch(/"a" occurs twice/);
    const inner = safetensorsOf('{"a":{"dtype":"U8","shape":[8],"shape":[8],"data_offsets":[0,8]}}', 8);
    expect(await refusal(() => readSafetensors(inner, 'x'))).toMatch(/"shape" occurs twice/);
  });

  it('a plan of a golden file, a constant of a topology, and the layers of counts', async () => {
    const plan = '{"routing": "a.npy", "options": {"experts": 8}}';
    const golden = `{"formatVersion": 1, "plans": {"a": ${plan}, "a": ${plan}}}`;
    expect(await refusal(() => parseGolden(golden, 'g'))).toMatch(/^E_GOLDEN .*"a" occurs twice/);
    const topology = saved('twice.json', '{"name": "t", "nodes": 2, "nodes": 3, "ranksPerNode": 1}');
    expect(await refusal(() => findTopology(topology))).toMatch(/^E_FORMAT .*"nodes" occurs twice/);
    const counts = saved('twice', '{"logical_count": [[1]], "logical_count": [[2]]}');
    expect(await refusal(() => readCounts(counts))).toMatch(/^E_FORMAT .*"logical_count" occurs twice/);
  });
});

describe('symbolic links in archives', () => {
  const link = { data: Buffer.from('/etc/hostname'), mode: 0o120777 };

  it('a member that is one, in .npz and .pt', async () => {
    expect(await refusal(() => readNpz(zip([{ name: 'rank0.npy', ...link }]), 'x.npz'))).toMatch(
      /^E_FORMAT .*"rank0" is a symbolic link/,
    );
    expect(await refusal(() => readTorch(zip([{ name: 'v/data.pkl', ...link }]), 'x.pt'))).toMatch(
      /is a symbolic link/,
    );
  });

  it('a regular file of the same system is read', () => {
    expect([...readNpz(zip([{ name: 'a.npy', mode: 0o100644 }]), 'x.npz').keys()]).toEqual(['a']);
  });
});

describe('errors stay on one line', () => {
  it('whatever control characters a file puts into them', async () => {
    const path = saved('text', '{"name": "\n\u001b[2J", "nodes": }\n');
    expect(await refusal(() => findTopology(path))).toMatch(/^E_FORMAT /);
    expect(new FuscoError('E_FORMAT', 'a\r\n\u001b[31mb\u2028c\u009bd').message).toBe('a [31mb c d');
  });
});
