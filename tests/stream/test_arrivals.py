"""Service health from the maintained minutes: the same counts as the rows', quantiles within 2 %, whatever is resent or erased."""

import numpy as np
import pytest

from stream.batches import refusal_batches
from stream.health import health_answer
from stream.projections.arrivals import BOUNDS, GROWTH, places, quantiles
from stream.projections.drift import DriftFold
from stream.queries import Window, predictions_over_time
from stream.verify import verify
from tests.stream.conftest import MINUTE, T0

BEGUN = -(-T0 // (60 * MINUTE)) * 60 * MINUTE


def traffic(world, count=120, seed=0):
    """Requests of one to four rows over some minutes, their latencies spread over three decades, by three consumers."""
    rng = np.random.default_rng(seed)
    records = []
    for k, record in enumerate(world.requests(count, rows_each=1, seed=seed)):
        rows = int(rng.integers(1, 5))
        many = {name: record[name] * rows for name in ("ts", "rows", "y", "k1", "q")}
        records.append({**record, **many, "a": [f"a{k}-{j}" for j in range(rows)], "t": BEGUN + k * 7_000_000, "lat": round(float(rng.lognormal(6, 1.5)), 1), "c": f"client {k % 3}"})
    return records


def both(world, **window):
    found = [health_answer(world.front.reader, Window(world.name, bucket=300, **window), sketched=sketched) for sketched in (False, True)]
    assert [answer["sketched"] for answer in found] == [False, True]
    return found


def counts_of(answer):
    names = ("requests", "rows", "consumers", "user_errors", "server_errors")
    return [{name: part[name] for name in names} for part in (*answer["buckets"], answer["totals"])], answer["totals"]["peak"], [b["at"] for b in answer["buckets"]]


def latencies(answer):
    return np.array([[part["latency_us"][q] for q in ("p50", "p90", "p95", "p99")] for part in (*answer["buckets"], answer["totals"])])


def test_minutes_say_what_rows_say_and_quantiles_are_within_two_percent(world):
    records = traffic(world)
    refused = {"k": "x", "d": world.name, "id": "bad", "s": 500, "p": world.partition, "t": BEGUN, "status": 422, "code": "wrong_type", "lat": 1.0}
    world.new_engine().cycle(world.raws(records) + world.raws([refused], refusal_batches))
    exact, sketched = both(world)
    assert counts_of(exact) == counts_of(sketched)
    assert exact["totals"]["requests"] == 120
    assert exact["totals"]["rows"] == sum(len(r["rows"]) for r in records)
    assert exact["totals"]["consumers"] == 3
    assert exact["totals"]["user_errors"] == 1
    assert len(exact["buckets"]) == 3
    assert np.all(np.abs(latencies(sketched) / latencies(exact) - 1) <= np.sqrt(GROWTH) - 1 + 1e-3)
    known = np.sort([r["lat"] for r in records])
    assert exact["totals"]["latency_us"]["p99"] == known[int(0.99 * len(known))]
    part = {"start": BEGUN + MINUTE, "end": BEGUN + 9 * MINUTE}
    assert len({str(counts_of(answer)) for answer in both(world, **part)}) == 1


def test_a_window_within_a_minute_a_model_a_segment_and_the_past_are_asked_of_the_rows(world):
    world.new_engine().cycle(world.raws(traffic(world, 20)))
    for asked in ({"start": BEGUN + 1}, {"model_id": world.champion}, {"segment": "features_num['x'] > 0"}, {"as_of": BEGUN + 60 * MINUTE}):
        found = health_answer(world.front.reader, Window(world.name, **asked), sketched=True)
        assert not found["sketched"]
    assert health_answer(world.front.reader, Window(world.name, model_id=world.champion))["totals"]["requests"] == 20


def test_resent_regrouped_and_restarted_counts_once(world, trained):
    records = traffic(world, 30)
    engine = world.new_engine()
    engine.cycle(world.raws(records[:20]))
    engine.cycle(world.raws(records[:20]))
    world.new_engine().cycle(world.raws(records[10:]))
    exact, sketched = both(world)
    assert counts_of(exact) == counts_of(sketched)
    assert exact["totals"]["requests"] == 30
    assert verify(world.front.reader, trained[0], world.name)["parts"]["arrivals"]["equal"]


def test_a_request_id_that_a_client_repeats_is_a_request_each_time_and_a_request_in_pieces_is_one(world):
    first, second, third = traffic(world, 3)
    second["id"] = first["id"]
    third |= {"id": "in pieces"}
    rest = {**third, "s": 4, "r0": len(third["rows"])}
    world.new_engine().cycle(world.raws([first, second, third, rest]))
    exact, sketched = both(world)
    assert exact["totals"]["requests"] == sketched["totals"]["requests"] == 3
    assert health_answer(world.front.reader, Window(world.name, model_id=world.champion))["totals"]["requests"] == 3


@pytest.mark.parametrize("wrong", ["arrivals", "consumers"])
def test_verify_notices_a_count_and_a_consumer_that_the_rows_do_not_have(world, trained, wrong):
    world.new_engine().cycle(world.raws(traffic(world, 12)))
    proved = verify(world.front.reader, trained[0], world.name)
    assert proved["parts"]["arrivals"]["equal"]
    assert proved["parts"]["arrivals"]["rows"] > 12
    assert proved["parts"]["drift"]["equal"]
    log = world.front.writer
    if wrong == "arrivals":
        log.command(f"INSERT INTO drift_log SELECT * REPLACE (version + 1 AS version, arrayMap(c -> c + 1, sums) AS sums) FROM drift_log FINAL WHERE deployment = '{world.name}' AND baseline_id = '@arrivals' LIMIT 1")
    else:
        log.command(f"INSERT INTO consumers_log VALUES ('{world.name}', fromUnixTimestamp({BEGUN // 1_000_000}), 'nobody')")
    assert not verify(world.front.reader, trained[0], world.name)["parts"]["arrivals"]["equal"]


def test_a_log_of_before_is_counted_from_its_rows_when_a_worker_takes_it(world):
    records = traffic(world, 25)
    world.new_engine().cycle(world.raws(records[:15]))
    log = world.front.writer
    log.command(f"INSERT INTO drift_log SELECT * REPLACE (version + 1 AS version, '{{\"{world.journal}/{world.partition}\":[[1,15]]}}' AS position) FROM drift_log FINAL WHERE partition_id = {world.partition} AND deployment = ''")
    log.command(f"ALTER TABLE drift_log DELETE WHERE partition_id = {world.partition} AND baseline_id = '@arrivals'", {"mutations_sync": 2})
    assert DriftFold(world.partition, 4, log).lost
    world.new_engine().cycle(world.raws(records[10:]))
    exact, sketched = both(world)
    assert counts_of(exact) == counts_of(sketched)
    assert exact["totals"]["requests"] == 25


def test_predictions_over_time_are_the_rows_means(world):
    records = traffic(world, 40)
    world.new_engine().cycle(world.raws(records))
    window = Window(world.name, bucket=300)
    sql, found = predictions_over_time(world.front.reader, window, lambda model: {world.champion: world.package.baseline.unit}[model])
    assert "drift_counts" in sql
    of_rows = world.sql(f"SELECT {window.bucketed()} AS at, count() AS rows, avg(predicted_value) AS mean FROM predictions WHERE $d AND role = 'champion' GROUP BY at ORDER BY at")
    assert [(b["at"], b["rows"]) for b in found] == [(b["at"], b["rows"]) for b in of_rows]
    assert np.allclose([b["mean"] for b in found], [b["mean"] for b in of_rows], rtol=0, atol=1e-12)
    values = np.array([v for r in records for v in r["y"]])
    assert sum(b["rows"] * b["mean"] for b in found) == pytest.approx(values.sum(), abs=1e-9)


def test_a_prediction_past_what_can_be_added_is_asked_of_the_rows(world):
    records = traffic(world, 5)
    records[2]["y"] = [1e300] * len(records[2]["rows"])
    world.new_engine().cycle(world.raws(records))
    sql, found = predictions_over_time(world.front.reader, Window(world.name), lambda _: 1.0)
    assert "avg(predicted_value)" in sql
    assert max(b["mean"] for b in found) > 1e290


def test_bins_of_latency_hold_what_they_say():
    values = np.array([0.0, 9.9, 10.0, 10.3, 10.4, 1e8, 1e12])
    at = places(values)
    assert at.tolist()[:5] == [0, 0, 1, 1, 2]
    assert at[-1] == len(BOUNDS) - 1
    assert quantiles(np.zeros(5), (0.5,)) == [None]
    rng = np.random.default_rng(0)
    latency = np.round(rng.lognormal(7, 2, 10_000).clip(10), 1)
    counts = np.bincount(places(latency), minlength=len(BOUNDS))
    levels = (0.01, 0.5, 0.999)
    assert np.allclose(quantiles(counts, levels), np.sort(latency)[[int(q * len(latency)) for q in levels]], rtol=0.02)
