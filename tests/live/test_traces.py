"""A caller's trace goes on in the gateway: spans with the caller's ids reach an OTLP receiver."""

import http.server
import json
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.telemetry import STEPS
from tests.live.wire import call, until
from tests.support import deploy_small, start_system, stop

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PATH = "/v1/deployments/d/predictions"


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans as a collector would."""

    spans = []

    def do_POST(self):
        found = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        Collector.spans += [s for r in found.resource_spans for scope in r.scope_spans for s in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("traced")
    system = start_system(folder, CHAMPION_TRACES_URL=f"http://127.0.0.1:{server.server_address[1]}/v1/traces", OTEL_BSP_SCHEDULE_DELAY="200")
    deploy_small(system, folder, shadows=())
    yield system
    stop(system.process)
    server.shutdown()
    server.server_close()


def plain(value):
    return getattr(value, value.WhichOneof("value"))


def test_a_sampled_request_is_a_span_with_a_child_a_step_and_an_unsampled_one_is_none(traced):
    body = json.dumps({"rows": [{"x": 1.0, "z": 0.5}, {"x": 2.0, "z": 0.1}]}).encode()
    call(traced, "POST", PATH, body, headers={"traceparent": f"00-{TRACE}-{PARENT}-00", "X-Request-ID": "quiet"})
    before = time.time_ns()
    assert call(traced, "POST", PATH, body, headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "told"})[0] == 200
    after = time.time_ns()
    until(lambda: len(Collector.spans) == 1 + len(STEPS))
    whole = next(s for s in Collector.spans if s.name == "predict d")
    steps = sorted((s for s in Collector.spans if s is not whole), key=lambda s: s.start_time_unix_nano)
    told = {a.key: plain(a.value) for a in whole.attributes}
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    assert (told["champion.request_id"], told["champion.rows"], told["http.response.status_code"]) == ("told", 2, 200)
    assert [s.name for s in steps] == list(STEPS)
    assert {s.parent_span_id for s in steps} == {whole.span_id}
    assert all(a.end_time_unix_nano == b.start_time_unix_nano for a, b in zip(steps, steps[1:], strict=False))
    assert before <= whole.start_time_unix_nano == steps[0].start_time_unix_nano
    assert steps[-1].end_time_unix_nano <= whole.end_time_unix_nano <= after


def test_a_refused_request_is_a_span_that_says_why(traced):
    known = len(Collector.spans)
    assert call(traced, "POST", PATH, b'{"rows": []}', headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})[0] == 422
    until(lambda: len(Collector.spans) > known)
    told = {a.key: plain(a.value) for a in Collector.spans[known].attributes}
    assert (told["http.response.status_code"], told["error.type"]) == (422, "no_rows")
