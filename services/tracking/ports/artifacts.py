"""What tracking needs to keep the files of runs, logged models and traces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.tracking.domain.artifacts import Artifact, ArtifactRoot

__all__ = ["ArtifactPage", "ArtifactStore", "ArtifactUpload", "SentPart", "WrittenFile"]


@dataclass(frozen=True, slots=True)
class ArtifactPage:
    """A page of files and folders."""

    artifacts: Sequence[Artifact]
    """In order of their paths."""
    next_token: str
    """Where the next page starts; empty on the last page."""


@dataclass(frozen=True, slots=True)
class ArtifactUpload:
    """An upload in parts that was begun."""

    upload_id: str
    part_urls: Sequence[str]
    """Where each part is put, from part 1 on."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that was stored."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal digest of them."""


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part of an upload, as its sender tells of it."""

    number: int
    etag: str
    """What the store answered for it: the MD5 of its bytes, on most stores."""


class ArtifactStore(Protocol):
    """Files of runs and models. Paths are checked by `domain.artifacts` before they get here."""

    async def write(
        self, root: ArtifactRoot, path: str, chunks: AsyncIterator[bytes], *, sha256: str = ""
    ) -> WrittenFile:
        """Store a file from its bytes, in place of one of that path; memory stays bounded.

        When `chunks` raises, nothing is stored and the error goes on to the caller.

        Args:
            root: Whose file.
            path: Which one.
            chunks: Its bytes.
            sha256: Their hexadecimal digest, as far as it is known.

        Raises:
            ChecksumMismatch: The digest is another; nothing is stored.
            ArtifactIsDirectory: The path is a folder, or lies below a file.
        """

    def read(
        self, root: ArtifactRoot, path: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Return a file's bytes in pieces of at most 1 MiB.

        Args:
            root: Whose file.
            path: Which one.
            offset: First byte.
            length: Most bytes; to the end when None.

        Raises (at the first piece):
            ArtifactNotFound: There is no such file.
            OutOfRange: `offset` is beyond its end.
        """

    async def find(self, root: ArtifactRoot, path: str) -> Artifact:
        """Return a file's size and etag.

        Raises:
            ArtifactNotFound: There is no such file.
        """

    async def begin_upload(
        self, root: ArtifactRoot, path: str, parts: int, *, seconds: int
    ) -> ArtifactUpload:
        """Begin an upload in parts that the sender puts by URLs, which live `seconds`.

        Raises:
            ArtifactIsDirectory: The path is a folder, or lies below a file.
            InvalidArgument: `parts` is not 1 to 10,000.
        """

    async def complete_upload(
        self, root: ArtifactRoot, path: str, upload_id: str, parts: Sequence[SentPart]
    ) -> None:
        """Join the parts into the file, in place of one of that path.

        Raises:
            UploadNotFound: The upload has ended, or is another file's.
            InvalidArgument: A part is missing, too small, or its checksum is another.
            ArtifactIsDirectory: The path is a folder, or lies below a file.
        """

    async def abort_upload(self, root: ArtifactRoot, path: str, upload_id: str) -> None:
        """Drop an upload and its parts; does nothing when it has ended."""

    async def sweep_uploads(self, before: datetime, *, limit: int) -> int:
        """Drop uploads of any owner that were begun before a time, `limit` at most.

        Returns:
            How many.
        """

    async def upload_url(
        self, root: ArtifactRoot, path: str, *, seconds: int, media_type: str
    ) -> str:
        """Return a URL that stores the file by one PUT with this `Content-Type`.

        Raises:
            ArtifactIsDirectory: The path is a folder, or lies below a file.
            InvalidArgument: `seconds` is not 1 to 604,800.
        """

    async def download_url(self, root: ArtifactRoot, path: str, *, seconds: int) -> str:
        """Return a URL that reads the file, whole or in ranges, and saves it in a browser.

        Raises:
            InvalidArgument: `seconds` is not 1 to 604,800.
        """

    async def children(
        self, root: ArtifactRoot, path: str, *, limit: int, token: str
    ) -> ArtifactPage:
        """Return a page of what lies directly below a path, by name as the store orders names.

        Args:
            root: Whose files.
            path: The folder; the root when empty. An unknown one is empty.
            limit: Most files and folders.
            token: The `next_token` of the page before; empty for the first page.

        Raises:
            InvalidArgument: The token was not made by this listing.
        """

    async def remove(self, root: ArtifactRoot, path: str) -> None:
        """Remove a file, or a folder with all that is in it; does nothing when there is none."""

    async def remove_all(self, root: ArtifactRoot) -> int:
        """Remove all files of an owner; return how many there were."""
