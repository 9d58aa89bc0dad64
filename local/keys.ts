import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { writeJsonFile } from "./json-file.ts";
import { StackError } from "./stack-error.ts";

const Keys = z.object({
  publishable_key: z.string(),
  secret_key: z.string(),
  cron_key: z.string(),
  cron_next_key: z.string(),
  jwt_secret: z.string(),
  database_password: z.string(),
  admin_email: z.string(),
  admin_password: z.string(),
  resend_api_key: z.string(),
  resend_webhook_secret: z.string(),
});

/** Every secret of a local stack; random, so that two stacks on one machine do not open each other. */
export type Keys = z.infer<typeof Keys>;

const random = () => randomBytes(24).toString("base64url");

/** Of the stand-in for Resend. Stacks that were made before there were any get them when they are next started. */
const makeMailKeys = () => ({
  resend_api_key: `re_${random()}`,
  resend_webhook_secret: `whsec_${randomBytes(24).toString("base64")}`,
});

/**
 * Reads the keys kept in `folder`, or makes them the first time, readable by the owner alone.
 *
 * @throws {StackError} if they cannot be read, or are gone while the database they open is still there.
 */
export function readKeys(folder: string): Keys {
  const path = join(folder, "keys.json");
  if (existsSync(path)) {
    try {
      const kept = JSON.parse(readFileSync(path, "utf8"));
      const keys = Keys.parse({ ...makeMailKeys(), ...kept });
      if (Object.keys(keys).some((name) => !Object.hasOwn(kept, name))) writeJsonFile(path, keys);
      return keys;
    } catch (error) {
      throw new StackError(
        `Cannot read ${path}: ${(error as Error).message}\nStart over with: npm start -- --reset`,
      );
    }
  }
  if (existsSync(join(folder, "data"))) {
    throw new StackError(
      `${path} is gone, and with it the password of the database in ${folder}.\n` +
        "Put it back, or start over with: npm start -- --reset",
    );
  }

  const keys: Keys = {
    publishable_key: `sb_publishable_${random()}`,
    secret_key: `sb_secret_${random()}`,
    cron_key: `sb_secret_${random()}`,
    cron_next_key: `sb_secret_${random()}`,
    jwt_secret: random(),
    database_password: random(),
    admin_email: "admin@example.com",
    admin_password: random(),
    ...makeMailKeys(),
  };
  mkdirSync(folder, { recursive: true });
  writeJsonFile(path, keys);
  return keys;
}
