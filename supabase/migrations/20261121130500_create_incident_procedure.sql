-- Purpose:  incidents from their opening to the post-mortem: deadlines that escalate, a timeline that writes itself, messages, correlation.
-- Locks:    access exclusive on incidents, incident_events, incident_alerts and incident_anomalies, all small, while columns and indexes
--           are added, and on notifications; share on system_alerts while an index is built; share row exclusive on
--           notification_channels for a trigger.
-- Undo:     drop trigger notification_channels_keep_escalation on monitor.notification_channels; drop function
--           monitor.advance_incidents(timestamptz), monitor.propose_incidents(timestamptz), monitor.draft_post_mortem(bigint, timestamptz),
--           monitor.incident_timeline(bigint, bigint, integer), monitor.describe_incident(bigint, timestamptz),
--           monitor.measure_incident(bigint), monitor.send_incident_message(bigint, text, text, text[], timestamptz, timestamptz),
--           monitor.note_incident(bigint, text, timestamptz, timestamptz), monitor.unlink_anomaly(bigint, bigint, timestamptz),
--           monitor.link_anomaly(bigint, bigint, timestamptz), monitor.unlink_alert(bigint, bigint, timestamptz),
--           monitor.link_alert(bigint, bigint, timestamptz), monitor.update_incident_components(bigint, text[], timestamptz),
--           monitor.write_up_incident(bigint, text, text, text, date, timestamptz),
--           monitor.set_incident_severity(bigint, text, text, timestamptz), monitor.set_incident_state(bigint, text, text, timestamptz,
--           text, text, text, date, boolean, timestamptz), monitor.assign_commander(bigint, text, timestamptz),
--           monitor.acknowledge_incident(bigint, timestamptz), monitor.open_incident(text, text, timestamptz, text[], bigint[], bigint[],
--           text, text[], boolean, timestamptz), monitor.save_escalation_level(integer, text[], text),
--           monitor.open_incident_of_alert(bigint, timestamptz), monitor.escalate_incident(monitor.incidents, timestamptz),
--           monitor.record_incident_events(bigint[], timestamptz), monitor.add_incident_anomaly(bigint, bigint, text, timestamptz),
--           monitor.drop_incident_evidence(bigint), monitor.copy_alert_evidence(bigint, bigint, timestamptz),
--           monitor.copy_anomaly_evidence(bigint, bigint, timestamptz),
--           monitor.copy_incident_evidence(bigint, integer[], timestamptz[], bigint), monitor.series_of_alert(monitor.system_alerts),
--           monitor.add_incident_alert(bigint, bigint, text, timestamptz),
--           monitor.create_incident(text, text, timestamptz, text[], text, text[], text, text, timestamptz),
--           monitor.write_incident_message(monitor.incidents, text, text, text[], timestamptz, text, timestamptz),
--           monitor.tell_incident(monitor.incidents, text, text, text[], text, text, timestamptz, text),
--           monitor.find_pages(monitor.incidents, text, text), monitor.name_message(text),
--           monitor.incident_payload(monitor.incidents, text, text), monitor.choose_channels(text[], integer),
--           monitor.write_incident_event(bigint, text, text, timestamptz, text, timestamptz, text), monitor.lock_incident(bigint),
--           monitor.check_components(text[]), monitor.check_channels(text[]), monitor.check_incident_text(text, text, integer),
--           monitor.update_enforced_at(monitor.incidents), monitor.response_enforced_at(monitor.incidents),
--           monitor.update_interval(text), monitor.response_target(text), monitor.severity_of_label(text),
--           monitor.quote_markdown(text), monitor.escape_markdown(text),
--           monitor.describe_duration(interval), monitor.describe_time(timestamptz, text), monitor.keep_escalation_channels();
--           drop table monitor.escalation_levels; drop trigger incidents_record_change on monitor.incidents; drop trigger
--           incidents_record_changed_columns on monitor.incidents; drop function monitor.record_changed_columns(); drop the indexes
--           system_alerts_opens_incident_idx, incidents_fingerprint_idx, incident_events_source_key_idx,
--           incident_alerts_without_series_idx and notifications_timeline_news_idx, and the columns added here (one is of notifications).

alter table monitor.incidents
  add column opened_at              timestamptz not null default now(),
  add column opened_by              text        not null default 'unknown',
  add column reopened_at            timestamptz,
  add column response_due_at        timestamptz,
  add column response_escalated_at  timestamptz,
  add column acknowledged_at        timestamptz,
  add column acknowledged_by        text,
  add column next_update_due_at     timestamptz,
  add column update_escalated_at    timestamptz,
  add column escalation_level       integer     not null default 1,
  add column mitigated_at           timestamptz,
  add column commander              text,
  add column affected_components    text[]      not null default '{}',
  add column channels               text[],
  add column fingerprint            text,
  add column root_cause             text,
  add column fix                    text,
  add column prevention             text,
  add column post_mortem_on         date;

update monitor.incidents set opened_at = started_at; -- those there are: when they were written down nobody knows

alter table monitor.incidents
  alter column opened_by set default monitor.current_actor(),
  add constraint incidents_opened_by_present check (opened_by <> ''),
  add constraint incidents_acknowledged_whole check ((acknowledged_at is null) = (acknowledged_by is null)),
  add constraint incidents_escalation_level_in_range check (escalation_level between 1 and 3),
  add constraint incidents_mitigated_at_after_start check (mitigated_at >= started_at),
  add constraint incidents_commander_in_bounds check (length(commander) between 1 and 200),
  add constraint incidents_affected_components_bounded
    check (cardinality(affected_components) <= 50 and array_position(affected_components, null) is null),
  add constraint incidents_channels_bounded check (cardinality(channels) between 1 and 20 and array_position(channels, null) is null),
  add constraint incidents_root_cause_in_bounds check (length(root_cause) between 1 and 10000),
  add constraint incidents_fix_in_bounds check (length(fix) between 1 and 10000),
  add constraint incidents_prevention_in_bounds check (length(prevention) between 1 and 10000),
  add constraint incidents_post_mortem_on_in_range check (post_mortem_on between '2000-01-01' and '2999-12-31');

create unique index incidents_fingerprint_idx on monitor.incidents (fingerprint) where resolved_at is null;
comment on index monitor.incidents_fingerprint_idx is 'An alert has opened one incident at a time.';

comment on column monitor.incidents.opened_at is 'When it was written down. Deadlines count from here: nobody can respond before.';
comment on column monitor.incidents.opened_by is 'By current_actor(); pgvigil: a rule''s label.';
comment on column monitor.incidents.reopened_at is
  'When it was last opened again after it had been resolved; deadlines count from here then.';
comment on column monitor.incidents.response_due_at is
  'By when somebody has to respond: 15 minutes (P0), 1 hour (P1), 4 hours (P2) or 24 hours (P3) after it was opened. Stays as it was '
  'promised, met or missed. Null: no deadline, as of incidents from before there were any.';
comment on column monitor.incidents.response_escalated_at is 'When it last escalated because nobody had responded; again a target later.';
comment on column monitor.incidents.acknowledged_at is
  'When somebody responded: acknowledged it, moved it on from open, or sent an update.';
comment on column monitor.incidents.next_update_due_at is
  'By when the next status update was promised. Stays until one is sent, met or missed. Null: none was promised.';
comment on column monitor.incidents.update_escalated_at is 'When it last escalated because an update was overdue.';
comment on column monitor.incidents.escalation_level is 'The highest that was told, 1 to 3: see escalation_levels.';
comment on column monitor.incidents.mitigated_at is 'When it was first monitoring, since it was last opened.';
comment on column monitor.incidents.commander is 'Who leads, by name.';
comment on column monitor.incidents.channels is 'Chosen for its messages; null: those of level 1 as they are when one is sent.';
comment on column monitor.incidents.fingerprint is 'Of the alert that opened it by its label pgvigil_incident; null: opened by hand.';
comment on column monitor.incidents.root_cause is 'Null: yet to be written, as fix and prevention.';
comment on column monitor.incidents.post_mortem_on is 'The day on which it is talked about.';

create function monitor.record_changed_columns()
returns trigger
language plpgsql
security definer -- nobody who changes a row may write or rewrite its record
set search_path = ''
as $$
declare
  v_before  jsonb := to_jsonb(old);
  v_after   jsonb := to_jsonb(new);
begin
  insert into monitor.audit_log (actor, action, object, before, after)
  select monitor.current_actor(), 'update', tg_table_name, jsonb_object_agg(key, v_before -> key), jsonb_object_agg(key, v_after -> key)
  from jsonb_object_keys(v_after) as key
  where key = tg_argv[0] or v_before -> key is distinct from v_after -> key;
  return null;
end;
$$;

comment on function monitor.record_changed_columns() is
  'Trigger for rows that change often and hold long texts: as monitor.record_change, but of an update only the columns that changed, '
  'and the key, which is its argument.';

create trigger incidents_record_change
  after insert or delete on monitor.incidents
  for each row execute function monitor.record_change();

create trigger incidents_record_changed_columns
  after update on monitor.incidents
  for each row when (old is distinct from new)
  execute function monitor.record_changed_columns('incident_id');

comment on column monitor.audit_log.before is 'The row before, of an incident its key and what changed of it; null for an insert.';
comment on column monitor.audit_log.after is 'The row after, of an incident its key and what changed of it; null for a delete.';

alter table monitor.incident_events
  add column kind         text        not null default 'note',
  add column recorded_at  timestamptz not null default now(),
  add column source_key   text,
  add constraint incident_events_kind_known check (kind in (
    'opened', 'reopened', 'state', 'acknowledged', 'severity', 'commander', 'components', 'write_up', 'alert', 'anomaly', 'message',
    'delivery', 'escalation', 'note'));

update monitor.incident_events set recorded_at = happened_at;

create unique index incident_events_source_key_idx on monitor.incident_events (incident_id, source_key) where source_key is not null;
comment on index monitor.incident_events_source_key_idx is 'What writes itself is written once.';

comment on column monitor.incident_events.happened_at is 'When it was so, which may be before anyone wrote it down.';
comment on column monitor.incident_events.recorded_at is 'When it was written down.';
comment on column monitor.incident_events.actor is 'Who, by current_actor(); pgvigil where nobody did.';
comment on column monitor.incident_events.source_key is 'What an event that wrote itself is about; null: somebody did it.';

alter table monitor.incident_alerts
  add column occurrence_count       integer not null default 0,
  add column first_fired_at         timestamptz,
  add column known_resolved_at      timestamptz,
  add column known_acknowledged_at  timestamptz,
  add column event_count            integer not null default 0,
  add column series_ids             integer[],
  add column evidence_copied_at     timestamptz;

create index incident_alerts_without_series_idx on monitor.incident_alerts (incident_id) where series_ids is null;
comment on index monitor.incident_alerts_without_series_idx is 'Asked every minute: whose samples are still to be copied.';

update monitor.incident_alerts as link
set occurrence_count = alert.occurrence_count, first_fired_at = alert.fired_at
from monitor.system_alerts as alert
where alert.alert_id = link.alert_id;

comment on column monitor.incident_alerts.occurrence_count is
  'Up to which of its firings the incident knows it; a later one that finds it resolved is news.';
comment on column monitor.incident_alerts.first_fired_at is 'The earliest of its firings that is known. Null: it has not fired.';
comment on column monitor.incident_alerts.known_resolved_at is 'The resolution that the timeline has; another one is news.';
comment on column monitor.incident_alerts.known_acknowledged_at is 'The acknowledgement that the timeline has; another one is news.';
comment on column monitor.incident_alerts.series_ids is
  'Whose samples are evidence: see monitor.series_of_alert. Null: not looked up yet. Empty: none, or it is beyond the first 100 alerts.';
comment on column monitor.incident_alerts.evidence_copied_at is 'As of incident_anomalies.';
comment on column monitor.incident_alerts.event_count is 'What it did that was news, written down or too much of it.';

alter table monitor.notifications add column timeline_state text;

comment on column monitor.notifications.timeline_state is
  'The state that the timeline of its incident knows; null: none yet, or it is of no incident.';

create index notifications_timeline_news_idx on monitor.notifications (incident_id)
  where incident_id is not null and state <> 'pending' and timeline_state is distinct from state;
comment on index monitor.notifications_timeline_news_idx is 'Asked every minute: what a timeline knows is not looked at again.';

alter table monitor.incident_anomalies add column evidence_copied_at timestamptz;

comment on column monitor.incident_anomalies.evidence_copied_at is
  'When its samples were last copied; again 2 hours after its start and after its end, when there are more. Null: not yet.';

create index system_alerts_opens_incident_idx on monitor.system_alerts (alert_id)
  where labels ? 'pgvigil_incident' and resolved_at is null;
comment on index monitor.system_alerts_opens_incident_idx is 'Asked every minute: none but those with the label are looked at.';

create table monitor.escalation_levels (
  level     integer not null,
  title     text    not null,
  channels  text[]  not null default '{}',

  constraint escalation_levels_pkey primary key (level),
  constraint escalation_levels_level_in_range check (level between 1 and 3),
  constraint escalation_levels_title_in_bounds check (title ~ '\S' and length(title) <= 200),
  constraint escalation_levels_channels_bounded check (cardinality(channels) <= 20 and array_position(channels, null) is null)
);

comment on table monitor.escalation_levels is 'Who is told when a deadline of an incident is missed. Always three rows.';
comment on column monitor.escalation_levels.level is 'From 1, who is told first, to 3.';
comment on column monitor.escalation_levels.channels is
  'Without one that works the nearest lower level is told, and without any there all channels.';

alter table monitor.escalation_levels enable row level security;

create policy escalation_levels_select_authenticated
  on monitor.escalation_levels for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.escalation_levels to authenticated;
grant select, update on monitor.escalation_levels to service_role;

insert into monitor.escalation_levels (level, title) values
  (1, 'On-call engineer'),
  (2, 'Senior engineer and team lead'),
  (3, 'Architect and management');

create trigger escalation_levels_record_change
  after insert or update or delete on monitor.escalation_levels
  for each row execute function monitor.record_change();

create function monitor.keep_escalation_channels()
returns trigger
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_levels  text;
begin
  select string_agg(level::text, ', ' order by level) into v_levels
  from monitor.escalation_levels where old.channel = any (channels);
  if v_levels is not null then
    raise exception 'channel % is used by escalation level %', old.channel, v_levels
      using errcode = 'dependent_objects_still_exist',
            hint = 'Save that level with other channels first: select monitor.save_escalation_level(…).';
  end if;
  return old;
end;
$$;

comment on function monitor.keep_escalation_channels() is
  'Trigger of notification_channels: one that an escalation goes by is not deleted. Errors: 2BP01.';

create trigger notification_channels_keep_escalation
  before delete on monitor.notification_channels
  for each row execute function monitor.keep_escalation_channels();

-- What is computed from nothing but the arguments.

create function monitor.describe_time(p_at timestamptz, p_time_zone text)
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select to_char(p_at at time zone p_time_zone, 'YYYY-MM-DD HH24:MI:SS')
    || case when ahead.of_utc < interval '0' then ' -' else ' +' end
    || to_char(greatest(ahead.of_utc, -ahead.of_utc), 'HH24:MI')
  from (select (p_at at time zone p_time_zone) - (p_at at time zone 'UTC') as of_utc) as ahead;
$$;

comment on function monitor.describe_time(timestamptz, text) is
  'An instant by the clock on the wall, with its distance from UTC, so that the hour that comes twice a year is two.';

create function monitor.describe_duration(p_duration interval)
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select case
    when seconds < 60 then format('%s s', seconds)
    when seconds < 3600 then concat_ws(' ', seconds / 60 || ' min', nullif(seconds % 60, 0) || ' s')
    when seconds < 86400 then concat_ws(' ', seconds / 3600 || ' h', nullif(seconds % 3600 / 60, 0) || ' min')
    else concat_ws(' ', seconds / 86400 || ' d', nullif(seconds % 86400 / 3600, 0) || ' h') end
  from (select greatest(floor(extract(epoch from p_duration)), 0)::bigint as seconds where p_duration is not null) as whole;
$$;

comment on function monitor.describe_duration(interval) is
  'In its two largest units, rounded down: 45 s, 2 min 5 s, 3 h 1 min, 2 d 4 h. 0 s if negative, null for null.';

create function monitor.escape_markdown(p_text text)
returns text
language sql
immutable
security invoker
set search_path = ''
as $$
  select regexp_replace(
    -- One line, and without what turns the direction of reading.
    btrim(regexp_replace(p_text, '[[:cntrl:][:space:]\u0080-\u009f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]+', ' ', 'g')),
    '([][\\`*_{}<>|~$&#])', '\\\1', 'g');
$$;

comment on function monitor.escape_markdown(text) is
  'A text as one line of Markdown that shows it and nothing else; not for the start of a line: see monitor.quote_markdown.';

create function monitor.quote_markdown(p_text text)
returns text
language sql
immutable
security invoker
set search_path = ''
as $$
  select string_agg(
    regexp_replace(regexp_replace(line.text, '^([-+=:])', '\\\1'), '^(\d+)([.)])', '\1\\\2'), E'\n\n' order by line.place)
  from (
    select place, monitor.escape_markdown(raw) as text
    from regexp_split_to_table(p_text, E'[\n\r\v\f\u0085\u2028\u2029]+') with ordinality as part (raw, place)
  ) as line
  where line.text <> '';
$$;

comment on function monitor.quote_markdown(text) is
  'A text as paragraphs of Markdown, one a line, that show it and nothing else. Null for a blank one.';

create function monitor.severity_of_label(p_label text)
returns text
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when upper(btrim(p_label)) in ('P0', 'P1', 'P2', 'P3') then upper(btrim(p_label)) else 'P3' end;
$$;

comment on function monitor.severity_of_label(text) is
  'The severity that a label pgvigil_incident asks for. Rules cannot be saved with another word; the labels of a series may bring one, '
  'which asks for P3: an incident that is not grave is seen, none is not.';

create function monitor.response_target(p_severity text)
returns interval
language sql
immutable
security invoker
set search_path = ''
as $$
  select case p_severity
    when 'P0' then interval '15 minutes' when 'P1' then interval '1 hour' when 'P2' then interval '4 hours' else interval '24 hours' end;
$$;

comment on function monitor.response_target(text) is 'Within which time somebody has to respond to an incident of this severity.';

create function monitor.update_interval(p_severity text)
returns interval
language sql
immutable
security invoker
set search_path = ''
as $$
  select case p_severity
    when 'P0' then interval '30 minutes' when 'P1' then interval '1 hour' when 'P2' then interval '4 hours' else interval '24 hours' end;
$$;

comment on function monitor.update_interval(text) is
  'How often people are told how an incident of this severity stands, unless another time is promised.';

create function monitor.response_enforced_at(p_incident monitor.incidents)
returns timestamptz
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when p_incident.resolved_at is null and p_incident.acknowledged_at is null and p_incident.response_due_at is not null
    then greatest(p_incident.response_due_at, p_incident.response_escalated_at + monitor.response_target(p_incident.severity)) end;
$$;

comment on function monitor.response_enforced_at(monitor.incidents) is
  'When it escalates next because nobody has responded: at the deadline, then a target after each time. Null: not while it stands so.';

create function monitor.update_enforced_at(p_incident monitor.incidents)
returns timestamptz
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when p_incident.resolved_at is null and p_incident.next_update_due_at is not null
    then greatest(p_incident.next_update_due_at, p_incident.update_escalated_at + monitor.update_interval(p_incident.severity)) end;
$$;

comment on function monitor.update_enforced_at(monitor.incidents) is
  'When it escalates next because an update is overdue: at the deadline, then an interval after each time. Null: not while it stands so.';

-- Arguments.

create function monitor.check_incident_text(p_what text, p_text text, p_limit integer)
returns text
language plpgsql
immutable
security invoker
set search_path = ''
as $$
declare
  v_text  text := nullif(btrim(p_text, E' \t\r\n'), '');
begin
  if length(v_text) > p_limit then
    raise exception '% must have at most % characters, got %', p_what, p_limit, length(v_text)
      using errcode = 'invalid_parameter_value', hint = 'Put what is longer elsewhere, and its address here.';
  end if;
  return v_text;
end;
$$;

comment on function monitor.check_incident_text(text, text, integer) is
  'A text without blanks around it, null for a blank one. Errors: 22023 if it is longer than p_limit characters.';

create function monitor.check_components(p_components text[])
returns text[]
language plpgsql
immutable
security invoker
set search_path = ''
as $$
declare
  v_components  text[];
begin
  select coalesce(array_agg(listed.name order by listed.place), '{}') into v_components
  from (
    select btrim(regexp_replace(component, '[[:cntrl:][:space:]]+', ' ', 'g')) as name, min(place) as place
    from unnest(p_components) with ordinality as item (component, place)
    group by 1
  ) as listed
  where listed.name <> '';
  if cardinality(v_components) > 50 or exists (select from unnest(v_components) as name where length(name) > 200) then
    raise exception 'there may be 50 affected components of 200 characters'
      using errcode = 'invalid_parameter_value', hint = 'Name what they have in common.';
  end if;
  return v_components;
end;
$$;

comment on function monitor.check_components(text[]) is
  'Names without blanks around them, each once, blank ones left out. Errors: 22023 for more than 50, or one beyond 200 characters.';

create function monitor.check_channels(p_channels text[])
returns text[]
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_channels  text[];
  v_unknown   text;
begin
  if p_channels is null then
    return null;
  end if;
  select array_agg(distinct listed.channel), string_agg(coalesce(listed.channel, 'null'), ', ') filter (where known.channel is null)
  into v_channels, v_unknown
  from unnest(p_channels) as listed (channel)
  left join monitor.notification_channels as known on known.channel = listed.channel and known.enabled and known.kind <> 'heartbeat';
  if v_unknown is not null or v_channels is null or cardinality(v_channels) > 20 then
    raise exception '%', case
        when v_unknown is not null then 'no such channel, or it is switched off: ' || v_unknown
        when v_channels is null then 'no channel is listed' else 'more than 20 channels are listed' end
      using errcode = 'invalid_parameter_value',
            hint = 'Channels are the rows of monitor.notification_channels; a heartbeat takes no messages. Left out, they are the usual ones.';
  end if;
  return v_channels;
end;
$$;

comment on function monitor.check_channels(text[]) is
  'The channels, each once; null for null. Errors: 22023 for none, more than 20, or one that is unknown, switched off or a heartbeat.';

create function monitor.lock_incident(p_incident_id bigint)
returns monitor.incidents
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_incident  monitor.incidents;
begin
  -- Not `for update`: whoever writes to the timeline meanwhile need not wait.
  select * into v_incident from monitor.incidents where incident_id = p_incident_id for no key update;
  if not found then
    raise exception 'no such incident: %', p_incident_id
      using errcode = 'no_data_found', hint = 'Incidents are the rows of monitor.incidents.';
  end if;
  return v_incident;
end;
$$;

comment on function monitor.lock_incident(bigint) is
  'An incident, which nobody else changes until the transaction ends. Errors: P0002 for an unknown one.';

-- Timeline and messages.

create function monitor.write_incident_event(
  p_incident_id  bigint,
  p_kind         text,
  p_description  text,
  p_happened_at  timestamptz,
  p_actor        text,
  p_now          timestamptz,
  p_source_key   text  default null
)
returns bigint
language sql
security invoker
set search_path = ''
as $$
  insert into monitor.incident_events (incident_id, kind, description, happened_at, actor, recorded_at, source_key)
  values (p_incident_id, p_kind, p_description, p_happened_at, p_actor, p_now, p_source_key)
  on conflict (incident_id, source_key) where source_key is not null do nothing
  returning event_id;
$$;

comment on function monitor.write_incident_event(bigint, text, text, timestamptz, text, timestamptz, text) is
  'Adds to the timeline of an incident. Returns the event_id; null if one with this source_key is there.';

create function monitor.choose_channels(p_channels text[], p_level integer)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  with usable as (
    select channel, failing_since is null as delivers
    from monitor.notification_channels
    where enabled and kind in ('email', 'slack', 'pagerduty', 'webhook')
  ), step as (
    select 0 as place, listed.channel from unnest(p_channels) as listed (channel)
    union all
    select 1 + p_level - level.level, listed.channel
    from monitor.escalation_levels as level
    cross join lateral unnest(level.channels) as listed (channel)
    where level.level <= p_level
    union all
    select 10, usable.channel from usable
  ), found as (
    select step.place, step.channel, usable.delivers from step join usable using (channel)
  ), reach as (
    -- Down to where somebody is known to be reached; what does not deliver is tried all the same.
    select coalesce(min(place) filter (where delivers), max(place)) as place, bool_or(delivers) as delivers from found
  )
  select jsonb_build_object(
    'channels', coalesce((select jsonb_agg(distinct found.channel) from found where found.place <= reach.place), '[]'),
    'remark', case
      when reach.place is null then 'there is no channel that is switched on'
      when reach.place = case when p_channels is null then 1 else 0 end then null
      else format('%s has no channel that works: %s',
        case when p_channels is null then format('level %s', p_level) else 'what was chosen' end,
        case
          when not reach.delivers then 'all are tried, and none delivers at present'
          when reach.place = 10 then 'all channels are told'
          else format('level %s is told', 1 + p_level - reach.place) end)
    end)
  from reach;
$$;

comment on function monitor.choose_channels(text[], integer) is
  'By which channels to tell something that is meant for these (null: for those of the level): {channels, remark}. As long as none of '
  'them is switched on and delivers, those of the nearest lower level are added, and at last all. The remark says so.';

create function monitor.incident_payload(p_incident monitor.incidents, p_message text, p_text text)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select jsonb_build_object(
    'type', 'incident',
    'message', p_message,
    'incident_id', p_incident.incident_id,
    'title', p_incident.title,
    'severity', p_incident.severity,
    'state', p_incident.state,
    'started_at', p_incident.started_at,
    'opened_at', p_incident.opened_at,
    'resolved_at', p_incident.resolved_at,
    'commander', p_incident.commander,
    'affected_components', to_jsonb(p_incident.affected_components),
    'text', p_text,
    'escalation_level', p_incident.escalation_level,
    'response_due_at', case when p_incident.acknowledged_at is null and p_incident.resolved_at is null then p_incident.response_due_at end,
    'next_update_due_at', p_incident.next_update_due_at,
    'root_cause', p_incident.root_cause,
    'fix', p_incident.fix,
    'prevention', p_incident.prevention,
    'post_mortem_on', p_incident.post_mortem_on,
    'alerts', coalesce((
      select jsonb_agg(left(linked.name, 200) || case when linked.alerts > 1 then ' × ' || linked.alerts else '' end order by linked.first_id)
      from (
        select alert.name, count(*) as alerts, min(alert.alert_id) as first_id
        from monitor.incident_alerts as link
        join monitor.system_alerts as alert using (alert_id)
        where link.incident_id = p_incident.incident_id
        group by alert.name
        order by first_id
        limit 20
      ) as linked), '[]'),
    'runbook_url', (
      select alert.runbook_url
      from monitor.incident_alerts as link
      join monitor.system_alerts as alert using (alert_id)
      where link.incident_id = p_incident.incident_id and alert.runbook_url is not null
      order by alert.alert_id
      limit 1));
$$;

comment on function monitor.incident_payload(monitor.incidents, text, text) is
  'A message about an incident, as IncidentPayload of shared/contract/notifications.ts. response_due_at is null once somebody has '
  'responded. By PagerDuty escalation_level is that of the page that it belongs to: see monitor.find_pages.';

create function monitor.name_message(p_message text)
returns text
language sql
immutable
security invoker
set search_path = ''
as $$
  select case p_message when 'alert' then 'Initial alert' when 'update' then 'Status update' when 'resolution' then 'Resolution'
    else 'Escalation' end;
$$;

comment on function monitor.name_message(text) is 'What the timeline calls a message about an incident.';

create function monitor.find_pages(p_incident monitor.incidents, p_message text, p_channel text)
returns integer[]
language sql
stable
security invoker
set search_path = ''
as $$
  with told as (
    select told.notification_id, told.payload ->> 'message' as message, (told.payload ->> 'escalation_level')::integer as level
    from monitor.notifications as told
    where told.incident_id = p_incident.incident_id and told.channel = p_channel and not told.is_test and told.state <> 'discarded'
  ), page as (
    select array_agg(distinct level order by level) as levels
    from told
    where notification_id > coalesce((select max(notification_id) from told where message = 'resolution'), 0)
  )
  select case
    when p_message = 'escalation'
      or not exists (select from monitor.notification_channels where channel = p_channel and kind = 'pagerduty')
      then array[p_incident.escalation_level]
    when page.levels is null then '{1}'
    when p_message = 'resolution' then page.levels
    else page.levels[cardinality(page.levels):] end
  from page;
$$;

comment on function monitor.find_pages(monitor.incidents, text, text) is
  'The levels under which a message goes by a channel, a message each. PagerDuty wakes nobody by what it adds to a page that is open: so '
  'each level has a page of its own there, an update goes to the last of those of the channel, and a resolution ends all of them. By '
  'other channels the level that the incident has.';

create function monitor.tell_incident(
  p_incident    monitor.incidents,
  p_message     text,
  p_text        text,
  p_channels    text[],
  p_remark      text,
  p_actor       text,
  p_now         timestamptz,
  p_source_key  text  default null
)
returns text[]
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_payload  jsonb := monitor.incident_payload(p_incident, p_message, p_text);
  v_channel  text;
  v_ids      bigint[];
  v_told     text[] := '{}';
begin
  foreach v_channel in array p_channels loop
    v_ids := array(
      select monitor.enqueue_notification(
        v_channel, v_payload || jsonb_build_object('escalation_level', level), null, p_incident.incident_id, false, p_now)
      from unnest(monitor.find_pages(p_incident, p_message, v_channel)) as level);
    if array_remove(v_ids, null) <> '{}' then
      v_told := v_told || v_channel;
    end if;
  end loop;
  perform monitor.write_incident_event(
    p_incident.incident_id, case p_message when 'escalation' then 'escalation' else 'message' end,
    format('%s to %s%s: %s',
      monitor.name_message(p_message),
      case when v_told = '{}' then 'nobody' else array_to_string(v_told, ', ') end,
      (
        select coalesce(' (' || string_agg(remark, '; ') || ')', '')
        from unnest(array[p_remark, (
          select 'sending is switched off: it is sent once that is on again'
          from monitor.settings
          where not (notifications_enabled and jobs_enabled))]) as remark
      ), p_text),
    p_now, p_actor, p_now, p_source_key);
  return v_told;
end;
$$;

comment on function monitor.tell_incident(monitor.incidents, text, text, text[], text, text, timestamptz, text) is
  'Writes a message about an incident to the outbox, one a channel, and to the timeline who is told. Returns by which channels; the '
  'caller wakes the deliverer, once for all that it tells.';

create function monitor.write_incident_message(
  p_incident            monitor.incidents,
  p_message             text,
  p_text                text,
  p_channels            text[],
  p_next_update_due_at  timestamptz,
  p_actor               text,
  p_now                 timestamptz
)
returns text[]
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_incident  monitor.incidents;
  v_chosen    jsonb;
  v_channels  text[];
begin
  update monitor.incidents
  set next_update_due_at = case when p_message <> 'resolution'
        then coalesce(p_next_update_due_at, p_now + monitor.update_interval(severity)) end,
      update_escalated_at = null,
      -- Whoever says how it stands has responded.
      acknowledged_at = case when p_message = 'update' then coalesce(acknowledged_at, p_now) else acknowledged_at end,
      acknowledged_by = case when p_message = 'update' then coalesce(acknowledged_by, p_actor) else acknowledged_by end
  where incident_id = p_incident.incident_id
  returning * into v_incident;
  if p_incident.acknowledged_at is null and v_incident.acknowledged_at is not null then
    perform monitor.write_incident_event(v_incident.incident_id, 'acknowledged', 'Acknowledged by the update.', p_now, p_actor, p_now);
  end if;

  if p_channels is not null then
    v_chosen := jsonb_build_object('channels', p_channels);
  else
    v_chosen := monitor.choose_channels(v_incident.channels, 1);
  end if;
  v_channels := array(
    select jsonb_array_elements_text(v_chosen -> 'channels')
    union
    -- Whoever was told that it is there is told how it goes on.
    select channel.channel
    from monitor.notification_channels as channel
    where p_channels is null and channel.enabled and channel.kind <> 'heartbeat' and exists (
      select from monitor.notifications as told
      where told.incident_id = v_incident.incident_id and told.channel = channel.channel and not told.is_test
        and told.state <> 'discarded')
    order by 1);
  return monitor.tell_incident(v_incident, p_message, p_text, v_channels, v_chosen ->> 'remark', p_actor, p_now);
end;
$$;

comment on function monitor.write_incident_message(monitor.incidents, text, text, text[], timestamptz, text, timestamptz) is
  'An initial alert, update or resolution: sets the next update deadline, by default that of the severity, and tells by p_channels or, if '
  'that is null, by those chosen for the incident and all that were told of it before. Returns by which channels.';

create function monitor.create_incident(
  p_title        text,
  p_severity     text,
  p_started_at   timestamptz,
  p_components   text[],
  p_fingerprint  text,
  p_channels     text[],
  p_description  text,
  p_actor        text,
  p_now          timestamptz
)
returns monitor.incidents
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_incident  monitor.incidents;
begin
  insert into monitor.incidents (
    title, severity, state, started_at, opened_at, opened_by, response_due_at, affected_components, fingerprint, channels)
  values (
    p_title, p_severity, 'open', p_started_at, p_now, p_actor, p_now + monitor.response_target(p_severity), p_components, p_fingerprint,
    p_channels)
  on conflict (fingerprint) where resolved_at is null do nothing
  returning * into v_incident;
  if found then
    perform monitor.write_incident_event(v_incident.incident_id, 'opened', p_description, p_now, p_actor, p_now);
  end if;
  return v_incident;
end;
$$;

comment on function monitor.create_incident(text, text, timestamptz, text[], text, text[], text, text, timestamptz) is
  'Writes an incident that is open, and the first event of its timeline. Returns it; nulls if there is one for the fingerprint.';

create function monitor.add_incident_alert(p_incident_id bigint, p_alert_id bigint, p_actor text, p_now timestamptz)
returns boolean
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_alerts      constant integer := 1000;
  c_of_evidence constant integer := 100; -- whose samples are copied, as of anomalies
  v_alert  monitor.system_alerts;
  v_count  integer;
begin
  select * into v_alert from monitor.system_alerts where alert_id = p_alert_id;
  if not found then
    raise exception 'no such alert: %', p_alert_id
      using errcode = 'no_data_found', hint = 'Alerts are the rows of monitor.system_alerts.';
  end if;
  insert into monitor.incident_alerts (incident_id, alert_id, occurrence_count, first_fired_at, event_count)
  values (
    p_incident_id, p_alert_id, v_alert.occurrence_count, least(v_alert.fired_at, v_alert.recent_firings[1]),
    (v_alert.fired_at is not null)::integer)
  on conflict do nothing;
  if not found then
    return false;
  end if;
  select count(*) into v_count from monitor.incident_alerts where incident_id = p_incident_id;
  if v_count > c_alerts then
    raise exception 'an incident may have % alerts', c_alerts
      using errcode = 'program_limit_exceeded', hint = 'Link those that tell something new.';
  end if;
  if v_count > c_of_evidence then
    update monitor.incident_alerts set series_ids = '{}' where incident_id = p_incident_id and alert_id = p_alert_id;
  end if;
  if v_alert.fired_at is not null then
    perform monitor.write_incident_event(
      p_incident_id, 'alert', format('Alert %s (%s) fired.', p_alert_id, v_alert.name), v_alert.fired_at, 'pgvigil', p_now,
      format('alert:%s:fired:%s', p_alert_id, v_alert.occurrence_count));
  end if;
  perform monitor.write_incident_event(
    p_incident_id, 'alert', format('Alert %s (%s) was linked%s.', p_alert_id, v_alert.name,
      case v_alert.state when 'pending' then ', which does not fire yet' when 'resolved' then ', which is over' else '' end),
    p_now, p_actor, p_now);
  return true;
end;
$$;

comment on function monitor.add_incident_alert(bigint, bigint, text, timestamptz) is
  'Links an alert; the next advance copies its samples, if it is among the first 100. Returns whether it was not linked before. '
  'Errors: P0002 for an unknown alert, 54000 beyond 1,000.';

create function monitor.series_of_alert(p_alert monitor.system_alerts)
returns integer[]
language sql
stable
security invoker
set search_path = ''
as $$
  with named as (
    select distinct word[1] as metric, p_alert.labels - 'alertname' - 'severity' - array(select jsonb_object_keys(rule.labels)) as labels
    from monitor.alert_rules as rule
    cross join lateral regexp_matches(rule.expr, '[a-zA-Z_:][a-zA-Z0-9_:]*', 'g') as word
    where rule.rule_id = p_alert.rule_id
  ), found as (
    select anomaly.series_id, 0 as place, null::timestamptz as last_sample_at
    from (
      select series_id, anomaly_id from monitor.anomaly_detections
      union all
      select series_id, anomaly_id from monitor.anomaly_detections_archive
    ) as anomaly
    where anomaly.anomaly_id = p_alert.anomaly_id
    union all
    select series.series_id, case when series.labels @> named.labels then 1 else 2 end, series.last_sample_at
    from named
    cross join lateral (
      select * from monitor.metric_series where metric_series.metric = named.metric limit 10000 -- an evaluation waits for this
    ) as series
    where (series.labels || named.labels) @> series.labels -- no label of both says something else
  )
  select coalesce(array_agg(series_id order by series_id), '{}')
  from (select series_id from found order by place, last_sample_at desc nulls last, series_id limit 10) as first;
$$;

comment on function monitor.series_of_alert(monitor.system_alerts) is
  'The series that an alert is likely to be about: that of its anomaly; else those of metrics that the expression of its rule names, as '
  'it is now, of which no label contradicts one of the alert; at most 10, those with all its labels and the freshest first, among 10,000 of a '
  'metric. Empty for jobs, health, and rules that are gone.';

create function monitor.copy_incident_evidence(
  p_incident_id  bigint,
  p_series_ids   integer[],
  p_ends         timestamptz[],
  p_anomaly_id   bigint  default null
)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_samples constant integer := 30000; -- of one series, one a second around both ends
  v_copied  integer;
begin
  with shown as (
    -- As of the anomaly itself: what is long is shown by its ends.
    select lower(part) as since, upper(part) as until
    from (
      select range_agg(tstzrange(at - interval '2 hours', at + interval '2 hours', '[]')) as spans
      from unnest(p_ends) as at
      where at is not null
    ) as ends
    cross join lateral unnest(ends.spans) as part
  ), sample as (
    select found.series_id, to_timestamp(taken.at / 1000.0) as recorded_at, taken.value
    from shown
    cross join lateral monitor.scan_series(p_series_ids, shown.since, shown.until + interval '1 millisecond') as found
    cross join lateral unnest(found.times, found.samples) as taken (at, value)
    union
    -- What is gone from the series may be among the evidence of the anomaly.
    select kept.series_id, kept.recorded_at, kept.value
    from monitor.evidence_samples as kept
    where kept.owner_kind = 'anomaly' and kept.owner_id = p_anomaly_id
  )
  insert into monitor.evidence_samples (owner_kind, owner_id, series_id, recorded_at, value)
  select 'incident', p_incident_id, series_id, recorded_at, value
  from sample
  order by recorded_at
  limit c_samples
  on conflict do nothing;
  get diagnostics v_copied = row_count;
  return v_copied;
end;
$$;

comment on function monitor.copy_incident_evidence(bigint, integer[], timestamptz[], bigint) is
  'Copies samples of these series within 2 hours of these times, and those that an anomaly has kept, to the evidence of an incident, at '
  'most 30,000. Returns how many it did not have.';

create function monitor.copy_anomaly_evidence(p_incident_id bigint, p_anomaly_id bigint, p_now timestamptz)
returns integer
language sql
security invoker
set search_path = ''
as $$
  update monitor.incident_anomalies
  set evidence_copied_at = p_now
  where incident_id = p_incident_id and anomaly_id = p_anomaly_id;
  select monitor.copy_incident_evidence(
    p_incident_id, array[series_id], array[started_at, coalesce(ended_at, last_seen_at)], p_anomaly_id)
  from (
    select anomaly_id, series_id, started_at, ended_at, last_seen_at from monitor.anomaly_detections
    union all
    select anomaly_id, series_id, started_at, ended_at, last_seen_at from monitor.anomaly_detections_archive
  ) as anomaly
  where anomaly_id = p_anomaly_id
  limit 1;
$$;

comment on function monitor.copy_anomaly_evidence(bigint, bigint, timestamptz) is
  'Copies the samples around the start and the end (so far) of a linked anomaly to the evidence of the incident. Returns how many it did '
  'not have.';

create function monitor.copy_alert_evidence(p_incident_id bigint, p_alert_id bigint, p_now timestamptz)
returns integer
language sql
security invoker
set search_path = ''
as $$
  update monitor.incident_alerts as link
  set series_ids = coalesce(link.series_ids, monitor.series_of_alert(alert)), evidence_copied_at = p_now
  from monitor.system_alerts as alert
  where link.incident_id = p_incident_id and link.alert_id = p_alert_id and alert.alert_id = p_alert_id;
  select monitor.copy_incident_evidence(
    p_incident_id, link.series_ids, array[least(link.first_fired_at, alert.active_at), alert.fired_at, alert.resolved_at])
  from monitor.incident_alerts as link
  join monitor.system_alerts as alert using (alert_id)
  where link.incident_id = p_incident_id and link.alert_id = p_alert_id;
$$;

comment on function monitor.copy_alert_evidence(bigint, bigint, timestamptz) is
  'Copies the samples around when a linked alert began to hold, last fired and resolved to the evidence of the incident, of the series '
  'that monitor.series_of_alert named the first time. Returns how many it did not have.';

create function monitor.drop_incident_evidence(p_incident_id bigint)
returns void
language sql
security invoker
set search_path = ''
as $$
  delete from monitor.evidence_samples as sample
  where sample.owner_kind = 'incident' and sample.owner_id = p_incident_id
    and (select action from monitor.retention_policies where entity = 'evidence_samples') = 'with_owner'
    and sample.series_id <> all (array(
      select anomaly.series_id
      from monitor.incident_anomalies as link
      join (
        select anomaly_id, series_id from monitor.anomaly_detections
        union all
        select anomaly_id, series_id from monitor.anomaly_detections_archive
      ) as anomaly using (anomaly_id)
      where link.incident_id = p_incident_id
      union
      select unnest(series_ids) from monitor.incident_alerts where incident_id = p_incident_id));
$$;

comment on function monitor.drop_incident_evidence(bigint) is
  'Deletes the samples of series that nothing linked to an incident is about any more.';

create function monitor.add_incident_anomaly(p_incident_id bigint, p_anomaly_id bigint, p_actor text, p_now timestamptz)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_anomalies constant integer := 100;
  v_metric  text;
begin
  select series.metric into v_metric
  from (
    select series_id from monitor.anomaly_detections where anomaly_id = p_anomaly_id
    union all
    select series_id from monitor.anomaly_detections_archive where anomaly_id = p_anomaly_id
  ) as anomaly
  join monitor.metric_series as series using (series_id);
  if not found then
    raise exception 'no such anomaly: %', p_anomaly_id
      using errcode = 'no_data_found', hint = 'Anomalies are the rows of monitor.anomaly_detections and of its archive.';
  end if;
  insert into monitor.incident_anomalies (incident_id, anomaly_id) values (p_incident_id, p_anomaly_id) on conflict do nothing;
  if not found then
    return null;
  end if;
  if (select count(*) from monitor.incident_anomalies where incident_id = p_incident_id) > c_anomalies then
    raise exception 'an incident may have % anomalies', c_anomalies
      using errcode = 'program_limit_exceeded', hint = 'Link those that tell something new: the samples of each are copied.';
  end if;
  perform monitor.write_incident_event(
    p_incident_id, 'anomaly', format('Anomaly %s of %s was linked.', p_anomaly_id, v_metric), p_now, p_actor, p_now);
  return monitor.copy_anomaly_evidence(p_incident_id, p_anomaly_id, p_now);
end;
$$;

comment on function monitor.add_incident_anomaly(bigint, bigint, text, timestamptz) is
  'Links an anomaly and copies its samples. Returns how many; null if it was linked before. Errors: P0002 for an unknown anomaly, 54000 '
  'beyond 100.';

create function monitor.record_incident_events(p_incident_ids bigint[], p_now timestamptz)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_news        constant integer := 1000; -- of each, a call; what is left follows with the next
  c_of_an_alert constant integer := 40;   -- one that flaps for days must not fill the timeline
  v_written  integer;
  v_count    integer;
begin
  -- Firings are news to those that are not resolved. One that somebody is working on waits for the next call.
  with news as (
    select link.incident_id, link.alert_id
    from monitor.incident_alerts as link
    join monitor.incidents as incident using (incident_id)
    join monitor.system_alerts as alert using (alert_id)
    where link.incident_id = any (p_incident_ids) and (
      (link.occurrence_count < alert.occurrence_count and incident.resolved_at is null)
      or (alert.fired_at is not null and alert.resolved_at <> coalesce(link.known_resolved_at, 'infinity'))
      or alert.acknowledged_at <> coalesce(link.known_acknowledged_at, 'infinity'))
    order by link.incident_id, link.alert_id
    limit c_news
  ), locked as (
    select incident_id, resolved_at is null as is_open
    from monitor.incidents
    where incident_id in (select incident_id from news)
    for no key update skip locked
  ), judged as (
    select link.incident_id, alert.*,
      locked.is_open and link.occurrence_count < alert.occurrence_count as has_fired,
      coalesce(alert.fired_at is not null and alert.resolved_at <> coalesce(link.known_resolved_at, 'infinity'), false) as has_resolved,
      coalesce(alert.acknowledged_at <> coalesce(link.known_acknowledged_at, 'infinity'), false) as is_newly_acknowledged
    from news
    join locked using (incident_id)
    join monitor.incident_alerts as link using (incident_id, alert_id)
    join monitor.system_alerts as alert using (alert_id)
  ), known as (
    update monitor.incident_alerts as link
    set occurrence_count = case when judged.has_fired then judged.occurrence_count else link.occurrence_count end,
        first_fired_at = case when judged.has_fired then least(link.first_fired_at, judged.fired_at) else link.first_fired_at end,
        known_resolved_at = case when judged.has_resolved then judged.resolved_at else link.known_resolved_at end,
        known_acknowledged_at = case when judged.is_newly_acknowledged then judged.acknowledged_at else link.known_acknowledged_at end,
        event_count = link.event_count + judged.has_fired::integer + judged.has_resolved::integer + judged.is_newly_acknowledged::integer
    from judged
    where link.incident_id = judged.incident_id and link.alert_id = judged.alert_id
    returning judged.*, link.event_count
  ), change as (
    select known.incident_id, happened.at, happened.text,
      format('alert:%s:%s', known.alert_id, happened.key) as key,
      -- The last of them has the number that the link has come to.
      known.event_count + 1 - row_number() over (partition by known.incident_id, known.alert_id order by happened.place desc) as number
    from known
    cross join monitor.settings
    cross join lateral (
      select 1 as place, coalesce(known.fired_at, p_now) as at, 'fired:' || known.occurrence_count as key,
        format('Alert %s (%s) fired%s.', known.alert_id, known.name, case when known.occurrence_count > 1 then ' again' else '' end) as text
      where known.has_fired
      union all
      select 2, known.acknowledged_at, 'acknowledged:' || monitor.epoch_ms(known.acknowledged_at),
        format('Alert %s (%s) was acknowledged by %s until %s: %s', known.alert_id, known.name, known.acknowledged_by,
          monitor.describe_time(known.acknowledged_until, settings.time_zone), known.acknowledged_because)
      where known.is_newly_acknowledged
      union all
      select 3, known.resolved_at, 'resolved:' || monitor.epoch_ms(known.resolved_at),
        format('Alert %s (%s) resolved%s.', known.alert_id, known.name, coalesce(': ' || known.resolved_because, ''))
      where known.has_resolved
    ) as happened
  )
  insert into monitor.incident_events (incident_id, kind, description, happened_at, actor, recorded_at, source_key)
  select incident_id, 'alert', text || case when number = c_of_an_alert then ' What it does from here on is not written down.' else '' end,
    at, 'pgvigil', p_now, key
  from change
  where number <= c_of_an_alert
  order by incident_id, at
  on conflict (incident_id, source_key) where source_key is not null do nothing;
  get diagnostics v_written = row_count;

  with news as (
    select notification_id from monitor.notifications
    where incident_id = any (p_incident_ids) and state <> 'pending' and timeline_state is distinct from state
    order by notification_id
    limit c_news
    for no key update skip locked
  ), known as (
    update monitor.notifications as notification
    set timeline_state = notification.state
    from news
    where notification.notification_id = news.notification_id
    returning notification.*
  )
  insert into monitor.incident_events (incident_id, kind, description, happened_at, actor, recorded_at, source_key)
  select known.incident_id, 'delivery',
    format('%s to %s %s', monitor.name_message(known.payload ->> 'message'), known.channel, outcome.text),
    coalesce(case when known.state in ('sent', 'delivered') then coalesce(known.delivered_at, known.sent_at) end, p_now), 'pgvigil', p_now,
    format('notification:%s:%s', known.notification_id, known.state)
  from known
  left join monitor.notification_channels as channel using (channel)
  cross join lateral (
    select case known.state
      -- Of a mail the provider says later whether it arrived; others have no later word.
      when 'sent' then case when channel.kind is distinct from 'email' then 'was taken.' end
      when 'delivered' then 'was delivered.'
      when 'bounced' then 'bounced' || coalesce(': ' || known.last_error, '.')
      when 'complained' then 'was delivered, and marked as spam.'
      when 'parked' then 'was given up' || coalesce(': ' || known.last_error, '.')
      when 'discarded' then 'was not sent: ' || coalesce(known.last_error, 'its channel was deleted') || '.' end as text
  ) as outcome
  where outcome.text is not null and not known.is_test
  order by known.notification_id
  on conflict (incident_id, source_key) where source_key is not null do nothing;
  get diagnostics v_count = row_count;
  return v_written + v_count;
end;
$$;

comment on function monitor.record_incident_events(bigint[], timestamptz) is
  'Writes to the timelines what linked alerts did and what became of messages, each once: fired (while the incident is not resolved), '
  'resolved, acknowledged; taken, delivered, bounced, given up. At most 40 of an alert, and of 1,000 alerts and 1,000 messages a call. '
  'Returns how many.';

-- What people do.

create function monitor.save_escalation_level(p_level integer, p_channels text[], p_title text default null)
returns void
language plpgsql
security definer -- an admin may say who is told, but not write the row
set search_path = ''
as $$
declare
  v_title     text;
  v_channels  text[] := coalesce(p_channels, '{}');
begin
  perform monitor.require_admin('save an escalation level');
  if p_level is null or p_level not between 1 and 3 then
    raise exception 'p_level must be 1, 2 or 3, got %', p_level
      using errcode = 'invalid_parameter_value', hint = 'Levels are the rows of monitor.escalation_levels.';
  end if;
  if v_channels <> '{}' then
    v_channels := monitor.check_channels(v_channels);
  end if;
  v_title := monitor.check_incident_text('p_title', p_title, 200);
  update monitor.escalation_levels set channels = v_channels, title = coalesce(v_title, title) where level = p_level;
end;
$$;

comment on function monitor.save_escalation_level(integer, text[], text) is
  'Says by which channels level 1, 2 or 3 is told; without a title that stays. Without channels lower levels are told instead. Errors: '
  '42501 for a user who is no admin, 22023 for another level, a channel that is unknown or switched off, or a title beyond 200 characters.';

create function monitor.open_incident(
  p_title        text,
  p_severity     text,
  p_started_at   timestamptz  default null,
  p_components   text[]       default '{}',
  p_alert_ids    bigint[]     default '{}',
  p_anomaly_ids  bigint[]     default '{}',
  p_text         text         default null,
  p_channels     text[]       default null,
  p_tell         boolean      default true,
  p_now          timestamptz  default now()
)
returns jsonb
language plpgsql
security definer -- an admin may open an incident, but not write its row
set search_path = ''
as $$
declare
  v_actor       text := monitor.current_actor();
  v_title       text := monitor.check_incident_text('p_title', regexp_replace(p_title, '[[:cntrl:][:space:]]+', ' ', 'g'), 200);
  v_text        text := monitor.check_incident_text('p_text', p_text, 10000);
  v_started_at  timestamptz := coalesce(p_started_at, p_now);
  v_incident    monitor.incidents;
  v_id          bigint;
  v_told        text[] := '{}';
begin
  perform monitor.require_admin('open an incident');
  if v_title is null then
    raise exception 'an incident needs a title'
      using errcode = 'invalid_parameter_value', hint = 'In at most 200 characters what is wrong, as whoever is hit by it would say it.';
  end if;
  if p_severity is null or p_severity not in ('P0', 'P1', 'P2', 'P3') then
    raise exception 'p_severity must be P0, P1, P2 or P3, got %', p_severity
      using errcode = 'invalid_parameter_value', hint = 'P0 wants a response within 15 minutes, P1 an hour, P2 4 hours, P3 a day.';
  end if;
  if not (v_started_at <= p_now and v_started_at > p_now - interval '10 years') then
    raise exception 'p_started_at must be within the last 10 years and not in the future, got %', v_started_at
      using errcode = 'invalid_parameter_value', hint = 'When it began, which may be before anyone knew. Left out, it is now.';
  end if;
  v_incident := monitor.create_incident(
    v_title, p_severity, v_started_at, monitor.check_components(p_components), null, monitor.check_channels(p_channels),
    'Opened by hand' || coalesce(': ' || v_text, '.'), v_actor, p_now);
  foreach v_id in array coalesce(p_alert_ids, '{}') loop
    perform monitor.add_incident_alert(v_incident.incident_id, v_id, v_actor, p_now);
  end loop;
  foreach v_id in array coalesce(p_anomaly_ids, '{}') loop
    perform monitor.add_incident_anomaly(v_incident.incident_id, v_id, v_actor, p_now);
  end loop;
  perform monitor.record_incident_events(array[v_incident.incident_id], p_now);
  if p_tell is not false then
    v_told := monitor.write_incident_message(v_incident, 'alert', coalesce(v_text, v_title), null, null, v_actor, p_now);
    perform monitor.wake_deliverer(p_now);
  end if;
  return (
    select to_jsonb(incident) || jsonb_build_object('told', v_told)
    from monitor.incidents as incident where incident_id = v_incident.incident_id);
end;
$$;

comment on function monitor.open_incident(text, text, timestamptz, text[], bigint[], bigint[], text, text[], boolean, timestamptz) is
  'Opens an incident by hand, with its alerts and anomalies, and tells it unless p_tell is false, by p_channels or those of level 1; if '
  'there is none the timeline says so. Returns its row and told, the channels. Errors: 42501 for a user who is no admin; 22023 for no '
  'title, an unknown severity, a start in the future or more than 10 years ago, a text, component or list that is too long, or a channel '
  'that is unknown or switched off; P0002 for an unknown alert or anomaly; 54000 for more than 1,000 alerts or 100 anomalies.';

create function monitor.acknowledge_incident(p_incident_id bigint, p_now timestamptz default now())
returns jsonb
language plpgsql
security definer -- an admin may respond, but not write the row
set search_path = ''
as $$
declare
  v_incident  monitor.incidents;
begin
  perform monitor.require_admin('acknowledge an incident');
  v_incident := monitor.lock_incident(p_incident_id);
  if v_incident.resolved_at is not null then
    raise exception 'incident % is resolved', p_incident_id
      using errcode = 'invalid_parameter_value', hint = 'Open it again first: select monitor.set_incident_state(…, ''open'');';
  end if;
  if v_incident.acknowledged_at is null then
    update monitor.incidents
    set acknowledged_at = p_now, acknowledged_by = monitor.current_actor()
    where incident_id = p_incident_id
    returning * into v_incident;
    perform monitor.write_incident_event(p_incident_id, 'acknowledged', 'Acknowledged.', p_now, v_incident.acknowledged_by, p_now);
  end if;
  return to_jsonb(v_incident);
end;
$$;

comment on function monitor.acknowledge_incident(bigint, timestamptz) is
  'Says that somebody responds: the response deadline is met. Who was first stays. Returns its row. Errors: 42501 for a user who is no '
  'admin, P0002 for an unknown incident, 22023 for one that is resolved.';

create function monitor.assign_commander(p_incident_id bigint, p_commander text, p_now timestamptz default now())
returns jsonb
language plpgsql
security definer -- an admin may say who leads, but not write the row
set search_path = ''
as $$
declare
  v_before    monitor.incidents;
  v_incident  monitor.incidents;
  v_name      text := monitor.check_incident_text('p_commander', regexp_replace(p_commander, '[[:cntrl:][:space:]]+', ' ', 'g'), 200);
begin
  perform monitor.require_admin('assign a commander');
  v_before := monitor.lock_incident(p_incident_id);
  update monitor.incidents set commander = v_name where incident_id = p_incident_id returning * into v_incident;
  if v_before.commander is distinct from v_name then
    perform monitor.write_incident_event(
      p_incident_id, 'commander', case when v_name is null then format('%s leads no more.', v_before.commander)
        else format('Led by %s%s.', v_name, coalesce(' instead of ' || v_before.commander, '')) end,
      p_now, monitor.current_actor(), p_now);
  end if;
  return to_jsonb(v_incident);
end;
$$;

comment on function monitor.assign_commander(bigint, text, timestamptz) is
  'Says who leads, by name; null: nobody. Returns its row. Errors: 42501 for a user who is no admin, P0002 for an unknown incident, 22023 '
  'for a name beyond 200 characters.';

create function monitor.set_incident_state(
  p_incident_id     bigint,
  p_state           text,
  p_text            text         default null,
  p_at              timestamptz  default null,
  p_root_cause      text         default null,
  p_fix             text         default null,
  p_prevention      text         default null,
  p_post_mortem_on  date         default null,
  p_tell            boolean      default null,
  p_now             timestamptz  default now()
)
returns jsonb
language plpgsql
security definer -- an admin may move an incident on, but not write its row
set search_path = ''
as $$
declare
  v_actor     text := monitor.current_actor();
  v_text      text := monitor.check_incident_text('p_text', p_text, 10000);
  v_at        timestamptz := coalesce(p_at, p_now);
  v_before    monitor.incidents;
  v_incident  monitor.incidents;
  v_firing    text;
  v_default   text;
  v_told      text[] := '{}';
begin
  perform monitor.require_admin('move an incident on');
  v_before := monitor.lock_incident(p_incident_id);
  if p_state is null or p_state not in ('open', 'investigating', 'identified', 'monitoring', 'resolved') then
    raise exception 'p_state must be open, investigating, identified, monitoring or resolved, got %', p_state
      using errcode = 'invalid_parameter_value', hint = 'In any order; whatever is set after resolved opens it again.';
  end if;
  if p_state = v_before.state then
    raise exception 'incident % is % already', p_incident_id, p_state
      using errcode = 'invalid_parameter_value',
            hint = 'For a note: monitor.note_incident; for what was the cause and the cure: monitor.write_up_incident.';
  end if;
  if not (v_at >= v_before.started_at and v_at <= p_now) then
    raise exception 'p_at must be from its start, %, to now, %, got %', v_before.started_at, p_now, v_at
      using errcode = 'invalid_parameter_value', hint = 'When it came to be so, which may be before it is written down.';
  end if;
  if v_at < v_before.resolved_at then
    raise exception 'incident % was resolved at %: it cannot have been opened again at %', p_incident_id, v_before.resolved_at, v_at
      using errcode = 'invalid_parameter_value', hint = 'Leave p_at out, or give a later one.';
  end if;

  update monitor.incidents as incident
  set state = p_state,
      resolved_at = case when p_state = 'resolved' then v_at end,
      mitigated_at = case
        when v_before.resolved_at is not null then case when p_state = 'monitoring' then v_at end
        when p_state = 'monitoring' then least(mitigated_at, v_at)
        when p_state = 'resolved' and mitigated_at is not null then least(mitigated_at, v_at)
        else mitigated_at end,
      acknowledged_at = case
        when p_state = 'open' and v_before.resolved_at is not null then null
        when p_state = 'open' then acknowledged_at
        when v_before.resolved_at is not null then v_at
        else coalesce(acknowledged_at, v_at) end,
      acknowledged_by = case
        when p_state = 'open' and v_before.resolved_at is not null then null
        when p_state = 'open' then acknowledged_by
        when v_before.resolved_at is not null then v_actor
        else coalesce(acknowledged_by, v_actor) end,
      root_cause = coalesce(monitor.check_incident_text('p_root_cause', p_root_cause, 10000), root_cause),
      fix = coalesce(monitor.check_incident_text('p_fix', p_fix, 10000), fix),
      prevention = coalesce(monitor.check_incident_text('p_prevention', p_prevention, 10000), prevention),
      post_mortem_on = coalesce(p_post_mortem_on, post_mortem_on),
      next_update_due_at = case
        when p_state = 'resolved' then null
        when v_before.resolved_at is not null then p_now + monitor.update_interval(severity)
        else next_update_due_at end,
      -- Opened again, all deadlines start anew.
      reopened_at = case when v_before.resolved_at is not null then p_now else reopened_at end,
      response_due_at = case when v_before.resolved_at is not null then p_now + monitor.response_target(severity) else response_due_at end,
      response_escalated_at = case when v_before.resolved_at is null then response_escalated_at end,
      update_escalated_at = case when v_before.resolved_at is null then update_escalated_at end,
      escalation_level = case when v_before.resolved_at is not null then 1 else escalation_level end,
      -- Its alert may have opened another one since.
      fingerprint = case when v_before.resolved_at is not null and exists (
          select from monitor.incidents as other where other.fingerprint = incident.fingerprint and other.resolved_at is null)
        then null else fingerprint end
  where incident_id = p_incident_id
  returning * into v_incident;

  select format(' Of its alerts %s still %s: %s.', count(*), case when count(*) = 1 then 'fires' else 'fire' end, string_agg(format('%s (%s)', firing.alert_id, firing.name), ', ')
      filter (where firing.place <= 5) || case when count(*) > 5 then ' and others' else '' end) into v_firing
  from (
    select alert.alert_id, alert.name, row_number() over (order by alert.alert_id) as place
    from monitor.incident_alerts as link
    join monitor.system_alerts as alert using (alert_id)
    where link.incident_id = p_incident_id and alert.state = 'firing' and p_state = 'resolved'
  ) as firing
  having count(*) > 0;

  if v_firing is not null and v_text !~ '[.!?]\s*$' then
    v_text := v_text || '.'; -- what fires is said after it
  end if;
  v_default := case
    when p_state = 'resolved' then format('Resolved after %s.', monitor.describe_duration(v_at - v_incident.started_at))
    else initcap(p_state) || '.' end;
  if v_before.resolved_at is not null then
    perform monitor.write_incident_event(
      p_incident_id, 'reopened', format('Opened again, as %s%s', p_state, coalesce(': ' || v_text, '.')), v_at, v_actor, p_now);
  else
    perform monitor.write_incident_event(
      p_incident_id, 'state', initcap(p_state) || coalesce(': ' || v_text, '.') || coalesce(v_firing, ''), v_at, v_actor, p_now);
  end if;
  if v_incident.acknowledged_at is not null and (v_before.acknowledged_at is null or v_before.resolved_at is not null) then
    perform monitor.write_incident_event(p_incident_id, 'acknowledged', 'Acknowledged by moving it on.', v_at, v_actor, p_now);
  end if;

  -- Whoever was told that it is there is told that it is over, and that it is there again.
  if coalesce(p_tell, (p_state = 'resolved' or v_before.resolved_at is not null) and exists (
    select from monitor.notifications where incident_id = p_incident_id and not is_test and state <> 'discarded'))
  then
    v_told := monitor.write_incident_message(
      v_incident, case when p_state = 'resolved' then 'resolution' when p_state = 'open' then 'alert' else 'update' end,
      case when v_before.resolved_at is not null then 'It was resolved, and is open again. ' else '' end || coalesce(v_text, v_default)
        || coalesce(v_firing, ''),
      null, null, v_actor, p_now);
    perform monitor.wake_deliverer(p_now);
  end if;
  return (
    select to_jsonb(incident) || jsonb_build_object('told', v_told)
    from monitor.incidents as incident where incident_id = p_incident_id);
exception when unique_violation then
  raise exception 'an alert of incident % has opened another one in this moment', p_incident_id
    using errcode = 'serialization_failure', hint = 'Look at the other one, or try again.';
end;
$$;

comment on function monitor.set_incident_state(bigint, text, text, timestamptz, text, text, text, date, boolean, timestamptz) is
  'Moves an incident on, in any order; p_at says since when it is so. After resolved any other state opens it again: deadlines start '
  'anew, at level 1. Root cause, fix and prevention may come now or later (monitor.write_up_incident). A resolution, and that it is open '
  'again, is told to all who were told of the incident unless p_tell is false; other states if p_tell is true. Returns its row and told, '
  'the channels. Errors: 42501 for a user who is no admin; P0002 for an unknown incident; 22023 for an unknown state, the one it has, a '
  'p_at before its start, before the resolution it undoes or in the future, or a text beyond 10,000 characters; 23514 for a day that is '
  'not of this millennium; 40001 if its alert opens another one at the same time.';

create function monitor.set_incident_severity(
  p_incident_id  bigint,
  p_severity     text,
  p_text         text         default null,
  p_now          timestamptz  default now()
)
returns jsonb
language plpgsql
security definer -- an admin may judge an incident anew, but not write its row
set search_path = ''
as $$
declare
  v_before    monitor.incidents;
  v_incident  monitor.incidents;
  v_text      text := monitor.check_incident_text('p_text', p_text, 10000);
begin
  perform monitor.require_admin('judge an incident anew');
  v_before := monitor.lock_incident(p_incident_id);
  if p_severity is null or p_severity not in ('P0', 'P1', 'P2', 'P3') then
    raise exception 'p_severity must be P0, P1, P2 or P3, got %', p_severity
      using errcode = 'invalid_parameter_value', hint = 'P0 wants a response within 15 minutes, P1 an hour, P2 4 hours, P3 a day.';
  end if;
  if p_severity = v_before.severity then
    raise exception 'incident % is % already', p_incident_id, p_severity
      using errcode = 'invalid_parameter_value', hint = 'For a note: monitor.note_incident.';
  end if;
  update monitor.incidents
  set severity = p_severity,
      response_due_at = case when response_due_at is not null
        then coalesce(reopened_at, opened_at) + monitor.response_target(p_severity) end,
      -- What was promised is not put off.
      next_update_due_at = case when next_update_due_at is not null
        then least(next_update_due_at, p_now + monitor.update_interval(p_severity)) end
  where incident_id = p_incident_id
  returning * into v_incident;
  perform monitor.write_incident_event(
    p_incident_id, 'severity', format('%s instead of %s%s', p_severity, v_before.severity, coalesce(': ' || v_text, '.')),
    p_now, monitor.current_actor(), p_now);
  return to_jsonb(v_incident);
end;
$$;

comment on function monitor.set_incident_severity(bigint, text, text, timestamptz) is
  'Changes the severity. The response deadline counts from the opening by the new target, so it may have passed; the next update comes '
  'sooner if the new interval says so, never later than promised. Returns its row. Errors: 42501 for a user who is no admin, P0002 for an '
  'unknown incident, 22023 for an unknown severity, the one it has, or a text beyond 10,000 characters.';

create function monitor.write_up_incident(
  p_incident_id     bigint,
  p_root_cause      text         default null,
  p_fix             text         default null,
  p_prevention      text         default null,
  p_post_mortem_on  date         default null,
  p_now             timestamptz  default now()
)
returns jsonb
language plpgsql
security definer -- an admin may write what was the matter, but not the row
set search_path = ''
as $$
declare
  v_before    monitor.incidents;
  v_incident  monitor.incidents;
  v_changed   text;
begin
  perform monitor.require_admin('write an incident up');
  v_before := monitor.lock_incident(p_incident_id);
  update monitor.incidents
  set root_cause = coalesce(monitor.check_incident_text('p_root_cause', p_root_cause, 10000), root_cause),
      fix = coalesce(monitor.check_incident_text('p_fix', p_fix, 10000), fix),
      prevention = coalesce(monitor.check_incident_text('p_prevention', p_prevention, 10000), prevention),
      post_mortem_on = coalesce(p_post_mortem_on, post_mortem_on)
  where incident_id = p_incident_id
  returning * into v_incident;
  v_changed := concat_ws(', ',
    case when v_incident.root_cause is distinct from v_before.root_cause then 'root cause' end,
    case when v_incident.fix is distinct from v_before.fix then 'fix' end,
    case when v_incident.prevention is distinct from v_before.prevention then 'prevention' end,
    case when v_incident.post_mortem_on is distinct from v_before.post_mortem_on
      then 'post-mortem on ' || v_incident.post_mortem_on::text end);
  if v_changed <> '' then
    perform monitor.write_incident_event(
      p_incident_id, 'write_up', format('Written: %s.', v_changed), p_now, monitor.current_actor(), p_now);
  end if;
  return to_jsonb(v_incident);
end;
$$;

comment on function monitor.write_up_incident(bigint, text, text, text, date, timestamptz) is
  'Writes root cause, fix, prevention and the day of the post-mortem, at any time; what is left out stays. The audit log has what was '
  'there before. Returns its row. Errors: 42501 for a user who is no admin, P0002 for an unknown incident, 22023 for a text beyond '
  '10,000 characters, 23514 for a day that is not of this millennium.';

create function monitor.update_incident_components(p_incident_id bigint, p_components text[], p_now timestamptz default now())
returns jsonb
language plpgsql
security definer -- an admin may say what is affected, but not write the row
set search_path = ''
as $$
declare
  v_before      monitor.incidents;
  v_incident    monitor.incidents;
  v_components  text[] := monitor.check_components(p_components);
begin
  perform monitor.require_admin('say what an incident affects');
  v_before := monitor.lock_incident(p_incident_id);
  update monitor.incidents set affected_components = v_components where incident_id = p_incident_id returning * into v_incident;
  if v_before.affected_components <> v_components then
    perform monitor.write_incident_event(
      p_incident_id, 'components', format('Affects %s; before: %s.',
        coalesce(nullif(array_to_string(v_components, ', '), ''), 'nothing'),
        coalesce(nullif(array_to_string(v_before.affected_components, ', '), ''), 'nothing')),
      p_now, monitor.current_actor(), p_now);
  end if;
  return to_jsonb(v_incident);
end;
$$;

comment on function monitor.update_incident_components(bigint, text[], timestamptz) is
  'Says which components are affected, all of them. Returns its row. Errors: 42501 for a user who is no admin, P0002 for an unknown '
  'incident, 22023 for more than 50 or one beyond 200 characters.';

create function monitor.link_alert(p_incident_id bigint, p_alert_id bigint, p_now timestamptz default now())
returns boolean
language plpgsql
security definer -- an admin may link an alert, but not write the row
set search_path = ''
as $$
declare
  v_is_new  boolean;
begin
  perform monitor.require_admin('link an alert');
  perform monitor.lock_incident(p_incident_id);
  v_is_new := monitor.add_incident_alert(p_incident_id, p_alert_id, monitor.current_actor(), p_now);
  perform monitor.record_incident_events(array[p_incident_id], p_now);
  return v_is_new;
end;
$$;

comment on function monitor.link_alert(bigint, bigint, timestamptz) is
  'Says that an alert belongs to an incident: what it does is in the timeline from then on, and the next evaluation copies its samples, '
  'if it is among the first 100, to the evidence. '
  'Returns whether it did not before. Errors: '
  '42501 for a user who is no admin, P0002 for an unknown incident or alert, 54000 for more than 1,000.';

create function monitor.unlink_alert(p_incident_id bigint, p_alert_id bigint, p_now timestamptz default now())
returns void
language plpgsql
security definer -- an admin may take a link back, but not delete the row
set search_path = ''
as $$
declare
  v_name         text;
  v_fingerprint  text;
begin
  perform monitor.require_admin('unlink an alert');
  perform monitor.lock_incident(p_incident_id);
  delete from monitor.incident_alerts as link
  using monitor.system_alerts as alert
  where link.incident_id = p_incident_id and link.alert_id = p_alert_id and alert.alert_id = link.alert_id
  returning alert.name, alert.fingerprint into v_name, v_fingerprint;
  if not found then
    raise exception 'alert % is not linked to incident %', p_alert_id, p_incident_id
      using errcode = 'no_data_found', hint = 'Links are the rows of monitor.incident_alerts.';
  end if;
  perform monitor.drop_incident_evidence(p_incident_id);
  update monitor.incidents set fingerprint = null where incident_id = p_incident_id and fingerprint = v_fingerprint;
  perform monitor.write_incident_event(
    p_incident_id, 'alert', format('Alert %s (%s) was unlinked.', p_alert_id, v_name), p_now, monitor.current_actor(), p_now);
end;
$$;

comment on function monitor.unlink_alert(bigint, bigint, timestamptz) is
  'Says that an alert does not belong to an incident; samples that were copied for it alone go. If it fires with the label '
  'pgvigil_incident and belongs to no other, it opens one of its own. Errors: 42501 for a '
  'user who is no admin, P0002 for an unknown incident or an alert that is not linked.';

create function monitor.link_anomaly(p_incident_id bigint, p_anomaly_id bigint, p_now timestamptz default now())
returns integer
language plpgsql
security definer -- an admin may link an anomaly, but not write the row
set search_path = ''
as $$
begin
  perform monitor.require_admin('link an anomaly');
  perform monitor.lock_incident(p_incident_id);
  return coalesce(monitor.add_incident_anomaly(p_incident_id, p_anomaly_id, monitor.current_actor(), p_now), 0);
end;
$$;

comment on function monitor.link_anomaly(bigint, bigint, timestamptz) is
  'Says that an anomaly, archived or not, belongs to an incident, and copies its samples to the incident''s evidence: 2 hours around its '
  'start and its end; those yet to come follow. Returns how many samples that were, 0 if it was linked. Errors: 42501 for a user who is '
  'no admin, P0002 for an unknown incident or anomaly, 54000 for more than 100.';

create function monitor.unlink_anomaly(p_incident_id bigint, p_anomaly_id bigint, p_now timestamptz default now())
returns void
language plpgsql
security definer -- an admin may take a link back, but not delete the row
set search_path = ''
as $$
begin
  perform monitor.require_admin('unlink an anomaly');
  perform monitor.lock_incident(p_incident_id);
  delete from monitor.incident_anomalies where incident_id = p_incident_id and anomaly_id = p_anomaly_id;
  if not found then
    raise exception 'anomaly % is not linked to incident %', p_anomaly_id, p_incident_id
      using errcode = 'no_data_found', hint = 'Links are the rows of monitor.incident_anomalies.';
  end if;
  perform monitor.drop_incident_evidence(p_incident_id);
  perform monitor.write_incident_event(
    p_incident_id, 'anomaly', format('Anomaly %s was unlinked.', p_anomaly_id), p_now, monitor.current_actor(), p_now);
end;
$$;

comment on function monitor.unlink_anomaly(bigint, bigint, timestamptz) is
  'Says that an anomaly does not belong to an incident; samples that were copied for it alone go. Errors: 42501 for a user who is no '
  'admin, P0002 for an unknown incident or an anomaly that is not linked.';

create function monitor.note_incident(
  p_incident_id  bigint,
  p_text         text,
  p_at           timestamptz  default null,
  p_now          timestamptz  default now()
)
returns bigint
language plpgsql
security definer -- an admin may add to a timeline, but not rewrite it
set search_path = ''
as $$
declare
  v_text  text := monitor.check_incident_text('p_text', p_text, 10000);
  v_at    timestamptz := coalesce(p_at, p_now);
begin
  perform monitor.require_admin('note something about an incident');
  perform monitor.lock_incident(p_incident_id);
  if v_text is null then
    raise exception 'a note needs a text'
      using errcode = 'invalid_parameter_value', hint = 'What was seen, tried or decided.';
  end if;
  -- What led to it may be from before it began.
  if not (v_at <= p_now and v_at > '-infinity') then
    raise exception 'p_at must not be in the future, got %', v_at
      using errcode = 'invalid_parameter_value', hint = 'When it was so. Left out, it is now.';
  end if;
  return monitor.write_incident_event(p_incident_id, 'note', v_text, v_at, monitor.current_actor(), p_now);
end;
$$;

comment on function monitor.note_incident(bigint, text, timestamptz, timestamptz) is
  'Adds a note to the timeline, at p_at. Returns its event_id. Errors: 42501 for a user who is no admin, P0002 for an unknown incident, '
  '22023 for no text, one beyond 10,000 characters, or a time in the future.';

create function monitor.send_incident_message(
  p_incident_id         bigint,
  p_message             text,
  p_text                text         default null,
  p_channels            text[]       default null,
  p_next_update_due_at  timestamptz  default null,
  p_now                 timestamptz  default now()
)
returns jsonb
language plpgsql
security definer -- an admin may tell people, but not write to the outbox
set search_path = ''
as $$
declare
  v_incident  monitor.incidents;
  v_text      text := monitor.check_incident_text('p_text', p_text, 10000);
  v_channels  text[];
  v_told      text[];
begin
  perform monitor.require_admin('tell people of an incident');
  v_incident := monitor.lock_incident(p_incident_id);
  if p_message is null or p_message not in ('alert', 'update', 'resolution') then
    raise exception 'p_message must be alert, update or resolution, got %', p_message
      using errcode = 'invalid_parameter_value', hint = 'Escalations are sent when a deadline is missed.';
  end if;
  if (p_message = 'resolution') <> (v_incident.state = 'resolved') then
    raise exception 'incident % is %: % cannot be sent', p_incident_id, v_incident.state,
      case p_message when 'alert' then 'an initial alert' when 'update' then 'an update' else 'a resolution' end
      using errcode = 'invalid_parameter_value', hint = 'Set its state first: select monitor.set_incident_state(…).';
  end if;
  if p_next_update_due_at is not null and not (p_message <> 'resolution' and p_next_update_due_at > p_now
    and p_next_update_due_at <= p_now + interval '30 days') then
    raise exception 'p_next_update_due_at must be within 30 days from now and is not for a resolution, got %', p_next_update_due_at
      using errcode = 'invalid_parameter_value', hint = 'Left out, it follows the severity: 30 minutes for P0, 1 hour, 4 hours, a day.';
  end if;
  if v_text is null and p_message = 'update' then
    raise exception 'an update needs a text'
      using errcode = 'invalid_parameter_value', hint = 'What is known, what is being done, what comes next.';
  end if;
  v_channels := monitor.check_channels(p_channels);
  v_told := monitor.write_incident_message(
    v_incident, p_message, coalesce(v_text, case p_message
      when 'resolution' then format('Resolved after %s.', monitor.describe_duration(v_incident.resolved_at - v_incident.started_at))
      else v_incident.title end),
    v_channels, p_next_update_due_at, monitor.current_actor(), p_now);
  perform monitor.wake_deliverer(p_now);
  if v_told = '{}' then
    raise exception 'there is no channel to tell incident % by', p_incident_id
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Make one, or switch one on: select monitor.save_channel(''ops'', ''email'', ''{"to": ["ops@example.com"]}'');';
  end if;
  return (
    select jsonb_build_object('told', v_told, 'next_update_due_at', next_update_due_at)
    from monitor.incidents where incident_id = p_incident_id);
end;
$$;

comment on function monitor.send_incident_message(bigint, text, text, text[], timestamptz, timestamptz) is
  'Tells an incident: alert (the initial one), update (which is a response, too) or resolution, by p_channels or, left out, by those of '
  'the incident and all that were told of it. Sets when the next update is due. Returns {told: channels, next_update_due_at}. Errors: '
  '42501 for a user who is no admin; P0002 for an unknown incident; 22023 for a message that does not fit its state, an update without '
  'text, a text beyond 10,000 characters, a deadline that is past or beyond 30 days, or a channel that is unknown or switched off; 55000 '
  'if there is no channel at all.';

-- What people read.

create function monitor.measure_incident(p_incident_id bigint)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select jsonb_build_object(
    'detected_at', known.detected_at,
    'acknowledged_at', known.acknowledged_at,
    'mitigated_at', known.mitigated_at,
    'resolved_at', known.resolved_at,
    'detect_seconds', extract(epoch from known.detected_at - known.started_at),
    -- Not less than 0: whoever was on it detected it.
    'acknowledge_seconds', extract(epoch from known.acknowledged_at - known.detected_at),
    'mitigate_seconds', extract(epoch from known.mitigated_at - known.started_at),
    'resolve_seconds', extract(epoch from known.resolved_at - known.started_at))
  from (
    select incident.started_at, incident.resolved_at, coalesce(incident.mitigated_at, incident.resolved_at) as mitigated_at,
      response.acknowledged_at,
      -- By an alert, by who wrote it down, or by who was on it before it was written down.
      greatest(incident.started_at, least(incident.opened_at, response.acknowledged_at, (
        select min(least(link.first_fired_at, alert.fired_at, alert.recent_firings[1]))
        from monitor.incident_alerts as link
        join monitor.system_alerts as alert using (alert_id)
        where link.incident_id = incident.incident_id))) as detected_at
    from monitor.incidents as incident
    cross join lateral (
      -- The first one, also if it was opened again since.
      select coalesce(min(event.happened_at), incident.acknowledged_at) as acknowledged_at
      from monitor.incident_events as event
      where event.incident_id = incident.incident_id and event.kind = 'acknowledged'
    ) as response
    where incident.incident_id = p_incident_id
  ) as known;
$$;

comment on function monitor.measure_incident(bigint) is
  'When an incident was detected, acknowledged, mitigated and resolved, and the seconds that took: to acknowledge counts from the '
  'detection, the others from the start. One that was resolved without monitoring was mitigated by that. Null what has not happened, or '
  'for an unknown incident.';

create function monitor.describe_incident(p_incident_id bigint, p_now timestamptz default now())
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c_listed constant integer := 100;
  v_incident  monitor.incidents;
begin
  select * into v_incident from monitor.incidents where incident_id = p_incident_id;
  if not found then
    raise exception 'no such incident: %', p_incident_id
      using errcode = 'no_data_found', hint = 'Incidents are the rows of monitor.incidents; only admins see them.';
  end if;
  return to_jsonb(v_incident) || jsonb_build_object(
    'as_of_at', p_now,
    'lasts_seconds', extract(epoch from coalesce(v_incident.resolved_at, p_now) - v_incident.started_at),
    'response_is_overdue', coalesce(
      v_incident.resolved_at is null and v_incident.acknowledged_at is null and v_incident.response_due_at <= p_now, false),
    'update_is_overdue', coalesce(v_incident.resolved_at is null and v_incident.next_update_due_at <= p_now, false),
    'escalates_at', least(monitor.response_enforced_at(v_incident), monitor.update_enforced_at(v_incident)),
    'escalation_title', (select title from monitor.escalation_levels where level = v_incident.escalation_level),
    'measures', monitor.measure_incident(p_incident_id),
    'alert_count', (select count(*) from monitor.incident_alerts where incident_id = p_incident_id),
    'alerts', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'alert_id', alert.alert_id, 'name', alert.name, 'severity', alert.severity, 'labels', alert.labels, 'state', alert.state,
        'fired_at', alert.fired_at, 'resolved_at', alert.resolved_at, 'acknowledged_by', alert.acknowledged_by,
        'runbook_url', alert.runbook_url) order by alert.alert_id), '[]')
      from (
        select alert.* from monitor.incident_alerts as link
        join monitor.system_alerts as alert using (alert_id)
        where link.incident_id = p_incident_id
        order by alert.alert_id
        limit c_listed
      ) as alert),
    'anomaly_count', (select count(*) from monitor.incident_anomalies where incident_id = p_incident_id),
    'anomalies', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'anomaly_id', anomaly.anomaly_id, 'series_id', anomaly.series_id, 'metric', series.metric, 'labels', series.labels,
        'severity', anomaly.severity, 'started_at', anomaly.started_at, 'ended_at', anomaly.ended_at,
        'explanation', anomaly.explanation) order by anomaly.anomaly_id), '[]')
      from monitor.incident_anomalies as link
      join (
        select anomaly_id, series_id, severity, started_at, ended_at, explanation from monitor.anomaly_detections
        union all
        select anomaly_id, series_id, severity, started_at, ended_at, explanation from monitor.anomaly_detections_archive
      ) as anomaly using (anomaly_id)
      join monitor.metric_series as series using (series_id)
      where link.incident_id = p_incident_id),
    'message_count', (select count(*) from monitor.notifications where incident_id = p_incident_id and not is_test),
    'messages', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'notification_id', told.notification_id, 'channel', told.channel, 'message', told.payload -> 'message', 'state', told.state,
        'created_at', told.created_at, 'sent_at', told.sent_at, 'delivered_at', told.delivered_at, 'last_error', told.last_error)
        order by told.notification_id desc), '[]')
      from (
        select * from monitor.notifications
        where incident_id = p_incident_id and not is_test
        order by notification_id desc
        limit c_listed
      ) as told),
    'event_count', (select count(*) from monitor.incident_events where incident_id = p_incident_id));
end;
$$;

comment on function monitor.describe_incident(bigint, timestamptz) is
  'All of an incident but its timeline: its row, whether response and update are overdue as of p_now, when it escalates next, '
  'monitor.measure_incident, and its alerts, anomalies and messages (the newest first), at most 100 of each with how many there are. '
  'Errors: P0002 for an unknown incident, as all are to a user who is no admin.';

create function monitor.incident_timeline(
  p_incident_id     bigint,
  p_after_event_id  bigint   default null,
  p_limit           integer  default 500
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_after  timestamptz := '-infinity';
begin
  if p_limit is null or p_limit not between 1 and 1000 then
    raise exception 'p_limit must be from 1 to 1000, got %', p_limit
      using errcode = 'invalid_parameter_value', hint = 'Read further pages with p_after_event_id.';
  end if;
  if not exists (select from monitor.incidents where incident_id = p_incident_id) then
    raise exception 'no such incident: %', p_incident_id
      using errcode = 'no_data_found', hint = 'Incidents are the rows of monitor.incidents; only admins see them.';
  end if;
  if p_after_event_id is not null then
    select happened_at into v_after
    from monitor.incident_events where incident_id = p_incident_id and event_id = p_after_event_id;
    if not found then
      raise exception 'incident % has no event %', p_incident_id, p_after_event_id
        using errcode = 'no_data_found', hint = 'Pass next_event_id of the page before.';
    end if;
  end if;
  return (
    select jsonb_build_object(
      'events', coalesce(jsonb_agg(to_jsonb(event) - 'incident_id' order by event.happened_at, event.event_id), '[]'),
      'next_event_id', case when count(*) = p_limit then (array_agg(event.event_id order by event.happened_at desc, event.event_id desc))[1] end)
    from (
      select * from monitor.incident_events
      where incident_id = p_incident_id and (happened_at, event_id) > (v_after, coalesce(p_after_event_id, 0))
      order by happened_at, event_id
      limit p_limit
    ) as event);
end;
$$;

comment on function monitor.incident_timeline(bigint, bigint, integer) is
  'What happened, in order of when it was so: {events: [{event_id, happened_at, recorded_at, actor, kind, description, source_key}], '
  'next_event_id}; next_event_id is null on the last page, else pass it as p_after_event_id. Errors: P0002 for an unknown incident, as '
  'all are to a user who is no admin, or event, 22023 for a wrong p_limit.';

create function monitor.draft_post_mortem(p_incident_id bigint, p_now timestamptz default now())
returns text
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c_events constant integer := 500;
  c_late constant interval := interval '5 minutes';
  c_missing constant text := 'To be written.';
  v_incident   monitor.incidents;
  v_zone       text;
  v_measures   jsonb;
  v_acked      timestamptz;
  v_promise    timestamptz;
  v_alerts     text;
  v_anomalies  text;
  v_timeline   text;
  v_events     bigint;
begin
  select * into v_incident from monitor.incidents where incident_id = p_incident_id;
  if not found then
    raise exception 'no such incident: %', p_incident_id
      using errcode = 'no_data_found', hint = 'Incidents are the rows of monitor.incidents; only admins see them.';
  end if;
  select time_zone into v_zone from monitor.settings;
  v_measures := monitor.measure_incident(p_incident_id);
  v_acked := (v_measures ->> 'acknowledged_at')::timestamptz;
  v_promise := v_incident.opened_at + monitor.response_target(v_incident.severity);

  select string_agg(format(E'- Alert %s, %s, %s', linked.alert_id, monitor.escape_markdown(linked.name), case
      when linked.first_fired_at is null then 'has not fired.'
      when linked.lag > c_late then format('fired **%s late**, at %s%s', monitor.describe_duration(linked.lag),
        monitor.describe_time(linked.first_fired_at, v_zone), case
          when linked.for_seconds > 0 then format('; %s of that is the time its rule waits (`for`).',
            monitor.describe_duration(least(make_interval(secs => linked.for_seconds), linked.lag)))
          when linked.hold_window is not null then format('; its rule waits for %s of %s evaluations.', linked.hold_count, linked.hold_window)
          when linked.rule_id is not null and linked.is_known then '; its rule does not wait.'
          else '.' end)
      else format('fired in time, at %s.', monitor.describe_time(linked.first_fired_at, v_zone)) end),
    E'\n' order by linked.first_fired_at nulls last, linked.alert_id)
  into v_alerts
  from (
    select alert.alert_id, alert.name, alert.rule_id, rule.rule_id is not null as is_known, rule.for_seconds, rule.hold_count,
      rule.hold_window, fired.first_at as first_fired_at, fired.first_at - v_incident.started_at as lag
    from monitor.incident_alerts as link
    join monitor.system_alerts as alert using (alert_id)
    left join monitor.alert_rules as rule on rule.rule_id = alert.rule_id
    cross join lateral (
      -- An alert keeps only when it last began to fire; its link knows the times before.
      select least(link.first_fired_at, alert.fired_at, alert.recent_firings[1]) as first_at
    ) as fired
    where link.incident_id = p_incident_id
  ) as linked;

  select string_agg(format(E'- %s%s, from %s%s: %s', monitor.escape_markdown(series.metric),
      case when series.labels <> '{}' then ' ' || monitor.escape_markdown(series.labels::text) else '' end,
      monitor.describe_time(anomaly.started_at, v_zone),
      coalesce(' to ' || monitor.describe_time(anomaly.ended_at, v_zone), ' on'), monitor.escape_markdown(anomaly.explanation)),
    E'\n' order by anomaly.started_at, anomaly.anomaly_id)
  into v_anomalies
  from monitor.incident_anomalies as link
  join (
    select anomaly_id, series_id, started_at, ended_at, explanation from monitor.anomaly_detections
    union all
    select anomaly_id, series_id, started_at, ended_at, explanation from monitor.anomaly_detections_archive
  ) as anomaly using (anomaly_id)
  join monitor.metric_series as series using (series_id)
  where link.incident_id = p_incident_id;

  select count(*) into v_events from monitor.incident_events where incident_id = p_incident_id;
  select string_agg(format(E'- **%s**%s %s: %s', monitor.describe_time(event.happened_at, v_zone),
      case when event.recorded_at > event.happened_at + interval '1 minute' and event.actor <> 'pgvigil'
        then format(' (written down at %s)', monitor.describe_time(event.recorded_at, v_zone)) else '' end,
      monitor.escape_markdown(event.actor), monitor.escape_markdown(event.description)),
    E'\n' order by event.happened_at, event.event_id)
  into v_timeline
  from (
    select * from monitor.incident_events
    where incident_id = p_incident_id
    order by kind in ('alert', 'delivery'), happened_at, event_id -- what a thousand alerts did must not push out what people wrote
    limit c_events
  ) as event;

  return concat_ws(E'\n\n',
    '# Post-mortem: ' || monitor.escape_markdown(v_incident.title),
    format('Draft of incident %s, computed at %s. Times are those of %s.', p_incident_id, monitor.describe_time(p_now, v_zone),
      monitor.escape_markdown(v_zone)),
    concat_ws(E'\n',
      '| | |', '| --- | --- |',
      format('| Severity | %s |', v_incident.severity),
      format('| State | %s |', v_incident.state),
      format('| Commander | %s |', coalesce(monitor.escape_markdown(v_incident.commander), 'nobody')),
      format('| Affected components | %s |',
        coalesce(nullif(monitor.escape_markdown(array_to_string(v_incident.affected_components, ', ')), ''), 'none named')),
      format('| Opened by | %s, at %s |', monitor.escape_markdown(v_incident.opened_by), monitor.describe_time(v_incident.opened_at, v_zone)),
      format('| Escalation | level %s, %s |', v_incident.escalation_level, (
        select monitor.escape_markdown(title) from monitor.escalation_levels where level = v_incident.escalation_level)),
      case when v_incident.reopened_at is not null then format('| Opened again | %s at %s |', (
          select case when count(*) > 1 then count(*) || ' times, last' else 'once' end
          from monitor.incident_events where incident_id = p_incident_id and kind = 'reopened'),
        monitor.describe_time(v_incident.reopened_at, v_zone)) end,
      format('| Post-mortem on | %s |', coalesce(v_incident.post_mortem_on::text, 'no day set'))),
    '## Times',
    concat_ws(E'\n',
      '| | At | Took | |', '| --- | --- | --- | --- |',
      format('| Began | %s | | |', monitor.describe_time(v_incident.started_at, v_zone)),
      (
        select string_agg(format('| %s | %s | %s | %s |', step.name,
          coalesce(monitor.describe_time((v_measures ->> step.key)::timestamptz, v_zone), 'not yet'),
          coalesce(monitor.describe_duration(make_interval(secs => (v_measures ->> step.seconds)::double precision)), ''),
          step.remark), E'\n' order by step.place)
        from (values
          (1, 'Detected', 'detected_at', 'detect_seconds', 'after it began'),
          (2, 'Acknowledged', 'acknowledged_at', 'acknowledge_seconds', 'after it was detected; ' || case
            when v_incident.response_due_at is null then 'there was no deadline'
            when coalesce(v_acked, p_now) <= v_promise then format('due at %s%s', monitor.describe_time(v_promise, v_zone),
              case when v_acked is not null then ', met' else '' end)
            else format('due at %s, **missed by %s**', monitor.describe_time(v_promise, v_zone),
              monitor.describe_duration(coalesce(v_acked, p_now) - v_promise)) end),
          (3, 'Mitigated', 'mitigated_at', 'mitigate_seconds', 'after it began'),
          (4, 'Resolved', 'resolved_at', 'resolve_seconds', 'after it began')
        ) as step (place, name, key, seconds, remark)
      )),
    '## Summary', c_missing,
    '## Root cause', coalesce(monitor.quote_markdown(v_incident.root_cause), c_missing),
    '## Fix', coalesce(monitor.quote_markdown(v_incident.fix), c_missing),
    '## Prevention', coalesce(monitor.quote_markdown(v_incident.prevention), c_missing),
    '## Alerts', coalesce(v_alerts, format('**No alert fired.** It was found %s: which rule would have told it?', case
      when v_anomalies is not null then 'by people or by an anomaly' else 'by people' end)),
    '## Anomalies', coalesce(v_anomalies, 'None is linked.'),
    '## Timeline', coalesce(v_timeline, 'Nothing is written down.'),
    case when v_events > c_events then format('And %s more: see monitor.incident_timeline(%s).', v_events - c_events, p_incident_id) end
  ) || E'\n';
end;
$$;

comment on function monitor.draft_post_mortem(bigint, timestamptz) is
  'A post-mortem in Markdown: how long it took to detect, acknowledge, mitigate and resolve, alerts that fired more than 5 minutes after '
  'the start with the share of it that their rule waits, or that none did, and the timeline, at most 500 events, those '
  'of alerts and deliveries last. What people wrote shows as they wrote it and cannot become '
  'structure. Times are in the time zone of settings. Errors: P0002 for an unknown incident, as all '
  'are to a user who is no admin.';

create function monitor.propose_incidents(p_now timestamptz default now())
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c_considered constant integer := 500;
  c_candidates constant integer := 50;
  c_reach      constant interval := interval '5 minutes';
  c_recent     constant interval := interval '1 hour';
  -- Labels that say what kind of thing it is, or who cares, not what it is about.
  c_silent     constant text[] := '{alertname,severity,team,pgvigil_incident,le,quantile}';
  v_starts     timestamptz[] := '{}';
  v_began_at   timestamptz;
  v_alerts     bigint[];
  v_anomalies  bigint[];
  v_result     jsonb;
begin
  v_alerts := array(
    select alert_id from monitor.system_alerts
    where mode = 'live' and fired_at <= p_now and (resolved_at is null or fired_at > p_now - c_recent)
      and (resolved_at is null or resolved_at > p_now - c_recent) -- which follows, and has an index
    order by fired_at desc, alert_id desc
    limit c_considered + 1);
  v_anomalies := array(
    select anomaly_id from monitor.anomaly_detections
    where started_at <= p_now and (ended_at is null or started_at > p_now - c_recent) and review_state in ('open', 'acknowledged')
    order by started_at desc, anomaly_id desc
    limit c_considered + 1);

  -- From the first on, those within 5 minutes of it are together; what comes later starts anew. A chain would tie a busy day together.
  for v_began_at in
    select began_at from (
      select least(active_at, fired_at) as began_at from monitor.system_alerts where alert_id = any (v_alerts[:c_considered])
      union
      select started_at from monitor.anomaly_detections where anomaly_id = any (v_anomalies[:c_considered])
    ) as start
    order by began_at
  loop
    if v_starts = '{}' or v_began_at > v_starts[cardinality(v_starts)] + c_reach then
      v_starts := v_starts || v_began_at;
    end if;
  end loop;

  with item as (
    select 'alert' as kind, alert.alert_id as id, coalesce('anomaly ' || alert.anomaly_id, 'alert ' || alert.alert_id) as thing,
      least(alert.active_at, alert.fired_at) as began_at, alert.labels, anomaly.group_id, (
        select min(incident.incident_id) from monitor.incident_alerts as link
        join monitor.incidents as incident using (incident_id)
        where link.alert_id = alert.alert_id and incident.resolved_at is null) as incident_id
    from monitor.system_alerts as alert
    left join monitor.anomaly_detections as anomaly using (anomaly_id)
    where alert.alert_id = any (v_alerts[:c_considered])
    union all
    select 'anomaly', anomaly.anomaly_id, 'anomaly ' || anomaly.anomaly_id, anomaly.started_at, series.labels, anomaly.group_id, (
        select min(incident.incident_id) from monitor.incident_anomalies as link
        join monitor.incidents as incident using (incident_id)
        where link.anomaly_id = anomaly.anomaly_id and incident.resolved_at is null)
    from monitor.anomaly_detections as anomaly
    join monitor.metric_series as series using (series_id)
    where anomaly.anomaly_id = any (v_anomalies[:c_considered])
  ), tie as (
    select item.*, key.place, key.reason
    from item
    cross join lateral (
      select 1 as place, format('began within 5 minutes, from %s on', (
        select monitor.describe_time(max(start), settings.time_zone)
        from unnest(v_starts) as start
        cross join monitor.settings
        where start <= item.began_at
        group by settings.time_zone)) as reason
      union all
      select 2, format('share %s="%s"', label.key, label.value)
      from jsonb_each_text(item.labels) as label
      where label.key <> all (c_silent) and label.value <> ''
      union all
      select 3, format('anomalies of group %s, which began together', item.group_id)
      where item.group_id is not null
    ) as key
  ), candidate as (
    select place, reason,
      coalesce(array_agg(id order by id) filter (where kind = 'alert' and incident_id is null), '{}') as alerts,
      coalesce(array_agg(id order by id) filter (where kind = 'anomaly' and incident_id is null), '{}') as anomalies,
      coalesce(array_agg(distinct incident_id) filter (where incident_id is not null), '{}') as incidents,
      min(began_at) as began_at
    from tie
    group by place, reason
    -- An anomaly and the alert that tells it are one thing.
    having count(distinct thing) > 1 and bool_or(incident_id is null)
  ), merged as (
    select alerts, anomalies, incidents, min(began_at) as began_at, count(*) as reasons, min(place) as place,
      string_agg(reason, '; ' order by place, reason) as reason
    from candidate
    group by alerts, anomalies, incidents
  ), ranked as (
    select *, row_number() over (
      order by reasons desc, cardinality(alerts) + cardinality(anomalies) desc, began_at desc, place, reason) as rank
    from merged
  )
  select jsonb_build_object(
    'candidates', coalesce(jsonb_agg(jsonb_build_object(
      'alerts', to_jsonb(alerts), 'anomalies', to_jsonb(anomalies), 'incidents', to_jsonb(incidents), 'began_at', began_at,
      'reason', reason) order by rank) filter (where rank <= c_candidates), '[]'),
    'is_cut', count(*) > c_candidates or cardinality(v_alerts) > c_considered or cardinality(v_anomalies) > c_considered)
  into v_result
  from ranked;
  return v_result;
end;
$$;

comment on function monitor.propose_incidents(timestamptz) is
  'What may be one incident, for people to decide: alerts that fire and anomalies that last, or began within the last hour, of no open '
  'incident, that began within 5 minutes, share a telling label or are of one group. {candidates: [{alerts, anomalies, incidents, '
  'began_at, reason}], is_cut}; incidents are open ones that others of the same tie belong to: to be linked there rather than opened. One '
  'thing may be in several. At most 50, the best founded first, of the newest 500 alerts and 500 anomalies; is_cut says that there is '
  'more. Changes nothing. Empty to a user who is no admin.';

-- What happens by itself.

create function monitor.open_incident_of_alert(p_alert_id bigint, p_now timestamptz)
returns jsonb
language plpgsql
security invoker
set search_path = ''
set lock_timeout = '1s' -- who opens one of the same alert again, and does not commit, must not keep all evaluations waiting
as $$
declare
  v_alert     monitor.system_alerts;
  v_related   bigint[];
  v_known     bigint;
  v_label     text;
  v_severity  text;
  v_remark    text := '';
  v_incident  monitor.incidents;
  v_before    text;
  v_text      text;
  v_told      text[];
begin
  select * into v_alert from monitor.system_alerts where alert_id = p_alert_id;
  v_label := v_alert.labels ->> 'pgvigil_incident';
  v_severity := monitor.severity_of_label(v_label);
  -- Step by step, each by an index, however many incidents there are.
  v_related := array(
    select incident_id from monitor.incident_alerts
    where alert_id = any (array(select other.alert_id from monitor.system_alerts as other where other.fingerprint = v_alert.fingerprint))
    union
    select incident_id from monitor.incidents where fingerprint = v_alert.fingerprint and resolved_at is null);
  select min(incident_id) into v_known from monitor.incidents where incident_id = any (v_related) and resolved_at is null;
  if v_known is not null then
    -- Whoever works on it may be resolving it: that is known the next time.
    perform from monitor.incidents where incident_id = v_known and resolved_at is null for no key update skip locked;
    if found and monitor.add_incident_alert(v_known, p_alert_id, 'pgvigil', p_now) then
      return jsonb_build_object('linked', 1);
    end if;
    return '{}';
  end if;

  select format('Incident %s, which had the same alert, was resolved %s before. ', before.incident_id,
    monitor.describe_duration(p_now - before.resolved_at)) into v_before
  from monitor.incidents as before
  where before.incident_id = any (v_related) and before.resolved_at > p_now - interval '24 hours'
  order by before.resolved_at desc
  limit 1;
  if v_severity <> upper(btrim(v_label)) then
    v_remark := format('The label says "%s", which is none of P0 to P3: taken for %s. ', left(v_label, 100), v_severity);
  end if;
  v_text := left(coalesce(v_before, '') || v_remark || coalesce(
    nullif(btrim(v_alert.annotations ->> 'description', E' \t\r\n'), ''), nullif(btrim(v_alert.annotations ->> 'summary', E' \t\r\n'), ''),
    v_alert.name), 10000);
  v_incident := monitor.create_incident(
    coalesce((
      select nullif(btrim(left(regexp_replace(text, '[[:cntrl:][:space:]]+', ' ', 'g'), 200)), '')
      from unnest(array[v_alert.annotations ->> 'summary', v_alert.name]) with ordinality as named (text, place)
      where text ~ '\S'
      order by place
      limit 1), format('Alert %s', p_alert_id)),
    v_severity, least(v_alert.active_at, v_alert.fired_at, p_now), '{}', v_alert.fingerprint, null,
    format('Opened by alert %s (%s) and its label pgvigil_incident. %s%s', p_alert_id, v_alert.name, v_remark,
      case when v_before is null then '' else v_before || 'This is a new one: that one is not opened again by itself.' end),
    'pgvigil', p_now);
  if v_incident.incident_id is null then
    return '{}'; -- somebody else has opened it in this moment
  end if;
  perform monitor.add_incident_alert(v_incident.incident_id, p_alert_id, 'pgvigil', p_now);
  v_told := monitor.write_incident_message(v_incident, 'alert', v_text, null, null, 'pgvigil', p_now);
  return jsonb_build_object('opened', 1, 'told', cardinality(v_told));
end;
$$;

comment on function monitor.open_incident_of_alert(bigint, timestamptz) is
  'Opens the incident that the label of an alert asks for, and tells it; or links the alert to one that is not resolved and is of the '
  'same fingerprint. Returns {opened, told} or {linked}, {} if others were faster.';

create function monitor.escalate_incident(p_incident monitor.incidents, p_now timestamptz)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_late constant interval := interval '2 minutes'; -- deadlines are looked at every minute
  v_response_at  timestamptz := monitor.response_enforced_at(p_incident);
  v_update_at    timestamptz := monitor.update_enforced_at(p_incident);
  v_is_response  boolean := coalesce(v_response_at <= p_now, false);
  v_is_update    boolean := coalesce(v_update_at <= p_now, false);
  v_zone         text;
  v_incident     monitor.incidents;
  v_chosen       jsonb;
begin
  if not (v_is_response or v_is_update) then
    return 0;
  end if;
  update monitor.incidents
  set escalation_level = least(escalation_level + 1, 3),
      response_escalated_at = case when v_is_response then p_now else response_escalated_at end,
      update_escalated_at = case when v_is_update then p_now else update_escalated_at end
  where incident_id = p_incident.incident_id
  returning * into v_incident;
  select time_zone into v_zone from monitor.settings;
  v_chosen := monitor.choose_channels(null, v_incident.escalation_level);
  return cardinality(monitor.tell_incident(
    v_incident, 'escalation',
    concat_ws(' ',
      case when v_is_response then format('Nobody has responded since it was opened%s: that was due at %s%s.',
        case when v_incident.reopened_at is not null then ' again' else '' end, monitor.describe_time(v_incident.response_due_at, v_zone),
        case when v_response_at < p_now - c_late then format(' (told %s late)', monitor.describe_duration(p_now - v_response_at)) else '' end) end,
      case when v_is_update then format('The status update is overdue: it was due at %s%s.',
        monitor.describe_time(v_incident.next_update_due_at, v_zone),
        case when v_update_at < p_now - c_late then format(' (told %s late)', monitor.describe_duration(p_now - v_update_at)) else '' end) end,
      format(case when p_incident.escalation_level < 3 then 'Escalated to level %s, %s.' else 'It stays at level %s, %s.' end,
        v_incident.escalation_level, (select title from monitor.escalation_levels where level = v_incident.escalation_level)),
      format('The next time is %s.', monitor.describe_time(
        least(monitor.response_enforced_at(v_incident), monitor.update_enforced_at(v_incident)), v_zone))),
    array(select jsonb_array_elements_text(v_chosen -> 'channels')), v_chosen ->> 'remark', 'pgvigil', p_now,
    format('missed:%s:%s', monitor.epoch_ms(case when v_is_response then v_response_at end),
      monitor.epoch_ms(case when v_is_update then v_update_at end))));
end;
$$;

comment on function monitor.escalate_incident(monitor.incidents, timestamptz) is
  'Escalates an incident that the caller has locked by one level if a deadline of it was missed, by one even if both were, and tells '
  'that level. Returns how many messages were written.';

create function monitor.advance_incidents(p_now timestamptz)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_openings  constant integer := 100;  -- of each, a call; what is left follows with the next
  c_evidence  constant integer := 20;
  c_samples   constant interval := interval '2 hours 5 minutes'; -- around a start or an end, and 5 minutes for those that come late
  c_failures  constant integer := 10;
  c_aftermath constant interval := interval '3 days'; -- in which alerts end and mails bounce after the resolution
  c_astray    constant interval := interval '26 hours'; -- more than any target
  v_asking     bigint[];
  v_muted      bigint[];
  v_id         bigint;
  v_link       record;
  v_incident   monitor.incidents;
  v_done       jsonb;
  v_opened     integer := 0;
  v_linked     integer := 0;
  v_escalated  integer := 0;
  v_told       integer := 0;
  v_events     integer := 0;
  v_failures   jsonb := '[]';
begin
  if p_now is null then
    raise exception 'p_now must be a time' using errcode = 'invalid_parameter_value', hint = 'That of the evaluation.';
  end if;

  -- Alerts that ask for an incident and belong to none that knows this firing of them.
  v_asking := array(
    select alert.alert_id
    from monitor.system_alerts as alert
    where alert.labels ? 'pgvigil_incident' and alert.resolved_at is null
      and alert.fired_at is not null and alert.mode = 'live' and alert.labels ->> 'pgvigil_incident' <> ''
      and not exists (
        select from monitor.incident_alerts as link
        join monitor.incidents as incident using (incident_id)
        where link.alert_id = alert.alert_id
          and (incident.resolved_at is null or link.occurrence_count >= alert.occurrence_count)));
  if v_asking <> '{}' then
    -- What is silenced, in maintenance or inhibited is not told, so it wakes nobody in this way either.
    v_muted := array(
      select mute.alert_id from monitor.settings cross join lateral monitor.list_mutes(p_now, settings.time_zone) as mute);
    for v_id in
      select alert.alert_id
      from monitor.system_alerts as alert
      where alert.alert_id = any (v_asking)
        and not exists (select from unnest(v_muted) as muted (alert_id) where muted.alert_id = alert.alert_id)
      order by monitor.severity_of_label(alert.labels ->> 'pgvigil_incident'), alert.fired_at, alert.alert_id
      limit c_openings
    loop
      begin
        v_done := monitor.open_incident_of_alert(v_id, p_now);
        v_opened := v_opened + coalesce((v_done ->> 'opened')::integer, 0);
        v_linked := v_linked + coalesce((v_done ->> 'linked')::integer, 0);
        v_told := v_told + coalesce((v_done ->> 'told')::integer, 0);
      exception when others then -- one that fails must not keep the others, or the evaluation, from their turn
        v_failures := v_failures || jsonb_build_object('alert_id', v_id, 'error', left(sqlstate || ': ' || sqlerrm, 300));
      end;
    end loop;
  end if;

  -- What was told by a clock that stood far ahead does not keep the next time away.
  update monitor.incidents
  set response_escalated_at = case when response_escalated_at <= p_now then response_escalated_at end,
      update_escalated_at = case when update_escalated_at <= p_now then update_escalated_at end
  where incident_id in (
    select incident_id from monitor.incidents
    where resolved_at is null and greatest(response_escalated_at, update_escalated_at) > p_now + c_astray
    for no key update skip locked);

  for v_incident in
    select incident.*
    from monitor.incidents as incident
    where incident.resolved_at is null
      and (monitor.response_enforced_at(incident) <= p_now or monitor.update_enforced_at(incident) <= p_now)
    order by incident.severity, incident.incident_id
    limit c_openings
    for no key update skip locked -- one that somebody is working on is looked at the next time
  loop
    begin
      v_told := v_told + monitor.escalate_incident(v_incident, p_now);
      v_escalated := v_escalated + 1;
    exception when others then
      v_failures := v_failures || jsonb_build_object('incident_id', v_incident.incident_id, 'error', left(sqlstate || ': ' || sqlerrm, 300));
    end;
  end loop;

  v_asking := array(select incident_id from monitor.incidents where resolved_at is null or resolved_at > p_now - c_aftermath);
  if v_asking <> '{}' then
    begin
      v_events := monitor.record_incident_events(v_asking, p_now);
    exception when others then
      v_failures := v_failures || jsonb_build_object('error', left(sqlstate || ': ' || sqlerrm, 300));
    end;
    -- The two hours after a start or an end had not happened yet when it was linked.
    for v_link in
      select link.incident_id, link.anomaly_id
      from monitor.incident_anomalies as link
      join (
        select anomaly_id, started_at, ended_at from monitor.anomaly_detections
        union all
        select anomaly_id, started_at, ended_at from monitor.anomaly_detections_archive
      ) as anomaly using (anomaly_id)
      cross join lateral unnest(array[anomaly.started_at, anomaly.ended_at]) as end_at
      where link.incident_id = any (v_asking) and end_at + c_samples <= p_now
        and (link.evidence_copied_at is null or link.evidence_copied_at < end_at + c_samples)
      group by link.incident_id, link.anomaly_id
      order by link.incident_id, link.anomaly_id
      limit c_evidence
    loop
      begin
        perform from monitor.incidents where incident_id = v_link.incident_id for no key update skip locked;
        if found then
          perform monitor.copy_anomaly_evidence(v_link.incident_id, v_link.anomaly_id, p_now);
        end if;
      exception when others then
        v_failures := v_failures || jsonb_build_object(
          'incident_id', v_link.incident_id, 'error', left(sqlstate || ': ' || sqlerrm, 300));
      end;
    end loop;
  end if;
  -- The same of alerts, of which also the samples before are copied only here: who links waits for none.
  for v_link in
    select link.incident_id, link.alert_id
    from monitor.incident_alerts as link
    join monitor.system_alerts as alert using (alert_id)
    where alert.fired_at is not null and (
      link.series_ids is null
      or (link.incident_id = any (v_asking) and link.series_ids <> '{}' and exists (
        select from unnest(array[alert.fired_at, alert.resolved_at]) as end_at
        where end_at + c_samples <= p_now and link.evidence_copied_at < end_at + c_samples)))
    order by link.incident_id, link.alert_id
    limit c_evidence
  loop
    begin
      perform from monitor.incidents where incident_id = v_link.incident_id for no key update skip locked;
      if found then
        perform monitor.copy_alert_evidence(v_link.incident_id, v_link.alert_id, p_now);
      end if;
    exception when others then
      v_failures := v_failures || jsonb_build_object(
        'incident_id', v_link.incident_id, 'alert_id', v_link.alert_id, 'error', left(sqlstate || ': ' || sqlerrm, 300));
    end;
  end loop;
  if v_told > 0 then
    perform monitor.wake_deliverer(p_now);
  end if;
  return jsonb_build_object(
    'opened', v_opened, 'linked', v_linked, 'escalated', v_escalated, 'told', v_told, 'events', v_events,
    'failed', jsonb_array_length(v_failures),
    'failures', (
      select coalesce(jsonb_agg(failure order by place), '[]')
      from jsonb_array_elements(v_failures) with ordinality as item (failure, place)
      where place <= c_failures));
end;
$$;

comment on function monitor.advance_incidents(timestamptz) is
  'What happens to incidents by itself, as of p_now: opens those that labels of firing live alerts ask for, unless these are muted; '
  'escalates those of which a deadline was missed; writes timelines; copies evidence. Called within each evaluation and each telling of '
  'alerts; a repeat with the same or an earlier time changes nothing. At most 100 of each a call, the worst first. Returns {opened, '
  'linked, escalated, told: messages written, events, failed, failures: [{alert_id or incident_id, error}], the first 10}; one that '
  'fails is tried again the next time. Errors: 22023 without a time.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.severity_of_label(text),
  monitor.check_incident_text(text, text, integer),
  monitor.check_components(text[]),
  monitor.check_channels(text[]),
  monitor.lock_incident(bigint),
  monitor.write_incident_event(bigint, text, text, timestamptz, text, timestamptz, text),
  monitor.choose_channels(text[], integer),
  monitor.incident_payload(monitor.incidents, text, text),
  monitor.name_message(text),
  monitor.find_pages(monitor.incidents, text, text),
  monitor.tell_incident(monitor.incidents, text, text, text[], text, text, timestamptz, text),
  monitor.write_incident_message(monitor.incidents, text, text, text[], timestamptz, text, timestamptz),
  monitor.create_incident(text, text, timestamptz, text[], text, text[], text, text, timestamptz),
  monitor.add_incident_alert(bigint, bigint, text, timestamptz),
  monitor.series_of_alert(monitor.system_alerts),
  monitor.copy_incident_evidence(bigint, integer[], timestamptz[], bigint),
  monitor.copy_anomaly_evidence(bigint, bigint, timestamptz),
  monitor.copy_alert_evidence(bigint, bigint, timestamptz),
  monitor.drop_incident_evidence(bigint),
  monitor.add_incident_anomaly(bigint, bigint, text, timestamptz),
  monitor.record_incident_events(bigint[], timestamptz),
  monitor.open_incident_of_alert(bigint, timestamptz),
  monitor.escalate_incident(monitor.incidents, timestamptz),
  monitor.advance_incidents(timestamptz)
to service_role;
grant execute on function
  monitor.describe_time(timestamptz, text),
  monitor.describe_duration(interval),
  monitor.escape_markdown(text),
  monitor.quote_markdown(text),
  monitor.response_target(text),
  monitor.update_interval(text),
  monitor.response_enforced_at(monitor.incidents),
  monitor.update_enforced_at(monitor.incidents),
  monitor.save_escalation_level(integer, text[], text),
  monitor.open_incident(text, text, timestamptz, text[], bigint[], bigint[], text, text[], boolean, timestamptz),
  monitor.acknowledge_incident(bigint, timestamptz),
  monitor.assign_commander(bigint, text, timestamptz),
  monitor.set_incident_state(bigint, text, text, timestamptz, text, text, text, date, boolean, timestamptz),
  monitor.set_incident_severity(bigint, text, text, timestamptz),
  monitor.write_up_incident(bigint, text, text, text, date, timestamptz),
  monitor.update_incident_components(bigint, text[], timestamptz),
  monitor.link_alert(bigint, bigint, timestamptz),
  monitor.unlink_alert(bigint, bigint, timestamptz),
  monitor.link_anomaly(bigint, bigint, timestamptz),
  monitor.unlink_anomaly(bigint, bigint, timestamptz),
  monitor.note_incident(bigint, text, timestamptz, timestamptz),
  monitor.send_incident_message(bigint, text, text, text[], timestamptz, timestamptz),
  monitor.measure_incident(bigint),
  monitor.describe_incident(bigint, timestamptz),
  monitor.incident_timeline(bigint, bigint, integer),
  monitor.draft_post_mortem(bigint, timestamptz),
  monitor.propose_incidents(timestamptz)
to authenticated, service_role;
