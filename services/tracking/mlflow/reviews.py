"""MLflow's label schemas, review queues and issues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.json_format import MessageToDict

from services.tracking.domain.lifecycle import fits_64_bits
from services.tracking.domain.reviews import (
    Issue,
    IssuePlace,
    LabelSchema,
    ReviewItem,
    ReviewQueue,
)
from services.tracking.handlers.cases import UseCases
from services.tracking.handlers.page_tokens import foreign_token
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.convert import millis
from services.tracking.mlflow.experiments import page_bound
from services.tracking.ports.reviews import Place
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["ReviewMethods"]

T = TypeVar("T")
_PAGE: Final = 100
_NUMBERS: Final = ("rank", "traces", "created_at")


class ReviewMethods:
    """Answers the rpcs of label schemas, review queues and issues.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._desk = cases.reviews
        self._questions = cases.label_schemas
        self._queued = cases.review_queues
        self._found = cases.issues

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        named, schema, queue = ("experiment_id", "name"), ("schema_id",), ("queue_id",)
        return {
            f"MlflowService/{name}": method
            for name, method in {
                "createLabelSchema": Method(self._create_schema, named),
                "getLabelSchema": Method(self._get_schema, schema),
                "getLabelSchemaByName": Method(self._schema_by_name, named),
                "listLabelSchemas": Method(self._schemas, ("experiment_id",)),
                "updateLabelSchema": Method(self._update_schema, schema),
                "deleteLabelSchema": Method(self._delete_schema, schema),
                "createReviewQueue": Method(self._create_queue, named),
                "getOrCreateUserQueue": Method(self._user_queue, ("experiment_id", "user")),
                "getReviewQueue": Method(self._get_queue, queue),
                "getReviewQueueByName": Method(self._queue_by_name, named),
                "listReviewQueues": Method(self._queues, ("experiment_id",)),
                "updateReviewQueue": Method(self._update_queue, queue),
                "deleteReviewQueue": Method(self._delete_queue, queue),
                "addItemsToReviewQueue": Method(self._add_items, queue),
                "removeItemsFromReviewQueue": Method(self._remove_items, queue),
                "listReviewQueueItems": Method(self._items, queue),
                "setReviewQueueItemStatus": Method(self._set_status, (*queue, "item_id")),
                "createIssue": Method(self._create_issue, (*named, "description")),
                "updateIssue": Method(self._update_issue, ("issue_id",)),
                "getIssue": Method(self._get_issue, ("issue_id",)),
                "searchIssues": Method(self._issues),
            }.items()
        }

    # Label schemas

    async def _create_schema(self, call: Call) -> Answer:
        asked = call.message
        made = await self._questions.create_schema(
            call.principal,
            asked.experiment_id,
            name=asked.name,
            kind=_enum(asked, "type"),
            asked=_input(asked),
            instruction=_given(asked, "instruction"),
            enable_comment=asked.enable_comment,
        )
        return {"label_schema": _schema_fields(made)}

    async def _get_schema(self, call: Call) -> Answer:
        found = await self._desk.get(call.principal, LabelSchema, call.message.schema_id)
        return {"label_schema": _schema_fields(found)}

    async def _schema_by_name(self, call: Call) -> Answer:
        asked = call.message
        found = await self._questions.schema_by_name(
            call.principal, asked.experiment_id, asked.name
        )
        return {"label_schema": _schema_fields(found)}

    async def _schemas(self, call: Call) -> Answer:
        asked = call.message.experiment_id
        page = _Page(call, f"label-schemas:{asked}")
        found = await self._questions.schemas(
            call.principal, asked, after=page.after, limit=page.size + 1
        )
        shown, token = page.cut(found, lambda one: (one.created_at, one.id))
        return {"label_schemas": [_schema_fields(one) for one in shown], **token}

    async def _update_schema(self, call: Call) -> Answer:
        asked = call.message
        changed = await self._questions.update_schema(
            call.principal,
            asked.schema_id,
            name=_given(asked, "name"),
            instruction=_given(asked, "instruction"),
            enable_comment=_given(asked, "enable_comment"),
            asked=_input(asked) if asked.HasField("input") else None,
        )
        return {"label_schema": _schema_fields(changed)}

    async def _delete_schema(self, call: Call) -> Answer:
        await self._questions.delete_schema(call.principal, call.message.schema_id)
        return None

    # Review queues

    async def _create_queue(self, call: Call) -> Answer:
        asked = call.message
        made = await self._queued.create_queue(
            call.principal,
            asked.experiment_id,
            name=asked.name,
            kind=_enum(asked, "queue_type"),
            users=list(asked.users),
            schema_ids=list(asked.schema_ids),
        )
        return {"review_queue": _queue_fields(made)}

    async def _user_queue(self, call: Call) -> Answer:
        asked = call.message
        found = await self._queued.user_queue(call.principal, asked.experiment_id, asked.user)
        return {"review_queue": _queue_fields(found)}

    async def _get_queue(self, call: Call) -> Answer:
        found = await self._desk.get(call.principal, ReviewQueue, call.message.queue_id)
        return {"review_queue": _queue_fields(found)}

    async def _queue_by_name(self, call: Call) -> Answer:
        asked = call.message
        found = await self._queued.queue_by_name(call.principal, asked.experiment_id, asked.name)
        return {"review_queue": _queue_fields(found)}

    async def _queues(self, call: Call) -> Answer:
        asked = call.message
        user, item_id = _given(asked, "user"), _given(asked, "item_id")
        page = _Page(call, f"review-queues:{asked.experiment_id}:{user}:{item_id}")
        found = await self._queued.queues(
            call.principal,
            asked.experiment_id,
            user=user,
            item_id=item_id,
            after=page.after,
            limit=page.size + 1,
        )
        shown, token = page.cut(found, lambda one: (one.created_at, one.id))
        return {"review_queues": [_queue_fields(one) for one in shown], **token}

    async def _update_queue(self, call: Call) -> Answer:
        asked = call.message
        changed = await self._queued.update_queue(
            call.principal,
            asked.queue_id,
            name=_given(asked, "name"),
            owner=_given(asked, "new_owner"),
            users=list(asked.users) if asked.update_users else None,
            schema_ids=list(asked.schema_ids) if asked.update_schema_ids else None,
        )
        return {"review_queue": _queue_fields(changed)}

    async def _delete_queue(self, call: Call) -> Answer:
        await self._queued.delete_queue(call.principal, call.message.queue_id)
        return None

    async def _add_items(self, call: Call) -> Answer:
        asked = call.message
        items = await self._queued.add_items(call.principal, asked.queue_id, list(asked.item_ids))
        return {"items": [_item_fields(one) for one in items]}

    async def _remove_items(self, call: Call) -> Answer:
        asked = call.message
        await self._queued.remove_items(call.principal, asked.queue_id, list(asked.item_ids))
        return None

    async def _items(self, call: Call) -> Answer:
        asked = call.message
        status = _enum(asked, "status") if asked.status else None
        page = _Page(call, f"review-items:{asked.queue_id}:{status}")
        found = await self._queued.items(
            call.principal, asked.queue_id, status, after=page.after, limit=page.size + 1
        )
        shown, token = page.cut(found, lambda one: (one.created_at, one.item_id))
        return {"items": [_item_fields(one) for one in shown], **token}

    async def _set_status(self, call: Call) -> Answer:
        asked = call.message
        item = await self._queued.set_status(
            call.principal, asked.queue_id, asked.item_id, _enum(asked, "status")
        )
        return {"item": _item_fields(item)}

    # Issues

    async def _create_issue(self, call: Call) -> Answer:
        asked = call.message
        made = await self._found.create_issue(
            call.principal,
            Issue(
                id="",
                experiment_id=asked.experiment_id,
                name=asked.name,
                description=asked.description,
                status=asked.status or "pending",
                severity=asked.severity or None,
                root_causes=tuple(asked.root_causes),
                categories=tuple(asked.categories),
                source_run_id=asked.source_run_id or None,
                created_by=asked.created_by or call.principal.name,
                created_at=0,
                updated_at=0,
            ),
        )
        return {"issue": _issue_fields(made)}

    async def _update_issue(self, call: Call) -> Answer:
        asked = call.message
        changed = await self._found.update_issue(
            call.principal,
            asked.issue_id,
            name=asked.name or None,
            description=asked.description or None,
            status=_given(asked, "status"),
            severity=_given(asked, "severity"),
        )
        return {"issue": _issue_fields(changed)}

    async def _get_issue(self, call: Call) -> Answer:
        found = await self._desk.get(call.principal, Issue, call.message.issue_id)
        return {"issue": _issue_fields(found)}

    async def _issues(self, call: Call) -> Answer:
        asked = call.message
        experiment_id = asked.experiment_id or None
        scope = f"issues:{experiment_id}:{asked.filter_string}:{asked.include_trace_count}"
        size = page_bound(call, default=_PAGE)
        found = await self._found.find_issues(
            call.principal,
            experiment_id,
            asked.filter_string,
            counted=asked.include_trace_count,
            after=_issue_place(decode_page_token(asked.page_token, scope)),
            limit=size + 1,
        )
        answer: dict[str, Any] = {"issues": [_issue_fields(one) for one in found[:size]]}
        if len(found) > size:
            answer["next_page_token"] = encode_page_token(found[size - 1].place._asdict(), scope)
        return answer


def _given(message: Any, name: str) -> Any:
    """Return a field's value; None when it is not there."""
    return getattr(message, name) if message.HasField(name) else None


def _enum(message: Any, name: str) -> str:
    number = getattr(message, name)
    known: str = message.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number[number].name
    return known


def _input(message: Any) -> dict[str, Any]:
    """Return a `LabelSchemaInput` in JSON, with its whole numbers as such."""
    found: dict[str, Any] = MessageToDict(message.input, preserving_proto_field_name=True)
    text = found.get("text", {})
    if "max_length" in text:
        text["max_length"] = int(text["max_length"])
    return found


class _Page:
    """The page that is asked for, of a listing by creation and id; `size` and one more are read.

    Args:
        call: Who asks.
        scope: What the page's token is good for.
    """

    def __init__(self, call: Call, scope: str) -> None:
        self.size = page_bound(call, default=_PAGE)
        self.after: Place | None = None
        self._scope = scope
        written = decode_page_token(call.message.page_token, scope)
        if written:
            try:
                self.after = int(written["t"]), str(written["i"])
            except (KeyError, ValueError):
                raise foreign_token() from None

    def cut(
        self, found: Sequence[T], place_of: Callable[[T], Place]
    ) -> tuple[Sequence[T], dict[str, str]]:
        """Return the page of what was read, and the token of what follows it."""
        if len(found) <= self.size:
            return found, {}
        shown = found[: self.size]
        at, last = place_of(shown[-1])
        return shown, {"next_page_token": encode_page_token({"t": at, "i": last}, self._scope)}


def _issue_place(written: Mapping[str, Any]) -> IssuePlace | None:
    if not written:
        return None
    try:
        rank, traces, created_at = (int(written[name]) for name in _NUMBERS)
        if not (fits_64_bits(rank) and fits_64_bits(traces) and fits_64_bits(created_at)):
            raise foreign_token()
        return IssuePlace(rank, traces, created_at, str(written["id"]))
    except (KeyError, ValueError):
        raise foreign_token() from None


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _schema_fields(schema: LabelSchema) -> dict[str, Any]:
    return _present(
        schema_id=schema.id,
        experiment_id=schema.experiment_id,
        name=schema.name,
        type=schema.type,
        instruction=schema.instruction,
        enable_comment=schema.enable_comment,
        input=schema.input,
        created_by=schema.created_by or None,
        created_at=millis(schema.created_at),
        last_updated_at=millis(schema.updated_at),
        is_default=schema.is_default,
    )


def _queue_fields(queue: ReviewQueue) -> dict[str, Any]:
    return _present(
        queue_id=queue.id,
        experiment_id=queue.experiment_id,
        name=queue.name,
        queue_type=queue.type,
        created_by=queue.created_by or None,
        creation_time_ms=millis(queue.created_at),
        last_update_time_ms=millis(queue.updated_at),
        users=sorted(queue.users),
        schema_ids=sorted(queue.schema_ids),
    )


def _item_fields(item: ReviewItem) -> dict[str, Any]:
    return _present(
        queue_id=item.queue_id,
        item_type="TRACE",
        item_id=item.item_id,
        status=item.status,
        completed_by=item.completed_by,
        completed_time_ms=None if item.completed_at is None else millis(item.completed_at),
        creation_time_ms=millis(item.created_at),
        last_update_time_ms=millis(item.updated_at),
    )


def _issue_fields(issue: Issue) -> dict[str, Any]:
    return _present(
        issue_id=issue.id,
        experiment_id=issue.experiment_id,
        name=issue.name,
        description=issue.description,
        status=issue.status,
        severity=issue.severity,
        root_causes=list(issue.root_causes),
        categories=list(issue.categories),
        source_run_id=issue.source_run_id,
        created_by=issue.created_by,
        created_timestamp=millis(issue.created_at),
        last_updated_timestamp=millis(issue.updated_at),
        trace_count=issue.trace_count,
    )
