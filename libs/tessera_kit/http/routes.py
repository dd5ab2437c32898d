"""Routes: a method, a path and who answers; found by one look-up, or by a pattern."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from re import Pattern
from typing import Any

from starlette.convertors import Convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from tessera_kit.errors import TesseraError
from tessera_kit.http.status import MethodNotAllowed, PathNotFound

__all__ = ["Endpoint", "HttpRoute", "Render", "RouteTable"]

Endpoint = Callable[[Request], Awaitable[Response]]
"""Answers a request; raises errors of the tree."""
Render = Callable[[TesseraError, Request], Response]
"""Writes an error as a door's protocol has it."""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """What one path answers to one method."""

    method: str
    """`GET`, `POST`, ...; `HEAD` goes to `GET`'s."""
    path: str
    """Path with Starlette's parameters: `/models/{name}/versions/{version:int}`, `/{rest:path}`."""
    endpoint: Endpoint
    """Who answers."""
    name: str
    """Name in metrics and spans, as `mlflow.MlflowService/getRun`."""
    open: bool = False
    """Whether it answers callers without a token."""
    max_body_bytes: int | None = None
    """Most bytes of a body; the door's own bound when None."""
    streams: bool = False
    """Whether it may take as long as a stream may, rather than a short call."""
    render: Render | None = None
    """How its errors are written; the door's own way when None."""


class RouteTable:
    """Finds routes. Paths without parameters cost one look-up, the others one match each.

    Args:
        routes: In order of precedence; paths without parameters go before all others.

    Raises:
        ValueError: Two routes answer the same method at the same path.
    """

    def __init__(self, routes: Iterable[HttpRoute]) -> None:
        self._exact: dict[str, dict[str, Any]] = {}
        self._patterns: list[tuple[Pattern[str], dict[str, Convertor[Any]], dict[str, Any]]] = []
        by_path: dict[str, dict[str, Any]] = {}
        for route in routes:
            methods = by_path.get(route.path)
            if methods is None:
                methods = by_path[route.path] = {}
                if "{" in route.path:
                    pattern, _, convertors = compile_path(route.path)
                    self._patterns.append((pattern, convertors, methods))
                else:
                    self._exact[route.path] = methods
            if route.method in methods:
                raise ValueError(f"two routes answer {route.method} {route.path}")
            methods[route.method] = route

    def find(self, method: str, path: str) -> tuple[HttpRoute, dict[str, Any]]:
        """Return the route and the parameters in the path.

        Raises:
            PathNotFound: No route has the path.
            MethodNotAllowed: Its routes do not answer the method.
        """
        wanted = "GET" if method == "HEAD" else method
        methods = self._exact.get(path)
        if methods is not None:
            found = methods.get(wanted)
            if found is not None:
                return found, {}
        allowed: set[str] = set(methods or ())
        for pattern, convertors, methods in self._patterns:
            match = pattern.match(path)
            if match is None:
                continue
            found = methods.get(wanted)
            if found is not None:
                values = match.groupdict()
                return found, {name: convertors[name].convert(values[name]) for name in values}
            allowed.update(methods)
        if allowed:
            raise _not_allowed(method, path, sorted(allowed))
        raise PathNotFound(f"there is nothing at {path[:200]}")


def _not_allowed(method: str, path: str, allowed: Sequence[str]) -> MethodNotAllowed:
    listed = ", ".join(allowed)
    return MethodNotAllowed(
        f"{path[:200]} answers {listed}, not {method}", metadata={"allow": listed}
    )
