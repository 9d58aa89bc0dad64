-- Stand-in for pg_net: the tables and functions of the real one, in plain SQL. Requests are sent by
-- local/worker.ts, which a notification wakes when the transaction that queued them commits.
-- Not here: net.http_delete() and the functions that collect responses.

create schema net;

-- Unlogged, as the real ones: after a crash both are empty.
create unlogged table net.http_request_queue (
  id                   bigserial,
  method               text    not null,
  url                  text    not null,
  headers              jsonb,
  body                 bytea,
  timeout_milliseconds integer not null
);

create unlogged table net._http_response (
  id           bigint,
  status_code  integer,
  content_type text,
  headers      jsonb,
  content      text,
  timed_out    boolean,
  error_msg    text,
  created      timestamptz not null default now()
);
create index _http_response_created_idx on net._http_response (created);

create function net._wake() returns trigger
language plpgsql set search_path = ''
as $$
begin
  notify pg_net;
  return null;
end;
$$;
create trigger wake_worker after insert on net.http_request_queue
  for each statement execute function net._wake();

create function net._urlencode_string(string varchar) returns text
language sql immutable strict set search_path = ''
begin atomic
  select coalesce(string_agg(
    case when letter ~ '[A-Za-z0-9_.~-]' then letter
         else regexp_replace(upper(encode(convert_to(letter, 'UTF8'), 'hex')), '(..)', '%\1', 'g') end,
    '' order by position), '')
  from regexp_split_to_table(string, '') with ordinality as split (letter, position);
end;

create function net._queue(
  p_method text, p_url text, p_params jsonb, p_headers jsonb, p_body jsonb, p_timeout integer
)
returns bigint
language plpgsql set search_path = ''
as $$
declare
  v_query text;
  v_id    bigint;
begin
  if p_url !~* '^https?://' then
    raise exception 'Unsupported URL scheme' using detail = p_url;
  end if;
  select string_agg(net._urlencode_string(key) || '=' || net._urlencode_string(value), '&')
  into v_query from jsonb_each_text(p_params);

  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values (p_method,
          p_url || coalesce(case when p_url like '%?%' then '&' else '?' end || v_query, ''),
          p_headers, convert_to(p_body::text, 'UTF8'), p_timeout)
  returning id into v_id;
  return v_id;
end;
$$;

create function net.http_get(
  url                  text,
  params               jsonb   default '{}'::jsonb,
  headers              jsonb   default '{}'::jsonb,
  timeout_milliseconds integer default 5000
)
returns bigint
language sql set search_path = ''
begin atomic
  select net._queue('GET', url, params, headers, null, timeout_milliseconds);
end;

create function net.http_post(
  url                  text,
  body                 jsonb   default '{}'::jsonb,
  params               jsonb   default '{}'::jsonb,
  headers              jsonb   default '{"Content-Type": "application/json"}'::jsonb,
  timeout_milliseconds integer default 5000
)
returns bigint
language plpgsql set search_path = ''
as $$
declare
  v_type text := (
    select value from jsonb_each_text(headers) where lower(key) = 'content-type' limit 1
  );
begin
  if v_type <> 'application/json' then
    raise exception 'Content-Type header must be "application/json"';
  end if;
  return net._queue(
    'POST', url, params,
    case when v_type is null
         then coalesce(headers, '{}') || '{"Content-Type": "application/json"}' else headers end,
    body, timeout_milliseconds);
end;
$$;

-- The real one starts its worker anew. Ours runs in Node, and is woken.
create function net.worker_restart() returns boolean
language plpgsql set search_path = ''
as $$
begin
  notify pg_net;
  return true;
end;
$$;

-- As the real one: every role that exists may queue a request; no schema `net` is exposed to the API.
grant usage on schema net to public;
grant all on all tables in schema net to public;
grant all on all sequences in schema net to public;
