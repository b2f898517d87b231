"""The text of a data set card."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Features, List

from ...elements_adapt import SYMBOLS
from ...tables import markdown_table
from ..split.splitting import SUBSETS
from .summary import DatasetSummary
from .summary import Tally

_COLUMNS = {
    "atomic_numbers": "atomic numbers of the n atoms",
    "positions": "Cartesian coordinates in Å",
    "cell": "cell vectors as rows, in Å",
    "pbc": "which cell vectors are periodic",
    "forces": "in eV/Å; null where only the energy is known",
    "energy": "total energy in eV; null where only the forces are known",
    "importance_weights": "published weights of the atoms in the loss; null where there are none",
    "defect_sites": "positions of the point defects in Å; empty where none is known",
    "defect_kinds": "what each of them is: v_Si a vacancy, Si_i an interstitial, C_Si a substitution",
    "config_type": "what kind of structure it is",
    "trajectory": "structures of one trajectory share this name; no split divides them",
    "subset": "the smallest nested subset of the train split that holds the row, in percent; null elsewhere",
    "source": "file and number of the structure that it was made from",
}


def card_body(
    summary: DatasetSummary, features: Features, metadata: Mapping[str, Any], figures: Mapping[str, str]
) -> str:
    """What stands below the header of the card, as Markdown.

    Args:
        metadata: the header.
        figures: file below `figures/` -> what it shows.
    """
    total = summary.total
    parts = [
        f"# {metadata['pretty_name']}",
        f"{total.structures} structures of {', '.join(symbols(total))} with {_range(total.atoms)} atoms, from "
        f"{len(total.trajectories)} trajectories; {total.with_forces} with forces, {total.with_energy} with a total "
        "energy. Units: Å, eV, eV/Å.",
        "## Splits",
        "The mean is that of the sizes of force components: the error of predicting zero forces. The largest is the "
        "longest force on an atom.",
        _tally_table("split", summary.by("split")),
        *_subsets(summary),
        "## Kinds",
        _tally_table("config type", _by_count(summary.by("config_type"))),
        *_defect_kinds(summary),
        "## Elements",
        _elements(total),
        "## Labels",
        *_labels(total),
        *(f"![{caption}](figures/{file})" for file, caption in figures.items()),
        "## Columns",
        markdown_table(
            ("column", "type", "content"),
            [(f"`{name}`", f"`{_type(kind)}`", _COLUMNS.get(name, "")) for name, kind in features.items()],
        ),
        "## Loading",
        _loading(next(iter(summary.by("split")))),
    ]
    if metadata.get("provenance"):
        parts += ["## Provenance", markdown_table(("", ""), list(metadata["provenance"].items()))]
    return "\n\n".join(parts)


def symbols(tally: Tally) -> list[str]:
    """Symbols of the elements, by atomic number."""
    return [SYMBOLS[number] for number in np.flatnonzero(tally.element_atoms)]


def _tally_table(what: str, tallies: Mapping[str, Tally]) -> str:
    header = (what, "structures", "trajectories", "with forces", "with energy", "atoms")
    return markdown_table(
        (*header, "mean force (meV/Å)", "largest force (eV/Å)"),
        [
            (
                label or "none given",
                tally.structures,
                len(tally.trajectories),
                tally.with_forces,
                tally.with_energy,
                _range(tally.atoms),
                "-" if tally.mean_force is None else f"{1000 * tally.mean_force:.1f}",
                f"{tally.largest_force:.3f}" if tally.with_forces else "-",
            )
            for label, tally in tallies.items()
        ],
    )


def _by_count(tallies: Mapping[str, Tally]) -> dict[str, Tally]:
    return dict(sorted(tallies.items(), key=lambda item: (-item[1].structures, item[0])))


def _subsets(summary: DatasetSummary) -> list[str]:
    if not summary.subsets:
        return []
    counts = [sum(n for percent, n in summary.subsets.items() if percent <= limit) for limit in SUBSETS]
    table = markdown_table(("part (%)", *SUBSETS), [("structures", *counts)])
    return ["Parts of the train split, each of which holds the smaller ones (column `subset`):", table]


def _defect_kinds(summary: DatasetSummary) -> list[str]:
    if not summary.defect_kinds:
        return []
    return ["Defect sites:", markdown_table(("kind", "sites"), summary.defect_kinds.most_common())]


def _elements(total: Tally) -> str:
    rows = [
        (SYMBOLS[number], total.element_atoms[number], total.element_structures[number])
        for number in np.flatnonzero(total.element_atoms)
    ]
    return markdown_table(("element", "atoms", "structures"), rows)


def _labels(total: Tally) -> list[str]:
    lines = []
    if total.mean_force is not None:
        lines.append(
            f"Forces: components of {1000 * total.mean_force:.1f} meV/Å on average; the longest force on an atom is "
            f"{total.largest_force:.3f} eV/Å."
        )
    if total.energies:
        lines.append(
            f"Energies: {total.energies[0]:.3f} to {total.energies[1]:.3f} eV, which is "
            f"{total.energies_per_atom[0]:.4f} to {total.energies_per_atom[1]:.4f} eV per atom."
        )
    return lines


def _type(feature: Any) -> str:
    """Such as `float32 [n, 3]`."""
    lengths = []
    while isinstance(feature, List):
        lengths.append("n" if feature.length < 0 else str(feature.length))
        feature = feature.feature
    return f"{feature.dtype} [{', '.join(lengths)}]" if lengths else feature.dtype


def _loading(split: str) -> str:
    return "\n".join(
        [
            "```python",
            "from datasets import load_dataset",
            "",
            f'rows = load_dataset("path/of/this/folder", split="{split}")  # or the id of its repository on the Hub',
            f'rows = load_dataset("path/of/this/folder", split="{split}", streaming=True)',
            "```",
        ]
    )


def _range(limits: Sequence[int]) -> str:
    return "-".join(map(str, sorted(set(limits))))
