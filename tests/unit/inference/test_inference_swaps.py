"""Under load, a hundred changes of versions and a replaced runtime fail no request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tritonclient.grpc import service_pb2

from services.inference.adapters.memory import (
    InMemoryBudgets,
    InMemoryCapture,
    InMemoryProcess,
    InMemoryReplacements,
)
from services.inference.domain.settings import EndpointSettings
from services.inference.errors import ModelNotLoaded, RuntimeUnavailable
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.infer import InferenceHandler, InferenceLimits
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.shadows import Shadows
from services.inference.handlers.memory_watch import MemoryWatch
from services.inference.handlers.replacement import Replacement
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.telemetry.calls import ServerCalls
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.sampling import BoundedShare
from tests.helpers import eventually
from tests.unit.inference.control import ADA, Control, entity
from tests.unit.inference.gateway import Context

Make = Callable[..., Any]
WORKERS = 16
LOOK_SECONDS = 0.05


class PatientAuthority(InMemoryAuthority):
    """Lets others run before it answers, as one does that asks the catalog."""

    async def require(self, *question: Any) -> None:
        await asyncio.sleep(0.001)
        await super().require(*question)


class Platform:
    """A control plane and a gateway over one runtime, which has only what is loaded."""

    def __init__(
        self, manifest: dict[str, Any], make_request: Make, beside: Platform | None = None
    ) -> None:
        self.control = Control(manifest)
        if beside is not None:
            self.control.share(beside.control)
        self.control.runtime._answer = self.answer
        self.request = make_request(name="delays").SerializeToString()
        self.capture = InMemoryCapture()
        self.hold = RuntimeHold()
        self.replacements = InMemoryReplacements() if beside is None else beside.replacements
        authority = PatientAuthority()
        authority.add_principal(Principal("alice"), "alice-token")
        place = (securable_pb2.SECURABLE_TYPE_ENDPOINT, "delays")
        authority.grant("alice", [securable_pb2.PRIVILEGE_EXECUTE], *place)
        control, metrics = self.control, Metrics()
        counts = GatewayMetrics(metrics)
        recorder = Recorder(self.capture, control.routes, counts)
        shadows = Shadows(control.runtime, recorder, counts)
        suspect, follow = control.deployer.suspect, control.deployer.follow
        self.dispatcher = Dispatcher(
            control.routes, control.runtime, shadows, self.hold, counts, suspect, follow
        )
        self.handler = InferenceHandler(
            control.routes,
            authority=authority,
            limiter=RateLimiter(InMemoryBudgets(), SystemClock()),
            dispatcher=self.dispatcher,
            recorder=recorder,
            calls=ServerCalls(metrics, None, BoundedShare(0.0, 0.0)).method("inference/ModelInfer"),
            metrics=counts,
            limits=InferenceLimits(),
        )
        self.stopped = asyncio.Event()

    def watch(self, process: InMemoryProcess, bound: int) -> MemoryWatch:
        replacement = Replacement(
            store=self.replacements,
            hold=self.hold,
            routes=self.control.routes,
            clock=SystemClock(),
            look_seconds=LOOK_SECONDS,
        )
        return MemoryWatch(
            process=process,
            models=self.control.runtime,
            routes=self.control.routes,
            replacement=replacement,
            deployer=self.control.deployer,
            bound=bound,
            interval_seconds=LOOK_SECONDS,
        )

    async def answer(self, request: bytes) -> bytes:
        name = service_pb2.ModelInferRequest.FromString(request).model_name
        if not self.control.runtime.has(name):
            raise ModelNotLoaded(f"{name} is not loaded")
        for _ in range(3):
            if not self.control.runtime.has(name):
                raise RuntimeUnavailable(f"{name} is not loaded")
            # A model takes its time; a loop that is never idle would starve loading threads.
            await asyncio.sleep(0.001)
        return service_pb2.ModelInferResponse(model_name=name).SerializeToString()

    async def work(self) -> int:
        """Ask until told to stop; a failed request raises."""
        answered = 0
        while not self.stopped.is_set():
            await self.handler.infer(self.request, Context())  # type: ignore[arg-type]
            answered += 1
        return answered

    def start(self) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.work()) for _ in range(WORKERS)]

    async def stop(self, workers: list[asyncio.Task[int]]) -> None:
        """Every request was answered, and each has its one record."""
        self.stopped.set()
        answered = sum(await asyncio.gather(*workers))
        records = [pb.PayloadRecord.FromString(data) for data in self.capture.records]
        assert {record.status_code for record in records} == {0}
        assert len({record.tessera_request_id for record in records}) == answered
        assert len(records) == answered > 0


async def test_a_hundred_swaps_of_configurations_and_shares_fail_no_request(
    manifest: dict[str, Any], make_request: Make
) -> None:
    platform = Platform(manifest, make_request)
    handlers, deployer = platform.control.handlers, platform.control.deployer
    await platform.control.created(entities=[entity(1), entity(2, share=0)])
    workers = platform.start()
    for number in range(50):
        first = number % 2 * 100
        shares = {"delay-1": first, "delay-2": 100 - first}
        await handlers.update_traffic(ADA, "delays", shares, "")
        await asyncio.sleep(0)
        await handlers.update_config(ADA, "delays", [entity(1, first), entity(2, 100 - first)], "")
        await deployer.idle()
    await platform.stop(workers)
    records = [pb.PayloadRecord.FromString(data) for data in platform.capture.records]
    assert len({record.config_version for record in records}) > 40
    assert len(await platform.control.runtime.loaded()) == 2


async def test_another_gateway_over_the_store_follows_and_fails_no_request(
    manifest: dict[str, Any], make_request: Make
) -> None:
    """It hears of nothing; it reads the store now and then, and when a model is gone."""
    first = Platform(manifest, make_request)
    second = Platform(manifest, make_request, beside=first)
    handlers, routes = first.control.handlers, second.control.routes
    await first.control.created()
    await second.control.deployer.reconcile()
    keeping = asyncio.create_task(second.control.deployer.run())
    workers = second.start()
    for number in range(30):
        await handlers.update_config(ADA, "delays", [entity(1 + number % 2)], "")
        await first.control.deployer.idle()
        await asyncio.sleep(0.001 * (number % 5))
    newest = await first.control.endpoints.get("delays")
    await eventually(lambda: routes.find("delays").endpoint == newest)
    await second.stop(workers)
    records = [pb.PayloadRecord.FromString(data) for data in second.capture.records]
    assert len({record.config_version for record in records}) > 3
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_another_gateway_hears_of_settings_of_new_endpoints_and_of_gone_ones(
    manifest: dict[str, Any], make_request: Make
) -> None:
    first = Platform(manifest, make_request)
    follower = Platform(manifest, make_request, beside=first).control
    await follower.deployer.reconcile()
    assert not follower.routes.knows("delays")
    await first.control.create()
    await follower.deployer.reconcile()
    assert follower.routes.knows("delays")
    await first.control.deployer.idle()
    await follower.deployer.reconcile()
    assert follower.routes.find("delays").sampled == 1.0
    settings = EndpointSettings(sampling_fraction=0.25)
    await first.control.handlers.update(ADA, "delays", "", settings, {"sampling_fraction"}, "")
    await follower.deployer.reconcile()
    assert follower.routes.find("delays").sampled == 0.25
    await first.control.handlers.delete(ADA, "delays", "")
    await follower.deployer.reconcile()
    assert not follower.routes.knows("delays")
    await follower.deployer.idle()


async def test_a_runtime_that_leaks_is_replaced_and_no_request_of_any_process_fails(
    manifest: dict[str, Any], make_request: Make
) -> None:
    platform = Platform(manifest, make_request)
    beside = Platform(manifest, make_request, beside=platform)
    control = platform.control
    await control.created()
    await beside.control.deployer.reconcile()
    process = InMemoryProcess(control.runtime, 1000)
    watch = platform.watch(process, bound=500)
    keeping = [
        asyncio.create_task(control.deployer.run()),
        asyncio.create_task(beside.control.deployer.run()),
        asyncio.create_task(beside.watch(process, bound=0).run()),
    ]
    workers, others = platform.start(), beside.start()
    assert not await watch.look()
    process.size = 2000
    assert not await watch.look(), "nothing was unloaded"
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    await eventually(lambda: control.deployer.unloads > 0)
    assert await watch.look()
    assert process.ended == 1
    process.size = 900
    await control.handlers.update_config(ADA, "delays", [entity(1)], "")
    await eventually(lambda: control.deployer.unloads > 1)
    assert not await watch.look()
    await platform.stop(workers)
    await beside.stop(others)
    for task in keeping:
        task.cancel()
    await asyncio.wait(keeping)


async def test_of_two_that_would_replace_the_runtime_one_does(
    manifest: dict[str, Any], make_request: Make
) -> None:
    platform = Platform(manifest, make_request)
    beside = Platform(manifest, make_request, beside=platform)
    await platform.control.created()
    await beside.control.deployer.reconcile()
    process = InMemoryProcess(platform.control.runtime, 1000)
    keeping = asyncio.create_task(platform.control.deployer.run())
    watches = [one.watch(process, bound=500) for one in (platform, beside)]
    replaced = asyncio.gather(*(watch.replace() for watch in watches))
    await eventually(replaced.done)
    assert sorted(replaced.result()) == [False, True]
    assert (process.ended, platform.hold.is_closed, beside.hold.is_closed) == (1, False, False)
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_a_process_that_dies_amid_a_replacement_is_not_waited_for(
    manifest: dict[str, Any], make_request: Make
) -> None:
    platform = Platform(manifest, make_request)
    now = SystemClock().now()
    await platform.replacements.lead("dead", now=now, until=now + timedelta(seconds=0.2))
    following = asyncio.create_task(
        platform.watch(InMemoryProcess(platform.control.runtime, 1), 0).look()
    )
    await eventually(lambda: platform.hold.is_closed)
    assert not await following
    assert not platform.hold.is_closed


async def test_a_runtime_on_another_machine_is_left_alone(
    manifest: dict[str, Any], make_request: Make
) -> None:
    platform = Platform(manifest, make_request)
    process = InMemoryProcess(platform.control.runtime, None)
    assert not await platform.watch(process, bound=1).look()
    assert process.ended == 0
