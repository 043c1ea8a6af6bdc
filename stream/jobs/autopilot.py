"""An AutoPilot run in a process of its own (spawned: LightGBM and OpenMP hang after a fork)."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterator
from typing import Any

import orjson

from models.autopilot import Progress, Result, run
from models.blueprints import QUICK, REPOSITORY, Blueprint
from models.errors import ModelsError
from models.packaging import features_json, save_all
from models.preparation import Options
from models.registry import Artifacts, Registry
from models.table import read_table

Message = dict[str, Any]


def options_from(data: dict[str, Any]) -> Options:
    """A project's options as AutoPilot wants them."""
    known = {"target", "task", "metric", "timestamp", "association_id", "drop_leakage", "holdout", "gap_seconds", "minutes", "seed", "group", "weight", "keep"}
    found = {name: value for name, value in data.items() if name in known}
    return Options(**found, positive=data.get("positive_class"), classes=tuple(data.get("classes", ())), exclude=tuple(data.get("exclude", ())))


def recipes(options: dict[str, Any]) -> tuple[Blueprint, ...]:
    """The blueprints of a mode, or those that were asked for beside the simplest ones, which always take part."""
    if options.get("keep"):
        return tuple(b for b in REPOSITORY if b.name in options["blueprints"])
    if options.get("blueprints"):
        return tuple(b for b in REPOSITORY if b.name in {*options["blueprints"], "constant", "linear_strong"})
    return QUICK if options.get("mode") == "quick" else REPOSITORY


def work(artifacts_url: str, project_id: str, file: str, options: dict[str, Any], out: Any) -> None:
    """The child: read, run, save, and tell through a queue."""
    os.nice(5)  # the champion and the stream go first
    artifacts = Artifacts(artifacts_url)
    try:
        table = read_table(artifacts.read(file), options.get("target", ""))
        chosen = options_from(options)
        for step in run(table, chosen, recipes(options)):
            if isinstance(step, Result):
                out.put({"kind": "progress", "share": 0.92, "message": f"packaging {len(step.entries)} models"})
                models = save_all(Registry(artifacts), table, step, chosen, {"project_id": project_id, "data": file})
                out.put({"kind": "done", "models": models, "metric": step.metric, "partition": step.partition, "notes": list(step.notes), "task": step.analysis.target.task})
                return
            told: Message = {"kind": "progress", "share": step.share, "message": step.message}
            if isinstance(step, Progress) and step.analysis is not None:
                name = f"projects/{project_id}/features.json"
                target = step.analysis.target
                body = {"features": features_json(step.analysis), "target": target.name, "task": target.task, "classes": list(target.classes), "notes": list(step.analysis.notes)}
                artifacts.write(name, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))
                told["features"] = name
            out.put(told)
    except ModelsError as error:
        out.put({"kind": "failed", "code": error.code, "error": str(error)})
    except KeyError as error:
        out.put({"kind": "failed", "code": "no_file", "error": f"the project's file is gone: {error}"})
    except MemoryError:
        out.put({"kind": "failed", "code": "out_of_memory", "error": "the data does not fit into this machine's memory"})
    except Exception as error:  # noqa: BLE001 - the parent must hear of it
        out.put({"kind": "failed", "code": "internal", "error": f"{type(error).__name__}: {error}"})


class Run:
    """A running AutoPilot: its messages, and a way to stop it."""

    def __init__(self, artifacts_url: str, project_id: str, file: str, options: dict[str, Any]) -> None:
        """Start the child."""
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue()
        self._child = context.Process(target=work, args=(artifacts_url, project_id, file, options, self._queue), daemon=False)
        self._child.start()

    def messages(self) -> Iterator[Message | None]:
        """What the child tells, None each half second without news; the last is done or failed."""
        while True:
            try:
                message = self._queue.get(timeout=0.5)
            except queue.Empty:
                if not self._child.is_alive():
                    yield {"kind": "failed", "code": "killed", "error": f"the training process ended with code {self._child.exitcode}"}
                    return
                yield None
                continue
            yield message
            if message["kind"] in {"done", "failed"}:
                self._child.join(10)
                return

    def stop(self) -> None:
        """End the child."""
        self._child.terminate()
        self._child.join(5)
        if self._child.is_alive():
            self._child.kill()
