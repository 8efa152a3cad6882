// A group of two ranks in one process that meets, works and parts again and again at one port. Every second session
// ends by a failure of which rank 0 learns. Prints a JSON line with what the process holds, every so many sessions.

import { readdirSync } from 'node:fs';
import { connect } from '../../../dist/executor/index.js';

const [port, sessions, every] = process.argv.slice(2).map(Number);
const settled = () => new Promise((resolve) => setTimeout(resolve, 50));

async function meet(shouldFail) {
  const options = { worldSize: 2, address: `127.0.0.1:${port}`, deadlineMs: 10_000, logger: () => {} };
  const [zero, one] = await Promise.all([0, 1].map((rank) => connect({ ...options, rank })));
  await Promise.all([zero.barrier(), one.barrier()]);
  if (shouldFail) {
    zero.announce(1, new Uint8Array(8));
    one.announce(2, new Uint8Array(8));
    const codes = await Promise.all(
      [zero, one].map((session) =>
        session.barrier().then(
          () => 'none',
          ({ code }) => code,
        ),
      ),
    );
    if (codes.some((code) => code !== 'E_PEER_MISMATCH')) throw new Error(`unexpected ${codes}`);
  }
  await Promise.all([zero.close(), one.close()]);
}

for (let i = 1; i <= sessions; i++) {
  await meet(i % 2 === 0);
  if (i % every !== 0) continue;
  await settled();
  globalThis.gc();
  const { rss, heapUsed } = process.memoryUsage();
  const handles = process.getActiveResourcesInfo().length;
  console.log(
    JSON.stringify({
      i,
      files: readdirSync('/proc/self/fd').length,
      rss,
      heapUsed,
      handles,
      listeners: process.listenerCount('beforeExit'),
    }),
  );
}
