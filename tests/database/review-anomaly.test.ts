import { describe, expect } from "vitest";
import { it, type Query, rpc } from "./database.ts";
import { addAdmin, addAnomaly, addMetric, addSeries, addUser, iso, NOON } from "./seeds.ts";

const review = (query: Query, anomaly: number | null, state: string | null) =>
  rpc(query, "review_anomaly", { p_anomaly_id: anomaly, p_state: state, p_now: iso(NOON) });

async function addOne(query: Query) {
  return addAnomaly(query, await addSeries(query, await addMetric(query)));
}

async function readReview(query: Query, anomaly: number) {
  const { rows } = await query(
    "select review_state, reviewed_at, reviewed_by, ended_at from monitor.anomaly_detections where anomaly_id = $1",
    [anomaly],
  );
  return rows[0]!;
}

describe("monitor.review_anomaly()", () => {
  it.for(["acknowledged", "resolved", "false_positive", "expected"])(
    "takes an admin's word, %s, with his name and the time, and leaves the detector's",
    async (state, { query, asOwner, asUser }) => {
      const anomaly = await addOne(query);
      const admin = await addAdmin(asOwner);
      await review(asUser(admin), anomaly, state);
      expect(await readReview(query, anomaly)).toEqual({
        review_state: state,
        reviewed_at: new Date(NOON),
        reviewed_by: admin,
        ended_at: null,
      });
    },
  );

  it("takes a later word instead", async ({ query, asOwner, asUser }) => {
    const anomaly = await addOne(query);
    await review(asUser(await addAdmin(asOwner)), anomaly, "acknowledged");
    await review(query, anomaly, "resolved");
    expect(await readReview(query, anomaly)).toMatchObject({
      review_state: "resolved",
      reviewed_by: "service_role",
    });
  });

  it("refuses a user who is no admin, also one who was", async ({ query, asOwner, asUser, asAnon }) => {
    const anomaly = await addOne(query);
    const former = await addAdmin(asOwner);
    await asOwner("delete from monitor.admins where user_id = $1", [former]);
    for (const somebody of [asUser(await addUser(asOwner)), asUser(former), asUser(""), asAnon]) {
      await expect(review(somebody, anomaly, "resolved")).rejects.toMatchObject({ code: "42501" });
    }
    expect(await readReview(query, anomaly)).toMatchObject({ review_state: "open" });
  });

  it.for(["open", "expired", "closed", "", null])(
    "refuses the state %o",
    async (state, { query }) => {
      const anomaly = await addOne(query);
      await expect(review(query, anomaly, state)).rejects.toMatchObject({
        code: "22023",
        hint: expect.stringContaining("expired"),
      });
    },
  );

  it.for([0, -1, null])("refuses an anomaly that is not there: %o", async (anomaly, { query }) => {
    await expect(review(query, anomaly, "resolved")).rejects.toMatchObject({
      code: "P0002",
      hint: expect.stringContaining("Archived"),
    });
  });
});
