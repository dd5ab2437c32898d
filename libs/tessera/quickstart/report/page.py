"""Fills the page's template with figures and pictures."""

from __future__ import annotations

from datetime import UTC, datetime

from tessera.pages import document
from tessera.quickstart.plan import CANARY_PERCENT, DRIFT_THRESHOLD
from tessera.quickstart.report import charts, lineage
from tessera.quickstart.results import Results


def render(results: Results) -> str:
    """The page as one HTML document that needs nothing else."""
    pictures = {
        "drift": charts.drift(results.drift, results.turns),
        "quality": charts.quality(results.quality, results.turns),
        "reliability": charts.reliability(results.rows),
        "phases": charts.phases(results.seconds),
        "lineage": lineage.draw(results.lineage),
    }
    return document.render(
        "page.html.j2",
        package="tessera.quickstart.report",
        policy=document.policy(),
        figures=results.figures,
        plan=results.plan,
        turns=results.turns,
        pictures=pictures,
        seconds=list(results.seconds.values()),
        threshold=DRIFT_THRESHOLD,
        canary_percent=CANARY_PERCENT,
        made_at=datetime.now(UTC),
    )
