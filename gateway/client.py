"""The Python client: what the command line and the demo use, and what users may."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import urllib3


class Refusal(Exception):  # noqa: N818 - what the gateway says is not this client's error
    """An answer that is an error: status, code, message, details."""

    def __init__(self, status: int, code: str, message: str, details: list[Any] | None = None) -> None:
        """Keep what the gateway said."""
        super().__init__(message)
        self.status, self.code, self.details = status, code, details or []


class Client:
    """Talks to one gateway."""

    def __init__(self, url: str, key: str = "", timeout: float = 600.0) -> None:
        """Connect at the first call."""
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._pool = urllib3.PoolManager(maxsize=16, timeout=urllib3.Timeout(connect=5, read=timeout), retries=False)

    def call(self, method: str, path: str, body: Any = None, *, query: dict[str, Any] | None = None, headers: dict[str, str] | None = None, form: Any = None) -> Any:
        """One call; the answer's JSON, or Refusal."""
        fields = {k: v for k, v in (query or {}).items() if v not in (None, "")}
        url = self._url + path + ("?" + urlencode(fields) if fields else "")
        extra = {**self._headers, **(headers or {})}
        try:
            if form is not None:
                answer = self._pool.request(method, url, fields=form, headers=extra)
            else:
                data = body if isinstance(body, bytes) else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY) if body is not None else None
                answer = self._pool.request(method, url, body=data, headers={"Content-Type": "application/json", **extra})
        except urllib3.exceptions.HTTPError as error:
            raise Refusal(0, "unreachable", f"no gateway answers at {self._url}: is `champion up` running?") from error
        try:
            found = orjson.loads(answer.data) if answer.data else {}
        except orjson.JSONDecodeError:
            found = {}
        if answer.status >= 400:  # noqa: PLR2004
            said = found.get("error", {}) if isinstance(found, dict) else {}
            raise Refusal(answer.status, said.get("code", "http_error"), said.get("message", f"HTTP {answer.status}"), said.get("details"))
        return found

    def get(self, path: str, **query: Any) -> Any:
        """GET."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """POST JSON."""
        return self.call("POST", path, body if body is not None else {}, query=query)

    def text(self, path: str) -> str:
        """GET, as text."""
        answer = self._pool.request("GET", self._url + path, headers=self._headers)
        return str(answer.data.decode())

    def items(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """All pages of a list."""
        cursor = None
        while True:
            found = self.get(path, **query, cursor=cursor)
            yield from found["items"]
            cursor = found.get("next")
            if not cursor:
                return

    def create_project(self, file: Path, target: str, **options: Any) -> str:
        """Hand over a file; answers the project's id."""
        form: list[tuple[str, Any]] = [(k, str(v)) for k, v in options.items() if v not in (None, "", [], ()) and k != "exclude"]
        form += [("exclude", str(name)) for name in options.get("exclude") or ()]
        form += [("target", target), ("file", (file.name, file.read_bytes(), "application/octet-stream"))]
        return str(self.call("POST", "/v1/projects", form=form)["project_id"])

    def wait_for_project(self, project_id: str, told: Any = None, until: tuple[str, ...] = ("completed", "failed", "cancelled")) -> dict[str, Any]:
        """Follow a project until it is over; `told` is called with each new state."""
        last = None
        while True:
            project: dict[str, Any] = self.get(f"/v1/projects/{project_id}")
            mark = (project["state"], project["progress"], project["message"])
            if mark != last and told is not None:
                told(project)
            last = mark
            if project["state"] in until:
                return project
            time.sleep(0.3)

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of a read-only query."""
        return list(self.post("/v1/sql", {"query": query})["rows"])

