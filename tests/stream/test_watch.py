"""Alert rules, policies and their fold, without clocks and processes."""

import pytest

from models.errors import DataError
from stream import events
from stream.alerts import judge, read_rule
from stream.errors import Refused
from stream.events import Event
from stream.notifications import digest_due, read_channel
from stream.policies import choice_of, crossed, gate, read_policy, rested, scheduled, too_slow
from stream.projections.catalog import Catalog
from stream.projections.watch import in_hours

SECOND = 1_000_000
COHORT = events.CohortMatured(0, 10, 99, 5, 5, 0)
RULE = read_rule({"measure": "drift.psi", "above": 0.25, "clear": 0.1, "cool_down": "10m", "channels": ["ops"]})


def test_an_alert_is_raised_once_cleared_behind_its_hysteresis_and_rests():
    firing, cleared, said = False, 0, []
    values = [None, 0.2, 0.3, 0.5, 0.2, 0.12, None, 0.1, 0.4, 0.4, 0.05, 0.6]
    for k, value in enumerate(values):
        now = 10**15 + k * 240 * SECOND
        word = judge(RULE, value, firing=firing, cleared_at=cleared, now=now)
        said.append(word)
        firing = word == "raise" or (firing and word != "clear")
        cleared = now if word == "clear" else cleared
    assert said == ["", "", "raise", "", "", "", "", "clear", "", "", "", "raise"]


def test_a_rule_may_watch_for_too_little():
    rule = read_rule({"measure": "accuracy.roc_auc", "below": 0.7, "clear": 0.75})
    assert judge(rule, 0.6, firing=False, cleared_at=0, now=1) == "raise"
    assert judge(rule, 0.72, firing=True, cleared_at=0, now=1) == ""
    assert judge(rule, 0.75, firing=True, cleared_at=0, now=1) == "clear"


@pytest.mark.parametrize(
    "data",
    [{}, {"measure": "luck", "above": 1}, {"measure": "drift.psi"}, {"measure": "drift.psi", "above": 1, "below": 0}, {"measure": "drift.psi", "above": "x"}, {"measure": "drift.psi", "above": 1, "clear": 2},
     {"measure": "drift.psi", "above": 1, "window": "soon"}, {"measure": "drift.psi", "above": 1, "severity": "meh"}, {"measure": "drift.psi", "above": 1, "channels": "ops"}, {"measure": "drift.psi", "above": 1, "typo": 1},
     {"measure": "drift.psi", "above": float("nan")}, {"measure": "drift.psi", "above": 1, "silenced_until": "later"},
     {"measure": "drift.psi", "above": 1, "silent_hours": ["25:00-26:00"]}, {"measure": "drift.psi", "above": 1, "silent_hours": "22:00-06:00"}],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused(data):
    with pytest.raises(DataError):
        read_rule(data)


@pytest.mark.parametrize("data", [{}, {"kind": "pigeon"}, {"kind": "webhook"}, {"kind": "webhook", "url": "file:///etc/passwd"}, {"kind": "email", "host": "h"}, {"kind": "email", "host": "h", "from": "a", "to": "b"}])
def test_a_channel_that_cannot_be_reached_is_refused(data):
    with pytest.raises(DataError):
        read_channel("c", data)


def test_secrets_stay_out_of_the_events():
    fact, secrets = read_channel("c", {"kind": "webhook", "url": "https://x", "secret": "s3cret"})
    assert secrets == {"secret": "s3cret"}
    assert "s3cret" not in repr(fact)


class Story:
    """A catalog with a deployment, and events in their order."""

    def __init__(self):
        self.catalog, self.count = Catalog(), 0
        self.say(events.ModelRegistered("m", "p", "linear", "binary", "y", "log_loss", {}), "")
        self.say(events.DeploymentCreated("m"))
        self.say(events.ChannelSet("ops", "webhook", {"url": "http://x"}), "")
        self.say(events.AlertRuleSet("drifting", RULE))

    def say(self, fact, deployment="d"):
        self.count += 1
        event = Event(f"e{self.count}", self.count * SECOND, "t", deployment, fact)
        self.catalog.apply(event)
        return event

    def raise_alert(self, **more):
        return self.say(events.AlertRaised("drifting", "warning", "drift.psi", 0.4, 0.25, {}, "SELECT 1", **more))


def test_the_fold_raises_once_queues_each_channel_once_and_forgets_who_was_told():
    story = Story()
    raised = story.raise_alert()
    with pytest.raises(Refused):
        story.raise_alert()
    watch = story.catalog.watch
    assert list(watch.pending) == [(raised.event_id, "ops")]
    story.say(events.NotificationEnded(raised.event_id, "ops", 1))
    with pytest.raises(Refused):
        story.say(events.NotificationEnded(raised.event_id, "ops", 1))
    story.say(events.AlertCleared("drifting", "drift.psi", 0.05, {}))
    assert len(watch.pending) == 1
    with pytest.raises(Refused):
        story.say(events.AlertCleared("drifting", "drift.psi", 0.05, {}))
    story.raise_alert(test=True)
    assert not watch.firing


def test_a_silenced_rule_raises_and_tells_nobody():
    story = Story()
    story.say(events.AlertRuleSet("drifting", {**RULE, "silenced_until": 10**12}))
    story.raise_alert()
    assert story.catalog.watch.firing
    assert not story.catalog.watch.pending


def test_silent_hours_come_back_every_day_and_may_span_midnight():
    hours = ["22:00-06:30", "12:00-13:00"]
    minute = 60 * SECOND
    told = [not in_hours(10**9 * 86_400 + m * minute, hours) for m in (0, 389, 390, 719, 720, 779, 780, 1319, 1320)]
    assert told == [False, False, True, True, False, False, True, True, False]
    story = Story()
    story.say(events.AlertRuleSet("drifting", read_rule({**RULE, "silent_hours": ["00:00-01:00"]})))
    story.raise_alert()
    assert story.catalog.watch.firing
    assert not story.catalog.watch.pending


def test_a_digest_is_due_when_its_span_has_passed_since_the_last_or_the_first_alert():
    channel = read_channel("ops", {"kind": "webhook", "url": "http://x", "digest": "1h"})[0]
    hour = 3600 * SECOND
    assert not digest_due(channel, [10 * hour, 10 * hour + 5], 0, 11 * hour - 1)
    assert digest_due(channel, [10 * hour, 10 * hour + 5], 0, 11 * hour)
    assert not digest_due(channel, [10 * hour], 10 * hour + 7, 11 * hour)
    with pytest.raises(DataError):
        read_channel("ops", {"kind": "webhook", "url": "http://x", "digest": "often"})


def test_a_run_waits_for_a_person_once_and_then_ends():
    story = Story()
    story.say(events.PolicySet("monthly", read_policy({})))
    story.say(events.PolicyRunStarted("r1", "monthly", {}))
    story.say(events.PolicyRunAwaits("r1", "m2", "it is better", {"rows": 500}))
    with pytest.raises(Refused):
        story.say(events.PolicyRunAwaits("r1", "m2", "it is better", {}))
    run = story.catalog.watch.runs["r1"]
    assert (run.awaits, run.outcome) == ("m2", "")
    story.say(events.PolicyRunFinished("r1", "refused", "not convinced", {}))
    with pytest.raises(Refused):
        story.say(events.PolicyRunAwaits("r1", "m2", "it is better", {}))


def test_a_run_that_was_promoted_waits_no_more_and_is_looked_at_in_order():
    story = Story()
    story.say(events.ModelRegistered("m2", "p", "linear", "binary", "y", "log_loss", {}), "")
    story.say(events.DeploymentConfigured({"threshold": 0.4}))
    story.say(events.PolicySet("monthly", read_policy({"gate": {"rollback_rows": 100, "rollback_looks": 3}})))
    story.say(events.PolicyRunStarted("r1", "monthly", {}))
    run = story.catalog.watch.runs["r1"]
    assert run.version == 2
    story.say(events.PolicyRunAwaits("r1", "m2", "it is better", {}))
    story.say(events.ChampionChanged("m2", "by a person"))
    assert (run.awaits, run.outcome) == ("", "")
    with pytest.raises(Refused):
        story.say(events.PolicyRunLooked("r1", 2, "out of order", {}))
    story.say(events.PolicyRunLooked("r1", 1, "it stays", {}))
    with pytest.raises(Refused):
        story.say(events.PolicyRunLooked("r1", 1, "again", {}))
    assert run.looks == 1
    assert run.looked_at == (story.count - 1) * SECOND  # the next look is at the rows since


def test_an_estimate_acts_only_beside_something_that_was_measured():
    trigger = read_policy({"trigger": {"kind": "estimated", "and": {"measure": "drift.psi", "above": 0.2}}})["trigger"]
    assert (trigger["measure"], trigger["above"]) == ("estimated.loss", 0.1)
    assert (trigger["and"]["measure"], trigger["and"]["above"]) == ("drift.psi", 0.2)


def test_a_budget_of_milliseconds_refuses_what_is_slower():
    policy = read_policy({"gate": {"ms_per_row": 0.5}})
    assert [bool(too_slow(policy, took)) for took in (None, 0.4, 0.6)] == [False, False, True]
    assert not too_slow(read_policy({}), 99.0)


def test_what_a_policy_learns_from_becomes_a_choice_of_rows():
    policy = read_policy({"data": {"window": "decaying", "half_life": "30d", "exclude": ["acted_on"]}})
    assert choice_of(policy) == {"half_life": 30 * 86_400, "rows": 0, "exclude": ["acted_on"]}
    assert choice_of(read_policy({"data": {"window": "stratified", "rows": 1000}}))["rows"] == 1000


def test_a_deployment_has_one_run_at_a_time_and_it_ends_once():
    story = Story()
    with pytest.raises(Refused):
        story.say(events.PolicyRunStarted("r1", "monthly", {}))
    story.say(events.PolicySet("monthly", read_policy({})))
    story.say(events.PolicyRunStarted("r1", "monthly", {}))
    with pytest.raises(Refused) as found:
        story.say(events.PolicyRunStarted("r2", "monthly", {}))
    assert found.value.code == "run_under_way"
    story.say(events.PolicyRunFinished("r1", "promoted", "it is better", {}))
    with pytest.raises(Refused):
        story.say(events.PolicyRunFinished("r1", "refused", "no", {}))
    story.say(events.PolicyRunStarted("r2", "monthly", {}))
    assert [r.run_id for r in story.catalog.watch.runs_of("d")] == ["r2", "r1"]
    with pytest.raises(Refused):
        story.say(events.PolicySet("monthly", {}), "nowhere")


@pytest.mark.parametrize(
    "data",
    [{"typo": 1}, {"trigger": {"kind": "whim"}}, {"trigger": {"kind": "schedule", "every": "soon"}}, {"trigger": {"kind": "actuals"}}, {"trigger": {"kind": "measure"}}, {"trigger": {"kind": "measure", "measure": "drift.psi"}},
     {"action": "explode"}, {"gate": {"metric": "luck"}}, {"gate": {"soak_rows": 5}}, {"gate": {"minimum_gain": -1}}, {"model_selection": "best"}, {"data": {"window": "round"}}, {"minimum_interval": "0h"}, {"minutes": "long"},
     {"data": {"exclude": ["the rest"]}}, {"data": {"window": "decaying", "half_life": "long"}}, {"data": {"refresh": True}}, {"data": {"typo": 1}}, {"gate": {"ms_per_row": "quick"}},
     {"gate": {"rollback_looks": 0}}, {"gate": {"rollback_looks": 101}}, {"trigger": {"kind": "estimated"}}, {"trigger": {"kind": "measure", "measure": "estimated.log_loss", "above": 1, "and": {"measure": "estimated.loss", "above": 0}}}],
)  # fmt: skip
def test_a_policy_that_cannot_be_meant_is_refused(data):
    with pytest.raises(DataError):
        read_policy(data)


def test_a_trigger_with_a_bound_of_its_own_has_that_one_alone():
    found = read_policy({"trigger": {"kind": "accuracy", "measure": "accuracy.accuracy", "below": 0.6}})["trigger"]
    assert (found["below"], "above" in found) == (0.6, False)


def test_triggers_fire_when_they_should_and_not_more_often_than_the_interval_allows():
    policy = {**read_policy({"trigger": {"kind": "schedule", "every": "1d"}, "minimum_interval": "2h"}), "set_at": 0}
    day = 86_400 * SECOND
    assert not scheduled(policy, 0, day - 1)
    assert scheduled(policy, 0, day)
    assert not scheduled(policy, day, 2 * day - 1)
    assert rested(policy, 0, 5)
    assert not rested(policy, day, day + 7199 * SECOND)
    assert rested(policy, day, day + 7200 * SECOND)
    drift = read_policy({"trigger": {"kind": "drift"}})["trigger"]
    assert [crossed(drift, v) for v in (None, 0.0, 1.0)] == [False, False, True]


def test_a_clock_that_was_set_back_holds_up_neither_alerts_nor_policies_nor_digests():
    hour = 3600 * SECOND
    ahead, right = 10 * 24 * hour, 9 * 24 * hour  # it was a day ahead when all of this happened, and is right now
    assert judge(RULE, 0.5, firing=False, cleared_at=ahead, now=right) == "raise"
    assert judge(RULE, 0.5, firing=False, cleared_at=ahead, now=ahead - SECOND) == ""  # a second is nothing: it rests on
    policy = {**read_policy({"trigger": {"kind": "schedule", "every": "2d"}, "minimum_interval": "1h"}), "set_at": ahead}
    assert scheduled(policy, 0, right)
    assert rested(policy, ahead, right)
    assert not rested(policy, ahead, ahead - SECOND)
    fact, _ = read_channel("c", {"kind": "webhook", "url": "https://x", "digest": "1h"})
    assert digest_due(fact, [ahead], 0, right)
    assert digest_due(fact, [right], ahead, right)


def compared(rows, difference, half, better):
    return {"rows": rows, "metrics": {"log_loss": {"champion": 0.5, "challenger": 0.5 + difference, "difference": difference, "interval": [difference - half, difference + half], "better": better}}}


def test_the_gate_waits_for_its_rows_then_looks_once():
    policy = read_policy({"action": "replace", "gate": {"soak_rows": 300, "minimum_gain": 0.01}})
    assert gate(policy, None, "log_loss").word == "wait"
    assert gate(policy, compared(299, -0.1, 0.01, True), "log_loss").word == "wait"
    assert gate(policy, compared(300, -0.1, 0.01, True), "log_loss").word == "accept"
    assert gate(policy, compared(300, -0.005, 0.001, True), "log_loss").word == "refuse"
    assert gate(policy, compared(300, -0.1, 0.2, False), "log_loss").word == "refuse"
    assert "log_loss 0.5000 against 0.4000 on 300 rows" in gate(policy, compared(300, -0.1, 0.01, True), "log_loss").sentence


@pytest.mark.parametrize(("start", "after"), [(5, 10), (20, 15), (20, 0)])
def test_a_day_that_others_have_passed_or_would_pass_over_is_not_read(start, after):
    catalog = Catalog()
    catalog.apply(Event("m", 0, "t", "", events.ModelRegistered("m" * 64, "p", "linear", "binary", "y", "log_loss", {})))
    catalog.apply(Event("d", 0, "t", "d", events.DeploymentCreated("m" * 64, "")))
    catalog.apply(Event("first", 1, "t", "d", COHORT))
    with pytest.raises(Refused):
        catalog.apply(Event("wrong", 2, "t", "d", events.CohortMatured(start, start + 10, 99, 5, 5, after)))
    catalog.apply(Event("next", 3, "t", "d", events.CohortMatured(20, 30, 99, 5, 5, 10)))
    catalog.apply(Event("older", 4, "t", "d", events.CohortMatured(30, 40, 99, 5, 5)))  # as events of before say it
    assert [c.start for c in catalog.watch.cohorts["d"]] == [0, 20, 30]
