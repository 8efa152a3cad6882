// Times of other threads and of native code on the clock of performance.now(), and times of the stages of a step.

import { LAYER_STAGES } from './layer.ts';

/** Readings of both clocks of which the closest count: a thread may lose its processor between two of them. */
const READINGS = 16;

/** Milliseconds from performance.now() to the steady clock, on which native code and process.hrtime measure. */
function measureOffset(): number {
  let offset = 0;
  let closest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < READINGS; i++) {
    const before = performance.now();
    const steady = Number(process.hrtime.bigint()) / 1e6;
    const after = performance.now();
    if (after - before >= closest) continue;
    closest = after - before;
    offset = steady - (before + after) / 2;
  }
  return offset;
}

const CLOCK_OFFSET = measureOffset();

/** Nanoseconds of the steady clock, which all threads share, in milliseconds of this thread's performance.now(). */
export function fromSteady(nanoseconds: number): number {
  return nanoseconds / 1e6 - CLOCK_OFFSET;
}

/** What a step of a training loop spends its time on; `experts` is the loop's own work on the rows. */
export const STEP_STAGES = ['gate', 'plan', 'prepare', ...LAYER_STAGES, 'experts', 'gateBackward'] as const;
export type StepStage = (typeof STEP_STAGES)[number];

/** Nanoseconds of every stage. */
export type StepTimes = Record<StepStage, number>;

function noTimes(): StepTimes {
  return Object.fromEntries(STEP_STAGES.map((stage) => [stage, 0])) as StepTimes;
}

/**
 * Adds up the nanoseconds of each stage of a step. Layers that are given one add their exchanges to it, each for as
 * long as the backend says; the rest is timed from outside, waiting included. One clock may serve all layers of a model.
 */
export class StepClock {
  #times = noTimes();

  /** Nanoseconds of each stage since the last call of take. */
  get times(): Readonly<StepTimes> {
    return this.#times;
  }

  /** The times of a step: those since the last call, which starts the next step. */
  take(): StepTimes {
    const times = this.#times;
    this.#times = noTimes();
    return times;
  }

  add(stage: StepStage, nanoseconds: number): void {
    this.#times[stage] += nanoseconds;
  }

  /** Runs some work and adds the time until it has settled, whether it succeeds or not. */
  async time<T>(stage: StepStage, work: () => T | Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await work();
    } finally {
      this.add(stage, Math.round((performance.now() - start) * 1e6));
    }
  }
}
