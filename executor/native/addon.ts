// Finds and loads the native addon.

import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { FuscoError } from '../../planner/errors.ts';
import type { Addon } from './types.ts';

export type * from './types.ts';

/** The addon, or the reason why there is none. */
export type AddonResult<A = Addon> =
  | { readonly addon: A }
  | { readonly addon: undefined; readonly reason: string };

let loaded: AddonResult | undefined;

/** Loads the addon once. It is absent if no compiler built it: the reference backend runs everything as well. */
export function findAddon(): AddonResult {
  loaded ??= tryLoad();
  return loaded;
}

/** The addon for a backend that needs it. Throws E_BACKEND with the reason if there is none. */
export function needAddon(backend: string): Addon {
  const found = findAddon();
  if (found.addon !== undefined) return found.addon;
  throw new FuscoError('E_BACKEND', `the ${backend} backend is not available: ${found.reason}`);
}

/** Lets findAddon() return this addon from now on. */
export function useAddon(addon: Addon): void {
  loaded = { addon };
}

/** The first of these modules that exists, or undefined. */
export function loadFirst<A>(places: readonly string[]): AddonResult<A> | undefined {
  const require = createRequire(import.meta.url);
  for (const place of places) {
    try {
      return { addon: require(place) as A };
    } catch (error) {
      if ((error as { code?: unknown }).code === 'MODULE_NOT_FOUND') continue;
      return { addon: undefined, reason: `the native addon does not load: ${(error as Error).message}` };
    }
  }
  return undefined;
}

/** The addon built on this machine or, if there is none, the one in the package for this platform. */
function tryLoad(): AddonResult {
  const machine = `${process.platform}-${process.arch}`;
  const found = loadFirst<Addon>(['#addon', `#prebuilt/${machine}`]);
  if (found !== undefined) return found;
  const root = dirname(createRequire(import.meta.url).resolve('#package.json'));
  return {
    addon: undefined,
    reason: `the native addon is not built, and the package contains none for ${machine}; build it with \`npm run build:native\` in ${root}`,
  };
}

/** The addon, or undefined if it is not built or does not load; findAddon() says why. */
export function loadAddon(): Addon | undefined {
  return findAddon().addon;
}
