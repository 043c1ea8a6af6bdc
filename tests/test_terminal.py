"""What the command line shows is what there is."""

import pytest

from gateway.commands import common
from gateway.commands.common import show, spark
from gateway.commands.monitoring import rule_line


@pytest.mark.parametrize("text", ["['a', 'b'], [toUInt64(1)], 0", "[/b] closes nothing", "[bold]loud[/bold]", ":smile: 12:00:30"])
def test_a_cell_is_shown_as_it_is(text, capsys):
    show([{"name": text}, {"name": [text]}], as_json=False, title=text, columns=["name"])
    assert capsys.readouterr().out.count(text) == 3


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(common.out, "_width", 40)


@pytest.mark.usefixtures("narrow")
def test_a_value_is_whole_or_its_column_is_named_as_having_no_room(capsys):
    show([{"metric": "balanced_accuracy", "value": 0.000123456, "interval": [-0.0123456, 0.0234567], "over_time": "▁▂▃"}], as_json=False)
    said = capsys.readouterr().out
    assert "balanced_accuracy" in said
    assert "0.0001235" in said
    assert "no room for: interval, over time" in said
    assert all(len(line) <= 40 for line in said.splitlines() if not line.startswith("no room"))


@pytest.mark.usefixtures("narrow")
def test_a_line_over_time_has_as_many_blocks_as_there_is_room_for():
    assert spark([0.0] * 400 + [7.0] * 400) == "▁▁▁▁████"


def test_a_rule_of_which_a_metric_is_not_defined_is_told_all_the_same():
    said = {"rule": "x", "rows": 3, "silent_rows": 2, "metrics": {"roc_auc": {"rule": None, "served": None, "difference": None}}}
    assert rule_line(said, "roc_auc") == "present rule x: on 3 rows; of 2 it says nothing"
