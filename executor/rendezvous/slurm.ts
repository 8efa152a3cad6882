// The two compact notations of Slurm's variables.

/**
 * The first host of a node list: `node[003-010,012],gpu5` gives `node003`, `rack[1-2]n[3,7]` gives `rack1n3`.
 * Nothing for an empty or unbalanced list.
 */
export function firstHost(list: string): string | undefined {
  const match = /^(?:[^,[\]\s]|\[[\d,-]+\])+/.exec(list);
  if (match === null) return undefined;
  const host = match[0].replaceAll(/\[(\d+)[\d,-]*\]/g, '$1');
  return host.includes('[') || /^[[\]]/.test(list.slice(match[0].length)) ? undefined : host;
}

/** Tasks of one node in a list such as `2(x3),1`: nodes 0 to 2 have 2 each, node 3 has 1. */
export function tasksOfNode(list: string, node: number): number | undefined {
  let first = 0;
  for (const part of list.split(',')) {
    const match = /^(\d+)(?:\(x(\d+)\))?$/.exec(part);
    if (match === null) return undefined;
    first += Number(match[2] ?? 1);
    if (node < first) return Number(match[1]);
  }
  return undefined;
}
