// Files are opened once, and only what a reader asks for is read.

import * as fs from 'node:fs';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { readAnyRouting } from '../../../tools/readers/anyRouting.ts';
import { readCounts } from '../../../tools/readers/counts.ts';
import { OpenFile, wholeOf } from '../../../tools/readers/file.ts';
import { openFile, openSource } from '../../../tools/readers/source.ts';
import { ZipArchive } from '../../../tools/readers/zip.ts';
import { foreign } from './support.ts';

vi.mock('node:fs', async (original) => {
  const actual = await original<typeof fs>();
  return { ...actual, openSync: vi.fn(actual.openSync), readSync: vi.fn(actual.readSync) };
});

const folder = mkdtempSync(join(tmpdir(), 'fusco-source-'));
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => void vi.clearAllMocks());

function saved(name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

const opened = () => vi.mocked(fs.openSync).mock.calls.map(([path]) => path);
/** Bytes that read calls gave. */
const bytesRead = () => vi.mocked(fs.readSync).mock.results.reduce((sum, { value }) => sum + value, 0);

describe('openSource', () => {
  it.each([
    ['vllm.npy', 'npy'],
    ['vllm.npz', 'npz'],
    ['views.pt', 'torch'],
    ['trtllm/rank0_raw.safetensors', 'safetensors'],
    ['vllm.jsonl', 'json'],
    ['megatron', 'directory'],
  ])('%s is %s', (name, kind) => {
    using source = openSource(foreign(name));
    expect(source.kind).toBe(kind);
  });

  it('tells other files by their first bytes', () => {
    const kinds = [Uint8Array.of(0x80, 2, 0x8a), 'hello', '', zipSync({ 'a.npy': new Uint8Array(3) })].map(
      (bytes) => {
        using source = openSource(saved('file', bytes));
        return source.kind;
      },
    );
    expect(kinds).toEqual(['pickle', 'unknown', 'unknown', 'npz']);
  });
});

describe('a file is opened once', () => {
  it.each([
    ['sglang/expert_distribution_recorder_1750000000.0_1.pt', { layer: 1, step: 8, ranks: 2 }],
    ['vllm.npy', {}],
    ['vllm.npz', { layer: 1, ranks: 1 }],
    ['vllm.jsonl', { layer: 1, ranks: 1 }],
    ['vllm-response.json', { layer: 1, ranks: 1 }],
    ['megatron/router_trace_rank1.jsonl', { layer: 1, step: 0, ranks: 2 }],
    ['trtllm/rank1_raw.safetensors', { layer: 4, step: 11, ranks: 2 }],
  ])('%s as a routing', async (name, choice) => {
    await readAnyRouting(foreign(name), choice);
    expect(opened()).toEqual([foreign(name)]);
  });

  it.each(['sglang-stat.pt', 'sglang-counts.json', 'trtllm/rank1.safetensors'])(
    '%s as counts',
    async (name) => {
      await readCounts(foreign(name));
      expect(opened()).toEqual([foreign(name)]);
    },
  );

  it('so is each file of a directory', async () => {
    await readAnyRouting(foreign('megatron'), { layer: 2, step: 1 });
    expect(opened()).toEqual(
      [0, 1].map((rank) => join(foreign('megatron'), `router_trace_rank${rank}.jsonl`)),
    );
  });
});

describe('reading by ranges', () => {
  const MEMBER = 1 << 22;

  it('a member of an archive is read when it is asked for, and the others are not', () => {
    const members = {
      a: new Uint8Array(MEMBER).fill(1),
      b: new Uint8Array(MEMBER).fill(2),
      c: Uint8Array.of(3),
    };
    using file = openFile(saved('three.zip', zipSync(members, { level: 0 })));
    const limits = { maxMembers: 3, maxTotalBytes: 2 ** 30, nameOf: (name: string) => name };
    const archive = new ZipArchive(file.bytes, file.path, limits);
    expect([...archive.read('c')!]).toEqual([3]);
    expect(bytesRead()).toBeLessThan(2 ** 20);
    expect(Buffer.compare(archive.read('b')!, members.b)).toBe(0);
    expect(bytesRead()).toBeLessThan(MEMBER + 2 ** 20);
  });

  it('gives the same bytes as the whole file, and a part keeps its bytes when others are read', () => {
    const bytes = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 255);
    using file = new OpenFile(saved('bytes', bytes));
    const ranges = [0, 10, 65_535, 65_536, 131_071, 200_000, 299_999].flatMap((begin) =>
      [1, 100, 65_536, 80_000].map((length) => [begin, Math.min(bytes.length, begin + length)] as const),
    );
    const parts = ranges.map(([begin, end]) => file.subarray(begin, end));
    const same = ranges.map(([begin, end], i) => Buffer.compare(parts[i]!, bytes.subarray(begin, end)));
    expect(same).toEqual(ranges.map(() => 0));
    expect(Buffer.compare(file.whole(), bytes)).toBe(0);
    expect(wholeOf({ kind: 'unknown', path: '', bytes }).buffer).toBe(bytes.buffer);
  });

  it('a file that became shorter is E_FILE_READ', () => {
    const path = saved('shrinking', new Uint8Array(100));
    using file = new OpenFile(path);
    writeFileSync(path, new Uint8Array(50));
    expect(() => file.whole()).toThrow('became shorter while it was read');
  });
});
