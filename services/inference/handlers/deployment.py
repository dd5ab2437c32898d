"""Makes configurations ready in the runtime, switches to them, and keeps the runtime in order.

The old configuration answers until the new one is ready; a failed one leaves it as it is. Models
that nothing routes to are unloaded once their last request has returned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from services.inference.convert import events
from services.inference.convert.events import Step
from services.inference.domain.endpoint import Endpoint, EndpointConfig, ServedEntity, UpdateState
from services.inference.domain.environment import secret_reference
from services.inference.domain.signature import Signature
from services.inference.errors import EndpointNotFound, ModelNotServable, StaleEtag
from services.inference.gateway.routing import RouteTable, Served
from services.inference.handlers.changes import Changes
from services.inference.ports import Bundles, Endpoints, ModelRegistry, RuntimeModels, Secrets
from services.inference.runtime.bundle import (
    ModelBundle,
    ModelFiles,
    environment_files,
    make_bundle,
    needed,
)
from tessera_kit.clock import Clock
from tessera_kit.errors import Internal, TesseraError, Unavailable
from tessera_kit.ids import new_etag
from tessera_kit.tasks import detached_task

__all__ = ["Deployer"]

_log = logging.getLogger(__name__)

_PREFIX: Final = "tessera-"
_DRAIN_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 1.0
_DEPLOY_SECONDS: Final = 600.0
_LOADS_AT_ONCE: Final = 2
# A model is loaded by one message, and none of gRPC is larger.
_LARGEST_VERSION: Final = (2 << 30) - (1 << 20)


class Deployer:
    """Owns the runtime's models; one per process.

    Args:
        endpoints: Where endpoints are kept.
        models: Where models' files come from.
        runtime: What runs them.
        bundles: Keeps what was loaded.
        secrets: Where the secrets of models' variables are.
        routes: The gateway's table.
        changes: Tells those who wait.
        clock: Where time comes from.
        interval_seconds: How often the runtime is looked at without a cause.
    """

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        models: ModelRegistry,
        runtime: RuntimeModels,
        bundles: Bundles,
        secrets: Secrets,
        routes: RouteTable,
        changes: Changes,
        clock: Clock,
        interval_seconds: float = 1.0,
    ) -> None:
        self._endpoints = endpoints
        self._models = models
        self._runtime = runtime
        self._bundles = bundles
        self._secrets = secrets
        self._routes = routes
        self._changes = changes
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()
        self._look = asyncio.Event()
        self._suspected: set[str] = set()
        self.unloads = 0
        """How many models were unloaded so far."""

    def suspect(self, runtime_name: str) -> None:
        """Have the runtime looked at now, because a model did not answer.

        Those that are asked for are loaded before others.
        """
        self._suspected.add(runtime_name)
        self._look.set()

    async def start(self) -> None:
        """Route to what answered before this process began, and go on with what was under way."""
        for endpoint in await self._endpoints.all():
            self._routes.put(endpoint)
            if endpoint.update_state is UpdateState.IN_PROGRESS:
                self.deploy(endpoint)

    async def run(self) -> None:
        """Keep the runtime as it should be, until cancelled."""
        try:
            while True:
                self._look.clear()
                try:
                    await self.reconcile()
                except TesseraError as error:
                    _log.warning("the runtime's models are not as they should be: %s", error)
                try:
                    async with asyncio.timeout(self._interval_seconds):
                        await self._look.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = [*self._tasks.values(), *self._draining]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def deploy(self, endpoint: Endpoint) -> None:
        """Begin to make the endpoint's pending configuration ready."""
        self._routes.put(endpoint)
        # It may take longer than the call that begins it, and must not end with that.
        task = detached_task(self._deploy(endpoint), name=f"deploy-{endpoint.name}")
        self._tasks[endpoint.endpoint_id] = task
        task.add_done_callback(lambda _: self._forget(endpoint.endpoint_id, task))

    async def cancel(self, endpoint: Endpoint) -> None:
        """Stop making ready what the endpoint no longer waits for."""
        await self._stop(endpoint)
        # What it had loaded by then is unloaded by the next look at the runtime.
        self._look.set()
        self._changes.ring(endpoint.name)

    def apply(self, endpoint: Endpoint) -> None:
        """Route as the endpoint now says; models that get no more requests are let go."""
        self._retire(self._routes.put(endpoint))
        self._changes.ring(endpoint.name)

    async def remove(self, endpoint: Endpoint) -> None:
        """Stop answering for an endpoint that is gone."""
        await self._stop(endpoint)
        self._retire(self._routes.remove(endpoint.name))
        self._changes.ring(endpoint.name)

    async def _stop(self, endpoint: Endpoint) -> None:
        task = self._tasks.get(endpoint.endpoint_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def idle(self) -> None:
        """Return when nothing is being made ready or let go. For tests and for shutdown."""
        while tasks := [*self._tasks.values(), *self._draining]:
            await asyncio.wait(tasks)

    async def follow(self) -> Sequence[Endpoint]:
        """Route as the store says, where another process changed an endpoint.

        Returns every endpoint.

        Raises:
            Unavailable: The store does not answer.
        """
        before, starting = dict(self._routes.routes), self._routes.starting
        endpoints = await self._endpoints.all()
        for endpoint in endpoints:
            route = before.get(endpoint.name)
            if route is not self._routes.routes.get(endpoint.name):
                # It was changed here meanwhile, and what was read may be what it was before.
                continue
            if route is None and endpoint.config is None and endpoint.name in starting:
                continue
            if route is None or route.endpoint.etag != endpoint.etag:
                self.apply(endpoint)
        gone = (starting | before.keys()) - {endpoint.name for endpoint in endpoints}
        for name in gone:
            if before.get(name) is self._routes.routes.get(name):
                self._retire(self._routes.remove(name))
                self._changes.ring(name)
        return endpoints

    async def reconcile(self) -> None:
        """Load what should answer and does not, and unload what nobody asks for.

        Raises:
            Unavailable: The runtime or a store does not answer.
        """
        endpoints = await self.follow()
        loaded = await self._runtime.loaded()
        wanted = {
            entity.runtime_name: (endpoint, entity)
            for endpoint in endpoints
            if endpoint.config is not None
            for entity in endpoint.config.entities
        }
        asleep = {name for name, (_, entity) in wanted.items() if entity.scale_to_zero}
        pending = {
            entity.runtime_name
            for endpoint in endpoints
            if endpoint.pending is not None
            for entity in endpoint.pending.entities
        }
        await self._load_missing(
            [wanted[name] for name in sorted(wanted.keys() - loaded - self._busy - asleep)]
        )
        for name in sorted(loaded - wanted.keys() - pending - self._busy):
            if name.startswith(_PREFIX):
                _log.info("unloading %s: nothing routes to it", name)
                await self.unload(name)
        await self._bundles.keep_only(frozenset(wanted) | pending | self._busy)

    async def _load_missing(self, missing: Sequence[tuple[Endpoint, ServedEntity]]) -> None:
        """Load what should answer, some at a time, and first what somebody asked for meanwhile."""
        waiting = list(missing)

        async def work() -> None:
            while waiting:
                asked = (one for one in waiting if one[1].runtime_name in self._suspected)
                chosen = next(asked, waiting[0])
                waiting.remove(chosen)
                self._suspected.discard(chosen[1].runtime_name)
                await self._load_again(*chosen)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_LOADS_AT_ONCE, len(waiting))):
                    group.create_task(work())
        except* Unavailable as away:
            raise away.exceptions[0] from None
        self._suspected.clear()

    async def _load_again(self, endpoint: Endpoint, entity: ServedEntity) -> None:
        _log.warning("loading %s of endpoint %s again", entity.name, endpoint.name)
        try:
            await self.load(endpoint.created_by, entity)
        except Unavailable:
            raise
        except TesseraError as error:
            # The others must not wait for one whose files are gone.
            _log.error("endpoint %s: %s cannot be loaded: %s", endpoint.name, entity.name, error)

    async def _deploy(self, endpoint: Endpoint) -> None:
        config = endpoint.pending
        if config is None:
            return
        names = {entity.runtime_name for entity in config.entities}
        self._busy |= names
        try:
            failure = await self._make_ready(endpoint, config)
            done = await self._conclude(endpoint, failure)
            if done is None or failure is not None:
                await self._unload(names)
            if done is not None:
                self.apply(done)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("endpoint %s: the change of configuration broke", endpoint.name)
        finally:
            self._busy -= names

    async def _make_ready(self, endpoint: Endpoint, config: EndpointConfig) -> str | None:
        """Load every entity; returns why it failed, None when all answer."""
        try:
            async with asyncio.timeout(_DEPLOY_SECONDS):
                for entity in config.entities:
                    await self._load_patiently(endpoint.created_by, entity)
        except TimeoutError:
            return f"the models were not ready after {_DEPLOY_SECONDS:.0f} seconds"
        except Internal:
            _log.exception("endpoint %s cannot be made ready", endpoint.name)
            return "an internal error happened; the server's log has the details"
        except TesseraError as error:
            return f"{entity.name}: {error.message}"
        return None

    async def _load_patiently(self, principal: str, entity: ServedEntity) -> None:
        """Load an entity, over restarts of the runtime and of the catalog."""
        while True:
            try:
                await self.load(principal, entity)
                return
            except Unavailable as error:
                _log.warning("%s waits: %s", entity.runtime_name, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def load(self, principal: str, entity: ServedEntity) -> None:
        """Have the runtime load an entity, with files that the principal may read.

        Raises:
            ModelNotServable: It cannot be loaded.
            SecretNotFound: A variable of it names a secret that the principal may not read.
            Unavailable: The runtime or the catalog does not answer.
        """
        bundle = await self._bundles.get(entity.runtime_name)
        if bundle is None:
            bundle = await self._fetch(principal, entity)
            await self._bundles.put(entity.runtime_name, bundle)
        files = bundle.files
        if entity.environment:
            variables = await self._environment(principal, entity)
            files = {**files, **environment_files(entity.steps, variables)}
        await self._runtime.load(entity.runtime_name, bundle.config, files)

    async def _environment(self, principal: str, entity: ServedEntity) -> dict[str, str]:
        """The variables of a model's process, with the secrets that they name."""
        found = {}
        for name, value in entity.environment.items():
            secret = secret_reference(value)
            if secret is not None:
                value = (await self._secrets.read(principal, secret.scope, secret.key)).reveal()
            found[name] = value
        return found

    async def _fetch(self, principal: str, entity: ServedEntity) -> ModelBundle:
        model, version, signature = entity.model_name, entity.model_version, entity.signature
        sources, left = await self._files(principal, model, version, signature, _LARGEST_VERSION)
        steps = []
        for step, takes in zip(signature.steps, entity.steps, strict=True):
            found, left = await self._files(
                principal, step.model_name, step.model_version, takes, left
            )
            steps.append(ModelFiles(takes, found))
        # Checking a large archive takes a while; the gateway answers meanwhile.
        return await asyncio.to_thread(
            make_bundle,
            entity.runtime_name,
            signature,
            entity.instance_count,
            sources,
            entity.instance_groups,
            entity.runtime,
            steps,
        )

    async def _files(
        self, principal: str, model: str, version: int, signature: Signature, most: int
    ) -> tuple[dict[str, bytes], int]:
        """The files of a version that its bundle needs, and how many bytes are left of `most`."""
        sizes = await self._models.files(principal, model, version)
        paths = needed(signature, sizes)
        if signature.file not in sizes:
            raise ModelNotServable(f"version {version} of {model} has no file {signature.file!r}")
        left = most - sum(sizes[path] for path in paths)
        if left < 0:
            raise ModelNotServable(
                f"with version {version} of {model} there are more than {_LARGEST_VERSION} bytes "
                "to serve"
            )
        read = self._models.read_file
        return {path: await read(principal, model, version, path) for path in paths}, left

    async def _conclude(self, endpoint: Endpoint, failure: str | None) -> Endpoint | None:
        """Store how the change ended; None when the endpoint is gone or has gone on without it."""
        while True:
            try:
                stored = await self._endpoints.get(endpoint.name)
                if stored.pending != endpoint.pending or stored.endpoint_id != endpoint.endpoint_id:
                    return None
                now = self._clock.now()
                if failure is None:
                    done = stored.finish(now, new_etag())
                    tells = [events.changed(done, Step.UPDATE_READY), events.serving(done)]
                else:
                    _log.warning("endpoint %s: %s", endpoint.name, failure)
                    done = stored.fail(failure, now, new_etag())
                    tells = [events.changed(done, Step.UPDATE_FAILED)]
                await self._endpoints.save(done, stored.etag, tells)
                return done
            except EndpointNotFound:
                return None
            except StaleEtag:
                continue

    def _retire(self, served: Iterable[Served]) -> None:
        for one in served:
            self._busy.add(one.runtime_name)
            task = detached_task(self._let_go(one), name=f"drain-{one.runtime_name}")
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _let_go(self, served: Served) -> None:
        """Unload a model once its last request has returned."""
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await served.drained()
        except TimeoutError:
            _log.warning("%s still runs requests; the runtime ends them", served.runtime_name)
        try:
            await self._unload({served.runtime_name})
        finally:
            self._busy.discard(served.runtime_name)

    async def unload(self, name: str) -> None:
        """Have the runtime unload a model.

        Raises:
            Unavailable: The runtime does not answer.
        """
        await self._runtime.unload(name)
        self.unloads += 1

    async def _unload(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                await self.unload(name)
            except Unavailable as error:
                # A runtime that is away has lost it anyway; `reconcile` looks again.
                _log.warning("%s is not unloaded yet: %s", name, error)

    def _forget(self, endpoint_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(endpoint_id) is task:
            del self._tasks[endpoint_id]
