import {
  formatGoValue,
  GoStruct,
  GoTime,
  type GoValue,
  sortedEntries,
  typeName,
} from "./go-format.ts";
import {
  type Command,
  type Operand,
  parseTemplate,
  type Pipeline,
  type Template,
  TemplateError,
  type TemplateNode,
} from "./parse-template.ts";
import {
  fits,
  isTrue,
  PARAMETER_TYPE_NAMES,
  TEMPLATE_FUNCTIONS,
  TIME_METHODS,
  toTemplateSample,
} from "./template-functions.ts";
import type { VectorSample } from "../promql/query.ts";
import type { Texts } from "./rule.ts";

/** Characters of a text; what would be longer is an error. */
export const OUTPUT_LIMIT = 65_536;
/** Nodes that one expansion may run through, those in loops each time. */
export const STEP_LIMIT = 100_000;
const CALL_DEPTH_LIMIT = 100;

/** What a template of a rule is about. */
export interface TemplateData {
  /** Of the template, for its errors. */
  readonly name: string;
  readonly labels: Texts;
  readonly value: number;
  readonly externalLabels?: Texts;
  readonly externalUrl?: string;
  /** Answers `query`. @throws {Error} if it cannot. */
  query?(text: string): readonly VectorSample[];
}

/** What Prometheus sets before every template of a rule; the places in its errors count it. */
const PREAMBLE =
  "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}";

const DATA_TYPE =
  "struct { Labels map[string]string; ExternalLabels map[string]string; ExternalURL string; Value interface {} }";

/** Reads a template of a rule. @throws {TemplateError} with the place. */
export function parseRuleTemplate(text: string): Template {
  return parseTemplate(text, TEMPLATE_FUNCTIONS);
}

/** Says what is wrong with a template as Prometheus does, with the line. */
export function explainTemplateError(error: TemplateError, text: string, name: string): string {
  return `template: ${name}:${text.slice(0, error.at).split("\n").length}: ${error.message}`;
}

/** The text of a template, or `<error expanding template: …>`: an alert without its text is better than none. */
export function expandTemplate(text: string | Template, data: TemplateData): string {
  try {
    return execute(typeof text === "string" ? parseRuleTemplate(text) : text, data);
  } catch (error) {
    const reason = error instanceof TemplateError && typeof text === "string"
      ? `error parsing template ${data.name}: ${explainTemplateError(error, text, data.name)}`
      : `error executing template ${data.name}: ${(error as Error).message}`;
    return `<error expanding template: ${reason}>`;
  }
}

/** Queries of a template that are written out: `query "up"`. Others cannot be answered. */
export function findQueries({ body, definitions }: Template): string[] {
  const found: string[] = [];
  const visitPipeline = ({ commands }: Pipeline) => {
    for (const [index, { operands }] of commands.entries()) {
      const [first, second] = operands;
      const before = commands[index - 1]?.operands;
      const argument = second ?? (before?.length === 1 ? before[0] : undefined);
      if (
        first.kind === "call" && first.name === "query" && argument?.kind === "literal" &&
        typeof argument.value === "string"
      ) found.push(argument.value);
      for (const operand of operands) {
        if (operand.kind === "pipeline") visitPipeline(operand.pipeline);
      }
    }
  };
  const visit = (nodes: readonly TemplateNode[]) => {
    for (const node of nodes) {
      if ("pipeline" in node && node.pipeline) visitPipeline(node.pipeline);
      if ("body" in node) {
        visit(node.body);
        visit(node.otherwise);
      }
    }
  };
  for (const nodes of [body, ...definitions.values()]) visit(nodes);
  return found;
}

/** How a list of nodes ended. */
type Signal = "done" | "break" | "continue";
type Variables = [name: string, value: GoValue][];

/** What a template says that asks for nothing, as most labels do; null for any other. */
function plainText({ body }: Template): string | null {
  let text = "";
  for (const node of body) {
    if (node.kind !== "text") return null;
    text += node.text;
  }
  return text.length <= OUTPUT_LIMIT ? text : null;
}

function execute(template: Template, data: TemplateData): string {
  const plain = plainText(template);
  if (plain !== null) return plain;
  const labels = new Map(Object.entries(data.labels));
  const externalLabels = new Map(Object.entries(data.externalLabels ?? {}));
  const externalUrl = data.externalUrl ?? "";
  const root = new GoStruct(DATA_TYPE, {
    Labels: labels,
    ExternalLabels: externalLabels,
    ExternalURL: externalUrl,
    Value: data.value,
  });
  const world = {
    externalUrl,
    query(text: string): GoValue[] {
      if (!data.query) throw new Error("no query can be asked here");
      return data.query(text).map((sample) => toTemplateSample(sample.labels, sample.value));
    },
  };
  let output = "";
  let steps = 0;
  let calls = 0;

  const fail = (
    at: number,
    { start, end }: { start: number; end: number },
    reason: string,
  ): Error => {
    const before = template.text.slice(0, at);
    const line = before.split("\n").length;
    const column = at - (before.lastIndexOf("\n") + 1) + (line === 1 ? PREAMBLE.length : 0);
    const context = template.text.slice(start, end);
    return new Error(
      `template: ${data.name}:${line}:${column}: executing ${
        JSON.stringify(data.name)
      } at <${context}>: ${reason}`,
    );
  };

  function write(text: string): void {
    output += text;
    if (output.length > OUTPUT_LIMIT) {
      throw new Error(`template: ${data.name}: the text is longer than ${OUTPUT_LIMIT} characters`);
    }
  }

  function run(nodes: readonly TemplateNode[], dot: GoValue, variables: Variables): Signal {
    const depth = variables.length;
    steps += 1 + nodes.length;
    if (steps > STEP_LIMIT) {
      throw new Error(`template: ${data.name}: it takes more than ${STEP_LIMIT} steps`);
    }
    for (const node of nodes) {
      const signal = runNode(node, dot, variables);
      if (signal !== "done") {
        variables.length = depth;
        return signal;
      }
    }
    variables.length = depth;
    return "done";
  }

  function runNode(node: TemplateNode, dot: GoValue, variables: Variables): Signal {
    switch (node.kind) {
      case "text":
        write(node.text);
        return "done";
      case "output": {
        const value = evaluate(node.pipeline, dot, variables);
        if (node.pipeline.variables.length === 0) {
          write(value === undefined ? "<no value>" : formatGoValue(value));
        }
        return "done";
      }
      case "break":
      case "continue":
        return node.kind;
      case "template": {
        const body = template.definitions.get(node.name);
        if (!body) {
          throw new Error(
            `template: ${data.name}: template ${JSON.stringify(node.name)} not defined`,
          );
        }
        const value = node.pipeline && evaluate(node.pipeline, dot, variables);
        calls += 1;
        if (calls > CALL_DEPTH_LIMIT) {
          throw new Error(
            `template: ${data.name}: exceeded maximum template depth (${CALL_DEPTH_LIMIT})`,
          );
        }
        run(body, value, [["$", value]]);
        calls -= 1;
        return "done";
      }
      case "range": {
        const depth = variables.length;
        const signal = runRange(node, dot, variables);
        variables.length = depth;
        return signal;
      }
      default: {
        const depth = variables.length;
        const value = evaluate(node.pipeline, dot, variables);
        const inner = node.kind === "with" && isTrue(value) ? value : dot;
        const signal = run(isTrue(value) ? node.body : node.otherwise, inner, variables);
        variables.length = depth;
        return signal;
      }
    }
  }

  function runRange(
    { pipeline, body, otherwise }: Extract<TemplateNode, { kind: "if" | "with" | "range" }>,
    dot: GoValue,
    variables: Variables,
  ): Signal {
    const value = evaluate({ ...pipeline, variables: [] }, dot, variables);
    const [command] = pipeline.commands;
    const entries: (readonly [GoValue, GoValue])[] = value instanceof Map
      ? sortedEntries(value)
      : Array.isArray(value)
      ? value.map((item, index) => [BigInt(index), item])
      : [];
    if (value !== undefined && !(value instanceof Map) && !Array.isArray(value)) {
      throw fail(command!.start, command!, `range can't iterate over ${formatGoValue(value)}`);
    }
    if (entries.length === 0) return run(otherwise, dot, variables);
    for (const [key, item] of entries) {
      const depth = variables.length;
      const given = pipeline.variables.length === 2 ? [key, item] : [item];
      for (const [index, name] of pipeline.variables.entries()) {
        give(name, given[index], pipeline.assigns, variables);
      }
      const signal = run(body, item, variables);
      variables.length = depth;
      if (signal === "break") break;
    }
    return "done";
  }

  function give(name: string, value: GoValue, assigns: boolean, variables: Variables): void {
    const known = assigns ? variables.findLast(([other]) => other === name) : undefined;
    if (known) known[1] = value;
    else variables.push([name, value]);
  }

  function evaluate(pipeline: Pipeline, dot: GoValue, variables: Variables): GoValue {
    let value: GoValue;
    for (const [index, command] of pipeline.commands.entries()) {
      value = evaluateCommand(command, dot, variables, index > 0 ? [value] : []);
    }
    for (const name of pipeline.variables) give(name, value, pipeline.assigns, variables);
    return value;
  }

  function evaluateCommand(
    command: Command,
    dot: GoValue,
    variables: Variables,
    piped: readonly GoValue[],
  ): GoValue {
    const [first, ...rest] = command.operands;
    if (first.kind === "call" && first.path.length === 0) {
      return call(first.name, command, rest, dot, variables, piped);
    }
    if (first.kind === "nil") throw fail(first.at, first, "nil is not a command");
    const args = [...rest.map((operand) => evaluateOperand(operand, dot, variables)), ...piped];
    return evaluateOperand(first, dot, variables, args);
  }

  function call(
    name: string,
    command: Command,
    operands: readonly Operand[],
    dot: GoValue,
    variables: Variables,
    piped: readonly GoValue[],
  ): GoValue {
    const { parameters, rest, call: apply } = TEMPLATE_FUNCTIONS.get(name)!;
    const count = operands.length + piped.length;
    if (count < parameters.length || (rest === undefined && count > parameters.length)) {
      const wanted = rest === undefined ? parameters.length : `at least ${parameters.length}`;
      throw fail(
        command.start,
        command,
        `wrong number of args for ${name}: want ${wanted} got ${count}`,
      );
    }
    const args: GoValue[] = [];
    for (const operand of operands) {
      const value = evaluateOperand(operand, dot, variables);
      const type = parameters[args.length] ?? rest!;
      if (!fits(value, type)) {
        throw fail(
          operand.at,
          operand,
          operand.kind === "literal"
            ? `expected ${PARAMETER_TYPE_NAMES[type]}; found ${
              template.text.slice(operand.start, operand.end)
            }`
            : `wrong type for value; expected ${PARAMETER_TYPE_NAMES[type]}; got ${
              typeName(value)
            }`,
        );
      }
      args.push(value);
      // The first that decides is the result, and what comes after is not looked at.
      if ((name === "and" && !isTrue(value)) || (name === "or" && isTrue(value))) return value;
    }
    for (const value of piped) {
      const type = parameters[args.length] ?? rest!;
      if (!fits(value, type)) {
        throw fail(
          command.start,
          command,
          `wrong type for value; expected ${PARAMETER_TYPE_NAMES[type]}; got ${typeName(value)}`,
        );
      }
      args.push(value);
    }
    try {
      return apply(args, world);
    } catch (error) {
      throw fail(command.start, command, `error calling ${name}: ${(error as Error).message}`);
    }
  }

  function evaluateOperand(
    operand: Operand,
    dot: GoValue,
    variables: Variables,
    args: readonly GoValue[] = [],
  ): GoValue {
    let value: GoValue;
    switch (operand.kind) {
      case "literal":
        value = operand.value;
        break;
      case "nil":
        value = undefined;
        break;
      case "dot":
        value = dot;
        break;
      case "variable":
        value = variables.findLast(([name]) => name === operand.name)?.[1];
        break;
      case "pipeline":
        value = evaluate(operand.pipeline, dot, variables);
        break;
      case "call":
        value = call(operand.name, { ...operand, operands: [operand] }, [], dot, variables, []);
        break;
    }
    for (const [index, name] of operand.path.entries()) {
      value = readField(value, name, operand, index === operand.path.length - 1 ? args : []);
    }
    if (args.length > 0 && !(operand.path.length > 0 && isMethod(operand.path.at(-1)!))) {
      throw fail(operand.at, operand, "can't give argument to non-function");
    }
    return value;
  }

  function readField(
    value: GoValue,
    name: string,
    operand: Operand,
    args: readonly GoValue[],
  ): GoValue {
    if (value instanceof Map) return value.has(name) ? value.get(name) : missingIn(value);
    if (value instanceof GoStruct && value.fields.has(name)) return value.fields.get(name);
    if (value instanceof GoTime && isMethod(name)) return TIME_METHODS[name]!(value, args);
    if (value === undefined) {
      throw fail(operand.at, operand, `nil pointer evaluating interface {}.${name}`);
    }
    throw fail(operand.at, operand, `can't evaluate field ${name} in type ${typeName(value)}`);
  }

  /** What `args` put together may hold anything, and then nothing is no value. */
  const missingIn = (map: ReadonlyMap<string, GoValue>): GoValue =>
    map.has("arg0") ? undefined : "";

  const isMethod = (name: string) => Object.hasOwn(TIME_METHODS, name);

  run(template.body, root, [
    ["$", root],
    ["$labels", labels],
    ["$externalLabels", externalLabels],
    ["$externalURL", externalUrl],
    ["$value", data.value],
  ]);
  return output;
}
