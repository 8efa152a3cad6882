// The package's main entry: plan once, exchange many times. `fusco/planner` has everything about plans, such as planning
// one shard at a time; `fusco/files` reads and writes plan and routing files.

// Plans
export { ERROR_HINTS, type ErrorCode, type ErrorDetails, FuscoError } from '../planner/errors.ts';
export { decodePlan } from '../planner/format/decode.ts';
export { planId } from '../planner/format/digest.ts';
export { encodePlan } from '../planner/format/encode.ts';
export { loadPlanner, nodeSha256 } from '../planner/node.ts';
export { makePlacement, type Placement, weightGradientRanks } from '../planner/placement.ts';
export { isVerified, type Plan, type VerifiedPlan } from '../planner/plan.ts';
export { Planner } from '../planner/planner.ts';
export type { IdArray, RoutingTable } from '../planner/routing.ts';
export { type Dtype, type PlanOptions, rowBytes } from '../planner/spec.ts';
export { verifyPlan } from '../planner/verify/verify.ts';
// Groups and exchanges
export {
  Cuda,
  type CudaDevice,
  CudaEvent,
  CudaGraph,
  cudaDevices,
  type DeviceBuffer,
  DevicePlan,
  openCuda,
} from './backends/cuda/context.ts';
export { type NcclOptions, ncclLibrary } from './backends/nccl/backend.ts';
export type {
  BackendName,
  CombineCall,
  CombineGradientCall,
  Coordinator,
  DispatchCall,
  ExchangeReport,
  Fp8Call,
  GateBackwardCall,
  GateCall,
  Memory,
  Payload,
  WeightGradientCall,
} from './backends/types.ts';
export { DeviceExchange, type DeviceRouting, type IdDtype } from './deviceExchange.ts';
export { createGroup, Exchange, Group, type GroupOptions, type GroupPlanOptions } from './group.ts';
export { fromBf16, toBf16 } from './numeric.ts';
export type { LateRank, LateReport } from './rendezvous/report.ts';
export { type ConnectOptions, connect, Session } from './rendezvous/session.ts';
// Training
export { StepClock } from './training/clock.ts';
export { scaleBlocks } from './training/fp8.ts';
export { expFloat, type GateOptions } from './training/gating.ts';
export { type ExpertBlocks, ExpertLayer, type LayerOptions, rowBlocks } from './training/layer.ts';
export { PlanAhead, type PlanAheadOptions, type PlannedAhead } from './training/planAhead.ts';
export { type RecordedStep, Recorder, readRecording, replayStep } from './training/recorder.ts';
export { STEP_STAGES, type StepStage, type StepTimes } from './training/stages.ts';
