"""The verb `runs page`: a run, or several side by side, as one HTML page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.arguments import new_file
from tessera.cli.output import print_success
from tessera.client.aio.client import AsyncClient
from tessera.pages.client_source import ClientSource
from tessera.pages.gather import MOST_RUNS, gather, several
from tessera.pages.run_report import page
from tessera_kit.units import human_bytes

__all__ = ["runs_page"]


def runs_page(
    run_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of runs.", metavar="RUN...")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write.", dir_okay=False)
    ] = Path("runs.html"),
    experiment: Annotated[
        str, typer.Option(help="An experiment's name or id, instead of ids of runs.")
    ] = "",
    filter: Annotated[str, typer.Option(help="Of it, as in: metrics.auc > 0.7")] = "",
    order_by: Annotated[list[str] | None, typer.Option(help="As in: metrics.auc DESC")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=MOST_RUNS)] = 50,
) -> None:
    """Write a page of a run, or of several to compare, that needs no server and no network."""
    if bool(run_ids) == bool(experiment):
        raise typer.BadParameter("give either ids of runs or --experiment")
    if not experiment and (filter or order_by):
        raise typer.BadParameter("--filter and --order-by go with --experiment")

    async def made() -> tuple[int, str]:
        async with AsyncClient() as client:
            if run_ids:
                runs = await several(dict.fromkeys(run_ids), client.tracking.get_run)
            else:
                chosen = await client.tracking.find_experiment(experiment)
                runs = await client.tracking.search_runs(
                    [chosen.experiment_id], filter, order_by=order_by or (), limit=limit
                )
            return len(runs), page(await gather(ClientSource(client), runs))

    count, html = asyncio.run(made())
    content = html.encode()
    with new_file(output) as file:
        file.write(content)
    noun = "run" if count == 1 else "runs"
    print_success(f"wrote {count} {noun} to {output} ({human_bytes(len(content))})")
