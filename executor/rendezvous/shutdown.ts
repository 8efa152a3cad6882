import type { Socket } from 'node:net';

/** Milliseconds that the last words on a connection may take. */
const FAREWELL_MS = 1000;

/** Ends a connection with a last frame and waits until the other side has ended it too, for a bounded time. */
export function endSocket(socket: Socket, frame?: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    // Destroying at once could reset the connection and take the last frame from the reader.
    const timer = setTimeout(() => socket.destroy(), FAREWELL_MS);
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
