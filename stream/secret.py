"""Secrets of an installation: made at the first use, readable by its owner alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from stream.settings import Settings


def secret_of(folder: Path, name: str) -> str:
    """A secret by its name; of several processes that want it first, one makes it."""
    path = folder / f"{name}.key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{name}-{os.getpid()}.key"
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(24))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


def checkpoint_key(settings: Settings) -> bytes:
    """What this installation signs the states of online models with; another's are never read."""
    return (settings.checkpoint_key or secret_of(settings.data_dir, "checkpoint")).encode()
