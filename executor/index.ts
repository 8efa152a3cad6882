// The package's main entrance: plan once, exchange many times.

export * from '../planner/index.ts';
export { loadPlanner, nodeSha256 } from '../planner/node.ts';
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
} from './backend.ts';
export { STEP_STAGES, StepClock, type StepStage, type StepTimes } from './clock.ts';
export {
  Cuda,
  type CudaDevice,
  CudaEvent,
  CudaGraph,
  CudaSlot,
  cudaDevices,
  type DeviceBuffer,
  openCuda,
} from './cuda.ts';
export {
  dequantizeRows,
  e4m3ToFloat,
  FP8_BLOCK,
  type Fp8Rows,
  floatToE4m3,
  quantizeRows,
  scaleBlocks,
} from './fp8.ts';
export { expFloat, type GateOptions, gateTokens, gateTokensBackward, resolveGate } from './gating.ts';
export { createGroup, Exchange, Group, type GroupOptions, type GroupPlanOptions } from './group.ts';
export {
  type ExpertBlocks,
  ExpertLayer,
  LAYER_STAGES,
  type LayerCombine,
  type LayerCombineBackward,
  type LayerDispatch,
  type LayerDispatchBackward,
  type LayerOptions,
  type LayerStage,
  rowBlocks,
  type StageTimes,
} from './layer.ts';
export { type NcclOptions, ncclLibrary } from './nccl/backend.ts';
export type { FloatDtype } from './numeric.ts';
export { PlanAhead, type PlanAheadOptions, type PlannedAhead } from './planAhead.ts';
export {
  checkPlanId,
  type RecordedStep,
  type RecordedTable,
  Recorder,
  readRecordedTables,
  readRecording,
  replayStep,
} from './recorder.ts';
export type { LateRank, LateReport } from './rendezvous/report.ts';
export { timeoutError } from './rendezvous/report.ts';
export { type ConnectOptions, connect, Session } from './rendezvous/session.ts';
