// Checks of objects from outside this process, such as parsed JSON. The type of an object follows from the checks of its
// fields.

/** Whether a value has the type T. */
export type Check<T> = (value: unknown) => value is T;

type Fields = Readonly<Record<string, Check<unknown>>>;

/** The type of an object whose fields pass these checks. */
export type Checked<F> = { readonly [Name in keyof F]: F[Name] extends Check<infer T> ? T : never };

/** The types of a table of objects with different fields. The name of the type is in the field `Tag`. */
export type Tagged<Tag extends string, Table> = {
  [Name in keyof Table]: { readonly [Key in Tag]: Name } & Checked<Table[Name]>;
}[keyof Table];

export const isString: Check<string> = (value) => typeof value === 'string';
export const isNumber: Check<number> = (value) => typeof value === 'number';
export const isBoolean: Check<boolean> = (value) => typeof value === 'boolean';
/** A safe integer that is not negative. */
export const isCount: Check<number> = (value): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0;

/** A text of at most this many characters. */
export const isText =
  (most: number): Check<string> =>
  (value): value is string =>
    typeof value === 'string' && value.length <= most;

export const isMatch =
  (pattern: RegExp): Check<string> =>
  (value): value is string =>
    typeof value === 'string' && pattern.test(value);

export const isOneOf =
  <T>(values: readonly T[]): Check<T> =>
  (value): value is T =>
    values.includes(value as T);

export const isOptional =
  <T>(check: Check<T>): Check<T | undefined> =>
  (value): value is T | undefined =>
    value === undefined || check(value);

export const isListOf =
  <T>(check: Check<T>, most = Number.POSITIVE_INFINITY): Check<readonly T[]> =>
  (value): value is readonly T[] =>
    Array.isArray(value) && value.length <= most && value.every(check);

/** An object with these fields, and perhaps others. */
export const hasFields =
  <F extends Fields>(fields: F): Check<Checked<F>> =>
  (value): value is Checked<F> =>
    typeof value === 'object' &&
    value !== null &&
    Object.entries(fields).every(([name, check]) => check((value as Record<string, unknown>)[name]));

/** An object of one of the types of a table. */
export const isTagged =
  <Tag extends string, Table extends Readonly<Record<string, Fields>>>(
    tag: Tag,
    table: Table,
  ): Check<Tagged<Tag, Table>> =>
  (value): value is Tagged<Tag, Table> =>
    hasFields({ [tag]: isOneOf(Object.keys(table)) })(value) && hasFields(table[value[tag]!]!)(value);
