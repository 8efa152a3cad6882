// Defects put here on purpose, so that tests can see that the fuzzer finds such ones. Never part of a run of CI's targets.

import type { Target } from './engine.ts';

/** Throws for inputs that start with FUZZ: 1 in 2^32 of random ones, but four steps where each step is noticed. */
function compareBytes(bytes: Uint8Array): void {
  if (bytes[0] !== 0x46) return;
  if (bytes[1] !== 0x55) return;
  if (bytes[2] !== 0x5a) return;
  if (bytes[3] !== 0x5a) return;
  throw new TypeError('the defect was reached');
}

function hang(bytes: Uint8Array): void {
  compareBytes(bytes.map((byte, i) => (i > 1 ? 0 : byte)));
  while (bytes[0] === 0x46);
}

function hoard(bytes: Uint8Array): void {
  const kept: string[][] = [];
  while (bytes[0] === 0x46) kept.push(new Array(1 << 16).fill('x'));
}

const target = (name: string, run: (bytes: Uint8Array) => void): Target => ({
  name,
  seeds: () => [new Uint8Array(8)],
  words: [],
  maxBytes: 16,
  run,
});

export const planted: readonly Target[] = [
  target('planted-throw', compareBytes),
  target('planted-hang', hang),
  target('planted-hoard', hoard),
];
