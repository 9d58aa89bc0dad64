-- Purpose:  two limits as metrics, so that what is measured against them is told as a share.
-- Locks:    none on existing tables.
-- Undo:     run collect_database_connections and collect_storage of 20261121090800 again, as create or replace, with their
--           comments, then register_collector as below. The definitions stay, as do those of all metrics that have samples.

-- A limit changes when somebody changes it: that is no anomaly.
insert into monitor.metric_definitions (metric, category, unit, kind, detection_enabled, description)
values
  ('database_connection_limit', 'system', 'count', 'gauge', false, 'Client connections that the server accepts, those reserved for superusers and the like left out.'),
  ('pgvigil_storage_budget_bytes', 'monitoring', 'bytes', 'gauge', false, 'Disk space that the monitor may take before the oldest samples are dropped early; no sample without a budget.');

create or replace function monitor.collect_database_connections(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  -- Every state every time, with 0 when empty: a series that comes and goes cannot be compared with itself.
  select jsonb_agg(sample) || monitor.sample('database_connection_limit',
    current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true)::integer, 0)) -- unknown before Postgres 16
  from (
    select jsonb_array_elements(monitor.sample(
      'database_connections', count(backend.pid), jsonb_build_object('state', known.state))) as sample
    from unnest(array['active', 'idle', 'idle in transaction', 'idle in transaction (aborted)', 'other']) as known (state)
    left join (
      select pid, case
        when state in ('active', 'idle', 'idle in transaction', 'idle in transaction (aborted)') then state
        else 'other' end as state
      from pg_catalog.pg_stat_activity
      where backend_type = 'client backend' and datname = current_database()
    ) as backend using (state)
    group by known.state
  ) as samples;
$$;

comment on function monitor.collect_database_connections(timestamptz) is
  'database_connections{state}: client backends of this database. database_connection_limit: how many the server accepts, '
  'those to other databases included.';

create or replace function monitor.collect_storage(p_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select
    monitor.sample('pgvigil_storage_bytes', monitor.monitor_bytes())
    || monitor.sample('pgvigil_storage_budget_bytes', (
      select keep_megabytes * 1000000::bigint from monitor.retention_policies where entity = 'metric_chunks'));
$$;

comment on function monitor.collect_storage(timestamptz) is
  'pgvigil_storage_bytes: tables of this schema with indexes and TOAST. pgvigil_storage_budget_bytes: keep_megabytes of the '
  'retention policy metric_chunks.';

-- A function that is replaced loses its time-out. With the settings it has, which may be somebody's own.
select monitor.register_collector(collector, description, interval_seconds, timeout_seconds, required_relations)
from monitor.metric_collectors
where collector in ('collect_database_connections', 'collect_storage');

revoke all on all functions in schema monitor from public;
