/** What a TypeScript module imports or re-exports, types included, in order; dynamic imports of literals too. */
export function importsOf(source: string): string[] {
  const code = source.replace(/^\s*(\/\/|\*|\/\*).*$/gm, '');
  const found: string[] = [];
  const pattern = /(?:\bfrom\s*|\bimport\s*\(\s*|\bimport\s+)(['"])([^'"\n]+)\1/g;
  for (const match of code.matchAll(pattern)) found.push(match[2]!);
  return found;
}
