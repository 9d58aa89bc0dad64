-- Purpose:  what should run when, what did run, and the lease that keeps two runs of a job apart.
-- Locks:    none on existing tables.
-- Undo:     drop table monitor.job_runs, monitor.job_schedules cascade; drop function monitor.start_job(text, uuid,
--           text, timestamptz, timestamptz), monitor.finish_job(uuid, text, jsonb, text, timestamptz),
--           monitor.cron_field_values(text, integer, integer), monitor.cron_ticks(text, timestamptz, timestamptz),
--           monitor.judge_run(monitor.job_runs, timestamptz), monitor.is_cron_schedule(text);

create function monitor.cron_field_values(p_field text, p_min integer, p_max integer)
returns integer[]
language plpgsql
immutable
security invoker
set search_path = ''
as $$
declare
  v_part    text;
  v_parsed  text[];
  v_from    integer;
  v_to      integer;
  v_step    integer;
  v_values  integer[] := '{}';
begin
  foreach v_part in array string_to_array(p_field, ',') loop
    v_parsed := regexp_match(v_part, '^(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?$');
    -- pg_cron takes a step after * and after a range only: "5/10" is nothing to it.
    if v_parsed is null or (v_parsed[1] is not null and v_parsed[2] is null and v_parsed[3] is not null) then
      return null;
    end if;
    v_from := coalesce(v_parsed[1]::integer, p_min);
    v_step := coalesce(v_parsed[3]::integer, 1);
    v_to := coalesce(v_parsed[2]::integer, case when v_parsed[1] is null then p_max else v_from end);
    if v_from < p_min or v_to > p_max or v_from > v_to or v_step < 1 then
      return null;
    end if;
    v_values := v_values || array(select generate_series(v_from, v_to, v_step));
  end loop;
  return nullif(v_values, '{}');
end;
$$;

comment on function monitor.cron_field_values(text, integer, integer) is
  'The numbers that one field of a cron expression stands for (*, n, a-b, */step, a-b/step, lists), null when it is malformed.';

create function monitor.cron_ticks(p_schedule text, p_after timestamptz, p_until timestamptz)
returns setof timestamptz
language plpgsql
immutable
security invoker
set search_path = ''
as $$
declare
  v_fields    text[] := regexp_split_to_array(btrim(p_schedule), '\s+');
  v_minutes   integer[];
  v_hours     integer[];
  v_days      integer[];
  v_months    integer[];
  v_weekdays  integer[];
begin
  if cardinality(v_fields) = 5 then
    v_minutes := monitor.cron_field_values(v_fields[1], 0, 59);
    v_hours := monitor.cron_field_values(v_fields[2], 0, 23);
    v_days := monitor.cron_field_values(v_fields[3], 1, 31);
    v_months := monitor.cron_field_values(v_fields[4], 1, 12);
    v_weekdays := monitor.cron_field_values(v_fields[5], 0, 7);
  end if;
  if v_minutes is null or v_hours is null or v_days is null or v_months is null or v_weekdays is null then
    raise exception 'not a cron schedule: %', p_schedule
      using errcode = 'invalid_parameter_value',
            hint    = 'Five fields of numbers, *, lists, ranges and steps, in UTC, e.g. */5 * * * *.';
  end if;

  return query
    select tick
    from generate_series(
      date_trunc('minute', p_after, 'UTC') + interval '1 minute', p_until, interval '1 minute') as tick
    cross join lateral (select tick at time zone 'UTC' as utc) as clock
    where extract(minute from utc)::integer = any (v_minutes)
      and extract(hour from utc)::integer = any (v_hours)
      and extract(month from utc)::integer = any (v_months)
      -- Cron's rule: with both days restricted, either suffices. Sunday is 0 and 7.
      and case
        when v_fields[3] like '*%' or v_fields[5] like '*%' then
          extract(day from utc)::integer = any (v_days)
          and (extract(dow from utc)::integer = any (v_weekdays) or (extract(dow from utc) = 0 and 7 = any (v_weekdays)))
        else
          extract(day from utc)::integer = any (v_days)
          or extract(dow from utc)::integer = any (v_weekdays) or (extract(dow from utc) = 0 and 7 = any (v_weekdays))
      end;
end;
$$;

comment on function monitor.cron_ticks(text, timestamptz, timestamptz) is
  'The whole minutes t with p_after < t <= p_until at which a cron schedule fires, in UTC as pg_cron. '
  'Errors: 22023 for anything but five fields of numbers, *, lists, ranges and steps.';

create function monitor.is_cron_schedule(p_schedule text)
returns boolean
language plpgsql
immutable
security invoker
set search_path = ''
as $$
begin
  perform monitor.cron_ticks(p_schedule, timestamptz '2000-01-01 00:00:00+00', timestamptz '2000-01-01 00:00:00+00');
  return true;
exception when invalid_parameter_value then
  return false;
end;
$$;

comment on function monitor.is_cron_schedule(text) is 'Whether monitor.cron_ticks understands the schedule.';

create table monitor.job_schedules (
  job                   text        not null,
  cron_name             text        not null,
  schedule              text        not null,
  is_function           boolean     not null,
  timeout_milliseconds  integer     not null default 60000,
  lease_seconds         integer     not null,
  stale_after_seconds   integer     not null,
  description           text        not null,
  created_at            timestamptz not null default now(),
  watched_until         timestamptz not null default now(),
  last_succeeded_at     timestamptz,
  lease_run_id          uuid,
  lease_until           timestamptz,

  constraint job_schedules_pkey primary key (job),
  constraint job_schedules_cron_name_key unique (cron_name),
  constraint job_schedules_job_shape check (job ~ '^[a-z][a-z0-9-]{2,62}$'),
  constraint job_schedules_schedule_is_cron check (monitor.is_cron_schedule(schedule)),
  constraint job_schedules_timeout_milliseconds_in_range check (timeout_milliseconds between 1000 and 150000),
  constraint job_schedules_lease_seconds_in_range check (lease_seconds between 1 and 150),
  constraint job_schedules_stale_after_seconds_positive check (stale_after_seconds > 0),
  constraint job_schedules_lease_whole check ((lease_run_id is null) = (lease_until is null))
);

comment on table monitor.job_schedules is
  'What should run: one job, when, for how long. Changed by monitor.set_schedule, which keeps pg_cron in step.';
comment on column monitor.job_schedules.job is 'Name of the job, and of its edge function if it has one.';
comment on column monitor.job_schedules.cron_name is 'Name of the job in pg_cron (case-sensitive).';
comment on column monitor.job_schedules.schedule is 'Cron schedule of five fields, in UTC.';
comment on column monitor.job_schedules.is_function is 'True: an edge function called by HTTP. False: plain SQL.';
comment on column monitor.job_schedules.timeout_milliseconds is
  'How long pg_net waits for the answer; until then it sends no other batch of the project''s requests, so keep it '
  'short. A run that finishes later still counts, as slow.';
comment on column monitor.job_schedules.lease_seconds is
  'How long a run keeps others out if it dies without finishing; a call lives at most 150 s.';
comment on column monitor.job_schedules.stale_after_seconds is 'Without a success for so long, the job''s health is unknown.';
comment on column monitor.job_schedules.watched_until is 'Up to when the watchdog has looked for missed runs.';
comment on column monitor.job_schedules.lease_run_id is 'The run that keeps others out until lease_until, null when none.';

alter table monitor.job_schedules enable row level security;

create policy job_schedules_select_authenticated
  on monitor.job_schedules for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.job_schedules to authenticated;
grant select, update on monitor.job_schedules to service_role;

create trigger job_schedules_record_change
  after insert or delete or update of cron_name, schedule, is_function, timeout_milliseconds, lease_seconds,
    stale_after_seconds, description
  on monitor.job_schedules
  for each row execute function monitor.record_change();

create table monitor.job_runs (
  run_id          uuid        not null default gen_random_uuid(),
  job             text        not null,
  trigger         text        not null,
  scheduled_at    timestamptz not null,
  queued_at       timestamptz,
  request_id      bigint,
  responded_at    timestamptz,
  http_status     integer,
  http_timed_out  boolean     not null default false,
  http_error      text,
  started_at      timestamptz,
  finished_at     timestamptz,
  outcome         text,
  result          jsonb,
  error           text,
  missed_count    integer     not null default 0,
  state           text        not null,
  is_slow         boolean     not null default false,
  reason          text,
  is_settled      boolean     not null default false,

  constraint job_runs_pkey primary key (run_id),
  constraint job_runs_job_fkey foreign key (job) references monitor.job_schedules (job),
  constraint job_runs_trigger_known check (trigger in ('cron', 'manual')),
  constraint job_runs_outcome_known check (outcome in ('succeeded', 'failed', 'skipped')),
  constraint job_runs_outcome_means_finished check ((outcome is null) = (finished_at is null)),
  constraint job_runs_missed_count_with_state check ((missed_count > 0) = (state = 'missed')),
  constraint job_runs_state_known check (
    state in ('queued', 'running', 'succeeded', 'failed', 'skipped', 'lost', 'missed'))
);

create unique index job_runs_job_scheduled_at_idx on monitor.job_runs (job, scheduled_at) where trigger = 'cron';
comment on index monitor.job_runs_job_scheduled_at_idx is 'A tick of the schedule is one run, however often cron fires.';
create index job_runs_unsettled_idx on monitor.job_runs (scheduled_at) where not is_settled;
comment on index monitor.job_runs_unsettled_idx is 'Serves monitor.watch_jobs, which looks at these only.';
create index job_runs_scheduled_at_idx on monitor.job_runs (scheduled_at);
create index job_runs_latest_idx on monitor.job_runs (job, scheduled_at desc);

comment on table monitor.job_runs is
  'One run of a job, seen by three witnesses: queued (cron), the HTTP answer (pg_net), finished (the function).';
comment on column monitor.job_runs.trigger is
  'cron: has all three witnesses. manual: called by a person, known from its own start and finish only.';
comment on column monitor.job_runs.scheduled_at is 'The minute the run belongs to; samples carry it.';
comment on column monitor.job_runs.request_id is 'pg_net''s request, null when none was sent.';
comment on column monitor.job_runs.http_status is 'Status of the HTTP answer, null while there is none.';
comment on column monitor.job_runs.http_error is 'What pg_net says when there was no answer at all.';
comment on column monitor.job_runs.outcome is 'What the function itself said at its end, null while it has not.';
comment on column monitor.job_runs.result is 'What a finished run did, as it was answered to the caller.';
comment on column monitor.job_runs.missed_count is 'Of a missed run: how many ticks in a row did not fire, from scheduled_at on.';
comment on column monitor.job_runs.state is 'What the witnesses agree on; see monitor.judge_run.';
comment on column monitor.job_runs.is_slow is 'Finished, but only after the caller had given up waiting.';
comment on column monitor.job_runs.is_settled is 'Every witness that can be heard has been; the state will not change.';

alter table monitor.job_runs enable row level security;

create policy job_runs_select_authenticated
  on monitor.job_runs for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.job_runs to authenticated;
grant select, insert, update, delete on monitor.job_runs to service_role;

create function monitor.judge_run(
  p_run  monitor.job_runs,
  p_now  timestamptz,
  out state       text,
  out is_slow     boolean,
  out reason      text,
  out is_settled  boolean
)
language plpgsql
immutable
security invoker
set search_path = ''
as $$
declare
  v_heard    boolean := p_run.trigger = 'manual' or p_run.request_id is null or p_run.responded_at is not null;
  v_silent   boolean := p_now >= coalesce(p_run.started_at, p_run.queued_at, p_run.scheduled_at) + interval '3 minutes';
  -- pg_net forgets an answer after 6 hours: who is not heard by then never will be.
  v_forever  boolean := p_now >= coalesce(p_run.queued_at, p_run.started_at, p_run.scheduled_at) + interval '6 hours';
begin
  is_slow := false;
  if p_run.state = 'missed' then
    state := 'missed';
    reason := p_run.reason;
  -- A 409 to a run that did work is the answer to a second delivery of it.
  elsif p_run.outcome = 'skipped' or (p_run.outcome is null and p_run.http_status = 409) then
    state := 'skipped';
    reason := coalesce(p_run.error, 'another run held the lease');
  elsif p_run.http_status >= 300 and p_run.http_status <> 409 then
    state := 'failed';
    reason := 'HTTP ' || p_run.http_status || coalesce(': ' || p_run.error, '');
  elsif p_run.outcome = 'failed' then
    state := 'failed';
    reason := p_run.error;
  elsif p_run.outcome = 'succeeded' then
    state := 'succeeded';
    is_slow := p_run.http_timed_out or p_run.http_error is not null;
    reason := case when is_slow then 'finished after the caller had stopped waiting' end;
  elsif p_run.http_status is not null then
    state := 'failed';
    reason := 'HTTP ' || p_run.http_status || ', but the run never finished';
  elsif p_run.http_error is not null and not p_run.http_timed_out then
    state := 'failed';
    reason := p_run.http_error;
  elsif not v_silent then
    state := case when p_run.started_at is null then 'queued' else 'running' end;
  elsif p_run.http_timed_out then
    state := 'failed';
    reason := 'timed out, and did not finish within 3 minutes';
  else
    state := 'lost';
    reason := 'no answer and no end within 3 minutes';
  end if;
  -- A late finish can still turn a lost or timed-out run, and a late answer a finished one.
  is_settled := state = 'missed' or (v_heard and p_run.outcome is not null) or v_forever;
end;
$$;

comment on function monitor.judge_run(monitor.job_runs, timestamptz) is
  'What the witnesses of a run say together. 2xx and finished: succeeded. Timed out but finished: succeeded, slow. '
  '2xx without finish: failed. 409: skipped. Other 3xx-5xx or no connection: failed with the status. '
  'Nothing for 3 minutes: lost.';

create function monitor.start_job(
  p_job           text,
  p_run_id        uuid,
  p_trigger       text,
  p_scheduled_at  timestamptz,
  p_now           timestamptz default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_scheduled_at  timestamptz;
  v_finished_at   timestamptz;
  v_started_at    timestamptz;
  v_holder        uuid;
  v_enabled       boolean;
  v_refusal       text;
begin
  if p_trigger is null or p_trigger not in ('cron', 'manual') or p_run_id is null or p_scheduled_at is null then
    raise exception 'p_trigger must be cron or manual, p_run_id and p_scheduled_at not null'
      using errcode = 'invalid_parameter_value', hint = 'A run called by hand is manual, with a new uuid.';
  end if;

  -- One starter of a job at a time; it also tells whether there is such a job.
  select lease_run_id into v_holder from monitor.job_schedules where job = p_job for update;
  if not found then
    raise exception 'no such job: %', p_job
      using errcode = 'invalid_parameter_value', hint = 'Jobs are the rows of monitor.job_schedules.';
  end if;

  -- Queued by monitor.invoke_function, unless called by hand.
  insert into monitor.job_runs (run_id, job, trigger, scheduled_at, state)
  values (p_run_id, p_job, 'manual', date_trunc('minute', p_scheduled_at, 'UTC'), 'queued')
  on conflict (run_id) do nothing;

  select run.scheduled_at, run.finished_at, run.started_at into v_scheduled_at, v_finished_at, v_started_at
  from monitor.job_runs as run
  where run.run_id = p_run_id and run.job = p_job
  for update;
  if not found then
    raise exception 'run % belongs to another job', p_run_id
      using errcode = 'invalid_parameter_value', hint = 'Leave out the header x-run-id when calling by hand.';
  end if;
  if v_finished_at is not null then
    return jsonb_build_object('outcome', 'finished', 'run_id', p_run_id);
  end if;
  if v_started_at is not null then
    return jsonb_build_object('outcome', 'overlap', 'run_id', p_run_id);
  end if;

  select jobs_enabled into v_enabled from monitor.settings;
  update monitor.job_schedules
  set lease_run_id = p_run_id, lease_until = p_now + make_interval(secs => lease_seconds)
  where v_enabled and job = p_job and (lease_until is null or lease_until <= p_now);

  if found then
    update monitor.job_runs set started_at = p_now, state = 'running' where run_id = p_run_id;
    return jsonb_build_object('outcome', 'started', 'run_id', p_run_id, 'scheduled_at', v_scheduled_at);
  end if;

  v_refusal := case when v_enabled then 'run ' || v_holder || ' held the lease' else 'jobs are switched off' end;
  update monitor.job_runs
  set finished_at = p_now, outcome = 'skipped', error = v_refusal, state = 'skipped', reason = v_refusal
  where run_id = p_run_id;
  return case when v_enabled
    then jsonb_build_object('outcome', 'overlap', 'run_id', v_holder)
    else jsonb_build_object('outcome', 'disabled', 'run_id', p_run_id)
  end;
end;
$$;

comment on function monitor.start_job(text, uuid, text, timestamptz, timestamptz) is
  'Takes the lease of a job for a run. Returns {outcome, run_id, scheduled_at}: started; overlap with the run that '
  'holds the lease; disabled by the kill switch; finished, when this very run has ended before (a repeated delivery). '
  'Errors: 22023 for an unknown job or a run of another job.';

create function monitor.finish_job(
  p_run_id   uuid,
  p_outcome  text,
  p_result   jsonb       default null,
  p_error    text        default null,
  p_now      timestamptz default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_run    monitor.job_runs;
  v_judged record;
begin
  if p_outcome is null or p_outcome not in ('succeeded', 'failed') then
    raise exception 'p_outcome must be succeeded or failed, got %', p_outcome
      using errcode = 'invalid_parameter_value', hint = 'A run that may not start is skipped by monitor.start_job.';
  end if;

  -- Jobs before runs, as start_job locks them.
  perform from monitor.job_schedules
  where job = (select job from monitor.job_runs where run_id = p_run_id)
  for update;

  update monitor.job_runs
  set finished_at = p_now, outcome = p_outcome, result = p_result, error = left(p_error, 500)
  where run_id = p_run_id and started_at is not null and finished_at is null
  returning * into v_run;
  if not found then
    raise exception 'run % is not running', p_run_id
      using errcode = 'invalid_parameter_value', hint = 'A run is finished once, after monitor.start_job.';
  end if;

  select * into v_judged from monitor.judge_run(v_run, p_now);
  update monitor.job_runs
  set state = v_judged.state, is_slow = v_judged.is_slow, reason = v_judged.reason, is_settled = v_judged.is_settled
  where run_id = p_run_id;

  update monitor.job_schedules
  set lease_run_id = case when lease_run_id = p_run_id then null else lease_run_id end,
      lease_until = case when lease_run_id = p_run_id then null else lease_until end,
      last_succeeded_at = case
        when p_outcome = 'succeeded' and (p_result -> 'partial') is distinct from 'true'
          then greatest(last_succeeded_at, p_now)
        else last_succeeded_at end
  where job = v_run.job;

  return jsonb_build_object('state', v_judged.state);
end;
$$;

comment on function monitor.finish_job(uuid, text, jsonb, text, timestamptz) is
  'Ends a started run: the function''s own witness. Gives the lease back unless another run has taken it since. '
  'A result with {"partial": true} is a run of part of the job, which does not make the job fresh. '
  'Returns {state}. Errors: 22023 for a run that is not running or another outcome than succeeded or failed.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.judge_run(monitor.job_runs, timestamptz),
  monitor.start_job(text, uuid, text, timestamptz, timestamptz),
  monitor.finish_job(uuid, text, jsonb, text, timestamptz),
  monitor.cron_field_values(text, integer, integer),
  monitor.cron_ticks(text, timestamptz, timestamptz),
  monitor.is_cron_schedule(text)
to service_role;
