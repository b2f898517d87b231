"""Docstrings are in the dialect of Hugging Face's doc-builder, and say of parameters what the code says of them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path for folder in ("configuration", "modeling_adapt", "experiments") for path in (ROOT / folder).rglob("*.py")
]

# The doc-builder divides an entry at its first colon, so none may stand before that.
NAMES, CODE, TYPE = r"(?P<names>\w+(?:, \w+)*)", r"`[^`:]+`", r"(?:`[^`:]+`|\[`[\w.]+`\])"
TYPES = rf"(?P<types>{TYPE}(?:(?:, {TYPE})* or {TYPE})?)(?: of shape {CODE})?"
DEFAULT = r"(?P<optional>, \*optional\*)?(?:, defaults to `(?P<default>[^`:]+)`)?"
ENTRY = {
    "Args": rf"{NAMES} \({TYPES}{DEFAULT}\):\s(?P<text>.+)",
    "Returns": rf"{TYPES}: (?P<text>.+)",
    "Raises": rf"{TYPE}: (?P<text>.+)",
}
ENTRY["Attributes"] = ENTRY["Args"]
ELSEWHERE = rf"{NAMES}:\s(?P<text>(?:See|As) .+)"  # what is written out in another docstring
OTHER_NAMES = re.compile(r"(?:Arg|Arguments?|Parameters?|Params?|Fields|Return|Raise|Yields?):")
PLAIN = {"bool", "dict", "float", "int", "str", "Path"}


class Parameter(NamedTuple):
    annotation: ast.expr | None
    default: ast.expr | None

    @property
    def types(self) -> set[str]:
        return set(re.split(r" \| (?![^\[]*\])", ast.unparse(self.annotation))) if self.annotation else {"Any"}


def parameters(node: ast.AST, classes: dict[str, ast.ClassDef]) -> dict[str, Parameter]:
    """Of a function; of a class those of `__init__`, its fields and attributes, and what it inherits of these."""
    if isinstance(node, ast.ClassDef):
        found: dict[str, Parameter] = {}
        for base in node.bases:
            if ast.unparse(base) in classes:
                found |= parameters(classes[ast.unparse(base)], classes)
        for inner in ast.walk(node):
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Attribute):
                found[inner.target.attr] = Parameter(inner.annotation, None)
            elif isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Attribute):
                found.setdefault(inner.targets[0].attr, Parameter(None, None))
        for inner in node.body:
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                found[inner.target.id] = Parameter(inner.annotation, inner.value)
            elif isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                found |= parameters(inner, classes)
        return found
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(positional) - len(node.args.defaults)) + node.args.defaults
    every = [*zip(positional, defaults, strict=True)]
    every += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    every += [(one, None) for one in (node.args.vararg, node.args.kwarg) if one]
    return {one.arg: Parameter(one.annotation, default) for one, default in every}


def sections(docstring: str) -> Iterator[tuple[str, list[str]]]:
    """Every section with its entries; an entry keeps its lines."""
    lines = docstring.splitlines()
    for start, line in enumerate(lines):
        if line.rstrip(":") not in ENTRY or not line.endswith(":"):
            continue
        entries: list[str] = []
        for inner in lines[start + 1 :]:
            if not inner.startswith("    "):
                break
            if inner.startswith("     ") or (entries and line == "Returns:"):
                entries[-1] += "\n" + inner.strip()
            else:
                entries.append(inner.strip())
        yield line.rstrip(":"), entries


def wrong_with_parameter(parameter: Parameter, entry: re.Match[str], is_output: bool) -> Iterator[str]:
    documented = {"str" if one[0] == '"' else one.split("[")[0] for one in re.findall(r"`([^`]+)`", entry["types"])}
    plain = parameter.types - {"None"}
    if plain <= PLAIN and not documented <= plain:
        yield f"is {' or '.join(sorted(plain))}"
    default = parameter.default and ast.unparse(parameter.default)
    if default and (":" in default or isinstance(parameter.default, ast.Call)):  # not to be written, or a factory
        if not (entry["optional"] or entry["default"]):
            yield "has a default"
        return
    if entry["optional"] and not parameter.types & {"None", "Any"}:
        yield "is never None"
    if default in (None, "None"):
        if entry["default"]:
            yield f"does not default to {entry['default']}"
        elif default and not entry["optional"] and not is_output:
            yield "is optional"
    elif entry["default"] is None or ast.unparse(ast.parse(entry["default"], mode="eval")) != default:
        yield f"defaults to {default}"


def problems(node: ast.AST, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """What is wrong with the docstring of a function or class, one line each."""
    docstring = ast.get_docstring(node) or ""
    yield from (f"a section called {line}" for line in docstring.splitlines() if OTHER_NAMES.fullmatch(line))
    known = parameters(node, classes)
    is_output = isinstance(node, ast.ClassDef) and "ModelOutput" in map(ast.unparse, node.bases)
    for section, entries in sections(docstring):
        if not entries or (section == "Returns" and len(entries) > 1):
            yield f"{section}: {len(entries)} entries"
        for lines in entries:
            entry = re.fullmatch(ENTRY[section], lines, re.DOTALL)
            of_names = section in ("Args", "Attributes")
            if of_names and entry is None:
                entry = re.fullmatch(ELSEWHERE, lines, re.DOTALL)
            if entry is None:
                yield f"{section}: {lines}"
                continue
            if entry["text"][0].islower() or not entry["text"].endswith("."):
                yield f"no capital letter or no full stop: {lines}"
            if of_names and "\n" in lines and not lines.partition("\n")[0].endswith(":"):
                yield f"the description begins on the first line: {lines}"
            for name in entry["names"].split(", ") if of_names else ():
                if name not in known:
                    yield f"there is no {name}"
                elif "types" in entry.groupdict():
                    yield from (f"{name} {what}" for what in wrong_with_parameter(known[name], entry, is_output))


def all_problems(sources: dict[str, str]) -> list[str]:
    trees = {name: ast.parse(text) for name, text in sources.items()}
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [(name, node) for name, tree in trees.items() for node in ast.walk(tree) if isinstance(node, kinds)]
    classes = {node.name: node for _, node in nodes if isinstance(node, ast.ClassDef)}
    return [f"{name}:{node.lineno} {node.name}: {one}" for name, node in nodes for one in problems(node, classes)]


def test_docstrings_are_in_the_dialect_and_agree_with_the_code():
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
    assert sum(text.count("Args:\n") for text in sources.values()) > 100
    found = all_problems(sources)
    assert not found, "\n".join(found)


RIGHT = '''
class Base:
    scale: float = 1.0

class Cell(Base):
    """
    Args:
        scale (`float`, defaults to `1.0`): A factor.
        edges (`tuple[float, ...]` of shape `(3,)`, *optional*):
            In Å. None: those of the host.
    """

    edges: tuple[float, ...] | None = None

def volume(cell: Cell, path: str | Path, *rest: int, unit: str = "Å", axis: int | None = -1, key=lambda x: 0) -> float:
    """
    The volume.

    Args:
        cell ([`Cell`]): It.
        path (`str` or `Path`): Where it is.
        rest (`int`): As in Python.
        unit (`"Å"` or `"nm"`, defaults to `"Å"`):
            `"Å"` or `"nm"`.
        axis (`int`, *optional*, defaults to `-1`): Of `cell`.
        key (`Callable[[int], int]`, *optional*): Whatever.

    Returns:
        `float`: In Å^3:
        one number.

    Raises:
        `ValueError`: `cell` has no volume, which
            happens.
        [`InputError`]: There is no such file.
    """
'''


def test_the_right_docstring_is_found_right():
    assert all_problems({"": RIGHT}) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("path (`str` or `Path`): Where", "path: Where"),
        ("path (`str` or `Path`): Where", "path (*optional*): Where"),
        ("path (`str` or `Path`): Where", "path (`str` or Path): Where"),
        ("path (`str` or `Path`): Where", "path (`str` or `Path`): where"),
        ("path (`str` or `Path`): Where", "path (`str` or `bytes`): Where"),
        ("path (`str` or `Path`): Where", "path (`str` or `Path`, *optional*): Where"),
        ("path (`str` or `Path`): Where", "path (`str` or `Path`, defaults to `None`): Where"),
        ("path (`str` or `Path`): Where", "file (`str` or `Path`): Where"),
        ("Where it is.", "Where it is"),
        ("Where it is.", "Where it\n            is."),
        ("scale (`float`, defaults to `1.0`)", "scale (`float`)"),
        ("`(3,)`, *optional*)", "`(3,)`)"),
        ("defaults to `-1`", "defaults to -1"),
        ("defaults to `-1`", "defaults to `1`"),
        ('defaults to `"Å"`', 'defaults to `"nm"`'),
        ("key (`Callable[[int], int]`, *optional*)", "key (`Callable[[int], int]`, defaults to `lambda x: 0`)"),
        ("key (`Callable[[int], int]`, *optional*)", "key (`Callable[[int], int]`)"),
        ("`float`: In", "In"),
        ("`float`: In", "`float`: in"),
        ("one number.", "one number"),
        ("`ValueError`: `cell`", "ValueError: `cell`"),
        ("There is no such file.", "there is no such file."),
        ("            happens.", "        happens."),
        ("    Returns:", "    Return:"),
    ],
)
def test_what_is_wrong_is_found(right, wrong):
    assert right in RIGHT and len(all_problems({"": RIGHT.replace(right, wrong)})) >= 1
