"""The courier: actuals from any outside producer become columnar messages beside the predictions."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pyarrow as pa

from models.table import plain_text
from models.values import loggable
from stream.batches import encode, fact_columns, mark
from stream.broker import Message, Producer
from stream.clock import bounded, parse_time
from stream.dead_letters import DeadLetters, Letter
from stream.errors import Malformed
from stream.topics import JOINABLE, partition_of

Actual = tuple[str, str | None, int | None, str, bool]  # association id, actual, time, id, whether it was acted on
Row = tuple[int, int, Actual]


def parse_actual(value: Any) -> tuple[str, Actual]:
    """Deployment and actual; Malformed with the reason."""
    if not isinstance(value, dict):
        raise Malformed("an actual is a JSON object")
    deployment = value.get("deployment")
    if not isinstance(deployment, str) or not deployment:
        raise Malformed("'deployment' must be a text")
    return deployment, parse_item(value)


def parse_item(value: dict[str, Any]) -> Actual:
    """One actual: its value as text (None retracts), and whether someone acted on the prediction; Malformed with the reason."""
    association = plain_text(value.get("association_id"))
    if not association or len(association) > 128:  # noqa: PLR2004
        raise Malformed("'association_id' must be a text of 1 to 128 characters")
    if "actual" not in value:
        raise Malformed("'actual' is missing (null retracts)")
    actual = value["actual"]
    if isinstance(actual, list | dict) or (isinstance(actual, float) and loggable(actual) is None):
        raise Malformed("'actual' must be a number, a text, a truth value or null")
    timestamp = value.get("timestamp")
    try:
        micros = None if timestamp in (None, "") else parse_time(timestamp)
    except (ValueError, OverflowError) as error:
        raise Malformed(f"'timestamp' is not a time: {timestamp!r}") from error
    acted_on = {"true": True, "false": False, "": False}.get(str(value.get("acted_on", "")).lower())
    if acted_on is None:
        raise Malformed(f"'acted_on' is true or false, not {value['acted_on']!r}")
    return association, actual_text(actual), micros, str(value.get("id") or ""), acted_on


def actual_text(actual: Any) -> str | None:
    """An actual as it is stored; numbers keep all their digits."""
    if actual is None:
        return None
    if isinstance(actual, bool):
        return "true" if actual else "false"
    return repr(actual) if isinstance(actual, float) else str(actual)


def actual_id(deployment: str, association: str, actual: str | None, timestamp: int | None, recorded: int) -> str:
    """The identity of an actual that brought none."""
    text = orjson.dumps([deployment, association, actual, timestamp, recorded])
    return hashlib.sha256(text).hexdigest()[:32]


class Courier:
    """Turns raw actuals into internal messages, keyed by deployment; bad ones go to the dead letters."""

    def __init__(self, producer: Producer, letters: DeadLetters, partitions: int) -> None:
        """Send with `producer`."""
        self._producer, self._letters, self._partitions = producer, letters, partitions
        self.carried = 0

    async def carry(self, cluster: str, messages: list[Message]) -> None:
        """Carry a poll's messages."""
        groups: dict[tuple[str, int], list[Row]] = {}
        bad: list[Letter] = []
        for message in messages:
            try:
                deployment, (association, actual, timestamp, own, acted_on) = parse_actual(orjson.loads(message.value))
                recorded = bounded(message.timestamp * 1000)
            except (Malformed, ValueError) as error:
                bad.append(Letter(message.topic, message.partition, message.offset, str(error), message.value))
                continue
            identity = own or actual_id(deployment, association, actual, timestamp, recorded)
            row = (message.offset, recorded, (association, actual, timestamp, identity, acted_on))
            groups.setdefault((deployment, message.partition), []).append(row)
        await self._letters.put(*bad)
        for (deployment, partition), rows in groups.items():
            columns = {
                "sequence": pa.array([r[0] + 1 for r in rows], pa.int64()),
                "recorded_at": pa.array([r[1] for r in rows], pa.int64()),
                **fact_columns([r[2] for r in rows]),
            }
            source = f"{cluster}:{messages[0].topic}:{partition}"
            message_out = encode("actuals", deployment, columns, source=source)
            await self._producer.send(JOINABLE, [message_out], partition_of(deployment, self._partitions))
            self.carried += len(rows)
        await self._mark(cluster, messages)

    async def _mark(self, cluster: str, messages: list[Message]) -> None:
        """Tell every partition how far the outside ones were carried: what lies below has been sent."""
        last = {message.partition: message.offset + 1 for message in messages}
        marks = [mark(f"{cluster}:{messages[0].topic}:{partition}", sequence) for partition, sequence in last.items()]
        for partition in range(self._partitions):
            await self._producer.send(JOINABLE, marks, partition)
