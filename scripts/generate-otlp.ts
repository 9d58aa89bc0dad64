/**
 * Writes the messages of shared/ingest/otlp.proto as TypeScript: otlp_pb.ts, and otlp-raw_pb.ts, where data
 * points and attributes are left as bytes. With --check it writes nothing and fails when one of them is out of step.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  CodeGeneratorRequestSchema,
  CodeGeneratorResponseSchema,
  type FileDescriptorProto,
  FileDescriptorSetSchema,
} from "@bufbuild/protobuf/wkt";
import protobuf from "protobufjs";
import descriptor from "protobufjs/ext/descriptor.js";

const ROOT = resolve(import.meta.dirname, "..");
const FOLDER = join(ROOT, "shared/ingest");
const PACKAGE = "pgvigil.otlp";

/** Of the .proto file: what comes before is also written with raw data points and attributes. */
const LINE = /^\/\/ -{20,}$/m;

/** The descriptor of a file of one package, as the compiler of Protocol Buffers would give it. */
function describeFile(name: string, source: string): FileDescriptorProto {
  const { root } = protobuf.parse(source, { keepCase: true });
  root.resolveAll();
  // The extension adds this method, and does not say so where it can be seen.
  const set = (root as unknown as {
    toDescriptor(syntax: string): protobuf.Message;
  }).toDescriptor("proto3");
  const bytes = descriptor.FileDescriptorSet.encode(set as never).finish();
  const { file: [file] } = fromBinary(FileDescriptorSetSchema, bytes);
  file!.name = name;
  // Names of types come relative to the package; the generator wants them whole.
  for (const { field: fields } of file!.messageType) {
    for (const field of fields) {
      if (field.jsonName === "") field.jsonName = field.name;
      if (field.typeName !== "" && !field.typeName.startsWith(".")) {
        field.typeName = `.${file!.package}.${field.typeName}`;
      }
    }
  }
  return file!;
}

function generate(files: readonly FileDescriptorProto[]): Map<string, string> {
  const request = create(CodeGeneratorRequestSchema, {
    fileToGenerate: files.map(({ name }) => name),
    parameter: "target=ts,import_extension=ts",
    protoFile: [...files],
  });
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    [join(ROOT, "node_modules/@bufbuild/protoc-gen-es/bin/protoc-gen-es")],
    { input: toBinary(CodeGeneratorRequestSchema, request), maxBuffer: 2 ** 24 },
  );
  if (status !== 0) throw new Error(`Cannot generate: ${stderr}`);
  const response = fromBinary(CodeGeneratorResponseSchema, stdout);
  if (response.error !== "") throw new Error(`Cannot generate: ${response.error}`);
  return new Map(response.file.map(({ name, content }) => [
    name,
    `// deno-fmt-ignore-file\n// deno-lint-ignore-file\n${content}`,
  ]));
}

const source = readFileSync(join(FOLDER, "otlp.proto"), "utf8");
const [shapes] = source.split(LINE);
const raw = shapes!
  .replace(`package ${PACKAGE};`, `package ${PACKAGE}.raw;`)
  .replaceAll("repeated KeyValue attributes", "repeated bytes attributes")
  .replaceAll(/repeated \w+ data_points/g, "repeated bytes data_points");
const generated = generate([
  describeFile("otlp.proto", source),
  describeFile("otlp-raw.proto", raw),
]);

const isCheck = process.argv.includes("--check");
for (const [name, content] of generated) {
  const file = join(FOLDER, name);
  if (isCheck) {
    if (readFileSync(file, "utf8") === content) continue;
    console.error(`shared/ingest/${name} is not what otlp.proto makes. Run: npm run generate`);
    process.exitCode = 1;
  } else {
    writeFileSync(file, content);
    console.log(`Wrote shared/ingest/${name}`);
  }
}
