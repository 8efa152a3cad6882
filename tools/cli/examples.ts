// Examples at the end of each command's help.

import type { Command } from 'commander';

/** Lines by command; subcommands with their parents' names. */
export const EXAMPLES: Readonly<Record<string, readonly string[]>> = {
  demo: ['fusco demo'],
  plan: [
    'fusco plan routing.npy --experts 256 -o step.fusco',
    'fusco plan routing.npy --experts 256 --ranks 16 --as-batch',
    'fusco plan trace/ --experts 256 --layers 3-60 --steps 0-9 -o plans',
    'fusco workload balanced --ranks 8 --tokens 64 --topk 2 --experts 8 -o - | fusco plan - --experts 8',
  ],
  inspect: [
    'fusco inspect step.fusco --html report.html',
    'fusco inspect routing.npy --strategy hier',
    'fusco inspect trace/ --layers 3-60 --html layers.html',
  ],
  verify: ['fusco verify step.fusco --routing routing.npy'],
  view: [
    'fusco view routing.npy --strategy hier --hidden 4096',
    'fusco view before.fusco after.fusco',
    'fusco view trace/ --layers 3-60',
  ],
  export: ['fusco export step.fusco --out arrays'],
  run: ['fusco run step.fusco --input x.npy --weights w.npy --out results --check'],
  launch: ['fusco launch -n 4 -- node train.js'],
  diff: [
    'fusco diff before.fusco after.fusco',
    "fusco diff before.fusco after.fusco --format markdown --fail-on 'predicted>+2%'",
  ],
  audit: [
    'fusco audit step.fusco --input x --received received --layout deepep-v1',
    'fusco audit routing.npy --experts 256 --input x --combined combined --weights w.npy',
  ],
  check: ['fusco check', 'fusco check plans.golden.json --update'],
  simulate: [
    'fusco simulate step.fusco',
    'fusco simulate step.fusco --ranks 16 --strategy hier',
    'fusco simulate routing.npy --experts 256 --topology gb200-nvl72',
    'fusco simulate step.fusco --sweep tokens=128,1024,4096 --sweep topology=h100-nvl8,h200-2x8',
    'fusco simulate step.fusco --sweep replicas=0,2,16',
    'fusco simulate trace/ --experts 256 --layers 3-60',
    'fusco simulate recording/ --placement recorded,map.json --expert-bytes 88080384',
  ],
  workload: [
    'fusco workload hot-rank --ranks 8 --tokens 4096 --topk 8 --experts 256 --skew 20 -o hot.npy',
    'fusco workload --from-counts counts.json --layer 10 --ranks 32 --tokens 4096 --topk 8 -o drawn.npy',
  ],
  'placement propose': [
    'fusco placement propose --counts counts.json --layer 10 --ranks 32 --target 1.05 -o map.json',
    'fusco placement propose --routing step.fusco --ranks 8 --replicas 2 -o map.json',
  ],
  'placement convert': ['fusco placement convert eplb.json --layer 3 --ranks 32 -o map.json'],
  doctor: ['fusco doctor'],
  'bench plan': ['fusco bench plan --rounds 3'],
  'bench host': ['fusco bench host --tokens 512'],
  'bench cuda': ['fusco bench cuda --json'],
  'bench gpus': ['fusco bench gpus --tokens 4096,16384'],
  'bench nccl': ['fusco launch -n 4 -- fusco bench nccl'],
  'bench scale': ['fusco bench scale --json'],
  'bench compare': ['fusco bench compare before/ after/'],
  completion: [
    'eval "$(fusco completion bash)"',
    'fusco completion zsh >> ~/.zshrc',
    'fusco completion fish > ~/.config/fish/completions/fusco.fish',
  ],
};

/** Adds the examples to the help of a program's commands. */
export function addExamples(parent: Command, prefix = ''): void {
  for (const command of parent.commands) {
    const name = `${prefix}${command.name()}`;
    const lines = EXAMPLES[name];
    if (lines !== undefined) command.addHelpText('after', `\nExamples:\n  ${lines.join('\n  ')}`);
    addExamples(command, `${name} `);
  }
}
