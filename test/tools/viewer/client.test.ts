// What the page is told when its worker dies: every call fails, those in flight and those that come later.

import { describe, expect, it } from 'vitest';
import { createClient } from '../../../tools/viewer/page/client.ts';
import type { Request, Response } from '../../../tools/viewer/protocol.ts';

/** The page's end of a worker, and what the worker was asked. */
function stubWorker() {
  const asked: Request[] = [];
  const worker = {
    onmessage: undefined as ((event: { data: Response }) => void) | undefined,
    onerror: undefined as (() => void) | undefined,
    onmessageerror: undefined as (() => void) | undefined,
    postMessage: (request: Request) => void asked.push(request),
  };
  return { asked, worker, calls: createClient(worker as unknown as Worker) };
}

const stopped = expect.objectContaining({
  code: 'E_INTERNAL',
  message: 'the worker of the page stopped',
  hint: 'Reload the page.',
});

describe.each(['onerror', 'onmessageerror'] as const)('a worker that dies (%s)', (event) => {
  it('fails the calls in flight', async () => {
    const { asked, worker, calls } = stubWorker();
    const first = calls.token('a', 0, 0);
    const second = calls.save('a');
    worker.onmessage!({ data: { id: asked[0]!.id, result: 'done' } as Response });
    expect(await first).toBe('done');
    worker[event]!();
    await expect(second).rejects.toEqual(stopped);
  });

  it('fails what is asked later, instead of waiting for ever', async () => {
    const { asked, worker, calls } = stubWorker();
    worker[event]!();
    await expect(calls.save('a')).rejects.toEqual(stopped);
    expect(asked).toEqual([]);
  });
});
