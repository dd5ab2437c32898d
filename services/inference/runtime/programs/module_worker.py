"""The process of a torch module: `python -m programs.module_worker MODEL SOCKET`.

Weights are safetensors, which hold nothing but numbers; the class comes from the model's own code.
"""

from __future__ import annotations

import importlib
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .frames import receive, send
from .tensors import Array

__all__ = ["main", "module_of"]


def main(path: str, number: int) -> None:
    """Load the module and answer until the other side closes the socket."""
    wire = socket.socket(fileno=number)
    told, _ = receive(wire)
    try:
        device = _device(told)
        module = module_of(Path(path), told, device)
    except Exception as error:
        send(wire, error=_reason(error))
        return
    send(wire)
    while True:
        try:
            _, arrays = receive(wire)
        except ConnectionError:
            return
        try:
            returned = _run(module, arrays, device)
        except Exception as error:
            send(wire, error=_reason(error))
        else:
            send(wire, returned)


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

    made = _class(folder / "code", told["entry"])(**told["arguments"])
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


def _class(code: Path, entry: str) -> Callable[..., Any]:
    name, _, attribute = entry.partition(":")
    sys.path.insert(0, str(code))
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).resolve().is_relative_to(code.resolve()):
        raise ImportError(f"{name!r} is not in the model's own folder 'code'")
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        raise ImportError(f"{name!r} has no class {attribute!r}")
    return found


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


def _reason(error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:400]}"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
