import type { Command } from 'commander';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROW_BYTES, MAX_TOPK } from '../../planner/format/layout.ts';
import { benchCuda, type CudaBench } from '../bench/cuda.ts';
import { benchGpus, type GpusBench } from '../bench/gpus.ts';
import { benchHost, type HostBench } from '../bench/host.ts';
import { type Verdict, verdictLines } from '../bench/measure.ts';
import { benchNccl, type NcclBench } from '../bench/nccl.ts';
import { benchPlan, type PlanBench } from '../bench/plan.ts';
import { benchScale, type ScaleBench } from '../bench/scale.ts';
import { formatBytes, formatCount, formatGrid } from '../figures/format.ts';
import { withProgress } from '../terminal/progress.ts';
import { command, print, printJson } from './io.ts';
import { integer } from './options.ts';
import { writeFileAtomic } from './outputFile.ts';

function printVerdicts(verdicts: readonly Verdict[]): void {
  print(`\n${formatGrid([['goal', 'measured', 'asked', 'reached'], ...verdictLines(verdicts)])}`);
}

function ns(value: number | undefined): string {
  return value === undefined ? '-' : value.toFixed(2);
}

function printPlanBench({ hotPath, stages, verdicts }: PlanBench): void {
  print('counting sort of 262,144 ids, 256 experts: ns an entry, medians');
  const rows = hotPath.map((row) => [row.ids, row.wasm, row.cpp, row.cppSimple, row.javascript] as const);
  print(
    formatGrid([
      ['ids', 'Wasm', 'C++ unrolled', 'C++ simple', 'JavaScript'],
      ...rows.map(([name, ...values]) => [name, ...values.map(ns)]),
    ]),
  );
  for (const stage of stages) {
    const size = `${stage.ranks} ranks, ${formatCount(stage.entries)} entries`;
    const memory = `planner memory ${formatBytes(stage.plannerMemoryBytes)}`;
    print(`\n${stage.strategy} plan of ${size}: ns an entry, medians (${memory})`);
    const { read, plan, encode, hash, write, cppFloor, routeRank, planRank } = stage;
    print(
      formatGrid([
        [
          'read',
          'plan',
          'encode',
          'hash',
          'write',
          'C++ counting only',
          'routeRank',
          'planRank',
          'file B/entry',
        ],
        [read, plan, encode, hash, write, cppFloor, routeRank, planRank, stage.fileBytesPerEntry].map(ns),
      ]),
    );
  }
  printVerdicts(verdicts);
}

function printHostBench({
  options,
  kernels,
  ceiling,
  writeRate,
  dispatch,
  combine,
  verdicts,
}: HostBench): void {
  const { ranks, tokens, hidden, topk, experts, threads } = options;
  print(
    `${ranks} ranks x ${tokens} tokens, hidden ${hidden} bf16, top-${topk} of ${experts}, ${threads} threads`,
  );
  print(`best copy: ${ceiling.variant}, ${ceiling.rate.toFixed(1)} GB/s read + write; kernels: ${kernels}`);
  print(`streaming stores alone: ${writeRate.toFixed(1)} GB/s, which bounds dispatch\n`);
  const row = (name: string, stage: HostBench['dispatch']) => [
    name,
    stage.fused.toFixed(2),
    stage.unfused.toFixed(2),
    (stage.unfused / stage.fused).toFixed(2),
    stage.rate.toFixed(1),
    `${((100 * stage.rate) / ceiling.rate).toFixed(0)} %`,
  ];
  print(
    formatGrid([
      ['', 'fused ms', 'unfused ms', 'times', 'GB/s', 'of the copy'],
      row('dispatch', dispatch),
      row('combine', combine),
    ]),
  );
  printVerdicts(verdicts);
}

function planBenchCommand(): Command {
  return command('plan', 'Planning against C++ and JavaScript, and a plan stage by stage.')
    .option('--routing <routing>', 'as `fusco plan` takes it (default: 64 uniform ranks of 4096 tokens)')
    .option('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES), 256)
    .option('--rounds <n>', 'rounds of the stages; the hot path runs ten times as many', integer(1, 1000), 9)
    .option('--json', 'one JSON object')
    .action(async (options: { routing?: string; experts: number; rounds: number; json?: boolean }) => {
      const result = await benchPlan(options.routing, options.experts, options.rounds);
      if (options.json) printJson(result);
      else printPlanBench(result);
    });
}

function hostBenchCommand(): Command {
  return command(
    'host',
    'Dispatch and combine on this machine against the unfused pipeline and a plain copy.',
  )
    .option('--ranks <n>', 'ranks', integer(1, MAX_RANKS), 8)
    .option('--tokens <n>', 'tokens a rank', integer(1, 1 << 20), 512)
    .option('--hidden <n>', 'bf16 elements of a row', integer(1, MAX_ROW_BYTES / 2), 7168)
    .option('--topk <n>', 'experts a token', integer(1, MAX_TOPK), 8)
    .option('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES), 256)
    .option('--threads <n>', 'threads', integer(1, 1024), 2)
    .option('--rounds <n>', 'rounds', integer(1, 1000), 15)
    .option('--json', 'one JSON object')
    .action(async ({ json, ...options }) => {
      const result = await benchHost(options);
      if (json) printJson(result);
      else printHostBench(result);
    });
}

function printCudaBench({ device, options, workloads, rowWork, verdicts }: CudaBench): void {
  const { ranks, hidden, topk, experts } = options;
  print(
    `${device.name}; ${ranks} ranks on it, hidden ${hidden} bf16, top-${topk} of ${experts}; medians in ms`,
  );
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const ms = (value: number | undefined) => (value === undefined ? '-' : value.toFixed(3));
  for (const w of workloads) {
    print(`\n${w.name}: ${formatCount(w.tokens)} tokens; copy ${w.copy.rate.toFixed(0)} GB/s read + write`);
    const row = (name: string, stage: (typeof w)['dispatch'], unfused?: number) => [
      name,
      ms(stage.ms),
      ms(unfused),
      stage.rate.toFixed(0),
      percent(stage.share),
    ];
    print(
      formatGrid([
        ['', 'fused', 'unfused', 'GB/s', 'of the copy'],
        row('dispatch', w.dispatch, w.unfused?.dispatchMs),
        row('dispatch, planned order', w.dispatchPlanned),
        row('combine', w.combine, w.unfused?.combineMs),
        row('combine, unweighted', w.combineUnweighted),
      ]),
    );
    print(
      `replayed dispatch + combine ${ms(w.replayMs)}, forwarded once a rank ${ms(w.forwardMs)}, ` +
        `scaled ${ms(w.scaledMs)}, weight gradient ${ms(w.weightGradientMs)}; dispatch from an idle GPU ` +
        `${ms(w.idleDispatchMs.ownStreams)}, with one stream for all ranks ${ms(w.idleDispatchMs.oneStream)}`,
    );
    const e = w.endToEnd;
    print(
      `end to end ${ms(e.totalMs)}: ids to the host ${ms(e.idsToHostMs)}, plan ${ms(e.planMs)}, ` +
        `check and upload ${ms(e.uploadCallMs)}, dispatch call ${ms(e.dispatchCallMs)}, then ${ms(e.deviceMs)}; ` +
        `forward and backward on one plan ${ms(e.reusedStepMs)}`,
    );
  }
  print('\nfp8 and gating; the copy moves as many bytes, the host backend has all processors');
  print(
    formatGrid([
      ['', 'tokens', 'ms', 'copy', 'host', 'GB/s', 'of the copy'],
      ...rowWork.map((stage) => [
        stage.name,
        formatCount(stage.tokens),
        ms(stage.ms),
        ms(stage.copyMs),
        ms(stage.hostMs),
        stage.rate.toFixed(0),
        percent(stage.share),
      ]),
    ]),
  );
  printVerdicts(verdicts);
}

function cudaBenchCommand(): Command {
  return command(
    'cuda',
    'Dispatch, combine, fp8 and gating on one GPU against the unfused pipeline and a device copy.',
  )
    .option('--ranks <n>', 'ranks, all on one GPU', integer(1, 64), 8)
    .option('--hidden <n>', 'bf16 elements of a row, a multiple of 8', integer(8, MAX_ROW_BYTES / 2), 7168)
    .option('--topk <n>', 'experts a token', integer(1, MAX_TOPK), 8)
    .option('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES), 256)
    .option('--rounds <n>', 'rounds', integer(1, 1000), 15)
    .option('--routing <dir>', 'recorded routings to bench as well, each of them an .npy file')
    .option('--out <file>', 'write the figures as JSON, too')
    .option('--json', 'one JSON object')
    .action(async ({ json, out, ...options }) => {
      const result = await benchCuda(options);
      if (out !== undefined)
        await writeFileAtomic(out, [Buffer.from(`${JSON.stringify(result, null, 2)}\n`)]);
      if (json) printJson(result);
      else printCudaBench(result);
    });
}

function printNcclBench({
  nccl,
  device,
  devices,
  ranks,
  options,
  cases,
  unfused,
  verdicts,
}: NcclBench): void {
  const { tokens, hidden, topk, experts, oneGpu } = options;
  const where = oneGpu ? `all on one ${device}, over NCCL's sockets` : `on ${devices} x ${device}`;
  print(`${ranks} processes x ${tokens} tokens ${where}; hidden ${hidden} bf16, top-${topk} of ${experts}`);
  print(`NCCL ${nccl}; medians of the slowest rank\n`);
  const share = (value: number | undefined) => (value === undefined ? '-' : `${(100 * value).toFixed(0)} %`);
  print(
    formatGrid([
      [
        '',
        'dispatch ms',
        'combine ms',
        'wire MiB',
        'direct MiB',
        'bus GB/s',
        'packing hidden',
        'buffers MiB',
      ],
      ...cases.map((c) => [
        c.name,
        c.dispatchMs.toFixed(2),
        c.combineMs.toFixed(2),
        c.wireMiB.toFixed(1),
        c.directMiB.toFixed(1),
        c.busGBs.dispatch.toFixed(1),
        share(c.packingHidden?.dispatch),
        (c.bufferMiB.tables + c.bufferMiB.dispatch + c.bufferMiB.combine).toFixed(1),
      ]),
      ['unfused, all through NCCL', unfused.dispatchMs.toFixed(2), unfused.combineMs.toFixed(2)],
    ]),
  );
  printVerdicts(verdicts);
}

function ncclBenchCommand(): Command {
  return command(
    'nccl',
    'Exchanges between processes against the unfused pipeline: fusco launch -n 4 -- fusco bench nccl',
  )
    .option('--tokens <n>', 'tokens a rank', integer(1, 1 << 20), 4096)
    .option('--hidden <n>', 'bf16 elements of a row, a multiple of 8', integer(8, MAX_ROW_BYTES / 2), 7168)
    .option('--topk <n>', 'experts a token', integer(1, MAX_TOPK), 8)
    .option('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES), 256)
    .option('--rounds <n>', 'rounds', integer(1, 1000), 15)
    .option('--ranks-per-host <n>', 'ranks of a pretended host, for plans of nodes', integer(1, 60), 2)
    .option('--one-gpu', 'several ranks share a GPU')
    .option('--out <file>', 'write the figures as JSON, too')
    .option('--json', 'one JSON object')
    .action(async ({ json, out, oneGpu, ...options }) => {
      const result = await benchNccl({ ...options, oneGpu: oneGpu === true });
      if (result === undefined) return;
      if (out !== undefined)
        await writeFileAtomic(out, [Buffer.from(`${JSON.stringify(result, null, 2)}\n`)]);
      if (json) printJson(result);
      else printNcclBench(result);
    });
}

function printGpusBench({ device, gpus, options, workloads, enough, verdicts }: GpusBench): void {
  const { hidden, topk, experts } = options;
  print(`${gpus} x ${device}, a rank on each; hidden ${hidden} bf16, top-${topk} of ${experts}; medians`);
  for (const w of workloads) {
    const rates = `peer copy ${w.peerCopyGBs.toFixed(0)} GB/s out, ${w.peerReadGBs.toFixed(0)} in, local copy ${w.localCopyGBs.toFixed(0)} GB/s read + write`;
    print(`\n${w.name}: ${rates}`);
    const row = (name: string, stage: GpusBench['workloads'][number]['dispatch']) => [
      name,
      stage.ms.toFixed(3),
      stage.busGBs.toFixed(0),
      `${(100 * stage.share).toFixed(0)} %`,
    ];
    print(
      formatGrid([
        ['', 'ms', 'bus GB/s', 'of the peer copy'],
        row('dispatch', w.dispatch),
        row('dispatch, once a rank', w.oncePerRank),
        row('combine', w.combine),
      ]),
    );
    if (w.sweep.length === 0) continue;
    print(
      formatGrid([
        ['multiprocessors', 'dispatch ms', 'combine ms'],
        ...w.sweep.map((one) => [
          String(one.multiprocessors),
          one.dispatchMs.toFixed(3),
          one.combineMs.toFixed(3),
        ]),
      ]),
    );
  }
  print(`\n95 % of the best take ${enough.dispatch} multiprocessors (dispatch), ${enough.combine} (combine)`);
  printVerdicts(verdicts);
}

function gpusBenchCommand(): Command {
  const list = (text: string) => text.split(',').map(integer(1, 1 << 20));
  return command('gpus', 'Exchanges between the GPUs of one process, under the rate of a copy between them.')
    .option('--tokens <list>', 'tokens a GPU, separated by commas', list, [4096, 8192, 16384, 32768])
    .option('--hidden <n>', 'bf16 elements of a row, a multiple of 8', integer(8, MAX_ROW_BYTES / 2), 7168)
    .option('--topk <n>', 'experts a token', integer(1, MAX_TOPK), 8)
    .option('--experts <n>', 'logical experts', integer(1, MAX_INSTANCES), 256)
    .option('--rounds <n>', 'rounds', integer(1, 1000), 11)
    .option('--multiprocessors <list>', 'numbers to try', list, [4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 132])
    .option('--routing <dir>', 'recorded routings to bench as well, each of them an .npy file')
    .option('--out <file>', 'write the figures as JSON, too')
    .option('--json', 'one JSON object')
    .action(async ({ json, out, ...options }) => {
      const result = await benchGpus(options);
      if (out !== undefined)
        await writeFileAtomic(out, [Buffer.from(`${JSON.stringify(result, null, 2)}\n`)]);
      if (json) printJson(result);
      else printGpusBench(result);
    });
}

function printScaleBench({ rows, growth }: ScaleBench): void {
  const whole = (value: number) => value.toFixed(0);
  const tenths = (value: number) => value.toFixed(1);
  print('MiB, and ms; every case in a process of its own, one shard in memory at a time\n');
  print(
    formatGrid([
      [
        'strategy',
        'ranks',
        'experts',
        'tokens',
        'plan',
        'write',
        'verify',
        'routeRank',
        'planRank',
        'file MiB',
        'planner MiB',
        'start MiB',
        'peak plan',
        'peak verify',
      ],
      ...rows.map((row) => [
        row.strategy,
        formatCount(row.ranks),
        formatCount(row.experts),
        formatCount(row.tokens),
        whole(row.planMs),
        whole(row.writeMs),
        whole(row.verifyMs),
        tenths(row.routeRankMs),
        tenths(row.planRankMs),
        whole(row.fileMiB),
        tenths(row.plannerMiB),
        whole(row.startMiB),
        whole(row.peakPlanMiB),
        whole(row.peakMiB),
      ]),
    ]),
  );
  const lines = growth.map(({ what, of, strategy, exponent }) => [
    `${what}, ${strategy}`,
    `${of}^${exponent.toFixed(2)}`,
  ]);
  print(`\n${formatGrid([['what', 'grows like'], ...lines])}`);
}

function scaleBenchCommand(): Command {
  const list = (text: string) => text.split(',').map(integer(1, MAX_RANKS));
  return command(
    'scale',
    'Time and memory of planning and verifying shard by shard, against ranks and tokens.',
  )
    .option('--ranks <list>', 'numbers of ranks, separated by commas', list, [64, 256, 1024, 2048])
    .option('--tokens <n>', 'tokens a rank', integer(8, 1 << 20), 4096)
    .option('--topk <n>', 'experts a token', integer(1, MAX_TOPK), 8)
    .option('--experts <n>', 'logical experts (default: 256, or as many as ranks)', integer(1, MAX_INSTANCES))
    .option('--json', 'one JSON object')
    .action(
      async (options: {
        ranks: number[];
        tokens: number;
        topk: number;
        experts?: number;
        json?: boolean;
      }) => {
        const { ranks, tokens, topk, experts } = options;
        const result = await withProgress('measuring', (onCase) =>
          benchScale(ranks, tokens, topk, experts, onCase),
        );
        if (options.json) printJson(result);
        else printScaleBench(result);
      },
    );
}

export function benchCommand(): Command {
  return command('bench', 'Medians, with the baseline and the ceiling measured in the same run.')
    .addCommand(planBenchCommand())
    .addCommand(hostBenchCommand())
    .addCommand(cudaBenchCommand())
    .addCommand(gpusBenchCommand())
    .addCommand(ncclBenchCommand())
    .addCommand(scaleBenchCommand());
}
