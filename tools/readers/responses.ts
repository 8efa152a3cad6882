// Responses of servers with the experts of every token, ids [tokens, layers, topk]:
//
//   vLLM     `--enable-return-routed-experts`: "prompt_routed_experts" next to "choices"[]."routed_experts"
//   SGLang   `--enable-return-routed-experts`: "meta_info"."routed_experts", and "choices"[]."sgl_ext"."routed_experts"
//   clients  {"routed_experts": …} alone
//
// A file has one response or list of responses per line, or is one response or one list. payload.ts says in which forms
// the ids come. Requests are one batch, in order, prompt before choices. -1 marks positions that the prefix cache served.

import { ROUTED_NAMES } from './arrays.ts';
import { type AxesContext, addArray, axesOf } from './axes.ts';
import { type ReadChoice, refuseOptions } from './choice.ts';
import { type FileSource, refuse } from './file.ts';
import { isCount } from './json.ts';
import { readJsonLines } from './jsonLines.ts';
import { arrayOfValue } from './payload.ts';
import { listed, type Recorded } from './piece.ts';
import { TraceCollector } from './trace.ts';

const [PROMPT, ROUTED] = ROUTED_NAMES as [string, string];
const META = 'meta_info';
const EXTENSION = 'sgl_ext';

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

function isResponse(value: unknown): boolean {
  const fields = fieldsOf(value);
  return (
    ROUTED in fields || PROMPT in fields || ROUTED in fieldsOf(fields[META]) || Array.isArray(fields.choices)
  );
}

/** True for a response, and for a list that begins with one. */
export function isResponses(value: unknown): boolean {
  return Array.isArray(value) ? value.length > 0 && isResponse(value[0]) : isResponse(value);
}

/** Number of tokens whose experts SGLang records: all except the last, which no layer has processed. */
function recordedTokens(meta: Fields): number | undefined {
  const { prompt_tokens: prompt, completion_tokens: completion } = meta;
  return isCount(prompt) && isCount(completion) && prompt + completion > 0
    ? prompt + completion - 1
    : undefined;
}

/** A value of a response that may contain experts. */
interface Value {
  readonly value: unknown;
  readonly where: string;
  readonly tokens?: number | undefined;
}

class ResponseReader {
  readonly #collector: TraceCollector;
  readonly #choice: ReadChoice;
  readonly #path: string;
  /** Places of responses without experts. */
  readonly #without: { line: number; where: string }[] = [];
  /** The first value that lacks the wanted layer. */
  #short: string | undefined;
  #requests = 0;

  constructor(path: string, choice: ReadChoice) {
    refuseOptions(choice, ['array', 'physicalIds'], 'responses', path);
    this.#path = path;
    this.#choice = choice;
    this.#collector = new TraceCollector(path, choice, { stepName: 'request', joinsSteps: true });
  }

  /** Adds a response, or each of a list. */
  add(value: unknown, line: number): void {
    const where = `line ${line}`;
    const responses = Array.isArray(value) ? value : [value];
    for (const [i, response] of responses.entries()) {
      this.#addResponse(response, line, responses === value ? `${where}, response ${i}` : where);
    }
  }

  #addResponse(value: unknown, line: number, where: string): void {
    const request = this.#requests++;
    if (!isResponse(value)) refuse(this.#path, `${where}: it is no response with "choices" or "${ROUTED}"`);
    const given = this.#valuesOf(fieldsOf(value), where).filter(
      ({ value }) => value !== null && value !== undefined,
    );
    if (given.length === 0) this.#without.push({ line, where });
    for (const one of given) this.#addValue(one, request);
  }

  #valuesOf(fields: Fields, where: string): Value[] {
    const meta = fieldsOf(fields[META]);
    const { choices = [] } = fields;
    if (!Array.isArray(choices)) refuse(this.#path, `${where}: "choices" is not a list`);
    return [
      { value: fields[PROMPT], where: `${where}, ${PROMPT}` },
      { value: fields[ROUTED], where: `${where}, ${ROUTED}` },
      { value: meta[ROUTED], where: `${where}, ${META}`, tokens: recordedTokens(meta) },
      ...choices.flatMap((choice: unknown, i): Value[] => [
        { value: fieldsOf(choice)[ROUTED], where: `${where}, choice ${i}` },
        { value: fieldsOf(fieldsOf(choice)[EXTENSION])[ROUTED], where: `${where}, choice ${i}` },
      ]),
    ];
  }

  #addValue({ value, where, tokens }: Value, request: number): void {
    const path = this.#path;
    const array = arrayOfValue(value, this.#choice.axes, tokens, { where, path });
    if (array.shape[0] === 0) return;
    const context: AxesContext = {
      path: `${path}: ${where}`,
      hasLayers: true,
      hasRanks: false,
      isStated: true,
    };
    const axes = axesOf(array.shape, this.#choice, context);
    const layers = array.shape[axes.indexOf('layers')] ?? 1;
    if (layers === 0) refuse(path, `${where}: token 0 has no layers`);
    const { layer } = this.#choice;
    if (layer !== undefined && layer >= layers) this.#short ??= `${where}: it has ${layers} layers`;
    addArray(this.#collector, array, axes, { step: request, layer: 0, where, path });
  }

  /** Throws E_FOREIGN if the requested layer is in only some of the responses, and any error of the collector. */
  finish(): Recorded {
    const { layer, notice } = this.#choice;
    if (this.#short !== undefined && this.#collector.hasLayer(layer!)) {
      refuse(this.#path, `${this.#short}, others have layer ${layer}`);
    }
    const recorded = this.#collector.finish();
    const lines = new Set(this.#without.map(({ line }) => line));
    if (lines.size > 0) {
      const count = this.#without.length;
      const what = count === 1 ? 'a response' : `${count} responses`;
      notice?.(`${this.#path}: ${what} without ${ROUTED} skipped: line ${listed(lines)}`);
    }
    return recorded;
  }
}

/** One layer of all responses of a file of lines, or of the one that `choice.step` names, counted from 0. */
export function readResponseLines(file: FileSource, choice: ReadChoice): Recorded {
  const reader = new ResponseReader(file.path, choice);
  for (const { value, line } of readJsonLines(file, choice)) reader.add(value, line);
  return reader.finish();
}

/** One layer of a response, or of a list of responses, that is a JSON file as a whole. */
export function readResponseFile(value: unknown, path: string, choice: ReadChoice): Recorded {
  const reader = new ResponseReader(path, choice);
  reader.add(value, 1);
  return reader.finish();
}
