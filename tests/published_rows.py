"""All rows of published files that are small, at once."""

from pathlib import Path
from typing import Any

from modeling_adapt.data.options import CELL_EDGE
from modeling_adapt.data.read.published import plan_import


def read_published(
    forces: str | Path,
    energies: tuple[str | Path, str | Path] | None = None,
    cell_edge: float = CELL_EDGE,
    host: str = "auto",
) -> list[dict[str, Any]]:
    work = plan_import(forces, energies, cell_edge, host)
    return [row for part in work.parts for row in work.make(part, {})]
