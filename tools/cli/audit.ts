import type { Command } from 'commander';
import { auditOrders } from '../../executor/native/audit.ts';
import { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';
import { type AuditFiles, auditFiles } from '../audit/audit.ts';
import { readLayout } from '../audit/layoutFile.ts';
import {
  type AuditReport,
  auditJson,
  isRight,
  renderAuditGithub,
  renderAuditJunit,
  renderAuditMarkdown,
  renderAuditText,
} from '../audit/report.ts';
import type { RoutingFormat } from '../readers/anyRouting.ts';
import { withProgress } from '../terminal/progress.ts';
import { ComparisonFailed, command, Notices, print, printJson } from './io.ts';
import { choice, integer, needs } from './options.ts';
import { addSubjectOptions, type Subject, type SubjectArguments, subjectsOf } from './subject.ts';

const RENDERERS = {
  text: renderAuditText,
  markdown: renderAuditMarkdown,
  junit: renderAuditJunit,
  github: renderAuditGithub,
} as const;

interface AuditArguments extends Omit<SubjectArguments, 'format'>, AuditFiles {
  format: keyof typeof RENDERERS | 'json';
  routingFormat: RoutingFormat;
  layout: string;
  order?: string;
  list: number;
  json?: boolean;
}

/** The one plan of the file. */
async function subjectOf(path: string, args: AuditArguments, notices: Notices): Promise<Subject> {
  const planner = await loadPlanner();
  let only: Subject | undefined;
  const choice = { ...args, format: args.routingFormat };
  for await (const subject of subjectsOf(path, choice, planner, notices.add)) {
    if (only !== undefined) {
      throw new FuscoError('E_USAGE', 'the recording has several steps or layers, and an audit needs one', {
        path,
        hint: 'Select one with --step and --layer.',
      });
    }
    only = subject;
  }
  if (only === undefined) throw new FuscoError('E_USAGE', 'the file contains no routing', { path });
  if (only.isGuess) notices.add(`${only.plan.spec.experts} experts: the largest id plus one (--experts)`);
  return only;
}

function checkOrder(order: string | undefined): void {
  if (order === undefined) return;
  const known = auditOrders();
  if (known.includes(order)) return;
  throw new FuscoError('E_OPTION', `there is no order of addition ${order}`, {
    hint: `Give one of ${known.join(', ')}.`,
  });
}

async function audit(path: string, args: AuditArguments): Promise<void> {
  if (args.received === undefined && args.combined === undefined)
    throw new FuscoError('E_USAGE', 'give --received, --combined or both');
  const forCombine = (['weights', 'outputs', 'order'] as const).find((name) => args[name] !== undefined);
  if (args.combined === undefined && forCombine !== undefined)
    throw new FuscoError('E_USAGE', `--${forCombine} is only valid with --combined`);
  checkOrder(args.order);
  const notices = new Notices();
  const layout = await readLayout(args.layout);
  const { plan, planId } = await subjectOf(path, args, notices);
  const result = await withProgress('auditing', (progress) =>
    auditFiles(plan, layout, args, { order: args.order, room: args.list, progress }),
  );
  const report: AuditReport = { ...result, planId, layout: layout.name, order: args.order };
  if (args.json || args.format === 'json') printJson({ ...auditJson(report), ...notices.fields });
  else {
    print(RENDERERS[args.format](report));
    notices.say();
  }
  if (!isRight(report)) throw new ComparisonFailed();
}

export function auditCommand(): Command {
  const made = command(
    'audit',
    'Check what another library received and combined, and name the first wrong row.',
  )
    .argument('<plan|routing>', 'a plan file, or a routing, which is planned first')
    .option('--input <x>', 'the rows that were dispatched, of all ranks (required)')
    .option('--received <dir>', 'receive buffers: one array per rank, rank{r} or rank{r}.recv')
    .option('--combined <dir>', 'combined rows: one array per rank, rank{r} or rank{r}.combined')
    .option('--weights <w>', 'gate weights of the combine, f32 or f16 (default: not weighted)')
    .option('--outputs <dir>', 'rows that the experts returned, in the layout (default: their input)')
    .option('--previous <x>', 'rows that were dispatched in the step before, to recognize stale rows')
    .option('--layout <name|file>', 'where the library places rows (docs/audit.md)', 'fusco')
    .option('--order <name>', 'order of addition that must give the bits of combined rows (docs/audit.md)')
    .option('--list <n>', 'differences of a rank to list', integer(1, 1 << 20), 10)
    .addOption(
      choice('--format <format>', 'how to print it', ['text', 'json', 'markdown', 'junit', 'github']),
    )
    .option('--json', 'the same as --format json')
    .hook('preAction', needs('input'))
    .addHelpText('after', '\nExit 1 if a row is wrong.')
    .action(audit);
  return addSubjectOptions(made, '--routing-format <name>');
}
