"""The stack itself: how long it takes to start, and how much memory it holds while idle."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from devstack import Stack
from devstack.child import Memory, memory_of
from tests.benchmarks.results import Figure, Report

SETTLE_SECONDS = 3.0
_MIB = 1 << 20


async def measure(stack: Stack, started_in: float | None, report: Report) -> None:
    """Start time, where this run started the stack, and memory before anybody uses it.

    Args:
        stack: On this machine.
        started_in: Seconds from nothing to all healthy; None for a stack that ran already.
        report: Where the figures go.
    """
    await asyncio.sleep(SETTLE_SECONDS)
    state = stack.state()
    # The supervisor is the root of the tree that every process of the stack is in.
    total = await asyncio.to_thread(memory_of, state.supervisor.pid)
    parts = {
        process.name: memory_of(process.pid) if process.pid else Memory(0, 0)
        for process in state.processes
    }
    report.details["stack"] = {
        "start_seconds": started_in,
        "total": asdict(total),
        "processes": {
            process.name: {**asdict(parts[process.name]), "ready_seconds": process.ready_seconds}
            for process in state.processes
        },
    }
    if started_in is not None:
        slowest = max(state.processes, key=lambda process: process.ready_seconds or 0.0)
        report.figures.append(
            Figure(
                "stack",
                "start, to all healthy",
                started_in,
                "s",
                higher_is_better=False,
                note=f"slowest: {slowest.name}, {slowest.ready_seconds or 0.0:.1f} s",
            )
        )
    largest = sorted(parts, key=lambda name: -parts[name].pss)[:3]
    most = ", ".join(f"{name} {parts[name].pss / _MIB:,.0f}" for name in largest)
    note = f"{len(parts)} processes and supervisor; most: {most}"
    when = "idle" if started_in is not None else "as found"
    for name, size in (("PSS", total.pss), ("RSS", total.rss)):
        report.figures.append(
            Figure(
                "stack",
                f"memory {when}, {name}",
                size / _MIB,
                "MiB",
                higher_is_better=False,
                note=note if name == "PSS" else "counts shared pages once per process",
            )
        )
