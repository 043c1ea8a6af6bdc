"""Environments of their own for the others: made under .venv at the first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def python_of(name: str) -> Path:
    """The Python that has what `peers/NAME.txt` pins."""
    home = HERE.parent.parent / ".venv" / f"peer-{name}"
    python, made = home / "bin" / "python", home / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), *(["--no-deps"] if name == "data" else []), "-r", str(HERE / f"{name}.txt")], check=True)
        made.touch()
    return python
