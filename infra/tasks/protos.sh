#!/usr/bin/env bash
# The contracts: `generate` rewrites the generated code in libs/; `check` (the default) tells whether it is current,
# lints the protos and looks for breaking changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec .venv/bin/python infra/tasks/protos.py "${@:-check}"
