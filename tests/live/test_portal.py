"""The portal: every button calls something that exists, with fields that it takes."""

import html
import re

import pytest
from aiohttp import web

from gateway.routes import ROUTES

FORM = re.compile(r'data-call="(\w+) ([^"]+)"')


def calls(system, page):
    return [(method, html.unescape(path)) for method, path in FORM.findall(system.api.text(page))]


def known(method, path):
    """Whether a route takes this call; {name} in a form's path stands for a value."""
    router = web.UrlDispatcher()
    found = [r for r in ROUTES if r.method == method and router.add_route(r.method, r.path, r.handler)]
    path = re.sub(r"\{\w+\}", "value", path)
    return any(re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", r.path), path) for r in found)


@pytest.fixture(scope="module")
def watched(system, deployed):
    system.api.call("PUT", "/v1/deployments/flights/alert-rules/quiet", {"measure": "silence.actuals", "above": 10**9})
    system.api.call("PUT", "/v1/deployments/flights/policies/by-hand", {"action": "register"})


def test_every_button_of_every_page_calls_a_route_that_exists(system, flights, deployed, watched):
    pages = {"/": 1, f"/projects/{flights.project}": len(flights.models), "/deployments/flights": 8}
    for page, least in pages.items():
        found = calls(system, page)
        assert len(found) >= least, page
        for method, path in found:
            assert known(method, path), (page, method, path)
    assert not known("POST", "/v1/nowhere")


def test_the_pages_name_what_they_act_on(system, flights, deployed, watched):
    found = calls(system, "/deployments/flights")
    assert ("POST", "/v1/deployments/flights/alert-rules/quiet/test") in found
    assert ("POST", "/v1/deployments/flights/policies/by-hand/runs") in found
    assert ("DELETE", f"/v1/deployments/flights/challengers/{deployed[1]}") in found
    text = system.api.text(f"/projects/{flights.project}")
    assert text.count("<button>Deploy</button>") == len(flights.models)
    assert 'value="flight_id"' in text  # the deployment ties actuals by what the project named


def test_the_script_is_served(system):
    assert "data-call" in system.api.text("/static/actions.js")
