from typing import Any

from models.types import Floats

def read(names: tuple[str, ...], tables: tuple[dict[Any, float] | None, ...], rows: list[Any], matrix: Floats, /) -> int | None: ...
