// Everything that the native addon exports, typed here and, by subject, in types/. test/native/addon.test.ts reads these
// files and compares names and numbers of parameters with those that the addon reports.

import type { DeviceIds, Memory } from '../backends/types.ts';
import type { AuditLayout, NativeAudit } from './types/audit.ts';
import type {
  NativeCudaCapacity,
  NativeCudaContext,
  NativeCudaDevices,
  NativeCudaEvent,
  NativeCudaGraph,
  NativeCudaRows,
  NativeDevicePlan,
} from './types/cuda.ts';
import type { NativeBufferedPlan, NativeDevicePlanner, NativePlanLimits } from './types/devicePlanning.ts';
import type {
  NativeContext,
  NativeContextOptions,
  NativePlan,
  NativePlanDesc,
  NativeRows,
} from './types/host.ts';
import type { NativeNccl } from './types/nccl.ts';
import type { NativePlanFile, NativePlanner, NativePlannerOptions } from './types/planning.ts';

export type * from './types/audit.ts';
export type * from './types/cuda.ts';
export type * from './types/devicePlanning.ts';
export type * from './types/host.ts';
export type * from './types/nccl.ts';
export type * from './types/planning.ts';

export interface Addon extends NativeRows, NativeCudaRows, NativeNccl {
  readonly version: string;
  /**
   * Number of parameters of every method, null for properties: by class, and of the functions under `functions`. Made from
   * the one description of the methods in native/node/methods.cc.
   */
  readonly signatures: Readonly<Record<string, Readonly<Record<string, number | null>>>>;
  readonly Context: new (options: NativeContextOptions) => NativeContext;
  readonly Plan: new (context: NativeContext, desc: NativePlanDesc) => NativePlan;
  /** Of a path, or of the bytes of a file. */
  readonly PlanFile: new (
    file: string | Memory,
  ) => NativePlanFile;
  readonly Planner: new (options: NativePlannerOptions) => NativePlanner;
  readonly Audit: new (file: NativePlanFile, layout: AuditLayout) => NativeAudit;
  /** The known layouts by name. */
  auditLayouts(): Readonly<Record<string, AuditLayout>>;
  /** Names of the orders of addition that a combine is compared with. */
  auditOrders(): readonly string[];
  readonly CudaContext: new (ranks: number, devices: readonly number[] | undefined) => NativeCudaContext;
  readonly DevicePlan: new (
    context: NativeCudaContext,
    capacity: NativeCudaCapacity,
    desc: NativePlanDesc,
  ) => NativeDevicePlan;
  readonly DevicePlanner: new (
    context: NativeCudaContext,
    options: NativePlannerOptions,
    limits: NativePlanLimits,
  ) => NativeDevicePlanner;
  /** Plans `ids` into the plan buffers, one of each per rank; without ids: the buffers hold a plan already. */
  readonly BufferedPlan: new (
    planner: NativeDevicePlanner,
    buffers: readonly Memory[],
    ids: readonly DeviceIds[] | undefined,
  ) => NativeBufferedPlan;
  readonly CudaEvent: new (context: NativeCudaContext, rank: number) => NativeCudaEvent;
  /** Ends the context's capture. */
  readonly CudaGraph: new (
    context: NativeCudaContext,
  ) => NativeCudaGraph;
  cudaDevices(): NativeCudaDevices;
  /** Address of a buffer, for other libraries in this process; valid as long as the buffer is referenced. */
  addressOf(memory: Memory): bigint;
}
