"""How an answer of the protocol tells its caller the request's id."""

from __future__ import annotations

from typing import Final

__all__ = ["ID_CHARACTERS", "ID_FIELD", "ID_PARAMETER"]

ID_PARAMETER: Final = "tessera_request_id"
ID_CHARACTERS: Final = 36
ID_FIELD: Final = b"\x22\x3c\x0a\x12tessera_request_id\x12\x26\x1a\x24"
"""`ModelInferResponse.parameters[ID_PARAMETER].string_param` as it is written, without its
characters."""
