"""Bare HTTP for the tests."""

import json
import time
import urllib.error
import urllib.request


def call(system, method, path, body=None, headers=None, parse=True):
    """Status, body (JSON unless told), headers."""
    url = f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}{path}"
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            data = answer.read()
            return answer.status, json.loads(data) if parse else data, answer.headers
    except urllib.error.HTTPError as error:
        data = error.read()
        return error.code, json.loads(data) if parse else data, error.headers


def until(condition):
    """Wait until something holds, twenty seconds at most."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
