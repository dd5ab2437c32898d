"""Page tokens and sizes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tessera_kit.errors import InvalidArgument
from tessera_kit.rpc.pages import (
    InvalidPageToken,
    decode_page_token,
    encode_page_token,
    page_size,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
positions = st.dictionaries(texts, texts | st.integers(-(2**63), 2**63 - 1), max_size=6)


@given(position=positions, scope=st.text(max_size=80))
def test_round_trip(position: dict[str, str | int], scope: str) -> None:
    token = encode_page_token(position, scope)
    assert decode_page_token(token, scope) == position
    assert token.isascii()
    assert not set(token) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(position=positions, scope=texts, other=texts)
def test_a_token_of_another_listing_is_refused(
    position: dict[str, str | int], scope: str, other: str
) -> None:
    assume(scope != other)
    with pytest.raises(InvalidPageToken) as caught:
        decode_page_token(encode_page_token(position, scope), other)
    assert caught.value.violations[0].field == "page_token"


@given(position=positions, scope=texts, data=st.data())
def test_a_damaged_token_is_refused(
    position: dict[str, str | int], scope: str, data: st.DataObject
) -> None:
    token = encode_page_token(position, scope)
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("Aa0-_é=\0 "))
    damaged = token[:place] + letter + token[place + 1 :]
    try:
        # The last character may hold bits that base64 ignores.
        assert decode_page_token(damaged, scope) == position
        assert place == len(token) - 1 or damaged == token
    except InvalidPageToken:
        assert damaged != token


@given(st.text(max_size=200))
def test_any_text_is_a_position_or_refused(token: str) -> None:
    try:
        decode_page_token(token, "scope")
    except InvalidPageToken:
        assert token


def test_the_empty_token_is_the_first_page() -> None:
    assert decode_page_token("", "scope") == {}


@given(st.integers(-(2**31), 2**31 - 1))
def test_sizes(requested: int) -> None:
    if requested < 0:
        with pytest.raises(InvalidArgument):
            page_size(requested)
    else:
        assert page_size(requested) == (min(requested, 1000) or 100)
