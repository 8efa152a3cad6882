// The handshake of a new connection, in which both sides prove that they know the secret:
//
//   server                                            client
//     challenge {protocol, nonce}          ->
//                                          <-   hello {protocol, version, worldSize, rank, host, nonce, mac}
//     welcome {mac}, or refused {reason, text}  ->
//
// Both macs are HMAC-SHA256, keyed with the group's secret, over all of hello and both nonces; nobody can take either
// side without the secret, and a recorded handshake cannot be replayed. Without a secret the key is empty, and the macs
// only detect mistakes.

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { type Check, isMatch, isOneOf, isString, isTagged, isText, type Tagged } from '../fields.ts';
import { type Frame, FrameError } from './frames.ts';

/** Incremented when frames change. */
export const PROTOCOL = 2;

const NONCE_BYTES = 16;
const HEX_MAC = /^[0-9a-f]{64}$/;

/** What a client tells about itself. */
export interface Identity {
  readonly version: string;
  readonly worldSize: number;
  readonly rank: number;
  /** Name of the machine; ranks with equal names are local to each other. */
  readonly host: string;
}

/** Fits into 32 bits with its sign. */
const isInt32 = (value: unknown): value is number =>
  Number.isInteger(value) && Math.abs(value as number) < 2 ** 31;
/** So short that every frame of the handshake is far below MAX_HELLO_BYTES. */
const isShortText = isText(255);
const isNonce = isMatch(/^[0-9a-f]{32}$/);

/** `busy` is temporary: an older session still holds the port. Another version's rank 0 may have other reasons. */
type Reason = 'secret' | 'mismatch' | 'busy';

const HANDSHAKE = {
  challenge: { protocol: isInt32, nonce: isNonce },
  /** The ranges of its numbers are checked by findMismatch. */
  hello: {
    protocol: isInt32,
    version: isShortText,
    worldSize: isInt32,
    rank: isInt32,
    host: isShortText,
    nonce: isNonce,
    mac: isShortText,
  },
  welcome: { mac: isString },
  refused: { reason: isShortText as Check<Reason>, text: isShortText },
};
type Handshake = Tagged<'type', typeof HANDSHAKE>;
type MessageOf<Type> = Extract<Handshake, { type: Type }>;

export type Challenge = MessageOf<'challenge'>;
export type Hello = MessageOf<'hello'>;
export type Welcome = MessageOf<'welcome'>;
export type Refused = MessageOf<'refused'>;

const isHandshake = isTagged('type', HANDSHAKE);

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

/**
 * Whether a hello was made with this secret for this challenge. Takes the same time regardless of where the macs differ.
 */
export function isHelloAuthentic(hello: Hello, challenge: Challenge, secret: string): boolean {
  return equalMacs(hello.mac, macOf('client', secret, challenge, hello));
}

export function isWelcomeAuthentic(welcome: Welcome, challenge: Challenge, hello: Hello, secret: string) {
  return equalMacs(welcome.mac, macOf('server', secret, challenge, hello));
}

function parse<Type extends Handshake['type']>(
  { head }: Frame,
  types: readonly Type[],
  what: string,
): MessageOf<Type> {
  if (isHandshake(head) && isOneOf<unknown>(types)(head.type)) return head as unknown as MessageOf<Type>;
  throw new FrameError(`something other than ${what}`);
}

/** The frame as a hello. Throws FrameError for anything else; the ranges of its numbers are not checked here. */
export function parseHello(frame: Frame): Hello {
  if (frame.body.length > 0) throw new FrameError('something other than a hello');
  return parse(frame, ['hello'], 'a hello');
}

/** The frame as a challenge. Throws FrameError for anything else, so that a client detects a wrong port. */
export const parseChallenge = (frame: Frame): Challenge => parse(frame, ['challenge'], 'a challenge');

/** The frame as the server's answer to a hello. Throws FrameError for anything else. */
export const parseAnswer = (frame: Frame): Welcome | Refused =>
  parse(frame, ['welcome', 'refused'], 'an answer to a hello');

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
