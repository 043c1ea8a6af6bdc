"""Cohorts: the rows of a stretch of event time, once they are mature, as the log had them when a look found them so.

Mature is what has all its outcomes, or had its time: the 95 % label delay has passed on the outcomes' own clock, and what still
came since the look before is less than a hundredth of it. What the log had is said as its position, source by source. A time would
not do: rows that were recorded before it may still be on their way, and who reads again would read them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stream.association import literal
from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.events import CohortMatured
from stream.queries import SERVED, had_their_time, outcomes_known, position_of, recorded_by

SPAN = 86_400_000_000
TOGETHER = 100
STILL = 100  # less than one in so many came since the look before
NEXT = "SELECT toUnixTimestamp64Micro(min(occurred_at)) AS at, toUnixTimestamp64Micro(max(occurred_at)) AS last, count() AS n FROM predictions_log WHERE deployment = {d} AND role = 'champion' AND occurred_at >= fromUnixTimestamp64Micro({after})"
DAYS = "SELECT intDiv(toUnixTimestamp64Micro(occurred_at), {day}) AS day, count() AS n FROM {table} WHERE {rows} GROUP BY day ORDER BY day"
SOURCES = """SELECT DISTINCT source FROM predictions_log WHERE {rows}
UNION DISTINCT SELECT DISTINCT source FROM actuals_log WHERE deployment = {d} AND association_id IN (SELECT association_id FROM predictions_log WHERE {rows})"""
COLUMNS = "model_id, event_id, toUnixTimestamp64Micro(occurred_at) AS time, predicted_class, predicted_value, actual_value, actual_class"


def rows_of(deployment: str, cohort: CohortMatured) -> str:
    """The SELECT of a cohort's rows in their order, as they were known when it matured."""
    known = outcomes_known(deployment, known_to(cohort), f"role = 'champion' AND {SERVED} AND {between(cohort.start, cohort.end)}")
    return f"SELECT {COLUMNS} FROM {known} ORDER BY occurred_at, event_id"


def inputs_of(deployment: str, cohort: CohortMatured, name: str) -> str:
    """The SELECT of an input's values over a cohort, outcome or not, in their order, as they were known when it matured."""
    has = f"mapContains(features_num, {literal(name)}) AND isFinite(features_num[{literal(name)}])"
    return f"SELECT toUnixTimestamp64Micro(occurred_at) AS time, features_num[{literal(name)}] AS value FROM predictions WHERE {champion_rows(deployment, cohort.start, cohort.end)} AND {known_to(cohort)} AND {has} ORDER BY occurred_at, event_id"


def known_to(cohort: CohortMatured) -> str:
    """The condition on a row of predictions or actuals: the log had it when the cohort matured. Events of before say a record time."""
    return recorded_by(cohort.cut) if cohort.position is None else up_to(cohort.position)


def up_to(position: Mapping[str, int]) -> str:
    """The condition that a position has a row: of sources that it does not name, it has none.

    >>> up_to({"b": 2, "a": 1})
    "sequence <= transform(toString(source), ['a', 'b'], [toUInt64(1), toUInt64(2)], toUInt64(0))"
    >>> up_to({})
    '0'
    """
    if not position:
        return "0"
    sources, sequences = zip(*sorted(position.items()), strict=True)
    return f"sequence <= transform(toString(source), [{', '.join(map(literal, sources))}], [{', '.join(f'toUInt64({s})' for s in sequences)}], toUInt64(0))"


def between(start: int, end: int) -> str:
    """The condition that a row lies in a stretch of event time (microseconds)."""
    return f"occurred_at >= fromUnixTimestamp64Micro({start}) AND occurred_at < fromUnixTimestamp64Micro({end})"


def champion_rows(deployment: str, start: int, end: int) -> str:
    """The condition on the champion's rows of a stretch of event time."""
    return f"deployment = {literal(deployment)} AND role = 'champion' AND {between(start, end)}"


class Maturing:
    """Looks at a deployment's stretches of event time. It remembers what the last look has counted; one that does not looks once more."""

    def __init__(self, log: EventLog, deployment: str) -> None:
        """Begin without a look before."""
        self._log, self._deployment = log, deployment
        self._matched: dict[int, int] = {}  # outcomes by day, at the look before

    def look(self, after: int) -> list[CohortMatured]:
        """The oldest cohorts beyond `after` (microseconds) that are mature by now, in their order; none passes one that is not."""
        d = literal(self._deployment)
        newest = self._log.rows(NEXT.format(d=d, after=after))[0]
        if not int(newest["n"]):
            return []
        end = (max(int(newest["at"]), after) // SPAN + 1) * SPAN
        if int(newest["last"]) < end:
            return []  # the first stretch of time is not over
        passed = had_their_time(self._log, self._deployment)
        if not mature(self._counts(after, end), passed):
            return []
        counts = self._counts(after, min(end + (TOGETHER - 1) * SPAN, int(newest["last"]) // SPAN * SPAN))
        before, self._matched = self._matched, {day: matched for day, (_, matched) in counts.items()}
        still = {day: (rows, matched) for day, (rows, matched) in counts.items() if matched == rows or (day in before and (matched - before[day]) * STILL < rows)}
        found = mature({day: still.get(day) for day in counts}, passed)
        return self.cohorts(after, found[-1] + 1, passed) if found else []

    def cohorts(self, after: int, until_day: int, passed: int) -> list[CohortMatured]:
        """The mature cohorts from `after` up to a day, counted as the log's position has them."""
        until, position = until_day * SPAN, self._position(after, until_day * SPAN)
        counts = self._counts(after, until, up_to(position))
        cut, end, found = now_us(), after, []
        for day in mature(counts, passed):
            found.append(CohortMatured(max(day * SPAN, after), (day + 1) * SPAN, cut, *counts[day], end, position))
            end = found[-1].end
        return found

    def _position(self, start: int, end: int) -> dict[str, int]:
        """How far the log is with the sources of a stretch's rows and of their actuals."""
        position = position_of(self._log)
        asked = SOURCES.format(d=literal(self._deployment), rows=champion_rows(self._deployment, start, end))
        return {source: position[source] for row in self._log.rows(asked) if (source := row["source"]) in position}

    def _counts(self, start: int, end: int, known: str = "") -> dict[int, tuple[int, int]]:
        """Rows and outcomes by day of event time; of all that the log has now, or as it was known."""
        rows = champion_rows(self._deployment, start, end)
        tables = ("predictions", "outcomes") if not known else (f"(SELECT * FROM predictions WHERE {known})", outcomes_known(self._deployment, known, rows))
        whole, matched = ({int(row["day"]): int(row["n"]) for row in self._log.rows(DAYS.format(day=SPAN, table=table, rows=rows))} for table in tables)
        return {day: (n, matched.get(day, 0)) for day, n in whole.items()}


def mature(counts: Mapping[int, tuple[int, int] | None], passed: int) -> list[int]:
    """The days up to the first that is not mature: neither all of its rows have their outcome, nor has it had its time.

    >>> mature({1: (5, 5), 2: (5, 4), 3: (5, 5), 4: (5, 4), 5: (5, 5)}, 3 * SPAN)
    [1, 2, 3]
    """
    found = []
    for day, count in sorted(counts.items()):
        if count is None or (count[1] < count[0] and passed < (day + 1) * SPAN):
            break
        found.append(day)
    return found


def read_together(cohorts: list[CohortMatured]) -> list[CohortMatured]:
    """The first of some cohorts, as many as matured at one look."""
    return [cohort for cohort in cohorts[:TOGETHER] if cohort.cut == cohorts[0].cut]


def as_one(cohorts: list[CohortMatured]) -> CohortMatured:
    """Cohorts that matured at one look as one."""
    return replace(cohorts[0], end=cohorts[-1].end)
