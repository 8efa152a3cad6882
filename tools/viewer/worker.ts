// The worker of the page: the planner and everything that counts rows run here, so that the page never waits.

import { FuscoError } from '../../planner/errors.ts';
import { Planner, subtleSha256 } from '../../planner/index.ts';
import type { CallName, Calls, Failure, Request, Response } from './protocol.ts';
import { Session, warmUp } from './session.ts';

/** The parts of a worker's global scope that are used and that a page does not have. */
interface WorkerScope {
  postMessage(message: Response): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;

async function createSession(): Promise<Session> {
  const wasm = await WebAssembly.compileStreaming(fetch('planner.wasm'));
  const planner = await Planner.create(wasm);
  warmUp(planner);
  return new Session(planner, subtleSha256);
}

function explain(error: unknown): Failure {
  if (error instanceof FuscoError) {
    return { code: error.code, message: error.message, hint: error.hint };
  }
  const text = error instanceof Error ? error.message : String(error);
  return explain(new FuscoError('E_INTERNAL', text));
}

const session = createSession();
/** Requests are handled one after the other, because the planner is not re-entrant. */
let last: Promise<unknown> = session;

async function answer({ id, call, args }: Request): Promise<Response> {
  try {
    const calls: Calls = await session;
    const method = calls[call] as (...args: unknown[]) => Promise<unknown>;
    return { id, result: await method.apply(calls, [...args]) };
  } catch (error) {
    return { id, failure: explain(error) };
  }
}

const KNOWN: ReadonlySet<CallName> = new Set([
  'open',
  'plan',
  'token',
  'save',
  'strategies',
  'difference',
  'detail',
]);

scope.onmessage = ({ data }) => {
  if (!KNOWN.has(data.call)) return;
  last = last.catch(() => undefined).then(async () => scope.postMessage(await answer(data)));
};
