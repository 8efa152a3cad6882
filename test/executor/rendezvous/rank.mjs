// One rank as a process of its own: does what its arguments say, one after the other, and prints a JSON line for each.
//
//   connect            barrier [ms]         gather TEXT          agree WHAT TEXT     broadcast ROOT TEXT
//   enter CALL TEXT    await CALL TEXT [ms] late CALL            spin MS             sleep MS
//   close              exit                 hold, until it is ended
//
// Several in one argument list are separated by commas: `connect,barrier,enter 1 a`. Connecting takes its options from
// the environment.

import { connect } from '../../../dist/executor/index.js';

const text = (bytes) => new TextDecoder().decode(bytes);
const bytes = (value = '') => new TextEncoder().encode(value);
const print = (value) =>
  process.stdout.write(`${JSON.stringify({ at: Math.round(performance.now()), ...value })}\n`);
const describe = ({ code, message, details }) => ({ code, message, rank: details?.rank });

let session;
const milliseconds = (value) => (value === undefined ? undefined : Number(value));

const actions = {
  connect: async () => {
    const heartbeatMs = Number(process.env.TEST_HEARTBEAT_MS ?? 250);
    session = await connect({ heartbeatMs });
    session.onFailure((error) => print({ failure: describe(error) }));
    const { rank, worldSize, localRank, localWorldSize } = session;
    return { rank, worldSize, localRank, localWorldSize };
  },
  barrier: (ms) => session.barrier(milliseconds(ms)),
  gather: async (value) => (await session.allGather(bytes(value))).map(text),
  broadcast: async (root, value) => text(await session.broadcast(bytes(value), Number(root))),
  agree: (what, value) => session.agree(what, bytes(value)),
  enter: (call, value) => session.announce(Number(call), bytes(value)),
  await: (call, value, ms) => session.enter(Number(call), bytes(value), milliseconds(ms)),
  late: (call) => session.late(Number(call)),
  spin: (ms) => {
    print({ doing: 'spin' });
    const end = performance.now() + Number(ms);
    while (performance.now() < end);
  },
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, Number(ms))),
  hold: () => new Promise((resolve) => setTimeout(resolve, 60_000)),
  close: () => session.close(),
  exit: () => process.exit(0),
};

for (const line of process.argv.slice(2).join(' ').split(',')) {
  const [name, ...args] = line.trim().split(' ');
  if (name === 'hold') print({ doing: 'hold' });
  try {
    print({ did: line.trim(), value: await actions[name](...args) });
  } catch (error) {
    print({ did: line.trim(), error: describe(error) });
  }
}
