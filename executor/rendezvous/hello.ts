// The handshake of a new connection, in which both sides prove that they know the secret:
//
//   server                                            client
//     challenge {protocol, nonce}          ->
//                                          <-   hello {protocol, version, worldSize, rank, host, nonce, mac}
//     welcome {mac}, or refused {reason, text}  ->
//
// Both macs are HMAC-SHA256, keyed with the group's secret, over all of hello and both nonces; without
// the secret nobody can take either side, and a recorded handshake cannot be replayed. Without a secret the key is empty,
// and the macs only detect mistakes.

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { type Frame, FrameError } from './frames.ts';

/** Incremented when frames change. */
export const PROTOCOL = 2;

const NONCE_BYTES = 16;
const HEX_NONCE = /^[0-9a-f]{32}$/;
const HEX_MAC = /^[0-9a-f]{64}$/;

/** What a client says about itself. */
export interface Identity {
  readonly version: string;
  readonly worldSize: number;
  readonly rank: number;
  /** Name of the machine; ranks with equal names are local to each other. */
  readonly host: string;
}

export interface Challenge {
  readonly type: 'challenge';
  readonly protocol: number;
  readonly nonce: string;
}

export interface Hello extends Identity {
  readonly type: 'hello';
  readonly protocol: number;
  readonly nonce: string;
  readonly mac: string;
}

export interface Welcome {
  readonly type: 'welcome';
  readonly mac: string;
}

/** `busy` is temporary: an older session still holds the port. */
export interface Refused {
  readonly type: 'refused';
  readonly reason: 'secret' | 'mismatch' | 'busy';
  readonly text: string;
}

export function makeChallenge(): Challenge {
  return { type: 'challenge', protocol: PROTOCOL, nonce: randomBytes(NONCE_BYTES).toString('hex') };
}

function macOf(side: 'client' | 'server', secret: string, challenge: Challenge, hello: Omit<Hello, 'mac'>) {
  const { protocol, version, worldSize, rank, host, nonce } = hello;
  const said = [side, challenge.nonce, protocol, version, worldSize, rank, host, nonce];
  return createHmac('sha256', secret).update(JSON.stringify(said)).digest('hex');
}

function equalMacs(a: string, b: string): boolean {
  return HEX_MAC.test(a) && timingSafeEqual(Buffer.from(a, 'hex'), Buffer.from(b, 'hex'));
}

export function makeHello(identity: Identity, challenge: Challenge, secret: string): Hello {
  const { version, worldSize, rank, host } = identity;
  const nonce = randomBytes(NONCE_BYTES).toString('hex');
  const said = { type: 'hello', protocol: PROTOCOL, version, worldSize, rank, host, nonce } as const;
  return { ...said, mac: macOf('client', secret, challenge, said) };
}

export function makeWelcome(challenge: Challenge, hello: Hello, secret: string): Welcome {
  return { type: 'welcome', mac: macOf('server', secret, challenge, hello) };
}

/** Whether a hello was made with this secret for this challenge. Takes the same time wherever the macs differ. */
export function isHelloAuthentic(hello: Hello, challenge: Challenge, secret: string): boolean {
  return equalMacs(hello.mac, macOf('client', secret, challenge, hello));
}

export function isWelcomeAuthentic(welcome: Welcome, challenge: Challenge, hello: Hello, secret: string) {
  return equalMacs(welcome.mac, macOf('server', secret, challenge, hello));
}

const isRankNumber = (value: unknown) => Number.isInteger(value) && Math.abs(value as number) < 2 ** 31;
/** So short that every frame of the handshake is far below MAX_HELLO_BYTES. */
const isShortText = (value: unknown) => typeof value === 'string' && value.length <= 255;

/** The frame as a hello. Throws FrameError for anything else; the ranges of its numbers are not checked here. */
export function parseHello({ head, body }: Frame): Hello {
  const { type, protocol, version, worldSize, rank, host, nonce, mac } = head;
  const sound =
    type === 'hello' &&
    body.length === 0 &&
    [protocol, worldSize, rank].every(isRankNumber) &&
    [version, host, nonce, mac].every(isShortText) &&
    HEX_NONCE.test(nonce as string);
  if (!sound) throw new FrameError('something other than a hello');
  return head as unknown as Hello;
}

/** The frame as a challenge. Throws FrameError for anything else, so that a client knows it is at the wrong port. */
export function parseChallenge({ head }: Frame): Challenge {
  const { type, protocol, nonce } = head;
  if (type === 'challenge' && isRankNumber(protocol) && typeof nonce === 'string' && HEX_NONCE.test(nonce)) {
    return head as unknown as Challenge;
  }
  throw new FrameError('something other than a challenge');
}

/** The frame as the server's answer to a hello. Throws FrameError for anything else. */
export function parseAnswer({ head }: Frame): Welcome | Refused {
  const { type, mac, reason, text } = head;
  if (type === 'welcome' && typeof mac === 'string') return head as unknown as Welcome;
  if (type === 'refused' && isShortText(reason) && isShortText(text)) return head as unknown as Refused;
  throw new FrameError('something other than an answer to a hello');
}

/** Why an authentic hello does not belong to the group; undefined if it does. */
export function findMismatch(hello: Hello, version: string, worldSize: number): string | undefined {
  const { rank } = hello;
  if (hello.version !== version) {
    return `rank ${rank} has version ${hello.version} of fusco, rank 0 has ${version}`;
  }
  if (hello.worldSize !== worldSize) {
    return `rank ${rank} expects ${hello.worldSize} ranks, rank 0 expects ${worldSize}`;
  }
  if (rank < 0 || rank >= worldSize) return `rank ${rank} is not in [0, ${worldSize})`;
  return undefined;
}
