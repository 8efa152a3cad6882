// The package's `fusco/planner`: plans without a GPU, in Node and in a browser. Nothing here imports node:.

export {
  type ChunkedPlan,
  gatherChunked,
  planChunked,
  type RoutingSource,
} from './chunked.ts';
export { ERROR_HINTS, type ErrorCode, type ErrorDetails, FuscoError } from './errors.ts';
export { type Facts, gatherFacts, type RankFacts } from './facts.ts';
export { hex } from './format/bytes.ts';
export { type DecodedPlan, decodePlan, type OnDefect } from './format/decode.ts';
export { optionsDigest, planId } from './format/digest.ts';
export { type EncodedPlan, encodePlan, encodePlanChunks, type PlanChunks } from './format/encode.ts';
export { type Hashing, type RunningHash, type Sha256, subtleSha256 } from './format/hash.ts';
export { Shard } from './format/shard.ts';
export {
  makePlacement,
  PLACEMENT_RULES,
  type Placement,
  type PlacementMap,
  type PlacementRule,
  placementOf,
  weightGradientRanks,
} from './placement.ts';
export { isVerified, type Plan, type VerifiedPlan } from './plan.ts';
export { type GroupPlanner, Planner, type Progress } from './planner.ts';
export type { IdArray, RoutedRank, RoutingTable } from './routing.ts';
export {
  DTYPE_BYTES,
  type Dtype,
  nodeOf,
  type PartialDtype,
  type PlanOptions,
  type PlanSpec,
  type ReplicaRule,
  resolveOptions,
  rowBytes,
  type Strategy,
  type SumOrder,
} from './spec.ts';
export { type PlanSource, type VerifiedFile, verifyChunked } from './verify/chunked.ts';
export { verifyPlan } from './verify/verify.ts';
