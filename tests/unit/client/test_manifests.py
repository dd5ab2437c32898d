"""What the client uploads for a class of Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tessera import TensorSpec
from tessera.client.manifests import class_files

X, Y = TensorSpec("x", "FP32", [-1, 2]), TensorSpec("y", "BYTES", (-1, 1))


def files(entry: str, code: Any, **changes: Any) -> dict[str, bytes | Path]:
    told: dict[str, Any] = {
        **{"inputs": [X], "outputs": [Y], "streams": True, "stateful": False},
        **{"arguments": {"n": 1}, "requirements": [], "timeout_seconds": 5, "files": {}},
        **changes,
    }
    return class_files(entry, code, **told)


def test_a_modules_file_becomes_code(tmp_path: Path) -> None:
    path = tmp_path / "tokens.py"
    path.touch()
    made = files("tokens:Tokens", path, requirements=["numpy", "tokenizers"], files={"w": b"1"})
    assert list(made) == ["w", "code/tokens.py", "requirements.txt", "model.json"]
    assert made["code/tokens.py"] == path
    assert made["requirements.txt"] == b"numpy\ntokenizers\n"
    content = made["model.json"]
    assert isinstance(content, bytes)
    manifest = json.loads(content)
    assert manifest["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert (manifest["flavor"], manifest["entry"]) == ("python", "tokens:Tokens")
    assert (manifest["streams"], manifest["stateful"], manifest["timeout_seconds"]) == (True, 0, 5)
    assert manifest["arguments"] == {"n": 1}


def test_a_package_becomes_code(tmp_path: Path) -> None:
    package = tmp_path / "nets"
    (package / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "delay.py", "__pycache__/delay.pyc"):
        (package / name).touch()
    made = files("nets.delay:Delay", package)
    assert list(made) == ["code/nets/__init__.py", "code/nets/delay.py", "model.json"]


def test_a_class_without_its_module_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neither words\.py nor a package"):
        files("words:Words", {"tokens.py": b""})
