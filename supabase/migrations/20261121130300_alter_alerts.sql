-- Purpose:  alerts from pending on, with what flapping, acknowledging and telling need to know; one decision about each at a time.
-- Locks:    access exclusive on system_alerts while columns are added and its checks are looked through.
-- Undo:     drop table monitor.notification_decisions, monitor.alerting_state; delete from monitor.system_alerts where fired_at is null;
--           drop the columns added here and the indexes system_alerts_fingerprint_resolved_at_idx and system_alerts_canary_idx; alter table monitor.system_alerts
--           alter column fired_at set not null.

alter table monitor.system_alerts
  alter column fired_at drop not null,
  add column opened_at               timestamptz   not null default now(),
  add column active_at               timestamptz   not null default now(),
  add column value                   text,
  add column runbook_url             text,
  add column rule_id                 bigint,
  add column mode                    text          not null default 'live',
  add column no_data                 boolean       not null default false,
  add column occurrence_count        integer       not null default 1,
  add column recent_firings          timestamptz[] not null default '{}',
  add column ceased_at               timestamptz,
  add column resolved_because        text,
  add column acknowledged_at         timestamptz,
  add column acknowledged_by         text,
  add column acknowledged_until      timestamptz,
  add column acknowledged_because    text,
  add column live_again_at           timestamptz,
  add column routed_at               timestamptz,
  add column state                   text          generated always as (
    case when resolved_at is not null then 'resolved' when fired_at is null then 'pending' else 'firing' end) stored;

update monitor.system_alerts
set opened_at = fired_at, active_at = fired_at;

alter table monitor.system_alerts
  add constraint system_alerts_mode_known check (mode in ('shadow', 'live')),
  add constraint system_alerts_occurrence_count_with_fired_at check (
    occurrence_count >= case when fired_at is null then 0 else 1 end),
  add constraint system_alerts_recent_firings_bounded check (cardinality(recent_firings) <= 20),
  add constraint system_alerts_resolved_because_when_resolved check (resolved_because is null or resolved_at is not null),
  add constraint system_alerts_acknowledged_whole check (
    num_nulls(acknowledged_at, acknowledged_by, acknowledged_until, acknowledged_because) in (0, 4)),
  add constraint system_alerts_acknowledged_because_in_bounds check (length(acknowledged_because) between 1 and 2000);

alter table monitor.system_alerts set (fillfactor = 70); -- values of those that fire change every minute

create index system_alerts_fingerprint_resolved_at_idx on monitor.system_alerts (fingerprint, resolved_at desc);
create index system_alerts_canary_idx on monitor.system_alerts (fired_at) where name = 'PgvigilCanary';
comment on index monitor.system_alerts_canary_idx is 'Looked for every minute among all that is over.';

comment on table monitor.system_alerts is
  'An alert from pending to resolved. One that comes back within 10 minutes goes on in the same row.';
comment on column monitor.system_alerts.opened_at is 'When it was first seen, pending or firing.';
comment on column monitor.system_alerts.active_at is 'Since when what it says has held without a break.';
comment on column monitor.system_alerts.fired_at is 'When it last began to fire; null if it never has.';
comment on column monitor.system_alerts.value is 'As in Prometheus'' JSON: 12.5, +Inf, NaN. Null where its source has none.';
comment on column monitor.system_alerts.rule_id is 'The rule it is of. No foreign key: alerts outlive rules.';
comment on column monitor.system_alerts.mode is 'shadow: recorded, and told to nobody.';
comment on column monitor.system_alerts.no_data is 'Whether it stays only because nothing is known of what it is about.';
comment on column monitor.system_alerts.occurrence_count is 'How often it began to fire.';
comment on column monitor.system_alerts.recent_firings is 'When, within the last hour, at most the last 20: three of them are flapping.';
comment on column monitor.system_alerts.ceased_at is
  'Since when what it says has ceased to hold, of one that flaps: it resolves when that has lasted for 10 minutes.';
comment on column monitor.system_alerts.resolved_because is 'In words. Null while it is open.';
comment on column monitor.system_alerts.acknowledged_until is 'From then on it is live again.';
comment on column monitor.system_alerts.live_again_at is 'When an acknowledgement last ran out: it is told again for that.';
comment on column monitor.system_alerts.routed_at is 'When it was given to its routes; null: not yet, or they have changed since.';
comment on column monitor.system_alerts.state is 'pending: it holds, but not for long enough. firing. resolved.';

create table monitor.alerting_state (
  is_only_row       boolean     not null default true,
  evaluation_count  bigint      not null default 0,
  advanced_at       timestamptz,
  gap_began_at      timestamptz,
  gap_ended_at      timestamptz,
  mail_slot_at      timestamptz,
  heartbeat_at      timestamptz,
  canary_on         date,
  canary_since      timestamptz,

  constraint alerting_state_pkey primary key (is_only_row),
  constraint alerting_state_is_only_row check (is_only_row)
);

comment on table monitor.alerting_state is 'What alerting remembers between two evaluations, always one row; who locks it is alone.';
comment on column monitor.alerting_state.evaluation_count is 'How often alerts were evaluated: decisions count by it.';
comment on column monitor.alerting_state.advanced_at is 'The minute that the last evaluation was of.';
comment on column monitor.alerting_state.gap_began_at is 'Since when, the last time, nothing was evaluated for more than 10 minutes.';
comment on column monitor.alerting_state.gap_ended_at is 'The minute of the evaluation that ended that.';
comment on column monitor.alerting_state.mail_slot_at is 'When the last mail that was given out may be sent: the next one comes after it.';
comment on column monitor.alerting_state.heartbeat_at is 'When the last sign of life was written.';
comment on column monitor.alerting_state.canary_on is 'The day of the last canary, in the time zone of settings.';
comment on column monitor.alerting_state.canary_since is 'Since when evaluations have found that a canary is wanted; null: none is.';

alter table monitor.alerting_state enable row level security;

create policy alerting_state_select_authenticated
  on monitor.alerting_state for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.alerting_state to authenticated;
grant select, update on monitor.alerting_state to service_role;

insert into monitor.alerting_state default values;

create table monitor.notification_decisions (
  decision_id       bigint      generated always as identity,
  alert_id          bigint      not null,
  decision          text        not null,
  detail            text        not null,
  held_since        timestamptz not null,
  held_until        timestamptz,
  first_evaluation  bigint      not null,
  evaluations       bigint,

  constraint notification_decisions_pkey primary key (decision_id),
  constraint notification_decisions_alert_id_fkey
    foreign key (alert_id) references monitor.system_alerts (alert_id) on delete cascade,
  constraint notification_decisions_decision_known check (decision in (
    'pending', 'grouped', 'sent', 'silenced', 'inhibited', 'throttled', 'acknowledged', 'shadow', 'no_route')),
  constraint notification_decisions_in_order check (held_until >= held_since),
  constraint notification_decisions_closed_whole check ((held_until is null) = (evaluations is null)),
  constraint notification_decisions_evaluations_counted check (evaluations >= 0)
);

create unique index notification_decisions_open_idx on monitor.notification_decisions (alert_id) where held_until is null;
comment on index monitor.notification_decisions_open_idx is 'One decision about an alert at a time.';
create index notification_decisions_alert_id_idx on monitor.notification_decisions (alert_id, decision_id);

comment on table monitor.notification_decisions is
  'Why an alert was told or not: a row for each change of the decision, not for each evaluation. monitor.explain_alert reads it out.';
comment on column monitor.notification_decisions.decision is
  'pending: it does not fire yet. grouped: it waits with its group. sent. silenced. inhibited. throttled: its group was told and has to '
  'wait. acknowledged. shadow: its rule tells nobody. no_route: nobody is to be told.';
comment on column monitor.notification_decisions.detail is 'By whom, why, where to and until when, in words.';
comment on column monitor.notification_decisions.held_until is 'Null while it holds.';
comment on column monitor.notification_decisions.first_evaluation is 'The number of the evaluation, by alerting_state.evaluation_count, that decided it.';
comment on column monitor.notification_decisions.evaluations is 'How many evaluations it held for; null while it holds.';

alter table monitor.notification_decisions enable row level security;

create policy notification_decisions_select_authenticated
  on monitor.notification_decisions for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.notification_decisions to authenticated;
grant select, insert, update, delete on monitor.notification_decisions to service_role;

revoke all on all functions in schema monitor from public;
