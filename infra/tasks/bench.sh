#!/usr/bin/env bash
# infra/run bench [stack|gateway|table|tracking|bus|memory|matrix ...] [--part NAME] [--stack attach:PATH]: measures the platform beside its peers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec .venv/bin/python -m tests.benchmarks "$@"
