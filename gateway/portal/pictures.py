"""The pictures beside the tables of health, comparison, quality, groups, estimates, calibration and disagreement."""

from __future__ import annotations

from typing import Any

from gateway.portal.charts import CHAMPION, FAINT, OTHERS, STATUS, figure, line

MOST_INPUTS, MOST_BINS = 3, 12


def health(found: dict[str, Any]) -> str:
    """Latency quantiles over time; refused requests as bars behind them."""
    buckets = found["buckets"]
    x = [b["at"] for b in buckets]
    refused = {"type": "bar", "x": x, "y": [b["user_errors"] + b["server_errors"] for b in buckets], "name": "refused requests", "marker": {"color": "#f3d3d6"}}
    quantiles = zip(("p50", "p95", "p99"), (CHAMPION, OTHERS[1], OTHERS[0]), strict=True)
    lines = [{**line(x, [None if b["latency_us"][q] is None else b["latency_us"][q] / 1000 for b in buckets], q, colour), "yaxis": "y2"} for q, colour in quantiles]
    return figure([refused, *lines], yaxis={"side": "right", "showgrid": False, "title": {"text": "refused"}}, yaxis2={"overlaying": "y", "side": "left", "title": {"text": "ms a request"}, "rangemode": "tozero"}, margin={"r": 60})


def comparison(found: dict[str, Any], metric: str) -> str:
    """Each challenger's difference to the champion on the same rows, with its interval; nothing where none has one."""
    shown = [(c["blueprint"][:40], m) for c in found["challengers"] if (m := c["metrics"].get(metric)) and m.get("interval")]
    if not shown:
        return ""
    middles = [sum(m["interval"]) / 2 for _, m in shown]
    marks = {
        "type": "scatter",
        "mode": "markers",
        "x": middles,
        "y": [name for name, _ in shown],
        "error_x": {"type": "data", "array": [m["interval"][1] - middle for (_, m), middle in zip(shown, middles, strict=True)], "thickness": 2},
        "marker": {"size": 10, "color": [CHAMPION if m["better"] else FAINT for _, m in shown]},
    }
    zero = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": 0, "x1": 0, "line": {"color": "#9aa5b1", "dash": "dash", "width": 1}}
    return figure([marks], shapes=[zero], xaxis={"title": {"text": f"difference in {metric} (green: better)"}}, height=110 + 34 * len(shown))


def over_time(metrics: list[dict[str, Any]]) -> str:
    """Custom metrics over time, each on the scale of its own greatest value."""
    data = []
    for metric, colour in zip(metrics, (CHAMPION, *OTHERS), strict=False):
        values = [b["value"] for b in metric["buckets"]]
        most = max((abs(v) for v in values if v is not None), default=0) or 1
        data.append(line([b["at"] for b in metric["buckets"]], [None if v is None else v / most for v in values], f"{metric['name']} (1 = {most:.4g})", colour))
    return figure(data, yaxis={"title": {"text": "share of the greatest"}}) if data else ""


def quality(found: dict[str, Any]) -> str:
    """What is more often missing, out of range, unseen or of the wrong type than in the reference, in hundredths of the rows; nothing where nothing is."""
    data = []
    kinds = ("missing", "out_of_range", "unseen", "wrong_type")
    for kind, pattern in zip(kinds, ("", "/", "x", "."), strict=True):
        moved = [(i["name"], p, i["status"]) for i in found["inputs"] if (p := i["problems"].get(kind)) and p["production"] != p["reference"]]
        if moved:
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": kind.replace("_", " "),
                    "y": [name for name, *_ in moved],
                    "x": [100 * (p["production"] - p["reference"]) for _, p, _ in moved],
                    "marker": {"color": [STATUS[status] for *_, status in moved], "pattern": {"shape": pattern}},
                }
            )
    rows = len({name for one in data for name in one["y"]})
    return figure(data, xaxis={"title": {"text": "more than in the reference, % of the rows"}}, barmode="group", height=120 + 26 * rows) if data else ""


def fairness(found: dict[str, Any]) -> str:
    """Each group's share beside the best-treated group's, by metric, and the bound below which it is failing."""
    groups = [g["group"] for g in found["groups"]]
    metrics = [m for m, rows in found["metrics"].items() if any(r["ratio"] is not None for r in rows)]
    ratios = {(m, r["group"]): r["ratio"] for m in metrics for r in found["metrics"][m]}
    data = [{"type": "bar", "name": group or "(none)", "x": [m.replace("_", " ") for m in metrics], "y": [ratios.get((m, group)) for m in metrics], "marker": {"color": colour}} for group, colour in zip(groups, (CHAMPION, *OTHERS), strict=False)]
    bound = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": found["bound"], "y1": found["bound"], "line": {"color": STATUS["failing"], "dash": "dot", "width": 1}}
    return figure(data, shapes=[bound], yaxis={"title": {"text": "beside the best-treated group"}, "rangemode": "tozero"}) if metrics else ""


def estimated(found: dict[str, Any] | None) -> str:
    """Each metric as it was estimated before the actuals, and as it came, on the rows whose actual is known; nothing where there are none."""
    shown = [(m, p) for m, p in (found or {}).get("on_matched_rows", {}).items() if p["estimated"] is not None and p["realised"] is not None and max(abs(p["estimated"]), abs(p["realised"])) <= 1]
    if not shown:
        return ""
    y = [m for m, _ in shown]
    points = [{"type": "scatter", "mode": "markers", "name": name, "x": [p[name] for _, p in shown], "y": y, "marker": {"size": 9, "color": colour, "symbol": symbol}} for name, colour, symbol in (("estimated", OTHERS[1], "circle-open"), ("realised", CHAMPION, "circle"))]
    return figure(points, height=110 + 24 * len(shown))


def confusion(found: dict[str, Any] | None) -> str:
    """What came true against what was said, as shares of what came true."""
    if not found:
        return ""
    table, names = found["confusion"]["actual_by_predicted"], ["unseen" if n is None else str(n) for n in found["confusion"]["labels"]]
    rows = [k for k, row in enumerate(table) if sum(row)]
    shares = [[n / sum(table[k]) for n in table[k]] for k in rows]
    heat = {"type": "heatmap", "z": shares, "x": names[: len(shares[0])], "y": [names[k] for k in rows], "text": [table[k] for k in rows], "texttemplate": "%{text}", "colorscale": [[0, "#f4f7f9"], [1, CHAMPION]], "showscale": False} if rows else {}
    return figure([heat], xaxis={"title": {"text": "said"}, "type": "category"}, yaxis={"title": {"text": "came true"}, "type": "category", "autorange": "reversed"}, height=120 + 44 * len(rows)) if rows else ""


def calibration(found: list[dict[str, Any]] | None) -> str:
    """What was said and what came, group by group with its interval; on the dashed line they are the same."""
    if not found:
        return ""
    x, y = [g["predicted"] for g in found], [g["actual"] for g in found]
    around = [g["interval"] or [g["actual"], g["actual"]] for g in found]
    bars = {"type": "data", "symmetric": False, "array": [high - v for v, (_, high) in zip(y, around, strict=True)], "arrayminus": [v - low for v, (low, _) in zip(y, around, strict=True)], "thickness": 1.5}
    points = {"type": "scatter", "mode": "lines+markers", "x": x, "y": y, "error_y": bars, "marker": {"size": 8, "color": CHAMPION}, "line": {"color": CHAMPION, "width": 1}, "name": "came"}
    ends = [min(x + y), max(x + y)]
    same = {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": {"color": "#9aa5b1", "dash": "dash", "width": 1}, "name": "said"}
    return figure([same, points], xaxis={"title": {"text": "said, mean of the group"}}, yaxis={"title": {"text": "came"}}, height=300, showlegend=False)


def disagreement(found: dict[str, Any]) -> str:
    """How far apart two models are at the values of the inputs that explain it most."""
    shown = [i for i in found["inputs"][:MOST_INPUTS] if i["groups"]]
    bars = [(f"{i['name']}: {g['label']}", g["mean"], colour) for i, colour in zip(shown, (CHAMPION, *OTHERS), strict=False) for g in i["groups"][:MOST_BINS]]
    if not bars:
        return ""
    data = [{"type": "bar", "orientation": "h", "y": [name for name, *_ in bars], "x": [mean for _, mean, _ in bars], "marker": {"color": [colour for *_, colour in bars]}}]
    return figure(data, xaxis={"title": {"text": "mean difference"}}, yaxis={"autorange": "reversed"}, height=110 + 20 * len(bars))
