"""The watchdog: a consumer that lags and does not move is dead, whatever it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

Place = tuple[str, int]  # topic, partition
PATIENCE = 60.0


async def finishes(task: asyncio.Future[Any], moved: Callable[[], int], patience: float) -> bool:
    """Wait for a task's end; False where what `moved` counts stood still for so many seconds."""
    loop = asyncio.get_running_loop()
    seen, since = moved(), loop.time()
    while not task.done():
        await asyncio.wait([task], timeout=patience / 20)
        if moved() != seen:
            seen, since = moved(), loop.time()
        elif loop.time() - since > patience and not task.done():
            return False
    return True


class Watchdog:
    """Compares, place by place, what there is with what was handled.

    Only what was written since a place was assigned counts as lag: what lies before may have been
    handled by another, and the broker's own word for it (the committed offset) is not needed.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        """Bark after so many seconds of lag without progress."""
        self._patience = patience
        self._handled: dict[Place, int] = {}
        self._first: dict[Place, int] = {}
        self._since: dict[Place, float] = {}

    def assigned(self, places: set[Place]) -> None:
        """Watch these places from now on."""
        self._handled = {place: n for place, n in self._handled.items() if place in places}
        self._first, self._since = {}, {}

    def handled(self, place: Place, offset: int) -> None:
        """A message was handled, and what came before it."""
        self._handled[place] = max(self._handled.get(place, 0), offset + 1)
        self._since.pop(place, None)

    def lag(self, ends: Mapping[Place, int]) -> dict[Place, int]:
        """Messages that wait, by place, of what was written since the assignment."""
        found = {}
        for place, end in ends.items():
            first = self._first.setdefault(place, end)
            found[place] = max(0, end - max(self._handled.get(place, 0), first)) if end > first else 0
        return found

    def stuck(self, ends: Mapping[Place, int], now: float) -> list[Place]:
        """Places that have lagged for longer than the patience without anything being handled."""
        lag = self.lag(ends)
        for place, waiting in lag.items():
            if waiting:
                self._since.setdefault(place, now)
            else:
                self._since.pop(place, None)
        return sorted(place for place, since in self._since.items() if now - since > self._patience)
