#!/usr/bin/env bash
# infra/run test [unit|integration|e2e|all] [pytest's options]: all by default, on an embedded stack of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

suite=all
case ${1:-} in unit | integration | e2e | all) suite=$1 && shift ;; esac
case $suite in
    unit) paths=(tests/unit tests/property tests/architecture) ;;
    integration) paths=(tests/contract tests/integration) ;;
    e2e) paths=(tests/e2e) ;;
    all) paths=(tests/unit tests/property tests/architecture tests/contract tests/integration tests/e2e) ;;
esac
exec .venv/bin/python -m pytest "${paths[@]}" "$@"
