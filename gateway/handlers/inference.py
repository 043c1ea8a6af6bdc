"""The standard protocols: Open Inference V2, KServe V1, MLflow, DataRobot's names."""

from __future__ import annotations

import time

from aiohttp import web

from gateway.asked import Served
from gateway.errors import ApiError, json_response, text_error
from gateway.handlers import system
from gateway.keys import FOLLOWER, SERVING
from gateway.protocols import open_inference, tabular
from gateway.protocols.run import run

VERSION = "0.1.0"
SERVER = {"name": "champion", "version": VERSION, "extensions": ["binary_tensor_data"]}


async def server(request: web.Request) -> web.Response:
    """Name, version and extensions."""
    del request
    return json_response(SERVER)


async def live(request: web.Request) -> web.Response:
    """The process runs."""
    return await system.live(request)


async def ready(request: web.Request) -> web.Response:
    """Whether this gateway can answer."""
    return await system.ready(request)


def answering(request: web.Request) -> list[Served]:
    """The deployments that answer now."""
    found = [request.app[SERVING].ready(name) for name in request.app[FOLLOWER].catalog.deployments]
    return [served for served in found if served is not None]


async def many(request: web.Request) -> web.Response:
    """The names of the deployments."""
    return json_response({"models": [served.name for served in answering(request)]})


async def index(request: web.Request) -> web.Response:
    """The deployments with version and state."""
    return web.json_response([{"name": s.name, "version": str(s.version), "state": "READY", "reason": ""} for s in answering(request)])


async def served_of(request: web.Request) -> Served:
    """The deployment of the path; 404 for a version that it does not serve."""
    served = await request.app[SERVING].get(request.match_info["d"])
    version = request.match_info.get("v", "")
    if version and version != str(served.version):
        raise ApiError(404, "unknown_version", f"{served.name!r} serves version {served.version}, not {version}")
    return served


async def metadata(request: web.Request) -> web.Response:
    """Inputs and outputs with their datatypes."""
    return json_response(open_inference.metadata(await served_of(request)))


async def model_ready(request: web.Request) -> web.Response:
    """Whether the deployment answers; 503 where not yet."""
    served = await served_of(request)
    return json_response({"name": served.name, "ready": True})


async def infer(request: web.Request) -> web.Response:
    """Score columns or a tensor; binary in and out."""
    return await run(request, request.match_info["d"], open_inference.decode, open_inference.encode, text_error)


async def invocations(request: web.Request) -> web.Response:
    """Score `dataframe_split`, `dataframe_records`, `instances`, `inputs`, CSV or Parquet."""
    return await run(request, request.match_info["d"], tabular.decode_mlflow, tabular.encode_predictions, text_error)


async def ping(request: web.Request) -> web.Response:
    """200 where the deployment answers."""
    await served_of(request)
    return web.Response(text="\n")


async def predict_v1(request: web.Request) -> web.Response:
    """Score `{"instances": […]}` → `{"predictions": […]}`."""
    return await run(request, request.match_info["d"], tabular.decode_v1, tabular.encode_predictions, text_error)


async def datarobot(request: web.Request) -> web.Response:
    """Score CSV or records → `{"data": [{"rowId", "prediction", "predictionValues"}]}`."""
    begun = time.perf_counter()
    response = await run(request, request.match_info["d"], tabular.decode_datarobot, tabular.encode_datarobot, text_error)
    response.headers["X-DataRobot-Execution-Time"] = str(round((time.perf_counter() - begun) * 1000))
    return response
