"""Privileges, and which of them mean something on which kind of object."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from services.catalog.domain.securables import FLAT, SecurableType
from services.catalog.errors import InvalidGrant, of_field

__all__ = ["CREATION", "GRANTABLE", "RELEVANT", "Privilege", "check_grantable"]


class Privilege(enum.IntEnum):
    """What may be allowed; the numbers are those of `tessera.catalog.v1.Privilege`."""

    ALL_PRIVILEGES = 1
    MANAGE = 2
    BROWSE = 3
    USE_CATALOG = 4
    USE_SCHEMA = 5
    CREATE_CATALOG = 6
    CREATE_SCHEMA = 7
    CREATE_TABLE = 8
    CREATE_VOLUME = 9
    CREATE_MODEL = 10
    CREATE_FUNCTION = 11
    CREATE_MODEL_VERSION = 12
    SELECT = 13
    MODIFY = 14
    EXECUTE = 15
    READ_VOLUME = 16
    WRITE_VOLUME = 17
    APPLY_TAG = 18
    CREATE_ENDPOINT = 19
    CREATE_EXPERIMENT = 20
    CREATE_JOB = 21
    CREATE_MONITOR = 22
    CREATE_EXTERNAL_TABLE = 23

    @property
    def label(self) -> str:
        """The privilege in words, as SQL writes it."""
        return self.name.replace("_", " ")


_P = Privilege
_T = SecurableType
_EVERYWHERE = frozenset({_P.ALL_PRIVILEGES, _P.MANAGE, _P.BROWSE, _P.APPLY_TAG})
_IN_SCHEMA = frozenset(
    {
        _P.CREATE_TABLE,
        _P.CREATE_VOLUME,
        _P.CREATE_MODEL,
        _P.CREATE_FUNCTION,
        _P.CREATE_EXTERNAL_TABLE,
    }
)

RELEVANT: Mapping[SecurableType, frozenset[Privilege]] = {
    _T.METASTORE: _EVERYWHERE
    | {
        _P.CREATE_CATALOG,
        _P.CREATE_ENDPOINT,
        _P.CREATE_EXPERIMENT,
        _P.CREATE_JOB,
        _P.CREATE_MONITOR,
    },
    _T.CATALOG: _EVERYWHERE | {_P.USE_CATALOG, _P.CREATE_SCHEMA},
    _T.SCHEMA: _EVERYWHERE | _IN_SCHEMA | {_P.USE_SCHEMA},
    _T.TABLE: _EVERYWHERE | {_P.SELECT, _P.MODIFY},
    _T.VOLUME: _EVERYWHERE | {_P.READ_VOLUME, _P.WRITE_VOLUME},
    _T.MODEL: _EVERYWHERE | {_P.EXECUTE, _P.CREATE_MODEL_VERSION},
    _T.FUNCTION: _EVERYWHERE | {_P.EXECUTE},
    **dict.fromkeys(FLAT, _EVERYWHERE | {_P.SELECT, _P.MODIFY, _P.EXECUTE}),
}
"""Privileges that mean something on an object of a kind itself."""

_BELOW_SCHEMA = frozenset().union(
    *(RELEVANT[kind] for kind in (_T.TABLE, _T.VOLUME, _T.MODEL, _T.FUNCTION))
)
GRANTABLE: Mapping[SecurableType, frozenset[Privilege]] = {
    **RELEVANT,
    _T.SCHEMA: RELEVANT[_T.SCHEMA] | _BELOW_SCHEMA,
    _T.CATALOG: RELEVANT[_T.CATALOG] | RELEVANT[_T.SCHEMA] | _BELOW_SCHEMA,
    _T.METASTORE: frozenset(Privilege),
}
"""Privileges that may be granted on a kind: what means something on it or on what it may hold."""

CREATION = frozenset({_P.CREATE_SCHEMA} | _IN_SCHEMA)
"""Privileges to create inside a container, which need that container's own USE as well."""


def check_grantable(kind: SecurableType, privilege: Privilege, field: str) -> Privilege:
    """Return the privilege when it may be granted on the kind.

    Raises:
        InvalidGrant: It may not.
    """
    if privilege not in GRANTABLE[kind]:
        raise of_field(InvalidGrant, field, f"{privilege.label} does not apply to a {kind.label}")
    return privilege
