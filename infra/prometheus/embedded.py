"""Prints a Prometheus configuration for a running embedded stack: `embedded.py [DATA_DIRECTORY]`.

prometheus --config.file=<(.venv/bin/python infra/prometheus/embedded.py)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from devstack import Stack, StackError, attach

__all__ = ["configuration", "pages"]

_SUFFIX: Final = "_metrics"


def pages(stack: Stack) -> dict[str, str]:
    """URL of every metrics page by process, named as in `prometheus.yml`."""
    return {
        door.removesuffix(_SUFFIX).replace("_", "-"): url
        for door, url in stack.urls.items()
        if door.endswith(_SUFFIX)
    }


def configuration(pages: Mapping[str, str], interval: str = "10s") -> dict[str, Any]:
    """What `prometheus.yml` is for a cluster: the same jobs and labels, other addresses."""
    jobs: dict[str, list[dict[str, Any]]] = {"tessera": [], "triton": []}
    for service, url in pages.items():
        target = {"targets": [urlsplit(url).netloc], "labels": {"service": service}}
        jobs["triton" if service == "triton" else "tessera"].append(target)
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": min(interval, "5s", key=_seconds),
        },
        "rule_files": [str(Path(__file__).with_name("rules.yml"))],
        "scrape_configs": [
            {"job_name": job, "static_configs": targets} for job, targets in jobs.items()
        ],
    }


def _seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def main(arguments: list[str]) -> int:
    """Prints the configuration; returns the exit status."""
    home = arguments[0] if arguments else os.environ.get("TESSERA_HOME", ".tessera")
    try:
        found = pages(attach(home))
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # JSON is YAML.
    sys.stdout.write(json.dumps(configuration(found), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
