-- Purpose:  retention over chunks and rollups, and a storage budget.
-- Locks:    access exclusive on retention_policies while a column and checks change. When run: dropping a week or month locks
--           metric_chunks or metric_rollups for a moment (waits at most 500 ms for it).
-- Undo:     drop function monitor.cleanup_old_metrics(integer, timestamptz, boolean, integer, integer),
--           monitor.cleanup_old_rollups(integer, timestamptz, boolean, integer), monitor.monitor_bytes(),
--           monitor.continue_jobs(timestamptz); run the functions of the same names of 20261121090900, 20261121091000 and
--           20261121091200 again, as create or replace; delete the policies of the tables that 20261121100100 made, set that of
--           metric_time_series to drop_days, drop the column keep_megabytes and restore the two checks.

alter table monitor.retention_policies
  add column keep_megabytes integer,
  drop constraint retention_policies_keep_days_with_action,
  drop constraint retention_policies_action_fits_entity;

comment on column monitor.retention_policies.keep_megabytes is
  'Only of metric_chunks: while all tables of this schema take more than so many MB (10^6 bytes), the oldest week of chunks '
  'is dropped, however young. Null: no budget.';
comment on column monitor.retention_policies.action is
  'compact: days go into chunks. drop_weeks, drop_months: whole ones, when their last day is old enough. archive: moved, then '
  'deleted there. delete: rows. with_owner: goes with the row it belongs to. keep: never removed.';

-- Who changed how long samples are kept meant the samples, wherever they lie.
insert into monitor.retention_policies (entity, action, keep_days, position, reason, keep_megabytes)
select 'metric_chunks', case action when 'drop_days' then 'drop_weeks' else 'keep' end, keep_days, 21,
  'A month of samples, and what fits into a free project beside its own data.', case action when 'drop_days' then 400 end
from monitor.retention_policies where entity = 'metric_time_series';

update monitor.retention_policies
set action = 'compact', keep_days = 2, reason = 'A sample takes 90 bytes as a row and 4 in a chunk; late ones are rare after 2 days.'
where entity = 'metric_time_series';

insert into monitor.retention_policies (entity, action, keep_days, position, reason) values
  ('metric_rollups', 'drop_months', 400, 22, 'Hours of more than a year, to compare seasons.'),
  ('chunk_times', 'with_owner', null, 904, 'Goes with the week of chunks that it tells the times of.'),
  ('late_samples', 'with_owner', null, 905, 'Goes into the chunk it belongs to.');

alter table monitor.retention_policies
  add constraint retention_policies_keep_days_with_action
    check ((keep_days is not null) = (action in ('compact', 'drop_weeks', 'drop_months', 'archive', 'delete'))),
  add constraint retention_policies_keep_megabytes_of_chunks
    check (keep_megabytes is null or (entity = 'metric_chunks' and action = 'drop_weeks')),
  add constraint retention_policies_keep_megabytes_in_range check (keep_megabytes between 1 and 100000000),
  add constraint retention_policies_action_fits_entity check (case
    when entity = 'metric_time_series' then action in ('compact', 'keep')
    when entity = 'metric_chunks' then action in ('drop_weeks', 'keep')
    when entity = 'metric_rollups' then action in ('drop_months', 'keep')
    when entity = 'anomaly_detections' then action in ('archive', 'keep')
    when entity = 'evidence_samples' then action in ('with_owner', 'keep')
    when entity in ('detector_states', 'incident_events', 'incident_alerts', 'incident_anomalies', 'chunk_times', 'late_samples')
      then action = 'with_owner'
    when entity in ('anomaly_detections_archive', 'system_alerts', 'incidents', 'job_runs', 'retention_runs', 'audit_log',
      'sample_days', 'metric_series', 'cron.job_run_details') then action in ('delete', 'keep')
    else action = 'keep' end);

create function monitor.monitor_bytes()
returns bigint
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
  from pg_catalog.pg_class
  where relnamespace = 'monitor'::regnamespace and relkind in ('r', 'm');
$$;

comment on function monitor.monitor_bytes() is 'Bytes on disk of all tables of this schema, with indexes and TOAST.';

drop function monitor.cleanup_old_metrics(integer, timestamptz, boolean, integer);

create function monitor.cleanup_old_metrics(
  retention_days  integer     default 30,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 10,
  p_keep_megabytes  integer   default null
)
returns jsonb
language plpgsql
security definer -- dropping a partition takes the owner of the table
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  -- Rounds down: a day goes only when its last moment is older than the limit.
  v_cutoff      date := (monitor.retention_cutoff(retention_days, p_now) at time zone 'UTC')::date;
  v_today       date := (p_now at time zone 'UTC')::date;
  -- Rows that wait for compaction take twenty times what they will: nothing is shed because of them.
  v_is_settling boolean := exists (
    select from monitor.sample_days as known
    where known.state = 'sealed'
      or (known.state = 'chunks' and to_regclass('monitor.metric_time_series_' || to_char(known.day, 'YYYYMMDD')) is not null)
      or (known.state = 'rows' and known.day < (p_now at time zone 'UTC')::date + 1 - (
        select policy.keep_days from monitor.retention_policies as policy
        where policy.entity = 'metric_time_series' and policy.action = 'compact')));
  v_week        record;
  v_weeks       integer := 0;
  v_days        integer := 0;
  v_samples     bigint := 0;
  v_found       bigint := 0;
  v_shed_days   integer := 0;
  v_held        integer := 0;
  v_contended   integer := 0;
  v_excess      bigint := coalesce(monitor.monitor_bytes() - p_keep_megabytes * 1000000::bigint, 0);
  v_is_old      boolean;
  v_is_whole    boolean;
  v_is_blocked  boolean := false;
  v_more        boolean := false;
  v_gone        date[] := '{}';
  v_oldest      date;
  v_detail      text;
begin
  perform monitor.check_retention_limit(p_limit);
  if p_keep_megabytes < 1 then
    raise exception 'p_keep_megabytes must be at least 1, got %', p_keep_megabytes
      using errcode = 'invalid_parameter_value', hint = 'Pass null for no budget.';
  end if;

  for v_week in
    select
      week.first_day, week.partition,
      bool_or(known.state in ('rows', 'sealed')) as is_open,
      bool_or(known.state = 'sealed'
        or (known.state = 'chunks' and to_regclass('monitor.metric_time_series_' || to_char(known.day, 'YYYYMMDD')) is not null)
        or (known.state = 'chunks' and exists (
          select from monitor.late_samples as late
          where late.recorded_at >= monitor.utc_midnight(known.day) and late.recorded_at < monitor.utc_midnight(known.day + 1)
        ))) as is_busy,
      array_agg(known.day order by known.day) filter (where known.state = 'chunks') as days
    from (
      select distinct date_trunc('week', day::timestamp)::date as first_day,
        to_regclass('monitor.metric_chunks_' || to_char(day, 'IYYY"w"IW')) as partition
      from monitor.sample_days where state <> 'dropped'
    ) as week
    join monitor.sample_days as known on known.day >= week.first_day and known.day < week.first_day + 7
    where week.partition is not null and known.state <> 'dropped'
    group by week.first_day, week.partition
    having bool_or(known.state = 'chunks') or week.first_day + 7 <= v_cutoff
    order by week.first_day
  loop
    v_is_old := v_week.first_day + 7 <= v_cutoff;
    exit when not v_is_old and v_excess <= 0;
    if not v_is_old and v_is_settling then
      v_held := v_held + 1;
      v_detail := concat_ws('; ', v_detail, 'over the budget, but days are still to be compacted');
      v_is_blocked := true;
      exit;
    end if;
    -- Rows that are not compacted have no rollup yet, and late samples are not in theirs: dropping would lose it.
    if (v_is_old and v_week.is_open) or v_week.is_busy then
      v_held := v_held + 1;
      v_detail := 'the week of ' || v_week.first_day || ' is being compacted';
      v_is_blocked := not v_is_old;
      exit when v_is_blocked; -- a younger week is not shed before it
      continue;
    end if;
    if not p_dry_run and v_weeks >= p_limit then
      v_more := true;
      exit;
    end if;

    begin
      -- A week that goes on keeps its partition for the days to come.
      v_is_whole := v_is_old or (not v_week.is_open and v_week.first_day + 7 <= v_today);
      if not p_dry_run then
        perform monitor.hold_days(case when v_is_whole
          then array(select v_week.first_day + n from generate_series(0, 6) as n) else v_week.days end, true);
        -- While that was waited for, another one may have dropped it, or late samples have come.
        continue when not exists (select from monitor.sample_days where day = any (v_week.days) and state = 'chunks');
        if exists (
          select from monitor.late_samples
          where recorded_at >= monitor.utc_midnight(v_week.first_day) and recorded_at < monitor.utc_midnight(v_week.first_day + 7)
        ) or v_week.days is distinct from (
          select array_agg(day order by day) from monitor.sample_days
          where state = 'chunks' and day >= v_week.first_day and day < v_week.first_day + 7
        ) then
          v_held := v_held + 1;
          v_detail := 'the week of ' || v_week.first_day || ' is being written';
          v_is_blocked := not v_is_old;
          exit when v_is_blocked;
          continue;
        end if;
      end if;
      v_excess := v_excess - pg_total_relation_size(v_week.partition);
      if not p_dry_run then
        select coalesce(sum(sample_count), 0) into v_found
        from monitor.metric_chunks where day >= v_week.first_day and day < v_week.first_day + 7;
        delete from monitor.chunk_times where day = any (v_week.days);
        update monitor.sample_days set state = 'dropped', state_since = p_now where day = any (v_week.days);
        -- Last, because from here on nobody else reaches the table.
        execute format(case when v_is_whole then 'drop table %s' else 'truncate table %s' end, v_week.partition);
      end if;
      v_weeks := v_weeks + 1;
      v_samples := v_samples + v_found;
      v_days := v_days + cardinality(v_week.days);
      v_gone := v_gone || v_week.days;
      if not v_is_old then
        v_shed_days := v_shed_days + cardinality(v_week.days);
        v_detail := format('over the budget of %s MB: samples before %s were dropped before their time',
          p_keep_megabytes, v_week.days[cardinality(v_week.days)] + 1);
      end if;
    exception when lock_not_available or deadlock_detected then
      v_contended := v_contended + 1;
      v_detail := 'others are using the table; the next run will try again';
      exit; -- whoever reads the table now will still do so for the next week
    end;
  end loop;

  if v_excess > 0 and v_contended = 0 and not v_more and not v_is_blocked then
    v_held := v_held + 1;
    v_detail := concat_ws('; ', v_detail, format('%s MB over the budget of %s MB, and no week of chunks is left to drop',
      ceil(v_excess / 1e6), p_keep_megabytes));
  end if;
  select min(day) into v_oldest from monitor.sample_days where state <> 'dropped' and day <> all (v_gone);
  return monitor.retention_result(
    'metric_chunks', jsonb_build_object('weeks', v_weeks, 'days', v_days, 'samples', v_samples, 'shed_days', v_shed_days),
    case when v_held > 0 then jsonb_build_object('held', v_held) else '{}' end, v_contended,
    monitor.utc_midnight(v_oldest), v_more and v_contended = 0, v_started_at, v_detail);
end;
$$;

comment on function monitor.cleanup_old_metrics(integer, timestamptz, boolean, integer, integer) is
  'Drops the weeks of chunks whose last UTC day ended more than retention_days ago (the cut-off rounds down to midnight), and, '
  'while the schema takes more than p_keep_megabytes, the oldest ones left, at most p_limit a call. Rollups and evidence stay. '
  'A week is held while one of its days is not compacted. Returns as monitor.retention_result, counting weeks, days, samples '
  'and shed_days. Errors: 22023 for an argument out of range.';

create function monitor.cleanup_old_rollups(
  retention_days  integer     default 400,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 10
)
returns jsonb
language plpgsql
security definer -- dropping a partition takes the owner of the table
set search_path = ''
set lock_timeout = '500ms'
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_cutoff      date := (monitor.retention_cutoff(retention_days, p_now) at time zone 'UTC')::date;
  v_month       record;
  v_months      integer := 0;
  v_due         integer := 0;
  v_held        integer := 0;
  v_contended   integer := 0;
  v_oldest      date;
begin
  perform monitor.check_retention_limit(p_limit);
  for v_month in
    select child.oid::regclass as partition, to_date(right(child.relname, 6), 'YYYYMM') as first_day
    from pg_catalog.pg_inherits
    join pg_catalog.pg_class as child on child.oid = inhrelid
    where inhparent = 'monitor.metric_rollups'::regclass
    order by 2
  loop
    if v_month.first_day + interval '1 month' > v_cutoff then
      v_oldest := least(v_oldest, v_month.first_day);
      continue;
    end if;
    -- Of what is in chunks, hours are read from here alone; and what is still to be compacted or merged needs the place.
    if exists (
      select from monitor.sample_days
      where state <> 'dropped' and day >= v_month.first_day and day < v_month.first_day + interval '1 month'
    ) then
      v_held := v_held + 1;
      v_oldest := least(v_oldest, v_month.first_day);
      continue;
    end if;
    v_due := v_due + 1;
    continue when not p_dry_run and v_months >= p_limit;
    begin
      if not p_dry_run then
        execute format('drop table %s', v_month.partition);
      end if;
      v_months := v_months + 1;
    exception when lock_not_available or deadlock_detected then
      v_contended := v_contended + 1;
      exit;
    end;
  end loop;
  return monitor.retention_result(
    'metric_rollups', jsonb_build_object('months', v_months),
    case when v_held > 0 then jsonb_build_object('held', v_held) else '{}' end, v_contended, monitor.utc_midnight(v_oldest),
    not p_dry_run and v_contended = 0 and v_months < v_due, v_started_at,
    case when v_contended > 0 then 'others are using the table; the next run will try again'
      when v_held > 0 then 'samples of these months are kept as well' end);
end;
$$;

comment on function monitor.cleanup_old_rollups(integer, timestamptz, boolean, integer) is
  'Drops the months of rollups whose last UTC day ended more than retention_days ago, at most p_limit a call, oldest first; '
  'a month is held while samples of it are kept. Returns as monitor.retention_result, counting months. Errors: 22023 for an argument out of range.';

create or replace function monitor.cleanup_own_table(
  p_entity        text,
  retention_days  integer,
  p_now           timestamptz default now(),
  p_dry_run       boolean     default false,
  p_limit         integer     default 5000
)
returns jsonb
language plpgsql
security definer -- pg_cron's record belongs to the owner of this schema, the audit log to nobody else
set search_path = ''
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_cutoff      timestamptz := monitor.retention_cutoff(retention_days, p_now);
  v_due         integer;
  v_held        integer;
  v_deleted     integer;
  v_ids         bigint[];
  v_oldest      timestamptz;
begin
  perform monitor.check_retention_limit(p_limit);
  -- One static statement an entity: nothing here is put together from strings.
  if p_entity = 'job_runs' then
    select count(*) into v_due from monitor.job_runs where scheduled_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.job_runs where run_id in (
        select run_id from monitor.job_runs where scheduled_at < v_cutoff
        order by scheduled_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'retention_runs' then
    select count(*) into v_due from monitor.retention_runs where started_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.retention_runs where retention_run_id in (
        select retention_run_id from monitor.retention_runs where started_at < v_cutoff
        order by started_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'audit_log' then
    select count(*) into v_due from monitor.audit_log where changed_at < v_cutoff;
    if not p_dry_run then
      delete from monitor.audit_log where entry_id in (
        select entry_id from monitor.audit_log where changed_at < v_cutoff
        order by changed_at limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'anomaly_detections_archive' then
    p_limit := least(p_limit, 500); -- each has some hundred samples of evidence that go with it
    with judged as (
      select archived.reviewed_at, case
        when archived.reviewed_at >= v_cutoff then 'young'
        when exists (
          select from monitor.incident_anomalies as link
          join monitor.incidents as incident using (incident_id)
          where link.anomaly_id = archived.anomaly_id and incident.resolved_at is null
        ) or exists (
          select from monitor.system_alerts as alert
          where alert.anomaly_id = archived.anomaly_id and alert.resolved_at is null
        ) then 'held'
        else 'free'
      end as fate
      from monitor.anomaly_detections_archive as archived
    )
    select
      count(*) filter (where fate = 'free'), count(*) filter (where fate = 'held'),
      min(reviewed_at) filter (where fate <> 'free')
    into v_due, v_held, v_oldest
    from judged;
    if not p_dry_run then
      with deleted as (
        delete from monitor.anomaly_detections_archive where anomaly_id in (
          select anomaly_id from monitor.anomaly_detections_archive as archived
          where reviewed_at < v_cutoff
            and not exists (
              select from monitor.incident_anomalies as link
              join monitor.incidents as incident using (incident_id)
              where link.anomaly_id = archived.anomaly_id and incident.resolved_at is null
            )
            and not exists (
              select from monitor.system_alerts as alert
              where alert.anomaly_id = archived.anomaly_id and alert.resolved_at is null
            )
          order by reviewed_at, anomaly_id limit p_limit for update skip locked)
        returning anomaly_id
      )
      select count(*), array_agg(anomaly_id) into v_deleted, v_ids from deleted;
      perform monitor.delete_evidence('anomaly', v_ids);
      select min(reviewed_at) into v_oldest from monitor.anomaly_detections_archive;
    end if;
  elsif p_entity = 'sample_days' then
    -- A younger one would be taken for a day that is not known, and opened again by a late sample.
    select count(*) into v_due from monitor.sample_days
    where state = 'dropped' and state_since < v_cutoff and day < (p_now at time zone 'UTC')::date - 8;
    if not p_dry_run then
      delete from monitor.sample_days where day in (
        select day from monitor.sample_days
        where state = 'dropped' and state_since < v_cutoff and day < (p_now at time zone 'UTC')::date - 8
        order by day limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
    end if;
  elsif p_entity = 'metric_series' then
    -- `count(*) = 0` is looked up by index, for one idle series after the other until there are enough; with
    -- `not exists` all samples are read to be compared with all series.
    with due as materialized (
      select series_id from monitor.metric_series as series
      where coalesce(last_sample_at, created_at) < v_cutoff
        and (select count(*) from monitor.anomaly_detections where series_id = series.series_id) = 0
        and (select count(*) from monitor.anomaly_detections_archive where series_id = series.series_id) = 0
        and (select count(*) from monitor.evidence_samples where series_id = series.series_id) = 0
        and (select count(*) from monitor.metric_time_series where series_id = series.series_id) = 0
        and (select count(*) from monitor.metric_chunks where series_id = series.series_id) = 0
        and (select count(*) from monitor.metric_rollups where series_id = series.series_id) = 0
        and (select count(*) from monitor.late_samples where series_id = series.series_id) = 0
      limit p_limit + 1
    )
    select
      (select count(*) from due),
      (select min(created_at) from monitor.metric_series where series_id not in (select series_id from due))
    into v_due, v_oldest;
    if not p_dry_run then
      delete from monitor.metric_series where series_id in (
        select series_id from monitor.metric_series as series
        where coalesce(last_sample_at, created_at) < v_cutoff
          and (select count(*) from monitor.anomaly_detections where series_id = series.series_id) = 0
          and (select count(*) from monitor.anomaly_detections_archive where series_id = series.series_id) = 0
          and (select count(*) from monitor.evidence_samples where series_id = series.series_id) = 0
          and (select count(*) from monitor.metric_time_series where series_id = series.series_id) = 0
          and (select count(*) from monitor.metric_chunks where series_id = series.series_id) = 0
          and (select count(*) from monitor.metric_rollups where series_id = series.series_id) = 0
          and (select count(*) from monitor.late_samples where series_id = series.series_id) = 0
        order by coalesce(last_sample_at, created_at), series_id limit p_limit for update skip locked);
      get diagnostics v_deleted = row_count;
      select min(created_at) into v_oldest from monitor.metric_series;
    end if;
  elsif p_entity = 'cron.job_run_details' then
    if to_regclass('cron.job_run_details') is null then
      return monitor.retention_result(p_entity, '{}', '{}', 0, null, false, v_started_at)
        || jsonb_build_object('outcome', 'missing', 'detail', 'pg_cron is not installed');
    end if;
    -- Runs are numbered as they start, so the first ones tell. One that a restart of the server cut off has no end,
    -- and no start either if it was still starting: it is as old as those after it.
    with first as (
      select runid, coalesce(end_time, start_time) as ran_at from cron.job_run_details order by runid limit p_limit + 1
    )
    select array_agg(runid order by runid) into v_ids
    from first
    where ran_at < v_cutoff
      or ran_at is null and runid < (select max(runid) from first where ran_at < v_cutoff);
    v_due := coalesce(cardinality(v_ids), 0);
    if not p_dry_run then
      -- No row locks here: pg_cron lets us delete its rows, not update them.
      delete from cron.job_run_details where runid = any (v_ids[1:p_limit]);
      get diagnostics v_deleted = row_count;
    end if;
    select coalesce(end_time, start_time) into v_oldest from cron.job_run_details
    where coalesce(end_time, start_time) >= case when p_dry_run then v_cutoff else '-infinity' end
    order by runid limit 1;
  else
    raise exception 'no clean-up is written for %', p_entity
      using errcode = 'invalid_parameter_value', hint = 'See monitor.retention_policies.';
  end if;

  if p_dry_run then
    v_deleted := v_due;
  end if;
  v_oldest := case p_entity
    when 'job_runs' then (select min(scheduled_at) from monitor.job_runs where not p_dry_run or scheduled_at >= v_cutoff)
    when 'retention_runs' then (select min(started_at) from monitor.retention_runs where not p_dry_run or started_at >= v_cutoff)
    when 'audit_log' then (select min(changed_at) from monitor.audit_log where not p_dry_run or changed_at >= v_cutoff)
    when 'sample_days' then
      (select min(day)::timestamp at time zone 'UTC' from monitor.sample_days
        where not p_dry_run or state <> 'dropped' or state_since >= v_cutoff)
    else v_oldest
  end;
  return monitor.retention_result(
    p_entity, jsonb_build_object('deleted', v_deleted),
    case when v_held is null then '{}' else jsonb_build_object('held', v_held) end,
    -- Fewer than there was room for: the others were locked.
    case when p_dry_run then 0 else greatest(least(v_due, p_limit) - v_deleted, 0) end,
    v_oldest, not p_dry_run and v_deleted > 0 and v_due > v_deleted, v_started_at);
end;
$$;

create or replace function monitor.list_retention_steps()
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(jsonb_agg(entity order by position, entity), '[]')
  from monitor.retention_policies
  where action in ('compact', 'drop_weeks', 'drop_months', 'archive', 'delete') or (entity = 'evidence_samples' and action <> 'keep');
$$;

create or replace function monitor.run_retention_step(
  p_entity   text,
  p_run_id   uuid        default null,
  p_dry_run  boolean     default false,
  p_now      timestamptz default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
set lock_timeout = '500ms' -- rows that belong to what is deleted cannot be skipped when others hold them
as $$
declare
  v_started_at  timestamptz := clock_timestamp();
  v_days        integer;
  v_megabytes   integer;
  v_result      jsonb;
begin
  select keep_days, keep_megabytes into v_days, v_megabytes from monitor.retention_policies where entity = p_entity;
  if not found or not monitor.list_retention_steps() ? p_entity then
    raise exception 'retention does not work on %', p_entity
      using errcode = 'invalid_parameter_value', hint = 'See monitor.list_retention_steps().';
  end if;

  begin
    v_result := case p_entity
      when 'evidence_samples' then monitor.cleanup_evidence(p_now, p_dry_run)
      when 'metric_time_series' then monitor.compact_samples(v_days, p_now, p_dry_run)
      when 'metric_chunks' then monitor.cleanup_old_metrics(v_days, p_now, p_dry_run, 1, v_megabytes)
      when 'metric_rollups' then monitor.cleanup_old_rollups(v_days, p_now, p_dry_run)
      when 'anomaly_detections' then monitor.cleanup_old_anomalies(v_days, p_now, p_dry_run)
      when 'system_alerts' then monitor.cleanup_old_alerts(v_days, p_now, p_dry_run)
      when 'incidents' then monitor.cleanup_old_incidents(v_days, p_now, p_dry_run)
      else monitor.cleanup_own_table(p_entity, v_days, p_now, p_dry_run)
    end;
  exception
    when lock_not_available or deadlock_detected then
      v_result := monitor.retention_result(p_entity, '{}', '{}', 1, null, false, v_started_at, 'locked by others');
    when undefined_table then
      v_result := monitor.retention_result(p_entity, '{}', '{}', 0, null, false, v_started_at, sqlerrm)
        || '{"outcome": "missing"}';
    when others then -- one entity that fails must not keep the others from their turn
      v_result := monitor.retention_result(p_entity, '{}', '{}', 0, null, false, v_started_at, sqlstate || ': ' || sqlerrm)
        || '{"outcome": "failed"}';
  end;

  if not p_dry_run then
    insert into monitor.retention_runs
      (run_id, entity, started_at, duration_seconds, outcome, counts, oldest_kept_at, detail)
    values (
      p_run_id, p_entity, p_now, (v_result ->> 'duration_seconds')::double precision, v_result ->> 'outcome',
      v_result -> 'counts', (v_result ->> 'oldest_kept_at')::timestamptz, v_result ->> 'detail');
  end if;
  return v_result;
end;
$$;

create or replace function monitor.run_data_retention_cleanup(
  p_now      timestamptz default now(),
  p_dry_run  boolean     default false
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_budget constant interval := interval '4 seconds';
  v_started_at  timestamptz := clock_timestamp();
  v_entity      text;
  v_results     jsonb := '[]';
begin
  -- Dropping partitions locks their table against everybody until this transaction ends, so it comes last, and has
  -- its turn even when the others used up the time.
  for v_entity in
    select entity
    from jsonb_array_elements_text(monitor.list_retention_steps()) with ordinality as step (entity, position)
    order by entity in ('metric_time_series', 'metric_chunks', 'metric_rollups'), position
  loop
    continue when clock_timestamp() - v_started_at > c_budget and v_entity not in ('metric_time_series', 'metric_chunks', 'metric_rollups');
    v_results := v_results || monitor.run_retention_step(v_entity, null, p_dry_run, p_now);
  end loop;
  return v_results;
end;
$$;

create function monitor.continue_jobs(p_now timestamptz default now())
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
end;
$$;

comment on function monitor.continue_jobs(timestamptz) is
  'Calls data-retention-cleanup again when its last run left work: once a day would be too rare for what takes longer than a call.';

create or replace function monitor.watch_jobs(p_now timestamptz default now())
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
  perform monitor.continue_jobs(p_now);
  return jsonb_build_object('answered', v_answered, 'judged', v_judged, 'missed', v_missed);
end;
$$;

create or replace function monitor.read_health(p_now timestamptz default now())
returns jsonb
language sql
stable
security invoker
set search_path = ''
set statement_timeout = '3s'
as $$
  select jsonb_build_object(
    'now', p_now,
    'jobs_enabled', (select jobs_enabled from monitor.settings),
    'scheduler', (
      select jsonb_build_object(
        'watched_at', last_succeeded_at,
        'stale_after_seconds', stale_after_seconds,
        'installed', exists (select from pg_catalog.pg_extension where extname = 'pg_cron'))
      from monitor.job_schedules
      where job = 'watch-jobs'
    ),
    'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'job', schedule.job,
        'stale_after_seconds', schedule.stale_after_seconds,
        'last_succeeded_at', schedule.last_succeeded_at,
        'last_run_at', latest.scheduled_at,
        'last_state', latest.state,
        'last_reason', latest.reason,
        'last_complete', latest.is_complete
      ) order by schedule.job), '[]')
      from monitor.job_schedules as schedule
      left join lateral (
        select run.scheduled_at, run.state, run.reason, (run.result ->> 'complete')::boolean as is_complete
        from monitor.job_runs as run
        where run.job = schedule.job and run.state not in ('queued', 'running')
        order by run.scheduled_at desc, run.finished_at desc nulls last
        limit 1
      ) as latest on true
      where schedule.is_function
    ),
    'metrics', jsonb_build_object(
      'newest_sample_at', (select max(last_sample_at) from monitor.metric_series),
      'stale_after_seconds', (select stale_after_seconds from monitor.job_schedules where job = 'collect-metrics'),
      'failing_collectors', (
        select coalesce(jsonb_agg(collector order by collector), '[]')
        from monitor.metric_collectors
        where is_enabled and last_outcome in ('failed', 'timed_out')
          -- One that is not called any more has not failed lately.
          and last_run_at > p_now - make_interval(secs => interval_seconds * backoff_factor + 300))
    ),
    'storage', jsonb_build_object(
      'database_bytes', pg_database_size(current_database()),
      'monitor_bytes', monitor.monitor_bytes(),
      'budget_bytes', (
        select keep_megabytes * 1000000::bigint from monitor.retention_policies where entity = 'metric_chunks'),
      'shed', (
        select jsonb_build_object('at', run.started_at, 'detail', run.detail)
        from monitor.retention_runs as run
        where run.entity = 'metric_chunks' and run.started_at > p_now - interval '7 days'
          and (run.counts ->> 'shed_days')::integer > 0
        order by run.started_at desc
        limit 1),
      'days_ahead', (
        select count(*) from monitor.sample_days
        where state = 'rows' and day > (p_now at time zone 'UTC')::date),
      'contended_retention', (
        select coalesce(jsonb_agg(latest.entity order by latest.entity), '[]')
        from (
          select distinct on (run.entity) run.entity, run.outcome
          from monitor.retention_runs as run
          where run.started_at > p_now - interval '3 days'
          order by run.entity, run.started_at desc, run.retention_run_id desc
        ) as latest
        where latest.outcome in ('contended', 'failed'))
    ));
$$;

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.monitor_bytes(),
  monitor.cleanup_old_metrics(integer, timestamptz, boolean, integer, integer),
  monitor.cleanup_old_rollups(integer, timestamptz, boolean, integer)
to service_role;
