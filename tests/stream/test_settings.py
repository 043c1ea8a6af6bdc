"""Unknown and ill-typed settings stop the start with a hint."""

import pytest

from stream.errors import SettingsError
from stream.settings import TABLE, read_settings


def test_without_variables_everything_is_embedded():
    found = read_settings({})
    assert found.embedded_broker
    assert found.embedded_eventlog
    assert (found.host, found.port, found.journal_max) == ("127.0.0.1", 8080, 4 << 30)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("CHAMPION_PROT", "1", "did you mean CHAMPION_PORT"),
        ("CHAMPION_PORT", "tcp://10.0.0.1:80", "enableServiceLinks"),
        ("CHAMPION_SERVICE_HOST", "10.0.0.1", "enableServiceLinks"),
        ("CHAMPION_PORT", "80000", "cannot be read"),
        ("CHAMPION_DURABILITY", "maybe", "cannot be read"),
        ("CHAMPION_JOURNAL_MAX", "4 apples", "cannot be read"),
    ],
)
def test_a_wrong_setting_says_what_was_meant(name, value, hint):
    with pytest.raises(SettingsError, match=hint):
        read_settings({name: value})


def test_every_setting_is_in_the_documentation():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert not [s.name for s in TABLE if f"`{s.name}`" not in text]
