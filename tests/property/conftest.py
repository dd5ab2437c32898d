"""Properties hold however long a machine takes to try them."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tessera", deadline=None)
settings.load_profile("tessera")
