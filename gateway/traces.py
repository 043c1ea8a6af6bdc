"""Traces of prediction requests for OpenTelemetry, where the caller's own trace asks for them.

A request with a sampled `traceparent` (https://www.w3.org/TR/trace-context/) becomes a span with one child a step, sent by
OTLP over HTTP. Needs the extra `traces`; without an address nothing of it is imported and nothing is measured twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.telemetry import STEPS
from stream.errors import SettingsError


class Traces:
    """Makes spans out of clock readings."""

    def __init__(self, url: str) -> None:
        """Send to an OTLP/HTTP address (…/v1/traces)."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise SettingsError("CHAMPION_TRACES_URL needs OpenTelemetry: install the extra `traces`") from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": "champion-gateway"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("champion")
        self._propagator = TraceContextTextMapPropagator()

    def note(self, headers: Mapping[str, str], name: str, begun: int, marks: Sequence[int], told: dict[str, Any]) -> None:
        """A request that began at a clock reading (ns), with the ends of its steps as far as it came; what its caller does not sample is dropped."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span, set_span_in_context

        context = self._propagator.extract(dict(headers))
        if not get_current_span(context).get_span_context().trace_flags.sampled:
            return
        offset = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(f"predict {name}", context, kind=SpanKind.SERVER, attributes=told, start_time=begun + offset)
        if told["http.response.status_code"] >= 500:  # noqa: PLR2004
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span)
        for step, start, end in zip(STEPS, [begun, *marks], marks, strict=False):
            self._tracer.start_span(step, inside, start_time=start + offset).end(end + offset)
        span.end(time.time_ns())

    def close(self) -> None:
        """Send what is held."""
        self._provider.shutdown()
