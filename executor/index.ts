// The package's main entrance: plan once, exchange many times.

export * from '../planner/index.ts';
export { loadPlanner, nodeSha256 } from '../planner/node.ts';
export type {
  BackendName,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  ExternalMemory,
  Memory,
  Payload,
  WeightGradientCall,
} from './backend.ts';
export { createGroup, Exchange, Group, type GroupOptions, type GroupPlanOptions } from './group.ts';
