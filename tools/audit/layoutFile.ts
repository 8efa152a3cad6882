// A layout by its name, or from a small JSON file:
//
//   {"preset": "deepep-v2-expanded", "align": 128}
//   {"per": "entry", "blocks": "expert", "order": "any", "slots": 128, "padding": "any"}
//
// Fields that are left out are those of the preset; without one, those of the layout "fusco".

import { type AuditLayout, auditLayouts } from '../../executor/native/audit.ts';
import { FuscoError } from '../../planner/errors.ts';
import { readJson, shown } from '../readers/json.ts';

/** A layout and what it is called. */
export interface NamedLayout {
  readonly name: string;
  readonly layout: AuditLayout;
}

const HINT = 'docs/audit.md describes the fields of a layout, and the known ones.';

/** The values of each field; numbers are whole and not negative. */
const FIELDS: Readonly<Record<keyof AuditLayout, readonly string[] | 'number'>> = {
  per: ['entry', 'token'],
  blocks: ['expert', 'source', 'one'],
  order: ['sorted', 'any'],
  align: 'number',
  padding: ['zero', 'any'],
  tail: ['zero', 'any'],
  slots: 'number',
  accumulate: ['f32', 'payload'],
  partials: 'number',
};

function isAllowed(field: keyof AuditLayout, value: unknown): boolean {
  const allowed = FIELDS[field];
  if (allowed !== 'number') return allowed.includes(value as string);
  if (field === 'slots' && value === 'equal') return true;
  const most = field === 'slots' ? Number.MAX_SAFE_INTEGER : 0xffffffff;
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= most;
}

/** Throws E_OPTION with the path. */
function refuseLayout(path: string, text: string): never {
  throw new FuscoError('E_OPTION', text, { path, hint: HINT });
}

/** The known layout of a name. */
function presetOf(name: unknown): AuditLayout | undefined {
  const known = auditLayouts();
  return typeof name === 'string' && Object.hasOwn(known, name) ? known[name] : undefined;
}

/** The layout of a parsed JSON file. */
function layoutOf(value: unknown, path: string): AuditLayout {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    refuseLayout(path, 'a layout is a JSON object');
  const { preset = 'fusco', ...fields } = value as Record<string, unknown>;
  const base = presetOf(preset);
  if (base === undefined) refuseLayout(path, `there is no layout ${shown(preset)}`);
  for (const [field, given] of Object.entries(fields)) {
    if (!Object.hasOwn(FIELDS, field)) refuseLayout(path, `a layout has no field ${shown(field)}`);
    if (!isAllowed(field as keyof AuditLayout, given)) refuseLayout(path, `${field} is ${shown(given)}`);
  }
  return { ...base, ...fields };
}

/**
 * The layout of a name or a file.
 *
 * @throws FuscoError E_OPTION for an unknown name or field, E_FILE_READ, E_BACKEND without the native addon
 */
export async function readLayout(nameOrFile: string): Promise<NamedLayout> {
  const layout = presetOf(nameOrFile);
  if (layout !== undefined) return { name: nameOrFile, layout };
  if (!/[./\\]/.test(nameOrFile)) {
    throw new FuscoError('E_OPTION', `layout ${shown(nameOrFile)} is neither known nor a file`, {
      hint: `Give one of ${Object.keys(auditLayouts()).join(', ')}, or a JSON file (docs/audit.md).`,
    });
  }
  const value = await readJson(nameOrFile, 'E_OPTION');
  return { name: nameOrFile, layout: layoutOf(value, nameOrFile) };
}
