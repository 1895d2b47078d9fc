"""A comparison page that is there from the start: charts of a new MLflow experiment, chosen by us.

MLflow keeps a shared view of an experiment as a tag. Its format is not documented: a browser test looks at the page,
and where a future MLflow ignores the tag, its own default page appears.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

KEY = "orchestrator"
"""Key of the view, part of links to it."""
_CURVES = (
    ("validation/total", "held-out terms, total"),
    ("error/l2", "relative L2 error"),
    ("loss", "training loss (weighted)"),
    ("time/train_s", "seconds of training"),
)
_COLUMNS = (
    "params.`backend`",
    "params.`seed`",
    "metrics.`validation/total`",
    "metrics.`error/l2`",
    "metrics.`time/train_s`",
)


def experiment_tags(name: str) -> dict[str, str]:
    """Tags of a new experiment: its kind, a note, and the saved view."""
    now = int(time.time() * 1000)
    view = {"name": "Comparison", "createdAt": now, "updatedAt": now, "state": _packed(_state())}
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": f"Runs of `{name}`, recorded by orchestrator.",
        f"mlflow.sharedViewState.{KEY}": json.dumps(view),
    }


def _packed(state: dict[str, Any]) -> str:
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()


def _state() -> dict[str, Any]:
    """All runs, newest first; logarithmic curves in one section; figures and every other chart in their own."""
    section = "section-comparison"
    charts = [
        _line(f"chart-{i}", section, metric, title, log=metric != "time/train_s")
        for i, (metric, title) in enumerate(_CURVES)
    ]
    charts.append(_image("chart-solution", section, "current/solution"))
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "columnOrder": [],
        "columnWidths": {},
        "selectedColumns": ["attributes.`Source`", *_COLUMNS],
        "runsHiddenMode": "SHOWALL",
        "groupBy": None,
        "groupsExpanded": {},
        "compareRunSections": [{"uuid": section, "name": "Comparison", "display": True, "isReordered": False}],
        "compareRunCharts": charts,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _line(uuid: str, section: str, metric: str, title: str, *, log: bool) -> dict[str, Any]:
    return {
        **_card(uuid, section, "LINE"),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": title,
        "scaleType": "log" if log else "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "lineSmoothness": 0,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "ignoreOutliers": False,
    }


def _image(uuid: str, section: str, key: str) -> dict[str, Any]:
    return {**_card(uuid, section, "IMAGE"), "imageKeys": [key], "step": 0, "showRunParams": False}


def _card(uuid: str, section: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
    }
