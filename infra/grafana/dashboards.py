"""Makes Grafana's dashboards from their code: `dashboards.py generate | check`.

The JSON under `provisioning/dashboards/` is committed, so that Grafana needs nothing of this.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infra.grafana.boards.model import Dashboard
from infra.grafana.boards.monitoring import MONITORING
from infra.grafana.boards.platform import PLATFORM
from infra.grafana.boards.render import render
from infra.grafana.boards.serving import SERVING
from infra.grafana.boards.trace import TRACE
from infra.tasks.kept import keep

ROOT: Final = Path(__file__).resolve().parents[2]

DASHBOARDS: Final[Mapping[str, Dashboard]] = {
    "platform": PLATFORM,
    "serving": SERVING,
    "monitoring": MONITORING,
    "trace": TRACE,
}
"""Every dashboard, by the name of its file."""
TARGET: Final = ROOT / "infra/grafana/provisioning/dashboards"


def main(arguments: list[str], target: Path = TARGET) -> int:
    """Writes the dashboards, or checks that they are current; returns the exit status."""
    made = {target / f"{name}.json": render(board) for name, board in DASHBOARDS.items()}
    return keep(arguments, made, "infra/grafana/dashboards.py", there=target.glob("*.json"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
