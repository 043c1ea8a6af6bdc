"""What the command line shows is what there is."""

import pytest

from gateway.commands.common import show


@pytest.mark.parametrize("text", ["['a', 'b'], [toUInt64(1)], 0", "[/b] closes nothing", "[bold]loud[/bold]", ":smile: 12:00:30"])
def test_a_cell_is_shown_as_it_is(text, capsys):
    show([{"name": text}, {"name": [text]}], as_json=False, title=text, columns=["name"])
    assert capsys.readouterr().out.count(text) == 3
