"""The portal: every button calls something that exists, with fields that it takes."""

import html
import re

import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway.cli import main
from gateway.client import Refusal
from gateway.routes import ROUTES
from tests.support import deploy_small

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
    pages = {"/": 1, f"/projects/{flights.project}": len(flights.models), "/deployments/flights": 8, "/deployments/flights/explore": 4}
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


@pytest.fixture(scope="module")
def explained(system, tmp_path_factory):
    """A deployment with a challenger whose answers are all explained, asked twenty rows; the request's id."""
    deploy_small(system, tmp_path_factory.mktemp("explained"), names=("told",))
    system.api.call("PATCH", "/v1/deployments/told", {"explain": 1.0})
    answer = system.api.post("/v1/deployments/told/predictions", {"rows": [{"x": k / 10 - 1, "z": k % 3} for k in range(20)]})
    system.api.get("/v1/deployments/told/drift", after=answer["position"])
    return answer["request_id"]


def test_what_drove_the_answers_is_in_the_receipt_the_page_and_the_terminal(system, explained):
    rows = system.api.get(f"/v1/predictions/{explained}")["predictions"]
    champion = [r for r in rows if r["role"] == "champion"]
    assert len(champion) == 20
    assert all(set(r["explanation"]["effects"]) == set(r["features"]) for r in champion)
    assert not any(r["explanation"] for r in rows if r["role"] != "champion")
    found = system.api.get("/v1/deployments/told/explanations")
    assert (found["rows"], found["inputs"][0]["name"]) == (20, "x")
    assert "20 explained rows" in system.api.text("/deployments/told")
    environment = {"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"}
    shown = CliRunner().invoke(main, ["explain", "told"], env=environment)
    assert (shown.exit_code, "20 explained rows, effects in log odds" in " ".join(shown.output.split())) == (0, True)
    off = CliRunner().invoke(main, ["explain", "told", "--share", "0", "--json"], env=environment)
    assert off.exit_code == 0
    assert "explain" not in system.api.get("/v1/deployments/told")["settings"]
    with pytest.raises(Refusal, match="share"):
        system.api.call("PATCH", "/v1/deployments/told", {"explain": 2})


def test_where_two_models_differ_has_a_page_and_a_command(system, explained):
    challenger = system.api.get("/v1/deployments/told")["challengers"][0]["model_id"]
    assert f'href="/deployments/told/disagreements/{challenger}"' in system.api.text("/deployments/told")
    text = system.api.text(f"/deployments/told/disagreements/{challenger}")
    assert "<b>20</b> rows that both scored" in text
    assert f'href="/v1/predictions/{explained}"' in text
    shown = CliRunner().invoke(main, ["disagree", "told", "--limit", "3"], env={"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"})
    assert (shown.exit_code, "20 rows scored by both" in " ".join(shown.output.split())) == (0, True)
    for wrong in ("0", "x", "1001"):
        with pytest.raises(Refusal, match="limit"):
            system.api.get("/v1/deployments/told/disagreements", limit=wrong)


def test_any_window_segment_and_time_has_a_page(system, flights, deployed):
    system.api.post("/v1/deployments", {"name": "explored", "model_id": deployed[0], "association_id": "flight_id", "timestamp": "time_hour"})
    rows = [{**row, "flight_id": f"explored-{row['flight_id']}"} for row in flights.rows[:300]]
    position = system.api.post("/v1/deployments/explored/predictions", {"rows": rows})["position"]
    system.api.get("/v1/deployments/explored", after=position)
    page = "/deployments/explored/explore?bucket=1d&from=2013-07-01&to=2013-08-01&segment=carrier%3DUA&by=origin"
    text = html.unescape(system.api.text(page))
    count = system.sql("SELECT count() AS n FROM predictions WHERE deployment = 'explored' AND role = 'champion' AND features_cat['carrier'] = 'UA' AND occurred_at >= '2013-07-01' AND occurred_at < '2013-08-01'")[0]["n"]
    assert f"{count:,} rows" in text
    assert "Groups of origin" in text
    assert 'value="carrier=UA"' in text
    weekdays = html.unescape(system.api.text("/deployments/explored/explore?bucket=7d&from=2013-07-10&reference=weekdays"))
    assert "drift is against 2013-05-15 00:00 to 2013-07-10 00:00" in weekdays
    for wrong, said in (("from=yesterday", "from:"), ("segment=planet%3DMars", "planet"), ("reference=never&bucket=1d", "reference is training"), ("as_of=2000-01-01", "no deployment")):
        assert said in html.unescape(system.api.text(f"/deployments/explored/explore?{wrong}")), wrong


def test_the_script_is_served(system):
    assert "data-call" in system.api.text("/static/actions.js")
