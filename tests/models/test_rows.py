"""The one caster: what a row may hold, and what is said of it."""

import math
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import compiled
from models.columns import Columns
from models.errors import DataError
from models.schema import TOGETHER, Feature, Schema, Target, schema_from_json
from models.table import read_table
from models.types import label_text
from tests.support import from_rows

SCHEMA = Schema(Target("y", "binary", ("0", "1"), "1"), (Feature("n", "numeric"), Feature("c", "categorical", ("a", "b")), Feature("b", "boolean")), ("id",))


def test_numbers_categories_and_booleans_become_base_values():
    found = SCHEMA.encode_rows([{"n": 1.5, "c": "b", "b": True}, {"n": "2", "c": "a", "b": "no"}])
    assert found.matrix.tolist() == [[1.5, 1.0, 1.0], [2.0, 0.0, 0.0]]
    assert not found.errors
    assert not found.warnings


@pytest.mark.parametrize("row", [{}, {"n": None, "c": None, "b": None}, {"n": math.nan, "c": None, "b": ""}])
def test_missing_values_are_scored_as_missing_and_told(row):
    found = SCHEMA.encode_rows([row])
    assert np.isnan(found.matrix).all()
    assert found.warnings[0] == ["missing_feature: n", "missing_feature: c", "missing_feature: b"]


def test_an_unseen_category_has_a_code_of_its_own():
    found = SCHEMA.encode_rows([{"n": 1, "c": "zzz", "b": False}])
    assert found.matrix[0, 1] == 2.0
    assert found.warnings[0] == ["unseen_category: c"]


def test_an_unknown_feature_is_logged_and_told_and_with_strict_refused():
    row = {"n": 1, "c": "a", "b": True, "id": 7, "new": [1, 2]}
    loose, strict = SCHEMA.encode_rows([row]), SCHEMA.encode_rows([row], strict=True)
    assert loose.warnings[0] == ["unknown_feature: new"]
    assert loose.logged[0]["new"] == "[1, 2]"
    assert loose.logged[0]["id"] == 7
    assert "unknown_feature" in strict.errors[0]


@pytest.mark.parametrize("row", [{"n": "abc"}, {"n": [1]}, {"n": math.inf}, {"n": 10**400}, {"c": ["a"]}, {"b": "perhaps"}, "text", 7, None])
def test_a_wrong_type_spoils_its_own_row_only(row):
    found = SCHEMA.encode_rows([{"n": 1, "c": "a", "b": True}, row])
    assert list(found.errors) == [1]
    assert found.errors[1].startswith("wrong_type")
    assert found.matrix[0].tolist() == [1.0, 0.0, 1.0]


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.sampled_from(["a", "b", "zzz", "", "2.5", "no", 10**400, 10**300, [1]]))
PLAIN = st.fixed_dictionaries({"n": st.one_of(st.none(), st.integers(-9, 9), st.floats(-1e9, 1e9)), "c": st.sampled_from(["a", "b", "new", None]), "b": st.sampled_from([True, False, None]), "id": st.integers(0, 99)})
NUMBER = st.integers(-9, 9) | st.integers(2**53, 2**60) | st.floats(-1e9, 1e9) | st.sampled_from([1e300, -1e300, -0.0])
SIMPLE = st.fixed_dictionaries({"n": NUMBER, "c": st.sampled_from(["a", "b"]) | st.sampled_from(["new", None, "b"]), "b": st.integers(0, 1) | st.none()}, optional={"id": st.integers(0, 9) | st.text(max_size=3), "y": st.sampled_from(["0", None, 1.5])})
ROWS = st.one_of(PLAIN, PLAIN, SIMPLE, st.dictionaries(st.sampled_from(["n", "c", "b", "id", "y", "other"]), VALUES), st.just("text"))


def written(rows):
    """Rows to compare: NaN is not itself, and 1, 1.0 and True are not the same."""
    return [sorted(map(repr, row.items())) for row in rows]


@pytest.mark.parametrize("form", ["c", "python"])
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])  # rows take long to draw on a slow machine
@given(rows=st.one_of(st.lists(PLAIN, min_size=1, max_size=20), st.lists(SIMPLE, min_size=1, max_size=20), st.lists(ROWS, min_size=1, max_size=20)), strict=st.booleans())
def test_rows_read_together_are_read_as_one_by_one(form, rows, strict):
    if form == "c" and not compiled.BUILT:
        pytest.skip("no C compiler was found when Champion was installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "BUILT", form == "c")
        together = SCHEMA.encode_rows(rows, strict=strict)
    each = SCHEMA.encode_each(rows, strict=strict)
    assert np.array_equal(together.matrix, each.matrix, equal_nan=True)
    assert (together.warnings, together.errors) == (each.warnings, each.errors)
    assert written(together.logged) == written(each.logged)
    if together.columns is not None:
        assert journalled(SCHEMA, together) == [{name: float(v) if type(v) is int and name in SCHEMA.numeric else v for name, v in row.items() if v is not None} for row in each.logged]


def journalled(schema, encoded):
    """The rows as the journal has them: numeric inputs out of the matrix, the others beside it; what is missing is left out."""
    columns = {**encoded.columns, **dict(zip(schema.numeric, schema.numbers(encoded.matrix).T.tolist(), strict=True))}
    return [{name: v for name, v in zip(columns, row, strict=True) if v is not None and v == v} for row in zip(*columns.values(), strict=True)]  # noqa: PLR0124 - NaN


NUMBERS = Schema(Target("y", "binary", ("0", "1"), "1"), (Feature("n", "numeric"), Feature("m", "numeric")), ("id",))
SOME = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, math.inf, -math.inf, 1e301, -0.0]))


@settings(max_examples=300)
@given(data=st.data(), count=st.integers(1, 20), unused=st.booleans(), arrays=st.booleans())
def test_columns_are_read_as_the_rows_that_they_make(data, count, unused, arrays):
    def column(values, kind):
        found = data.draw(st.lists(values, min_size=count, max_size=count))
        return np.array(found, dtype=float) if kind and arrays else found

    numbers = SOME if arrays else st.one_of(st.none(), st.integers(-9, 9), st.floats(-1e9, 1e9))
    by_name = {"n": column(numbers, True), "c": column(st.sampled_from(["a", "b", "new", None]), False), "b": column(st.sampled_from([True, False, None]), False)}
    if unused:
        by_name["id"] = column(numbers, True)
    columns = Columns(by_name, count)
    found, each = SCHEMA.encode_rows(columns), SCHEMA.encode_each(list(columns))
    assert np.array_equal(found.matrix, each.matrix, equal_nan=True)
    assert (found.warnings, found.errors, found.wrong) == (each.warnings, each.errors, each.wrong)
    assert written(found.logged) == written(each.logged)
    assert written(columns[1:]) == written(list(columns)[1:])


@settings(max_examples=200)
@given(values=st.lists(st.tuples(SOME, SOME), min_size=1, max_size=20))
def test_a_tensor_of_all_numbers_is_read_as_the_rows_that_it_makes(values):
    matrix = np.array(values)
    columns = Columns(NUMBERS.names, len(matrix), matrix)
    found, each = NUMBERS.encode_rows(columns), NUMBERS.encode_each(list(columns))
    assert np.array_equal(found.matrix, each.matrix, equal_nan=True)
    assert (found.warnings, found.errors, found.wrong) == (each.warnings, each.errors, each.wrong)
    assert written(found.logged) == written(each.logged)
    assert written(columns[1:]) == written(list(columns)[1:])
    if found.columns is not None:
        assert written(journalled(NUMBERS, found)) == written([{name: v for name, v in row.items() if v is not None} for row in each.logged])


@pytest.mark.skipif(not compiled.BUILT, reason="no C compiler was found when Champion was installed")
def test_the_form_in_c_reads_plain_rows_and_no_others():
    class Text(str):
        __slots__ = ()

    class Mapping(dict):
        pass

    names, tables, matrix = ("n", "c"), (None, {"a": 0.0, "b": 1.0}), np.zeros((1, 2))
    for row, odd, values in [({"n": 2, "c": "b"}, 0, [2.0, 1.0]), ({"c": "new", "n": None, "more": 1}, 2, [math.nan, 2.0]), ({"n": 2**70 + 1, "c": None}, 1, [float(2**70 + 1), math.nan])]:
        assert compiled.read(names, tables, [row], matrix) == odd
        assert np.array_equal(matrix[0], values, equal_nan=True)
    for value in (True, "1", math.nan, math.inf, -1.1e300, 10**400, 10**301, np.float64(1.0), [1], {}):
        assert compiled.read(names, tables, [{"n": value, "c": "a"}], matrix) is None
    for row in ({"n": 1.0, "c": 1}, {"n": 1.0, "c": Text("a")}, {"n": 1.0}, {}, [1.0, "a"], "n", None, Mapping(n=1.0, c="a")):
        assert compiled.read(names, tables, [row], matrix) is None
    for arguments in [(names, tables[:1], [{}], matrix), (names, tables, [{}, {}], matrix), (names, tables, [{}], matrix[:, :1]), (names, tables, ({},), matrix), (list(names), tables, [{}], matrix), (names, tables, [{}], b"0" * 16), (names,)]:
        with pytest.raises((ValueError, TypeError, BufferError)):
            compiled.read(*arguments)
    assert compiled.read((), (), [{}], np.zeros((1, 0))) == 0


def test_the_forms_in_c_are_there_where_a_compiler_is():
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    if not shutil.which("cc") or not headers.exists():
        pytest.skip("no C compiler or no headers of Python here")
    assert compiled.BUILT


def test_plain_rows_are_read_together():
    rows = [{"n": k, "c": "a", "b": None, "id": "x"} for k in range(TOGETHER)]
    assert SCHEMA.encode_rows(rows).columns is not None
    assert SCHEMA.encode_rows([*rows, {"n": 1}]).columns is None


def test_rows_and_columns_give_the_same_matrix():
    rows = [{"n": 1.5, "c": "b", "b": True}, {"n": None, "c": "new", "b": None}]
    columns = {"n": pa.array([1.5, None]), "c": pa.array(["b", "new"]), "b": pa.array([True, None])}
    assert np.array_equal(SCHEMA.encode_rows(rows).matrix, SCHEMA.encode_columns(columns), equal_nan=True)


def test_a_schema_survives_json():
    assert schema_from_json(SCHEMA.to_json()) == SCHEMA


@pytest.mark.parametrize(("values", "label"), [((1, 1.0, "1", "1.0", np.float64(1)), "1"), ((True, "true", "True"), "true"), (("late ", "late"), "late")])
def test_labels_have_one_spelling(values, label):
    assert {label_text(v) for v in values} == {label}


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "empty_file"), (b"a,b\n", "empty_file"), (b"a,a\n1,2\n", "duplicate_columns"), (b"PAR1nonsense", "unreadable_file"), (b"a,b\n1\n1,2,3\n", "unreadable_file")],
)
def test_a_file_that_cannot_be_used_says_why(data, code):
    with pytest.raises(DataError) as found:
        read_table(data)
    assert found.value.code == code


def test_mixed_types_in_rows_become_text():
    assert from_rows([{"a": 1}, {"a": "x"}]).texts("a").tolist() == ["1", "x"]


@pytest.mark.parametrize(
    ("spelt", "first"),
    [
        (["2012/01/31", "2012/02/01"], "2012-01-31"),
        (["2012-01-31", "2012-02-01"], "2012-01-31"),
        (["2012-01-31T10:00:00Z", "2012-02-01T11:00:00+01:00"], "2012-01-31 10:00"),
        (["31.01.2012 10:00", "01.02.2012 10:00"], "2012-01-31 10:00"),
        (["01/31/2012", "02/01/2012"], "2012-01-31"),
        (["31/01/2012", "01/02/2012"], "2012-01-31"),
        (["01/02/2012", "03/04/2012"], None),  # January the 2nd or February the 1st
        (["2012/01/31", "Oslo"], None),
        (["20120131", "20120201"], None),
    ],
)
def test_dates_are_known_in_their_common_spellings(spelt, first):
    table = read_table(("day,y\n" + "\n".join(f'"{d}",1' for d in [*spelt, ""])).encode())
    assert table.is_date("day") is (first is not None)
    if first:
        assert str(table.arrow.column("day")[0].as_py()).startswith(first)


def test_a_late_text_makes_a_column_of_dates_a_column_of_texts():
    table = read_table(("day,y\n" + "\n".join(["2012/01/31,1"] * 80 + ["unknown,1"])).encode())
    assert not table.is_date("day")
