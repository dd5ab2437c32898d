"""Modules are exported for any number of rows, and served as they were trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tessera.jobs.models import export
from tessera.quickstart.model import DelayModel


def inputs(rows: int) -> list[torch.Tensor]:
    return [
        torch.randint(0, 3, (rows, 1)),
        torch.randint(0, 5, (rows, 1)),
        torch.rand(rows, 1),
    ]


def test_an_exported_module_answers_any_number_of_rows_as_the_module_does(tmp_path: Path) -> None:
    module = DelayModel([3, 5], [0.5], [2.0], hidden=8)
    module.train()
    program = export(module, inputs(2))
    assert module.training
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    module.eval()
    for rows in (1, 2, 7, 1000):
        asked = inputs(rows)
        assert torch.equal(loaded(*asked), module(*asked))


def test_one_example_given_twice_keeps_both_inputs_free() -> None:
    class Sum(torch.nn.Module):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return one + other

    example = torch.ones(2, 1)
    program = export(Sum(), [example, example])
    assert program.module()(torch.ones(5, 1), torch.ones(5, 1)).shape == (5, 1)


def test_examples_of_one_row_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or more rows"):
        export(torch.nn.Linear(1, 1), [torch.ones(1, 1)])
