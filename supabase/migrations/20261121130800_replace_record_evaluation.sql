-- Purpose:  an evaluation makes alerts of what rules came to, of all other sources, and writes whom to tell, in one transaction.
-- Locks:    none on existing tables.
-- Undo:     drop function monitor.record_evaluation(jsonb, timestamptz, jsonb); run that of 20261121120300 again, with its comment and
--           grant.

drop function monitor.record_evaluation(jsonb, timestamptz);

create function monitor.record_evaluation(
  p_results     jsonb,
  p_now         timestamptz,
  p_components  jsonb  default null
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c_errors constant integer := 20;
  v_recorded  bigint[];
  v_failed    integer;
  v_errors    jsonb;
  v_samples   jsonb;
  v_alerts    jsonb;
  v_stored    jsonb := '{"inserted": 0, "duplicates": 0, "overflowed": 0, "rejected": []}';
begin
  if jsonb_typeof(p_results) is distinct from 'array' or p_now is null or jsonb_typeof(p_components) <> 'array' then
    raise exception 'p_results must be an array, p_now a time and p_components an array or null'
      using errcode = 'invalid_parameter_value',
            hint = 'Each result is {rule_id, revision, error, evaluation_seconds, instances?, samples?}, each component {component, status, '
              'reason}.';
  end if;

  -- Not while rules are saved, nor two at once: both lock many states.
  perform pg_advisory_xact_lock(hashtext('monitor.alert_rules'));

  with result as (
    select
      rule.rule_id,
      (entry ->> 'revision')::bigint as revision,
      (entry ->> 'evaluation_seconds')::double precision as evaluation_seconds,
      entry -> 'instances' as instances,
      entry -> 'samples' as samples,
      coalesce(entry ->> 'error', case when jsonb_array_length(entry -> 'instances') > 1000 then
        format('the rule has %s alerts, and may have 1000', jsonb_array_length(entry -> 'instances')) end,
        monitor.refuse_rule_name(rule.kind, rule.name)) as error
    from jsonb_array_elements(p_results) as entry
    join monitor.alert_rules as rule on rule.rule_id = (entry ->> 'rule_id')::bigint
  ), recorded as (
    update monitor.rule_states as state
    set revision = state.revision + 1,
        -- A rule that cannot be evaluated says nothing about its alerts.
        instances = case when result.error is null then coalesce(result.instances, '[]') else state.instances end,
        health = case when result.error is null then 'ok' else 'err' end,
        last_error = left(result.error, 2000),
        failing_since = coalesce(state.failing_since, case when result.error is not null then p_now end),
        evaluated_at = p_now,
        evaluation_seconds = result.evaluation_seconds
    from result
    where state.rule_id = result.rule_id and state.revision = result.revision
      and (state.evaluated_at is null or state.evaluated_at < p_now or state.evaluated_at > p_now + interval '10 minutes')
    returning state.rule_id, state.health, result.samples
  ), sampled as (
    select jsonb_agg(sample || jsonb_build_object('metric', rule.name) order by rule.rule_id, place) as samples
    from recorded
    join monitor.alert_rules as rule using (rule_id)
    cross join lateral jsonb_array_elements(recorded.samples) with ordinality as item (sample, place)
    where rule.kind = 'recording' and recorded.health = 'ok'
  )
  select coalesce(array_agg(rule_id), '{}'), (select samples from sampled) into v_recorded, v_samples from recorded;

  if v_samples is not null then
    insert into monitor.metric_definitions (metric, category, unit, description, is_recorded)
    select distinct sample ->> 'metric', 'workflow', 'unknown', 'Recorded by a rule: see monitor.alert_rules.', true
    from jsonb_array_elements(v_samples) as sample
    order by 1 -- as senders do who register metrics
    on conflict do nothing;
    perform monitor.ensure_sample_days(p_now, 0);
    v_stored := monitor.record_samples(v_samples, p_now);
    with refused as (
      select rejection ->> 'metric' as metric, count(*) as samples, min(rejection ->> 'reason') as reason
      from jsonb_array_elements(v_stored -> 'rejected') as rejection
      group by 1
    )
    update monitor.rule_states as state
    set health = 'err', last_error = format('%s samples could not be stored: %s', refused.samples, refused.reason),
        failing_since = coalesce(state.failing_since, p_now)
    from refused
    join monitor.alert_rules as rule on rule.kind = 'recording' and rule.name = refused.metric
    where state.rule_id = rule.rule_id and state.health = 'ok' and state.evaluated_at = p_now;
  end if;
  -- Only now: before the samples were stored it was not known who had failed.
  update monitor.rule_states
  set failing_since = null
  where rule_id = any (v_recorded) and health = 'ok' and failing_since is not null;

  -- What that makes of alerts, and whom to tell, in this very transaction: nothing fires without its message being written.
  v_alerts := monitor.advance_alerts(p_components, p_now);

  select count(*), coalesce(jsonb_agg(
    jsonb_build_object('group', failed.group_name, 'rule', failed.name, 'error', failed.last_error)
    order by failed.place) filter (where failed.place <= c_errors), '[]')
  into v_failed, v_errors
  from (
    select rule.group_name, rule.name, state.last_error,
      row_number() over (order by rule.group_name collate "C", rule.position, rule.rule_id) as place
    from monitor.rule_states as state
    join monitor.alert_rules as rule using (rule_id)
    where state.rule_id = any (v_recorded) and state.health = 'err'
  ) as failed;
  return jsonb_build_object(
    'recorded', cardinality(v_recorded), 'failed', v_failed, 'stale', jsonb_array_length(p_results) - cardinality(v_recorded),
    'errors', v_errors, 'samples', v_stored, 'alerts', v_alerts);
end;
$$;

comment on function monitor.record_evaluation(jsonb, timestamptz, jsonb) is
  'Stores what the rules evaluated at p_now came to, [{rule_id, revision, error, evaluation_seconds, instances?, samples?}], and the '
  'samples [{labels, value}] of recording rules under that time; then advances all alerts (see monitor.advance_alerts) with the components '
  'of health, null if they are not known. All or nothing. revision is that of the state it was evaluated on: '
  'a result on top of another state, older than what is stored, or of a rule that is gone, is left out. One with an error, or with '
  'more than 1,000 instances, which is one, leaves the instances as they are. One whose samples cannot be stored, or are of a metric '
  'that others write, has an error too. Returns {recorded, failed, stale, errors: [{group, rule, error}], samples: as '
  'monitor.record_samples, alerts: as monitor.advance_alerts}; failed ones are recorded too, and errors are those of the first 20 of '
  'them. Errors: 22023 when an argument is missing or no array, and those of monitor.record_samples.';

revoke all on all functions in schema monitor from public;
grant execute on function monitor.record_evaluation(jsonb, timestamptz, jsonb) to service_role;
