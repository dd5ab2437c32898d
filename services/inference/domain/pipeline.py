"""How the tensors of a pipeline pass through its steps, and whether that can work. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.inference.domain.signature import Flavor, Role, Signature, TensorSpec
from services.inference.domain.steps import PipelineStep
from services.inference.errors import InvalidSignature
from tessera_kit.errors import FieldViolation

__all__ = ["Wire", "wire"]


@dataclass(frozen=True, slots=True)
class Wire:
    """What a step reads and writes, by the pipeline's names."""

    reads: tuple[str, ...]
    """One for each of its FEATURE inputs, in their order."""
    writes: tuple[str, ...]
    """One for each of its outputs, in their order."""


def wire(signature: Signature, steps: Sequence[Signature]) -> tuple[Wire, ...]:
    """How a pipeline's tensors pass through its steps, which run in their order.

    Args:
        signature: The pipeline's, with its `steps`.
        steps: What each of these takes and gives.

    Raises:
        InvalidSignature: They do not fit together; the violations name each place.
    """
    found = _Wiring(signature, steps)
    wires = tuple(
        found.step(index, step, takes)
        for index, (step, takes) in enumerate(zip(signature.steps, steps, strict=True))
    )
    found.whole()
    if found.violations:
        first = found.violations[0]
        raise InvalidSignature(
            f"model.json: {first.field} {first.description}", violations=found.violations
        )
    return wires


class _Wiring:
    """Follows the tensors from step to step and gathers what is wrong."""

    def __init__(self, signature: Signature, steps: Sequence[Signature]) -> None:
        self.violations: list[FieldViolation] = []
        self._signature = signature
        self._steps = steps
        self._known = {one.name: one for one in signature.inputs if one.role is Role.FEATURE}
        self._inputs = frozenset(self._known)
        self._read: set[str] = set()

    def step(self, index: int, step: PipelineStep, takes: Signature) -> Wire:
        path = f"steps[{index}]"
        self._kind(path, step, takes)
        features = [spec for spec in takes.inputs if spec.role is Role.FEATURE]
        sources, targets = dict(step.inputs), dict(step.outputs)
        self._names(f"{path}.inputs", step, sources, [one.name for one in features], "input")
        self._names(f"{path}.outputs", step, targets, [one.name for one in takes.outputs], "output")
        reads = tuple(sources.get(spec.name, spec.name) for spec in features)
        for spec, source in zip(features, reads, strict=True):
            self._feed(f"{path}.inputs.{spec.name}", index, spec, source)
        writes = tuple(targets.get(spec.name, spec.name) for spec in takes.outputs)
        for spec, target in zip(takes.outputs, writes, strict=True):
            if target in self._known:
                self._wrong(
                    f"{path}.outputs.{spec.name}",
                    f"becomes {target!r}, which is there already; give it another name",
                )
            self._known[target] = spec
        return Wire(reads, writes)

    def whole(self) -> None:
        """What only the whole can tell."""
        for index, spec in enumerate(self._signature.inputs):
            if spec.role is Role.FEATURE and spec.name not in self._read:
                self._wrong(f"inputs[{index}].name", f"{spec.name!r} is read by no step")
        for index, spec in enumerate(self._signature.outputs):
            made = self._known.get(spec.name)
            if made is None or spec.name in self._inputs:
                self._wrong(f"outputs[{index}].name", f"{spec.name!r} is written by no step")
            else:
                self._fit(f"outputs[{index}]", spec, made, "is given")
        streaming = [takes.streams for takes in self._steps]
        if sum(streaming) > 1:
            self._wrong("steps", "may have one that streams; these have more")
        if any(streaming) != self._signature.streams:
            told = "one" if any(streaming) else "none"
            self._wrong("streams", f"must say whether a step streams, and {told} does")

    def _kind(self, path: str, step: PipelineStep, takes: Signature) -> None:
        if takes.flavor is Flavor.PIPELINE:
            self._wrong(path, f"{step.title} is a pipeline itself; name its steps instead")
        if takes.stateful:
            self._wrong(path, f"{step.title} keeps state, which no step may")
        if self._signature.batched and not takes.batched:
            self._wrong(
                path,
                f"{step.title} does not take rows together, as the pipeline's shapes say; give one "
                "of these a fixed first size",
            )

    def _names(
        self, path: str, step: PipelineStep, told: dict[str, str], names: list[str], what: str
    ) -> None:
        for name in told:
            if name not in names:
                self._wrong(
                    f"{path}.{name}", f"{step.title} has no {what} {name!r}; it has {names}"
                )

    def _feed(self, path: str, index: int, spec: TensorSpec, source: str) -> None:
        self._read.add(source)
        made = self._known.get(source)
        if made is not None:
            self._fit(path, spec, made, "is fed")
            return
        later = [
            number for number in range(index, len(self._steps)) if source in self._writes(number)
        ]
        if later:
            self._wrong(
                path,
                f"reads {source!r}, which step {later[0]} writes: steps run in their order, and "
                "none reads what itself or a later one writes",
            )
        else:
            self._wrong(
                path,
                f"reads {source!r}, which is no input of the pipeline and no step's output",
            )

    def _writes(self, index: int) -> list[str]:
        targets = dict(self._signature.steps[index].outputs)
        return [targets.get(spec.name, spec.name) for spec in self._steps[index].outputs]

    def _fit(self, path: str, wanted: TensorSpec, made: TensorSpec, how: str) -> None:
        if wanted.datatype != made.datatype:
            self._wrong(path, f"is {wanted.datatype} and {how} {made.datatype}")
        elif len(wanted.shape) != len(made.shape) or any(
            want not in (-1, size) for want, size in zip(wanted.shape, made.shape, strict=True)
        ):
            self._wrong(path, f"has shape {list(wanted.shape)} and {how} {list(made.shape)}")

    def _wrong(self, field: str, description: str) -> None:
        self.violations.append(FieldViolation(field, description))
