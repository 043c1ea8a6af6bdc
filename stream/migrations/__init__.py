"""The event log's tables as versioned statements that fit chDB and a ClickHouse server alike."""

from __future__ import annotations

from pathlib import Path


def migrations() -> list[tuple[int, list[str]]]:
    """Each version with its statements, in order."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.sql")):
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("--")]
        found.append((int(path.name[:4]), [s.strip() for s in "\n".join(lines).split(";") if s.strip()]))
    return found
