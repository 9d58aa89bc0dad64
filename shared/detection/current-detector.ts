import type { Detector } from "./detector.ts";
import { rarityDetector } from "./rarity-detector.ts";

/** The detector in use. Another one takes over by being named here. */
export const detector: Detector = rarityDetector;

/** Those whose states may still be stored; they go on with them until a replay by {@link detector} has taken over. */
export const previousDetectors: readonly Detector[] = [];
