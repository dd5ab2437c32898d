"""The gateway's HTTP door: what it answers, and how it writes errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.infer import InferenceHandler
from services.inference.rest.answering import HttpInference
from services.inference.rest.bodies import Bodies
from services.inference.rest.oip_routes import oip_routes
from services.inference.rest.scoring_routes import scoring_routes
from tessera_kit.http.routes import HttpRoute

__all__ = ["gateway_routes"]

_HELD_BYTES: Final = 512 << 20


def gateway_routes(
    infer: InferenceHandler,
    descriptions: Descriptions,
    *,
    max_body_bytes: int,
    max_message_bytes: int,
    seconds: float,
) -> Sequence[HttpRoute]:
    """Return the routes.

    Args:
        infer: Answers inference requests.
        descriptions: Tells of endpoints.
        max_body_bytes: Largest body, also after inflating.
        max_message_bytes: Largest message that the runtime takes.
        seconds: How long a request may take.
    """
    bodies = Bodies(max_body_bytes, _HELD_BYTES)
    inference = HttpInference(infer, bodies, most=max_message_bytes, seconds=seconds)
    return [
        *oip_routes(inference, descriptions, bodies),
        *scoring_routes(inference, descriptions),
    ]
