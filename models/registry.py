"""Where packages and other artifacts live: any fsspec URL, a local folder by default."""

from __future__ import annotations

import io
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from models.baseline import Baseline
from models.errors import PackageError
from models.losses import Losses
from models.package import ModelPackage, pack, unpack
from models.scoring import ScoringPlan


class Artifacts:
    """Bytes by path under one URL; a write is atomic on local disks."""

    def __init__(self, url: str) -> None:
        """Remember the URL; nothing is opened yet."""
        self.url = url

    @cached_property
    def _where(self) -> tuple[Any, str]:
        files, path = fsspec.core.url_to_fs(self.url)
        return files, str(path).rstrip("/")

    def path(self, name: str) -> str:
        """The full path of an artifact."""
        return f"{self._where[1]}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Store bytes; what stands there is replaced."""
        files, _ = self._where
        path = self.path(name)
        files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with files.transaction, files.open(path, "wb") as out:
            out.write(data)

    def put(self, name: str, path: Path) -> None:
        """Store a local file without holding it in memory; one that stands there already is kept."""
        if not self.exists(name):
            files, _ = self._where
            files.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)
            with files.transaction:
                files.put_file(str(path), self.path(name))

    def read(self, name: str) -> bytes:
        """The bytes; KeyError where there are none."""
        files, _ = self._where
        try:
            return bytes(files.cat_file(self.path(name)))
        except FileNotFoundError as error:
            raise KeyError(name) from error

    def exists(self, name: str) -> bool:
        """Whether something is stored there."""
        return bool(self._where[0].exists(self.path(name)))


class Registry:
    """Model packages in the artifacts, one uncompressed zip each, named by its digest."""

    def __init__(self, artifacts: Artifacts, key: bytes = b"") -> None:
        """Keep packages in `packages/`; `key` reads the states of online models that this installation signed."""
        self.artifacts, self.key = artifacts, key

    def save(self, plan: ScoringPlan, baseline: Baseline, metadata: dict[str, Any], losses: Losses | None = None) -> str:
        """Store a model; answers its digest. Saving the same model again changes nothing."""
        digest, files = pack(plan, baseline, metadata, losses)
        name = f"packages/{digest}.zip"
        if not self.artifacts.exists(name):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for path, data in sorted(files.items()):
                    archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
            self.artifacts.write(name, buffer.getvalue())
        return digest

    def load(self, digest: str) -> ModelPackage:
        """Load and verify a package; PackageError where it is missing or damaged."""
        try:
            data = self.artifacts.read(f"packages/{digest}.zip")
        except KeyError as error:
            raise PackageError("unknown_model", f"no package {digest}") from error
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                files = {name: archive.read(name) for name in archive.namelist()}
        except zipfile.BadZipFile as error:
            raise PackageError("damaged_package", f"package {digest[:12]} is no archive") from error
        return unpack(digest, files, self.key)
