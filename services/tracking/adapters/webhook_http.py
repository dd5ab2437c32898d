"""Receivers of webhooks by HTTP, none of them in a private network unless it is named."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from services.tracking.domain.webhooks import HookUrls, is_public
from services.tracking.errors import InvalidValue
from services.tracking.ports.webhooks import HookAnswer

__all__ = ["HttpHookSender"]

_SECONDS: Final = 30.0
_MOST_BODY: Final = 4096


class HttpHookSender:
    """Sends to what `urls` allows.

    The addresses that were checked are those that are dialled, so that a name cannot resolve to
    something else in between; proxies and redirects are not used.

    Args:
        urls: Which URLs may be told anything.
    """

    def __init__(self, urls: HookUrls) -> None:
        self._urls = urls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=_PublicResolver(self._urls), use_dns_cache=False, limit=32, force_close=True
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, url: str, body: str, headers: Mapping[str, str]) -> HookAnswer:
        """See `HookSender.send`."""
        if self._session is None:
            raise RuntimeError("the sender is not open")
        try:
            self._urls.check(url)
            async with self._session.post(
                url, data=body.encode(), headers=headers, allow_redirects=False
            ) as answer:
                text = await answer.content.read(_MOST_BODY)
                return HookAnswer(
                    answer.status,
                    text.decode(errors="replace"),
                    _seconds(answer.headers.get("retry-after", "")),
                )
        except InvalidValue as error:
            return HookAnswer(400, error=error.message)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            return HookAnswer(0, error=str(error)[:300] or type(error).__name__)


class _PublicResolver(AbstractResolver):
    """Resolves names to addresses that may be dialled."""

    def __init__(self, urls: HookUrls) -> None:
        self._urls = urls
        self._names = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._names.resolve(host, port, family)
        if host in self._urls.private_hosts:
            return found
        for one in found:
            address = one["host"].partition("%")[0]
            if not is_public(ipaddress.ip_address(address)):
                told = f"{host} resolves to {address}, which is not public"
                raise PermissionError(errno.EACCES, told)
        return found

    async def close(self) -> None:
        await self._names.close()


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0.0
