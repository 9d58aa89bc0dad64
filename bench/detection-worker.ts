/** A process of the ablation: is told the data, then tunings one by one, and answers what the detector so tuned comes to. */
import process from "node:process";
import { createRarityDetector } from "../shared/detection/rarity-detector.ts";
import type { Tuning } from "../shared/detection/tuning.ts";
import type { DetectionData } from "./detection-data.ts";
import { measureScores, scoreBy } from "./detection-measures.ts";

/** What the process is sent, one at a time. */
export type WorkerMessage = { readonly data: DetectionData } | { readonly tuning: Tuning };

let data: DetectionData | null = null;

process.on("message", (message: WorkerMessage) => {
  if ("data" in message) ({ data } = message);
  else process.send!(measureScores(data!, scoreBy(createRarityDetector(message.tuning))));
});
