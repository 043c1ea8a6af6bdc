"""Segments become conditions, or say why not."""

import pytest

from stream.errors import Refused
from stream.segments import condition


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("", "1"),
        ("carrier=UA", "(mapContains(features_cat, 'carrier') AND features_cat['carrier'] = 'UA')"),
        ("distance>=1000", "(mapContains(features_num, 'distance') AND features_num['distance'] >= 1000.0)"),
        ("it's=a'b", r"(mapContains(features_cat, 'it\'s') AND features_cat['it\'s'] = 'a\'b')"),
        ("deployment_version=3", "deployment_version = 3"),
        ("sql:lower(consumer) = 'x)'", "(lower(consumer) = 'x)')"),
    ],
)
def test_a_segment_is_a_condition(text, sql):
    assert condition(text) == sql


@pytest.mark.parametrize("text", ["carrier", "=", "carrier>UA", "sql:", "sql:1) OR (1", "sql:1 -- x", "sql:'", "sql:1; DROP TABLE x", "sql:(1", "sql:`a", "a=1,,b=2"])
def test_what_is_no_segment_is_refused(text):
    with pytest.raises(Refused) as found:
        condition(text)
    assert found.value.code == "wrong_segment"


@pytest.mark.parametrize("text", ["sql:file('/etc/hostname') != ''", "sql:`file`('/etc/hostname') != ''", 'sql:"file" (consumer) != 1'])
def test_an_expression_reads_no_files(text):
    with pytest.raises(Refused):
        condition(text)
