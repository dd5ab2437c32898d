"""Gives registered models other names, with all that is known of them by name."""

from __future__ import annotations

from dataclasses import replace

from services.catalog.convert import events
from services.catalog.domain.lineage import LineageEdge, LineageNode, NodeType
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, SecurableKey
from services.catalog.errors import InvalidSecurable, ModelServed, of_field
from services.catalog.handlers.context import Context, active, busy, check_etag, check_free
from services.catalog.ports import Transaction
from tessera_kit.ids import new_etag
from tessera_kit.rpc.identity import Principal

__all__ = ["Renaming"]


class Renaming:
    """Use case of renaming.

    Grants, versions, files and aliases hang from the model's id. What is known by its name, its
    versions' rows and the lineage graph's nodes, changes in the same transaction.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def rename(
        self, caller: Principal, was: SecurableKey, key: SecurableKey, etag: str
    ) -> Entity:
        """Give a registered model another name.

        Raises:
            SecurableNotFound: The model, or the new name's schema, is not there for the caller.
            PrivilegeMissing: The caller may not manage the model, or not register one of that name.
            InvalidSecurable: It has that name already.
            SecurableExists, Busy: The name is taken, or is being given up.
            StaleEtag: It changed since the caller read it.
            ModelServed: An endpoint serves one of its versions.
        """
        context = self._context
        await context.guard.require(caller, was, Privilege.MANAGE)
        await context.guard.require(caller, key.container, Privilege.CREATE_MODEL)
        if was == key:
            raise of_field(InvalidSecurable, "new_full_name", "is the name that it has")
        async with context.store.write() as tx:
            model = await active(tx, was, lock=True)
            check_etag(model.etag, etag)
            await active(tx, key.container, lock=True)
            if await check_free(tx, key) is not None:
                raise busy(key)
            edges = await tx.lineage.of_model(was.full_name)
            await _require_not_served(tx, was, edges)
            renamed = replace(model, key=key, etag=new_etag(), updated_at=context.clock.now())
            await tx.entities.rename(renamed, was)
            await tx.versions.rename(model.id, key.full_name)
            await tx.lineage.remove(edges)
            await tx.lineage.put([_moved(edge, was, key) for edge in edges])
            tx.publish(events.securable_renamed(renamed, was, caller.name))
            tx.publish(events.access_changed("", was))
            tx.publish(events.access_changed("", key))
            await tx.commit()
        return renamed


async def _require_not_served(
    tx: Transaction, model: SecurableKey, edges: list[LineageEdge]
) -> None:
    """Refuse while an endpoint answers with one of the model's versions.

    An endpoint tells what it answers with all at once, so the latest of the edges into it are what
    it serves now; the earlier ones are what it served before.
    """
    endpoints = {edge.target for edge in edges if edge.target.type is NodeType.ENDPOINT}
    for endpoint in sorted(endpoints):
        key = endpoint.securable
        entity = None if key is None else await tx.entities.get(key)
        if entity is None or not entity.active:
            continue
        [latest] = await tx.lineage.touching([endpoint], upstream=True, limit=1)
        serving = [
            edge.source.name
            for edge in edges
            if edge.target == endpoint and edge.observed_at == latest.observed_at
        ]
        if serving:
            raise ModelServed(
                f"endpoint {endpoint.name} serves {serving[0]} by its name; delete the endpoint "
                "or let it serve another model, then rename",
                metadata={"full_name": model.full_name, "endpoint": endpoint.name},
            )


def _moved(edge: LineageEdge, was: SecurableKey, key: SecurableKey) -> LineageEdge:
    source, target = (
        LineageNode(node.type, node.name.replace(was.full_name, key.full_name, 1))
        if node.type is NodeType.MODEL_VERSION and node.securable == was
        else node
        for node in (edge.source, edge.target)
    )
    return replace(edge, source=source, target=target)
