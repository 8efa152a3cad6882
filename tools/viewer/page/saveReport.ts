// The report of a plan, made in the page: the file that `fusco inspect --html` writes.

import { FORMAT_MAJOR, FORMAT_MINOR } from '../../../planner/format/layout.ts';
import { reportPage } from '../../report/page.ts';
import { saveText } from '../../report/readout.ts';
import type { Planned } from '../protocol.ts';

async function textOf(name: string): Promise<string> {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response.text();
}

/** Saves a report as one HTML file. Throws what fetch throws. */
export async function saveReport(file: string, { planId, figures }: Planned): Promise<void> {
  const [style, script] = await Promise.all([textOf('style.css'), textOf('report.js')]);
  const version = [FORMAT_MAJOR, FORMAT_MINOR];
  const input = { file, planId, producer: 'the viewer', version, figures, problems: [] };
  saveText(`plan-${planId.slice(0, 12)}.html`, 'text/html', reportPage(input, { style, script }));
}
