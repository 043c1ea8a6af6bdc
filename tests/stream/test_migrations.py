"""The tables' statements fit the engine, on one node and on a cluster."""

import re

import pytest

from stream.migrations import migrations, on_cluster

STATEMENTS = on_cluster("main")


@pytest.mark.parametrize("statement", STATEMENTS, ids=[re.sub(r"\s+", " ", s)[:60] for s in STATEMENTS])
def test_the_engine_can_read_a_clusters_statement(front, statement):
    read = front.reader.rows("SELECT formatQuery({q:String}) AS q", {"q": statement})[0]["q"]
    assert "ON CLUSTER main" in read.replace("'", "").replace("`", "")


def test_a_cluster_has_every_table_and_view_of_one_node():
    names = {m[1] for _, ss in migrations() for s in ss if (m := re.match(r"CREATE .*?(?:TABLE|VIEW) (?:IF NOT EXISTS )?(\w+)", s))}
    made = {m[1] for s in STATEMENTS if (m := re.match(r"CREATE .*?(?:TABLE|VIEW) (?:IF NOT EXISTS )?champion\.(\w+)", s))}
    assert names <= made
    assert {n for n in made - names if not n.endswith("_local")} == set()


def test_rows_are_sharded_by_deployment_and_every_replica_has_a_path():
    assert sum("sipHash64(deployment)" in s for s in STATEMENTS) == 8
    assert all("'/clickhouse/tables/" in s for s in STATEMENTS if "ReplacingMergeTree" in s)
