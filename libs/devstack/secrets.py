"""Tokens and engine credentials, made once per data directory, readable by their owner only."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from devstack.files import read_json, write_atomically, write_json
from devstack.home import Home

SERVICE_PRINCIPALS = ("catalog", "tracking", "training", "inference", "monitoring")


@dataclass(frozen=True)
class Credentials:
    """A user name (or access key) and its secret."""

    user: str
    secret: str = field(repr=False)


def ensure_tokens(home: Home) -> None:
    """Writes the administrator's token and one per service principal where they are absent."""
    paths = [home.admin_token_file]
    paths += [home.tokens / f"{name}.token" for name in SERVICE_PRINCIPALS]
    for path in paths:
        if not path.exists():
            write_atomically(path, new_token() + "\n")


def new_token() -> str:
    """A bearer token `tsr_<id>_<secret>` with 32 random bytes of secret."""
    return f"tsr_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


def ensure_credentials(home: Home, engine: str) -> Credentials:
    """The engine's credentials from `credentials/<engine>.json`, made where absent."""
    path = home.credentials / f"{engine}.json"
    stored = read_json(path)
    if stored is None:
        stored = {"user": f"tessera{secrets.token_hex(6)}", "secret": secrets.token_hex(24)}
        write_json(path, stored)
    return Credentials(stored["user"], stored["secret"])
