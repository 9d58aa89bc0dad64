-- Purpose:  what people know and the data does not tell: feedback, maintenance windows, deploys; and the one reader of all of it.
-- Locks:    share row exclusive on metric_series while a foreign key is made.
-- Undo:     run 20261121090600's review_anomaly again as create or replace; drop table monitor.anomaly_feedback,
--           monitor.maintenance_windows, monitor.deploy_marks; drop function monitor.label_anomaly_span(integer, text, timestamptz,
--           timestamptz, text, timestamptz), monitor.plan_maintenance(timestamptz, timestamptz, text, jsonb, timestamptz),
--           monitor.end_maintenance(bigint, timestamptz), monitor.mark_deploy(text, timestamptz, jsonb, timestamptz),
--           monitor.read_spans(integer, timestamptz, timestamptz), monitor.scan_spans(integer[], timestamptz[], timestamptz, integer),
--           monitor.check_matchers(jsonb), monitor.satisfies_matchers(text, jsonb, jsonb);

create table monitor.anomaly_feedback (
  feedback_id  bigint      generated always as identity,
  series_id    integer     not null,
  label        text        not null,
  span_since   timestamptz not null,
  span_until   timestamptz not null,
  note         text,
  created_by   text        not null,
  created_at   timestamptz not null,
  anomaly_id   bigint,

  constraint anomaly_feedback_pkey primary key (feedback_id),
  constraint anomaly_feedback_series_id_fkey
    foreign key (series_id) references monitor.metric_series (series_id) on delete cascade,
  constraint anomaly_feedback_anomaly_id_key unique (anomaly_id),
  constraint anomaly_feedback_label_known check (label in ('false_positive', 'expected', 'missed')),
  constraint anomaly_feedback_in_order check (span_until >= span_since),
  constraint anomaly_feedback_note_bounded check (length(note) between 1 and 2000),
  constraint anomaly_feedback_created_by_present check (created_by <> '')
);

create index anomaly_feedback_series_id_idx on monitor.anomaly_feedback (series_id, span_until);
create index anomaly_feedback_created_at_idx on monitor.anomaly_feedback (created_at);

comment on table monitor.anomaly_feedback is
  'A person''s word on a span of a series, which the next replay respects. That of a review goes with the review: a later one '
  'replaces it or takes it back.';
comment on column monitor.anomaly_feedback.label is
  'false_positive: not to be told, and normal. expected: not to be told, and not normal either. missed: should have been told.';
comment on column monitor.anomaly_feedback.span_since is 'Both ends belong to it.';
comment on column monitor.anomaly_feedback.span_until is 'Of an anomaly that lasts: its newest suspicious sample, moved on with it.';
comment on column monitor.anomaly_feedback.anomaly_id is
  'The anomaly whose review it is, null for a span. No foreign key: the anomaly keeps its id when it moves to the archive.';

alter table monitor.anomaly_feedback enable row level security;

create policy anomaly_feedback_select_authenticated
  on monitor.anomaly_feedback for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.anomaly_feedback to authenticated;
grant select, insert, update, delete on monitor.anomaly_feedback to service_role;

create table monitor.maintenance_windows (
  maintenance_window_id  bigint      generated always as identity,
  matchers               jsonb,
  starts_at              timestamptz not null,
  ends_at                timestamptz not null,
  reason                 text        not null,
  created_by             text        not null,
  created_at             timestamptz not null,

  constraint maintenance_windows_pkey primary key (maintenance_window_id),
  constraint maintenance_windows_matchers_are_a_list check (jsonb_typeof(matchers) = 'array' and pg_column_size(matchers) <= 8192),
  constraint maintenance_windows_in_order check (ends_at >= starts_at),
  constraint maintenance_windows_reason_present check (reason ~ '\S' and length(reason) <= 2000),
  constraint maintenance_windows_created_by_present check (created_by <> '')
);

create index maintenance_windows_ends_at_idx on monitor.maintenance_windows (ends_at);

comment on table monitor.maintenance_windows is
  'A time in which nothing of some series is told and nothing is learned from them.';
comment on column monitor.maintenance_windows.matchers is
  'Which series: [{name, op, value}] as monitor.read_samples takes them. Null: all.';
comment on column monitor.maintenance_windows.ends_at is
  'As planned or, once ended early, as it was. Equal to starts_at: called off before it began.';
comment on column monitor.maintenance_windows.reason is 'Why, for who finds silence later.';

alter table monitor.maintenance_windows enable row level security;

create policy maintenance_windows_select_authenticated
  on monitor.maintenance_windows for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.maintenance_windows to authenticated;
grant select, insert, update, delete on monitor.maintenance_windows to service_role;

create table monitor.deploy_marks (
  deploy_mark_id  bigint      generated always as identity,
  deployed_at     timestamptz not null,
  label           text        not null,
  matchers        jsonb,
  created_by      text        not null,
  created_at      timestamptz not null,

  constraint deploy_marks_pkey primary key (deploy_mark_id),
  constraint deploy_marks_label_present check (label ~ '\S' and length(label) <= 200),
  constraint deploy_marks_matchers_are_a_list check (jsonb_typeof(matchers) = 'array' and pg_column_size(matchers) <= 8192),
  constraint deploy_marks_created_by_present check (created_by <> '')
);

create index deploy_marks_deployed_at_idx on monitor.deploy_marks (deployed_at);

comment on table monitor.deploy_marks is
  'A moment at which something was deployed: a level that changed there may be the new normal.';
comment on column monitor.deploy_marks.label is 'What was deployed, e.g. a version.';
comment on column monitor.deploy_marks.matchers is 'As in maintenance_windows.';

alter table monitor.deploy_marks enable row level security;

create policy deploy_marks_select_authenticated
  on monitor.deploy_marks for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.deploy_marks to authenticated;
grant select, insert, update, delete on monitor.deploy_marks to service_role;

create function monitor.satisfies_matchers(p_metric text, p_labels jsonb, p_matchers jsonb)
returns boolean
language sql
immutable
security invoker
set search_path = ''
as $$
  select p_matchers is null or not exists (
    select
    from jsonb_array_elements(p_matchers) as matcher
    cross join lateral (
      select case matcher ->> 'name'
        when '__name__' then p_metric
        else coalesce(p_labels ->> (matcher ->> 'name'), '') -- an absent label is the empty string
      end as actual
    ) as label
    where not case matcher ->> 'op'
      when '=' then label.actual = matcher ->> 'value'
      when '!=' then label.actual <> matcher ->> 'value'
      when '=~' then label.actual ~ ('^(?:' || (matcher ->> 'value') || ')$')
      else label.actual !~ ('^(?:' || (matcher ->> 'value') || ')$')
    end
  );
$$;

comment on function monitor.satisfies_matchers(text, jsonb, jsonb) is
  'Whether one series satisfies every matcher, as monitor.match_series judges many; true without matchers.';

create function monitor.check_matchers(p_matchers jsonb)
returns void
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  perform from monitor.match_series(p_matchers, 0, 1); -- knows what is malformed
  -- Each by itself, and against something: a pattern that is none between the anchors would stop every run that meets it, and
  -- match_series tries only those that the other matchers leave it a series for.
  perform monitor.satisfies_matchers('', '{}', jsonb_build_array(matcher)) from jsonb_array_elements(p_matchers) as matcher;
end;
$$;

comment on function monitor.check_matchers(jsonb) is
  'Refuses matchers that monitor.satisfies_matchers could not take later. Errors: 22023 for malformed ones, 2201B for a pattern that '
  'is none.';

create function monitor.scan_spans(
  p_series_ids  integer[],
  p_from        timestamptz[],
  p_until       timestamptz,
  p_limit       integer
)
returns table (series_id integer, spans json, deploys json)
language sql
stable
security invoker
set search_path = ''
set jit = off
as $$
  with wanted as materialized (
    select asked.series_id, asked.since from unnest(p_series_ids, p_from) as asked (series_id, since)
  ), earliest as materialized (
    select min(since) as since from wanted
  ), windows as materialized (
    select planned.matchers, planned.starts_at, planned.ends_at
    from monitor.maintenance_windows as planned
    where planned.ends_at >= (select since from earliest) and planned.starts_at <= p_until and planned.ends_at > planned.starts_at
  ), marks as materialized (
    select mark.matchers, mark.deployed_at
    from monitor.deploy_marks as mark
    where mark.deployed_at between (select since from earliest) and p_until
  ), linked as materialized (
    -- From the incidents: those that are open or ended lately are few.
    select incident.started_at, incident.resolved_at, link.anomaly_id
    from monitor.incidents as incident
    join monitor.incident_anomalies as link using (incident_id)
    where incident.started_at <= p_until
      and (incident.resolved_at is null or incident.resolved_at >= (select since from earliest))
  ), known as materialized (
    select series.series_id, wanted.since, series.metric, series.labels
    from wanted
    join monitor.metric_series as series using (series_id)
    where exists (select from windows) or exists (select from marks) -- else nobody asks for their labels
  ), span as (
    select known.series_id, windows.starts_at as since, windows.ends_at as until, 'maintenance' as label
    from known
    join windows on windows.ends_at >= known.since and monitor.satisfies_matchers(known.metric, known.labels, windows.matchers)
    union all
    select feedback.series_id, feedback.span_since, feedback.span_until, feedback.label
    from wanted
    join monitor.anomaly_feedback as feedback
      on feedback.series_id = wanted.series_id and feedback.span_until >= wanted.since and feedback.span_since <= p_until
    union
    select wanted.series_id, linked.started_at, linked.resolved_at, 'incident'
    from linked
    cross join lateral (
      select live.series_id from monitor.anomaly_detections as live where live.anomaly_id = linked.anomaly_id
      union all
      select archived.series_id from monitor.anomaly_detections_archive as archived where archived.anomaly_id = linked.anomaly_id
    ) as anomaly
    join wanted on wanted.series_id = anomaly.series_id and (linked.resolved_at is null or linked.resolved_at >= wanted.since)
  ), spans as (
    select numbered.series_id, json_agg(json_build_object(
      'from', monitor.epoch_ms(numbered.since), 'until', monitor.epoch_ms(numbered.until), 'label', numbered.label
    ) order by numbered.since, numbered.until, numbered.label) as list
    from (
      select span.*, row_number() over (
        -- Those that end last, or not yet: an incident that goes on is not pushed out by what was over long ago.
        partition by span.series_id order by span.until desc nulls first, span.since desc) as place
      from span
    ) as numbered
    where numbered.place <= p_limit
    group by numbered.series_id
  ), deploys as (
    select numbered.series_id, json_agg(monitor.epoch_ms(numbered.deployed_at) order by numbered.deployed_at) as list
    from (
      select known.series_id, marks.deployed_at,
        row_number() over (partition by known.series_id order by marks.deployed_at desc) as place
      from known
      join marks on marks.deployed_at >= known.since and monitor.satisfies_matchers(known.metric, known.labels, marks.matchers)
    ) as numbered
    where numbered.place <= p_limit
    group by numbered.series_id
  )
  select series_id, coalesce(spans.list, '[]'), coalesce(deploys.list, '[]')
  from spans
  full join deploys using (series_id);
$$;

comment on function monitor.scan_spans(integer[], timestamptz[], timestamptz, integer) is
  'Labelled spans [{from, until, label}] and deploys [at] of each series that touch the time from its p_from to p_until, in ms, at '
  'most p_limit of each, those that end last, in order of time; until is null while an incident lasts. Labels: maintenance, incident, '
  'false_positive, expected, missed. A row a series that has any, so for use in SQL; whoever asks over the API takes read_spans.';

create function monitor.read_spans(p_series_id integer, p_from timestamptz, p_until timestamptz)
returns json
language sql
stable
security invoker
set search_path = ''
as $$
  select json_build_object('spans', coalesce(min(found.spans::text)::json, '[]'), 'deploys', coalesce(min(found.deploys::text)::json, '[]'))
  from monitor.scan_spans(array[p_series_id], array[p_from], p_until, 1000) as found;
$$;

comment on function monitor.read_spans(integer, timestamptz, timestamptz) is
  'What people said of a series and what was going on, as far as it touches p_from to p_until: {spans: [{from, until, label}], '
  'deploys: [at]}, in ms, at most 1,000 of each, those that end last.';

create function monitor.label_anomaly_span(
  p_series_id  integer,
  p_label      text,
  p_from       timestamptz,
  p_until      timestamptz,
  p_note       text        default null,
  p_now        timestamptz default now()
)
returns bigint
language plpgsql
security definer -- an admin may label a span, but not write its row
set search_path = ''
as $$
declare
  v_feedback_id  bigint;
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may label a span' using errcode = 'insufficient_privilege';
  end if;
  if p_label is null or p_label not in ('false_positive', 'expected', 'missed') then
    raise exception 'p_label must be false_positive, expected or missed, got %', p_label
      using errcode = 'invalid_parameter_value', hint = 'A time of planned work is a maintenance window.';
  end if;
  if p_from is null or p_until is null or not (p_from <= p_until and p_from > '-infinity' and p_until < 'infinity') then
    raise exception 'p_from must not be after p_until, and both must be times'
      using errcode = 'invalid_parameter_value', hint = 'A single sample is a span from its time to its time.';
  end if;
  if p_until > p_from + interval '30 days' then
    raise exception 'a span must not be longer than 30 days'
      using errcode = 'invalid_parameter_value', hint = 'What is always so is a matter of the metric: see monitor.set_detection.';
  end if;
  if not exists (select from monitor.metric_series where series_id = p_series_id) then
    raise exception 'no such series: %', p_series_id
      using errcode = 'no_data_found', hint = 'monitor.match_series tells the ids of series.';
  end if;
  insert into monitor.anomaly_feedback (series_id, label, span_since, span_until, note, created_by, created_at)
  values (p_series_id, p_label, p_from, p_until, nullif(btrim(p_note), ''), monitor.current_actor(), p_now)
  returning feedback_id into v_feedback_id;
  perform monitor.request_replay(p_series_id, 'feedback', p_now);
  return v_feedback_id;
end;
$$;

comment on function monitor.label_anomaly_span(integer, text, timestamptz, timestamptz, text, timestamptz) is
  'A person''s word on a span of a series, both ends included: false_positive, expected or missed. The series is replayed with '
  'it. Returns its feedback_id. Errors: 42501 for a user who is no admin, 22023 for another label or a span that ends before it '
  'starts or is longer than 30 days, 23514 for a note beyond 2,000 characters, P0002 for an unknown series.';

create or replace function monitor.review_anomaly(
  p_anomaly_id  bigint,
  p_state       text,
  p_now         timestamptz default now()
)
returns void
language plpgsql
security definer -- an admin may judge an anomaly, but not rewrite it
set search_path = ''
as $$
declare
  v_anomaly     monitor.anomaly_detections;
  v_is_changed  boolean;
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may review an anomaly' using errcode = 'insufficient_privilege';
  end if;
  if p_state is null or p_state not in ('acknowledged', 'resolved', 'false_positive', 'expected') then
    raise exception 'p_state must be acknowledged, resolved, false_positive or expected, got %', p_state
      using errcode = 'invalid_parameter_value', hint = 'expired is the retention policy''s word.';
  end if;
  -- First what record_detections locks first, or each could wait for the other.
  perform from monitor.detector_states
  where series_id = (select series_id from monitor.anomaly_detections where anomaly_id = p_anomaly_id)
  for no key update;
  update monitor.anomaly_detections
  set review_state = p_state, reviewed_at = p_now, reviewed_by = monitor.current_actor()
  where anomaly_id = p_anomaly_id
  returning * into v_anomaly;
  if not found then
    raise exception 'no such anomaly: %', p_anomaly_id
      using errcode = 'no_data_found', hint = 'Archived anomalies are not reviewed any more.';
  end if;

  if p_state in ('false_positive', 'expected') then
    insert into monitor.anomaly_feedback as known (series_id, label, span_since, span_until, created_by, created_at, anomaly_id)
    values (
      v_anomaly.series_id, p_state, v_anomaly.started_at, coalesce(v_anomaly.ended_at, v_anomaly.last_seen_at),
      v_anomaly.reviewed_by, p_now, p_anomaly_id)
    on conflict (anomaly_id) do update
    set label = excluded.label, span_since = excluded.span_since, span_until = excluded.span_until,
        created_by = excluded.created_by, created_at = excluded.created_at
    where (known.label, known.span_since, known.span_until)
      is distinct from (excluded.label, excluded.span_since, excluded.span_until);
  else
    delete from monitor.anomaly_feedback where anomaly_id = p_anomaly_id;
  end if;
  v_is_changed := found;
  if v_is_changed then -- the same word twice is no news
    perform monitor.request_replay(v_anomaly.series_id, 'feedback', p_now);
  end if;
end;
$$;

comment on function monitor.review_anomaly(bigint, text, timestamptz) is
  'A person''s word on an anomaly: acknowledged, resolved, false_positive or expected. The last two are feedback on its span as '
  'well, which another word takes back, and the series is replayed with it. '
  'Errors: 42501 for a user who is no admin, 22023 for another state, P0002 for an unknown anomaly.';

create function monitor.plan_maintenance(
  p_starts_at  timestamptz,
  p_ends_at    timestamptz,
  p_reason     text,
  p_matchers   jsonb       default null,
  p_now        timestamptz default now()
)
returns bigint
language plpgsql
security definer -- an admin may plan maintenance, but not write its row
set search_path = ''
as $$
declare
  v_window_id  bigint;
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may plan maintenance' using errcode = 'insufficient_privilege';
  end if;
  if p_starts_at is null or p_ends_at is null
    or not (p_starts_at < p_ends_at and p_ends_at <= p_starts_at + interval '30 days') then
    raise exception 'maintenance must end after it starts, within 30 days'
      using errcode = 'invalid_parameter_value', hint = 'Nothing is told in it: plan the next one when it comes to that.';
  end if;
  if p_reason is null or p_reason !~ '\S' then
    raise exception 'maintenance needs a reason'
      using errcode = 'invalid_parameter_value', hint = 'For who wonders later why nothing was told.';
  end if;
  if p_matchers is not null then
    perform monitor.check_matchers(p_matchers);
  end if;
  insert into monitor.maintenance_windows (matchers, starts_at, ends_at, reason, created_by, created_at)
  values (p_matchers, p_starts_at, p_ends_at, p_reason, monitor.current_actor(), p_now)
  returning maintenance_window_id into v_window_id;
  return v_window_id;
end;
$$;

comment on function monitor.plan_maintenance(timestamptz, timestamptz, text, jsonb, timestamptz) is
  'Plans a time in which nothing is told of the matching series (null: all), nor learned from them. Returns its '
  'maintenance_window_id. Errors: 42501 for a user who is no admin, 22023 for a time that is empty or beyond 30 days, no reason or '
  'malformed matchers, 2201B for a pattern that is none, 23514 for a reason beyond 2,000 characters or matchers beyond 8 KiB.';

create function monitor.end_maintenance(p_maintenance_window_id bigint, p_now timestamptz default now())
returns void
language plpgsql
security definer -- an admin may end maintenance, but not rewrite its row
set search_path = ''
as $$
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may end maintenance' using errcode = 'insufficient_privilege';
  end if;
  update monitor.maintenance_windows
  set ends_at = least(ends_at, greatest(starts_at, p_now))
  where maintenance_window_id = p_maintenance_window_id;
  if not found then
    raise exception 'no such maintenance window: %', p_maintenance_window_id
      using errcode = 'no_data_found', hint = 'Those planned are the rows of monitor.maintenance_windows.';
  end if;
end;
$$;

comment on function monitor.end_maintenance(bigint, timestamptz) is
  'Ends maintenance now, or calls it off before it begins. One that has ended stays as it is. '
  'Errors: 42501 for a user who is no admin, P0002 for an unknown window.';

create function monitor.mark_deploy(
  p_label     text,
  p_at        timestamptz default now(),
  p_matchers  jsonb       default null,
  p_now       timestamptz default now()
)
returns bigint
language plpgsql
security definer -- an admin may mark a deploy, but not write its row
set search_path = ''
as $$
declare
  v_mark_id  bigint;
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may mark a deploy' using errcode = 'insufficient_privilege';
  end if;
  if p_label is null or p_label !~ '\S' or length(p_label) > 200 then
    raise exception 'p_label must say in at most 200 characters what was deployed'
      using errcode = 'invalid_parameter_value', hint = 'A version or the hash of a commit.';
  end if;
  if p_at is null or not (p_at > '-infinity' and p_at < 'infinity') then
    raise exception 'p_at must be a time' using errcode = 'invalid_parameter_value', hint = 'Left out, it is now.';
  end if;
  if p_matchers is not null then
    perform monitor.check_matchers(p_matchers);
  end if;
  insert into monitor.deploy_marks (deployed_at, label, matchers, created_by, created_at)
  values (p_at, p_label, p_matchers, monitor.current_actor(), p_now)
  returning deploy_mark_id into v_mark_id;
  return v_mark_id;
end;
$$;

comment on function monitor.mark_deploy(text, timestamptz, jsonb, timestamptz) is
  'Notes a deploy of what the matching series (null: all) are of: a level that changes with it is taken for the new one. Returns its '
  'deploy_mark_id. Errors: 42501 for a user who is no admin, 22023 for no label, no time or malformed matchers, 2201B for a '
  'pattern that is none, 23514 for matchers beyond 8 KiB.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.satisfies_matchers(text, jsonb, jsonb),
  monitor.scan_spans(integer[], timestamptz[], timestamptz, integer),
  monitor.read_spans(integer, timestamptz, timestamptz),
  monitor.label_anomaly_span(integer, text, timestamptz, timestamptz, text, timestamptz),
  monitor.plan_maintenance(timestamptz, timestamptz, text, jsonb, timestamptz),
  monitor.end_maintenance(bigint, timestamptz),
  monitor.mark_deploy(text, timestamptz, jsonb, timestamptz)
to authenticated, service_role;
