-- Purpose:  how cron calls a function, how the three witnesses of a run are joined, and the check of the whole setup.
-- Locks:    none on existing tables.
-- Undo:     drop function monitor.is_project_url(text), monitor.stale_after_seconds(text, timestamptz), monitor.invoke_function(text, timestamptz), monitor.watch_jobs(timestamptz),
--           monitor.set_schedule(text, text, timestamptz), monitor.check_setup(timestamptz),
--           monitor.cron_command(text, boolean);

create function monitor.is_project_url(p_url text)
returns boolean
language sql
immutable
security invoker
set search_path = ''
as $$
  -- Without encryption only to this machine or to a neighbour without a domain, as in a self-hosted composition.
  select p_url ~ '^(https://[[:alnum:].:-]+|http://([[:alnum:]-]+|127[.][0-9.]+)(:[0-9]+)?)/?$';
$$;

comment on function monitor.is_project_url(text) is 'Whether the key of cron may be sent to this address.';

create function monitor.stale_after_seconds(p_schedule text, p_now timestamptz)
returns integer
language sql
immutable
security invoker
set search_path = ''
as $$
  -- Two weeks tell the longest gap of any schedule that fires twice in them; a rarer one is given a year.
  with gap as (
    select max(extract(epoch from next_tick - tick)) as seconds
    from (
      select tick, lead(tick) over (order by tick) as next_tick
      from monitor.cron_ticks(p_schedule, p_now, p_now + interval '15 days') as tick
    ) as ticks
  )
  select (coalesce(gap.seconds, 31622400) + greatest(120, least(2 * coalesce(gap.seconds, 31622400), 7200)))::integer
  from gap;
$$;

comment on function monitor.stale_after_seconds(text, timestamptz) is
  'After how long without a success a job of this schedule is stale: its longest gap, and twice that again, but at least '
  '2 minutes and at most 2 hours. One that runs less often than every two weeks is stale after a year.';

create function monitor.invoke_function(p_job text, p_now timestamptz default now())
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
  select timeout_milliseconds into v_timeout from monitor.job_schedules where job = p_job and is_function;
  if not found then
    raise exception 'no such function: %', p_job
      using errcode = 'invalid_parameter_value', hint = 'Functions are the rows of monitor.job_schedules with is_function.';
  end if;

  insert into monitor.job_runs (job, trigger, scheduled_at, queued_at, state)
  values (p_job, 'cron', date_trunc('minute', p_now, 'UTC'), p_now, 'queued')
  on conflict (job, scheduled_at) where trigger = 'cron' do nothing
  returning run_id into v_run_id;
  if v_run_id is null then -- cron fired twice in this minute: once is enough
    return (
      select run_id from monitor.job_runs
      where job = p_job and trigger = 'cron' and scheduled_at = date_trunc('minute', p_now, 'UTC'));
  end if;

  select jobs_enabled into v_enabled from monitor.settings;
  if not v_enabled then
    update monitor.job_runs
    set outcome = 'skipped', finished_at = p_now, error = 'jobs are switched off',
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
    set outcome = 'failed', finished_at = p_now, error = v_reason, state = 'failed', reason = v_reason, is_settled = true
    where run_id = v_run_id;
  end if;
  return v_run_id;
end;
$$;

comment on function monitor.invoke_function(text, timestamptz) is
  'Called by pg_cron: records a run of an edge function as queued and posts to it, with the URL and key that Vault '
  'keeps as project_url and cron_secret_key. A missing secret or extension is a failed run with the reason. A second '
  'call in the same minute changes nothing. Returns the run. Errors: 22023 for an unknown function.';

create function monitor.watch_jobs(p_now timestamptz default now())
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  -- pg_cron may start a minute's jobs late; only older ticks are called missed.
  c_grace    constant interval := interval '2 minutes';
  c_lookback constant interval := interval '45 days';
  v_schedule   record;
  v_gap        record;
  v_reason     text;
  v_answered   integer := 0;
  v_judged     integer := 0;
  v_missed     integer := 0;
begin
  -- One watchdog at a time, and jobs before runs, as start_job and finish_job lock them.
  perform from monitor.job_schedules order by job for update;

  begin
    update monitor.job_runs as run
    set responded_at = response.created,
        http_status = response.status_code,
        http_timed_out = coalesce(response.timed_out, false),
        http_error = left(response.error_msg, 300)
    from net._http_response as response
    where not run.is_settled and run.responded_at is null and run.request_id = response.id
      and response.created >= run.queued_at -- after a crash pg_net counts its ids from 1 again
      and response.created < run.queued_at + interval '10 minutes';
    get diagnostics v_answered = row_count;
  exception when invalid_schema_name or undefined_table then
    null; -- without pg_net there is no answer to join; invoke_function has failed the runs already
  end;

  update monitor.job_runs as run
  set state = judged.state, is_slow = judged.is_slow, reason = judged.reason, is_settled = judged.is_settled
  from (
    select unsettled.run_id, verdict.*
    from monitor.job_runs as unsettled
    cross join lateral monitor.judge_run(unsettled, p_now) as verdict
    where not unsettled.is_settled
    order by unsettled.scheduled_at
    limit 5000
  ) as judged
  where run.run_id = judged.run_id
    and (run.state, run.is_slow, run.is_settled, coalesce(run.reason, ''))
      is distinct from (judged.state, judged.is_slow, judged.is_settled, coalesce(judged.reason, ''));
  get diagnostics v_judged = row_count;

  for v_schedule in
    select job, cron_name, schedule, watched_until from monitor.job_schedules where is_function order by job
  loop
    for v_gap in
      select min(missing.tick) as first, count(*) as ticks, missing.run_id, missing.state
      from (
        select tick, before.run_id, before.state
        from monitor.cron_ticks(
          v_schedule.schedule, greatest(v_schedule.watched_until, p_now - c_lookback), p_now - c_grace) as tick
        left join lateral (
          select run.run_id, run.state, run.scheduled_at
          from monitor.job_runs as run
          where run.job = v_schedule.job and run.trigger = 'cron' and run.scheduled_at <= tick
          order by run.scheduled_at desc
          limit 1
        ) as before on true
        where before.scheduled_at is distinct from tick
      ) as missing
      group by missing.run_id, missing.state
      order by first
    loop
      v_missed := v_missed + v_gap.ticks;
      -- A gap is one row however long it gets: what is missing right after a missed run extends it.
      if v_gap.state = 'missed' then
        update monitor.job_runs set missed_count = missed_count + v_gap.ticks where run_id = v_gap.run_id;
        continue;
      end if;

      begin
        select 'pg_cron: ' || left(detail.return_message, 200) into v_reason
        from cron.job_run_details as detail
        join cron.job using (jobid)
        where job.jobname = v_schedule.cron_name and detail.status = 'failed'
          and detail.start_time >= v_gap.first and detail.start_time < v_gap.first + c_grace
        order by detail.start_time
        limit 1;
      exception when invalid_schema_name or undefined_table or insufficient_privilege then
        v_reason := null;
      end;
      insert into monitor.job_runs (job, trigger, scheduled_at, state, reason, missed_count, is_settled)
      values (v_schedule.job, 'cron', v_gap.first, 'missed', coalesce(v_reason, 'pg_cron did not fire'), v_gap.ticks, true);
    end loop;

    update monitor.job_schedules
    set watched_until = greatest(watched_until, p_now - c_grace)
    where job = v_schedule.job;
  end loop;

  update monitor.job_schedules set last_succeeded_at = p_now where job = 'watch-jobs';
  return jsonb_build_object('answered', v_answered, 'judged', v_judged, 'missed', v_missed);
end;
$$;

comment on function monitor.watch_jobs(timestamptz) is
  'Joins the three witnesses of every unsettled run and records ticks at which cron did not fire, one row a gap. Plain '
  'SQL: works while every edge function is down. Returns {answered, judged, missed}.';

create function monitor.cron_command(p_job text, p_is_function boolean)
returns text
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when p_is_function
    then format('select monitor.invoke_function(%L)', p_job)
    else format('select monitor.%I()', replace(p_job, '-', '_')) end;
$$;

comment on function monitor.cron_command(text, boolean) is 'What pg_cron runs for a job.';

create function monitor.set_schedule(p_job text, p_schedule text, p_now timestamptz default now())
returns void
language plpgsql
security definer -- pg_cron runs a job as whoever scheduled it: that has to stay the owner of this schema
set search_path = ''
as $$
declare
  v_cron_name    text;
  v_is_function  boolean;
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may change a schedule' using errcode = 'insufficient_privilege';
  end if;
  if p_schedule is null or not monitor.is_cron_schedule(p_schedule) then
    raise exception 'not a cron schedule: %', p_schedule
      using errcode = 'invalid_parameter_value',
            hint    = 'Five fields of numbers, *, lists, ranges and steps, in UTC, e.g. */5 * * * *.';
  end if;

  -- Ticks of the old schedule are not missed under the new one.
  update monitor.job_schedules
  set schedule = p_schedule,
      stale_after_seconds = monitor.stale_after_seconds(p_schedule, p_now),
      watched_until = case when schedule = p_schedule then watched_until else greatest(watched_until, p_now) end
  where job = p_job
  returning cron_name, is_function into v_cron_name, v_is_function;
  if not found then
    raise exception 'no such job: %', p_job
      using errcode = 'invalid_parameter_value', hint = 'Jobs are the rows of monitor.job_schedules.';
  end if;

  perform cron.schedule(v_cron_name, p_schedule, monitor.cron_command(p_job, v_is_function));
end;
$$;

comment on function monitor.set_schedule(text, text, timestamptz) is
  'Sets when a job runs, in job_schedules and in pg_cron; repeating it changes nothing. Recorded in the audit log. '
  'Errors: 42501 for a user who is no admin, 22023 for an unknown job or a schedule that is none.';

create function monitor.check_setup(p_now timestamptz default now())
returns table (requirement text, status text, detail text, fix text)
language plpgsql
security definer -- looks into Vault and pg_cron, and says only whether what is needed is there
set search_path = ''
as $$
declare
  v_name      text;
  v_value     text;
  v_job       record;
  v_run       record;
  v_has_cron  boolean := to_regclass('cron.job') is not null;
  v_has_vault boolean := to_regclass('vault.decrypted_secrets') is not null;
  v_text      text;
  v_number    bigint;
begin
  foreach v_name in array array['pg_cron', 'pg_net', 'supabase_vault'] loop
    requirement := 'extension ' || v_name;
    select extversion into v_text from pg_catalog.pg_extension where extname = v_name;
    status := case when v_text is null then 'failed' else 'ok' end;
    detail := coalesce('version ' || v_text, 'not installed');
    fix := case when v_text is null then format('create extension %I;', v_name) end;
    return next;
  end loop;

  foreach v_name in array array['project_url', 'cron_secret_key'] loop
    requirement := 'Vault secret ' || v_name;
    v_value := null;
    if v_has_vault then
      select decrypted_secret into v_value from vault.decrypted_secrets where name = v_name;
    end if;
    status := case
      when v_value is null then 'failed'
      when v_name = 'project_url' and not monitor.is_project_url(v_value) then 'failed'
      when v_name = 'cron_secret_key' and v_value !~ '^sb_secret_[A-Za-z0-9_-]+$' then 'failed'
      else 'ok' end;
    detail := case
      when v_value is null then 'there is no secret of this name'
      when status = 'failed' then 'it has the wrong form'
      else 'resolves' end;
    fix := case when status = 'failed' then format(
      case when v_value is null
        then 'select vault.create_secret(''%1$s'', ''%2$s'');'
        else 'select vault.update_secret((select id from vault.secrets where name = ''%2$s''), ''%1$s'');' end,
      case v_name when 'project_url' then 'https://<project-ref>.supabase.co' else 'sb_secret_…' end, v_name) end;
    return next;
  end loop;

  -- What the last answer says counts only as long as the next one is not overdue.
  select run.http_status, run.responded_at, run.responded_at > p_now - make_interval(secs => (
      select min(stale_after_seconds) from monitor.job_schedules where is_function)) as is_fresh
  into v_run
  from monitor.job_runs as run
  where run.trigger = 'cron' and run.responded_at is not null
  order by run.responded_at desc
  limit 1;
  v_text := coalesce(
    'the last answer came at ' || to_char(v_run.responded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')
      || coalesce(': HTTP ' || v_run.http_status, ' and was none'),
    'no function has answered yet');

  requirement := 'last round trip';
  status := case when v_run.is_fresh and v_run.http_status is not null then 'ok' else 'unknown' end;
  detail := v_text;
  fix := case when status = 'unknown' then
    'Wait two minutes. If nothing comes, the worker of pg_net hangs: select net.worker_restart();' end;
  return next;

  requirement := 'key accepted';
  status := case
    when v_run.http_status in (401, 403) then 'failed'
    when v_run.is_fresh and (v_run.http_status < 300 or v_run.http_status = 409) then 'ok'
    else 'unknown' end;
  detail := v_text;
  fix := case status
    when 'failed' then 'Make a secret key named cron (or cron_next) in the project''s API settings and store it: '
      || 'select vault.update_secret((select id from vault.secrets where name = ''cron_secret_key''), ''sb_secret_…'');'
    when 'unknown' then 'Wait two minutes; then look at the last successes below.' end;
  return next;

  requirement := 'jobs switched on';
  select case when jobs_enabled then 'ok' else 'failed' end into status from monitor.settings;
  detail := case status when 'ok' then 'the kill switch is off' else 'the kill switch stops every job' end;
  fix := case when status = 'failed' then 'update monitor.settings set jobs_enabled = true;' end;
  return next;

  for v_job in select * from monitor.job_schedules order by job loop
    requirement := 'job ' || v_job.cron_name;
    status := 'failed';
    detail := 'pg_cron does not know it';
    fix := format('select monitor.set_schedule(%L, %L);', v_job.job, v_job.schedule);
    if v_has_cron then
      for v_run in select active, schedule, command from cron.job where jobname = v_job.cron_name loop
        if not v_run.active then
          detail := 'switched off in pg_cron';
          fix := format('select cron.alter_job(jobid, active := true) from cron.job where jobname = %L;', v_job.cron_name);
        elsif v_run.schedule <> v_job.schedule then
          detail := format('pg_cron has %s, job_schedules has %s', v_run.schedule, v_job.schedule);
        elsif v_run.command <> monitor.cron_command(v_job.job, v_job.is_function) then
          detail := 'pg_cron runs another command';
        else
          status := 'ok';
          detail := 'active, ' || v_job.schedule;
          fix := null;
        end if;
      end loop;
    end if;
    return next;

    requirement := 'last success of ' || v_job.job;
    select run.state, run.reason into v_run
    from monitor.job_runs as run
    where run.job = v_job.job and run.state not in ('queued', 'running')
    order by run.scheduled_at desc, run.finished_at desc nulls last
    limit 1;
    status := case
      when v_job.last_succeeded_at > p_now - make_interval(secs => v_job.stale_after_seconds) then 'ok'
      when v_run.state is null and p_now < v_job.created_at + make_interval(secs => v_job.stale_after_seconds) then 'unknown'
      else 'failed' end;
    detail := coalesce(
      to_char(v_job.last_succeeded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), 'never')
      || case when status = 'failed' then coalesce('; the last run was ' || v_run.state || coalesce(' (' || v_run.reason || ')', ''), '') else '' end;
    fix := case
      when status = 'ok' then null
      when v_run.reason ~ '^HTTP 50[03]' then 'Is the schema exposed? Project settings → Data API → Exposed schemas: add monitor. '
        || 'Else the log of the function tells.'
      when v_job.is_function then format(
        'Is it deployed? supabase functions deploy %1$s --use-api. Then: select monitor.invoke_function(%1$L); and look at monitor.job_runs.', v_job.job)
      else format('select monitor.%I();', replace(v_job.job, '-', '_')) end;
    return next;
  end loop;

  requirement := 'grants';
  select
    string_agg(broken.detail, ', ' order by broken.detail),
    string_agg(broken.fix, ' ' order by broken.detail)
  into v_text, fix
  from (
    select 'service_role may not use the schema' as detail, 'grant usage on schema monitor to service_role;' as fix
    where not has_schema_privilege('service_role', 'monitor', 'usage')
    union all
    select 'service_role may not call ' || oid::regprocedure,
      format('grant execute on function %s to service_role;', oid::regprocedure)
    from pg_catalog.pg_proc
    where pronamespace = 'monitor'::regnamespace
      and (proname in ('start_job', 'finish_job', 'plan_collection', 'record_collection', 'read_detection_page',
          'record_detections', 'list_retention_steps', 'run_retention_step', 'read_health')
        or proname in (select collector from monitor.metric_collectors))
      and not has_function_privilege('service_role', oid, 'execute')
    union all
    select 'anon may use the schema', 'revoke all on schema monitor from anon, public;'
    where has_schema_privilege('anon', 'monitor', 'usage')
  ) as broken;
  status := case when v_text is null then 'ok' else 'failed' end;
  detail := coalesce(v_text, 'service_role works here, anon has no access');
  return next;

  requirement := 'days ahead';
  select count(*) into v_number from monitor.sample_days
  where state = 'rows' and day between (p_now at time zone 'UTC')::date and (p_now at time zone 'UTC')::date + 2;
  status := case when v_number = 3 then 'ok' else 'failed' end;
  detail := v_number || ' of 3 days (today and the next two) have their partition';
  fix := case when status = 'failed' then 'select monitor.ensure_sample_days();' end;
  return next;

  requirement := 'invocations a month';
  select sum((select count(*) from monitor.cron_ticks(schedule, p_now, p_now + interval '30 days')))
  into v_number
  from monitor.job_schedules
  where is_function;
  status := case when v_number <= 500000 then 'ok' else 'failed' end;
  detail := to_char(v_number, 'FM999,999,990') || ' by these schedules; the free plan has 500,000';
  fix := case when status = 'failed' then 'select monitor.set_schedule(''collect-metrics'', ''*/2 * * * *'');' end;
  return next;
end;
$$;

comment on function monitor.check_setup(timestamptz) is
  'One row a requirement of a working setup: requirement, status (ok, failed, unknown), detail, and the exact fix when it '
  'is not ok. Shows no secret.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.set_schedule(text, text, timestamptz)
to authenticated, service_role;
grant execute on function monitor.check_setup(timestamptz) to service_role;
