"""Every decision follows the template and is in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "infra/adr"
DECISIONS = sorted(path for path in FOLDER.glob("[0-9]*.md") if path.name != "0000-template.md")


def sections(path: Path) -> list[str]:
    return re.findall(r"^## (.+)$", path.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_follows_the_template(path: Path) -> None:
    text = path.read_text()
    number = int(path.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.search(r"^Status: (proposed|accepted|replaced)", text, flags=re.MULTILINE)
    needed = iter(sections(path))
    assert all(section in needed for section in sections(FOLDER / "0000-template.md"))


def test_index_lists_every_decision_by_its_title() -> None:
    listed = re.findall(r"^\| \[(.+)\]\((.+)\) \|$", (FOLDER / "README.md").read_text(), re.M)
    titles = [
        (path.read_text().splitlines()[0].removeprefix("# "), path.name) for path in DECISIONS
    ]
    assert listed == titles


def test_numbers_are_taken_once() -> None:
    numbers = [path.name[:4] for path in DECISIONS]
    assert len(numbers) == len(set(numbers))
