"""Charts as Plotly's JSON: data in, a figure out; the page draws it with the packaged library."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from models.drift import IMPORTANT

INK, CHAMPION, FAINT = "#1f2933", "#0b6e4f", "#b8c1cc"
OTHERS = ("#d1495b", "#3066be", "#e09f3e", "#7768ae", "#00798c")
STATUS = {"passing": "#0b6e4f", "warning": "#e09f3e", "failing": "#d1495b", "unknown": "#b8c1cc"}


def figure(data: list[dict[str, Any]], **layout: Any) -> str:
    """A figure as JSON for a script element."""
    base = {
        "margin": {"l": 56, "r": 16, "t": 12, "b": 40},
        "height": 300,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": 1.14, "x": 0},
        "xaxis": {"gridcolor": "#eef1f4", "automargin": True},
        "yaxis": {"gridcolor": "#eef1f4", "zerolinecolor": "#dde3ea", "automargin": True},
    }
    for name, value in layout.items():
        base[name] = {**base[name], **value} if isinstance(value, dict) and isinstance(base.get(name), dict) else value  # type: ignore[dict-item]
    return orjson.dumps({"data": data, "layout": base}, option=orjson.OPT_SERIALIZE_NUMPY).decode().replace("</", "<\\/")


def line(x: list[Any], y: list[Any], name: str, colour: str, **more: Any) -> dict[str, Any]:
    """A line with points."""
    return {"type": "scatter", "mode": "lines+markers", "x": x, "y": y, "name": name, "line": {"color": colour, "width": 2}, "marker": {"size": 5}, **more}


def moment(micros: int) -> str:
    """Microseconds as an axis value."""
    return datetime.fromtimestamp(micros / 1e6, tz=UTC).isoformat()


def predictions(rows: list[dict[str, Any]], matched: list[dict[str, Any]]) -> str:
    """Rows over time as bars; mean prediction and mean actual as lines."""
    x = [moment(r["at"]) for r in rows]
    data: list[dict[str, Any]] = [
        {"type": "bar", "x": x, "y": [r["rows"] for r in rows], "name": "rows", "marker": {"color": "#e4e9ee"}},
        {**line(x, [r["mean"] for r in rows], "mean prediction", CHAMPION), "yaxis": "y2"},
    ]
    if any("mean_actual" in b for b in matched):
        dotted = line([b["at"] for b in matched], [b.get("mean_actual") for b in matched], "mean actual", OTHERS[0], line={"color": OTHERS[0], "width": 2, "dash": "dot"})
        data.append({**dotted, "yaxis": "y2"})
    # the second axis lies over the first: lines before bars
    return figure(data, yaxis={"side": "right", "showgrid": False, "title": {"text": "rows"}}, yaxis2={"overlaying": "y", "side": "left", "title": {"text": "mean"}}, margin={"r": 60})


def drift_scatter(drift: dict[str, Any]) -> str:
    """Each input by importance and PSI, coloured by status; the thresholds as lines: four quadrants."""
    features = [f for f in drift["totals"]["features"] if f["psi"] is not None]
    data = []
    for status, colour in STATUS.items():
        chosen = [f for f in features if f["status"] == status]
        if chosen:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text",
                    "name": status,
                    "x": [f["importance"] for f in chosen],
                    "y": [f["psi"] for f in chosen],
                    "text": [f["name"] for f in chosen],
                    "textposition": "top center",
                    "textfont": {"size": 10},
                    "marker": {"color": colour, "size": 10},
                }
            )
    shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"color": c, "dash": "dot", "width": 1}} for y, c in ((drift["thresholds"]["warning"], STATUS["warning"]), (drift["thresholds"]["failing"], STATUS["failing"]))]
    shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": IMPORTANT, "x1": IMPORTANT, "line": {"color": FAINT, "dash": "dot", "width": 1}})
    return figure(data, shapes=shapes, xaxis={"title": {"text": "importance"}, "range": [-0.08, 1.12]}, yaxis={"title": {"text": "drift (PSI)"}, "rangemode": "tozero"})


def drift_over_time(drift: dict[str, Any]) -> str:
    """PSI a bucket of the five inputs that drift most, and of the prediction."""
    totals = sorted((f for f in drift["totals"]["features"] if f["psi"] is not None), key=lambda f: -f["psi"])[:5]
    x = [b["at"] for b in drift["buckets"]]
    data = [line(x, [b["features"].get(f["name"]) for b in drift["buckets"]], f["name"], colour) for f, colour in zip(totals, OTHERS, strict=False)]
    data.append(line(x, [b["prediction"] for b in drift["buckets"]], "prediction", INK, line={"color": INK, "width": 2, "dash": "dot"}))
    return figure(data, yaxis={"title": {"text": "PSI"}, "rangemode": "tozero"})


def accuracy(by_model: dict[str, Any], champion: str, metric: str, baseline: float | None) -> str:
    """The metric of champion and challengers over time, and the baseline from the holdout."""
    data = []
    colours = iter(OTHERS)
    for model_id, found in by_model.items():
        own = model_id == champion
        colour = CHAMPION if own else next(colours, FAINT)
        label = ("champion: " if own else "") + found["blueprint"][:48]
        x, y = [b["at"] for b in found["buckets"]], [b["metrics"][metric] for b in found["buckets"]]
        data.append(line(x, y, label, colour, line={"color": colour, "width": 3 if own else 1.5}))
    shapes = []
    if baseline is not None:
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": baseline, "y1": baseline, "line": {"color": "#9aa5b1", "dash": "dash", "width": 1}})
    return figure(data, shapes=shapes, yaxis={"title": {"text": metric}})


def lift(found: dict[str, Any] | None) -> str:
    """Mean predicted and mean actual in ten groups."""
    if not found:
        return ""
    x = list(range(1, 11))
    return figure([line(x, found["predicted"], "predicted", CHAMPION), line(x, found["actual"], "actual", OTHERS[0])], xaxis={"title": {"text": "tenth of the holdout by prediction"}})


def roc(found: dict[str, Any] | None) -> str:
    """The ROC curve."""
    if not found:
        return ""
    data = [line(found["false_positive_rate"], found["true_positive_rate"], "model", CHAMPION, mode="lines"), line([0, 1], [0, 1], "chance", FAINT, mode="lines")]
    return figure(data, xaxis={"title": {"text": "false positive rate"}}, yaxis={"title": {"text": "true positive rate"}})
