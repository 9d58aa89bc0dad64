/**
 * How much a counter counted between two values of it, `previous` the older one.
 *
 * A counter only grows; a smaller value means that it restarted from zero in between, so all of the
 * new value is increase. What was counted between the older value and the restart is lost.
 *
 * @see Prometheus, `rate()`: "breaks in monotonicity (such as counter resets due to target restarts)
 *   are automatically adjusted for".
 */
export function counterIncrease(previous: number, current: number): number {
  return current < previous ? Math.max(current, 0) : current - previous;
}
