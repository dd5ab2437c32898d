#!/usr/bin/env bash
# Format and lint, and the client that is made from another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/python infra/tasks/sync_client.py check
for script in infra/run .ci/run infra/tasks/*.sh; do bash -n "$script"; done
echo "Format and lint: clean."
