"""The vocabulary that the other modules share."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]
Row = dict[str, Any]

TaskType = Literal["binary", "multiclass", "regression"]
Kind = Literal["numeric", "boolean", "categorical", "text", "date", "id", "constant", "time_index"]
Leakage = Literal["none", "moderate", "high"]
Status = Literal["passing", "warning", "failing", "unknown"]

INPUT_KINDS: frozenset[str] = frozenset({"numeric", "boolean", "categorical"})


def label_text(value: object) -> str:
    """One spelling a class: 1, 1.0 and "1" are one label, true and "true" are one.

    >>> label_text(1.0), label_text("1"), label_text(True), label_text("true")
    ('1', '1', 'true', 'true')
    """
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text.lower() if text.lower() in {"true", "false"} else text
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else text
