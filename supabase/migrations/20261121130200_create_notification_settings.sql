-- Purpose:  to whom alerts are told: channels, routes, inhibition, silences; and the settings of telling.
-- Locks:    access exclusive on settings, one row, while columns are added.
-- Undo:     drop table monitor.silences, monitor.inhibition_rules, monitor.notification_routes, monitor.notification_channels cascade;
--           drop function monitor.end_silence(bigint, timestamptz), monitor.silence_alerts(jsonb, timestamptz, text, timestamptz,
--           integer[], time, time, timestamptz), monitor.silence_holds(monitor.silences, timestamptz, text),
--           monitor.silence_holds_until(monitor.silences, timestamptz, text), monitor.delete_inhibition(text),
--           monitor.save_inhibition(text, jsonb, jsonb, text[]), monitor.delete_route(text), monitor.save_route(text, text[], jsonb,
--           integer, text[], boolean, double precision, double precision, double precision), monitor.delete_channel(text),
--           monitor.save_channel(text, text, jsonb, text, boolean), monitor.refuse_channel(text, jsonb, text),
--           monitor.channel_secret(text), monitor.require_admin(text), monitor.runbook_url(text), monitor.check_label_matchers(jsonb);
--           run current_actor of 20261121090100 again; alter table monitor.settings drop the columns added here.

alter table monitor.settings
  add column notifications_enabled   boolean           not null default true,
  add column mails_per_second        double precision  not null default 2,
  add column anomaly_alert_severity  text              default 'critical',
  add column external_url            text,
  add column runbooks_url            text,
  add column canary_channel          text,
  add column canary_hour             integer           not null default 9,
  add constraint settings_mails_per_second_in_range check (mails_per_second > 0 and mails_per_second <= 100),
  add constraint settings_anomaly_alert_severity_known check (anomaly_alert_severity in ('info', 'warning', 'critical')),
  add constraint settings_external_url_shape check (external_url ~ '^https?://[^[:space:]]+$' and length(external_url) <= 2000),
  add constraint settings_runbooks_url_shape check (runbooks_url ~ '^https?://[^[:space:]]+$' and length(runbooks_url) <= 2000),
  add constraint settings_canary_hour_in_range check (canary_hour between 0 and 23);

comment on column monitor.settings.notifications_enabled is
  'The kill switch of telling: false keeps every notification where it is. Nothing is lost; it is sent once this is true again.';
comment on column monitor.settings.mails_per_second is 'Of the mail provider, all channels together. Resend takes 2.';
comment on column monitor.settings.anomaly_alert_severity is 'Anomalies of this severity and above are alerts; null: none is.';
comment on column monitor.settings.external_url is 'Where people look at alerts, for links in messages; null: no links.';
comment on column monitor.settings.runbooks_url is
  'Where docs/runbooks lies for your people, e.g. in your copy of the repository; alerts link its pages. Null: no links.';
comment on column monitor.settings.canary_channel is 'The channel by which a canary is told once a day; null: none is.';
comment on column monitor.settings.canary_hour is 'From which hour on, in time_zone, the day''s canary is told.';

create function monitor.runbook_url(p_alert text)
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  -- PartnerAPIDown: partner-api-down
  select rtrim(settings.runbooks_url, '/') || '/'
    || lower(regexp_replace(regexp_replace(p_alert, '([a-z0-9])([A-Z])', '\1-\2', 'g'), '([A-Z])([A-Z][a-z])', '\1-\2', 'g')) || '.md'
  from monitor.settings
  where p_alert = any ('{
    PartnerAPIHighErrorRate,PartnerAPIDown,QueueDepthHigh,SyncFailureRateHigh,DataProcessingStuck,PartnerAPIErrorRatioHigh,
    SyncFailureRatioHigh,DatabaseConnectionsNearLimit,CacheHitRateLow,LongTransaction,TransactionIdsAging,TransactionIdsRunningOut,
    ReplicationSlotLag,CronRunsFailing,RulesFailing,MetricsStale,StorageBudgetNearlySpent,PgvigilCanary,
    AnomalyDetected,JobMissing,JobFailing,ComponentUnhealthy,ChannelFailing,EvaluationGap
  }');
$$;

comment on function monitor.runbook_url(text) is 'Where the runbook of a shipped alert is, by its name. Null for any other, and if settings do not say where runbooks are.';

create or replace function monitor.current_actor()
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(
    nullif((select auth.jwt()) ->> 'email', ''),
    (select auth.uid())::text,
    nullif(current_setting('role', true), 'none'),
    session_user::text
  );
$$;

comment on function monitor.current_actor() is
  'Who acts, as people read it: the e-mail address of a verified token, else its user id, else the role taken on, else the session''s user.';

create function monitor.require_admin(p_what text)
returns void
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may %', p_what using errcode = 'insufficient_privilege';
  end if;
end;
$$;

comment on function monitor.require_admin(text) is
  'For security definer functions, which are called by users too. Errors: 42501 for a user who is no admin.';

create function monitor.check_label_matchers(p_matchers jsonb)
returns void
language plpgsql
immutable
security invoker
set search_path = ''
as $$
declare
  v_matcher  jsonb;
begin
  if p_matchers is null or jsonb_typeof(p_matchers) <> 'array' or jsonb_array_length(p_matchers) > 50
    or octet_length(p_matchers::text) > 8192 then
    raise exception 'matchers must be an array of at most 50, within 8 KiB'
      using errcode = 'invalid_parameter_value', hint = 'For example [{"name": "severity", "op": "=", "value": "critical"}].';
  end if;
  for v_matcher in select * from jsonb_array_elements(p_matchers) loop
    if jsonb_typeof(v_matcher) <> 'object'
      or coalesce(v_matcher ->> 'name', '') !~ '^[a-zA-Z_][a-zA-Z0-9_]*$'
      or coalesce(v_matcher ->> 'op', '') not in ('=', '!=', '=~', '!~')
      or jsonb_typeof(v_matcher -> 'value') is distinct from 'string'
      or v_matcher - '{name,op,value}'::text[] <> '{}' then
      raise exception 'not a matcher: %', left(v_matcher::text, 200)
        using errcode = 'invalid_parameter_value',
              hint = 'A matcher is {"name": label, "op": "=", "!=", "=~" or "!~", "value": text}.';
    end if;
    perform monitor.satisfies_matchers('', '{}', jsonb_build_array(v_matcher)); -- a pattern that is none would stop every run that meets it
  end loop;
end;
$$;

comment on function monitor.check_label_matchers(jsonb) is
  'Refuses what are no matchers on the labels of alerts. Errors: 22023 for malformed ones, 2201B for a pattern that is none.';

create table monitor.notification_channels (
  channel               text        not null,
  kind                  text        not null,
  config                jsonb       not null default '{}',
  enabled               boolean     not null default true,
  secret_set_at         timestamptz,
  created_at            timestamptz not null default now(),
  last_sent_at          timestamptz,
  consecutive_failures  integer     not null default 0,
  failing_since         timestamptz,
  last_error            text,
  undeliverable         jsonb       not null default '{}',

  constraint notification_channels_pkey primary key (channel),
  constraint notification_channels_channel_shape check (channel ~ '^[a-z][a-z0-9-]{0,62}$'),
  constraint notification_channels_kind_known check (kind in ('email', 'slack', 'pagerduty', 'webhook', 'heartbeat')),
  constraint notification_channels_config_is_an_object check (jsonb_typeof(config) = 'object' and octet_length(config::text) <= 16384),
  constraint notification_channels_undeliverable_is_an_object check (jsonb_typeof(undeliverable) = 'object'),
  constraint notification_channels_consecutive_failures_counted check (consecutive_failures >= 0)
);

comment on table monitor.notification_channels is
  'A way to tell somebody. What of it is secret is in Vault, under the name pgvigil_channel_<channel>.';
comment on column monitor.notification_channels.config is
  'email: {to: [addresses]}. webhook: {url}. pagerduty, slack, heartbeat: nothing. All but heartbeat: send_resolved, true by default.';
comment on column monitor.notification_channels.secret_set_at is 'When its secret was last set; null: never.';
comment on column monitor.notification_channels.consecutive_failures is 'Attempts that failed since the last that did not.';
comment on column monitor.notification_channels.failing_since is
  'Since when it does not deliver: a message was given up, three attempts in a row failed, or an address bounces.';
comment on column monitor.notification_channels.undeliverable is
  'Addresses that bounced or complained, each with {at, reason}; one goes when a mail to it is delivered.';

alter table monitor.notification_channels enable row level security;

create policy notification_channels_select_authenticated
  on monitor.notification_channels for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.notification_channels to authenticated;
grant select, insert, update, delete on monitor.notification_channels to service_role;

create trigger notification_channels_record_change
  after insert or delete or update of channel, kind, config, enabled, secret_set_at on monitor.notification_channels
  for each row execute function monitor.record_change();

alter table monitor.settings
  add constraint settings_canary_channel_fkey
    foreign key (canary_channel) references monitor.notification_channels (channel);

create index settings_canary_channel_idx on monitor.settings (canary_channel);

create function monitor.channel_secret(p_channel text)
returns text
language plpgsql
stable
security definer -- Vault is closed to whoever sends
set search_path = ''
as $$
begin
  return (select decrypted_secret from vault.decrypted_secrets where name = 'pgvigil_channel_' || p_channel);
exception when others then
  return null; -- Vault that is not there or cannot decrypt is no reason for all channels to fail; who needs a secret is refused
end;
$$;

comment on function monitor.channel_secret(text) is 'What Vault keeps for a channel, null if nothing. For service_role alone.';

create function monitor.refuse_channel(p_kind text, p_config jsonb, p_secret text)
returns text
language sql
immutable
security invoker
set search_path = ''
as $$
  select case
    when coalesce(jsonb_typeof(p_config -> 'send_resolved'), 'boolean') <> 'boolean' then 'send_resolved is neither true nor false'
    when case when jsonb_typeof(p_config) = 'object' then p_config - known.options <> '{}' end then 'its configuration knows no '
      || left((select string_agg(key, ', ' order by key) from jsonb_object_keys(p_config - known.options) as key), 200)
    else case p_kind
    when 'email' then case
      when jsonb_typeof(p_config -> 'to') is distinct from 'array' or jsonb_array_length(p_config -> 'to') = 0
        then 'it has no recipient'
      when jsonb_array_length(p_config -> 'to') > 50 then 'it has more than 50 recipients'
      else (
        select 'malformed recipient: ' || left(coalesce(address #>> '{}', 'null'), 100)
        from jsonb_array_elements(p_config -> 'to') as address
        where jsonb_typeof(address) <> 'string' or length(address #>> '{}') > 254
          or address #>> '{}' !~ '^[A-Za-z0-9.!#$%&''*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?[.])+[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$'
        limit 1)
      end
    when 'webhook' then case
      when coalesce(p_config ->> 'url', '') !~ '^https?://[!-.0-?A-~]+(/[!-~]*)?$' then 'its url is none of the form https://host/path'
      when p_secret !~ '^whsec_([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$'
        then 'its signing secret is none of the form whsec_ and base64'
      when octet_length(decode(substr(p_secret, 7), 'base64')) not between 24 and 64 then 'its signing secret is not of 24 to 64 bytes'
      end
    when 'slack' then case
      when p_secret is null then 'Vault has no secret of it: the address of its incoming webhook'
      when p_secret !~ '^https?://[!-.0-?A-~]+/[!-~]*$' then 'its secret is no address of the form https://host/path'
      end
    when 'pagerduty' then case
      when p_secret is null then 'Vault has no secret of it: its integration key'
      when p_config ->> 'url' !~ '^https?://[!-.0-?A-~]+(/[!-~]*)?$' then 'its url is none of the form https://host/path'
      when p_secret !~ '^[A-Za-z0-9]{32}$' then 'its integration key has not 32 letters and digits'
      end
    when 'heartbeat' then case
      when p_secret is null then 'Vault has no secret of it: the address to ping'
      when p_secret !~ '^https?://[!-.0-?A-~]+(/[!-~]*)?$' then 'its secret is no address of the form https://host/path'
      end
    else 'there is no such kind of channel'
    end
  end
  from (
    select case p_kind when 'email' then '{to,send_resolved}' when 'slack' then '{send_resolved}' when 'heartbeat' then '{}'
      else '{url,send_resolved}' end::text[] as options
  ) as known;
$$;

comment on function monitor.refuse_channel(text, jsonb, text) is
  'Why a channel of this kind cannot work, null if it may. Shows no secret.';

create function monitor.save_channel(
  p_channel  text,
  p_kind     text,
  p_config   jsonb    default '{}',
  p_secret   text     default null,
  p_enabled  boolean  default true
)
returns void
language plpgsql
security definer -- an admin may make a channel, but not write its row or Vault
set search_path = ''
as $$
declare
  v_reason     text;
  v_secret_id  uuid;
begin
  perform monitor.require_admin('save a channel');
  perform from monitor.alerting_state for update; -- before all else, as whoever evaluates and tells
  if p_channel is null or p_channel !~ '^[a-z][a-z0-9-]{0,62}$' then
    raise exception 'a channel has a name of lower-case letters, digits and -, beginning with a letter'
      using errcode = 'invalid_parameter_value', hint = 'At most 63 characters, e.g. ops-mail.';
  end if;
  v_reason := monitor.refuse_channel(p_kind, p_config, coalesce(p_secret, monitor.channel_secret(p_channel)));
  if v_reason is not null then
    raise exception 'channel % cannot work: %', p_channel, v_reason
      using errcode = 'invalid_parameter_value',
            hint = 'email: {"to": ["ops@example.com"]}. webhook: {"url": "https://…"}, and a secret whsec_… if it should be signed. '
              'slack, pagerduty, heartbeat: the address or key as secret.';
  end if;
  insert into monitor.notification_channels as known (channel, kind, config, enabled, secret_set_at)
  values (p_channel, p_kind, p_config, p_enabled, case when p_secret is not null then now() end)
  on conflict (channel) do update
  set kind = excluded.kind, config = excluded.config, enabled = excluded.enabled,
      secret_set_at = coalesce(excluded.secret_set_at, known.secret_set_at), consecutive_failures = 0, failing_since = null,
      last_error = null, undeliverable = '{}';
  if p_secret is not null then
    select id into v_secret_id from vault.secrets where name = 'pgvigil_channel_' || p_channel;
    if v_secret_id is null then
      perform vault.create_secret(p_secret, 'pgvigil_channel_' || p_channel);
    else
      perform vault.update_secret(v_secret_id, p_secret);
    end if;
  end if;
end;
$$;

comment on function monitor.save_channel(text, text, jsonb, text, boolean) is
  'Makes or changes a channel; a secret that is left out stays as it is, and what failed counts no more. Errors: 42501 for a user who '
  'is no admin, 22023 for a channel that cannot work, with the reason, or a name other than lower-case letters, digits and -.';

create function monitor.delete_channel(p_channel text)
returns void
language plpgsql
security definer -- an admin may delete a channel, but not its row or Vault's
set search_path = ''
as $$
declare
  v_routes  text;
begin
  perform monitor.require_admin('delete a channel');
  perform from monitor.alerting_state for update; -- before all else, as whoever evaluates and tells
  select string_agg(name, ', ' order by position, name) into v_routes
  from monitor.notification_routes where p_channel = any (channels);
  if p_channel = (select canary_channel from monitor.settings) then
    raise exception 'channel % is that of the canary', p_channel
      using errcode = 'dependent_objects_still_exist', hint = 'Set canary_channel in monitor.settings to another, or to null, first.';
  end if;
  if v_routes is not null then
    raise exception 'channel % is used by the routes %', p_channel, v_routes
      using errcode = 'dependent_objects_still_exist',
            hint = 'Save those routes with other channels first: what they tell would reach nobody.';
  end if;
  perform from monitor.notifications where channel = p_channel and state in ('pending', 'parked') order by notification_id for update;
  delete from monitor.notification_channels where channel = p_channel;
  if not found then
    raise exception 'no such channel: %', p_channel
      using errcode = 'no_data_found', hint = 'Channels are the rows of monitor.notification_channels.';
  end if;
  delete from vault.secrets where name = 'pgvigil_channel_' || p_channel;
end;
$$;

comment on function monitor.delete_channel(text) is
  'Deletes a channel and its secret. What was still to be sent by it is discarded, and says so. Errors: 42501 for a user who is no '
  'admin, 2BP01 while a route or the canary uses it, P0002 for an unknown one.';

create table monitor.notification_routes (
  route_id                 bigint            generated always as identity,
  name                     text              not null,
  position                 integer           not null,
  matchers                 jsonb             not null default '[]',
  channels                 text[]            not null,
  continues                boolean           not null default false,
  group_by                 text[]            not null default '{alertname}',
  group_wait_seconds       double precision  not null default 30,
  group_interval_seconds   double precision  not null default 300,
  repeat_interval_seconds  double precision  not null default 14400,

  constraint notification_routes_pkey primary key (route_id),
  constraint notification_routes_name_key unique (name),
  constraint notification_routes_name_in_bounds check (length(name) between 1 and 200),
  constraint notification_routes_channels_present check (cardinality(channels) between 1 and 20 and array_position(channels, null) is null),
  constraint notification_routes_group_by_bounded check (cardinality(group_by) <= 20 and array_position(group_by, null) is null),
  constraint notification_routes_group_wait_seconds_in_range check (group_wait_seconds between 0 and 3600),
  constraint notification_routes_group_interval_seconds_in_range check (group_interval_seconds between 1 and 86400),
  constraint notification_routes_repeat_interval_seconds_in_range check (repeat_interval_seconds between 60 and 2592000)
);

comment on table monitor.notification_routes is
  'Which alerts go by which channels: the first route whose matchers all hold, in order of position, and the next too if it continues.';
comment on column monitor.notification_routes.position is 'Order, from the lowest on; ties by route_id.';
comment on column monitor.notification_routes.matchers is 'On the labels of alerts: [{name, op, value}], op =, !=, =~ or !~. None: all.';
comment on column monitor.notification_routes.group_by is
  'Alerts with the same values of these labels are told together. None: all of the route. {...}: each by itself.';
comment on column monitor.notification_routes.group_wait_seconds is 'How long the first alert of a group waits for others.';
comment on column monitor.notification_routes.group_interval_seconds is 'How long what joins a group that has been told has to wait.';
comment on column monitor.notification_routes.repeat_interval_seconds is 'After how long what still fires is told again.';

alter table monitor.notification_routes enable row level security;

create policy notification_routes_select_authenticated
  on monitor.notification_routes for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.notification_routes to authenticated;
grant select, insert, update, delete on monitor.notification_routes to service_role;

create trigger notification_routes_record_change
  after insert or update or delete on monitor.notification_routes
  for each row execute function monitor.record_change();

create function monitor.save_route(
  p_name                     text,
  p_channels                 text[],
  p_matchers                 jsonb             default '[]',
  p_position                 integer           default null,
  p_group_by                 text[]            default '{alertname}',
  p_continues                boolean           default false,
  p_group_wait_seconds       double precision  default 30,
  p_group_interval_seconds   double precision  default 300,
  p_repeat_interval_seconds  double precision  default 14400
)
returns bigint
language plpgsql
security definer -- an admin may save a route, but not write its row
set search_path = ''
as $$
declare
  v_unknown   text;
  v_route_id  bigint;
begin
  perform monitor.require_admin('save a route');
  perform from monitor.alerting_state for update; -- before all else, as whoever evaluates and tells
  perform monitor.check_label_matchers(p_matchers);
  select string_agg(listed.channel, ', ') into v_unknown
  from unnest(p_channels) as listed (channel)
  where not exists (
    select from monitor.notification_channels as known where known.channel = listed.channel and known.kind <> 'heartbeat');
  if p_channels is null or p_channels = '{}' or v_unknown is not null then
    raise exception '%', coalesce('no such channel: ' || v_unknown, 'a route needs a channel')
      using errcode = 'invalid_parameter_value', hint = 'Make it first: select monitor.save_channel(…). A heartbeat tells no alerts.';
  end if;
  insert into monitor.notification_routes as known (
    name, position, matchers, channels, continues, group_by, group_wait_seconds, group_interval_seconds, repeat_interval_seconds)
  values (
    p_name, coalesce(p_position, (select coalesce(max(position), 0) + 10 from monitor.notification_routes)), p_matchers, p_channels,
    p_continues, p_group_by, p_group_wait_seconds, p_group_interval_seconds, p_repeat_interval_seconds)
  on conflict (name) do update
  set position = coalesce(p_position, known.position), matchers = excluded.matchers, channels = excluded.channels,
      continues = excluded.continues, group_by = excluded.group_by, group_wait_seconds = excluded.group_wait_seconds,
      group_interval_seconds = excluded.group_interval_seconds, repeat_interval_seconds = excluded.repeat_interval_seconds
  returning route_id into v_route_id;
  return v_route_id;
end;
$$;

comment on function monitor.save_route(text, text[], jsonb, integer, text[], boolean, double precision, double precision, double precision) is
  'Makes a route, or gives the one of that name this form; without a position a new one comes last, another stays where it is. Alerts '
  'that are open are routed anew. Errors: 42501 for a user who is no admin, 22023 for no or an unknown channel or malformed matchers, '
  '2201B for a pattern that is none, 23514 for times out of range.';

create function monitor.delete_route(p_name text)
returns void
language plpgsql
security definer -- an admin may delete a route, but not its row
set search_path = ''
as $$
begin
  perform monitor.require_admin('delete a route');
  perform from monitor.alerting_state for update; -- before all else, as whoever evaluates and tells
  delete from monitor.notification_routes where name = p_name;
  if not found then
    raise exception 'no such route: %', p_name
      using errcode = 'no_data_found', hint = 'Routes are the rows of monitor.notification_routes.';
  end if;
end;
$$;

comment on function monitor.delete_route(text) is
  'Deletes a route; open alerts are routed anew, and the end of what it has told is still told. Errors: 42501 for a user who is no '
  'admin, P0002 for an unknown one.';

create table monitor.inhibition_rules (
  name             text    not null,
  source_matchers  jsonb   not null,
  target_matchers  jsonb   not null,
  equal_labels     text[]  not null default '{}',

  constraint inhibition_rules_pkey primary key (name),
  constraint inhibition_rules_name_in_bounds check (length(name) between 1 and 200),
  constraint inhibition_rules_equal_labels_bounded check (cardinality(equal_labels) <= 20 and array_position(equal_labels, null) is null)
);

comment on table monitor.inhibition_rules is
  'While an alert fires that the source matchers hold for, those of the target matchers with equal values of the labels are not told.';
comment on column monitor.inhibition_rules.equal_labels is 'A label that is missing equals an empty one, and another that is missing.';

alter table monitor.inhibition_rules enable row level security;

create policy inhibition_rules_select_authenticated
  on monitor.inhibition_rules for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.inhibition_rules to authenticated;
grant select, insert, update, delete on monitor.inhibition_rules to service_role;

create trigger inhibition_rules_record_change
  after insert or update or delete on monitor.inhibition_rules
  for each row execute function monitor.record_change();

create function monitor.save_inhibition(
  p_name             text,
  p_source_matchers  jsonb,
  p_target_matchers  jsonb,
  p_equal_labels     text[]  default '{}'
)
returns void
language plpgsql
security definer -- an admin may save an inhibition, but not write its row
set search_path = ''
as $$
begin
  perform monitor.require_admin('save an inhibition');
  perform monitor.check_label_matchers(p_source_matchers), monitor.check_label_matchers(p_target_matchers);
  if p_source_matchers = '[]' or p_target_matchers = '[]' then
    raise exception 'an inhibition needs matchers on both sides'
      using errcode = 'invalid_parameter_value', hint = 'Else any alert would keep all others from being told.';
  end if;
  insert into monitor.inhibition_rules (name, source_matchers, target_matchers, equal_labels)
  values (p_name, p_source_matchers, p_target_matchers, p_equal_labels)
  on conflict (name) do update
  set source_matchers = excluded.source_matchers, target_matchers = excluded.target_matchers, equal_labels = excluded.equal_labels;
end;
$$;

comment on function monitor.save_inhibition(text, jsonb, jsonb, text[]) is
  'Makes or changes an inhibition. Errors: 42501 for a user who is no admin, 22023 for no or malformed matchers, 2201B for a pattern '
  'that is none.';

create function monitor.delete_inhibition(p_name text)
returns void
language plpgsql
security definer -- an admin may delete an inhibition, but not its row
set search_path = ''
as $$
begin
  perform monitor.require_admin('delete an inhibition');
  delete from monitor.inhibition_rules where name = p_name;
  if not found then
    raise exception 'no such inhibition: %', p_name
      using errcode = 'no_data_found', hint = 'Inhibitions are the rows of monitor.inhibition_rules.';
  end if;
end;
$$;

comment on function monitor.delete_inhibition(text) is
  'Deletes an inhibition. Errors: 42501 for a user who is no admin, P0002 for an unknown one.';

create table monitor.silences (
  silence_id  bigint      generated always as identity,
  matchers    jsonb       not null,
  starts_at   timestamptz not null,
  ends_at     timestamptz not null,
  weekdays    integer[],
  from_time   time,
  until_time  time,
  reason      text        not null,
  created_by  text        not null,
  created_at  timestamptz not null,

  constraint silences_pkey primary key (silence_id),
  constraint silences_matchers_present check (jsonb_typeof(matchers) = 'array' and jsonb_array_length(matchers) > 0),
  constraint silences_in_order check (ends_at >= starts_at),
  constraint silences_recurrence_whole check (num_nulls(weekdays, from_time, until_time) in (0, 3)),
  constraint silences_weekdays_known check (weekdays <> '{}' and weekdays <@ '{1,2,3,4,5,6,7}'),
  constraint silences_reason_present check (reason ~ '\S' and length(reason) <= 2000),
  constraint silences_created_by_present check (created_by <> '')
);

create index silences_ends_at_idx on monitor.silences (ends_at);

comment on table monitor.silences is
  'A time in which alerts are not told, once, or again and again. What was told before has its resolution told all the same.';
comment on column monitor.silences.matchers is 'On the labels of alerts: [{name, op, value}], all of which hold.';
comment on column monitor.silences.ends_at is
  'As planned or, once ended early, as it was. Equal to starts_at: called off before it began.';
comment on column monitor.silences.weekdays is
  'Of one that recurs: the days on which it begins, 1 Monday to 7 Sunday, by the clock on the wall in the time zone of settings.';
comment on column monitor.silences.from_time is
  'Of one that recurs. By the clock on the wall: on the days on which that is put forward or back it lasts an hour less or more.';
comment on column monitor.silences.until_time is 'Of one that recurs; on the next day if it is not after from_time.';
comment on column monitor.silences.reason is 'Why, for who finds that nothing was told.';

alter table monitor.silences enable row level security;

create policy silences_select_authenticated
  on monitor.silences for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.silences to authenticated;
grant select, insert, update, delete on monitor.silences to service_role;

create trigger silences_record_change
  after insert or update or delete on monitor.silences
  for each row execute function monitor.record_change();

create function monitor.silence_holds(p_silence monitor.silences, p_now timestamptz, p_time_zone text)
returns boolean
language sql
immutable
security invoker
set search_path = ''
as $$
  select p_silence.starts_at <= p_now and p_now < p_silence.ends_at and (
    p_silence.weekdays is null
    or case when p_silence.from_time < p_silence.until_time
      then local.clock >= p_silence.from_time and local.clock < p_silence.until_time and local.weekday = any (p_silence.weekdays)
      else (local.clock >= p_silence.from_time and local.weekday = any (p_silence.weekdays))
        -- It began the day before.
        or (local.clock < p_silence.until_time and (local.weekday + 5) % 7 + 1 = any (p_silence.weekdays))
    end)
  from (
    select (p_now at time zone p_time_zone)::time as clock, extract(isodow from p_now at time zone p_time_zone)::integer as weekday
  ) as local;
$$;

comment on function monitor.silence_holds(monitor.silences, timestamptz, text) is 'Whether a silence is in force.';

create function monitor.silence_holds_until(p_silence monitor.silences, p_now timestamptz, p_time_zone text)
returns timestamptz
language sql
immutable
security invoker
set search_path = ''
as $$
  select case when p_silence.weekdays is null then p_silence.ends_at else least(p_silence.ends_at, (
    (p_now at time zone p_time_zone)::date + p_silence.until_time
      + case when (p_now at time zone p_time_zone)::time < p_silence.until_time then interval '0' else interval '1 day' end
    ) at time zone p_time_zone) end;
$$;

comment on function monitor.silence_holds_until(monitor.silences, timestamptz, text) is 'When a silence that is in force ends, for now.';

create function monitor.silence_alerts(
  p_matchers    jsonb,
  p_ends_at     timestamptz,
  p_reason      text,
  p_starts_at   timestamptz  default null,
  p_weekdays    integer[]    default null,
  p_from_time   time         default null,
  p_until_time  time         default null,
  p_now         timestamptz  default now()
)
returns bigint
language plpgsql
security definer -- an admin may silence, but not write the row
set search_path = ''
as $$
declare
  v_starts_at   timestamptz := coalesce(p_starts_at, p_now);
  v_silence_id  bigint;
begin
  perform monitor.require_admin('silence alerts');
  perform monitor.check_label_matchers(p_matchers);
  if p_matchers = '[]' then
    raise exception 'a silence needs a matcher'
      using errcode = 'invalid_parameter_value',
            hint = 'To stop all sending: update monitor.settings set notifications_enabled = false.';
  end if;
  if p_ends_at is null or not (v_starts_at < p_ends_at and p_ends_at > p_now) or p_ends_at > v_starts_at + interval '10 years'
    or (p_weekdays is null and p_ends_at > v_starts_at + interval '1 year') then
    raise exception 'a silence must end after it starts and after now, within a year, or 10 if it recurs'
      using errcode = 'invalid_parameter_value', hint = 'Give a time for p_ends_at, e.g. now() + interval ''2 hours''.';
  end if;
  if p_reason is null or p_reason !~ '\S' then
    raise exception 'a silence needs a reason'
      using errcode = 'invalid_parameter_value', hint = 'For who wonders later why nothing was told.';
  end if;
  if num_nulls(p_weekdays, p_from_time, p_until_time) not in (0, 3) or not coalesce(p_weekdays <@ '{1,2,3,4,5,6,7}', true)
    or p_weekdays = '{}' then
    raise exception 'one that recurs needs p_weekdays (1 Monday to 7 Sunday), p_from_time and p_until_time'
      using errcode = 'invalid_parameter_value', hint = 'For example ''{6,7}'', ''02:00'', ''04:00''.';
  end if;
  insert into monitor.silences (matchers, starts_at, ends_at, weekdays, from_time, until_time, reason, created_by, created_at)
  values (p_matchers, v_starts_at, p_ends_at, p_weekdays, p_from_time, p_until_time, p_reason, monitor.current_actor(), p_now)
  returning silence_id into v_silence_id;
  return v_silence_id;
end;
$$;

comment on function monitor.silence_alerts(jsonb, timestamptz, text, timestamptz, integer[], time, time, timestamptz) is
  'Keeps matching alerts from being told until p_ends_at; with weekdays and times only then, by the clock on the wall. Returns its '
  'silence_id. Errors: 42501 for a user who is no admin, 22023 for no or malformed matchers, no reason, a time that is empty, over or '
  'too long, half a recurrence; 2201B for a pattern that is none; 23514 for a reason beyond 2,000 characters.';

create function monitor.end_silence(p_silence_id bigint, p_now timestamptz default now())
returns void
language plpgsql
security definer -- an admin may end a silence, but not rewrite its row
set search_path = ''
as $$
begin
  perform monitor.require_admin('end a silence');
  update monitor.silences set ends_at = least(ends_at, greatest(starts_at, p_now)) where silence_id = p_silence_id;
  if not found then
    raise exception 'no such silence: %', p_silence_id
      using errcode = 'no_data_found', hint = 'Silences are the rows of monitor.silences.';
  end if;
end;
$$;

comment on function monitor.end_silence(bigint, timestamptz) is
  'Ends a silence now, or calls it off before it begins. One that has ended stays as it is. Errors: 42501 for a user who is no admin, '
  'P0002 for an unknown one.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.runbook_url(text),
  monitor.require_admin(text),
  monitor.check_label_matchers(jsonb),
  monitor.channel_secret(text),
  monitor.refuse_channel(text, jsonb, text),
  monitor.silence_holds(monitor.silences, timestamptz, text),
  monitor.silence_holds_until(monitor.silences, timestamptz, text)
to service_role;
grant execute on function
  monitor.save_channel(text, text, jsonb, text, boolean),
  monitor.delete_channel(text),
  monitor.save_route(text, text[], jsonb, integer, text[], boolean, double precision, double precision, double precision),
  monitor.delete_route(text),
  monitor.save_inhibition(text, jsonb, jsonb, text[]),
  monitor.delete_inhibition(text),
  monitor.silence_alerts(jsonb, timestamptz, text, timestamptz, integer[], time, time, timestamptz),
  monitor.end_silence(bigint, timestamptz)
to authenticated, service_role;
