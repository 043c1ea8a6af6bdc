"""Settings: one table of environment variables; the only reader of os.environ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream.errors import SettingsError

UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def size(text: str) -> int:
    """Bytes from a text such as 4GiB.

    >>> size("64MiB")
    67108864
    """
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in UNITS:
        raise ValueError(text)
    return int(match[1]) * UNITS[match[2].upper()]


def port(text: str) -> int:
    """A TCP port."""
    number = int(text)
    if not 0 < number < 65536:  # noqa: PLR2004
        raise ValueError(text)
    return number


def positive(text: str) -> int:
    """A whole number from 1 up."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def whole(text: str) -> int:
    """A whole number from 0 up."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def one_of(*words: str) -> Callable[[str], str]:
    """A word of a list."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    read.__doc__ = " or ".join(words)
    return read


@dataclass(frozen=True)
class Setting:
    """One variable: its name, how it is read, its default as text, and help."""

    name: str
    read: Callable[[str], Any]
    default: str
    help: str


TABLE = (
    Setting("CHAMPION_HOST", str, "127.0.0.1", "address the gateway listens on"),
    Setting("CHAMPION_PORT", port, "8080", "port the gateway listens on"),
    Setting("CHAMPION_DATA_DIR", Path, "./var", "everything that is kept on disk"),
    Setting("CHAMPION_KAFKA_URL", str, "", "host:port[,…] of Kafka; empty: the embedded broker"),
    Setting("CHAMPION_CLICKHOUSE_URL", str, "", "http://user:password@host:8123 of ClickHouse; empty: the embedded engine"),
    Setting("CHAMPION_ARTIFACTS_URL", str, "", "fsspec URL for packages and files; empty: under the data dir"),
    Setting("CHAMPION_DURABILITY", one_of("process", "fsync"), "process", "process: survives a killed process; fsync: survives power loss"),
    Setting("CHAMPION_JOURNAL_MAX", size, "4GiB", "bound of a gateway's journal on disk"),
    Setting("CHAMPION_ON_JOURNAL_FULL", one_of("answer", "refuse"), "answer", "answer with recorded: false, or refuse with 503"),
    Setting("CHAMPION_DEADLINE_MS", whole, "120000", "longest time for a prediction request, then 504; 0: none. A request may ask for less"),
    Setting("CHAMPION_MOST_UNDER_WAY", size, "512MiB", "bytes of prediction requests that a gateway process has under way; past it 429"),
    Setting("CHAMPION_TRACES_URL", str, "", "OTLP/HTTP address (http://…/v1/traces) of prediction requests whose callers trace them; needs the extra `traces`"),
    Setting("CHAMPION_GATEWAY_PROCESSES", positive, "1", "gateway processes that share the port"),
    Setting("CHAMPION_BROKER_PORT", port, "9092", "port of the embedded broker"),
    Setting("CHAMPION_BROKER_MEMORY", size, "2GiB", "memory of the embedded broker, which forgets nothing; past it a fresh one takes its place"),
    Setting("CHAMPION_EVENTLOG_PORT", port, "8123", "port of the embedded ClickHouse engine"),
    Setting("CHAMPION_PARTITIONS", positive, "4", "partitions of the prediction and actual topics; fixed for an installation"),
    Setting("CHAMPION_WORKER_PROCESSES", positive, "1", "worker processes of `champion up`; they share the partitions"),
    Setting("CHAMPION_LOG_RETENTION_DAYS", whole, "0", "days that rows stay in the log's tables; 0: for ever (events always stay)"),
    Setting("CHAMPION_TOPIC_RETENTION_HOURS", positive, "168", "hours that records stay in the topics we make on a real Kafka"),
    Setting("CHAMPION_CHECKPOINT_KEY", str, "", "signs the states of online models; empty: made in the data dir. Gateways and workers on several machines need the same"),
    Setting("CHAMPION_URL", str, "http://127.0.0.1:8080", "the gateway that the command line talks to"),
    Setting("CHAMPION_API_KEY", str, "", "the key that the command line shows the gateway"),
)
NAMES = tuple(setting.name for setting in TABLE)


@dataclass(frozen=True)
class Settings:
    """The settings, read once."""

    host: str
    port: int
    data_dir: Path
    kafka_url: str
    clickhouse_url: str
    artifacts_url: str
    durability: str
    journal_max: int
    on_journal_full: str
    deadline_ms: int
    most_under_way: int
    traces_url: str
    gateway_processes: int
    broker_port: int
    broker_memory: int
    eventlog_port: int
    partitions: int
    worker_processes: int
    log_retention_days: int
    topic_retention_hours: int
    checkpoint_key: str
    url: str
    api_key: str

    @property
    def embedded_broker(self) -> bool:
        """Whether we bring our own broker."""
        return not self.kafka_url

    @property
    def embedded_eventlog(self) -> bool:
        """Whether we bring our own ClickHouse engine."""
        return not self.clickhouse_url

    @property
    def administered_partitions(self) -> int:
        """The partitions to make topics with on a real Kafka; 0 for the embedded broker."""
        return 0 if self.embedded_broker else self.partitions

    @property
    def bootstrap(self) -> str:
        """host:port[,…] of the broker in use."""
        return self.kafka_url or f"127.0.0.1:{self.broker_port}"

    @property
    def eventlog_url(self) -> str:
        """Where the event log answers, without our key."""
        return self.clickhouse_url or f"http://127.0.0.1:{self.eventlog_port}"

    @property
    def artifacts(self) -> str:
        """Where packages and files are kept."""
        return self.artifacts_url or (self.data_dir.resolve() / "artifacts").as_uri()


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the environment; SettingsError with a hint for an unknown or ill-typed name."""
    if environment is None:
        import os

        environment = os.environ
    for name in environment:
        if name.startswith("CHAMPION_") and name not in NAMES:
            raise SettingsError(_hint(name, environment[name]))
    values = {}
    for setting in TABLE:
        text = environment.get(setting.name) or setting.default
        try:
            values[setting.name.removeprefix("CHAMPION_").lower()] = setting.read(text)
        except ValueError as error:
            more = " (Kubernetes sets it for a Service called champion: use enableServiceLinks: false)" if text.startswith("tcp://") else ""
            raise SettingsError(f"{setting.name}={text!r} cannot be read: {setting.help}{more}") from error
    return Settings(**values)


def _hint(name: str, text: str) -> str:
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known names: {', '.join(NAMES)}"
    if text.startswith("tcp://") or name.startswith("CHAMPION_SERVICE_"):
        hint = "; Kubernetes sets it for a Service called champion: use enableServiceLinks: false"
    return f"unknown setting {name}{hint}"
