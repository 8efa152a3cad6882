// The viewer's server: a fixed list of names, for this machine only.

import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fileAssets, serveViewer, typeOf, type ViewerServer } from '../../../tools/viewer/server.ts';
import { fusco, ROOT } from '../../support/cli.ts';

const TABLES = join(ROOT, 'test/fixtures/routing');

interface Answer {
  status: number;
  headers: Record<string, unknown>;
  body: string;
}

let server: ViewerServer;

function ask(path: string, options: { host?: string; method?: string } = {}): Promise<Answer> {
  const { host = `127.0.0.1:${server.port}`, method = 'GET' } = options;
  return new Promise((resolve, reject) => {
    const sent = request(
      { host: '127.0.0.1', port: server.port, path, method, headers: { Host: host } },
      (response) => {
        let body = '';
        response.setEncoding('latin1');
        response.on('data', (text) => (body += text));
        response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body }));
      },
    );
    sent.on('error', reject).end();
  });
}

beforeAll(async () => {
  const page = { type: typeOf('index.html'), read: async () => new TextEncoder().encode('<p>page') };
  const files = await fileAssets([
    join(ROOT, 'tools/demo', 'moe256-ep8x512-mixed-l3.idx.npy'),
    join(TABLES, 'tiny-ragged'),
  ]);
  server = await serveViewer(new Map([['/', page], ...files]));
});

afterAll(() => server.close());

describe('the viewer’s server', () => {
  it('serves its page with headers that keep it to itself', async () => {
    const { status, headers, body } = await ask('/');
    expect([status, body]).toEqual([200, '<p>page']);
    expect(headers).toMatchObject({
      'content-type': 'text/html; charset=utf-8',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-resource-policy': 'same-origin',
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-store',
    });
    expect(headers['content-security-policy']).toMatch(
      /^default-src 'none'; script-src 'self' 'wasm-unsafe-eval';/,
    );
    expect(headers['access-control-allow-origin']).toBeUndefined();
  });

  it('lists the files of the command line in groups, a directory as one, and serves their bytes', async () => {
    const groups = JSON.parse((await ask('/files.json')).body);
    expect(groups).toHaveLength(2);
    expect(groups[0]).toEqual([{ name: 'moe256-ep8x512-mixed-l3.idx.npy', url: 'files/0' }]);
    expect(groups[1].map(({ name }: { name: string }) => name).sort()).toEqual([
      'rank0.npy',
      'rank1.npy',
      'rank2.npy',
      'rank3.npy',
    ]);
    expect((await ask('/files/0')).body.slice(1, 6)).toBe('NUMPY');
  });

  it.each(['evil.example', 'evil.example:80', '127.0.0.1', '127.0.0.1:1', '[::1]'])(
    'refuses the Host header %j',
    async (host) => {
      for (const path of ['/', '/files.json', '/files/0']) {
        const { status, body } = await ask(path, { host });
        expect([status, body]).toEqual([421, 'this server answers to 127.0.0.1 and localhost only\n']);
      }
    },
  );

  it('refuses a request without a Host header', async () => {
    const text = await new Promise<string>((resolve) => {
      let received = '';
      const socket = connect(server.port, '127.0.0.1', () => socket.write('GET / HTTP/1.0\r\n\r\n'));
      socket.on('data', (data) => (received += data)).on('close', () => resolve(received));
    });
    expect(text).toMatch(/^HTTP\/1\.1 421 /);
  });

  it('answers to localhost by its own port', async () => {
    expect((await ask('/', { host: `localhost:${server.port}` })).status).toBe(200);
  });

  it.each([
    '/../package.json',
    '/..%2fpackage.json',
    '/%2e%2e/%2e%2e/etc/passwd',
    '/files/../../../../etc/passwd',
    '/files/0/..',
    '//etc/passwd',
    '/files/99',
    '/files',
    '/index.html/',
    'http://evil.example/',
  ])('has nothing at %s', async (path) => {
    expect(await ask(path)).toMatchObject({ status: 404, body: 'not found\n' });
  });

  it('takes GET and HEAD only', async () => {
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
      expect(await ask('/', { method })).toMatchObject({ status: 405, headers: { allow: 'GET, HEAD' } });
    }
    expect(await ask('/', { method: 'HEAD' })).toMatchObject({ status: 200, body: '' });
  });

  it('survives a request that is no HTTP', async () => {
    await new Promise<void>((resolve) => {
      const socket = connect(server.port, '127.0.0.1', () => socket.end('\0\0nonsense\r\n\r\n'));
      socket.on('close', () => resolve()).resume();
    });
    expect((await ask('/')).status).toBe(200);
  });

  it('refuses a file that is not there before it serves anything', async () => {
    const refused = await fusco('view', 'x.npy', '--tile-tokens', '4');
    expect([refused.code, refused.stderr]).toEqual([
      2,
      expect.stringContaining('the page has no --tile-tokens'),
    ]);
    const placed = await fusco('view', 'x.npy', '--placement', 'map.json');
    expect(placed.stderr).toContain('the page has no --placement from a file');
    expect(await fusco('view', 'no-such-file.npy')).toMatchObject({ code: 2, stdout: '' });
  });
});
