"""The contracts' task: generate code from protos/ into libs/, and check what is committed.

    protos.py generate              rewrite the generated code
    protos.py check [--against REF] fail when the generated code is stale, a proto breaks the lint
                                    rules, or changed incompatibly since REF (default HEAD~1)

Needs the `dev` extra only; works offline. `google/*` protos come from the packages that ship them.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
LIBS = ROOT / "libs"
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


class TaskError(Exception):
    """A step failed; the text says which and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the task named on the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="protos", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="rewrite the generated code in libs/")
    check = commands.add_parser("check", help="current, linted and compatible?")
    check.add_argument("--against", default="HEAD~1", help="git reference to stay compatible with")
    options = parser.parse_args(arguments)
    try:
        if options.command == "generate":
            count = generate(PROTOS, LIBS)
            report(f"Generated code for {count} protos into {LIBS.relative_to(ROOT)}/.")
        else:
            check_current(PROTOS, LIBS)
            check_lint(PROTOS)
            check_breaking(PROTOS, options.against)
    except TaskError as error:
        report(f"protos: {error}", to=sys.stderr)
        return 1
    return 0


def report(text: str, to: TextIO | None = None) -> None:
    """Write one line for the person who ran the task."""
    (to or sys.stdout).write(text + "\n")


def proto_files(protos: Path) -> list[str]:
    """Every proto under `protos`, as the path that other protos import it by."""
    return sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))


def include_paths(protos: Path) -> list[str]:
    """Where protoc looks for imports: ours, then the packages that ship google's."""
    tools = _package_folder("grpc_tools")
    # `google` is a namespace package: the folder that holds google/rpc/status.proto is its parent.
    common = _package_folder("google.rpc").parents[1]
    return [f"-I{protos}", f"-I{tools / '_proto'}", f"-I{common}"]


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        raise TaskError(f"the package {name} is missing; install the `dev` extra")
    return Path(locations[0])


def protoc(arguments: Sequence[str]) -> None:
    """Run the protoc of grpc_tools in its own process; its plugins come from this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    result = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise TaskError(f"protoc failed\n{result.stderr.strip()}")


def generate(protos: Path, libs: Path) -> int:
    """Write messages, services and their types for every proto; remove what has no proto now.

    Returns the number of protos. The path of generated code is the path of its proto, so that
    imports need no rewriting.
    """
    files = proto_files(protos)
    if not files:
        raise TaskError(f"no protos under {protos}")
    libs.mkdir(parents=True, exist_ok=True)
    protoc(
        [
            *include_paths(protos),
            f"--python_out={libs}",
            f"--grpc_python_out={libs}",
            f"--mypy_out=quiet:{libs}",
            f"--mypy_grpc_out=quiet,only_async:{libs}",
            *files,
        ]
    )
    with_services = {name for name in files if _declares_service(protos / name)}
    for name in files:
        stem = name.removesuffix(".proto")
        if name not in with_services:
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                (libs / (stem + suffix)).unlink(missing_ok=True)
    _write_packages(files, libs)
    for stale in sorted(set(generated_files(libs)) - expected_files(files, with_services)):
        (libs / stale).unlink()
    return len(files)


def _declares_service(proto: Path) -> bool:
    return any(line.startswith("service ") for line in proto.read_text("utf-8").splitlines())


def expected_files(files: Sequence[str], with_services: set[str]) -> set[str]:
    """The generated files that these protos call for, relative to libs/."""
    expected: set[str] = set()
    for name in files:
        suffixes = GENERATED_SUFFIXES if name in with_services else GENERATED_SUFFIXES[:2]
        expected.update(name.removesuffix(".proto") + suffix for suffix in suffixes)
        expected.update(str(folder / "__init__.py") for folder in _packages_of(name))
    return expected


def _packages_of(name: str) -> list[Path]:
    # The top package (tessera/) belongs to the public client and is written by hand.
    return [folder for folder in Path(name).parents if len(folder.parts) > 1]


def _write_packages(files: Sequence[str], libs: Path) -> None:
    for folder in {folder for name in files for folder in _packages_of(name)}:
        marker = libs / folder / "__init__.py"
        marker.write_text(f'"""Generated from protos/{folder}."""\n', "utf-8")


def generated_files(libs: Path) -> list[str]:
    """Every generated file under libs/, relative to it."""
    return sorted(
        str(path.relative_to(libs))
        for path in libs.rglob("*.py*")
        if path.name.endswith(GENERATED_SUFFIXES)
        or (path.name == "__init__.py" and path.read_text("utf-8").startswith('"""Generated from '))
    )


def check_current(protos: Path, libs: Path) -> None:
    """Raise TaskError unless the generated code is exactly what the protos give now."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(protos, fresh)
        wanted, found = generated_files(fresh), generated_files(libs)
        differing = [
            name
            for name in wanted
            if name in found and (fresh / name).read_bytes() != (libs / name).read_bytes()
        ]
    wrong = [
        *(f"missing   libs/{name}" for name in sorted(set(wanted) - set(found))),
        *(f"stale     libs/{name}" for name in sorted(set(found) - set(wanted))),
        *(f"differs   libs/{name}" for name in differing),
    ]
    if wrong:
        listing = "\n".join(f"  {line}" for line in wrong)
        raise TaskError(f"generated code is not current; run infra/run protos generate\n{listing}")
    report(f"Generated code is current ({len(wanted)} files).")


def build_image(protos: Path, image: Path) -> None:
    """Compile the protos and all they import into one descriptor set that buf reads."""
    protoc(
        [
            *include_paths(protos),
            f"--descriptor_set_out={image}",
            "--include_imports",
            "--include_source_info",
            "--retain_options",
            *proto_files(protos),
        ]
    )


def check_lint(protos: Path) -> None:
    """Raise TaskError when buf's STANDARD or COMMENTS rules find something."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "protos.binpb"
        build_image(protos, image)
        buf("lint", str(image), "--path", "tessera", "--config", str(protos / "buf.yaml"))
    report("buf lint found nothing.")


def check_breaking(protos: Path, reference: str) -> None:
    """Raise TaskError when the protos changed incompatibly since the git reference.

    Where the reference holds no protos, or there is no git to ask, there is nothing to break.
    """
    if shutil.which("git") is None:
        report("buf breaking skipped: git is not installed.")
        return
    archive = subprocess.run(
        ["git", "archive", "--format=tar", reference, "protos"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        report(f"buf breaking skipped: no protos at {reference}.")
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        before = Path(folder) / "protos"
        if not proto_files(before):
            report(f"buf breaking skipped: no protos at {reference}.")
            return
        compare(before, protos)
    report(f"buf breaking found nothing against {reference}.")


def compare(before: Path, now: Path) -> None:
    """Raise TaskError when clients of the protos in `before` would break with those in `now`."""
    config = str(now / "buf.yaml")
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "before.binpb", Path(folder) / "now.binpb"
        build_image(before, old)
        build_image(now, new)
        buf(
            *("breaking", str(new), "--against", str(old), "--path", "tessera"),
            *("--config", config, "--against-config", config),
        )


def buf(*arguments: str) -> None:
    """Run this environment's buf; raise TaskError with what it printed when it finds something."""
    command = Path(sys.executable).parent / "buf"
    if not command.exists():
        raise TaskError("buf is missing; install the `dev` extra")
    # buf writes a cache below HOME even when it needs none of it.
    with tempfile.TemporaryDirectory() as cache:
        result = subprocess.run(
            [str(command), *arguments],
            env={**os.environ, "BUF_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode:
        raise TaskError(f"buf {arguments[0]} found:\n{(result.stdout + result.stderr).strip()}")


if __name__ == "__main__":
    sys.exit(main())
