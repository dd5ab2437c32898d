"""The process of a torch module: `python -m programs.module_worker MODEL SOCKET`.

Weights are safetensors, which hold nothing but numbers; the class comes from the model's own code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .entries import class_of
from .tensors import Array
from .worker import Answer, serve

__all__ = ["main", "module_of"]


def main(path: str, number: int) -> None:
    """Load the module and answer until the other side closes the socket."""
    serve(number, lambda told: _load(Path(path), told))


def _load(folder: Path, told: Mapping[str, Any]) -> Answer:
    device = _device(told)
    module = module_of(folder, told, device)
    return lambda _, arrays: _run(module, arrays, device)


def module_of(folder: Path, told: Mapping[str, Any], device: str) -> Callable[..., Any]:
    """The module.

    Args:
        folder: The model's files: the weights, and its code below `code`.
        told: `flavor`, `weights` (the file), `entry` (`module:Class`), `arguments` of the class.
        device: Where its parameters go.

    Raises:
        ImportError: The class is not in the model's own code.
        ValueError: The weights are not those of the class.
    """
    import torch

    weights = folder / told["weights"]
    if told["flavor"] == "torch_compiled":
        package: Callable[..., Any] = torch._inductor.aoti_load_package(str(weights))
        return package
    import safetensors.torch

    made = class_of(folder / "code", told["entry"])(**told["arguments"])
    state = safetensors.torch.load_file(str(weights))
    found = made.load_state_dict(state, strict=False)
    # Tied parameters are saved once: what is missing must share its memory with what is there.
    kept = {tensor.data_ptr() for name, tensor in made.state_dict().items() if name in state}
    missing = [one for one in found.missing_keys if made.state_dict()[one].data_ptr() not in kept]
    if missing or found.unexpected_keys:
        wrong = f"lack {missing[0]!r}" if missing else f"hold {found.unexpected_keys[0]!r}"
        raise ValueError(f"the weights do not fit {told['entry']}: they {wrong}")
    module: Callable[..., Any] = made.to(device).eval()
    return module


def _device(told: Mapping[str, Any]) -> str:
    import torch

    if not told["on_gpu"]:
        return "cpu"
    if torch.cuda.is_available():
        # The only one that this process sees.
        return "cuda:0"
    if told["needs_gpu"]:
        raise RuntimeError(
            f"the instance must run on a GPU, and torch {torch.__version__} sees none: "
            "give the runtime a torch with CUDA, or serve the model on CPU"
        )
    return "cpu"


def _run(module: Callable[..., Any], arrays: Sequence[Array], device: str) -> list[Array]:
    import torch

    with torch.inference_mode():
        returned = module(*(torch.from_numpy(array).to(device) for array in arrays))
    values = returned if isinstance(returned, tuple | list) else [returned]
    return [value.detach().cpu().numpy() for value in values]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
