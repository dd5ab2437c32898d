"""Code from Git: the commit that was asked for, and nothing that runs by being fetched."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from services.training.adapters import git as git_module
from services.training.adapters.git import Git
from services.training.domain.checks import GitRules
from services.training.domain.job import GitSource
from services.training.errors import SourceRefused, SourceUnavailable
from tessera.client.aio.training import JobFailed
from tessera.training.v1 import job_pb2
from tests.integration.training.conftest import Running


class Repository:
    """A repository with a history."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *arguments: str) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{
                f"GIT_{who}_{what}": value
                for who in ("AUTHOR", "COMMITTER")
                for what, value in (("NAME", "ann"), ("EMAIL", "ann@example.org"))
            },
        }
        return subprocess.run(
            ["git", *arguments],  # noqa: S607
            cwd=self.path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(self, name: str, content: str) -> str:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"Change {name}")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repositories" / "code")


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git(GitRules(file_root=str(tmp_path / "repositories")), timeout=30.0)


async def fetched(git: Git, tmp_path: Path, source: GitSource) -> tuple[str, Path]:
    folder, home = tmp_path / "code", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    return await git.fetch(source, folder, home), folder


async def test_branches_tags_and_commits_long_and_short(
    git: Git, repository: Repository, tmp_path: Path
) -> None:
    first = repository.commit("train.py", "print(1)")
    repository.git("tag", "-a", "v1", "-m", "first")
    second = repository.commit("train.py", "print(2)")
    for number, (revision, commit, content) in enumerate(
        [
            ("main", second, "print(2)"),
            ("v1", first, "print(1)"),
            (first, first, "print(1)"),
            (first[:10], first, "print(1)"),
        ]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        source = GitSource(repository.url, revision, "train.py")
        found, folder = await fetched(git, place, source)
        assert (found, (folder / "train.py").read_text()) == (commit, content)


async def test_what_is_not_there_is_refused_for_good(
    git: Git, repository: Repository, tmp_path: Path
) -> None:
    repository.commit("train.py", "print(1)")
    for number, source in enumerate(
        [
            GitSource(repository.url, "nope", "train.py"),
            GitSource(repository.url, "0" * 40, "train.py"),
            GitSource(repository.url, "0123456", "train.py"),
            GitSource(f"{repository.url}-missing", "main", "train.py"),
        ]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(SourceRefused, match="git"):
            await fetched(git, place, source)


async def test_a_server_that_is_away_may_be_asked_again(tmp_path: Path) -> None:
    git = Git(GitRules(frozenset({"127.0.0.1"})), timeout=30.0)
    source = GitSource("https://127.0.0.1:9/code.git", "main", "train.py")
    with pytest.raises(SourceUnavailable, match="git fetch failed"):
        await fetched(git, tmp_path, source)


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        git = Git(GitRules(frozenset({"127.0.0.1"})), timeout=1.0)
        source = GitSource(f"https://127.0.0.1:{port}/code.git", "main", "train.py")
        with pytest.raises(SourceUnavailable, match="longer than 1 s"):
            await fetched(git, tmp_path, source)


async def test_hooks_and_submodules_of_a_repository_do_nothing(
    git: Git, repository: Repository, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    other = Repository(tmp_path / "repositories" / "other")
    other.commit("inner.py", "")
    repository.commit("train.py", "print(1)")
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", other.url, "sub")
    hook = repository.path / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {trace}\n")
    hook.chmod(0o755)
    (repository.path / ".gitattributes").write_text("*.py filter=evil\n")
    repository.git("config", "filter.evil.smudge", f"touch {trace}; cat")
    repository.commit("more.py", "")
    _, folder = await fetched(git, tmp_path, GitSource(repository.url, "main", "train.py"))
    assert (folder / "train.py").exists()
    assert list((folder / "sub").iterdir()) == []
    assert not trace.exists()


@pytest.mark.parametrize(
    ("url", "revision", "path"),
    [
        ("ext::sh -c touch% /tmp/x", "main", "train.py"),
        ("git://example.org/code.git", "main", "train.py"),
        ("http://example.org/code.git", "main", "train.py"),
        ("https://elsewhere.org/code.git", "main", "train.py"),
        ("https://ann:secret@example.org/code.git", "main", "train.py"),
        ("https://token@example.org/code.git", "main", "train.py"),
        ("https://example.org:port/code.git", "main", "train.py"),
        ("-oProxyCommand=x", "main", "train.py"),
        ("ssh://-oProxyCommand=x/code", "main", "train.py"),
        ("/srv/code", "main", "train.py"),
        ("file:///etc", "main", "train.py"),
        ("file:///srv/git/../../etc", "main", "train.py"),
        ("file://host/srv/git/code", "main", "train.py"),
        ("https://example.org/code.git", "--upload-pack=x", "train.py"),
        ("https://example.org/code.git", "a:b", "train.py"),
        ("https://example.org/code.git", "a..b", "train.py"),
        ("https://example.org/code.git", "main", "../train.py"),
        ("https://example.org/code.git", "main", "/train.py"),
        ("https://example.org/code.git", "main", "a\\train.py"),
        ("https://example.org/code.git", "main", "train.sh"),
    ],
)
async def test_what_is_not_allowed_is_not_even_asked(
    url: str, revision: str, path: str, tmp_path: Path
) -> None:
    rules = GitRules(frozenset({"example.org"}), file_root="/srv/git")
    with pytest.raises(SourceRefused, match=r"must|not allowed"):
        await fetched(Git(rules), tmp_path, GitSource(url, revision, path))
    assert list((tmp_path / "code").iterdir()) == []


async def test_a_job_runs_a_repository_at_its_commit(
    training: Running, repository: Repository
) -> None:
    repository.commit("lib/helper.py", "VALUE = 42\n")
    commit = repository.commit("jobs/train.py", "from lib import helper\nprint(helper.VALUE)\n")
    repository.commit("jobs/train.py", "raise SystemExit(1)\n")
    source = job_pb2.GitSource(url=repository.url, revision=commit[:12], path="jobs/train.py")
    async with training.client() as client:
        job = await client.submit(job_pb2.JobSpec(name="job", git=source))
        job = await client.wait(job.job_id)
        assert job.attempts[0].git_commit == commit
        assert [line.text async for line in client.logs(job.job_id)] == ["42"]


async def test_a_link_out_of_the_repository_is_not_run(
    training: Running, repository: Repository, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("print('ran')")
    (repository.path / "train.py").symlink_to(outside)
    repository.commit("other.py", "")
    source = job_pb2.GitSource(url=repository.url, revision="main", path="train.py")
    async with training.client() as client:
        job = await client.submit(job_pb2.JobSpec(name="job", git=source))
        with pytest.raises(JobFailed, match="leaves the repository"):
            await client.wait(job.job_id)


async def test_a_missing_git_is_named(
    git: Git, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_module, "_PATH", str(tmp_path))
    source = GitSource(repository.url, "main", "train.py")
    with pytest.raises(SourceRefused, match="git is not installed where the training service runs"):
        await fetched(git, tmp_path, source)
