-- Purpose:  within a minute jobs are a chain: collecting calls evaluating, evaluating calls delivering, cron is the fallback of both.
-- Locks:    access exclusive on job_schedules and job_runs while columns and a check are added; both are small or quick to look through.
-- Undo:     run set_schedule for evaluate-alerts after cron_command of 20261121091200 was run again, as were invoke_function of it (and
--           drop the one with four arguments), finish_job of 20261121090400 and continue_jobs of 20261121110800; delete the runs with
--           trigger chain; restore the check; select cron.unschedule('deliver-notifications-every-15-minutes'); delete the job; drop
--           function monitor.wake_deliverer(timestamptz, double precision), monitor.invoke_followers(text, timestamptz, timestamptz);
--           alter table monitor.job_schedules drop column follows, drop column is_on_demand.

alter table monitor.job_schedules
  add column follows       text,
  add column is_on_demand  boolean not null default false,
  add constraint job_schedules_follows_fkey foreign key (follows) references monitor.job_schedules (job),
  add constraint job_schedules_follows_another check (follows <> job);

create index job_schedules_follows_idx on monitor.job_schedules (follows);

comment on column monitor.job_schedules.follows is
  'The job whose end calls this one, for the same minute, if it is to run every minute; cron calls it a minute later if that has not '
  'happened. Null: cron alone does.';
comment on column monitor.job_schedules.is_on_demand is
  'True: called when the outbox has something due, too; its schedule only proves that it can be.';

alter table monitor.job_runs
  drop constraint job_runs_trigger_known,
  add constraint job_runs_trigger_known check (trigger in ('cron', 'manual', 'chain'));

comment on column monitor.job_runs.trigger is
  'cron: a tick of its schedule, whoever began it; has all three witnesses. chain: called between ticks; has them too. manual: called by '
  'a person, known from its own start and finish only.';

create or replace function monitor.cron_command(p_job text, p_is_function boolean)
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select case
    when not p_is_function then format('select monitor.%I()', replace(p_job, '-', '_'))
    when exists (select from monitor.job_schedules where job = p_job and follows is not null and not is_on_demand and schedule = '* * * * *')
      then format('select monitor.invoke_function(%L, now() - interval ''1 minute'', p_queued_at => now())', p_job)
    else format('select monitor.invoke_function(%L)', p_job) end;
$$;

comment on function monitor.cron_command(text, boolean) is
  'What pg_cron runs for a job. For one that follows another every minute: the minute before, which does nothing if that has been '
  'called for.';

drop function monitor.invoke_function(text, timestamptz);

create function monitor.invoke_function(
  p_job        text,
  p_now        timestamptz  default now(),
  p_trigger    text         default 'cron',
  p_queued_at  timestamptz  default null
)
returns uuid
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_timeout     integer;
  v_run_id      uuid;
  v_enabled     boolean;
  v_url         text;
  v_key         text;
  v_request_id  bigint;
  v_reason      text;
begin
  if p_trigger is null or p_trigger not in ('cron', 'chain') then
    raise exception 'p_trigger must be cron or chain, got %', p_trigger
      using errcode = 'invalid_parameter_value', hint = 'A run that a person calls for is manual and is not invoked from here.';
  end if;
  -- Jobs before runs: who ends a run has locked this row already, and comes to the runs next.
  select timeout_milliseconds into v_timeout from monitor.job_schedules where job = p_job and is_function for key share;
  if not found then
    raise exception 'no such function: %', p_job
      using errcode = 'invalid_parameter_value', hint = 'Functions are the rows of monitor.job_schedules with is_function.';
  end if;

  insert into monitor.job_runs (job, trigger, scheduled_at, queued_at, state)
  values (p_job, p_trigger, date_trunc('minute', p_now, 'UTC'), coalesce(p_queued_at, p_now), 'queued')
  on conflict (job, scheduled_at) where trigger = 'cron' do nothing
  returning run_id into v_run_id;
  if v_run_id is null then -- it has been called for this minute: once is enough
    return (
      select run_id from monitor.job_runs
      where job = p_job and trigger = 'cron' and scheduled_at = date_trunc('minute', p_now, 'UTC'));
  end if;

  select jobs_enabled into v_enabled from monitor.settings;
  if not v_enabled then
    update monitor.job_runs
    set outcome = 'skipped', finished_at = coalesce(p_queued_at, p_now), error = 'jobs are switched off',
        state = 'skipped', reason = 'jobs are switched off', is_settled = true
    where run_id = v_run_id;
    return v_run_id;
  end if;

  begin
    select decrypted_secret into v_url from vault.decrypted_secrets where name = 'project_url';
    select decrypted_secret into v_key from vault.decrypted_secrets where name = 'cron_secret_key';
    v_reason := case
      when v_url is null then 'Vault has no secret named project_url'
      when not monitor.is_project_url(v_url) then 'the Vault secret project_url is no URL of the form https://host'
      when v_key is null then 'Vault has no secret named cron_secret_key'
      when v_key !~ '^sb_secret_[A-Za-z0-9_-]+$' then 'the Vault secret cron_secret_key is no key of the form sb_secret_…'
    end;
    if v_reason is null then
      v_request_id := net.http_post(
        url := rtrim(v_url, '/') || '/functions/v1/' || p_job,
        body := jsonb_build_object('scheduled_at', date_trunc('minute', p_now, 'UTC')),
        headers := jsonb_build_object(
          'content-type', 'application/json', 'apikey', v_key, 'x-run-id', v_run_id),
        timeout_milliseconds := v_timeout);
    end if;
  exception
    when invalid_schema_name or undefined_table or undefined_function then
      v_reason := 'pg_net or Vault is not installed';
    when others then -- whatever it is, the run must say so; its text may hold the key
      v_reason := left(sqlstate || ': ' || replace(sqlerrm, coalesce(nullif(v_key, ''), 'no key'), '…'), 300);
  end;

  if v_reason is null then
    update monitor.job_runs set request_id = v_request_id where run_id = v_run_id;
  else
    update monitor.job_runs
    set outcome = 'failed', finished_at = coalesce(p_queued_at, p_now), error = v_reason, state = 'failed', reason = v_reason, is_settled = true
    where run_id = v_run_id;
  end if;
  return v_run_id;
end;
$$;

comment on function monitor.invoke_function(text, timestamptz, text, timestamptz) is
  'Called by pg_cron and by the end of another job: records a run of an edge function as queued and posts to it, with the URL and key '
  'that Vault keeps as project_url and cron_secret_key. A missing secret or extension is a failed run with the reason. A second call for '
  'the same minute changes nothing, unless it is a chain''s. p_queued_at is when it is called, if not in its minute. Returns the run. Errors: 22023 for an unknown function or trigger.';

create function monitor.wake_deliverer(p_now timestamptz default clock_timestamp(), p_ahead_seconds double precision default 0)
returns jsonb
language plpgsql
security definer -- whoever calls may not read Vault
set search_path = ''
as $$
declare
  v_due_at     timestamptz := monitor.next_notification_at(p_now);
  v_is_called  boolean;
begin
  if v_due_at is null or v_due_at > p_now + interval '1 minute' then
    return jsonb_build_object('invoked', false, 'wait_seconds', null);
  end if;
  if v_due_at > p_now + make_interval(secs => p_ahead_seconds) then
    return jsonb_build_object('invoked', false, 'wait_seconds', extract(epoch from v_due_at - p_now));
  end if;
  -- One that is under way, or about to be, looks again at its end.
  select exists (
    select from monitor.job_schedules where job = 'deliver-notifications' and lease_until > p_now
  ) or exists (
    select from monitor.job_runs
    where job = 'deliver-notifications' and (
      (state = 'queued' and queued_at between p_now - interval '10 seconds' and p_now)
      -- One that fails is not called again at once, over and over.
      or (state = 'failed' and finished_at between p_now - interval '30 seconds' and p_now))
  ) into v_is_called;
  if not v_is_called then
    perform monitor.invoke_function('deliver-notifications', p_now, 'chain');
  end if;
  return jsonb_build_object('invoked', not v_is_called, 'wait_seconds', null);
end;
$$;

comment on function monitor.wake_deliverer(timestamptz, double precision) is
  'Calls deliver-notifications if something is due, or will be within p_ahead_seconds: {invoked, wait_seconds}. wait_seconds is how long '
  'it is until something is, if that is within a minute.';

create function monitor.invoke_followers(p_job text, p_scheduled_at timestamptz, p_now timestamptz)
returns void
language plpgsql
security definer -- whoever ends a run may not read Vault
set search_path = ''
as $$
declare
  v_follower  record;
begin
  for v_follower in
    select job, is_on_demand from monitor.job_schedules
    -- One that is to run less often is called by cron alone.
    where follows = p_job and is_function and (is_on_demand or schedule = '* * * * *')
    order by job
  loop
    if v_follower.is_on_demand then
      perform monitor.wake_deliverer(p_now, 60);
    else
      -- Not for a minute ahead, which who calls by hand may choose: those before it would be stale then.
      perform monitor.invoke_function(v_follower.job, least(p_scheduled_at, date_trunc('minute', p_now, 'UTC')), p_queued_at => p_now);
    end if;
  end loop;
end;
$$;

comment on function monitor.invoke_followers(text, timestamptz, timestamptz) is
  'Calls the jobs that follow one that has ended, for its minute; delivering only if something is due within a minute.';

create or replace function monitor.finish_job(
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

  -- Jobs before runs, as start_job locks them; those that are called below too, in the order of the watchdog.
  perform from monitor.job_schedules
  where (select job from monitor.job_runs where run_id = p_run_id) in (job, follows)
  order by job
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

  perform monitor.invoke_followers(v_run.job, v_run.scheduled_at, p_now);
  return jsonb_build_object('state', v_judged.state);
end;
$$;

comment on function monitor.finish_job(uuid, text, jsonb, text, timestamptz) is
  'Ends a started run: the function''s own witness. Gives the lease back unless another run has taken it since, and calls the jobs that '
  'follow, also when it failed. A result with {"partial": true} is a run of part of the job, which does not make the job fresh. '
  'Returns {state}. Errors: 22023 for a run that is not running or another outcome than succeeded or failed.';

create or replace function monitor.continue_jobs(p_now timestamptz default now())
returns void
language plpgsql
security invoker
set search_path = ''
as $$
begin
  if (
    select run.state = 'succeeded' and run.finished_at > p_now - interval '1 day'
      and run.result -> 'complete' = 'false'
    from monitor.job_runs as run
    where run.job = 'data-retention-cleanup' and run.result -> 'dry_run' is distinct from 'true'
    order by run.scheduled_at desc, run.queued_at desc nulls last
    limit 1
  ) then
    perform monitor.invoke_function('data-retention-cleanup', p_now);
  end if;

  if (
    select run.state = 'succeeded' and run.finished_at > p_now - interval '1 day'
      and run.result -> 'replay' ->> 'pending' = 'true'
    from monitor.job_runs as run
    where run.job = 'detect-anomalies'
    order by run.scheduled_at desc, run.queued_at desc nulls last
    limit 1
  ) then
    perform monitor.invoke_function('detect-anomalies', p_now);
  end if;

  -- Whatever should have called it has not: the function died, or nothing is evaluated at all.
  if monitor.next_notification_at(p_now) <= p_now - interval '10 seconds' then
    perform monitor.wake_deliverer(p_now);
  end if;
end;
$$;

comment on function monitor.continue_jobs(timestamptz) is
  'Calls data-retention-cleanup again when its last run left work: once a day would be too rare for what takes longer than a call. '
  'Calls detect-anomalies again when its last run left replays pending, and deliver-notifications when something is overdue.';

insert into monitor.job_schedules
  (job, cron_name, schedule, is_function, timeout_milliseconds, lease_seconds, stale_after_seconds, description, follows, is_on_demand)
values
  ('deliver-notifications', 'deliver-notifications-every-15-minutes', '*/15 * * * *', true, 30000, 60, 2700,
    'Sends what is in the outbox, whenever something is due.', 'evaluate-alerts', true)
on conflict (job) do nothing;

update monitor.job_schedules
set follows = 'collect-metrics',
    description = 'Evaluates the rules that are due, makes alerts of what holds, and writes whom to tell.'
where job = 'evaluate-alerts';

select monitor.set_schedule(job, schedule) from monitor.job_schedules where job in ('deliver-notifications', 'evaluate-alerts') order by job;

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.wake_deliverer(timestamptz, double precision),
  monitor.invoke_followers(text, timestamptz, timestamptz)
to service_role;
