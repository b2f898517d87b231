"""Cards: Markdown from a template, in which what comes from a file is text and never markup."""

import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
# An underscore within a word, as in v_Si, emphasises nothing.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_ESCAPED = re.compile(r"\\([\\`*\[\]|~$_])")


def render(template: str, **values: Any) -> str:
    """
    The text of a template of `templates/`, without lines that are empty twice.

    `{{ value }}` stands for the value as [`escaped`]. Other filters: `code` for a span of code, `python` for a literal
    in a block of code, `number` for up to three decimals, and `safe` for what is Markdown already.
    """
    text = _environment().get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def escaped(value: Any) -> Markup:
    """`value` as one line of Markdown that shows it as it is, in a cell of a table too."""
    if hasattr(value, "__html__"):
        return Markup(value)
    text = html.escape(" ".join(str(value).splitlines()), quote=False)
    return Markup(_SPECIAL.sub(r"\\\g<0>", text))


def unescaped(text: str) -> str:
    """What [`escaped`] made `text` of."""
    return html.unescape(_ESCAPED.sub(r"\g<1>", text))


def code(value: Any) -> Markup:
    """`value` as a span of code in a line of text, between more backticks than are in it."""
    text = " ".join(str(value).splitlines())
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def number(value: float | None) -> str:
    """Nothing for None, a whole number as it is, and three decimals of another one."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # so that macros and `safe` give Markup, which `finalize` leaves as it is
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    python = lambda value: Markup(json.dumps(value, ensure_ascii=False))  # noqa: E731
    environment.filters |= {"text": escaped, "code": code, "python": python, "number": number}
    return environment
