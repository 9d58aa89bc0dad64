-- Purpose:  the jobs and when they run. Running this file again changes nothing.
-- Locks:    none on existing tables.
-- Undo:     select cron.unschedule(cron_name) from monitor.job_schedules; delete from monitor.job_schedules;

insert into monitor.job_schedules
  (job, cron_name, schedule, is_function, timeout_milliseconds, lease_seconds, stale_after_seconds, description)
values
  ('collect-metrics', 'collect-metrics-every-minute', '* * * * *', true, 25000, 55, 180,
    'Runs the collectors and stores what they return.'),
  ('detect-anomalies', 'detect-anomalies-every-5-minutes', '*/5 * * * *', true, 30000, 150, 900,
    'Judges the samples since the last run.'),
  ('data-retention-cleanup', 'data-retention-cleanup-daily', '0 3 * * *', true, 30000, 150, 93600,
    'Drops, archives and deletes what the retention policies say.'),
  ('watch-jobs', 'watch-jobs-every-minute', '* * * * *', false, 60000, 55, 180,
    'Joins the witnesses of every run and notices missed ones. Plain SQL.')
on conflict (job) do nothing;

select monitor.set_schedule(job, schedule) from monitor.job_schedules order by job;

select monitor.ensure_sample_days();
