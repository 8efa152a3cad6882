// What any library's receive buffers and combined rows must hold, according to a plan: the tables of origins, the
// comparison and the error bounds of native/audit.

import { encodePlan } from '../../planner/format/encode.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { needAddon } from './addon.ts';
import { attempt } from './errors.ts';
import type { AuditLayout, NativeAudit } from './types.ts';

export type {
  AuditKind,
  AuditLayout,
  NativeAudit,
  NativeAuditInput,
  NativeAuditReport,
  NativeDifference,
} from './types.ts';

/** The known layouts by name. Throws E_BACKEND without the addon. */
export function auditLayouts(): Readonly<Record<string, AuditLayout>> {
  return needAddon('native audit').auditLayouts();
}

/** Names of the orders of addition that combined rows are compared with. Throws E_BACKEND without the addon. */
export function auditOrders(): readonly string[] {
  return needAddon('native audit').auditOrders();
}

/**
 * An audit of the exchanges of a plan. Close it after use; calls of its methods belong inside `attempt`.
 *
 * @throws FuscoError E_OPTION for a layout that contradicts itself, E_BACKEND without the addon
 */
export async function openAudit(plan: VerifiedPlan, layout: AuditLayout): Promise<NativeAudit> {
  const { Audit, PlanFile } = needAddon('native audit');
  const { bytes } = await encodePlan(plan, nodeSha256);
  return attempt(() => {
    const file = new PlanFile(bytes);
    try {
      return new Audit(file, layout);
    } finally {
      file.close();
    }
  });
}
