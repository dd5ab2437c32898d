"""The contracts' task notices what it is there to notice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra.tasks import protos as task

GOOD = """syntax = "proto3";

// A package of the test.
package tessera.sample.v1;

import "google/protobuf/timestamp.proto";
import "google/rpc/status.proto";
import "tessera/type/v1/rules.proto";

// Answers.
service SampleService {
  // Answers once.
  rpc Ask(AskRequest) returns (AskResponse);
}

// Asks.
message AskRequest {
  // What is asked.
  string question = 1 [(tessera.type.v1.field) = {required: true}];
}

// Answers.
message AskResponse {
  // When it was answered.
  google.protobuf.Timestamp answered_at = 1;
  // How it went.
  google.rpc.Status status = 2;
}
"""


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    folder = tmp_path / "protos"
    for name in ("buf.yaml", "tessera/type/v1/rules.proto"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(task.PROTOS / name, folder / name)
    sample = folder / "tessera/sample/v1/sample.proto"
    sample.parent.mkdir(parents=True)
    sample.write_text(GOOD)
    return folder


def change(protos: Path, before: str, after: str) -> None:
    sample = protos / "tessera/sample/v1/sample.proto"
    text = sample.read_text()
    assert before in text
    sample.write_text(text.replace(before, after))


def test_generated_code_is_current_until_something_changes(protos: Path, tmp_path: Path) -> None:
    libs = tmp_path / "libs"
    assert task.generate(protos, libs) == 2
    task.check_current(protos, libs)
    generated = libs / "tessera/sample/v1"
    assert (generated / "sample_pb2_grpc.pyi").exists()
    assert not (libs / "tessera/type/v1/rules_pb2_grpc.py").exists()

    (generated / "old_pb2.py").write_text("")
    with pytest.raises(task.TaskError, match=r"stale .*old_pb2\.py"):
        task.check_current(protos, libs)
    task.generate(protos, libs)
    assert not (generated / "old_pb2.py").exists()

    change(protos, "string question", "bytes question")
    with pytest.raises(task.TaskError, match=r"differs .*sample_pb2\.py"):
        task.check_current(protos, libs)
    task.generate(protos, libs)
    task.check_current(protos, libs)

    (generated / "sample_pb2.pyi").unlink()
    with pytest.raises(task.TaskError, match=r"missing .*sample_pb2\.pyi"):
        task.check_current(protos, libs)


def test_what_people_wrote_by_hand_is_left_alone(protos: Path, tmp_path: Path) -> None:
    libs = tmp_path / "libs"
    by_hand = libs / "tessera/__init__.py"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text('"""By hand."""\n')
    task.generate(protos, libs)
    assert by_hand.read_text() == '"""By hand."""\n'


@pytest.mark.parametrize(
    ("before", "after", "finding"),
    [
        ("  // What is asked.\n", "", 'Field "question" should have a non-empty comment'),
        ("// Asks.\n", "", 'Message "AskRequest" should have a non-empty comment'),
        ("service SampleService", "service Sample", 'should be suffixed with "Service"'),
        ("string question", "string Question", "should be lower_snake_case"),
        ("package tessera.sample.v1", "package tessera.sample.v2", "must be within a directory"),
    ],
    ids=["field comment", "message comment", "service name", "field name", "package"],
)
def test_lint(protos: Path, before: str, after: str, finding: str) -> None:
    task.check_lint(protos)
    change(protos, before, after)
    with pytest.raises(task.TaskError) as caught:
        task.check_lint(protos)
    assert "tessera/sample/v1/sample.proto" in str(caught.value)
    assert finding in str(caught.value)


def test_breaking_changes(protos: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(protos, earlier)
    change(
        protos,
        "  // How it went.",
        "  // Why.\n  string reason = 3;\n  // How it went.",
    )
    task.compare(earlier, protos)
    change(protos, "string question = 1", "string query = 1")
    with pytest.raises(task.TaskError, match="question"):
        task.compare(earlier, protos)


def test_a_proto_that_does_not_compile_is_an_error_with_its_place(protos: Path) -> None:
    change(protos, "string question", "strin question")
    with pytest.raises(task.TaskError, match=r'sample\.proto.*"strin" is not defined'):
        task.check_lint(protos)


def test_without_git_there_is_nothing_to_break(
    protos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    task.check_breaking(protos, "HEAD")
    assert "git is not installed" in "".join(capsys.readouterr())
