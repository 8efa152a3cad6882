// The report as text: what is in it, and that nothing from a file becomes markup.

import { beforeAll, describe, expect, it } from 'vitest';
import { FuscoError } from '../../../planner/errors.ts';
import { decodePlan } from '../../../planner/format/decode.ts';
import { encodePlan } from '../../../planner/format/encode.ts';
import { loadPlanner, nodeSha256 } from '../../../planner/node.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import { verifyPlan } from '../../../planner/verify/verify.ts';
import { figuresOf } from '../../../tools/figures/planFigures.ts';
import { html, Markup } from '../../../tools/report/markup.ts';
import { type ReportInput, reportPage } from '../../../tools/report/page.ts';
import { SAMPLE_NAMES, samplePlan } from '../../support/samplePlans.ts';
import { randomFrom } from '../../support/workloads.ts';

let plan: VerifiedPlan;
beforeAll(async () => {
  plan = samplePlan(await loadPlanner(), 'hier');
});

function input(changes: Partial<ReportInput> = {}): ReportInput {
  return {
    file: 'a.fusco',
    planId: '0123456789abcdef'.repeat(4),
    producer: 'fusco test',
    version: [1, 0],
    figures: figuresOf(plan, true),
    problems: [],
    ...changes,
  };
}

const ASSETS = { style: 'body{}', script: 'void 0' };

describe('html', () => {
  it('escapes what is put in, and leaves markup alone', () => {
    const inner = html`<b>${'<&>"\''}</b>`;
    expect(inner.text).toBe('<b>&lt;&amp;&gt;&quot;&#39;</b>');
    expect(html`${inner}${[inner, new Markup('<i>')]}${7}`.text).toBe(`${inner.text}${inner.text}<i>7`);
  });
});

describe('reportPage', () => {
  it('escapes names of files and producers', () => {
    const page = reportPage(input({ file: '<script>alert(1)</script>', producer: '"><img src=x>' }), ASSETS);
    expect(page).not.toContain('<script>alert');
    expect(page).not.toContain('<img');
    expect(page).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
  });

  it('loads nothing', () => {
    const page = reportPage(input(), ASSETS);
    expect(page).toContain('default-src &#39;none&#39;');
    expect(page).not.toMatch(/\b(src|href)="(?!#)/);
    expect(page).not.toContain('url(');
  });

  it('shows any damaged plan that can be decoded, whatever its tables say', async () => {
    const planner = await loadPlanner();
    const random = randomFrom(3);
    let broken = 0;
    for (let i = 0; i < 1200; i++) {
      const { bytes } = await encodePlan(
        samplePlan(planner, SAMPLE_NAMES[i % SAMPLE_NAMES.length]!),
        nodeSha256,
      );
      // Behind the header, so that most of them are decoded.
      for (let n = 0; n < 3; n++) {
        bytes[Math.floor(bytes.length * (0.15 + 0.85 * random()))] = Math.floor(random() * 256);
      }
      const problems: FuscoError[] = [];
      const report = (error: FuscoError) => void problems.push(error);
      try {
        const decoded = await decodePlan(bytes, nodeSha256, report);
        verifyPlan(decoded.plan, report);
        const figures = figuresOf(decoded.plan, problems.length === 0);
        expect(reportPage(input({ figures, problems }), ASSETS)).toContain('</html>');
        if (problems.length > 0) broken++;
      } catch (error) {
        // Only decoding may refuse, with a code; a figure that cannot be drawn would be a TypeError or a RangeError.
        expect(error).toBeInstanceOf(FuscoError);
      }
    }
    expect(broken).toBeGreaterThan(100);
  });

  it('shows a broken plan as far as it goes, with what verification found', () => {
    const problems = [new FuscoError('E_SEGMENT_BOUNDS', 'row 9 >= 9', { path: '/ranks/3/send/17' })];
    const page = reportPage(input({ figures: figuresOf(plan, false), problems }), ASSETS);
    expect(page).toContain('verification found 1 defect.');
    expect(page).toContain('<code>E_SEGMENT_BOUNDS</code> /ranks/3/send/17: row 9 &gt;= 9');
    expect(page).toContain('did not pass verification');
    expect(page).toContain('Traffic between ranks');
    expect(page).not.toContain('class="verdict good"');
  });
});
