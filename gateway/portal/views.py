"""The pages: each shows the data of its JSON twin, with the SELECT that gives it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import orjson
from aiohttp import web

from gateway.handlers.deployments import deployment_json
from gateway.handlers.models import load, model_json
from gateway.handlers.projects import project_json
from gateway.handlers.status import glance
from gateway.handlers.system import parts_of
from gateway.keys import ARTIFACTS, EVENT_LOG, FOLLOWER, REGISTRY
from gateway.portal import charts, pictures
from gateway.snippets import snippet_of
from models.members import EXTERNAL
from models.metrics import METRICS
from stream import queries
from stream.clickhouse import EventLog
from stream.clock import iso, now_us
from stream.comparison import comparison_answer
from stream.custom import answer as custom_answer
from stream.custom import defined
from stream.disagreement import explore
from stream.explainer import drivers
from stream.health import health_answer
from stream.monitoring import accuracy_answer, drift_answer
from stream.projections.catalog import OVER
from stream.projections.watch import Watch
from stream.queries import BUCKETS, Window
from stream.recount import package_of

STATIC = Path(__file__).parent / "static"
PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
MOST_DIFFERENT = 25
SHOWN = ("1h", "6h", "1d", "7d")


def number(value: Any, digits: int = 4) -> str:
    """A number for people."""
    if value is None or isinstance(value, jinja2.Undefined):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}" if abs(value) < 1e5 else f"{value:,.0f}"  # noqa: PLR2004


PAGES.filters["number"] = number
PAGES.filters["short"] = lambda text: str(text)[:12]
PAGES.filters["moment"] = lambda text: str(text)[:16].replace("T", " ")
PAGES.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"


def page(name: str, **data: Any) -> web.Response:
    """Render a template."""
    return web.Response(text=PAGES.get_template(name).render(**data), content_type="text/html")


async def plotly(request: web.Request) -> web.StreamResponse:
    """The chart library, out of the installed package."""
    del request
    spec = find_spec("plotly")
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    return web.FileResponse(folder / "package_data" / "plotly.min.js", headers={"Cache-Control": "max-age=86400", "Content-Type": "text/javascript"})


async def inventory(request: web.Request) -> web.Response:
    """All deployments with their state; projects; the parts. To KServe V1's clients: alive."""
    if request.headers.get("Accept", "") == "application/json":
        return web.json_response({"status": "alive"})
    app = request.app
    catalog = app[FOLLOWER].catalog
    found = [deployment_json(catalog, d) for d in catalog.deployments.values() if d.state != "deleted"]
    tiles = await asyncio.gather(*(glance(app, d) for d in found))
    projects = sorted(catalog.projects.values(), key=lambda p: -p.created_at)[:20]
    watch = catalog.watch
    waiting = [{"deployment": d, "rule": r, "fact": f.fact, "since": iso(f.since)} for (d, r), f in watch.firing.items()]
    runs = sorted((r for r in watch.runs.values() if not r.outcome), key=lambda r: not r.awaits)
    referred = await asyncio.to_thread(referrals, app[EVENT_LOG])
    return page("inventory.html", alerts=waiting, runs=runs, referred=referred, deployments=list(zip(found, tiles, strict=True)), projects=[project_json(p) for p in projects], parts=await parts_of(app))


async def deployment(request: web.Request) -> web.Response:
    """One deployment: is it healthy, why, since when, what to do."""
    app = request.app
    catalog = app[FOLLOWER].catalog
    item = catalog.deployment(request.match_info["d"])
    found = deployment_json(catalog, item)
    bucket = request.query.get("bucket", "")
    bucket = bucket if bucket in BUCKETS else await asyncio.to_thread(fitting_bucket, app[EVENT_LOG], item.name)
    data = await asyncio.to_thread(deployment_data, app, found, bucket, f"{request.scheme}://{request.host}")
    there = {item.now.champion, *dict(item.now.challengers)}
    others = [m for m in catalog.models.values() if (m.task, m.target) == (found["task"], found["target"]) and m.model_id not in there and not m.summary.get("online")]
    others.sort(key=lambda m: -m.registered_at)
    choices = [{"model_id": m.model_id, "blueprint": m.blueprint, "validation": m.summary.get("validation")} for m in others[:40]]
    jobs = [j for j in catalog.jobs.values() if j.deployment == item.name and j.state not in OVER]
    return page("deployment.html", d=found, bucket=bucket, buckets=SHOWN, others=choices, jobs=jobs, channels=list(catalog.watch.channels), **watched(catalog.watch, item.name), **data)


def referrals(log: EventLog) -> list[tuple[str, int]]:
    """How many referred predictions of each deployment nobody has decided."""
    sql = """SELECT deployment, count() AS n FROM predictions WHERE role = 'champion' AND position(humility, ':refer') > 0
    AND event_id NOT IN (SELECT JSONExtractString(payload, 'prediction_id') FROM events WHERE type = 'referral_answered') GROUP BY deployment ORDER BY deployment"""
    return [(row["deployment"], int(row["n"])) for row in log.rows(sql)]


def watched(watch: Watch, name: str) -> dict[str, Any]:
    """Alert rules with their state, policies and their runs."""
    rules = [{"name": r, **rule, "firing": watch.firing.get((d, r)), "raised": watch.raised.get((d, r), 0), "silent": iso(rule["silenced_until"]) if rule.get("silenced_until", 0) > now_us() else ""} for (d, r), rule in watch.rules.items() if d == name]
    policies = [{"name": p, **policy} for (d, p), policy in watch.policies.items() if d == name]
    return {"alert_rules": rules, "policies": policies, "runs": [{"run": r, "at": iso(r.started_at)} for r in watch.runs_of(name)[:20]]}


def fitting_bucket(log: EventLog, name: str, minutes: str = "drift_counts") -> str:
    """The bucket that cuts a deployment's life, by event time or by arrival (`arrivals`), into a readable number of points."""
    rows = log.rows(f"SELECT dateDiff('minute', min(minute), max(minute)) / 60 AS hours FROM {minutes} WHERE deployment = {{d:String}}", {"d": name})
    hours = rows[0]["hours"] if rows else 0
    if minutes == "arrivals" and hours <= 2:  # noqa: PLR2004
        return "1m"
    return "1h" if hours <= 72 else "1d" if hours <= 24 * 60 else "7d"  # noqa: PLR2004


def deployment_data(app: web.Application, found: dict[str, Any], bucket: str, url: str) -> dict[str, Any]:
    """Everything the page shows; `url` is where its reader reached this gateway."""
    log, registry, catalog = app[EVENT_LOG], app[REGISTRY], app[FOLLOWER].catalog
    window = Window(found["name"], bucket=BUCKETS[bucket])
    health = health_answer(log, replace(window, bucket=BUCKETS[fitting_bucket(log, found["name"], "arrivals")]), sketched=True)
    drift = drift_answer(log, registry, window, found["champion"]["model_id"])
    served = accuracy_answer(log, registry, catalog, window)
    by_model = {}
    for m in [found["champion"], *found["challengers"]]:
        alone = served["models"] == [m["model_id"]] and all(m["model_id"] not in v["challengers"] for v in found["versions"])  # then it is the same question
        answer = served if alone else accuracy_answer(log, registry, catalog, Window(found["name"], bucket=window.bucket, model_id=m["model_id"]))
        by_model[m["model_id"]] = {"blueprint": m["blueprint"], "buckets": answer["buckets"], "totals": answer["totals"]}
    comparison = comparison_answer(log, registry, catalog, window)
    champion = model_json(package_of(registry, found["champion"]["model_id"]))
    metric = served["metric"]
    predictions_sql, over_time = queries.predictions_over_time(log, window, lambda m: package_of(registry, m).baseline.unit)
    events = log.rows("SELECT * FROM events WHERE deployment = {d:String} AND type NOT IN ('model_registered', 'project_progressed', 'replay_progressed', 'cohort_matured', 'intervals_adapted', 'notification_ended') ORDER BY sequence DESC LIMIT 15", {"d": found["name"]})
    humility_sql = f"""SELECT splitByChar(':', part)[1] AS rule, splitByChar(':', part)[2] AS action, count() AS rows
FROM predictions ARRAY JOIN splitByChar(',', humility) AS part WHERE {window.where()} AND role = 'champion' AND humility != '' GROUP BY rule, action ORDER BY rule, action"""
    custom = [custom_answer(log, window, one) for one in defined(found["settings"])]
    return {
        "health": health,
        "drift": drift,
        "accuracy": served,
        "metric": metric,
        "higher": METRICS[metric].higher_is_better,
        "comparison": comparison,
        "events": [{**e, "payload": orjson.loads(e["payload"])} for e in events],
        "chart_predictions": charts.predictions(over_time, served["buckets"]),
        "chart_drift": charts.drift_scatter(drift),
        "chart_drift_time": charts.drift_over_time(drift),
        "chart_accuracy": charts.accuracy(by_model, found["champion"]["model_id"], metric, served["totals"]["metrics"][metric]["baseline"]),
        "chart_health": pictures.health(health),
        "chart_comparison": pictures.comparison(comparison, metric),
        "chart_custom": pictures.over_time(custom),
        "predictions_sql": predictions_sql,
        "drivers": drivers(log, package_of(registry, found["champion"]["model_id"]), window) if found["settings"].get("explain") else None,
        "custom": custom,
        "humility": log.rows(humility_sql),
        "humility_sql": humility_sql,
        "snippet": snippet_of(url, found["name"], champion, "curl"),
        "elsewhere": champion["family"] == EXTERNAL,
    }


async def disagreements(request: web.Request) -> web.Response:
    """Where a challenger says something else than the champion."""
    app = request.app
    catalog = app[FOLLOWER].catalog
    item = catalog.deployment(request.match_info["d"])
    model_id = request.match_info["m"]
    found = await asyncio.to_thread(explore, app[EVENT_LOG], app[REGISTRY], Window(item.name), item.now.champion, model_id, MOST_DIFFERENT)
    names = {m: catalog.models[m].blueprint if m in catalog.models else m[:12] for m in (item.now.champion, model_id)}
    return page("disagreements.html", d=item, found=found, champion=names[item.now.champion], challenger=names[model_id], chart=pictures.disagreement(found))


async def project(request: web.Request) -> web.Response:
    """A project: its progress, features and leaderboard."""
    app = request.app
    item = app[FOLLOWER].catalog.project(request.match_info["p"])
    features: dict[str, Any] = orjson.loads(await asyncio.to_thread(app[ARTIFACTS].read, item.features)) if item.features else {"features": []}
    ordered = sorted(features["features"], key=lambda f: -f["importance"])
    return page("project.html", p=project_json(item), features=ordered, models=item.models, metric=item.metric, partition=item.partition, notes=item.notes, refresh=item.state in {"queued", "analyzing", "training"})


async def model(request: web.Request) -> web.Response:
    """A model: importance, held-out scores and curves."""
    package = await load(request)
    importance = sorted(package.metadata["importance"].items(), key=lambda pair: -pair[1])
    insights = package.metadata["insights"]
    return page("model.html", m=package, meta=package.metadata, importance=importance, chart_lift=charts.lift(insights.get("lift")), chart_roc=charts.roc(insights.get("roc")))


async def events(request: web.Request) -> web.Response:
    """The audit trail."""
    rows = await asyncio.to_thread(request.app[EVENT_LOG].rows, "SELECT * FROM events ORDER BY sequence DESC LIMIT 200")
    return page("events.html", events=[{**e, "payload": orjson.loads(e["payload"])} for e in rows])
