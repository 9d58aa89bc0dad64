/** Sends the requests of outgoing-cases.ts from Deno: the servers are its argument, the endings what it prints, as JSON. Ends with its input. */
import process from "node:process";
import { realWorld } from "../../supabase/functions/_shared/outgoing.ts";
import { runCases } from "./outgoing-cases.ts";

const endings = await runCases(JSON.parse(process.argv[2]!));
const localhost = await realWorld.resolve("localhost");
console.log(JSON.stringify({ endings, localhost }));
for await (const _ of process.stdin);
