"""Where a benchmark's figures are kept, with the machine that they are of."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(name: str, figures: dict[str, Any]) -> None:
    """Write `results/NAME.json`."""
    machine = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine, **figures}, indent=1) + "\n")
