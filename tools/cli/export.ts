import type { Command } from 'commander';
import { SLOT_MASKED } from '../../planner/format/layout.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { encodeNpy } from '../readers/npy.ts';
import { readVerifiedPlan } from '../readers/planFile.ts';
import { OutputDirectory } from '../writers/outputFile.ts';
import { command, printJson, say } from './io.ts';
import { needs } from './options.ts';

/** Destination rank of every entry; -1 if masked. */
function destinationRanks(plan: VerifiedPlan, rank: number): Int32Array {
  const { entryInstance, entrySlot } = plan.shards[rank]!;
  const { instanceRank } = plan.spec.placement;
  return Int32Array.from(entryInstance, (instance, entry) =>
    entrySlot[entry] === SLOT_MASKED ? -1 : instanceRank[instance]!,
  );
}

async function exportPlan(file: string, options: { out: string; json?: boolean }): Promise<void> {
  const { plan, planId } = await readVerifiedPlan(file);
  const out = await OutputDirectory.create(options.out);
  const { topk } = plan.spec;
  for (const shard of plan.shards) {
    const name = `rank${shard.rank}`;
    const shape = [shard.tokens, topk];
    await out.write(`${name}.dst_rank.npy`, encodeNpy('i32', shape, destinationRanks(plan, shard.rank)));
    await out.write(`${name}.dst_row.npy`, encodeNpy('i32', shape, shard.entrySlot));
    const counts = Int32Array.from(shard.expertRows);
    await out.write(`${name}.expert_counts.npy`, encodeNpy('i32', [counts.length], counts));
    const offsets = Int32Array.from(shard.expertOffset);
    await out.write(`${name}.expert_offsets.npy`, encodeNpy('i32', [offsets.length], offsets));
  }
  if (options.json) printJson({ planId, out: options.out, ranks: plan.spec.ranks });
  else say(`${4 * plan.spec.ranks} arrays -> ${options.out}`);
}

export function exportCommand(): Command {
  return command('export', 'Write destinations, expert counts and offsets as one set of .npy files per rank.')
    .argument('<file>', 'a plan file')
    .option('--out <dir>', 'output directory; created if it does not exist (required)')
    .option('--json', 'print one JSON object')
    .hook('preAction', needs('out'))
    .action(exportPlan);
}
