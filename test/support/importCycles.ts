// Finds import cycles: files that import each other, directly or through others.

import { dirname, resolve } from 'node:path';
import { importsOf } from './imports.ts';

/**
 * The import cycles among files; imports of types count.
 *
 * @param files source text of every file, by absolute path
 * @returns the files of every cycle, sorted; a file that imports itself is one. Disjoint: cycles that share a file are
 *   one entry
 */
export function importCycles(files: ReadonlyMap<string, string>): string[][] {
  // Tarjan's strongly connected components.
  const order = new Map<string, number>();
  const lowest = new Map<string, number>();
  const stack: string[] = [];
  const cycles: string[][] = [];

  const visit = (file: string): void => {
    order.set(file, order.size);
    lowest.set(file, order.get(file)!);
    stack.push(file);
    const targets = importsOf(files.get(file)!)
      .filter((target) => target.startsWith('.'))
      .map((target) => resolve(dirname(file), target))
      .filter((target) => files.has(target));
    for (const target of targets) {
      if (!order.has(target)) visit(target);
      if (stack.includes(target)) lowest.set(file, Math.min(lowest.get(file)!, lowest.get(target)!));
    }
    if (lowest.get(file) !== order.get(file)) return;
    const component = stack.splice(stack.indexOf(file));
    if (component.length > 1 || targets.includes(file)) cycles.push(component.sort());
  };
  for (const file of files.keys()) if (!order.has(file)) visit(file);
  return cycles;
}
