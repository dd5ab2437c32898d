"""A bucket of the object store, as far as the supervisor works in it: list, read, remove."""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import quote
from xml.etree import ElementTree

from devstack.probes import TIMEOUT, NotReady
from devstack.secrets import Credentials
from devstack.sigv4 import query_string, sign

LARGEST_PAGE = 1000
"""How many objects one request lists or removes, as S3 has it."""
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing tells of it."""

    key: str
    version: str
    """Changes with the content (S3's ETag)."""
    modified: datetime
    """When it was written, aware."""


@dataclass(frozen=True)
class Page:
    """A part of a listing."""

    objects: Sequence[StoredObject]
    token: str
    """Leads to the next part; empty at the last one."""


class NotFound(NotReady):
    """There is no such object."""


class Bucket:
    """One connection to one bucket; used from one thread, inside `with`.

    Every method raises `NotReady` when the store answers with an error, and `OSError` when it does
    not answer within some seconds.
    """

    def __init__(
        self, host: str, port: int, name: str, region: str, credentials: Credentials
    ) -> None:
        self._host = f"{host}:{port}"
        self._name = name
        self._region = region
        self._credentials = credentials
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def page(self, prefix: str, token: str = "") -> Page:
        """Up to `LARGEST_PAGE` objects below `prefix`: the first ones, or those `token` leads to.

        Keys that differ only after their last slash come in order; those of several folders come
        folder by folder.
        """
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(LARGEST_PAGE)}
        if token:
            query["continuation-token"] = token
        root = ElementTree.fromstring(self._ask("GET", "", query))  # noqa: S314 - our own store
        objects = tuple(_stored(one) for one in root.iter(f"{_NAMESPACE}Contents"))
        return Page(objects, root.findtext(f"{_NAMESPACE}NextContinuationToken", ""))

    def everything(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below `prefix`."""
        page = self.page(prefix)
        yield from page.objects
        while page.token:
            page = self.page(prefix, page.token)
            yield from page.objects

    def read(self, key: str) -> bytes:
        """The content of an object.

        Raises:
            NotFound: There is none.
        """
        return self._ask("GET", f"/{quote(key)}", {})

    def remove(self, keys: Sequence[str]) -> None:
        """Removes objects, at most `LARGEST_PAGE`; one that is gone already is no error."""
        items = "".join(f"<Object><Key>{html.escape(key)}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{items}</Delete>".encode()
        answer = self._ask("POST", "", {"delete": ""}, body)
        if b"<Error>" in answer:
            raise NotReady(f"bucket {self._name} did not remove every object: {answer[:200]!r}")

    def _ask(self, method: str, path: str, query: dict[str, str], body: bytes = b"") -> bytes:
        path = f"/{self._name}{path}"
        headers = sign(
            *(method, self._host, path, self._region, self._credentials, datetime.now(UTC)),
            query=query,
            body=body,
        )
        if body:
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            headers["content-md5"] = base64.b64encode(digest).decode()
        target = f"{path}?{query_string(query)}" if query else path
        try:
            self._connection.request(method, target, body or None, headers)
            response = self._connection.getresponse()
            content = response.read()
        except http.client.HTTPException as error:
            raise NotReady(f"{method} {path}: the answer is not HTTP: {error!r}") from error
        if response.status == 404:
            raise NotFound(f"{method} {path}: there is no such object")
        if response.status != 200:
            raise NotReady(f"{method} {path} answered {response.status}")
        return content


def _stored(element: ElementTree.Element) -> StoredObject:
    key, version, modified = (
        element.findtext(f"{_NAMESPACE}{name}", "") for name in ("Key", "ETag", "LastModified")
    )
    return StoredObject(key, version, datetime.fromisoformat(modified))
