"""The object store: what services need of S3, its errors, and the rules of its keys and parts."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tessera_kit.errors import (
    Aborted,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

__all__ = [
    "LARGEST_GET",
    "LONGEST_SIGNATURE_SECONDS",
    "PART_BYTES",
    "ContentMismatch",
    "InvalidKey",
    "ObjectChanged",
    "ObjectInfo",
    "ObjectLevel",
    "ObjectNotFound",
    "ObjectStore",
    "ObjectStoreFailure",
    "ObjectStoreUnavailable",
    "ObjectTooLarge",
    "OpenUpload",
    "UploadNotFound",
    "UploadedPart",
    "check_content",
    "check_key",
    "check_prefix",
    "check_seconds",
]

PART_BYTES = 8 << 20
"""Size of an upload's parts, all but the last; S3 wants 5 MiB or more."""
LARGEST_GET = 64 << 20
"""Most bytes that `get` returns unless told otherwise."""
LONGEST_SIGNATURE_SECONDS = 7 * 24 * 3600
"""Longest life of a signed URL; S3's own bound."""
_LONGEST_KEY = 1024
_MOST_PARTS = 10_000


class InvalidKey(InvalidArgument):
    """The key could leave its place, or no store would take it."""

    reason = "INVALID_OBJECT_KEY"


class ContentMismatch(InvalidArgument):
    """The bytes are not those that were announced."""

    reason = "CONTENT_MISMATCH"


class ObjectNotFound(NotFound):
    """There is no object of that key."""

    reason = "OBJECT_NOT_FOUND"


class UploadNotFound(NotFound):
    """The upload was completed, aborted, or never begun."""

    reason = "UPLOAD_NOT_FOUND"


class ObjectTooLarge(ResourceExhausted):
    """The object has more bytes than the caller would take at once; stream it."""

    reason = "OBJECT_TOO_LARGE"
    retryable = False


class ObjectChanged(Aborted):
    """The object was replaced while it was read; begin again."""

    reason = "OBJECT_CHANGED"


class ObjectStoreUnavailable(Unavailable):
    """The store does not answer; a write may or may not have happened."""

    reason = "OBJECT_STORE_UNAVAILABLE"


class ObjectStoreFailure(Internal):
    """The store refused in a way that is not the caller's fault, as for wrong credentials."""

    reason = "OBJECT_STORE_FAILURE"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object without its bytes."""

    key: str
    """Its name in the bucket."""
    size: int
    """Bytes."""
    etag: str
    """Changes whenever the bytes do."""
    sha256: str | None = None
    """Hexadecimal digest. Known after `put`, and later where the object was put as one part."""
    modified: datetime | None = None
    """When it was written; aware, UTC."""


@dataclass(frozen=True, slots=True)
class ObjectLevel:
    """What lies directly below a prefix, or a page of it."""

    objects: Sequence[ObjectInfo]
    """Objects without a further slash in their keys."""
    folders: Sequence[str]
    """Prefixes of the others, up to and with that slash."""
    next_token: str = ""
    """Where the next page starts; empty on the last page."""


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part of an upload that the store holds."""

    number: int
    """1 to 10,000; parts are joined in this order."""
    size: int
    """Bytes."""
    etag: str
    """What `complete_upload` names it by."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload that has not ended."""

    key: str
    """Of the object that it would make."""
    upload_id: str
    begun: datetime
    """When it was begun; aware, UTC."""


class ObjectStore(Protocol):
    """Objects by key. Keys pass `check_key`; every method raises InvalidKey for those that do not.

    Every method may raise ObjectStoreUnavailable, after attempts of its own, and
    ObjectStoreFailure.
    """

    async def put(
        self, key: str, data: bytes | AsyncIterable[bytes], *, sha256: str = ""
    ) -> ObjectInfo:
        """Store an object whole or not at all, replacing one that exists.

        A stream is sent in parts with bounded memory, and hashed on the way.

        Args:
            key: The object's key.
            data: Its bytes.
            sha256: Their hexadecimal digest, in lower case; unknown when empty.

        Raises:
            ContentMismatch: The digest is another; nothing is stored.
        """

    async def get(self, key: str, *, max_bytes: int = LARGEST_GET) -> bytes:
        """All bytes of an object.

        Raises:
            ObjectNotFound: There is none.
            ObjectTooLarge: It has more than `max_bytes`.
        """

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Bytes of an object in chunks, with bounded memory; goes on after a broken connection.

        Args:
            key: Which object.
            offset: First byte.
            length: Most bytes; to the end when None.

        Raises:
            ObjectNotFound: There is none, at the first chunk.
            OutOfRange: `offset` is beyond its end.
            ObjectChanged: It was replaced meanwhile.
        """

    async def head(self, key: str) -> ObjectInfo:
        """What is known of an object.

        Raises:
            ObjectNotFound: There is none.
        """

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """The objects whose keys begin with `prefix` (may be empty), in order of their keys."""

    async def list_level(self, prefix: str, *, limit: int = 1000, token: str = "") -> ObjectLevel:
        """What lies directly below a prefix that is empty or ends in `/`, a page at a time.

        Args:
            prefix: The folder.
            limit: Most objects and folders together, 1 to 1,000.
            token: The `next_token` of the page before.

        Raises:
            InvalidArgument: The token was not made by this listing.
        """

    async def delete(self, key: str) -> None:
        """Remove an object; does nothing when there is none."""

    async def delete_prefix(self, prefix: str) -> int:
        """Remove all objects below `prefix`, which must end in `/`; returns how many."""

    async def begin_upload(self, key: str) -> str:
        """Begin an upload in parts and return its id: with it, any process may go on."""

    async def put_part(self, key: str, upload_id: str, number: int, data: bytes) -> UploadedPart:
        """Store a part, replacing one of the same number. All but the last need 5 MiB or more.

        Raises:
            UploadNotFound: The upload has ended.
        """

    async def list_parts(self, key: str, upload_id: str) -> Sequence[UploadedPart]:
        """The parts that the store holds, by number.

        Of a part that was replaced within the same second, some stores list the old one: trust what
        `put_part` returned, or compare `etag`, the MD5 of the bytes on most stores.

        Raises:
            UploadNotFound: The upload has ended.
        """

    async def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart]
    ) -> ObjectInfo:
        """Join the parts into the object.

        Raises:
            UploadNotFound: The upload has ended.
            InvalidArgument: A part is missing or too small.
        """

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; does nothing when it has ended."""

    def open_uploads(self, prefix: str) -> AsyncIterator[OpenUpload]:
        """Uploads below a prefix that were neither completed nor aborted, in no order."""

    async def signed_get(self, key: str, *, seconds: int, file_name: str) -> str:
        """A URL that reads an object, whole or in ranges, without further credentials.

        Args:
            key: The object's key; it need not exist yet.
            seconds: Life of the URL, 1 to LONGEST_SIGNATURE_SECONDS.
            file_name: What a browser saves it as; it is never shown inline.

        Raises:
            InvalidArgument: `seconds` is out of its bounds.
        """

    async def signed_put(self, key: str, *, seconds: int, media_type: str) -> str:
        """A URL that stores an object by one PUT with this `Content-Type`; as `signed_get`."""

    async def signed_parts(
        self, key: str, upload_id: str, count: int, *, seconds: int
    ) -> Sequence[str]:
        """URLs that store the parts 1 to `count` of an upload by one PUT each; as `signed_get`.

        Raises:
            InvalidArgument: `count` is not 1 to 10,000, or `seconds` is out of its bounds.
        """


def check_key(key: str) -> str:
    """Return a key unchanged when it names one object below the bucket's root.

    Raises:
        InvalidKey: It is empty, absolute, too long, or holds `..`, `.` or nothing between two
            slashes, a backslash, or a control character.
    """
    if not key or len(key.encode("utf-8", "surrogatepass")) > _LONGEST_KEY:
        raise _invalid(f"must have 1 to {_LONGEST_KEY} bytes")
    if any(part in {"", ".", ".."} for part in key.split("/")):
        raise _invalid("must be names joined by single slashes, none of them '.' or '..'")
    _check_characters(key)
    return key


def check_prefix(prefix: str) -> str:
    """Return a prefix unchanged when it is empty or the beginning of a valid key.

    Raises:
        InvalidKey: No valid key begins so.
    """
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def _check_characters(key: str) -> None:
    if "\\" in key or any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise _invalid("must not hold backslashes or control characters")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise _invalid("must be valid Unicode") from None


def _invalid(rule: str) -> InvalidKey:
    return InvalidKey(f"the object key {rule}", violations=[FieldViolation("key", rule)])


def check_content(found: str, expected: str) -> None:
    """Return when a digest is the one that was expected, or none was.

    Raises:
        ContentMismatch: It is another.
    """
    if expected and found != expected:
        raise ContentMismatch(f"the content's SHA-256 is {found}, not the announced {expected}")


def check_folder(prefix: str) -> str:
    """Return a prefix unchanged when it ends in `/` and is not the whole bucket.

    Raises:
        InvalidKey: It does not, so more could begin with it than is meant.
    """
    if not prefix.endswith("/"):
        raise _invalid("prefix must end with a slash")
    return check_prefix(prefix)


def check_part_number(number: int) -> None:
    """Return when a part may have this number.

    Raises:
        InvalidArgument: It is not 1 to 10,000.
    """
    if not 1 <= number <= _MOST_PARTS:
        raise InvalidArgument(f"a part's number must be 1 to {_MOST_PARTS}")


def check_seconds(seconds: int) -> int:
    """Return a signed URL's life unchanged.

    Raises:
        InvalidArgument: It is not 1 to LONGEST_SIGNATURE_SECONDS.
    """
    if not 1 <= seconds <= LONGEST_SIGNATURE_SECONDS:
        raise InvalidArgument(
            f"a signed URL's life must be 1 to {LONGEST_SIGNATURE_SECONDS} seconds, not {seconds}"
        )
    return seconds


def check_parts(parts: builtins.list[UploadedPart] | Sequence[UploadedPart]) -> None:
    """Return when parts may be joined.

    Raises:
        InvalidArgument: There are none, or they are not in ascending order.
    """
    numbers = [part.number for part in parts]
    if not numbers or numbers != sorted(set(numbers)):
        raise InvalidArgument("an upload's parts must be one or more, in ascending order")
