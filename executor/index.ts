// The package's main entrance: plan once, exchange many times.

export * from '../planner/index.ts';
export { loadPlanner, nodeSha256 } from '../planner/node.ts';
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
  BufferBytes,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  ExternalMemory,
  Fp8Call,
  GateBackwardCall,
  GateCall,
  Memory,
  Payload,
  PeerReport,
  WeightGradientCall,
  WireReport,
} from './backends/types.ts';
export { createGroup, Exchange, Group, type GroupOptions, type GroupPlanOptions } from './group.ts';
export type { FloatDtype } from './numeric.ts';
export type { LateRank, LateReport } from './rendezvous/report.ts';
export { timeoutError } from './rendezvous/report.ts';
export { type ConnectOptions, connect, Session } from './rendezvous/session.ts';
export { StepClock } from './training/clock.ts';
export {
  dequantizeRows,
  e4m3ToFloat,
  FP8_BLOCK,
  type Fp8Rows,
  floatToE4m3,
  quantizeRows,
  scaleBlocks,
} from './training/fp8.ts';
export {
  expFloat,
  type GateOptions,
  gateTokens,
  gateTokensBackward,
  resolveGate,
} from './training/gating.ts';
export {
  type ExpertBlocks,
  ExpertLayer,
  type LayerCombine,
  type LayerCombineBackward,
  type LayerDispatch,
  type LayerDispatchBackward,
  type LayerOptions,
  rowBlocks,
} from './training/layer.ts';
export { PlanAhead, type PlanAheadOptions, type PlannedAhead } from './training/planAhead.ts';
export {
  checkPlanId,
  type RecordedStep,
  type RecordedTable,
  Recorder,
  readRecordedTables,
  readRecording,
  replayStep,
} from './training/recorder.ts';
export {
  LAYER_STAGES,
  type LayerStage,
  STEP_STAGES,
  type StageTimes,
  type StepStage,
  type StepTimes,
} from './training/stages.ts';
