/** Something the person at the terminal can put right. Its message says what and how; its stack is of no use to him. */
export class StackError extends Error {
  override readonly name = "StackError";
}
