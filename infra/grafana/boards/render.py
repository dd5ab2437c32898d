"""Dashboards as Grafana's JSON."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from typing import Any, Final

from infra.grafana.boards.model import (
    CLICKHOUSE,
    PROMETHEUS,
    Column,
    Dashboard,
    DataSource,
    Kind,
    Panel,
    Prom,
    PromVariable,
    Row,
    Sql,
    Step,
    TextVariable,
    Variable,
)

__all__ = ["render"]

_SCHEMA: Final = 41
_PAGE: Final = 24

Json = dict[str, Any]


def render(dashboard: Dashboard) -> str:
    """The dashboard as Grafana provisions it; the same for the same dashboard."""
    return json.dumps(_dashboard(dashboard), indent=2, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> Json:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": list(dashboard.tags),
        "schemaVersion": _SCHEMA,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": dashboard.refresh,
        "time": {"from": f"now-{dashboard.span}", "to": "now"},
        "links": [
            {
                "title": "Tessera",
                "type": "dashboards",
                "tags": ["tessera"],
                "asDropdown": False,
                "keepTime": True,
                "includeVars": False,
            }
        ],
        "annotations": {"list": []},
        "templating": {"list": [_variable(variable) for variable in dashboard.variables]},
        "panels": _panels(dashboard.rows),
    }


def _panels(rows: Sequence[Row]) -> list[Json]:
    """Rows under each other, each with its panels from left to right."""
    found: list[Json] = []
    top = 0
    number = 0
    for row in rows:
        number += 1
        heading: Json = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.closed,
            "gridPos": {"h": 1, "w": _PAGE, "x": 0, "y": top},
            "panels": [],
        }
        found.append(heading)
        top += 1
        left = tallest = 0
        for panel in row.panels:
            number += 1
            if left + panel.width > _PAGE:
                top, left, tallest = top + tallest, 0, 0
            place = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            made = {"id": number, "gridPos": place, **_panel(panel)}
            (heading["panels"] if row.closed else found).append(made)
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return found


def _panel(panel: Panel) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "noValue": panel.empty,
        "custom": _drawing(panel),
        "color": {"mode": "palette-classic"},
    }
    if panel.minimum is not None and panel.kind is not Kind.TABLE:
        defaults["min"] = panel.minimum
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.thresholds:
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel.thresholds)}
        if panel.kind is not Kind.TIME_SERIES:
            defaults["color"] = {"mode": "thresholds"}
    elif panel.kind is Kind.STAT:
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps((Step(None, "blue"),))}
        defaults["color"] = {"mode": "thresholds"}
    return {
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": _source(panel.source),
        "targets": [
            _target(query, letter)
            for query, letter in zip(panel.queries, string.ascii_uppercase, strict=False)
        ],
        "fieldConfig": {
            "defaults": defaults,
            "overrides": [_override(column) for column in panel.columns],
        },
        "options": _options(panel),
    }


def _drawing(panel: Panel) -> Json:
    if panel.kind is Kind.TABLE:
        return {"align": "auto", "filterable": True, "inspect": True}
    if panel.kind is not Kind.TIME_SERIES:
        return {}
    drawing: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if panel.stacked else 8,
        "showPoints": "always" if panel.points else "never",
        "pointSize": 4,
        "spanNulls": panel.points,
        "stacking": {"mode": "normal" if panel.stacked else "none"},
    }
    if panel.thresholds:
        drawing["thresholdsStyle"] = {"mode": "dashed"}
    return drawing


def _options(panel: Panel) -> Json:
    match panel.kind:
        case Kind.TIME_SERIES:
            return {
                "legend": {
                    "displayMode": "table",
                    "placement": "bottom",
                    "calcs": ["lastNotNull", "max"],
                    "sortBy": "Max",
                    "sortDesc": True,
                },
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case Kind.STAT:
            return {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "orientation": "auto",
                "colorMode": "value",
                "graphMode": "area",
                "textMode": "auto",
            }
        case Kind.TRACE:
            return {}
        case Kind.TABLE:
            return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
        case Kind.LOGS:
            return {
                "showTime": True,
                "showLabels": False,
                "showCommonLabels": False,
                "wrapLogMessage": True,
                "prettifyLogMessage": False,
                "enableLogDetails": True,
                "dedupStrategy": "none",
                "sortOrder": "Descending",
            }


def _target(query: Prom | Sql, letter: str) -> Json:
    if isinstance(query, Prom):
        return {
            "refId": letter,
            "datasource": _source(PROMETHEUS),
            "editorMode": "code",
            "expr": query.expression,
            "legendFormat": query.legend,
            "instant": query.instant,
            "range": not query.instant,
            "format": "time_series",
        }
    kind, number = query.shape.value
    return {
        "refId": letter,
        "datasource": _source(CLICKHOUSE),
        "editorType": "sql",
        "queryType": kind,
        "format": number,
        "rawSql": query.lines,
    }


def _override(column: Column) -> Json:
    properties: list[Json] = []
    if column.unit is not None:
        properties.append({"id": "unit", "value": column.unit})
    if column.width is not None:
        properties.append({"id": "custom.width", "value": column.width})
    if column.link is not None:
        link = {"title": column.link.title, "url": column.link.url}
        properties.append({"id": "links", "value": [link]})
    return {"matcher": {"id": "byName", "options": column.name}, "properties": properties}


def _variable(variable: Variable) -> Json:
    named: Json = {"name": variable.name, "label": variable.label, "hide": 0}
    if isinstance(variable, TextVariable):
        return {**named, "type": "textbox", "query": "", "current": {"text": "", "value": ""}}
    made: Json = {
        **named,
        "type": "query",
        "refresh": 2,
        "sort": 1,
        "skipUrlSync": False,
        "regex": "",
        "options": [],
    }
    if isinstance(variable, PromVariable):
        return {
            **made,
            "datasource": _source(PROMETHEUS),
            "definition": variable.query,
            "query": {
                "qryType": 1,
                "query": variable.query,
                "refId": "PrometheusVariableQueryEditor-VariableQuery",
            },
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
    made |= {
        "datasource": _source(CLICKHOUSE),
        "definition": variable.lines,
        "query": {"editorType": "sql", "rawSql": variable.lines, "refId": variable.name},
        "multi": variable.many,
        "includeAll": variable.many,
        "current": {},
    }
    if variable.many:
        made["current"] = {"text": ["All"], "value": ["$__all"]}
    return made


def _source(source: DataSource) -> Json:
    return {"type": source.type, "uid": source.uid}


def _steps(thresholds: Sequence[Step]) -> list[Json]:
    return [{"color": step.color, "value": step.value} for step in thresholds]
