// Times of the stages of a training step.

import { noTimes, STEP_STAGES, type StepStage, type StepTimes } from './stages.ts';

/**
 * Adds up the nanoseconds of each stage of a step. Layers that are given a clock add the times of their exchanges as
 * measured by the backend. Other stages are timed with `time`, including waiting. One clock may serve all layers of a
 * model.
 */
export class StepClock {
  #times: StepTimes = noTimes(STEP_STAGES);

  /** Nanoseconds of each stage since the last call of take. */
  get times(): Readonly<StepTimes> {
    return this.#times;
  }

  /** The times of a step: all times since the last call of take. Starts the next step. */
  take(): StepTimes {
    const times = this.#times;
    this.#times = noTimes(STEP_STAGES);
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
