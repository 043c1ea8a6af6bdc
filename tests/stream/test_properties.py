"""Any order, any duplication, any split: equal state. Any bytes: a typed refusal."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.values import loggable
from stream import events
from stream.batches import decode, prediction_batches
from stream.clock import iso, parse_time
from stream.engine import split
from stream.errors import Malformed
from stream.journal import Journal, read
from stream.position import Ranges, position_text, read_position
from stream.queries import BUCKETS, Window
from stream.rows import columns_of_maps, merge, number_map, text_map

names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)
values = st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False, width=32), names)
rows = st.lists(st.dictionaries(names, values, max_size=5), min_size=1, max_size=6)
slow = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=40), st.randoms())
def test_ranges_hold_exactly_what_was_added_in_any_order(pairs, rng):
    one, other = Ranges(), Ranges()
    for first, more in pairs:
        one.add(first, first + more)
    again = pairs + pairs[::2]
    rng.shuffle(again)
    for first, more in again:
        other.add(first, first + more)
    held = {k for first, more in pairs for k in range(first, first + more + 1)}
    assert one.ranges == other.ranges
    assert {k for k in range(75) if k in one} == held
    assert one.count == len(held)
    assert one.contiguous == next(k - 1 for k in range(1, 99) if k not in held)


@given(st.dictionaries(st.text("abc:/-_0", min_size=1), st.integers(0, 2**60)))
def test_a_position_survives_its_text(position):
    assert read_position(position_text(position)) == position


@given(st.lists(rows, min_size=1, max_size=4), st.booleans(), st.data())
def test_features_survive_the_journal_the_message_and_the_maps(requests, alike, data):
    records, wanted = [], []
    for k, asked in enumerate(requests):
        kept = [{name: loggable(v) for name, v in row.items()} for row in asked]
        if alike:
            names = list(dict.fromkeys(name for row in kept for name in row))
            kept = [{name: row.get(name) for name in names} for row in kept]
        n = len(kept)
        wanted += kept
        held = {"cols": {name: [row[name] for row in kept] for name in kept[0]}} if alike and n and kept[0] else {"rows": kept}
        records.append({"k": "p", "d": "d", "v": 1, "m": "m", "id": f"r{k}", "s": k + 1, "p": 0, "t": 10 + k, "ts": None, "a": ["a"] * n, **held, "y": [0.5] * n, "k1": ["x"] * n, "q": [[0.5, 0.5]] * n, "lat": 1.0})
    batches = [decode(m) for m in prediction_batches(records, "j")]
    table = merge(batches)
    maps = pa.table({"features_num": number_map(table), "features_cat": text_map(table)})
    back = columns_of_maps(maps)
    cut = data.draw(st.integers(0, maps.num_rows))
    for part, start in ((maps.slice(0, cut), 0), (maps.slice(cut), cut)):
        for name, values in columns_of_maps(part).items():
            assert values.equals(back[name].slice(start, part.num_rows)), name
    for place, row in enumerate(wanted):
        for name, value in row.items():
            number, text = (back[kind + name][place].as_py() if kind + name in back else None for kind in ("n:", "c:"))
            if isinstance(value, str):
                assert (number, text) == (None, value)
            elif value is None:
                assert (number, text) == (None, None)
            else:
                assert (number, text) == (float(value), None)


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40)), min_size=1, max_size=25), st.data())
def test_a_journal_that_was_torn_anywhere_gives_a_prefix_without_gaps(records, data):
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), most=1 << 20, segment=400)
        for partition, body in records:
            journal.append(partition, {"body": body.hex()}, 5)
        newest = max(journal.folder.glob("*.seg"))
        whole = newest.read_bytes()
        newest.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        found = [(r["p"], r["s"], r["body"]) for r in read(journal.folder, {})]
        expected, seen = [], {}
        for partition, body in records:
            seen[partition] = seen.get(partition, 0) + 1
            expected.append((partition, seen[partition], body.hex()))
        assert found == expected[: len(found)]
        journal.close()


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_malformed_and_nothing_else(data):
    for read_one in (decode, events.decode):
        with pytest.raises(Malformed):
            read_one(data)


@given(st.integers(0, 4_259_999_999_999_999))
def test_a_time_survives_its_text_to_the_microsecond_where_a_double_can(micros):
    assert abs(parse_time(iso(micros)) - micros) <= 1


@given(st.integers(0, 4_000_000_000), st.sampled_from(sorted(BUCKETS)))
def test_a_moment_lies_in_exactly_one_bucket(second, bucket):
    size = BUCKETS[bucket]
    at = second // size * size
    assert at <= second < at + size
    assert str(size * 1_000_000) in Window("d", bucket=size).bucketed()


@slow
@given(st.randoms(use_true_random=False))
def test_any_split_order_and_duplication_over_workers_gives_the_same_state(world, rng):
    seed = rng.randrange(10**6)
    world.name, world.journal = world.name.split("~")[0], f"{seed:016d}"
    catalog = world.new_engine()._follower.catalog
    fresh = f"{world.name}~{seed}"
    catalog.deployments[fresh] = catalog.deployments[world.name]
    world.name, world.partition = fresh, rng.randrange(10**6, 10**9)
    records = world.requests(10, rows_each=2, seed=seed)
    facts = [(f"a{rng.randrange(12)}-{rng.randrange(2)}", rng.choice(["true", "false", None]), rng.choice([None, 1_760_000_000_000_000 + rng.randrange(99)]), f"f{k}") for k in range(12)]
    messages = [part for raw in world.raws(records) + world.actuals(facts, 100) for part in split(raw)]
    messages += rng.sample(messages, len(messages) // 2)
    rng.shuffle(messages)
    engines = [world.new_engine() for _ in range(3)]
    while messages:
        count = rng.randrange(1, 6)
        engine = rng.choice(engines)
        engine.forget()  # a partition that is handed on is read from the log again
        engine.cycle(messages[:count])
        del messages[:count]
    assert np.array_equal(world.counts(), world.expected_counts(records))
    latest = {}
    for k, (association, actual, at, identity) in enumerate(facts):
        received = 1_760_000_000_000_000 + 10**9 + 100 + k
        latest[association] = max(latest.get(association, (-1,)), (at or received, received, identity, actual), key=lambda f: f[:3])
    asked = {f"a{k}-{j}" for k in range(10) for j in range(2)}
    expected = {(a, f[3]) for a, f in latest.items() if f[3] is not None and a in asked}
    found = world.sql("SELECT association_id, actual_class FROM outcomes WHERE $d AND role = 'champion'")
    assert {(r["association_id"], r["actual_class"]) for r in found} == expected
    assert len(found) == len(expected)


