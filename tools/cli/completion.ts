// `fusco completion SHELL`: a script with which a shell completes commands, options and their values. It is generated from
// the commands, and starts no process while the user types.

import { Argument, type Command, type Option } from 'commander';
import { command, print } from './io.ts';

/** A command, by the words that lead to it. */
interface Found {
  readonly path: readonly string[];
  readonly made: Command;
}

function allCommands(made: Command, path: readonly string[] = []): Found[] {
  return [{ path, made }, ...made.commands.flatMap((each) => allCommands(each, [...path, each.name()]))];
}

function optionsOf({ made }: Found): Option[] {
  return made.options.filter(({ hidden, long }) => !hidden && long !== undefined);
}

/** A word between single quotes, for any of the shells. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** One function for bash, and for zsh through its bashcompinit. */
function bashScript(program: Command): string {
  const found = allCommands(program);
  const key = (path: readonly string[], word = '') => quoted([...path, word].join(' ').trimEnd());
  const branches = (lines: readonly string[]) => lines.map((line) => `    ${line} ;;`).join('\n');
  const steps = found
    .filter(({ path }) => path.length > 0)
    .map(({ path }) => `${key(path)}) at=${key(path)}`);
  const values = found.flatMap((each) =>
    optionsOf(each).flatMap(({ long, argChoices }) =>
      argChoices === undefined ? [] : [`${key(each.path, long)}) words=${quoted(argChoices.join(' '))}`],
    ),
  );
  const words = ({ made }: Found) => [
    ...made.commands.map((each) => each.name()),
    ...made.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []),
  ];
  const commands = found
    .filter((each) => words(each).length > 0)
    .map((each) => `${key(each.path)}) words=${quoted(words(each).join(' '))}`);
  const options = found.map(
    (each) =>
      `${key(each.path)}) words=${quoted(
        `${optionsOf(each)
          .map(({ long }) => long)
          .join(' ')} --help`.trim(),
      )}`,
  );
  return `_fusco() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" at='' words='' i next
  for ((i = 1; i < COMP_CWORD; i++)); do
    next="\${at:+$at }\${COMP_WORDS[i]}"
    case "$next" in
${branches(steps)}
    esac
  done
  next="\${at:+$at }$prev"
  case "$next" in
${branches(values)}
  esac
  if [ -z "$words" ]; then
    case "$cur" in
    -*) case "$at" in
${branches(options)}
      esac ;;
    *) case "$at" in
${branches(commands)}
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _fusco fusco`;
}

function fishScript(program: Command): string {
  const seen = (name: string) => `__fish_seen_subcommand_from ${name}`;
  const parents = program.commands.filter(({ commands }) => commands.length > 0).map((made) => made.name());
  const condition = (path: readonly string[]) =>
    path.length === 0
      ? '__fish_use_subcommand'
      : [
          ...(path.length === 1 && !parents.includes(path[0]!) ? [`not ${seen(parents.join(' '))}`] : []),
          ...path.map(seen),
        ].join('; and ');
  const line = (path: readonly string[], rest: string, text: string) =>
    `complete -c fusco -n ${quoted(condition(path))} ${rest} -d ${quoted(text)}`;
  return allCommands(program)
    .flatMap((each) => [
      ...each.made.commands.map((made) => line(each.path, `-f -a ${made.name()}`, made.description())),
      ...optionsOf(each).map(({ long, required, argChoices, description }) => {
        const values =
          argChoices === undefined ? (required ? ' -r' : '') : ` -x -a ${quoted(argChoices.join(' '))}`;
        return line(each.path, `-l ${long!.slice(2)}${values}`, description);
      }),
    ])
    .join('\n');
}

const SCRIPTS: Readonly<Record<string, (program: Command) => string>> = {
  bash: bashScript,
  zsh: (program) => `autoload -Uz compinit bashcompinit && compinit && bashcompinit\n${bashScript(program)}`,
  fish: fishScript,
};

export function completionCommand(): Command {
  return command('completion', 'Print a script with which a shell completes commands, options and values.')
    .addArgument(new Argument('<shell>', 'the shell').choices(Object.keys(SCRIPTS)))
    .action((shell: string, _: unknown, made: Command) => print(SCRIPTS[shell]!(made.parent!)));
}
