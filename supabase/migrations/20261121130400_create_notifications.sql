-- Purpose:  the outbox: groups of alerts, messages to channels with their leases and outcomes, and what they told of which alert.
-- Locks:    none on existing tables but for foreign keys to system_alerts.
-- Undo:     drop function monitor.requeue_notifications(text, timestamptz), monitor.record_mail_event(text, text, text, text[], text, timestamptz, timestamptz),
--           monitor.record_deliveries(jsonb, timestamptz), monitor.lease_notifications(text[], integer, double precision, timestamptz),
--           monitor.next_notification_at(timestamptz), monitor.list_next_notifications(timestamptz), monitor.next_mail_at(timestamptz), monitor.enqueue_notification(text, jsonb, bigint, bigint, boolean, timestamptz);
--           drop function monitor.apply_mail_event(monitor.mail_events, timestamptz);
--           drop table monitor.mail_events, monitor.notification_alerts, monitor.notifications, monitor.alert_group_members,
--           monitor.alert_groups; drop trigger notification_channels_discard_notifications on monitor.notification_channels;
--           drop function monitor.discard_notifications();

create table monitor.alert_groups (
  group_id         bigint      generated always as identity,
  group_key        text        not null,
  route_id         bigint,
  channels         text[],
  labels           jsonb       not null,
  labels_hash      uuid        not null generated always as (md5(labels::text)::uuid) stored,
  created_at       timestamptz not null,
  next_flush_at    timestamptz not null,
  last_flushed_at  timestamptz,

  constraint alert_groups_pkey primary key (group_id),
  constraint alert_groups_route_id_fkey
    foreign key (route_id) references monitor.notification_routes (route_id) on delete set null
);

create unique index alert_groups_route_id_labels_hash_idx on monitor.alert_groups (route_id, labels_hash) where route_id is not null;
comment on index monitor.alert_groups_route_id_labels_hash_idx is 'One group a route and values of its labels.';
create index alert_groups_route_id_idx on monitor.alert_groups (route_id);
create index alert_groups_next_flush_at_idx on monitor.alert_groups (next_flush_at);

comment on table monitor.alert_groups is 'Alerts that are told together; gone when all of them are over and told.';
comment on column monitor.alert_groups.group_key is 'What its messages have in common for whoever puts them together: its first route and its labels.';
comment on column monitor.alert_groups.route_id is 'Null when its route is gone: then only the end of what was told is still told.';
comment on column monitor.alert_groups.channels is 'Instead of those of the route, for alerts about the alerting itself.';
comment on column monitor.alert_groups.labels is 'Those that its alerts have in common by the route''s group_by.';
comment on column monitor.alert_groups.next_flush_at is 'When it is looked at next: told, if there is something to tell.';

alter table monitor.alert_groups enable row level security;

create policy alert_groups_select_authenticated
  on monitor.alert_groups for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.alert_groups to authenticated;
grant select, insert, update, delete on monitor.alert_groups to service_role;

create table monitor.alert_group_members (
  group_id  bigint  not null,
  alert_id  bigint  not null,
  only_end  boolean not null default false,

  constraint alert_group_members_pkey primary key (group_id, alert_id),
  constraint alert_group_members_group_id_fkey
    foreign key (group_id) references monitor.alert_groups (group_id) on delete cascade,
  constraint alert_group_members_alert_id_fkey
    foreign key (alert_id) references monitor.system_alerts (alert_id) on delete cascade
);

create index alert_group_members_alert_id_idx on monitor.alert_group_members (alert_id);

comment on table monitor.alert_group_members is 'An alert of a group; of several, where a route continues.';
comment on column monitor.alert_group_members.only_end is
  'Its routes have changed since it was told here: only that it is over is still told here.';

alter table monitor.alert_group_members enable row level security;

create policy alert_group_members_select_authenticated
  on monitor.alert_group_members for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.alert_group_members to authenticated;
grant select, insert, update, delete on monitor.alert_group_members to service_role;

create table monitor.notifications (
  notification_id  bigint      generated always as identity,
  channel          text        not null,
  group_id         bigint,
  group_hash       uuid        generated always as (
    case when group_id is not null then md5(coalesce(payload ->> 'group_key', group_id::text))::uuid end) stored,
  incident_id      bigint,
  payload          jsonb       not null,
  payload_type     text        generated always as (payload ->> 'type') stored,
  is_test          boolean     not null default false,
  state            text        not null default 'pending',
  created_at       timestamptz not null,
  next_attempt_at  timestamptz not null,
  attempt_count    integer     not null default 0,
  lease_token      uuid,
  lease_until      timestamptz,
  may_be_repeated  boolean     not null default false,
  idempotency_key  uuid        not null default gen_random_uuid(),
  provider_id      text,
  last_error       text,
  sent_at          timestamptz,
  delivered_at     timestamptz,

  constraint notifications_pkey primary key (notification_id),
  constraint notifications_idempotency_key_key unique (idempotency_key),
  constraint notifications_payload_bounded check (jsonb_typeof(payload) = 'object' and octet_length(payload::text) <= 8000000),
  constraint notifications_state_known check (
    state in ('pending', 'sent', 'delivered', 'bounced', 'complained', 'parked', 'discarded')),
  constraint notifications_lease_whole check ((lease_token is null) = (lease_until is null)),
  constraint notifications_lease_while_pending check (lease_token is null or state = 'pending'),
  constraint notifications_sent_at_with_state check (
    (sent_at is not null) = (state in ('sent', 'delivered', 'bounced', 'complained'))),
  constraint notifications_delivered_at_after_sent_at check (delivered_at is null or sent_at is not null),
  constraint notifications_attempt_count_counted check (attempt_count >= 0)
);

create index notifications_next_attempt_at_idx on monitor.notifications (next_attempt_at) where state = 'pending';
comment on index monitor.notifications_next_attempt_at_idx is 'What is still to be sent.';
create index notifications_parked_idx on monitor.notifications (created_at) where state = 'parked';
comment on index monitor.notifications_parked_idx is 'What was given up: counted every minute.';
create index notifications_provider_id_idx on monitor.notifications (provider_id) where provider_id is not null;
create index notifications_group_id_idx on monitor.notifications (group_id, channel, notification_id) where group_id is not null;
create index notifications_incident_id_idx on monitor.notifications (incident_id) where incident_id is not null;
create index notifications_created_at_idx on monitor.notifications (created_at);
create index notifications_heartbeats_idx on monitor.notifications (created_at) where payload_type = 'heartbeat';
comment on index monitor.notifications_heartbeats_idx is 'Signs of life, which come every few minutes and go after a day.';

comment on table monitor.notifications is
  'One message to one channel, written in the transaction of what it tells. Sent at least once, as shared/contract/notifications.ts reads it.';
comment on column monitor.notifications.channel is 'By name and without a foreign key: what was told stays known when the channel is gone.';
comment on column monitor.notifications.group_id is
  'The group it tells of; null of alerts when it stands for many groups. No foreign key: groups come and go.';
comment on column monitor.notifications.group_hash is
  'Of the key of its group, by which receivers know it: that of one that is gone is that of the one that comes after it.';
comment on column monitor.notifications.incident_id is 'The incident it tells of. No foreign key: as above.';
comment on column monitor.notifications.payload_type is 'alerts, incident or heartbeat; apart from the payload, which may be large.';
comment on column monitor.notifications.state is
  'pending: to be sent. sent: the provider has it. delivered, bounced, complained: its word since. parked: given up, see last_error. '
  'discarded: its channel was deleted, or it came too late.';
comment on column monitor.notifications.lease_token is 'Of the deliverer that is sending it, until lease_until; null when none is.';
comment on column monitor.notifications.may_be_repeated is 'An attempt ended without our knowing how: the next one says so.';
comment on column monitor.notifications.idempotency_key is 'Sent with every attempt: providers that know such keys send once.';
comment on column monitor.notifications.provider_id is 'What the provider calls it.';
comment on column monitor.notifications.last_error is 'How the last attempt failed, without secrets.';

alter table monitor.notifications enable row level security;

create policy notifications_select_authenticated
  on monitor.notifications for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.notifications to authenticated;
grant select, insert, update, delete on monitor.notifications to service_role;

create table monitor.notification_alerts (
  notification_id  bigint      not null,
  alert_id         bigint      not null,
  channel          text        not null,
  status           text        not null,
  severity         text        not null,
  told_at          timestamptz not null,

  constraint notification_alerts_pkey primary key (notification_id, alert_id),
  constraint notification_alerts_notification_id_fkey
    foreign key (notification_id) references monitor.notifications (notification_id) on delete cascade,
  constraint notification_alerts_alert_id_fkey
    foreign key (alert_id) references monitor.system_alerts (alert_id) on delete cascade,
  constraint notification_alerts_status_known check (status in ('firing', 'resolved'))
);

create index notification_alerts_alert_id_idx on monitor.notification_alerts (alert_id, channel, notification_id desc);

comment on table monitor.notification_alerts is
  'What a message told of an alert: the newest of a channel says what that channel knows, so that nothing is told twice or left open. '
  'What a message only counts, as told before and unchanged, is not here again.';
comment on column monitor.notification_alerts.channel is 'That of the message.';
comment on column monitor.notification_alerts.severity is 'As it was told: one that is worse by now is told again.';

alter table monitor.notification_alerts enable row level security;

create policy notification_alerts_select_authenticated
  on monitor.notification_alerts for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.notification_alerts to authenticated;
grant select, insert, update, delete on monitor.notification_alerts to service_role;

create table monitor.mail_events (
  event_id     text        not null,
  provider_id  text        not null,
  kind         text        not null,
  recipients   text[]      not null default '{}',
  reason       text,
  occurred_at  timestamptz not null,
  applied_at   timestamptz,

  constraint mail_events_pkey primary key (event_id),
  constraint mail_events_event_id_bounded check (length(event_id) between 1 and 200),
  constraint mail_events_recipients_bounded check (cardinality(recipients) <= 50),
  constraint mail_events_reason_bounded check (length(reason) between 1 and 500),
  constraint mail_events_kind_known check (kind in ('sent', 'delivered', 'delayed', 'bounced', 'complained', 'failed'))
);

create index mail_events_provider_id_idx on monitor.mail_events (provider_id) where applied_at is null;
comment on index monitor.mail_events_provider_id_idx is 'What was reported before we had written down that it was sent.';
create index mail_events_occurred_at_idx on monitor.mail_events (occurred_at);

comment on table monitor.mail_events is
  'A delivery report of the mail provider: one that comes twice counts once, one that comes too early counts later.';
comment on column monitor.mail_events.applied_at is 'When it was put to the mail that it is about; null: there is none yet.';

alter table monitor.mail_events enable row level security;

create policy mail_events_select_authenticated
  on monitor.mail_events for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.mail_events to authenticated;
grant select, insert, update, delete on monitor.mail_events to service_role;

create function monitor.discard_notifications()
returns trigger
language plpgsql
security invoker
set search_path = ''
as $$
begin
  update monitor.notifications
  set state = 'discarded', lease_token = null, lease_until = null, last_error = 'its channel was deleted'
  where channel = old.channel and state in ('pending', 'parked');
  return null;
end;
$$;

comment on function monitor.discard_notifications() is 'Trigger of notification_channels: what was not sent by one that is gone says so.';

create trigger notification_channels_discard_notifications
  after delete on monitor.notification_channels
  for each row execute function monitor.discard_notifications();

create function monitor.enqueue_notification(
  p_channel      text,
  p_payload      jsonb,
  p_group_id     bigint       default null,
  p_incident_id  bigint       default null,
  p_is_test      boolean      default false,
  p_now          timestamptz  default now()
)
returns bigint
language sql
security invoker
set search_path = ''
as $$
  insert into monitor.notifications (channel, group_id, incident_id, payload, is_test, created_at, next_attempt_at)
  select p_channel, p_group_id, p_incident_id, p_payload, p_is_test, p_now, p_now
  where exists (select from monitor.notification_channels where channel = p_channel)
  returning notification_id;
$$;

comment on function monitor.enqueue_notification(text, jsonb, bigint, bigint, boolean, timestamptz) is
  'Writes a message to the outbox, in the transaction of what it tells. Returns its notification_id; null if there is no such channel.';

create function monitor.next_mail_at(p_now timestamptz)
returns timestamptz
language sql
stable
security invoker
set search_path = ''
as $$
  select mail_slot_at + make_interval(secs => 1 / greatest(settings.mails_per_second, 0.001))
  from monitor.alerting_state
  cross join monitor.settings
  where mail_slot_at <= p_now + interval '1 minute'; -- what lies further ahead was written by a clock that stood wrong
$$;

comment on function monitor.next_mail_at(timestamptz) is
  'When the next mail may be sent by mails_per_second, whoever sends it; it may be past. Null: at once.';

create function monitor.list_next_notifications(p_now timestamptz)
returns table (
  notification_id bigint, channel text, kind text, config jsonb, is_failing boolean, next_attempt_at timestamptz, due_at timestamptz
)
language sql
stable
security invoker
set search_path = ''
as $$
  select notification_id, channel, kind, config, is_failing, next_attempt_at, greatest(
    -- What lies far ahead was written by a clock that stood wrong.
    case when next_attempt_at > p_now + interval '1 day' then p_now else next_attempt_at end,
    case when lease_until > p_now + interval '20 minutes' then p_now else lease_until end)
  from (
    select
      notification.notification_id, notification.channel, channel.kind, channel.config, channel.consecutive_failures >= 3 as is_failing,
      notification.next_attempt_at, notification.lease_until,
      kind_of.is_of_groups, kind_of.is_of_many, num_nulls(notification.group_id, notification.incident_id) = 2 as is_single,
      row_number() over (
        partition by notification.channel, notification.group_hash, notification.incident_id
        order by notification.notification_id) as place,
      count(*) filter (where kind_of.is_of_groups) over before as groups_before,
      count(*) filter (where kind_of.is_of_many) over before as many_before
    from monitor.notifications as notification
    join monitor.notification_channels as channel using (channel)
    cross join lateral (
      select
        notification.payload_type = 'alerts' and not notification.is_test as is_of_groups,
        notification.payload_type = 'alerts' and not notification.is_test and notification.group_id is null as is_of_many
    ) as kind_of
    where notification.state = 'pending' and channel.enabled
    window before as (
      partition by notification.channel
      order by notification.notification_id
      rows between unbounded preceding and 1 preceding)
  ) as pending
  -- What is told of one group or incident comes in order: what is over must not be said before that it began. What stands for many
  -- groups comes after all that was told of any, and before all that is.
  where case
    when is_of_many then groups_before = 0
    when is_of_groups then place = 1 and many_before = 0
    else place = 1 or is_single end;
$$;

comment on function monitor.list_next_notifications(timestamptz) is
  'The pending messages of channels that are switched on whose turn it is, as nothing before them has to be sent first, each with when it '
  'may be given out.';

create function monitor.next_notification_at(p_now timestamptz default now())
returns timestamptz
language sql
stable
security invoker
set search_path = ''
as $$
  select case when notifications_enabled and jobs_enabled then least(
    (
      -- As lease_notifications gives them out, or whoever is called for what it does not give out is called again and again.
      select min(greatest(due_at, case when kind = 'email' then mail.next_at - interval '5 seconds' end))
      from monitor.list_next_notifications(p_now)
      cross join (select monitor.next_mail_at(p_now) as next_at) as mail
    ),
    (select min(next_flush_at) from monitor.alert_groups where last_flushed_at is null)) end
  from monitor.settings;
$$;

comment on function monitor.next_notification_at(timestamptz) is
  'When something is due to be sent or a group to be looked at; it may be past. Null: nothing, or sending is switched off.';

create function monitor.lease_notifications(
  p_kinds          text[]            default '{email,slack,pagerduty,webhook,heartbeat}',
  p_limit          integer           default 20,
  p_lease_seconds  double precision  default 60,
  p_now            timestamptz       default clock_timestamp()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_horizon  constant interval := interval '5 seconds'; -- a mail that would have to wait for longer stays for whoever comes then
  c_attempts constant integer := 12; -- as in record_deliveries
  v_enabled   boolean;
  v_mail_at   timestamptz;
  v_leased    jsonb;
  v_settings  monitor.settings;
begin
  if p_limit is null or p_limit not between 1 and 200 or p_lease_seconds is null or p_lease_seconds not between 1 and 600 then
    raise exception 'p_limit must be 1 to 200, p_lease_seconds 1 to 600, got % and %', p_limit, p_lease_seconds
      using errcode = 'invalid_parameter_value', hint = 'A lease outlives the call that sends.';
  end if;
  select * into v_settings from monitor.settings;
  v_enabled := v_settings.notifications_enabled and v_settings.jobs_enabled;

  -- Who holds this row gives out the times at which mails may be sent, whoever sends them.
  perform from monitor.alerting_state for update;
  v_mail_at := greatest(monitor.next_mail_at(p_now), p_now);

  -- What nobody who had it has lived to tell of would be given out for ever.
  with given_up as (
    update monitor.notifications
    set state = 'parked', lease_token = null, lease_until = null,
        last_error = format('%s attempts, and the last one never said what came of it', attempt_count)
    where v_enabled and state = 'pending' and attempt_count >= c_attempts and lease_until <= p_now
    returning channel, last_error
  )
  update monitor.notification_channels as channel
  set failing_since = coalesce(channel.failing_since, p_now), last_error = given_up.last_error
  from given_up
  where channel.channel = given_up.channel;

  with due as (
    select next.*, row_number() over (partition by channel order by next_attempt_at, notification_id) as in_channel
    from monitor.list_next_notifications(p_now) as next
    where v_enabled and kind = any (p_kinds) and due_at <= p_now
  ), ready as (
    select due.*, row_number() over (partition by kind order by is_failing, next_attempt_at, notification_id) as in_kind
    from due
    -- One try a time of a channel that fails, after all that work, or whoever hangs there would keep the others waiting.
    where not is_failing or in_channel = 1
  ), chosen as (
    select * from ready
    -- Of these one after another is sent: whoever dies, or a provider that hangs, keeps no more than one.
    where (kind not in ('email', 'slack') or in_kind = 1)
      and (kind <> 'email' or v_mail_at <= p_now + c_horizon)
    order by is_failing, next_attempt_at, notification_id
    limit p_limit
  ), locked as materialized (
    select notification.notification_id from monitor.notifications as notification
    where notification.notification_id in (select notification_id from chosen)
      -- Asked again of the row as it is once it is locked: somebody may have recorded just now what came of it.
      and notification.state = 'pending'
      and (notification.next_attempt_at <= p_now or notification.next_attempt_at > p_now + interval '1 day')
      and (notification.lease_until is null or notification.lease_until <= p_now
        or notification.lease_until > p_now + interval '20 minutes')
    for update of notification skip locked
  ), slotted as (
    select chosen.*, case when kind = 'email' then v_mail_at else p_now end as send_at
    from chosen
    join locked using (notification_id)
  ), leased as (
    update monitor.notifications as notification
    set lease_token = gen_random_uuid(),
        lease_until = slotted.send_at + make_interval(secs => p_lease_seconds),
        attempt_count = notification.attempt_count + 1,
        -- Whoever had it never said what came of it.
        may_be_repeated = notification.may_be_repeated or notification.lease_token is not null
    from slotted
    where notification.notification_id = slotted.notification_id
    returning notification.*, slotted.kind, slotted.config, slotted.send_at
  ), moved as (
    update monitor.alerting_state
    set mail_slot_at = v_mail_at
    where exists (select from leased where kind = 'email')
  )
  select jsonb_agg(jsonb_build_object(
    'notification_id', notification_id,
    'lease_token', lease_token,
    'channel', channel,
    'kind', kind,
    'config', config,
    'secret', monitor.channel_secret(channel),
    'payload', payload,
    'created_at', created_at,
    'attempt', attempt_count,
    'send_at', send_at,
    'lease_until', lease_until,
    'idempotency_key', idempotency_key,
    'may_be_repeated', may_be_repeated,
    'is_test', is_test
  ) order by send_at, notification_id)
  into v_leased
  from leased;
  return jsonb_build_object(
    'notifications', coalesce(v_leased, '[]'), 'now', p_now, 'time_zone', v_settings.time_zone, 'external_url', v_settings.external_url);
end;
$$;

comment on function monitor.lease_notifications(text[], integer, double precision, timestamptz) is
  'Gives out what is due of these kinds of channels, oldest first, to be sent by whoever asks: {notifications, now, time_zone, '
  'external_url} as shared/contract/notifications.ts reads it. One mail, with the time at which it may be sent, so that all deliverers '
  'together keep to mails_per_second; one for Slack, one of each failing channel, and of each group and incident the earliest. What is '
  'not recorded by the end of its lease is given out again, and after 12 attempts parked. Errors: 22023 for a limit or lease out of range.';

create function monitor.apply_mail_event(p_event monitor.mail_events, p_now timestamptz)
returns boolean
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_channel        text;
  v_undeliverable  jsonb;
begin
  -- What bounced after it was delivered has bounced; that it is delivered late does not undo that.
  with touched as (
    update monitor.notifications
    set state = case
          when p_event.kind in ('bounced', 'failed') then 'bounced'
          when p_event.kind = 'complained' then 'complained'
          when p_event.kind = 'delivered' and state = 'sent' then 'delivered'
          else state end,
        delivered_at = case when p_event.kind in ('delivered', 'complained')
          then coalesce(delivered_at, greatest(sent_at, p_event.occurred_at)) else delivered_at end,
        last_error = case when p_event.kind in ('bounced', 'failed', 'complained', 'delayed')
          then coalesce(p_event.reason, p_event.kind) else last_error end
    where provider_id = p_event.provider_id and sent_at is not null
    returning channel
  )
  select min(channel) into v_channel from touched;
  if v_channel is null then
    return false;
  end if;

  if p_event.kind in ('bounced', 'failed', 'complained') then
    update monitor.notification_channels
    set undeliverable = undeliverable || (
          select coalesce(jsonb_object_agg(
            address, jsonb_build_object('at', p_event.occurred_at, 'reason', coalesce(p_event.reason, p_event.kind))), '{}')
          -- Providers write addresses in small letters.
          from jsonb_array_elements_text(case when jsonb_typeof(config -> 'to') = 'array' then config -> 'to' else '[]' end) as address
          where lower(address) in (select lower(named) from unnest(p_event.recipients) as named)),
        failing_since = coalesce(failing_since, p_now),
        last_error = p_event.kind || coalesce(': ' || p_event.reason, '')
    where channel = v_channel;
  elsif p_event.kind = 'delivered' then
    -- Reports come in any order: one of before an address bounced says nothing of it.
    select undeliverable - array(
      select address from jsonb_each(undeliverable) as kept (address, report)
      where lower(address) in (select lower(named) from unnest(p_event.recipients) as named) and (report ->> 'at')::timestamptz <= p_event.occurred_at)
    into v_undeliverable
    from monitor.notification_channels
    where channel = v_channel and undeliverable <> '{}'
    for update;
    update monitor.notification_channels
    set undeliverable = v_undeliverable,
        failing_since = case when v_undeliverable = '{}' and consecutive_failures = 0 then null else failing_since end,
        last_error = case when v_undeliverable = '{}' and consecutive_failures = 0 then null else last_error end
    where channel = v_channel and undeliverable <> v_undeliverable;
  end if;
  update monitor.mail_events set applied_at = p_now where event_id = p_event.event_id;
  return true;
end;
$$;

comment on function monitor.apply_mail_event(monitor.mail_events, timestamptz) is
  'Puts a delivery report to its mail, and to the channel whose recipients it names. False if no such mail was sent yet.';

create function monitor.record_deliveries(p_results jsonb, p_now timestamptz default clock_timestamp())
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_attempts constant integer := 12;
  c_patience constant interval := interval '24 hours';
  c_tries    constant integer := 3; -- at least: what was kept for days while sending was switched off has not failed for days
  v_sent      integer;
  v_retried   integer;
  v_parked    integer;
begin
  if jsonb_typeof(p_results) is distinct from 'array' then
    raise exception 'p_results must be an array'
      using errcode = 'invalid_parameter_value',
            hint = 'Each entry is {notification_id, lease_token, outcome: sent, retry or refused, …}.';
  end if;
  if exists (
    select from jsonb_array_elements(p_results) as entry where coalesce(entry ->> 'outcome', '') not in ('sent', 'retry', 'refused')
  ) then
    raise exception 'an outcome is none of sent, retry and refused'
      using errcode = 'invalid_parameter_value', hint = 'See DeliveryOutcome in shared/contract/notifications.ts.';
  end if;
  -- As in record_mail_event: of a mail and a report of it that are written at the same time, the later one sees the earlier.
  perform pg_advisory_xact_lock(hashtext('monitor.mail_events' || provider_id))
  from (
    select distinct entry ->> 'provider_id' as provider_id from jsonb_array_elements(p_results) as entry
    where entry ->> 'provider_id' is not null
    order by 1
  ) as mail;

  with result as (
    select
      (entry ->> 'notification_id')::bigint as notification_id,
      (entry ->> 'lease_token')::uuid as lease_token,
      entry ->> 'outcome' as outcome,
      entry ->> 'provider_id' as provider_id,
      left(entry ->> 'error', 500) as error,
      least(greatest((entry ->> 'after_seconds')::double precision, 0), 3600) as after_seconds,
      coalesce((entry ->> 'may_have_arrived')::boolean, false) as may_have_arrived
    from jsonb_array_elements(p_results) as entry
  ), told as (
    update monitor.notifications as notification
    set state = case
          when result.outcome = 'sent' then 'sent'
          when result.outcome = 'refused' or notification.attempt_count >= c_attempts
            or (notification.created_at < p_now - c_patience and notification.attempt_count >= c_tries)
            then 'parked'
          else 'pending' end,
        sent_at = case when result.outcome = 'sent' then p_now end,
        provider_id = coalesce(result.provider_id, notification.provider_id),
        last_error = case when result.outcome = 'sent' then notification.last_error else result.error end,
        may_be_repeated = notification.may_be_repeated or result.may_have_arrived,
        next_attempt_at = case when result.outcome = 'retry'
          then p_now + make_interval(secs => result.after_seconds) else notification.next_attempt_at end,
        lease_token = null,
        lease_until = null
    from result
    where notification.notification_id = result.notification_id
      -- That it was sent is true whoever holds it by now, or has given it up; that it was not says only who holds it.
      and case when result.outcome = 'sent' then notification.state in ('pending', 'parked', 'discarded')
        else notification.state = 'pending' and notification.lease_token = result.lease_token end
    returning notification.notification_id, notification.channel, notification.state, notification.last_error, notification.provider_id
  ), outcome as (
    select channel,
      count(*) filter (where state = 'sent') as sent,
      count(*) filter (where state <> 'sent') as failed,
      bool_or(state = 'parked') as has_parked,
      (array_agg(last_error order by notification_id desc) filter (where state <> 'sent'))[1] as error
    from told
    group by channel
  ), judged as (
    update monitor.notification_channels as channel
    set last_sent_at = case when outcome.sent > 0 then p_now else channel.last_sent_at end,
        consecutive_failures = case when outcome.sent > 0 then 0 else channel.consecutive_failures + outcome.failed end,
        failing_since = case
          when outcome.has_parked or channel.undeliverable <> '{}' then coalesce(channel.failing_since, p_now)
          when outcome.sent > 0 then null
          when channel.consecutive_failures + outcome.failed >= 3 then coalesce(channel.failing_since, p_now)
          else channel.failing_since end,
        last_error = case
          when outcome.failed > 0 then outcome.error
          when channel.undeliverable <> '{}' then channel.last_error end
    from outcome
    where channel.channel = outcome.channel
  )
  select count(*) filter (where state = 'sent'), count(*) filter (where state = 'pending'), count(*) filter (where state = 'parked')
  into v_sent, v_retried, v_parked
  from told;

  -- The provider's word may have come before ours.
  perform monitor.apply_mail_event(event, p_now)
  from monitor.mail_events as event
  join monitor.notifications as notification using (provider_id)
  where event.applied_at is null and notification.notification_id in (
    select (entry ->> 'notification_id')::bigint from jsonb_array_elements(p_results) as entry)
  order by event.occurred_at, event.event_id;
  return jsonb_build_object(
    'sent', v_sent, 'retried', v_retried, 'parked', v_parked,
    'stale', jsonb_array_length(p_results) - v_sent - v_retried - v_parked);
end;
$$;

comment on function monitor.record_deliveries(jsonb, timestamptz) is
  'Stores what came of leased messages: [{notification_id, lease_token, outcome: sent (provider_id?), retry (error, after_seconds, '
  'may_have_arrived) or refused (error)}]. After 12 attempts, or a day and at least 3, one is parked, as one that is refused. Returns '
  '{sent, retried, parked, stale}: stale ones were known to be sent, or not sent by who no longer held them. Errors: 22023 for no array '
  'or another outcome.';

create function monitor.record_mail_event(
  p_event_id     text,
  p_provider_id  text,
  p_kind         text,
  p_recipients   text[]       default '{}',
  p_reason       text         default null,
  p_occurred_at  timestamptz  default null,
  p_now          timestamptz  default clock_timestamp()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_event  monitor.mail_events;
begin
  perform pg_advisory_xact_lock(hashtext('monitor.mail_events' || p_provider_id));
  insert into monitor.mail_events (event_id, provider_id, kind, recipients, reason, occurred_at)
  values (p_event_id, p_provider_id, p_kind, coalesce(p_recipients, '{}'), left(nullif(p_reason, ''), 500), least(coalesce(p_occurred_at, p_now), p_now))
  on conflict (event_id) do nothing
  returning * into v_event;
  if not found then
    return jsonb_build_object('outcome', 'repeated');
  end if;
  return jsonb_build_object('outcome', case when monitor.apply_mail_event(v_event, p_now) then 'recorded' else 'unknown' end);
end;
$$;

comment on function monitor.record_mail_event(text, text, text, text[], text, timestamptz, timestamptz) is
  'What the mail provider says has become of a mail: sent, delivered, delayed, bounced, complained or failed. Returns {outcome}: '
  'recorded; repeated, when it was known; unknown, when the mail is none of ours, or not recorded as sent yet: then it counts once it is.';

create function monitor.requeue_notifications(p_channel text, p_now timestamptz default now())
returns integer
language plpgsql
security definer -- an admin may have them sent again, but not write their rows
set search_path = ''
as $$
declare
  v_count  integer;
begin
  perform monitor.require_admin('have messages sent again');
  if not exists (select from monitor.notification_channels where channel = p_channel) then
    raise exception 'no such channel: %', p_channel
      using errcode = 'no_data_found', hint = 'Channels are the rows of monitor.notification_channels.';
  end if;
  -- A start that comes after its end would leave open what is over, what still fires is told anew; a sign of life is of its moment.
  update monitor.notifications as late
  set state = 'discarded', last_error = 'too late'
  where late.channel = p_channel and late.state = 'parked' and (
    (select kind from monitor.notification_channels where channel = p_channel) = 'heartbeat'
    or exists (
      select from monitor.notifications as later
      where later.channel = p_channel and later.notification_id > late.notification_id and later.sent_at is not null and (
        later.group_hash = late.group_hash
        or (later.incident_id = late.incident_id and later.payload ->> 'message' = 'resolution'))));
  update monitor.notifications
  set state = 'pending', next_attempt_at = p_now, attempt_count = 0, created_at = p_now,
      -- What has not arrived for sure is another message by now, which no provider may take for the one it has refused.
      idempotency_key = case when may_be_repeated then idempotency_key else gen_random_uuid() end
  where channel = p_channel and state = 'parked';
  get diagnostics v_count = row_count;
  update monitor.notification_channels
  set consecutive_failures = 0, failing_since = null, last_error = null
  where channel = p_channel and undeliverable = '{}';
  return v_count;
end;
$$;

comment on function monitor.requeue_notifications(text, timestamptz) is
  'Has all that was parked of a channel sent again, once what was wrong is mended; signs of life, and what later messages of its '
  'group or the resolution of its incident have overtaken, are discarded. Returns how many messages are sent again. Errors: 42501 for a user '
  'who is no admin, P0002 for an unknown channel.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.enqueue_notification(text, jsonb, bigint, bigint, boolean, timestamptz),
  monitor.next_mail_at(timestamptz),
  monitor.list_next_notifications(timestamptz),
  monitor.next_notification_at(timestamptz),
  monitor.lease_notifications(text[], integer, double precision, timestamptz),
  monitor.apply_mail_event(monitor.mail_events, timestamptz),
  monitor.record_deliveries(jsonb, timestamptz),
  monitor.record_mail_event(text, text, text, text[], text, timestamptz, timestamptz)
to service_role;
grant execute on function monitor.requeue_notifications(text, timestamptz) to authenticated, service_role;
