"""Tables, of the commands as plain text, of the cards as Markdown and of the results as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # https://owasp.org/www-community/attacks/CSV_Injection
_ROW = DataRow("", "  ", "")
_RULED = TableFormat(None, Line("", "-", "  ", ""), None, None, _ROW, _ROW, padding=0, with_header_hide=None)
_CELLS = DataRow("| ", " | ", " |")


def _markdown_rule(widths: Sequence[int], alignments: Sequence[str]) -> str:
    """Of a width that does not follow that of the cells, so that one long cell changes one line of a page."""
    return "|" + " --- |" * len(widths)


_MARKDOWN = TableFormat(None, _markdown_rule, None, None, _CELLS, _CELLS, padding=0, with_header_hide=None)


def plus_minus(deviation: float | None) -> str:
    """ " ± 0.24" behind a value in eV, a small one to three decimals, as an uncertainty is never 0; or nothing."""
    if not deviation:
        return ""
    return f" ± {deviation:.2f}" if deviation >= 0.005 else f" ± {max(deviation, 0.001):.3f}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a rule below its header; the first column is aligned to the left, the others to the right."""
    sides = ["left", *["right"] * (len(header) - 1)]
    return tabulate([header, SEPARATING_LINE, *rows], tablefmt=_RULED, colalign=sides, disable_numparse=True)


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """The same as Markdown; what would end a cell is escaped."""
    escaped = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    return tabulate(escaped[1:], escaped[0], tablefmt=_MARKDOWN, stralign=None, numalign=None, disable_numparse=True)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """
    The text of a CSV file, its header among the rows; None is an empty cell. A text that a spreadsheet would compute,
    such as a name `=cmd()`, stands behind an apostrophe, which [`csv_rows`] takes away.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def csv_rows(text: str) -> Iterator[dict[str | None, Any]]:
    """The rows of a text by [`csv_text`], as `csv.DictReader` gives them."""
    for row in csv.DictReader(io.StringIO(text, newline="")):
        yield {name: plain_cell(cell) for name, cell in row.items()}


def plain_cell(cell: Any) -> Any:
    """A cell of [`csv_text`] as it was before."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
