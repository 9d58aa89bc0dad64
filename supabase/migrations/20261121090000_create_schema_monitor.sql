-- Purpose:  the private schema everything of pgvigil lives in.
-- Locks:    none on existing objects.
-- Undo:     drop schema monitor;

create schema if not exists monitor;

comment on schema monitor is
  'pgvigil: metrics, anomalies, alerts, retention and health of this project. Private: nothing is granted by default.';

revoke all on schema monitor from public;
grant usage on schema monitor to authenticated, service_role;
