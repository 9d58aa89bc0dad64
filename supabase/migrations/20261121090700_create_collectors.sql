-- Purpose:  the registry of collectors, the plan of a collection and the one call that stores its outcome.
-- Locks:    none on existing tables.
-- Undo:     drop table monitor.metric_collectors; drop function monitor.sample(text, double precision, jsonb),
--           monitor.plan_collection(timestamptz), monitor.record_collection(uuid, timestamptz, jsonb),
--           monitor.register_collector(text, text, integer, integer, text[]), monitor.relation_exists(text);

create table monitor.metric_collectors (
  collector              text             not null,
  description            text             not null,
  interval_seconds       integer          not null default 60,
  timeout_seconds        integer          not null default 2,
  required_relations     text[]           not null default '{}',
  is_enabled             boolean          not null default true,
  backoff_factor         integer          not null default 1,
  next_due_at            timestamptz,
  last_run_at            timestamptz,
  last_outcome           text,
  last_duration_seconds  double precision,
  last_sample_count      integer,
  last_error             text,

  constraint metric_collectors_pkey primary key (collector),
  constraint metric_collectors_collector_shape check (collector ~ '^collect_[a-z0-9_]{1,50}$'),
  constraint metric_collectors_description_present check (description <> ''),
  constraint metric_collectors_interval_seconds_whole_minutes
    check (interval_seconds between 60 and 86400 and interval_seconds % 60 = 0),
  constraint metric_collectors_timeout_seconds_in_range check (timeout_seconds between 1 and 7),
  constraint metric_collectors_backoff_factor_in_range check (backoff_factor between 1 and 64),
  constraint metric_collectors_last_outcome_known check (last_outcome in ('ok', 'failed', 'timed_out'))
);

comment on table monitor.metric_collectors is
  'A collector: a read-only SQL function monitor.<collector>(p_at timestamptz) returns jsonb, an array of monitor.sample(). '
  'Registered by monitor.register_collector.';
comment on column monitor.metric_collectors.interval_seconds is 'How often it is due, in whole minutes, at best.';
comment on column monitor.metric_collectors.timeout_seconds is 'Cut after so long, below the 8 s that any statement may take.';
comment on column monitor.metric_collectors.required_relations is
  'Qualified names; while one of them does not exist, the collector is skipped, not failed.';
comment on column monitor.metric_collectors.backoff_factor is
  'Its interval is this many times longer (1-64): doubled by a run that takes more than its share of it, halved by one '
  'that would fit into half of it.';
comment on column monitor.metric_collectors.next_due_at is 'Null: due at once.';
comment on column monitor.metric_collectors.last_duration_seconds is 'Seen from the caller, the way there and back included.';

alter table monitor.metric_collectors enable row level security;

create policy metric_collectors_select_authenticated
  on monitor.metric_collectors for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.metric_collectors to authenticated;
grant select, update on monitor.metric_collectors to service_role;

create trigger metric_collectors_record_change
  after insert or delete or update of description, interval_seconds, timeout_seconds, required_relations, is_enabled
  on monitor.metric_collectors
  for each row execute function monitor.record_change();

create function monitor.sample(p_metric text, p_value double precision, p_labels jsonb default '{}')
returns jsonb
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when p_value is null then '[]'::jsonb
    else jsonb_build_array(jsonb_build_object('metric', p_metric, 'labels', p_labels, 'value', p_value)) end;
$$;

comment on function monitor.sample(text, double precision, jsonb) is
  'An array of one sample as collectors return it, or of none when the value is null: unknown is no sample, never 0. '
  'Arrays are joined with ||.';

create function monitor.register_collector(
  p_collector           text,
  p_description         text,
  p_interval_seconds    integer default 60,
  p_timeout_seconds     integer default 2,
  p_required_relations  text[]  default '{}'
)
returns void
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_function  regprocedure := to_regprocedure(format('monitor.%I(timestamptz)', p_collector));
begin
  if v_function is null or not exists (
    select from pg_catalog.pg_proc
    where oid = v_function and prorettype = 'jsonb'::regtype and not proretset and provolatile <> 'v'
  ) then
    raise exception 'monitor.%(timestamptz) is not a collector', p_collector
      using errcode = 'invalid_parameter_value',
            hint    = 'Create it first: (p_at timestamptz) returns jsonb, stable, so that it can only read.';
  end if;

  insert into monitor.metric_collectors as known
    (collector, description, interval_seconds, timeout_seconds, required_relations)
  values (p_collector, p_description, p_interval_seconds, p_timeout_seconds, p_required_relations)
  on conflict (collector) do update
  set description = excluded.description, interval_seconds = excluded.interval_seconds,
      timeout_seconds = excluded.timeout_seconds, required_relations = excluded.required_relations;

  -- PostgREST applies a function's own statement_timeout to the call; the caller's is the second line.
  execute format('alter function %s set statement_timeout = %L', v_function, p_timeout_seconds || 's');
  execute format('revoke all on function %s from public', v_function);
  execute format('grant execute on function %s to service_role', v_function);
end;
$$;

comment on function monitor.register_collector(text, text, integer, integer, text[]) is
  'Registers monitor.<p_collector>(timestamptz) or changes its settings, sets its time-out and lets only service_role '
  'call it. For the owner of the schema. Errors: 22023 when there is no such read-only function, 23514 for a setting '
  'out of range.';

create function monitor.relation_exists(p_relation text)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return to_regclass(p_relation) is not null;
exception when others then
  return false; -- no name at all, or in a closed schema: one wrong row must not stop every collector
end;
$$;

comment on function monitor.relation_exists(text) is
  'Whether there is a relation of this qualified name that the caller can reach. Never raises.';

create function monitor.plan_collection(p_scheduled_at timestamptz)
returns jsonb
language sql
stable
security definer -- asks for relations in schemas that service_role may not enter
set search_path = ''
as $$
  with judged as (
    select
      known.collector,
      known.timeout_seconds,
      case
        when not known.is_enabled then 'disabled'
        when to_regprocedure(format('monitor.%I(timestamptz)', known.collector)) is null then 'function is missing'
        when missing.relation is not null then missing.relation || ' does not exist'
        when known.last_run_at = p_scheduled_at then null -- the same minute again asks the same collectors
        -- Later than its interval allows: a clock stood wrong, and would keep it from ever being due.
        when known.next_due_at > p_scheduled_at + make_interval(secs => known.interval_seconds * known.backoff_factor)
          then null
        when known.next_due_at > p_scheduled_at and known.backoff_factor > 1
          then 'over budget, due again at ' || to_char(known.next_due_at at time zone 'UTC', 'HH24:MI "UTC"')
        when known.next_due_at > p_scheduled_at then 'not due'
      end as reason
    from monitor.metric_collectors as known
    left join lateral (
      select relation from unnest(known.required_relations) as relation
      where not monitor.relation_exists(relation)
      limit 1
    ) as missing on true
  )
  select jsonb_build_object(
    'collectors', coalesce(jsonb_agg(jsonb_build_object(
        'collector', collector, 'timeout_seconds', timeout_seconds) order by collector)
      filter (where reason is null), '[]'),
    'skipped', coalesce(jsonb_agg(jsonb_build_object(
        'collector', collector, 'reason', reason) order by collector)
      filter (where reason is not null), '[]'))
  from judged;
$$;

comment on function monitor.plan_collection(timestamptz) is
  'Which collectors a collection calls: {collectors: [{collector, timeout_seconds}], skipped: [{collector, reason}]}.';

create function monitor.record_collection(
  p_run_id        uuid,
  p_scheduled_at  timestamptz,
  p_results       jsonb
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_samples  jsonb;
  v_stored   jsonb;
begin
  if jsonb_typeof(p_results) is distinct from 'array' then
    raise exception 'p_results must be an array'
      using errcode = 'invalid_parameter_value', hint = 'Each entry is what one collector returned.';
  end if;
  if not exists (select from monitor.job_runs where run_id = p_run_id and finished_at is null) then
    raise exception 'run % is not running', p_run_id
      using errcode = 'invalid_parameter_value', hint = 'Start it with monitor.start_job.';
  end if;

  -- A project that slept comes back by itself: the day it wakes in is made here. The days to come can wait for another
  -- minute; what was just measured cannot.
  perform monitor.ensure_sample_days(p_scheduled_at, 0);
  begin
    perform monitor.ensure_sample_days(p_scheduled_at);
  exception when lock_not_available or deadlock_detected then
    null; -- health and check_setup tell how many days are ahead
  end;

  select coalesce(jsonb_agg(sample), '[]') into v_samples
  from jsonb_array_elements(p_results) as result
  cross join lateral jsonb_array_elements(
    case when jsonb_typeof(result -> 'samples') = 'array' then result -> 'samples' else '[]' end) as sample;

  v_stored := monitor.record_samples(v_samples, p_scheduled_at);

  with reported as (
    select
      result ->> 'collector' as collector,
      (result ->> 'duration_seconds')::double precision as duration_seconds,
      coalesce(result ->> 'outcome', case when result ->> 'error' is null then 'ok' else 'failed' end) as outcome,
      result ->> 'error' as error,
      case when jsonb_typeof(result -> 'samples') = 'array' then jsonb_array_length(result -> 'samples') else 0 end as sample_count
    from jsonb_array_elements(p_results) as result
  ), costed as (
    select
      reported.*,
      case
        when reported.duration_seconds > budget.seconds * known.backoff_factor then least(known.backoff_factor * 2, 64)
        -- Half as rare again only if it fits that budget too: else it would go to and fro.
        when reported.duration_seconds <= budget.seconds * known.backoff_factor / 2 then greatest(known.backoff_factor / 2, 1)
        else known.backoff_factor
      end as factor
    from reported
    join monitor.metric_collectors as known using (collector)
    cross join monitor.settings
    cross join lateral (select settings.cost_budget_ratio * known.interval_seconds as seconds) as budget
  )
  update monitor.metric_collectors as known
  set last_run_at = p_scheduled_at,
      last_outcome = costed.outcome,
      last_duration_seconds = costed.duration_seconds,
      last_sample_count = costed.sample_count,
      last_error = left(costed.error, 500),
      backoff_factor = costed.factor,
      next_due_at = p_scheduled_at + make_interval(secs => known.interval_seconds * costed.factor)
  from costed
  where known.collector = costed.collector;

  return v_stored;
end;
$$;

comment on function monitor.record_collection(uuid, timestamptz, jsonb) is
  'Stores what the collectors of a run returned, [{collector, outcome?, duration_seconds, error, samples}], with the '
  'scheduled minute as the samples'' time, and the cost of each: a collector over its budget is due half as often. '
  'Returns {inserted, duplicates, rejected}. Errors: 22023 for a run that is not running.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.sample(text, double precision, jsonb),
  monitor.plan_collection(timestamptz),
  monitor.record_collection(uuid, timestamptz, jsonb)
to service_role;
