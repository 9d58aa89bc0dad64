-- Purpose:  tokens that let an application send metrics, or Grafana read them, and nothing else.
-- Locks:    none on existing tables.
-- Undo:     drop table monitor.access_tokens cascade; drop function monitor.create_access_token(text, text[], timestamptz,
--           timestamptz), monitor.revoke_access_token(text, timestamptz), monitor.check_access_token(text, timestamptz);
--           monitor.record_change() as in 20261121090100 (it ignores what triggers pass to it).

create or replace function monitor.record_change()
returns trigger
language plpgsql
security definer -- nobody who changes configuration may write or rewrite its record
set search_path = ''
as $$
declare
  c_hidden  constant text[] := coalesce(tg_argv, '{}');
  v_before  jsonb;
  v_after   jsonb;
begin
  if tg_op <> 'INSERT' then
    v_before := to_jsonb(old) - c_hidden;
  end if;
  if tg_op <> 'DELETE' then
    v_after := to_jsonb(new) - c_hidden;
  end if;
  if v_before is not distinct from v_after then
    return null;
  end if;
  insert into monitor.audit_log (actor, action, object, before, after)
  values (monitor.current_actor(), lower(tg_op), tg_table_name, v_before, v_after);
  return null;
end;
$$;

comment on function monitor.record_change() is
  'Trigger of every table of configuration: writes one row of monitor.audit_log for each row that really changed. '
  'Columns that the trigger names are neither recorded nor a change.';

create table monitor.access_tokens (
  token_id      integer      generated always as identity,
  name          text         not null,
  token_hash    bytea        not null,
  token_hint    text         not null,
  scopes        text[]       not null,
  created_at    timestamptz  not null,
  created_by    text         not null,
  expires_at    timestamptz,
  last_used_at  timestamptz,
  revoked_at    timestamptz,

  constraint access_tokens_pkey primary key (token_id),
  constraint access_tokens_token_hash_key unique (token_hash),
  constraint access_tokens_name_well_formed check (name ~ '^[a-zA-Z0-9][a-zA-Z0-9 ._-]{0,99}$'),
  constraint access_tokens_token_hash_is_sha256 check (octet_length(token_hash) = 32),
  constraint access_tokens_token_hint_short check (length(token_hint) = 4),
  constraint access_tokens_scopes_known check (scopes <@ array['ingest', 'read']),
  constraint access_tokens_scopes_present check (cardinality(scopes) > 0),
  constraint access_tokens_scopes_once check (cardinality(scopes) = 1 or scopes = array['ingest', 'read']),
  constraint access_tokens_created_by_present check (created_by <> ''),
  constraint access_tokens_expires_after_creation check (expires_at > created_at and isfinite(expires_at)),
  constraint access_tokens_revoked_after_creation check (revoked_at >= created_at)
);

create unique index access_tokens_name_idx on monitor.access_tokens (name) where revoked_at is null;
comment on index monitor.access_tokens_name_idx is 'A name is free again when its token has been revoked.';

comment on table monitor.access_tokens is
  'What lets others than us send metrics (scope ingest) or read them (read). A secret key would open the whole database.';
comment on column monitor.access_tokens.name is 'Who holds it, for people: a name of an application or a machine.';
comment on column monitor.access_tokens.token_hash is 'SHA-256 of the token, which is kept nowhere: 160 random bits are not found again by trying.';
comment on column monitor.access_tokens.token_hint is 'The last four characters of the token, to tell which one it is.';
comment on column monitor.access_tokens.expires_at is 'No longer accepted from here on; null: never expires.';
comment on column monitor.access_tokens.last_used_at is 'To the minute; null: never used.';
comment on column monitor.access_tokens.revoked_at is 'No longer accepted. Functions may know a token for 30 s more.';

alter table monitor.access_tokens enable row level security;

create policy access_tokens_select_authenticated
  on monitor.access_tokens for select to authenticated
  using ((select monitor.is_admin()));

grant select on monitor.access_tokens to authenticated, service_role;
grant update (last_used_at) on monitor.access_tokens to service_role;

create trigger access_tokens_record_change
  after insert or update or delete on monitor.access_tokens
  for each row execute function monitor.record_change('token_hash', 'last_used_at');

insert into monitor.retention_policies (entity, action, keep_days, position, reason) values
  ('access_tokens', 'keep', null, 916, 'Who could send and read, and since when not any more.');

create function monitor.create_access_token(
  p_name        text,
  p_scopes      text[],
  p_expires_at  timestamptz default now() + interval '400 days',
  p_now         timestamptz default now()
)
returns jsonb
language plpgsql
security definer -- an admin may make a token, but not write its row
set search_path = ''
as $$
declare
  v_scopes  text[];
  v_token   text;
  v_id      integer;
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may create an access token' using errcode = 'insufficient_privilege';
  end if;
  if p_name is null or p_name !~ '^[a-zA-Z0-9][a-zA-Z0-9 ._-]{0,99}$' then
    raise exception 'p_name must be a name, got %', left(p_name, 100)
      using errcode = 'invalid_parameter_value',
        hint = 'At most 100 letters, digits, spaces, dots, hyphens and underscores; the first a letter or a digit.';
  end if;
  select array_agg(distinct scope order by scope) into v_scopes from unnest(p_scopes) as scope;
  if v_scopes is null or array_position(v_scopes, null) is not null or not v_scopes <@ array['ingest', 'read'] then
    raise exception 'p_scopes must be some of ingest and read, got %', left(p_scopes::text, 100)
      using errcode = 'invalid_parameter_value', hint = 'For an application that sends metrics: {ingest}.';
  end if;
  if p_expires_at <= p_now or not isfinite(p_expires_at) then
    raise exception 'p_expires_at must lie ahead, got %', p_expires_at
      using errcode = 'invalid_parameter_value', hint = 'Null makes a token that never expires.';
  end if;

  -- Each UUID has 122 bits of Postgres' strong randomness; the hash spreads them evenly. 160 bits are taken.
  v_token := 'pgv_' || left(
    encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), 40);
  insert into monitor.access_tokens (name, token_hash, token_hint, scopes, created_at, created_by, expires_at)
  values (
    p_name, sha256(convert_to(v_token, 'UTF8')), right(v_token, 4), v_scopes, p_now, monitor.current_actor(), p_expires_at)
  on conflict (name) where revoked_at is null do nothing
  returning token_id into v_id;
  if v_id is null then
    raise exception 'there is a token named % already', p_name
      using errcode = 'unique_violation', hint = 'Take another name, or revoke that one first: revoke_access_token.';
  end if;
  return jsonb_build_object(
    'token_id', v_id, 'name', p_name, 'token', v_token, 'scopes', v_scopes, 'expires_at', p_expires_at);
end;
$$;

comment on function monitor.create_access_token(text, text[], timestamptz, timestamptz) is
  'Makes an access token of p_scopes (ingest, read) and returns {token_id, name, token, scopes, expires_at}: the one time '
  'that the token is shown. Expires after 400 days unless told otherwise; null: never. Errors: 42501 for a user who is '
  'no admin, 22023 for a malformed argument, 23505 when a token of that name is in use.';

create function monitor.revoke_access_token(
  p_name  text,
  p_now   timestamptz default now()
)
returns void
language plpgsql
security definer -- an admin may revoke a token, but not write its row
set search_path = ''
as $$
begin
  if not monitor.may_administer() then
    raise exception 'only an admin may revoke an access token' using errcode = 'insufficient_privilege';
  end if;
  update monitor.access_tokens
  set revoked_at = greatest(p_now, created_at)
  where name = p_name and revoked_at is null;
  if not found then
    raise exception 'no access token in use is named %', left(p_name, 100)
      using errcode = 'no_data_found', hint = 'See monitor.access_tokens.';
  end if;
end;
$$;

comment on function monitor.revoke_access_token(text, timestamptz) is
  'Ends the access token of that name: within 30 s no function takes it any more. The name is free again. '
  'Errors: 42501 for a user who is no admin, P0002 when no token in use has that name.';

create function monitor.check_access_token(
  p_token_hash  text,
  p_now         timestamptz default now()
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  v_token  monitor.access_tokens;
begin
  if p_token_hash is null or p_token_hash !~ '^[0-9a-f]{64}$' then
    raise exception 'p_token_hash must be a SHA-256 in hexadecimal'
      using errcode = 'invalid_parameter_value', hint = '64 digits, letters in lower case.';
  end if;
  select * into v_token
  from monitor.access_tokens
  where token_hash = decode(p_token_hash, 'hex') and revoked_at is null and (expires_at > p_now or expires_at is null);
  if not found then
    return null;
  end if;

  if v_token.last_used_at is null or v_token.last_used_at <= p_now - interval '1 minute' then
    -- Whoever holds the row is noting the same: nobody waits.
    update monitor.access_tokens
    set last_used_at = p_now
    where token_id in (
      select token_id from monitor.access_tokens
      where token_id = v_token.token_id
        and (last_used_at is null or last_used_at <= p_now - interval '1 minute')
      for update skip locked);
  end if;
  return jsonb_build_object(
    'token_id', v_token.token_id, 'name', v_token.name, 'scopes', v_token.scopes,
    'expires_at', monitor.epoch_ms(v_token.expires_at));
end;
$$;

comment on function monitor.check_access_token(text, timestamptz) is
  'Whose the token of this SHA-256 (hexadecimal) is: {token_id, name, scopes, expires_at (ms since 1970, null: never)}, or '
  'null when there is none, or it has expired or been revoked. Notes its use, at most once a minute. '
  'Errors: 22023 for what is no hash.';

revoke all on all functions in schema monitor from public;
grant execute on function
  monitor.create_access_token(text, text[], timestamptz, timestamptz),
  monitor.revoke_access_token(text, timestamptz),
  monitor.check_access_token(text, timestamptz)
to service_role;
grant execute on function
  monitor.create_access_token(text, text[], timestamptz, timestamptz),
  monitor.revoke_access_token(text, timestamptz)
to authenticated;
