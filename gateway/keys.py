"""Typed keys of what an application carries."""

from aiohttp import web

from gateway.admission import Admission
from gateway.auth import KeyStore
from gateway.serving import Serving
from gateway.telemetry import Telemetry
from gateway.traces import Traces
from models.registry import Artifacts, Registry
from stream.broker import Producer
from stream.clickhouse import EventLog
from stream.control import Follower
from stream.outbox import Outbox
from stream.settings import Settings

SETTINGS = web.AppKey("settings", Settings)
EVENT_LOG = web.AppKey("event_log", EventLog)
FOLLOWER = web.AppKey("follower", Follower)
OUTBOX = web.AppKey("outbox", Outbox)
PRODUCER = web.AppKey("producer", Producer)
ADMISSION = web.AppKey("admission", Admission)
SERVING = web.AppKey("serving", Serving)
ARTIFACTS = web.AppKey("artifacts", Artifacts)
REGISTRY = web.AppKey("registry", Registry)
TELEMETRY = web.AppKey("telemetry", Telemetry)
KEYS = web.AppKey("keys", KeyStore)
TRACES: web.AppKey[Traces | None] = web.AppKey("traces")
