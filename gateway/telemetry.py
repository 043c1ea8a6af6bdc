"""Timings and counters: kept as plain numbers on the hot path, written as Prometheus text on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

STEPS = ("decode", "encode", "score", "answer", "journal")
EDGES = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000)


class Telemetry:
    """What a gateway process counts."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.requests: Counter[tuple[str, int]] = Counter()
        self.rows: Counter[str] = Counter()
        self.unrecorded: Counter[str] = Counter()
        self.actuals: Counter[tuple[str, str]] = Counter()
        self.steps = dict.fromkeys(STEPS, 0)
        self.buckets = [0] * (len(EDGES) + 1)
        self.total_us = 0.0
        self.gauges: dict[str, Any] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def observe(self, times: tuple[int, ...]) -> None:
        """A prediction request's clock readings in nanoseconds: begin, then the end of each step."""
        begun, decoded, encoded, scored, answered, journalled = times
        steps = self.steps
        steps["decode"] += decoded - begun
        steps["encode"] += encoded - decoded
        steps["score"] += scored - encoded
        steps["answer"] += answered - scored
        steps["journal"] += journalled - answered
        took = (journalled - begun) / 1000
        self.total_us += took
        self.buckets[bisect_left(EDGES, took)] += 1

    def collect(self) -> Any:
        """The Prometheus families."""
        requests = CounterMetricFamily("champion_requests", "prediction requests by deployment and status", labels=["deployment", "status"])
        for (deployment, status), count in self.requests.items():
            requests.add_metric([deployment, str(status)], count)
        yield requests
        rows = CounterMetricFamily("champion_rows", "rows scored by deployment", labels=["deployment"])
        for deployment, count in self.rows.items():
            rows.add_metric([deployment], count)
        yield rows
        unrecorded = CounterMetricFamily("champion_unrecorded_rows", "rows answered but not recorded", labels=["deployment"])
        for deployment, count in self.unrecorded.items():
            unrecorded.add_metric([deployment], count)
        yield unrecorded
        actuals = CounterMetricFamily("champion_actuals", "actuals received by HTTP", labels=["deployment", "result"])
        for (deployment, result), count in self.actuals.items():
            actuals.add_metric([deployment, result], count)
        yield actuals
        steps = CounterMetricFamily("champion_step_seconds", "time of prediction requests by step", labels=["step"])
        for step, nanoseconds in self.steps.items():
            steps.add_metric([step], nanoseconds / 1e9)
        yield steps
        total, cumulative = 0, []
        for edge, count in zip([*(str(e / 1e6) for e in EDGES), "+Inf"], self.buckets, strict=True):
            total += count
            cumulative.append((edge, total))
        yield HistogramMetricFamily("champion_request_seconds", "time of prediction requests", buckets=cumulative, sum_value=self.total_us / 1e6)
        for name, read in self.gauges.items():
            yield GaugeMetricFamily(f"champion_{name}", name.replace("_", " "), value=read())

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
