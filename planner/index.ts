// The package's `fusco/planner`: plans without a GPU, in Node and in a browser. Nothing here imports node:.

export { hex } from './bytes.ts';
export {
  type DecodedPlan,
  decodePlan,
  type EncodedPlan,
  encodePlan,
  encodePlanChunks,
  optionsDigest,
  type PlanChunks,
  planId,
  type Report,
} from './codec.ts';
export { ERROR_HINTS, type ErrorCode, type ErrorDetails, FuscoError } from './errors.ts';
export { type Facts, gatherFacts, type RankFacts } from './facts.ts';
export { type Hashing, type RunningHash, type Sha256, subtleSha256 } from './hash.ts';
export { makePlacement, type Placement, type PlacementMap } from './placement.ts';
export { isVerified, type Plan, type VerifiedPlan } from './plan.ts';
export { type GroupPlanner, Planner } from './planner.ts';
export type { IdArray, RoutedRank, RoutingTable } from './routing.ts';
export { Shard } from './shard.ts';
export {
  DTYPE_BYTES,
  type Dtype,
  nodeOf,
  type PartialDtype,
  type PlanOptions,
  type PlanSpec,
  resolveOptions,
  type Strategy,
} from './spec.ts';
export {
  gatherStreamed,
  type OnStep,
  planStreamed,
  type RoutingSource,
  type StreamedPlan,
} from './stream.ts';
export { verifyPlan } from './verify.ts';
export { type PlanSource, type VerifiedFile, verifyStreamed } from './verifyStream.ts';
