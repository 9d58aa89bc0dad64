import type { Detector } from "./detector.ts";
import { medianDetector } from "./median-detector.ts";

/** The detector in use. Another one takes over by being named here. */
export const detector: Detector = medianDetector;
