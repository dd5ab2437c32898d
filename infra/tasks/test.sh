#!/usr/bin/env bash
# infra/run test [unit|integration|e2e|all] [pytest's options]: all by default, on embedded stacks of its own.
# Two processes share the files, each with a stack of its own; `-n 0` runs all in one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

suite=all
case ${1:-} in unit | integration | e2e | all) suite=$1 && shift ;; esac
case $suite in
    unit) paths=(tests/unit tests/property tests/architecture) ;;
    integration) paths=(tests/contract tests/integration) ;;
    e2e) paths=(tests/e2e) ;;
    # What takes longest comes first, so that no process is left with it alone.
    all) paths=(tests/e2e tests/integration tests/contract tests/property tests/architecture tests/unit) ;;
esac
# Each process would compile all tests again.
unset PYTHONDONTWRITEBYTECODE
# Some run Triton within themselves, as the inference service does: it forks, and gRPC must not follow.
export GRPC_ENABLE_FORK_SUPPORT=0
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "${paths[@]}" "$@"
