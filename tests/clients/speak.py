"""Run by the clients' own Python: speaks to a deployment with each real client; prints what it was told.

speak.py PORT DEPLOYMENT < rows.json
"""

import asyncio
import json
import os
import sys

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

port, name = sys.argv[1:]
rows = json.load(sys.stdin)
address = f"127.0.0.1:{port}"
told = {}


def array(item):
    values = [row[item["name"]] for row in rows]
    if item["datatype"] == "BYTES":
        return np.array([[str(v).encode()] for v in values], dtype=object)
    return np.array([[np.nan if v is None else float(v)] for v in values], dtype=np.float64)


def triton_inputs(kind, meta, binary):
    found = []
    for item in meta["inputs"]:
        values = array(item)
        one = kind.InferInput(item["name"], list(values.shape), item["datatype"])
        one.set_data_from_numpy(values, binary_data=binary)
        found.append(one)
    return found


def read(result):
    return [t.decode() if isinstance(t, bytes) else t for t in result.as_numpy("predict").ravel().tolist()], result.as_numpy("predict_proba").ravel().tolist()


client = triton.InferenceServerClient(address)
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(name)
meta = client.get_model_metadata(name)
assert client.get_server_metadata()["name"] == "champion"
for binary in (True, False):
    told[f"triton binary={binary}"] = read(client.infer(name, triton_inputs(triton, meta, binary), request_id="r1"))
    asked = [triton.InferRequestedOutput("predict", binary_data=binary), triton.InferRequestedOutput("predict_proba", binary_data=binary)]
    told[f"triton outputs binary={binary}"] = read(client.infer(name, triton_inputs(triton, meta, binary), outputs=asked, request_compression_algorithm="gzip", response_compression_algorithm="gzip"))
try:
    client.infer("nowhere", triton_inputs(triton, meta, True))
    raise AssertionError("an unknown model was answered")
except triton.InferenceServerException as error:
    if "nowhere" not in str(error):
        raise
client.close()


async def asynchronous():
    found = triton_aio.InferenceServerClient(address)
    told["triton asyncio"] = read(await found.infer(name, triton_inputs(triton, meta, True)))
    await found.close()
    for protocol in ("v2",):
        rest = InferenceRESTClient(config=RESTConfig(protocol=protocol))
        base = f"http://{address}"
        assert await rest.is_server_live(base)
        assert await rest.is_server_ready(base)
        assert await rest.is_model_ready(base, name)
        for binary in (True, False):
            inputs = []
            for item in meta["inputs"]:
                values = array(item)
                one = InferInput(name=item["name"], shape=list(values.shape), datatype=item["datatype"])
                one.set_data_from_numpy(values, binary_data=binary)
                inputs.append(one)
            answer = await rest.infer(base, InferRequest(model_name=name, infer_inputs=inputs), model_name=name)
            outputs = {o.name: o for o in answer.outputs}
            assert answer.model_name == name
            told[f"kserve v2 binary={binary}"] = ([str(v.decode() if isinstance(v, bytes) else v) for v in outputs["predict"].as_numpy().ravel().tolist()], outputs["predict_proba"].as_numpy().ravel().tolist())
    rest = InferenceRESTClient(config=RESTConfig(protocol="v1"))
    answer = await rest.infer(f"http://{address}", {"instances": rows}, model_name=name)
    told["kserve v1"] = (answer["predictions"], None)
    assert await rest.is_model_ready(f"http://{address}", name)


asyncio.run(asynchronous())

from mlflow.deployments import get_deploy_client  # noqa: E402

mlflow = get_deploy_client(f"http://{address}")
told["mlflow deployments"] = (mlflow.predict(endpoint=name, inputs={"dataframe_records": rows})["predictions"], None)
print(json.dumps(told))
