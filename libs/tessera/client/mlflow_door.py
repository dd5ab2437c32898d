"""What only tracking's HTTP door answers, which speaks MLflow's REST: traces with their spans."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from tessera.client.settings import Settings
from tessera_kit.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TesseraError,
    Unauthenticated,
    Unavailable,
)

__all__ = ["MlflowDoor"]

_SECONDS: Final = 30.0
_ERRORS: Final[dict[int, type[TesseraError]]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
}


class MlflowDoor:
    """Reads traces as MLflow's messages in JSON; every call blocks, 30 s at most.

    Args:
        settings: The door `tracking_http` and the caller's token.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def trace(self, trace_id: str) -> dict[str, Any]:
        """Return a `Trace`.

        Raises:
            TesseraError: It is not there, may not be read, or the door does not answer.
        """
        query = urllib.parse.urlencode({"trace_id": trace_id})
        found: dict[str, Any] = self._call(f"traces/get?{query}")["trace"]
        return found

    def traces_of_run(self, experiment_id: str, run_id: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the newest traces of a run as `TraceInfoV3`.

        Raises:
            TesseraError: The experiment may not be read, or the door does not answer.
        """
        location = {"mlflow_experiment": {"experiment_id": experiment_id}}
        asked = {
            "locations": [{"type": "MLFLOW_EXPERIMENT", **location}],
            "filter": f"attributes.run_id = '{run_id}'",
            "max_results": limit,
            "order_by": ["timestamp_ms DESC"],
        }
        found: list[dict[str, Any]] = self._call("traces/search", asked).get("traces", [])
        return found

    def _call(self, path: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        url = f"{self._settings.door('tracking_http')}/api/3.0/mlflow/{path}"
        body = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(url, data=body)  # noqa: S310
        request.add_header("content-type", "application/json")
        if self._settings.token is not None:
            request.add_header("authorization", f"Bearer {self._settings.token.reveal()}")
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                message: dict[str, Any] = json.load(answer)
                return message
        except urllib.error.HTTPError as error:
            raise _ERRORS.get(error.code, Unavailable)(_message(error)) from None
        except (urllib.error.URLError, TimeoutError):
            where = self._settings.tracking_http
            raise Unavailable(f"tracking does not answer at {where}") from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError):
        return f"tracking answered {error.code}"
