// The viewer's server: a fixed list of names on the loopback interface, and nothing else. The path of a request is looked
// up in that list and never joined to a directory, so path traversal is impossible.

import { readdir, stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import type { RecordedFigures } from '../figures/recorded.ts';
import { readError, readWhole } from '../readers/file.ts';

/** The contents of one path; files are read when they are requested. */
export interface Asset {
  readonly type: string;
  read(): Promise<Uint8Array>;
}

export type Assets = ReadonlyMap<string, Asset>;

const LOOPBACK = '127.0.0.1';
const MIME: Readonly<Record<string, string>> = {
  css: 'text/css; charset=utf-8',
  html: 'text/html; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  json: 'application/json',
  npy: 'application/octet-stream',
  wasm: 'application/wasm',
};

/** The type of a file by the end of its name; bytes if it is not a file of the page. */
export function typeOf(name: string): string {
  return MIME[name.slice(name.lastIndexOf('.') + 1)] ?? 'application/octet-stream';
}

const HEADERS: Readonly<Record<string, string>> = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; worker-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  // Isolated pages have clocks fine enough to show how long planning takes.
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
};

/** Files of one path of the command line: itself, or the rank{r}.npy of a directory. */
async function listFiles(path: string): Promise<string[]> {
  try {
    if (!(await stat(path)).isDirectory()) return [path];
    const names = await readdir(path);
    const ranks = names.filter((name) => /^rank\d+\.npy$/.test(name));
    // Without any, the directory is listed, so that reading it reports the error.
    return ranks.length === 0 ? [path] : ranks.map((name) => join(path, name));
  } catch (error) {
    throw readError(path, error);
  }
}

/**
 * The files of the command line as assets, with `/files.json` that lists them in groups.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ
 */
export async function fileAssets(paths: readonly string[]): Promise<Map<string, Asset>> {
  const assets = new Map<string, Asset>();
  const groups: { name: string; url: string }[][] = [];
  for (const path of paths) {
    const group: { name: string; url: string }[] = [];
    for (const file of await listFiles(path)) {
      const url = `files/${assets.size}`;
      assets.set(`/${url}`, { type: 'application/octet-stream', read: () => readWhole(file) });
      group.push({ name: basename(file), url });
    }
    groups.push(group);
  }
  const listing = new TextEncoder().encode(JSON.stringify(groups));
  assets.set('/files.json', { type: MIME.json!, read: async () => listing });
  return assets;
}

/** A recording as assets: `/recording.json` lists its routings, `/recording/N` is the plan of one of them. */
export function recordingAssets(
  listing: readonly RecordedFigures[],
  plan: (index: number) => Promise<Uint8Array>,
): Map<string, Asset> {
  const bytes = new TextEncoder().encode(JSON.stringify(listing));
  const assets = new Map<string, Asset>([['/recording.json', { type: MIME.json!, read: async () => bytes }]]);
  for (const index of listing.keys())
    assets.set(`/recording/${index}`, { type: 'application/octet-stream', read: () => plan(index) });
  return assets;
}

/**
 * A page on another site can make a browser access this server under a host name that the site controls; such names are
 * refused here.
 */
function isOwnHost(request: IncomingMessage, port: number): boolean {
  const { host } = request.headers;
  return host === `${LOOPBACK}:${port}` || host === `localhost:${port}`;
}

function send(
  response: ServerResponse,
  status: number,
  type: string,
  body: Uint8Array,
  isHead: boolean,
): void {
  response.writeHead(status, { ...HEADERS, 'Content-Type': type, 'Content-Length': body.length });
  response.end(isHead ? undefined : body);
}

async function answer(
  assets: Assets,
  port: number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const isHead = request.method === 'HEAD';
  const refuse = (status: number, text: string) =>
    send(response, status, 'text/plain; charset=utf-8', new TextEncoder().encode(`${text}\n`), isHead);
  if (!isOwnHost(request, port)) return refuse(421, 'this server answers to 127.0.0.1 and localhost only');
  if (request.method !== 'GET' && !isHead) {
    response.setHeader('Allow', 'GET, HEAD');
    return refuse(405, 'GET and HEAD only');
  }
  const asset = assets.get((request.url ?? '').split('?')[0]!);
  if (asset === undefined) return refuse(404, 'not found');
  try {
    send(response, 200, asset.type, await asset.read(), isHead);
  } catch (error) {
    refuse(500, error instanceof Error ? error.message : String(error));
  }
}

export interface ViewerServer {
  /** http://127.0.0.1:PORT/ */
  readonly url: string;
  readonly port: number;
  /** Also ends open connections. */
  close(): Promise<void>;
}

/** Serves the assets on a random port of the loopback interface. */
export async function serveViewer(assets: Assets): Promise<ViewerServer> {
  const server: Server = createServer((request, response) => {
    const { port } = server.address() as AddressInfo;
    void answer(assets, port, request, response);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, LOOPBACK, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${LOOPBACK}:${port}/`,
    port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
