// The page's side of the worker: calls that return promises.

import type { FuscoError } from '../../../planner/errors.ts';
import type { CallName, Calls, Failure, Request, Response } from '../protocol.ts';

/** An error of the worker, with the fields of a FuscoError. */
export class WorkerError extends Error {
  readonly code: string;
  readonly hint: string;

  constructor({ code, message, hint }: Failure) {
    super(message);
    this.code = code;
    this.hint = hint;
  }
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: WorkerError | FuscoError): void;
}

/** All calls of the session, which the worker answers in order. */
export function createClient(worker: Worker): Calls {
  const waiting = new Map<number, Waiting>();
  let lastId = 0;
  let hasStopped = false;
  worker.onmessage = ({ data }: MessageEvent<Response>) => {
    const entry = waiting.get(data.id);
    waiting.delete(data.id);
    if ('failure' in data) entry?.reject(new WorkerError(data.failure));
    else entry?.resolve(data.result);
  };
  const stopped = () =>
    new WorkerError({
      code: 'E_INTERNAL',
      message: 'the worker of the page stopped',
      hint: 'Reload the page.',
    });
  // Later calls must not wait for an answer that will never come.
  const failAll = () => {
    hasStopped = true;
    for (const entry of waiting.values()) entry.reject(stopped());
    waiting.clear();
  };
  worker.onerror = failAll;
  worker.onmessageerror = failAll;
  const ask = <T>(call: CallName, ...args: unknown[]): Promise<T> =>
    new Promise<unknown>((resolve, reject) => {
      if (hasStopped) {
        reject(stopped());
        return;
      }
      lastId++;
      waiting.set(lastId, { resolve, reject });
      const request: Request = { id: lastId, call, args };
      worker.postMessage(request);
    }) as Promise<T>;
  return {
    open: (side, files) => ask('open', side, files),
    plan: (side, options) => ask('plan', side, options),
    token: (side, rank, token) => ask('token', side, rank, token),
    save: (side) => ask('save', side),
    strategies: (side) => ask('strategies', side),
    difference: () => ask('difference'),
    detail: (side, subject) => ask('detail', side, subject),
  };
}
