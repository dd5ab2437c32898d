"""Writes the administrator's and the services' tokens where they are absent."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

SERVICES = ("catalog", "tracking", "training", "inference", "monitoring")


def main(folder: Path) -> None:
    """Makes the files below `folder`; they are readable by their owner only."""
    names = [folder / "admin.token", *(folder / "services" / f"{name}.token" for name in SERVICES)]
    for path in names:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            continue
        token = f"tsr_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}\n"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
