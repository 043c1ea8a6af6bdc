"""Topics, and which partition a deployment lives on."""

from __future__ import annotations

import zlib

PREDICTIONS = "predictions"
ACTUALS = "actuals"
JOINABLE = "champion.actuals"
CONTROL = "champion.control"
DEAD_LETTERS = "champion.dead-letters"
MONITORING = "monitoring"
TOPICS = (PREDICTIONS, ACTUALS, JOINABLE, CONTROL, DEAD_LETTERS, MONITORING)

WORKERS = "champion-workers"
COURIERS = "champion-couriers"
LETTERS = "champion-letters"


def partition_of(deployment: str, partitions: int) -> int:
    """The partition of a deployment's predictions and actuals: CRC-32 of its name.

    Our producers name the partition, so that every language and version agrees on it.
    """
    return zlib.crc32(deployment.encode()) % partitions
