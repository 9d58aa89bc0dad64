-- Stand-in for Supabase Vault: the table, view and functions of the real one. Honest warning: nothing
-- is encrypted here. `secret` is base64, so that nobody reads it by accident, and no more than that.
-- The rights are narrower than hosted, where service_role may read secrets too: what works without
-- that right here works there.

create table vault.secrets (
  id          uuid        primary key default gen_random_uuid(),
  name        text,
  description text        not null default '',
  secret      text        not null,
  key_id      uuid,
  nonce       bytea,
  created_at  timestamptz not null default current_timestamp,
  updated_at  timestamptz not null default current_timestamp
);
create unique index secrets_name_idx on vault.secrets (name) where name is not null;

create view vault.decrypted_secrets as
select id, name, description, secret,
       convert_from(decode(secret, 'base64'), 'utf8') as decrypted_secret,
       key_id, nonce, created_at, updated_at
from vault.secrets;

create function vault.create_secret(
  new_secret      text,
  new_name        text default null,
  new_description text default '',
  new_key_id      uuid default null
)
returns uuid
language sql security definer set search_path = ''
begin atomic
  insert into vault.secrets (secret, name, description, key_id)
  values (encode(convert_to(new_secret, 'utf8'), 'base64'), new_name, new_description, new_key_id)
  returning id;
end;

create function vault.update_secret(
  secret_id       uuid,
  new_secret      text default null,
  new_name        text default null,
  new_description text default null,
  new_key_id      uuid default null
)
returns void
language sql security definer set search_path = ''
begin atomic
  update vault.secrets set
    secret      = coalesce(encode(convert_to(new_secret, 'utf8'), 'base64'), secret),
    name        = coalesce(new_name, name),
    description = coalesce(new_description, description),
    key_id      = coalesce(new_key_id, key_id),
    updated_at  = now()
  where id = secret_id;
end;

revoke all on function vault.create_secret(text, text, text, uuid) from public;
revoke all on function vault.update_secret(uuid, text, text, text, uuid) from public;

grant usage on schema vault to postgres with grant option;
grant select, delete on vault.secrets, vault.decrypted_secrets to postgres with grant option;
grant execute on function vault.create_secret(text, text, text, uuid),
                          vault.update_secret(uuid, text, text, text, uuid)
  to postgres with grant option;
