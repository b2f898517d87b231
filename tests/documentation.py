"""The fenced blocks of README.md and docs/: what each is, and whether what it shows is what the programs print."""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("python", "accelerate", "hf", "make", "export")  # what a line of a block may begin with
_DATA_LANGUAGES = ("bibtex", "yaml", "json")


@dataclass(frozen=True)
class Block:
    """
    Args:
        page (`str`): Path below the repository, such as docs/data.md.
        line (`int`): Where its fence is, from 1.
        language (`str`): What stands behind the fence.
        text (`str`): What is in it.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first_line(self) -> str:
        return self.text.strip().split("\n")[0]

    @property
    def kind(self) -> str | None:
        """`python`, `session` (commands behind `$ `, with what they print), `commands`, `script`, `data`, or `output`
        of the block before it; None where it is none of these, and a table has to say what it is."""
        if self.language == "python":
            return "python"
        if self.language in _DATA_LANGUAGES:
            return "data"
        if self.language == "text":
            return "output"
        if self.language not in ("", "bash", "sh", "console"):
            return None
        if self.text.startswith("#!"):
            return "script"
        if self.text.startswith("$ "):
            return "session"
        lines = list(logical_lines(self.text))
        return "commands" if lines and all(is_command(line) for line in lines) else None


@dataclass(frozen=True)
class Step:
    """A command as it is given to bash, and what the block says that it prints (None: nothing is said)."""

    command: str
    output: str | None


def blocks(page: Path, name: str) -> list[Block]:
    """The fenced blocks of a page, in order. Raises `ValueError` for a fence that is not closed."""
    found: list[Block] = []
    fence, start, language, inside = "", 0, "", []
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), start=1):
        match = re.match(r"\s*(`{3,}|~{3,})\s*(\S*)", line)
        if not fence and match:
            fence, start, language, inside = match[1], number, match[2], []
        elif fence and line.strip() == fence:
            indent = min((len(one) - len(one.lstrip()) for one in inside if one.strip()), default=0)
            found.append(Block(name, start, language, "\n".join(one[indent:] for one in inside)))
            fence = ""
        elif fence:
            inside.append(line)
    if fence:
        raise ValueError(f"{name}:{start}: the fence is not closed")
    return found


def pages(root: Path = ROOT) -> list[str]:
    """The pages whose blocks are run."""
    return ["README.md", *(path.relative_to(root).as_posix() for path in sorted((root / "docs").glob("*.md")))]


def logical_lines(text: str) -> Iterator[str]:
    """Lines with those that a backslash continues, without empty ones and comments."""
    for line in re.sub(r"\\\n\s*", "", text).split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def is_command(line: str) -> bool:
    """Whether a line is one of bash that begins with a program we know, after variables that are set for it."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return False
    names = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    return bool(names) and names[0] in PROGRAMS


def steps(block: Block) -> list[Step]:
    """The commands of a block of the kind `session` or `commands`."""
    if block.kind == "commands":
        return [Step(line, None) for line in logical_lines(block.text)]
    found = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        match = re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, re.DOTALL)
        assert match is not None
        command, output = re.sub(r"\\\n\s*", "", match[1]), match[2].rstrip()
        if not is_command(command):
            raise ValueError(f"{block}: '{command}' begins with no program that the documentation uses")
        found.append(Step(command, output or None))
    return found


# ------------------------------------------------------------------------------------------- what is printed

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def skeleton(line: str) -> str:
    """A line with every number as #, and single spaces."""
    line = re.sub(r"\b[0-9a-f]{8}\b", "HASH", line)
    return " ".join(_NUMBER.sub("#", line).split())


def not_printed(shown: str, printed: str, varies: Iterable[str] = ()) -> list[str]:
    """
    Lines of `shown` whose form is not that of any line of `printed`.

    Numbers do not count. A line of `...` stands for any lines, `...` at the end of a line for its end. The rows of a
    table depend on the data: they only need as many columns as its header, and a table of that header must be
    printed. Of a line that depends on how a run ends, which matches one of `varies`, nothing is asked.
    """
    real = {skeleton(line) for line in printed.split("\n")}
    missing, columns = [], None
    for line in shown.split("\n"):
        if line.strip() in ("", "..."):
            columns = None
        elif is_rule(line):
            columns = [match.span() for match in re.finditer("-+", line)]
        elif columns is not None and is_row(line, columns):
            pass
        elif any(re.search(pattern, line) for pattern in varies):
            columns = None
        else:
            columns = None
            wanted = skeleton(line)
            if wanted.endswith("..."):
                found = any(one.startswith(wanted.removesuffix("...").rstrip()) for one in real)
            else:
                found = wanted in real
            if not found:
                missing.append(line)
    return missing


def is_rule(line: str) -> bool:
    """Whether it is the line of dashes below the header of a table."""
    return re.fullmatch(r"-{2,}( {2}-{2,})+", line.strip()) is not None


def is_row(line: str, columns: list[tuple[int, int]]) -> bool:
    """Whether a line of a table keeps to its columns: between them there are spaces."""
    gaps = [range(end, start) for (_, end), (start, _) in zip(columns, columns[1:], strict=False)]
    padded = line.ljust(columns[-1][1])
    return all(padded[place] == " " for gap in gaps for place in gap) and len(line.rstrip()) <= columns[-1][1]
