-- Purpose:  replays go on the next minute, as retention does, and need not wait for the next five.
-- Locks:    none.
-- Undo:     run 20261121100500's continue_jobs again as create or replace.

create or replace function monitor.continue_jobs(p_now timestamptz default now())
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

  if (
    select run.state = 'succeeded' and run.finished_at > p_now - interval '1 day'
      and run.result -> 'replay' ->> 'pending' = 'true'
    from monitor.job_runs as run
    where run.job = 'detect-anomalies'
    order by run.scheduled_at desc, run.queued_at desc nulls last
    limit 1
  ) then
    perform monitor.invoke_function('detect-anomalies', p_now);
  end if;
end;
$$;

comment on function monitor.continue_jobs(timestamptz) is
  'Calls data-retention-cleanup again when its last run left work: once a day would be too rare for what takes longer than a call. '
  'Calls detect-anomalies again when its last run left replays pending.';

revoke all on function monitor.continue_jobs(timestamptz) from public;
