"""Render an HTML page that needs nothing else: one frame and one style sheet for all reports.

A page's template extends `frame.jinja`, which includes `style.css` for light and dark screens.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bimode.evaluation.statistics import percent as whole_percent

DASH = "\N{EN DASH}"


def render_page(
    template: Path, filters: Mapping[str, Callable[..., Any]] = {}, **context: Any
) -> str:
    """Render the file `template`. A name that it uses and `context` lacks raises UndefinedError."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "num": number, "bar": bar_style, **filters}
    return environment.get_template(template.name).render(context)


def percent(value: float | None, digits: int = 0) -> str:
    """A share in percent; a dash for None."""
    return DASH if value is None else whole_percent(value, digits)


def number(value: float | None, digits: int = 2) -> str:
    """A number with `digits` decimals; a dash for None."""
    return DASH if value is None else f"{value:.{digits}f}"


def bar_style(share: float) -> str:
    """The style of a bar that fills `share` of its cell."""
    return f"width: {100 * share:.2f}%"


def png_url(image: bytes) -> str:
    """The bytes of a PNG as the `src` of an image element."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
