"""The real clients of the standard protocols, in environments of their own (`make test-peers`)."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.peers.environments import python_of
from tests.live.wire import call
from tests.support import deploy_small, start_system, stop

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    system = start_system(folder / "var")
    try:
        deploy_small(system, folder)
        rows = [{"x": 0.1 * k - 0.5, "z": None if k == 3 else 1.0} for k in range(10)]
        answer = call(system, "POST", "/v1/deployments/d/predictions", json.dumps(rows).encode())[1]["predictions"]
        command = [python_of("clients"), Path(__file__).parent / "speak.py", system.environment["CHAMPION_PORT"], "d"]
        done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        spoken = json.loads(done.stdout.splitlines()[-1]) | {f"mlserver infer -s {size}": inferred(system, [row for row in rows if row["z"] is not None], folder, size) for size in (1, 4)}
        yield spoken, [p["prediction"] for p in answer], [v for p in answer for v in p["probabilities"].values()]
    finally:
        stop(system.process)


def inferred(system, rows, folder, size):
    """What MLServer's batch client was told of a request a row, so many of them sent together."""
    asked, answers = folder / "asked.jsonl", folder / f"answers{size}.jsonl"
    requests = [{"id": f"row{k}", "inputs": [{"name": name, "shape": [1, 1], "datatype": "FP64", "data": [row[name]]} for name in ("x", "z")]} for k, row in enumerate(rows)]
    asked.write_text("\n".join(map(json.dumps, requests)))
    command = [python_of("mlserver").parent / "mlserver", "infer", "-u", f"127.0.0.1:{system.environment['CHAMPION_PORT']}", "-m", "d", "-i", asked, "-o", answers, "-s", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for line in answers.read_text().splitlines():
        answer = json.loads(line)
        found[answer["parameters"]["batch_index"]] = {output["name"]: output["data"] for output in answer["outputs"]}
    return [found[k]["predict"][0] for k in range(len(rows))], [p for k in range(len(rows)) for p in found[k]["predict_proba"]]


@pytest.mark.parametrize("client", ["mlserver infer -s 1", "mlserver infer -s 4"])
def test_the_batch_client_reads_each_rows_own_answer(told, client):
    said, classes, probabilities = told  # the client itself cannot read a request with a missing number: the fourth row is left out
    assert said[client] == (classes[:3] + classes[4:], probabilities[:6] + probabilities[8:])


@pytest.mark.parametrize("client", ["triton binary=True", "triton binary=False", "triton outputs binary=True", "triton outputs binary=False", "triton asyncio", "kserve v2 binary=True", "kserve v2 binary=False"])
def test_a_v2_client_reads_the_same_bits(told, client):
    said, classes, probabilities = told
    assert said[client] == [classes, probabilities]


@pytest.mark.parametrize("client", ["kserve v1", "mlflow deployments"])
def test_a_client_reads_the_same_classes(told, client):
    said, classes, _ = told
    assert said[client][0] == classes, said[client]
