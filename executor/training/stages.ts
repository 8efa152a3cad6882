// The stages of a training step whose times are added up.

/** Stages that an ExpertLayer runs. */
export const LAYER_STAGES = [
  'dispatch',
  'combine',
  'combineBackward',
  'weightGradient',
  'dispatchBackward',
] as const;
export type LayerStage = (typeof LAYER_STAGES)[number];

/** Stages of a whole training step; `experts` is the loop's own work on the rows. */
export const STEP_STAGES = ['gate', 'plan', 'prepare', ...LAYER_STAGES, 'experts', 'gateBackward'] as const;
export type StepStage = (typeof STEP_STAGES)[number];

/** Nanoseconds of every stage, as the backend measured them. */
export type StageTimes = Record<LayerStage, number>;

/** Nanoseconds of every stage of a training step. */
export type StepTimes = Record<StepStage, number>;

/** Zero for each of the given stages. */
export function noTimes<Stage extends string>(stages: readonly Stage[]): Record<Stage, number> {
  return Object.fromEntries(stages.map((stage) => [stage, 0])) as Record<Stage, number>;
}
