/**
 * A worker thread's compiled program, by its path in this folder: Node 20 does not run TypeScript, so sources use the
 * program in dist/.
 */
export function workerUrl(path: string): URL {
  const here = import.meta.url;
  return new URL(here.endsWith('.ts') ? `../dist/executor/${path}` : `./${path}`, here);
}
