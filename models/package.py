"""Model packages: immutable, named by the SHA-256 of their content, loaded without unpickling."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.baseline import Baseline, baseline_from_json
from models.errors import PackageError
from models.losses import Losses, load_losses
from models.members import Member, load_member
from models.schema import Schema, schema_from_json
from models.scoring import Part, ScoringPlan

FORMAT = 1


@dataclass(frozen=True)
class ModelPackage:
    """A deployable model: how it scores, what it was trained on, what drift is measured against."""

    digest: str
    plan: ScoringPlan
    baseline: Baseline
    metadata: dict[str, Any]
    losses: Losses | None = None  # of values, what their error is expected to be

    @property
    def schema(self) -> Schema:
        """The schema of the plan."""
        return self.plan.schema


def pack(plan: ScoringPlan, baseline: Baseline, metadata: dict[str, Any], losses: Losses | None = None) -> tuple[str, dict[str, bytes]]:
    """A package's digest and its files."""
    files: dict[str, bytes] = losses.files() if losses else {}
    parts = []
    for number, part in enumerate(plan.parts):
        parts.append({"weight": part.weight, "calibration": part.calibration})
        files |= {f"members/{number}/{name}": data for name, data in part.member.files().items()}
    model = {
        "format": FORMAT,
        "schema": plan.schema.to_json(),
        "parts": parts,
        "calibration": plan.calibration,
        "baseline": baseline.to_json(),
        "metadata": metadata,
    }
    files["model.json"] = json.dumps(model, sort_keys=True, default=_plain).encode()
    return digest_of(files), files


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)


def digest_of(files: dict[str, bytes]) -> str:
    """SHA-256 over the sorted names and the SHA-256 of each file."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def unpack(digest: str, files: dict[str, bytes], key: bytes = b"") -> ModelPackage:
    """Load a package; PackageError where its content is not what its name says."""
    if digest_of(files) != digest:
        raise PackageError("damaged_package", f"the content of package {digest[:12]} does not match its name")
    model = json.loads(files["model.json"])
    if model["format"] != FORMAT:
        raise PackageError("unknown_format", f"package format {model['format']} is not known here")
    parts = []
    for number, part in enumerate(model["parts"]):
        prefix = f"members/{number}/"
        own = {name.removeprefix(prefix): data for name, data in files.items() if name.startswith(prefix)}
        member: Member = load_member(own, key)
        parts.append(Part(member, part["weight"], part["calibration"]))
    plan = ScoringPlan(schema_from_json(model["schema"]), tuple(parts), model["calibration"])
    return ModelPackage(digest, plan, baseline_from_json(model["baseline"]), model["metadata"], load_losses(files))
