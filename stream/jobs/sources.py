"""Where training data comes from besides an upload: a file by its URL, or a query of a ClickHouse.

What is fetched becomes an artifact named by its content, so a project always says what it was trained
on, whatever its source says later. A password in the URL never reaches an event: it lies with the secrets.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import fsspec
import orjson

from models.errors import DataError
from models.registry import Artifacts
from stream.clickhouse import parquet_of
from stream.errors import LogUnavailable, QueryRejected

SCHEMES = ("http://", "https://", "s3://", "gs://", "abfs://")
DATABASES = ("http", "https")
PIECE = 4 << 20
MOST_BYTES = 16 << 30


def fetch(artifacts: Artifacts, spool: Path, source: str, query: str) -> str:
    """Read a source into the artifacts; answers the artifact's name. DataError says why it cannot be read."""
    if not source.startswith(SCHEMES):
        raise DataError("unsupported_source", f"source is a URL that begins with {', '.join(SCHEMES)}")
    spool.mkdir(parents=True, exist_ok=True)
    path = spool / uuid.uuid4().hex
    try:
        if query:
            if urlsplit(source).scheme not in DATABASES:
                raise DataError("unsupported_source", "a query is asked of a ClickHouse over HTTP: http://user:password@host:8123/database")
            parquet_of(source, query, path)
        else:
            copy(source, path)
        name = f"files/{digest_of(path)}"
        artifacts.put(name, path)
    except (OSError, ValueError, ImportError, LogUnavailable, QueryRejected) as error:
        raise DataError("unreadable_source", f"{without_password(source)}: {error}".replace(source, without_password(source))) from error
    finally:
        path.unlink(missing_ok=True)
    return name


def copy(url: str, path: Path) -> None:
    """A file by its URL, in pieces."""
    size = 0
    with fsspec.open(url, "rb") as found, path.open("wb") as out:
        while piece := found.read(PIECE):
            size += out.write(piece)
            if size > MOST_BYTES:
                raise DataError("too_large", f"a source may hold {MOST_BYTES >> 30} GiB")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as found:
        return hashlib.file_digest(found, "sha256").hexdigest()


def without_password(url: str) -> str:
    """A URL that may be shown.

    >>> without_password("http://me:secret@db:8123/sales")
    'http://me@db:8123/sales'
    """
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2]))


def keep_secret(artifacts: Artifacts, project_id: str, url: str) -> None:
    """Remember a URL with its password, for the day when the source is read again."""
    if without_password(url) != url:
        artifacts.write(f"secrets/source-{project_id}.json", orjson.dumps({"url": url}))


def url_of(artifacts: Artifacts, project_id: str, shown: str) -> str:
    """A project's source with its password."""
    try:
        return str(orjson.loads(artifacts.read(f"secrets/source-{project_id}.json"))["url"])
    except KeyError:
        return shown
