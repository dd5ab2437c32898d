"""Memory that is freed is kept or given back as a process says."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource
from tessera_kit.memory import give_back_memory, keep_memory

if {keeps}:
    keep_memory(64 << 20)

def faults():
    for _ in range(10):
        blocks = [number.to_bytes(1 << 20, "big") for number in range(32)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
print(faults() - before)
give_back_memory()
"""


def _faults(*, keeps: bool) -> int:
    program = _PROGRAM.format(keeps=keeps)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_large_blocks_are_kept_for_those_that_follow() -> None:
    assert _faults(keeps=True) * 10 < _faults(keeps=False)
