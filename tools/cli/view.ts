import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { encodePlan } from '../../planner/format/encode.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { type RecordedFigures, recordedFigures } from '../figures/recorded.ts';
import { numberOf } from '../readers/recording.ts';
import { viewerAsset } from '../report/write.ts';
import { addressOf } from '../viewer/page/address.ts';
import type { ViewOptions } from '../viewer/protocol.ts';
import { type Asset, fileAssets, recordingAssets, serveViewer, typeOf } from '../viewer/server.ts';
import { type EndSignal, EXIT_CODES } from '../writers/outputFile.ts';
import { demoFile } from './demo.ts';
import { command, ExitWith, Notices, print, say } from './io.ts';
import { addSubjectOptions, type Subject, type SubjectArguments, subjectsOf } from './subject.ts';

const PAGE = ['index.html', 'style.css', 'viewer.css', 'viewer.js', 'worker.js', 'report.js'];

/** The page, the planner's Wasm and the example, by path. Throws E_BACKEND if the viewer is not built. */
async function pageAssets(): Promise<Map<string, Asset>> {
  const assets = new Map<string, Asset>();
  for (const name of PAGE) {
    const bytes = await viewerAsset(name);
    assets.set(name === 'index.html' ? '/' : `/${name}`, { type: typeOf(name), read: async () => bytes });
  }
  const wasm = createRequire(import.meta.url).resolve('#planner.wasm');
  assets.set('/planner.wasm', { type: typeOf(wasm), read: () => readFile(wasm) });
  const example = demoFile('moe256-ep8x512-mixed-l3.idx.npy');
  assets.set('/example.npy', { type: typeOf(example), read: () => readFile(example) });
  return assets;
}

/** Resolves at the first signal that terminates the process. */
function stopSignal(): Promise<EndSignal> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve(signal));
  });
}

/** A recording that is planned routing by routing; a plan is made again when the page requests it. */
async function recordingOf(
  path: string,
  args: SubjectArguments,
  notice: (text: string) => void,
): Promise<Map<string, Asset>> {
  const planner = await loadPlanner();
  const listing: RecordedFigures[] = [];
  for await (const subject of subjectsOf(path, args, planner, notice))
    listing.push(recordedFigures(subject.plan, planner, numberOf(subject)));
  return recordingAssets(listing, async (index) => {
    const { layers: _, steps: __, ...rest } = args;
    const only = { ...rest, ...numberOf(listing[index]!) };
    const subject = (await subjectsOf(path, only, planner, notice).next()).value as Subject;
    return (await encodePlan(subject.plan, nodeSha256)).bytes;
  });
}

/** Planning options that the page also has. */
const PAGE_OPTIONS: readonly string[] = [
  'experts',
  'ranks',
  'ranksPerNode',
  'strategy',
  'balance',
  'partial',
  'sum',
  'align',
  'capacity',
  'hidden',
  'dtype',
  'placement',
  'replicas',
] satisfies (keyof ViewOptions)[];

/** The part of the page's address with the options of the command line. Throws E_USAGE for an option that the page lacks. */
function addressOptions(args: SubjectArguments, files: number): string {
  const given = [...args.given!];
  if (given.length === 0) return '';
  const other = given.find((name) => !PAGE_OPTIONS.includes(name));
  const isFile = given.includes('placement') && !/^(blocks|round-robin)$/.test(args.placement!);
  if (other !== undefined || isFile) {
    const flag = (other ?? 'placement').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const text = `the page has no --${flag}${isFile ? ' from a file' : ''}: plan with it, and view the plan`;
    throw new FuscoError('E_USAGE', text);
  }
  const options = Object.fromEntries(given.map((name) => [name, args[name as keyof SubjectArguments]]));
  const sides = files > 1 ? { a: options, b: options } : { a: options };
  return addressOf({ isExample: files === 0, isCompared: false, options: sides });
}

async function view(files: readonly string[], args: SubjectArguments): Promise<void> {
  const notices = new Notices();
  const isRecording = args.layers !== undefined || args.steps !== undefined;
  if (isRecording && files.length !== 1)
    throw new FuscoError('E_USAGE', '--layers and --steps take one recording');
  const address = isRecording ? '' : addressOptions(args, files.length);
  const recording = isRecording
    ? await recordingOf(files[0]!, args, notices.add)
    : recordingAssets([], async () => new Uint8Array());
  const listed = await fileAssets(isRecording ? [] : files);
  const assets = new Map([...(await pageAssets()), ...listed, ...recording]);
  const stopped = stopSignal();
  const server = await serveViewer(assets);
  notices.say();
  print(`${server.url}${address}`);
  say('open this address in a browser on this machine; Ctrl-C stops the server');
  const signal = await stopped;
  await server.close();
  throw new ExitWith(EXIT_CODES[signal]);
}

export function viewCommand(): Command {
  const made = command('view', 'Serve a local page that makes and compares plans in the browser.')
    .argument(
      '[files...]',
      'routing tables (.npy, .npz, a directory of rank{r}.npy) or plans; two are compared; or a recording, with --layers or --steps',
    )
    .addHelpText(
      'after',
      '\nThe page starts with the planning options that are given; they can be changed in the page.',
    )
    .action(view);
  return addSubjectOptions(made);
}
