"""One model server with the benchmark's Booster, in its own environment: `serving.py NAME PORT FOLDER`.

Each is set up as its documentation recommends for one process and no logging: they score a matrix, nothing else.
"""

import json
import os
import sys
from pathlib import Path


def fastapi(port, folder):
    """A hand-written application: what many would write instead of taking a server."""
    import lightgbm
    import numpy as np
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from pydantic import BaseModel

    booster = lightgbm.Booster(model_file=str(folder / "model.bst"))

    class Rows(BaseModel):
        rows: list[list[float]]

    app = FastAPI()

    @app.post("/predict")
    async def predict(asked: Rows):
        return {"predictions": booster.predict(np.array(asked.rows), num_threads=1).tolist()}

    @app.post("/bytes")
    async def predict_bytes(request: Request):
        rows = np.frombuffer(await request.body()).reshape(-1, 15)
        return Response(booster.predict(rows, num_threads=1).tobytes(), media_type="application/octet-stream")

    uvicorn.run(app, port=port, log_level="critical", access_log=False)


def mlserver(port, folder):
    """MLServer with its LightGBM runtime in the server's own process: with workers of its own it is slower on one core."""
    home = folder / "mlserver"
    home.mkdir(exist_ok=True)
    (home / "settings.json").write_text(json.dumps({"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "parallel_workers": 0, "debug": False, "use_structured_logging": False}))
    settings = {"name": "flights", "implementation": "mlserver_lightgbm.LightGBMModel", "parameters": {"uri": str(folder / "model.bst"), "version": "v1"}}
    (home / "model-settings.json").write_text(json.dumps(settings))
    os.execv(Path(sys.executable).parent / "mlserver", ["mlserver", "start", str(home)])  # noqa: S606


def litserve(port, folder):
    """LitServe with one worker process; batching would only pay for slower models."""
    (folder / "lit_service.py").write_text(
        "import lightgbm, litserve, numpy as np\n"
        "class API(litserve.LitAPI):\n"
        "    def setup(self, device):\n"
        f"        self.booster = lightgbm.Booster(model_file={str(folder / 'model.bst')!r})\n"
        "    def decode_request(self, request):\n"
        "        return np.array(request['rows'])\n"
        "    def predict(self, x):\n"
        "        return self.booster.predict(x, num_threads=1)\n"
        "    def encode_response(self, output):\n"
        "        return {'predictions': output.tolist()}\n"
        "if __name__ == '__main__':\n"
        f"    litserve.LitServer(API(), accelerator='cpu', workers_per_device=1).run(port={port}, log_level='critical', access_log=False, generate_client_file=False)\n"
    )
    os.execv(sys.executable, [sys.executable, str(folder / "lit_service.py")])  # noqa: S606


def bentoml(port, folder):
    """BentoML with one worker."""
    (folder / "bento_service.py").write_text(
        "import bentoml, lightgbm, numpy as np\n"
        "@bentoml.service(workers=1, logging={'access': {'enabled': False}}, metrics={'enabled': False}, tracing={'sample_rate': 0.0})\n"
        "class Flights:\n"
        "    def __init__(self):\n"
        f"        self.booster = lightgbm.Booster(model_file={str(folder / 'model.bst')!r})\n"
        "    @bentoml.api\n"
        "    def predict(self, rows: list[list[float]]) -> list[float]:\n"
        "        return self.booster.predict(np.array(rows), num_threads=1).tolist()\n"
    )
    os.chdir(folder)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.execv(Path(sys.executable).parent / "bentoml", ["bentoml", "serve", "bento_service:Flights", "--port", str(port)])  # noqa: S606


def mlflow(port, folder):
    """MLflow's own server over its LightGBM flavour."""
    import lightgbm
    import mlflow.lightgbm

    target = folder / "mlflow-model"
    mlflow.lightgbm.save_model(lightgbm.Booster(model_file=str(folder / "model.bst")), str(target))
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    os.execv(Path(sys.executable).parent / "mlflow", ["mlflow", "models", "serve", "-m", str(target), "--env-manager", "local", "--port", str(port), "--workers", "1"])  # noqa: S606


name, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
{"fastapi": fastapi, "mlserver": mlserver, "litserve": litserve, "bentoml": bentoml, "mlflow": mlflow}[name](port, folder)
