"""Requests from JSON bodies and query strings to MLflow's messages, with MLflow's complaints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from starlette.requests import Request

from services.tracking.mlflow.errors import BadRequest, InvalidParameter

__all__ = [
    "json_body",
    "json_number",
    "missing",
    "parse_message",
    "request_message",
    "see_docs",
    "wrong_type",
]

_SEE_DOCS: Final = " See the API docs for more information about request parameters."
_DEEPEST: Final = 100


async def request_message(
    request: Request, kind: type[Message], required: Iterable[str] = ()
) -> tuple[Any, Mapping[str, Any]]:
    """Return a request's message, and the JSON that it was made of.

    Parameters in the path are fields too. A GET's fields are in the query, any other's in the body.

    Args:
        request: The request.
        kind: The message's class.
        required: Fields that must be there and not empty.

    Raises:
        BadRequest: The body is not a JSON object.
        InvalidParameter: A field is missing or has a wrong type.
    """
    if request.method == "GET" and request.scope["query_string"]:
        fields = _query_fields(request, kind.DESCRIPTOR)
    else:
        fields = await json_body(request)
    if request.path_params:
        known = kind.DESCRIPTOR.fields_by_name
        fields |= {name: value for name, value in request.path_params.items() if name in known}
    return parse_message(fields, kind, required), fields


def parse_message(
    fields: Mapping[str, Any], kind: type[Message], required: Iterable[str] = ()
) -> Any:
    """Return the message of a JSON object; unknown fields are passed over.

    Raises:
        InvalidParameter: A field is missing or has a wrong type.
    """
    _check_spelling(fields, kind.DESCRIPTOR)
    message = kind()
    failure = None
    try:
        ParseDict(dict(fields), message, ignore_unknown_fields=True, max_recursion_depth=_DEEPEST)
    except (ParseError, TypeError, ValueError, AttributeError, RecursionError) as error:
        failure = error
    if failure is not None:
        _name_wrong_field(fields, kind)
        raise InvalidParameter(see_docs(f"the request does not parse: {_short(str(failure))}"))
    for name in required:
        value = fields.get(name)
        if value is None and name == "run_id":
            value = fields.get("run_uuid")
        if value is None or value == "":
            raise missing(name)
    return message


async def json_body(request: Request) -> dict[str, Any]:
    """Return the body, which must be a JSON object; {} for an empty one.

    Raises:
        BadRequest: It is something else.
    """
    body = await request.body()
    if not body:
        return {}
    content_type = request.headers.get("content-type")
    if request.method in {"POST", "PUT", "PATCH"}:
        if content_type is None:
            raise BadRequest("Bad Request. Content-Type header is missing.")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise BadRequest("Bad Request. Content-Type must be one of ['application/json'].")
    try:
        parsed = _parse(body)
        if isinstance(parsed, str):
            # Old clients send their JSON as a JSON string.
            parsed = _parse(parsed.encode())
    except (ValueError, RecursionError):
        raise BadRequest("Bad Request. The body is not valid JSON.") from None
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise BadRequest("Bad Request. The body must be a JSON object.")
    return parsed


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Python's clients write NaN and Infinity as JavaScript does, which orjson refuses.
        parsed = json.loads(body)
        # It also refuses half a surrogate pair, which is no text that could be kept.
        json.dumps(parsed, ensure_ascii=False).encode()
        return parsed


def missing(name: str) -> InvalidParameter:
    """Return the error of a parameter that is not there."""
    return InvalidParameter(see_docs(f"Missing value for required parameter '{name}'."))


def wrong_type(name: str, value: Any) -> InvalidParameter:
    """Return the error of a parameter that has a wrong type."""
    shown = _short(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str))
    kind = type(value).__name__
    return InvalidParameter(
        see_docs(
            f"Invalid value {shown} for parameter '{name}' supplied: "
            f" Hint: Value was of type '{kind}'."
        )
    )


def see_docs(text: str) -> str:
    """Return a complaint about a parameter as MLflow ends it."""
    return text + _SEE_DOCS


def json_number(value: float) -> float | str:
    """Return a number as proto JSON has it, which spells out NaN and the infinities."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:299] + "…"


def _query_fields(request: Request, descriptor: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    query = request.query_params
    for field in descriptor.fields:
        if field.name not in query:
            continue
        if field.is_repeated:
            fields[field.name] = query.getlist(field.name)
            continue
        value: Any = query[field.name]
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if value.lower() not in {"true", "false"}:
                raise InvalidParameter(
                    f"Invalid boolean value: {_short(value)}, must be 'true' or 'false'."
                )
            value = value.lower() == "true"
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                raise wrong_type(field.name, value) from None
        fields[field.name] = value
    return fields


def _check_spelling(fields: Any, descriptor: Any, depth: int = 0) -> None:
    """Refuse a field that is there in both of its spellings: which one would count?"""
    if not isinstance(fields, Mapping) or depth > _DEEPEST:
        return
    for field in descriptor.fields:
        name, other = field.name, field.json_name
        if name != other and name in fields and other in fields:
            raise InvalidParameter(
                f"Request specifies both '{name}' and '{other}'; provide only one of them."
            )
        nested = field.message_type
        if nested is None or nested.GetOptions().map_entry:
            continue
        if nested.full_name.startswith("google.protobuf."):
            continue
        value = fields.get(name, fields.get(other))
        for one in value if isinstance(value, list) else (value,):
            _check_spelling(one, nested, depth + 1)


def _name_wrong_field(fields: Mapping[str, Any], kind: type[Message]) -> None:
    """Raise the error of the first field at the top that alone does not parse."""
    for field in kind.DESCRIPTOR.fields:
        for name in {field.name, field.json_name}:
            value = fields.get(name)
            if value is None:
                continue
            try:
                ParseDict({name: value}, kind(), ignore_unknown_fields=True)
            except (ParseError, TypeError, ValueError, AttributeError, RecursionError):
                raise wrong_type(field.name, value) from None
