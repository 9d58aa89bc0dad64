-- Purpose:  the alerts and incidents that collectors count and retention respects; what drives them comes later.
-- Locks:    none on existing tables.
-- Undo:     drop table monitor.incident_anomalies, monitor.incident_alerts, monitor.incident_events,
--           monitor.incidents, monitor.system_alerts;

create table monitor.system_alerts (
  alert_id         bigint      generated always as identity,
  fingerprint      text        not null,
  name             text        not null,
  source           text        not null,
  severity         text        not null,
  labels           jsonb       not null default '{}',
  annotations      jsonb       not null default '{}',
  anomaly_id       bigint,
  fired_at         timestamptz not null,
  last_seen_at     timestamptz not null,
  resolved_at      timestamptz,

  constraint system_alerts_pkey primary key (alert_id),
  constraint system_alerts_fingerprint_present check (fingerprint <> ''),
  constraint system_alerts_source_known check (source in ('rule', 'anomaly', 'job', 'health')),
  constraint system_alerts_severity_known check (severity in ('info', 'warning', 'critical')),
  constraint system_alerts_anomaly_only_from_anomalies check (anomaly_id is null or source = 'anomaly'),
  constraint system_alerts_in_order check (last_seen_at >= fired_at and resolved_at >= fired_at)
);

create unique index system_alerts_fingerprint_open_idx on monitor.system_alerts (fingerprint) where resolved_at is null;
comment on index monitor.system_alerts_fingerprint_open_idx is 'The same alert fires once at a time.';
create index system_alerts_anomaly_id_idx on monitor.system_alerts (anomaly_id) where anomaly_id is not null;
create index system_alerts_resolved_at_idx on monitor.system_alerts (resolved_at);

comment on table monitor.system_alerts is 'An alert from firing to resolved.';
comment on column monitor.system_alerts.fingerprint is 'What makes two firings the same alert.';
comment on column monitor.system_alerts.anomaly_id is
  'The anomaly it stands for. No foreign key: the anomaly keeps its id when it moves to the archive.';
comment on column monitor.system_alerts.resolved_at is 'Null while it fires.';

alter table monitor.system_alerts enable row level security;

create policy system_alerts_select_authenticated
  on monitor.system_alerts for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.system_alerts to authenticated;
grant select, insert, update, delete on monitor.system_alerts to service_role;

create table monitor.incidents (
  incident_id  bigint      generated always as identity,
  title        text        not null,
  severity     text        not null,
  state        text        not null default 'open',
  started_at   timestamptz not null default now(),
  resolved_at  timestamptz,

  constraint incidents_pkey primary key (incident_id),
  constraint incidents_title_present check (title <> ''),
  constraint incidents_severity_known check (severity in ('P0', 'P1', 'P2', 'P3')),
  constraint incidents_state_known check (state in ('open', 'investigating', 'identified', 'monitoring', 'resolved')),
  constraint incidents_resolved_at_with_state check ((resolved_at is not null) = (state = 'resolved')),
  constraint incidents_in_order check (resolved_at >= started_at)
);

create index incidents_resolved_at_idx on monitor.incidents (resolved_at);

comment on table monitor.incidents is 'An incident from its start to its resolution.';
comment on column monitor.incidents.severity is 'P0 (worst) to P3.';
comment on column monitor.incidents.started_at is 'When it began, which may be before anyone knew.';
comment on column monitor.incidents.resolved_at is 'Null until its state is resolved.';

alter table monitor.incidents enable row level security;

create policy incidents_select_authenticated
  on monitor.incidents for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.incidents to authenticated;
grant select, insert, update, delete on monitor.incidents to service_role;

create table monitor.incident_events (
  event_id     bigint      generated always as identity,
  incident_id  bigint      not null,
  happened_at  timestamptz not null default now(),
  actor        text        not null,
  description  text        not null,

  constraint incident_events_pkey primary key (event_id),
  constraint incident_events_incident_id_fkey
    foreign key (incident_id) references monitor.incidents (incident_id) on delete cascade,
  constraint incident_events_description_present check (description <> '')
);

create index incident_events_incident_id_idx on monitor.incident_events (incident_id, happened_at);

comment on table monitor.incident_events is 'One entry of an incident''s timeline.';
comment on column monitor.incident_events.actor is 'Who: a user id, or the job that did it.';

alter table monitor.incident_events enable row level security;

create policy incident_events_select_authenticated
  on monitor.incident_events for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.incident_events to authenticated;
grant select, insert, update, delete on monitor.incident_events to service_role;

create table monitor.incident_alerts (
  incident_id  bigint not null,
  alert_id     bigint not null,

  constraint incident_alerts_pkey primary key (incident_id, alert_id),
  constraint incident_alerts_incident_id_fkey
    foreign key (incident_id) references monitor.incidents (incident_id) on delete cascade,
  constraint incident_alerts_alert_id_fkey
    foreign key (alert_id) references monitor.system_alerts (alert_id) on delete cascade
);

create index incident_alerts_alert_id_idx on monitor.incident_alerts (alert_id);

comment on table monitor.incident_alerts is 'An alert that belongs to an incident.';

alter table monitor.incident_alerts enable row level security;

create policy incident_alerts_select_authenticated
  on monitor.incident_alerts for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.incident_alerts to authenticated;
grant select, insert, update, delete on monitor.incident_alerts to service_role;

create table monitor.incident_anomalies (
  incident_id  bigint not null,
  anomaly_id   bigint not null,

  constraint incident_anomalies_pkey primary key (incident_id, anomaly_id),
  constraint incident_anomalies_incident_id_fkey
    foreign key (incident_id) references monitor.incidents (incident_id) on delete cascade
);

create index incident_anomalies_anomaly_id_idx on monitor.incident_anomalies (anomaly_id);

comment on table monitor.incident_anomalies is
  'An anomaly that belongs to an incident. Without a foreign key: the anomaly keeps its id when it moves to the archive.';

alter table monitor.incident_anomalies enable row level security;

create policy incident_anomalies_select_authenticated
  on monitor.incident_anomalies for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.incident_anomalies to authenticated;
grant select, insert, update, delete on monitor.incident_anomalies to service_role;
