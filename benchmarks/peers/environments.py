"""Environments of their own for the others: made under .venv at the first use, or by `python -m benchmarks.peers.environments NAME …`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ALONE = {"data"}  # only files are read of these packages


def python_of(name: str) -> Path:
    """The Python that has what `peers/NAME.txt` pins."""
    home = HERE.parent.parent / ".venv" / f"peer-{name}"
    python, made = home / "bin" / "python", home / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        wanted = [*(["--no-deps"] if name in ALONE else []), "-r", str(HERE / f"{name}.txt")]
        fast = subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), *wanted], check=False)
        if fast.returncode:  # pip knows settings that uv does not read
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
        made.touch()
    return python


if __name__ == "__main__":
    for name in sys.argv[1:]:
        python_of(name)
