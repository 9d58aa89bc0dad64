import type pg from "pg";

/**
 * Makes sure that on a new stack somebody is told: mails to the admin, for all alerts. What was changed since stays.
 *
 * @param runbooksUrl where the runbooks can be read.
 */
export async function ensureSomebodyIsTold(
  client: pg.Client,
  adminEmail: string,
  runbooksUrl: string,
): Promise<void> {
  const { rows: [{ found }] } = await client.query(
    "select to_regclass('monitor.notification_routes') as found",
  );
  if (!found) return;
  const { rows: [known] } = await client.query(
    `select exists (select from monitor.notification_channels) or exists (select from monitor.notification_routes) as any`,
  );
  if (known.any) return;
  await client.query("select monitor.save_channel('admin-mail', 'email', $1)", [
    JSON.stringify({ to: [adminEmail] }),
  ]);
  // Goes on to the next one: whoever makes a route of his own to try it is told, too.
  await client.query(
    "select monitor.save_route('local-admin', array['admin-mail'], p_continues => true)",
  );
  await client.query(
    `update monitor.settings
     set runbooks_url = coalesce(runbooks_url, $1), canary_channel = coalesce(canary_channel, 'admin-mail')`,
    [runbooksUrl],
  );
}
