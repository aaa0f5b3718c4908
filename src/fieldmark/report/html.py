"""One self-contained page out of a template: no script, style, font or picture from elsewhere.

Everything is escaped unless it is `markupsafe.Markup` that `fieldmark.report.svg` built. The page
forbids itself, by a Content-Security-Policy, to load anything and to run any script but its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from importlib import resources

import jinja2
from markupsafe import Markup

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; "
    "base-uri 'none'; form-action 'none'"
)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fieldmark.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize_first"] = _capitalise
    return environment


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _read_asset(name: str) -> str:
    return (resources.files("fieldmark.report") / "templates" / name).read_text(encoding="utf-8")


def render_page(
    template: str, context: Mapping[str, object], *, more_style: str = "", more_script: str = ""
) -> str:
    """Render a template of `fieldmark/report/templates` into a whole HTML page.

    Args:
        template: its file name.
        context: what it speaks of; plain text is escaped.
        more_style: name of a style sheet beside the template that follows the one of all pages.
        more_script: name of a script that follows the one of all pages.

    Returns:
        The page. Style and script are inside it.
    """
    script = "\n" + _read_asset("page.js") + (_read_asset(more_script) if more_script else "")
    style = _read_asset("page.css") + (_read_asset(more_style) if more_style else "")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assets = {
        "style": Markup(style),
        "script": Markup(script),
        "policy": POLICY.format(digest),
    }
    return _environment().get_template(template).render({**context, **assets})
