"""The real clients of the standard protocols, in their own environment (`make test-clients`)."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.live.wire import call
from tests.support import deploy_small, start_system, stop

PYTHON = Path(__file__).parents[2] / ".venv" / "clients" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no clients: run `make test-clients`")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    system = start_system(folder / "var")
    try:
        deploy_small(system, folder)
        rows = [{"x": 0.1 * k - 0.5, "z": None if k == 3 else 1.0} for k in range(10)]
        answer = call(system, "POST", "/v1/deployments/d/predictions", json.dumps(rows).encode())[1]["predictions"]
        command = [PYTHON, Path(__file__).parent / "speak.py", system.environment["CHAMPION_PORT"], "d"]
        done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        yield json.loads(done.stdout.splitlines()[-1]), [p["prediction"] for p in answer], [v for p in answer for v in p["probabilities"].values()]
    finally:
        stop(system.process)


@pytest.mark.parametrize("client", ["triton binary=True", "triton binary=False", "triton outputs binary=True", "triton outputs binary=False", "triton asyncio", "kserve v2 binary=True", "kserve v2 binary=False"])
def test_a_v2_client_reads_the_same_bits(told, client):
    said, classes, probabilities = told
    assert said[client] == [classes, probabilities]


@pytest.mark.parametrize("client", ["kserve v1", "mlflow deployments"])
def test_a_client_reads_the_same_classes(told, client):
    said, classes, _ = told
    assert said[client][0] == classes, said[client]
