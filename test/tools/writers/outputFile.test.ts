import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FuscoError } from '../../../planner/errors.ts';
import { OutputDirectory, writeFileAtomic } from '../../../tools/writers/outputFile.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'fusco-output-'));
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(dir, { recursive: true });
});

const hello = [Buffer.from('hel'), Buffer.from('lo')];

async function failure(run: Promise<unknown>): Promise<string> {
  try {
    await run;
  } catch (error) {
    if (error instanceof FuscoError) return error.toString();
    throw error;
  }
  throw new Error('written');
}

describe('writeFileAtomic', () => {
  test('writes all chunks in order and leaves nothing else behind', async () => {
    await writeFileAtomic(join(dir, 'a'), hello);
    expect(await readFile(join(dir, 'a'), 'utf8')).toBe('hello');
    expect(await readdir(dir)).toEqual(['a']);
  });

  test('takes chunks that are made while it writes, and none at all', async () => {
    async function* chunks() {
      yield* hello;
    }
    await writeFileAtomic(join(dir, 'a'), chunks());
    await writeFileAtomic(join(dir, 'b'), []);
    expect(await readFile(join(dir, 'a'), 'utf8')).toBe('hello');
    expect(await readFile(join(dir, 'b'), 'utf8')).toBe('');
  });

  test('keeps the old contents until the new ones are whole', async () => {
    const path = join(dir, 'a');
    await writeFile(path, 'old');
    async function* chunks() {
      yield hello[0]!;
      expect(await readFile(path, 'utf8')).toBe('old');
      expect(await readdir(dir)).toHaveLength(2);
      yield hello[1]!;
    }
    await writeFileAtomic(path, chunks());
    expect(await readFile(path, 'utf8')).toBe('hello');
  });

  test('passes on what the chunks throw, keeps the old contents and removes the temporary', async () => {
    const path = join(dir, 'a');
    await writeFile(path, 'old');
    const failed = new Error('no more');
    function* chunks() {
      yield hello[0]!;
      throw failed;
    }
    await expect(writeFileAtomic(path, chunks())).rejects.toBe(failed);
    expect(await readFile(path, 'utf8')).toBe('old');
    expect(await readdir(dir)).toEqual(['a']);
  });

  test('does not create the directory', async () => {
    const path = join(dir, 'absent', 'a');
    expect(await failure(writeFileAtomic(path, hello))).toBe(`E_FILE_WRITE ${path}: no such directory`);
    expect(existsSync(join(dir, 'absent'))).toBe(false);
  });

  test('says in one line why it cannot write', async () => {
    await writeFile(join(dir, 'file'), '');
    await mkdir(join(dir, 'sub'));
    const long = join(dir, 'x'.repeat(300));
    expect(await failure(writeFileAtomic(join(dir, 'sub'), hello))).toBe(
      `E_FILE_WRITE ${join(dir, 'sub')}: is a directory`,
    );
    expect(await failure(writeFileAtomic(join(dir, 'file', 'a'), hello))).toBe(
      `E_FILE_WRITE ${join(dir, 'file', 'a')}: a part of the path is not a directory`,
    );
    expect(await failure(writeFileAtomic(long, hello))).toBe(`E_FILE_WRITE ${long}: file name too long`);
  });

  test.skipIf(process.getuid?.() === 0)('says when permission is denied', async () => {
    await chmod(dir, 0o500);
    const path = join(dir, 'a');
    const message = await failure(writeFileAtomic(path, hello)).finally(() => chmod(dir, 0o700));
    expect(message).toBe(`E_FILE_WRITE ${path}: permission denied`);
  });

  test('takes a name of the greatest length', async () => {
    const path = join(dir, 'x'.repeat(255));
    await writeFileAtomic(path, hello);
    expect(await readFile(path, 'utf8')).toBe('hello');
  });

  test('writes through a symbolic link and leaves the link', async () => {
    await writeFile(join(dir, 'real'), 'old');
    await symlink('real', join(dir, 'link'));
    await writeFileAtomic(join(dir, 'link'), hello);
    expect(await readlink(join(dir, 'link'))).toBe('real');
    expect(await readFile(join(dir, 'real'), 'utf8')).toBe('hello');
  });

  test.skipIf(!existsSync('/dev/full'))('writes to a device directly instead of replacing it', async () => {
    await writeFileAtomic('/dev/null', hello);
    expect(await failure(writeFileAtomic('/dev/full', hello))).toBe(
      'E_FILE_WRITE /dev/full: no space left on the device',
    );
  });
});

describe('signals', () => {
  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s during a write removes the temporaries and exits with %i', async (signal, code) => {
    const exited = new Promise<number | string | null | undefined>((resolve) => {
      vi.spyOn(process, 'exit').mockImplementation((status) => {
        resolve(status);
        return undefined as never;
      });
    });
    const stopped = new Error('stopped');
    async function* chunks() {
      yield hello[0]!;
      expect(await readdir(dir)).toHaveLength(1);
      process.kill(process.pid, signal);
      expect(await exited).toBe(code);
      expect(await readdir(dir)).toEqual([]);
      throw stopped;
    }
    await expect(writeFileAtomic(join(dir, 'a'), chunks())).rejects.toBe(stopped);
  });

  test('are handled only while a write is in flight, by one handler for all writes', async () => {
    const listeners = () => [process.listenerCount('SIGINT'), process.listenerCount('SIGTERM')];
    const [int, term] = listeners() as [number, number];
    async function* chunks() {
      expect(listeners()).toEqual([int + 1, term + 1]);
      yield hello[0]!;
    }
    await Promise.all([writeFileAtomic(join(dir, 'a'), chunks()), writeFileAtomic(join(dir, 'b'), chunks())]);
    expect(listeners()).toEqual([int, term]);
    await failure(writeFileAtomic(join(dir, 'absent', 'a'), hello));
    expect(listeners()).toEqual([int, term]);
  });
});

describe('OutputDirectory', () => {
  test('is created with its parents, or used as it stands', async () => {
    const path = join(dir, 'x', 'y');
    expect(await (await OutputDirectory.create(path)).write('a', hello)).toBe(join(path, 'a'));
    expect(await (await OutputDirectory.create(path)).write('b', [])).toBe(join(path, 'b'));
    expect(await readdir(path)).toEqual(['a', 'b']);
    expect(await readFile(join(path, 'a'), 'utf8')).toBe('hello');
  });

  test('cannot take the place of a file', async () => {
    const path = join(dir, 'file');
    await writeFile(path, '');
    expect(await failure(OutputDirectory.create(path))).toBe(
      `E_FILE_WRITE ${path}: a file with this name already exists`,
    );
    expect(await failure(OutputDirectory.create(join(path, 'x')))).toBe(
      `E_FILE_WRITE ${join(path, 'x')}: a part of the path is not a directory`,
    );
  });

  test.each(['../a', 'x/a', '/a', '', '.', '..'])('does not write %j, which leaves it', async (name) => {
    const out = await OutputDirectory.create(dir);
    expect(await failure(out.write(name, hello))).toContain('is not a plain file name');
    expect(await readdir(dir)).toEqual([]);
  });
});
