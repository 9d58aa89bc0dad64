-- Purpose:  the job that evaluates rules. Running this file again changes nothing.
-- Locks:    none on existing tables.
-- Undo:     select cron.unschedule('evaluate-alerts-every-minute'); delete from monitor.job_runs where job = 'evaluate-alerts';
--           delete from monitor.job_schedules where job = 'evaluate-alerts';

insert into monitor.job_schedules
  (job, cron_name, schedule, is_function, timeout_milliseconds, lease_seconds, stale_after_seconds, description)
values
  ('evaluate-alerts', 'evaluate-alerts-every-minute', '* * * * *', true, 25000, 55, 180,
    'Evaluates the rules that are due and stores what they came to.')
on conflict (job) do nothing;

select monitor.set_schedule(job, schedule) from monitor.job_schedules where job = 'evaluate-alerts';
