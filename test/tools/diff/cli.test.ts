// `fusco diff` as scripts see it: what it prints in every format, and its exit codes. One token of four changes its
// expert, which can be worked out by hand.

import { beforeEach, describe, expect, it } from 'vitest';
import { expectRefusal, fusco, save, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';

useTemporaryDirectory();

let ids: [string, string];

beforeEach(async () => {
  const planned = async (file: string, routing: number[][][]) => {
    saveRouting('r.npy', routing);
    const args = [
      'plan',
      'r.npy',
      '-o',
      file,
      '--experts',
      '4',
      '--hidden',
      '512',
      '--ranks-per-node',
      '1',
      '--json',
    ];
    const { code, stdout } = await fusco(...args);
    expect(code).toBe(0);
    return JSON.parse(stdout).planId as string;
  };
  ids = [
    await planned('a.fusco', [
      [[0], [0]],
      [[1], [2]],
    ]),
    await planned('b.fusco', [
      [[3], [0]],
      [[1], [2]],
    ]),
  ];
});

const heads = () => ids.map((id) => id.slice(0, 12)).join(' -> ');

describe('fusco diff', () => {
  it('text: the level, the figures, the changes by size, and which token moved and why', async () => {
    const { code, stdout, stderr } = await fusco('diff', 'a.fusco', 'b.fusco');
    expect([code, stderr]).toEqual([1, '']);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.slice(0, 2)).toEqual([
      expect.stringMatching(
        /^1 choice changed \(rank 0 token 0: expert 0 -> 3\); imbalance 1\.500 -> 1\.000 \(-33\.3 %\); predicted \d+ us -> \d+ us \(\+0\.0 %\): as fast as before$/,
      ),
      `the result changed  ${heads()}; times are a model's, for h100-nvl8`,
    ]);
    expect(lines.slice(2)).toMatchInlineSnapshot(`
      [
        "  3 entries moved: 1 id, 2 shift",
        "  rank 0 token 0 k 0: expert 0 on rank 0, row 0 -> expert 3 on rank 1, row 1 (id)",
        "  busiestRecvRows 3 -> 2 (-33.3 %)",
        "  intraNodeBytes 1.00 KiB -> 2.00 KiB (+100 %)",
        "  imbalance 1.500 -> 1.000 (-33.3 %)",
        "  expertImbalance 2.000 -> 1.000 (-50.0 %)",
        "  segments 3 -> 4 (+33.3 %)",
        "  slices 3 -> 4 (+33.3 %)",
        "  rows received by rank 0: 3 -> 2 (-1)",
        "  rows received by rank 1: 1 -> 2 (+1)",
        "  rows of expert 0: 2 -> 1 (-1)",
        "  rows of expert 3: 0 -> 1 (+1)",
        "  link r0 -> r1 inside a node: 0 B -> 1.00 KiB (+1.00 KiB)",
      ]
    `);
  });

  it('json: every figure with its unit, and the level', async () => {
    const { code, stdout } = await fusco('diff', 'a.fusco', 'b.fusco', '--format', 'json');
    expect(code).toBe(1);
    const found = JSON.parse(stdout);
    expect(found).toEqual(JSON.parse((await fusco('diff', 'a.fusco', 'b.fusco', '--json')).stdout));
    expect([found.from, found.to]).toEqual(ids);
    expect({ ...found, from: 'FROM', to: 'TO' }).toMatchInlineSnapshot(`
      {
        "causes": {
          "absent": 0,
          "alignment": 0,
          "capacity": 0,
          "id": 1,
          "placement": 0,
          "shift": 2,
        },
        "changed": true,
        "experts": [
          {
            "from": 2,
            "index": 0,
            "to": 1,
          },
          {
            "from": 0,
            "index": 3,
            "to": 1,
          },
        ],
        "formatVersion": 1,
        "from": "FROM",
        "headline": "1 choice changed (rank 0 token 0: expert 0 -> 3); imbalance 1.500 -> 1.000 (-33.3 %); predicted 134 us -> 134 us (+0.0 %): as fast as before",
        "level": "result",
        "links": [
          {
            "between": "ranks",
            "from": 0,
            "receiver": 1,
            "sender": 0,
            "to": 1024,
          },
        ],
        "machine": "h100-nvl8",
        "metadata": [],
        "metrics": [
          {
            "change": 0,
            "from": 133.80654613684823,
            "name": "predicted",
            "to": 133.80654613684823,
            "unit": "us",
          },
          {
            "change": 0,
            "from": 4,
            "name": "tokens",
            "to": 4,
            "unit": "tokens",
          },
          {
            "change": 0,
            "from": 4,
            "name": "rows",
            "to": 4,
            "unit": "rows",
          },
          {
            "change": 0,
            "from": 0,
            "name": "maskedEntries",
            "to": 0,
            "unit": "entries",
          },
          {
            "change": 0,
            "from": 0,
            "name": "droppedEntries",
            "to": 0,
            "unit": "entries",
          },
          {
            "change": 0,
            "from": 0,
            "name": "paddingRows",
            "to": 0,
            "unit": "rows",
          },
          {
            "change": -0.3333333333333333,
            "from": 3,
            "name": "busiestRecvRows",
            "to": 2,
            "unit": "rows",
          },
          {
            "change": 0,
            "from": 0,
            "name": "busiestNicBytes",
            "to": 0,
            "unit": "bytes",
          },
          {
            "change": 0,
            "from": 1024,
            "name": "busiestNvlinkBytes",
            "to": 1024,
            "unit": "bytes",
          },
          {
            "change": 0,
            "from": 0,
            "name": "interNodeBytes",
            "to": 0,
            "unit": "bytes",
          },
          {
            "change": 1,
            "from": 1024,
            "name": "intraNodeBytes",
            "to": 2048,
            "unit": "bytes",
          },
          {
            "change": -0.3333333333333333,
            "from": 1.5,
            "name": "imbalance",
            "to": 1,
            "unit": "ratio",
          },
          {
            "change": -0.5,
            "from": 2,
            "name": "expertImbalance",
            "to": 1,
            "unit": "ratio",
          },
          {
            "change": 0,
            "from": 1,
            "name": "copiesPerToken",
            "to": 1,
            "unit": "ratio",
          },
          {
            "change": 0.3333333333333333,
            "from": 3,
            "name": "segments",
            "to": 4,
            "unit": "descriptors",
          },
          {
            "change": 0.3333333333333333,
            "from": 3,
            "name": "slices",
            "to": 4,
            "unit": "descriptors",
          },
          {
            "change": 0,
            "from": 0,
            "name": "forwardedRows",
            "to": 0,
            "unit": "rows",
          },
          {
            "change": 0,
            "from": 0,
            "name": "stagedRows",
            "to": 0,
            "unit": "rows",
          },
        ],
        "movedEntries": 3,
        "moves": [
          {
            "from": "expert 0 on rank 0, row 0",
            "k": 0,
            "rank": 0,
            "to": "expert 3 on rank 1, row 1",
            "token": 0,
            "why": "id",
          },
          {
            "from": "expert 0 on rank 0, row 1",
            "k": 0,
            "rank": 0,
            "to": "expert 0 on rank 0, row 0",
            "token": 1,
            "why": "shift",
          },
          {
            "from": "expert 1 on rank 0, row 2",
            "k": 0,
            "rank": 1,
            "to": "expert 1 on rank 0, row 1",
            "token": 0,
            "why": "shift",
          },
        ],
        "options": [],
        "placement": [],
        "ranks": {
          "keptRows": [],
          "nicBytes": [],
          "recvRows": [
            {
              "from": 3,
              "index": 0,
              "to": 2,
            },
            {
              "from": 1,
              "index": 1,
              "to": 2,
            },
          ],
          "tokens": [],
        },
        "to": "TO",
      }
    `);
  });

  it('markdown: a table of figures and a list of changes', async () => {
    const { code, stdout } = await fusco('diff', 'a.fusco', 'b.fusco', '--format', 'markdown');
    expect(code).toBe(1);
    expect(
      stdout.replaceAll(ids[0].slice(0, 12), 'FROM').replaceAll(ids[1].slice(0, 12), 'TO'),
    ).toMatchInlineSnapshot(`
      "### ⚪ fusco: 1 choice changed (rank 0 token 0: expert 0 -> 3); imbalance 1.500 -> 1.000 (-33.3 %); predicted 134 us -> 134 us (+0.0 %): as fast as before

      the result changed  FROM -> TO; times are a model's, for h100-nvl8

      - 3 entries moved: 1 id, 2 shift
      - rank 0 token 0 k 0: expert 0 on rank 0, row 0 -> expert 3 on rank 1, row 1 (id)

      | figure | before | after | change |
      | --- | ---: | ---: | ---: |
      | largest receive buffer, padding included | 3 | 2 | -33.3 % |
      | bytes between ranks of one node, all ranks | 1.00 KiB | 2.00 KiB | +100 % |
      | real rows of the busiest rank divided by the mean | 1.500 | 1.000 | -33.3 % |
      | rows of the busiest expert instance divided by the mean | 2.000 | 1.000 | -50.0 % |
      | sequences of rows sent directly, contiguous on both sides | 3 | 4 | +33.3 % |
      | slices of the send orders of rows sent directly | 3 | 4 | +33.3 % |

      <details><summary>Ranks, experts and links</summary>

      - rows received by rank 0: 3 -> 2 (-1)
      - rows received by rank 1: 1 -> 2 (+1)
      - rows of expert 0: 2 -> 1 (-1)
      - rows of expert 3: 0 -> 1 (+1)
      - link r0 -> r1 inside a node: 0 B -> 1.00 KiB (+1.00 KiB)

      </details>
      "
    `);
  });

  it('junit: a test case per limit, escaped', async () => {
    const limits = 'imbalance>+2%,intraNodeBytes>+2%';
    const { code, stdout } = await fusco(
      'diff',
      'a.fusco',
      'b.fusco',
      '--format',
      'junit',
      '--fail-on',
      limits,
    );
    expect(code).toBe(1);
    expect(stdout).toContain('<testsuite name="fusco diff" tests="2" failures="1" errors="0" skipped="0">');
    expect(stdout).toContain('<testcase classname="fusco.diff" name="imbalance&gt;+2%"/>');
    expect(stdout).toContain(
      '<testcase classname="fusco.diff" name="intraNodeBytes&gt;+2%">\n      <failure message="intraNodeBytes 1.00 KiB -&gt; 2.00 KiB (+100 %), limit +2 %">1 choice changed',
    );
    // Every angle bracket belongs to a tag.
    expect(stdout.replace(/<\/?[a-z]+( [a-z]+="[^"<>]*")*\/?>|<\?xml [^<>]*\?>/g, '')).not.toMatch(/[<>]/);
    const same = await fusco('diff', 'a.fusco', 'a.fusco', '--format', 'junit');
    expect(same).toMatchObject({ code: 0, stderr: '' });
    expect(same.stdout).toContain('<testcase classname="fusco.diff" name="plan is unchanged"/>');
  });

  it('github: one workflow command on one line', async () => {
    const failed = await fusco('diff', 'a.fusco', 'b.fusco', '--format', 'github');
    expect(failed.stdout).toMatch(
      /^::error title=fusco%3A the result changed::1 choice changed [^\n]*-33\.3 %25[^\n]*\n$/,
    );
    const passed = await fusco('diff', 'a.fusco', 'b.fusco', '--format', 'github', '--fail-on', 'rows>+0');
    expect(passed.code).toBe(0);
    expect(passed.stdout).toMatch(/^::notice title=/);
  });

  it('an expert that moved is told with its ranks and rows, whatever the map looks like', async () => {
    saveRouting('r.npy', [
      [[0], [0]],
      [[1], [2]],
    ]);
    save('moved.json', '[1, 0, 1, 1]');
    const more = ['--experts', '4', '--placement', 'moved.json', '--ranks-per-node', '1', '--hidden', '512'];
    await fusco('plan', 'r.npy', '-o', 'moved.fusco', ...more);
    const { stdout } = await fusco('diff', 'a.fusco', 'moved.fusco');
    expect(stdout).toMatch(
      /^expert 0: rank 0 -> rank 1, 2 rows; busiest NVLink 1\.00 KiB -> 2\.00 KiB \(\+100 %\); predicted /,
    );
    expect(stdout).toContain('\n  expert 0: rank 0 -> rank 1 (2 rows)\n');
    expect(stdout).not.toMatch(/option placement|\(shift\)/);
  });

  it('another strategy is told by its name, without what only follows from it', async () => {
    const plan = ['plan', 'r.npy', '--experts', '4', '--hidden', '512'];
    await fusco(...plan, '-o', 'flat.fusco');
    await fusco(...plan, '--strategy', 'hier', '--ranks-per-node', '1', '-o', 'once.fusco');
    const { stdout } = await fusco('diff', 'flat.fusco', 'once.fusco');
    expect(stdout).toMatch(/^strategy flat -> once per rank; load and traffic unchanged; predicted /);
    expect(stdout).not.toMatch(/balance|partial|ranksPerNode/);
  });

  it('--fail-on none never fails; a limit that nothing can break is refused', async () => {
    expect((await fusco('diff', 'a.fusco', 'b.fusco', '--fail-on', 'none')).code).toBe(0);
    expectRefusal(
      await fusco('diff', 'a.fusco', 'b.fusco', '--fail-on', 'droppedEntries>0'),
      'E_USAGE',
      /neither plan has a capacity/,
    );
  });

  it('--fail-on decides the exit code, whatever else changed', async () => {
    const within = await fusco('diff', 'a.fusco', 'b.fusco', '--fail-on', 'imbalance>+2%,rows<-0');
    expect([within.code, within.stdout.split('\n')[2]]).toEqual([0, 'within imbalance>+2%, rows<-0']);
    const beyond = await fusco('diff', 'a.fusco', 'b.fusco', '--fail-on', 'level>=movement');
    expect([beyond.code, beyond.stdout.split('\n')[2]]).toEqual([
      1,
      'beyond level>=movement: level is result, limit movement',
    ]);
    const json = await fusco(
      'diff',
      'a.fusco',
      'b.fusco',
      '--json',
      '--fail-on',
      'intraNodeBytes>+1KiB,rows>+0',
    );
    expect(json.code).toBe(0);
    expect(JSON.parse(json.stdout)).toMatchObject({
      changed: true,
      failOn: ['intraNodeBytes>+1KiB', 'rows>+0'],
      broken: [],
      failed: false,
    });
  });

  it('--all shows what eight lines leave out', async () => {
    const wide = (shift: number) => [Array.from({ length: 20 }, (_, t) => [(t + shift * (t % 20)) % 40])];
    for (const [file, shift] of [
      ['c.fusco', 0],
      ['d.fusco', 1],
    ] as const) {
      saveRouting('wide.npy', wide(shift));
      await fusco('plan', 'wide.npy', '-o', file, '--experts', '40');
    }
    const short = (await fusco('diff', 'c.fusco', 'd.fusco')).stdout;
    const all = (await fusco('diff', 'c.fusco', 'd.fusco', '--all')).stdout;
    expect(short).toMatch(/rows of expert: \d+ more/);
    expect(all).not.toMatch(/ more$/m);
    expect(all.match(/token \d+ k 0/g)!.length).toBeGreaterThan(10);
  });

  it('refuses a limit it does not know before it reads a file', async () => {
    expectRefusal(
      await fusco('diff', 'absent', 'absent', '--fail-on', 'speed>3'),
      'E_USAGE',
      'speed is not one of',
    );
    expectRefusal(await fusco('diff', 'a.fusco', 'b.fusco', '--format', 'yaml'), 'E_USAGE');
  });
});
