"""Makes Grafana's dashboards from their code: `dashboards.py generate | check`.

The JSON under `provisioning/dashboards/` is committed, so that Grafana needs nothing of this.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from infra.grafana.boards.model import Dashboard  # noqa: E402
from infra.grafana.boards.monitoring import MONITORING  # noqa: E402
from infra.grafana.boards.platform import PLATFORM  # noqa: E402
from infra.grafana.boards.render import render  # noqa: E402
from infra.grafana.boards.serving import SERVING  # noqa: E402
from infra.grafana.boards.trace import TRACE  # noqa: E402

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
    if arguments == ["generate"]:
        for path, text in made.items():
            path.write_text(text)
        return 0
    if arguments == ["check"]:
        stale = [
            path for path, text in made.items() if not path.exists() or path.read_text() != text
        ]
        stale += [path for path in target.glob("*.json") if path not in made]
        for path in stale:
            sys.stderr.write(f"{path.name} is stale; run infra/grafana/dashboards.py generate\n")
        return 1 if stale else 0
    sys.stderr.write("usage: dashboards.py generate | check\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
