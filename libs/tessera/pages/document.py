"""What every page is made with: one style, one way to escape, one policy against foreign code."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

__all__ = ["embedded", "policy", "render", "script"]

_HERE: Final = "tessera.pages"
_UNSAFE: Final = {ord(one): f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}


def render(name: str, /, package: str = _HERE, **values: Any) -> str:
    """Return a template of a package filled with values, each escaped unless it is `Markup`.

    The parts that pages share, as `base.css`, are there for templates of every package.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(one) for one in (package, _HERE)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(values)


def embedded(value: Mapping[str, Any]) -> Markup:
    """Return a value as JSON that may stand in a `<script>`: no text in it ends or begins one.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON has not.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE))  # noqa: S704


def script(*names: str) -> Markup:
    """Return scripts of `templates/js` as one, in a scope of its own."""
    folder = files(_HERE) / "templates" / "js"
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    return Markup("\n".join(('"use strict";(() => {', *texts, "})();")))  # noqa: S704


def policy(code: str = "") -> str:
    """Return the page's Content-Security-Policy: no requests, and no script but this one."""
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", "base-uri 'none'"]
    if code:
        digest = b64encode(hashlib.sha256(code.encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'")
    return "; ".join([*rules, "form-action 'none'"])
