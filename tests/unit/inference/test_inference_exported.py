"""Exported programs as functions: their checks, without the price of `torch.export`'s own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch._export import utils
from torch.export import Dim

from services.inference.runtime.programs.exported import ExportedFunction, function_of
from services.inference.runtime.programs.process import InputRefused

ROWS = Dim("rows", min=1, max=8)


def exported(
    forward: Callable[..., Any], examples: Sequence[torch.Tensor], shapes: Any, **names: Any
) -> Callable[..., Any]:
    class Model(nn.Module):
        pass

    # Export reads the arguments' names from the class.
    Model.forward = forward  # type: ignore[assignment]
    count = len(examples) + len(names)
    with warnings.catch_warnings():
        # torch warns of its own internals.
        warnings.simplefilter("ignore")
        program = torch.export.export(Model(), tuple(examples), names, dynamic_shapes=shapes)
        return function_of(program, [f"given_{number}" for number in range(count)])


def product(self: nn.Module, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x * w).sum(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def weighed() -> Callable[..., Any]:
    return exported(product, (torch.zeros(2, 3), torch.ones(2, 3)), ({0: ROWS}, {0: ROWS}))


def test_it_answers_as_the_model_does_and_torch_checks_nothing_at_a_call(
    weighed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("torch.export's own check of the sizes ran")

    monkeypatch.setattr(utils, "_check_input_constraints_for_graph", never)
    assert isinstance(weighed, ExportedFunction)
    for rows in (1, 2, 8):
        x, w = torch.randn(rows, 3), torch.randn(rows, 3)
        (answer,) = weighed(x, w)
        torch.testing.assert_close(answer, product(nn.Module(), x, w))


@pytest.mark.parametrize(
    ("x", "w", "told"),
    [
        (
            (9, 3),
            (9, 3),
            "input 'given_0' has size 9 along axis 0; the program was exported for 0 to 8",
        ),
        ((2, 4), (2, 3), "input 'given_0' has size 4 along axis 1; the program was exported for 3"),
        (
            (2, 3),
            (1, 3),
            "input 'given_1' has size 1 along axis 0; the program was exported for 2, as",
        ),
        ((2, 3), (2,), "input 'given_1' has 1 dimensions; the program was exported for 2"),
    ],
)
def test_sizes_that_the_program_was_not_exported_for_are_the_requests_fault(
    weighed: Callable[..., Any], x: tuple[int, ...], w: tuple[int, ...], told: str
) -> None:
    """The second would multiply silently: what broadcasts is no error of torch's."""
    with pytest.raises(InputRefused, match=f"^{re.escape(told)}"):
        weighed(torch.zeros(x), torch.zeros(w))


def test_a_program_that_takes_another_number_of_inputs_is_told() -> None:
    program = torch.export.export(nn.Linear(3, 1), (torch.zeros(2, 3),))
    with pytest.raises(ValueError, match="takes 1 inputs; the signature has 2 features"):
        function_of(program, ["x", "y"])


def test_several_outputs_keep_their_order() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x - 1

    more, less = exported(forward, (torch.zeros(2, 3),), ({0: ROWS},))(torch.zeros(4, 3))
    assert (more[0, 0], less[0, 0]) == (1, -1)


def test_a_least_size_is_held_as_torch_holds_it() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    call = exported(forward, (torch.zeros(4, 3),), ({0: Dim("rows", min=3)},))
    assert len(call(torch.ones(3, 3))[0]) == 3
    with pytest.raises(InputRefused, match=r"was exported for 3 and more$"):
        call(torch.ones(2, 3))


def test_sizes_without_a_limit_stay_without() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    call = exported(forward, (torch.zeros(2, 3),), ({0: Dim.DYNAMIC},))
    assert isinstance(call, ExportedFunction)
    (answer,) = call(torch.ones(100_000, 3))
    assert answer.shape == (100_000, 3)
    assert bool((answer == 2).all())


def test_a_size_that_is_computed_from_another_is_left_to_torchs_own_check() -> None:
    def forward(self: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y[::2]

    half = Dim("half", min=2, max=16)
    shapes = ({0: half}, {0: 2 * half})
    call = exported(forward, (torch.zeros(4), torch.zeros(8)), shapes)
    assert not isinstance(call, ExportedFunction)
    assert call(torch.ones(3), torch.ones(6)).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="to be equal to"):
        call(torch.ones(3), torch.ones(8))


def test_a_program_with_keywords_or_nested_outputs_is_called_as_torch_calls_it() -> None:
    def keyword(self: nn.Module, x: torch.Tensor, *, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def nested(self: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x + 1}

    one = torch.ones(2)
    assert exported(keyword, (one,), None, y=one)(one, y=one).tolist() == [2, 2]
    assert exported(nested, (one,), None)(one)["y"].tolist() == [2, 2]
