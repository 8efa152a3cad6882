// Cases by parts of their names.

/** The cases whose names have one of the parts. Throws if a part is in no name, so that a list does not get empty unseen. */
export function chosenCases<Case extends { readonly name: string }>(
  cases: readonly Case[],
  parts: readonly string[],
): Case[] {
  for (const part of parts) {
    if (!cases.some(({ name }) => name.includes(part))) throw new Error(`no case has "${part}" in its name`);
  }
  return cases.filter(({ name }) => parts.some((part) => name.includes(part)));
}
