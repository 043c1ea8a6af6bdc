"""Ranges hold what was added, in whatever order and however often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.position import Ranges, position_text, read_position

pairs = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1])), max_size=20)


@given(pairs)
def test_ranges_equal_a_set_of_numbers(added):
    ranges, numbers = Ranges(), set()
    for first, last in added:
        ranges.add(first, last)
        numbers |= set(range(first, last + 1))
    assert [n for n in range(80) if n in ranges] == sorted(numbers)
    assert ranges.count == len(numbers)
    contiguous = 0
    while contiguous + 1 in numbers:
        contiguous += 1
    assert ranges.contiguous == contiguous
    assert all(b + 1 < c for (_, b), (c, _) in zip(ranges.ranges, ranges.ranges[1:], strict=False))


@given(pairs, st.randoms())
def test_order_and_repetition_do_not_matter(added, chance):
    one, two = Ranges(), Ranges()
    for pair in added:
        one.add(*pair)
    shuffled = added * 2
    chance.shuffle(shuffled)
    for pair in shuffled:
        two.add(*pair)
    assert one.ranges == two.ranges


@given(st.dictionaries(st.text("abc:/-", min_size=1, max_size=12), st.integers(0, 10**9)))
def test_a_position_survives_its_text(position):
    assert read_position(position_text(position)) == position


def test_what_is_no_position_is_refused():
    with pytest.raises(ValueError, match="position|invalid"):
        read_position("nonsense")
