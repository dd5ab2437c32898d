"""Regular expressions of callers, by RE2: their time grows with the text, not with its powers."""

from __future__ import annotations

__all__ = ["check_regex", "matches_regex"]


def check_regex(pattern: str) -> str | None:
    """Return what is wrong with a pattern; None when nothing is."""
    try:
        matches_regex(pattern, "")
    except ValueError as error:
        return str(error).removeprefix("Invalid regular expression: ")
    return None


def matches_regex(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text.

    Raises:
        ValueError: It is no regular expression of RE2's.
    """
    # Arrow brings RE2 along; it is loaded for who asks for it only, as it takes its memory.
    import pyarrow as pa
    import pyarrow.compute as pc

    return bool(pc.match_substring_regex(pa.scalar(text), pattern).as_py())
