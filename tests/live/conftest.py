"""A deployment of flights on the running system, shared by the tests of this folder."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from gateway.demo import KNOWN_LATER, read_flights, thinned


@dataclass
class Flights:
    """What was trained and what is there to stream."""

    project: str
    models: list
    rows: list
    late: dict


@pytest.fixture(scope="session")
def flights(system, tmp_path_factory):
    """Train on thinned January to June; hold July's flights ready."""
    whole = read_flights()
    train = thinned(whole.filter(pc.less_equal(whole.column("month"), 6)), 6000)
    july = thinned(whole.filter(pc.equal(whole.column("month"), 7)), 3000)
    file = tmp_path_factory.mktemp("data") / "flights.parquet"
    pyarrow.parquet.write_table(train, file)
    project = system.api.create_project(file, "late", name="flights", timestamp="time_hour", association_id="flight_id")
    found = system.api.wait_for_project(project)
    assert found["state"] == "completed", found
    models = system.api.get(f"/v1/projects/{project}/leaderboard")["models"]
    asked = july.drop_columns(KNOWN_LATER)
    asked = asked.set_column(asked.column_names.index("time_hour"), "time_hour", pc.cast(asked.column("time_hour"), pa.string()))
    late = dict(zip(july.column("flight_id").to_pylist(), july.column("late").to_pylist(), strict=True))
    return Flights(project, models, asked.to_pylist(), {k: v for k, v in late.items() if v is not None})


@pytest.fixture(scope="session")
def deployed(system, flights):
    """The best model as champion of `flights`, the next two as challengers."""
    best, *rest = flights.models
    body = {"name": "flights", "model_id": best["model_id"], "association_id": "flight_id", "timestamp": "time_hour"}
    system.api.post("/v1/deployments", body)
    others = [m["model_id"] for m in rest if m["blueprint"] in {"linear_strong", "lightgbm"}]
    for model in others:
        system.api.post("/v1/deployments/flights/challengers", {"model_id": model})
    return [best["model_id"], *others]
