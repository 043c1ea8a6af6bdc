"""Environments of their own for the others: made under .venv at the first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def python_of(name: str) -> Path:
    """The Python that has what `peers/NAME.txt` pins."""
    home = HERE.parent.parent / ".venv" / f"peer-{name}"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(HERE / f"{name}.txt")], check=True)
    return python
