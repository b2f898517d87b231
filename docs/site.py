"""What the site needs beside its pages: README.md as the first of them, and docstrings in the words of its parser."""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:")
_ENTRY = re.compile(r"(?P<indent> +)(?P<names>\w+(?:, \w+)*)(?: \((?P<types>.+)\))?:(?P<text>\s.*|$)")
_OUTCOME = re.compile(r"(?P<indent> +)(?P<types>[\[`].+?[`\]](?: or [\[`]?.+?[`\]])*):(?P<text>\s.*|$)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """README.md becomes the first page. What it links to outside of docs/ is in the repository and not on the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r"\[([^\]]+)\]\((?!https?:|#)([\w./-]+)(?<!\.md)(?<!\.png)\)", r"\1", text)
    text = re.sub(r"\[([^\]]+)\]\((?:[A-Z]+\.md|pretrained/[^)]+)\)", r"\1", text)
    files.append(File.generated(config, "index.md", content=text))
    return files


class Dialect(griffe.Extension):
    """Docstrings of Hugging Face's doc-builder, as the parser of Google's style reads them."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_: Any) -> None:
        if not isinstance(obj, griffe.Alias) and obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """Types without backticks and defaults, which the signature has; names of other objects as code."""
    section, lines = "", []
    for line in text.split("\n"):
        section = line.strip() if line.strip() in _SECTIONS else section if line.startswith(" ") or not line else ""
        lines += _entry(line, section) if section else [line]
    return re.sub(r"\[(`[^`\]]+`)\](?![\[(])", r"\1", "\n".join(lines))


def _entry(line: str, section: str) -> list[str]:
    found = (_ENTRY if section in _SECTIONS[:2] else _OUTCOME).fullmatch(line)
    if found is None or len(found["indent"]) != 4:
        return [line]
    types = _types(found["types"] or "")
    if section not in _SECTIONS[:2]:
        return [f"{found['indent']}{types}:{found['text']}"]
    names = found["names"].split(", ")
    return [f"{found['indent']}{name}{f' ({types})' if types else ''}:{found['text'] or ''}" for name in names]


def _types(told: str) -> str:
    """`str | None` of "`str` or [`Path`], *optional*, defaults to `x`"."""
    told = re.sub(r", \*optional\*|, defaults to `.*`| of shape `[^`]*`", "", told)
    return " | ".join(re.findall(r"`([^`]+)`", told))
