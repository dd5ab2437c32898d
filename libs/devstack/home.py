"""The layout of a stack's data directory: the one place that knows its paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = ".tessera"


@dataclass(frozen=True)
class Home:
    """Paths under one data directory (`TESSERA_HOME`, default `.tessera`)."""

    root: Path

    @classmethod
    def at(cls, path: Path | str) -> Home:
        """The home at `path`, made absolute: children have other working directories."""
        return cls(Path(path).expanduser().absolute())

    @property
    def state_file(self) -> Path:
        """What `status --json` prints; see `devstack.state`."""
        return self.root / "stack.json"

    @property
    def admin_token_file(self) -> Path:
        """The administrator's bearer token, readable by its owner only."""
        return self.root / "admin.token"

    @property
    def tokens(self) -> Path:
        """One `<service>.token` per service principal."""
        return self.root / "tokens"

    @property
    def credentials(self) -> Path:
        """Engine credentials, one JSON file per engine."""
        return self.root / "credentials"

    @property
    def run(self) -> Path:
        """Lock, ports, pids and desired processes of the supervisor."""
        return self.root / "run"

    @property
    def lock_file(self) -> Path:
        """Held by the living supervisor; holds its pid."""
        return self.run / "lock"

    @property
    def ports_file(self) -> Path:
        """Ports chosen for this directory, kept between runs."""
        return self.run / "ports.json"

    @property
    def desired_file(self) -> Path:
        """Names of the processes that should run; the supervisor reads it again on SIGHUP."""
        return self.run / "desired.json"

    @property
    def events_file(self) -> Path:
        """One JSON object per line: started, healthy, exited, restarting, stopped."""
        return self.logs / "events.jsonl"

    @property
    def logs(self) -> Path:
        """One `<process>.log` per process."""
        return self.root / "logs"

    def log_file(self, process: str) -> Path:
        """The log of one process."""
        return self.logs / f"{process}.log"

    def data(self, process: str) -> Path:
        """The durable data of one process."""
        return self.root / "data" / process

    def scratch(self, process: str) -> Path:
        """Files of one process that may be thrown away while it is down."""
        return self.run / process

    def make(self) -> None:
        """Creates the directories; the root is closed to other users, for it holds credentials."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.tokens, self.credentials, self.run, self.logs, self.root / "data"):
            path.mkdir(mode=0o700, exist_ok=True)
