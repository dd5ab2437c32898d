#!/usr/bin/env bash
# Format and lint, and what is made from code: a client from another, dashboards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/python infra/tasks/sync_client.py check
.venv/bin/python infra/grafana/dashboards.py check
.venv/bin/python infra/tasks/mlflow_rpcs.py check
for script in infra/run .ci/run infra/tasks/*.sh; do bash -n "$script"; done
echo "Format and lint: clean."
