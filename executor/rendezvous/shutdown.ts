// Ends connections without losing their last frame.

import type { Socket } from 'node:net';

/** Milliseconds that the last frame of a connection may take. */
const LAST_FRAME_MS = 1000;

/** Sends a last frame, ends the connection, and waits until the other side has ended it, for a bounded time. */
export function endSocket(socket: Socket, frame?: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    // Destroying at once could reset the connection and take the last frame from the reader.
    const timer = setTimeout(() => socket.destroy(), LAST_FRAME_MS);
    socket.on('error', () => {});
    socket.once('close', () => {
      clearTimeout(timer);
      resolve();
    });
    if (socket.destroyed) socket.emit('close');
    else if (frame === undefined) socket.end();
    else socket.end(frame);
  });
}
