"""API keys: hashed in a file, checked on every request; open on loopback while there is none."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from pathlib import Path

from aiohttp import web

from gateway.errors import ApiError, Handler

CHECK_SECONDS = 1.0
LOOPBACK = ("127.", "::1", "localhost")


class KeyStore:
    """Names and SHA-256 hashes of keys; the keys themselves are shown once and forgotten."""

    def __init__(self, path: Path) -> None:
        """Read the file when it has changed."""
        self._path, self._stamp, self._again = path, 0.0, 0.0
        self._hashes: dict[str, str] = {}

    @property
    def hashes(self) -> dict[str, str]:
        """Hash to name; a changed file is noticed within a second."""
        now = time.monotonic()
        if now < self._again:
            return self._hashes
        self._again = now + CHECK_SECONDS
        try:
            stamp = self._path.stat().st_mtime
        except OSError:
            self._stamp, self._hashes = 0.0, {}
            return self._hashes
        if stamp != self._stamp:
            self._stamp, self._hashes = stamp, json.loads(self._path.read_text())
        return self._hashes

    def add(self, name: str) -> str:
        """Make a key."""
        key = "ck_" + secrets.token_urlsafe(24)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({**self.hashes, hashed(key): name}, indent=1))
        self._path.chmod(0o600)
        return key

    def remove(self, name: str) -> int:
        """Forget the keys of a name; answers how many."""
        kept = {h: n for h, n in self.hashes.items() if n != name}
        gone = len(self.hashes) - len(kept)
        self._path.write_text(json.dumps(kept, indent=1))
        return gone

    def who(self, key: str) -> str | None:
        """The name of a key's owner."""
        return self.hashes.get(hashed(key))


def hashed(key: str) -> str:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def guard(store: KeyStore) -> object:
    """The middleware: 401 without a valid key, unless there are no keys and the peer is this machine."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(("/health/", "/v2/health/")) or request.path in {"/metrics", "/v2"}:
            return await handler(request)
        if not store.hashes:
            if not (request.remote or "").startswith(LOOPBACK):
                raise ApiError(401, "no_key", "this gateway has no keys yet and answers this machine only: run `champion keys add NAME`")
            request["actor"] = "local"
            return await handler(request)
        key = request.headers.get("Authorization", "").removeprefix("Bearer ").strip() or request.cookies.get("champion_key", "")
        name = store.who(key) if key else None
        if name is None:
            raise ApiError(401, "wrong_key", "send `Authorization: Bearer KEY` with a valid key")
        request["actor"] = name
        return await handler(request)

    return check
