#!/usr/bin/env bash
# Types, strictly.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

exec .venv/bin/mypy "$@"
