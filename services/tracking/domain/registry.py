"""Registered models and their versions, as the catalog keeps them and MLflow's clients see them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from services.tracking.domain.keys import check_key, check_text
from services.tracking.domain.lifecycle import Micros
from services.tracking.errors import InvalidValue
from tessera_kit.names import NAME_RULE, is_name

__all__ = [
    "LATEST",
    "STAGES",
    "RegisteredModel",
    "RegistryVersion",
    "alias_name",
    "check_model_name",
    "check_registry_tag",
    "full_name_of",
    "own_tags",
    "stage_name",
]

OWN: Final = "tessera.mlflow."
"""Tags of this prefix hold what MLflow knows of a thing and the catalog does not."""
STAGES: Final = ("None", "Staging", "Production", "Archived")
LATEST: Final = "latest"
"""The alias that every model's newest version has and nobody sets."""
_UNFIT: Final = re.compile(r"[^a-z0-9_-]+")
_ALIAS: Final = re.compile(r"[\w-]+", re.ASCII)
_LONGEST_TAG_VALUE: Final = 100_000
_LONGEST_ALIAS: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A model of the catalog."""

    full_name: str
    """`catalog.schema.model`."""
    description: str = ""
    owner: str
    created_at: Micros
    updated_at: Micros
    tags: Mapping[str, str] = field(default_factory=dict)
    """All tags, this service's own included."""
    aliases: Mapping[str, int] = field(default_factory=dict)
    """Versions by alias."""

    def display_name(self, default_schema: str) -> str:
        """Return what MLflow's clients call it: as they did, or plain in the default schema."""
        plain = self.full_name.removeprefix(f"{default_schema}.")
        given = self.tags.get(f"{OWN}name")
        try:
            # The catalog may have renamed it since: then they find it by its new name only.
            known = given and full_name_of(given, default_schema) == self.full_name
        except InvalidValue:
            known = False
        return given if given and known else plain


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryVersion:
    """One version of a model."""

    full_name: str
    """The model's."""
    version: int
    is_ready: bool = False
    failed: bool = False
    status_message: str = ""
    run_id: str = ""
    comment: str = ""
    """What its creator said of it; see `description`."""
    created_by: str
    created_at: Micros
    updated_at: Micros
    tags: Mapping[str, str] = field(default_factory=dict)
    """All tags, this service's own included."""
    aliases: tuple[str, ...] = ()

    def own(self, name: str) -> str:
        """Return what one of this service's own tags says; empty without it."""
        return self.tags.get(f"{OWN}{name}", "")

    @property
    def description(self) -> str:
        """What it is, in its users' words."""
        return self.tags.get(f"{OWN}description", self.comment)

    @property
    def stage(self) -> str:
        """Its stage, which MLflow deprecated."""
        return self.own("stage") or STAGES[0]


def own_tags(**values: str) -> dict[str, str]:
    """Return this service's own tags of a thing; empty values make none."""
    return {f"{OWN}{name}": value for name, value in values.items() if value}


def full_name_of(name: str, default_schema: str) -> str:
    """Return the catalog's name of what MLflow's clients call `name`.

    Three names joined by dots are a full name; anything else lands in the default schema. The
    catalog's names are lower case: other characters become `_`, as in Unity Catalog.

    Raises:
        InvalidValue: Nothing of it can be kept.
    """
    parts = name.split(".")
    if len(parts) == 3 and all(is_name(part) for part in parts):
        return name
    plain = _UNFIT.sub("_", name.lower())
    if not is_name(plain) or not plain.strip("_"):
        raise InvalidValue(f"Invalid model name '{name[:250]}': it {NAME_RULE}", "name")
    return f"{default_schema}.{plain}"


def check_model_name(name: str) -> str:
    """Return `name` unchanged when a model may be registered under it.

    Raises:
        InvalidValue: `models:/` URIs could not name it.
    """
    if "/" in name or ":" in name:
        raise InvalidValue(
            f"Invalid model name '{name[:250]}'. Names cannot contain '/' or ':'.", "name"
        )
    return name


def check_registry_tag(key: str, value: str) -> tuple[str, str]:
    """Return a tag of a model or version unchanged when it may be set.

    Raises:
        InvalidKey, InvalidValue: It breaks the rules, or is this server's own.
    """
    if key.startswith(OWN):
        raise InvalidValue(f"tags that begin with {OWN} are this server's own", "key")
    return check_key(key, "tag", "key"), check_text(value, _LONGEST_TAG_VALUE, "value", "value")


def alias_name(alias: str) -> str:
    """Return the catalog's name of an alias; aliases are lower case.

    Raises:
        InvalidValue: It cannot be one.
    """
    if len(alias) > _LONGEST_ALIAS:
        raise InvalidValue(
            "'Registered model alias name' exceeds the maximum length of "
            f"{_LONGEST_ALIAS} characters",
            "alias",
        )
    if _ALIAS.fullmatch(alias) is None:
        raise InvalidValue(
            f"Invalid alias name: '{alias}'. Names may only contain alphanumerics, "
            "underscores (_), and dashes (-).",
            "alias",
        )
    lower = alias.lower()
    if lower == LATEST:
        raise InvalidValue("'latest' alias name (case insensitive) is reserved.", "alias")
    if re.fullmatch(r"v\d+", lower):
        raise InvalidValue(f"Version alias name '{alias}' is reserved.", "alias")
    if not is_name(lower):
        raise InvalidValue(f"Invalid alias name: '{alias}'. It {NAME_RULE}", "alias")
    return lower


def stage_name(stage: str) -> str:
    """Return a stage in MLflow's spelling.

    Raises:
        InvalidValue: MLflow has no such stage.
    """
    for known in STAGES:
        if known.lower() == stage.lower():
            return known
    raise InvalidValue(
        f"Invalid Model Version stage: {stage[:100]}. Value must be one of {', '.join(STAGES)}.",
        "stage",
    )
