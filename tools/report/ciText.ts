// Reports of comparisons in the forms that CI systems read: Markdown, JUnit XML, GitHub workflow commands.

import { ENTITIES } from './markup.ts';

/** Escapes the characters that Markdown would interpret as markup, except in an arrow. */
export function escapeMarkdown(text: string): string {
  return text.replace(/[\\`*_<|[\]]/g, '\\$&');
}

function escapeXml(text: string): string {
  // Control characters have no form at all in XML 1.0.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  return text.replace(/[\0-\x08\x0b\x0c\x0e-\x1f]/g, '?').replace(/[&<>"]/g, (char) => ENTITIES[char]!);
}

/** A test case of a report; a case with a problem has failed. */
export interface JunitCase {
  readonly name: string;
  /** What is wrong, in one line. */
  readonly problem?: string;
  /** The text of the failure. */
  readonly text?: string;
}

/** JUnit XML of one command's test cases. */
export function junitText(command: string, cases: readonly JunitCase[]): string {
  const failures = cases.filter(({ problem }) => problem !== undefined).length;
  const shown = cases.map(({ name, problem, text = '' }) => {
    const head = `    <testcase classname="fusco.${command}" name="${escapeXml(name)}"`;
    if (problem === undefined) return `${head}/>`;
    return `${head}>\n      <failure message="${escapeXml(problem)}">${escapeXml(text)}</failure>\n    </testcase>`;
  });
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<testsuites>',
    `  <testsuite name="fusco ${command}" tests="${cases.length}" failures="${failures}" errors="0" skipped="0">`,
    ...shown,
    '  </testsuite>',
    '</testsuites>',
  ].join('\n');
}

/** A message of a GitHub workflow command: characters that would end it are percent-encoded. */
export function escapeCommand(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

/** The title of a GitHub workflow command. */
export function escapeTitle(text: string): string {
  return escapeCommand(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
}
