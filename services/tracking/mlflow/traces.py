"""MLflow's traces and assessments, for clients of 3.x and those before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.tracking.domain.traces.assessment import AssessmentChange
from services.tracking.domain.traces.correlation import npmi, smoothed_npmi
from services.tracking.domain.traces.trace import Trace, TraceState, check_trace_id
from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.errors import InvalidParameter
from services.tracking.mlflow.experiments import page_bound
from services.tracking.mlflow.messages import json_number
from services.tracking.mlflow.trace_fields import (
    assessment_fields,
    assessment_of,
    experiment_of_location,
    metrics_query,
    pairs_of,
    trace_fields,
    trace_info_fields,
    trace_info_v2_fields,
    trace_of,
    value_of,
)
from services.tracking.mlflow.values import micros_of_millis

__all__ = ["TraceMethods"]

_PAGE: Final = 100
_MOST_RESULTS: Final = 500
_MANY_SPANS: Final = 20
_CHANGEABLE: Final = frozenset(
    {"assessment_name", "feedback", "expectation", "rationale", "metadata"}
)


class TraceMethods:
    """Answers the rpcs of traces and assessments.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._traces = cases.traces
        self._search = cases.trace_search
        self._assessments = cases.assessments
        self._trace_metrics = cases.trace_metrics
        self._trace_correlation = cases.trace_correlation

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        by_id, by_request = ("trace_id",), ("request_id",)
        return {
            "MlflowService/startTraceV3": Method(self._start, ("trace",)),
            "MlflowService/getTraceInfoV3": Method(self._info, by_id),
            "MlflowService/getTrace": Method(self._get, by_id),
            "MlflowService/batchGetTraces": Method(self._get_many),
            "MlflowService/batchGetTraceInfos": Method(self._infos),
            "MlflowService/searchTracesV3": Method(self._find, ("locations",)),
            "MlflowService/setTraceTagV3": Method(self._set_tag, (*by_id, "key")),
            "MlflowService/deleteTraceTagV3": Method(self._delete_tag, (*by_id, "key")),
            "MlflowService/deleteTracesV3": Method(self._delete, ("experiment_id",)),
            "MlflowService/linkTracesToRun": Method(self._link_run, ("trace_ids", "run_id")),
            "MlflowService/linkPromptsToTrace": Method(self._link_prompts, by_id),
            "MlflowService/queryTraceMetrics": Method(
                self._metrics, ("experiment_ids", "metric_name", "aggregations")
            ),
            "MlflowService/calculateTraceFilterCorrelation": Method(
                self._correlation, ("experiment_ids", "filter_string1", "filter_string2")
            ),
            "MlflowService/createAssessment": Method(self._assess, ("assessment",)),
            "MlflowService/GetAssessment": Method(self._assessment, (*by_id, "assessment_id")),
            "MlflowService/updateAssessment": Method(self._reassess, ("assessment", "update_mask")),
            "MlflowService/deleteAssessment": Method(self._unassess, (*by_id, "assessment_id")),
            # Before 3.0
            "MlflowService/startTrace": Method(self._begin, ("experiment_id", "timestamp_ms")),
            "MlflowService/endTrace": Method(self._end, (*by_request, "timestamp_ms", "status")),
            "MlflowService/getTraceInfo": Method(self._info_v2, by_request),
            "MlflowService/searchTraces": Method(self._find_v2, ("experiment_ids",)),
            "MlflowService/setTraceTag": Method(self._set_tag, (*by_request, "key")),
            "MlflowService/deleteTraceTag": Method(self._delete_tag, (*by_request, "key")),
            "MlflowService/deleteTraces": Method(self._delete, ("experiment_id",)),
        }

    # Traces

    async def _start(self, call: Call) -> Answer:
        told = trace_of(call.message.trace.trace_info)
        trace = await self._traces.start(call.principal, told)
        return {"trace": {"trace_info": trace_info_fields(trace)}}

    async def _info(self, call: Call) -> Answer:
        trace = await self._traces.get(call.principal, call.message.trace_id)
        return {"trace": {"trace_info": trace_info_fields(trace)}}

    async def _get(self, call: Call) -> Answer:
        trace = await self._traces.get(call.principal, call.message.trace_id)
        (fields,) = await self._with_spans([trace])
        return {"trace": fields}

    async def _get_many(self, call: Call) -> Answer:
        return {"traces": await self._with_spans(await self._asked_for(call))}

    async def _infos(self, call: Call) -> Answer:
        return {"trace_infos": [trace_info_fields(one) for one in await self._asked_for(call)]}

    async def _with_spans(self, traces: Sequence[Trace]) -> list[dict[str, Any]]:
        whole = await self._traces.with_spans(traces)
        if sum(len(one.spans) for one in whole) > _MANY_SPANS:
            # Writing them takes its time, in which others are answered.
            return await asyncio.to_thread(lambda: [trace_fields(one) for one in whole])
        return [trace_fields(one) for one in whole]

    async def _asked_for(self, call: Call) -> list[Trace]:
        return await self._traces.get_many(
            call.principal,
            list(call.message.trace_ids),
            list(call.message.experiment_ids) or None,
        )

    async def _find(self, call: Call) -> Answer:
        experiments = [experiment_of_location(one) for one in call.message.locations]
        page = await self._page(call, experiments)
        return _with_token([trace_info_fields(one) for one in page.traces], page.next_token)

    async def _find_v2(self, call: Call) -> Answer:
        page = await self._page(call, list(call.message.experiment_ids))
        return _with_token([trace_info_v2_fields(one) for one in page.traces], page.next_token)

    async def _page(self, call: Call, experiment_ids: list[str]) -> Any:
        return await self._search.traces(
            call.principal,
            experiment_ids=experiment_ids,
            text=call.message.filter,
            order_by=list(call.message.order_by),
            size=min(page_bound(call, default=_PAGE), _MOST_RESULTS),
            token=call.message.page_token,
        )

    async def _set_tag(self, call: Call) -> Answer:
        asked = call.message
        await self._traces.set_tag(call.principal, _id_of(call), asked.key, asked.value)
        return None

    async def _delete_tag(self, call: Call) -> Answer:
        await self._traces.delete_tag(call.principal, _id_of(call), call.message.key)
        return None

    async def _delete(self, call: Call) -> Answer:
        asked, has = call.message, call.message.HasField
        deleted = await self._traces.delete(
            call.principal,
            asked.experiment_id,
            trace_ids=list(asked.request_ids),
            until=(
                # All that a millisecond holds.
                micros_of_millis(asked.max_timestamp_millis, "max_timestamp_millis") + 999
                if has("max_timestamp_millis")
                else None
            ),
            limit=asked.max_traces if has("max_traces") else None,
        )
        return {"traces_deleted": deleted}

    async def _link_run(self, call: Call) -> Answer:
        asked = call.message
        await self._traces.link_to_run(call.principal, list(asked.trace_ids), asked.run_id)
        return None

    async def _link_prompts(self, call: Call) -> Answer:
        used = [(one.name, one.version) for one in call.message.prompt_versions]
        await self._traces.link_prompts(call.principal, call.message.trace_id, used)
        return None

    async def _metrics(self, call: Call) -> Answer:
        asked = call.message
        page = await self._trace_metrics.query(
            call.principal,
            list(asked.experiment_ids),
            metrics_query(asked, page_bound(call, default=1000, most=1000)),
            list(asked.filters),
            asked.page_token,
        )
        points = [
            {
                "metric_name": asked.metric_name,
                "dimensions": dict(one.dimensions),
                "values": dict(one.values),
            }
            for one in page.points
        ]
        answer: dict[str, Any] = {"data_points": points}
        return {**answer, "next_page_token": page.next_token} if page.next_token else answer

    async def _correlation(self, call: Call) -> Answer:
        asked = call.message
        counts = await self._trace_correlation.count(
            call.principal,
            list(asked.experiment_ids),
            first=asked.filter_string1,
            second=asked.filter_string2,
            base=asked.base_filter,
        )
        return {
            "npmi": json_number(npmi(counts)),
            "npmi_smoothed": json_number(smoothed_npmi(counts)),
            "filter1_count": counts.first,
            "filter2_count": counts.second,
            "joint_count": counts.both,
            "total_count": counts.total,
        }

    # Assessments

    async def _assess(self, call: Call) -> Answer:
        told = call.message.assessment
        trace_id = call.request.path_params.get("trace_id") or told.trace_id
        check_trace_id(trace_id)
        new = assessment_of(told, now=self._traces.now(), trace_id=trace_id)
        made = await self._assessments.create(call.principal, new)
        return {"assessment": assessment_fields(made)}

    async def _assessment(self, call: Call) -> Answer:
        asked = call.message
        found = await self._assessments.get(call.principal, asked.trace_id, asked.assessment_id)
        return {"assessment": assessment_fields(found)}

    async def _reassess(self, call: Call) -> Answer:
        asked = call.message
        trace_id, assessment_id = _assessment_ids(call)
        paths = set(asked.update_mask.paths)
        if not paths or not paths <= _CHANGEABLE:
            known = ", ".join(sorted(_CHANGEABLE))
            raise InvalidParameter(f"update_mask must name some of {known}")
        told = asked.assessment
        value: dict[str, Any] = {}
        if paths & {"feedback", "expectation"}:
            kind, new, form, error = value_of(told)
            value = {"kind": kind, "value": new, "format": form, "error": error}
        change = AssessmentChange(
            **value,
            name=told.assessment_name if "assessment_name" in paths else None,
            rationale=told.rationale if "rationale" in paths else None,
            metadata=dict(told.metadata) if "metadata" in paths else None,
        )
        changed = await self._assessments.update(call.principal, trace_id, assessment_id, change)
        return {"assessment": assessment_fields(changed)}

    async def _unassess(self, call: Call) -> Answer:
        asked = call.message
        await self._assessments.delete(call.principal, asked.trace_id, asked.assessment_id)
        return None

    # Before 3.0

    async def _begin(self, call: Call) -> Answer:
        asked = call.message
        trace = await self._traces.begin(
            call.principal,
            asked.experiment_id,
            at=micros_of_millis(asked.timestamp_ms, "timestamp_ms"),
            tags=pairs_of(asked.tags),
            metadata=pairs_of(asked.request_metadata),
        )
        return {"trace_info": trace_info_v2_fields(trace)}

    async def _end(self, call: Call) -> Answer:
        asked = call.message
        status = type(asked).DESCRIPTOR.fields_by_name["status"].enum_type
        name = status.values_by_number[asked.status].name
        trace = await self._traces.end(
            call.principal,
            asked.request_id,
            at=micros_of_millis(asked.timestamp_ms, "timestamp_ms"),
            state=TraceState.UNSPECIFIED if name.endswith("UNSPECIFIED") else TraceState(name),
            tags=pairs_of(asked.tags),
            metadata=pairs_of(asked.request_metadata),
        )
        return {"trace_info": trace_info_v2_fields(trace)}

    async def _info_v2(self, call: Call) -> Answer:
        trace = await self._traces.get(call.principal, call.message.request_id)
        return {"trace_info": trace_info_v2_fields(trace)}


def _id_of(call: Call) -> str:
    names = call.message.DESCRIPTOR.fields_by_name
    trace_id: str = getattr(call.message, "trace_id" if "trace_id" in names else "request_id")
    return trace_id


def _assessment_ids(call: Call) -> tuple[str, str]:
    path = call.request.path_params
    return path["trace_id"], path["assessment_id"]


def _with_token(traces: list[dict[str, Any]], token: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"traces": traces}
    return {**answer, "next_page_token": token} if token else answer
