"""
Back to DFT: ranked structures in folders from which VASP goes on; where the input came from ShakeNBreak, with the
files from which that goes on, and for doped and pymatgen as JSON.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms

from ..feature_extraction_adapt import charge_of
from ..figures import COLUMN, MODEL, STYLES, drawn, legend_below
from ..figures import caption as captioned
from ..files import finished_folder
from .exchange import as_structure
from .ranking import Candidate, Host
from .results import write_as

ENTRIES = "relaxed.json"
DEFECT_ENTRIES = "defect_entries.json"
_FLAT = 0.05  # eV; what differs by less is not to look like mountains
_DISTORTION = re.compile(r"(Bond_Distortion_|Unperturbed|Rattled|Dimer).*")  # folders of ShakeNBreak
_DEFECT = re.compile(
    r"(?:.*-)?([A-Za-z][\w.]*_[+-]?\d+)"
)  # v_Cd_-2, as ShakeNBreak and doped call folders and entries


def defect_of(name: str, formula: str, charge: float = 0.0) -> str:
    """
    Of which defect and charge a structure is, by its name as in [`read_inputs`]: that folder, or entry of a JSON file,
    which ends in a charge; where there is none the `formula`, and the `charge` of the structure.
    """
    parts = [part for part in name.split("/") if not _DISTORTION.fullmatch(part)]
    found = next((match for part in reversed(parts) if (match := _DEFECT.fullmatch(part))), None)
    if found is None and len(parts) < len(name.split("/")) and parts:
        return parts[-1]  # a folder with distortions in it is a defect, whatever its name
    return f"{formula}_{f'{charge:+g}' if charge else 0}" if found is None else found[1]


def distortion_of(name: str) -> float | str | None:
    """
    What ShakeNBreak calls the distortion that a structure was relaxed from, by its name: -0.3 for
    `Bond_Distortion_-30.0%`, otherwise the name of the folder; None where that is no distortion.
    """
    last = name.split("/")[-1]
    if not _DISTORTION.fullmatch(last):
        return None
    share = re.fullmatch(r"Bond_Distortion_([-+.\d]+)%", last)
    return last.removeprefix("Bond_Distortion_") if share is None else round(float(share[1]) / 100, 6)


def write_tree(
    folder: Path,
    ranked: Sequence[Candidate],
    caption: str = "",
    entries: Mapping[str, Mapping[str, Any]] | None = None,
    host: Host | None = None,
) -> None:
    """
    Writes, for each defect, `DEFECT_CHARGE/RANK/POSCAR` of each minimum, the lowest first, its atoms in the order of
    the input. Of structures that were distortions of ShakeNBreak also `DEFECT_CHARGE/DISTORTION/CONTCAR`, the energies
    as `DEFECT_CHARGE/DEFECT_CHARGE.yaml`, and a plot. Where pymatgen is installed, `relaxed.json` has for each defect
    the `ComputedStructureEntry` of each minimum, and with a host `defect_entries.json` the `DefectEntry`
    of doped of each defect that was one, with its relaxed structure and energy; the lowest of each.

    Args:
        folder (`Path`): A new one; it appears as a whole.
        ranked (`Sequence[Candidate]`): With energies.
        caption (`str`, defaults to `""`): Of plots and POSCAR files, such as the name of the model.
        entries (`Mapping[str, Mapping[str, Any]]`, *optional*):
            By the name of a candidate, the defect entry that it was, as it stands in its file.
        host ([`Host`], *optional*): Its energy becomes that of the bulk in defect entries.

    Raises:
        [`InputError`]: The folder exists and is not empty.
    """
    defects: dict[str, list[Candidate]] = {}
    for one in sorted(ranked, key=lambda one: one.energy or 0.0):
        defects.setdefault(defect_of(one.name, one.formula, charge_of(one.atoms)), []).append(one)
    minima = {defect: _distinct(group) for defect, group in defects.items()}
    with finished_folder(folder) as unfinished:
        for defect, group in defects.items():
            for rank, one in enumerate(minima[defect], start=1):
                _write_vasp(unfinished / defect / str(rank) / "POSCAR", one, f"{defect}, rank {rank}, {caption}")
            distorted = [one for one in group if distortion_of(one.name) is not None]
            if distorted:
                _write_distortions(unfinished / defect, distorted, caption)
        if importlib.util.find_spec("pymatgen") is not None:
            _write_entries(unfinished / ENTRIES, minima)
            if entries and host is not None:  # energies of DFT and of a model have no difference
                _write_defect_entries(unfinished / DEFECT_ENTRIES, ranked, entries, host)


def _distinct(group: Sequence[Candidate]) -> list[Candidate]:
    """The lowest of each minimum, which need not be of this defect: two defects may relax to one."""
    seen: dict[str, Candidate] = {}
    for one in group:
        seen.setdefault(one.same_as, one)
    return list(seen.values())


def _write_vasp(path: Path, one: Candidate, label: str) -> None:
    """In the order of its atoms, in which elements that come twice are listed twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_as("vasp", path, one.atoms)
    _, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    comment = " ".join(f"{label}: {one.name}, {one.energy:.4f} eV".split())
    path.write_text("".join([comment + "\n", *rest]), encoding="utf-8")


def _write_distortions(folder: Path, group: Sequence[Candidate], caption: str) -> None:
    """What ShakeNBreak reads of the distortions of one defect, and the plot that its users expect."""
    for one in group:
        _write_vasp(folder / one.name.split("/")[-1] / "CONTCAR", one, caption)
    keyed = {distortion_of(one.name): float(one.energy or 0.0) for one in group}
    distortions = {key: keyed[key] for key in sorted(keyed, key=lambda key: (isinstance(key, str), key))}
    energies: dict[str, object] = {}
    if "Unperturbed" in distortions:  # which is no distortion
        energies["Unperturbed"] = distortions.pop("Unperturbed")
    energies["distortions"] = distortions
    (folder / f"{folder.name}.yaml").write_text(yaml.safe_dump(energies, sort_keys=False), encoding="utf-8")
    plot_distortions(group, folder / f"{folder.name}.png", f"{folder.name}, {caption}".removesuffix(", "))


def plot_distortions(group: Sequence[Candidate], file: Path, caption: str = "") -> None:
    """
    Draws the energies of what the distortions of one defect relaxed to, above the lowest of its composition, against
    the distortion.

    Args:
        group (`Sequence[Candidate]`): Whose names are those of ShakeNBreak; those without a distortion are lines.
        file (`Path`): Image file; the ending decides the format.
        caption (`str`, defaults to `""`): Above the figure.
    """
    lowest = min(one.energy for one in group if one.energy is not None)
    points = [(share, one) for one in group if isinstance(share := distortion_of(one.name), float)]
    points.sort(key=lambda point: point[0])
    others = [one for one in group if not isinstance(distortion_of(one.name), float)]
    x, y = [100 * share for share, _ in points], [(one.energy or lowest) - lowest for _, one in points]
    deviations = [one.energy_above_lowest_uncertainty or 0.0 for _, one in points]
    with drawn(file, COLUMN, 3.0) as (figure, (axes,)):
        bars = deviations if any(deviations) else None
        axes.errorbar(x, y, yerr=bars, **MODEL.line(), elinewidth=0.7, label="bond distortions" if others else None)
        for look, one in zip(cycle(STYLES[1:]), others, strict=False):
            level = (one.energy or lowest) - lowest
            axes.axhline(level, color=look.colour, linestyle=look.dash, label=one.name.split("/")[-1], zorder=0)
        levels = [(one.energy or lowest) - lowest for one in others]
        highest = float(np.max([_FLAT, *levels, *(np.array(y) + deviations)]))
        axes.set_ylim(-0.08 * highest, 1.1 * highest)
        axes.set_xlabel("bond distortion (%)")
        axes.set_ylabel("energy above the lowest (eV)")
        said = "; bars: one standard deviation" if any(deviations) else ""
        captioned(figure, caption, f"n = {len(group)} relaxed structures{said}")
        legend_below(figure)


def _write_entries(path: Path, minima: dict[str, list[Candidate]]) -> None:
    entries = {defect: [_computed(one) for one in group] for defect, group in minima.items()}
    path.write_text(json.dumps(entries), encoding="utf-8")


def _computed(one: Candidate) -> dict[str, Any]:
    data = {"uncertainty_above_lowest_ev": one.energy_above_lowest_uncertainty}
    return _entry(one.atoms, one.energy, one.name) | {"data": data}


def _entry(atoms: Atoms, energy: float | None, name: str) -> dict[str, Any]:
    """As the class writes itself, which is in the whole of pymatgen and not in the core that structures need."""
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "structure": as_structure(atoms).as_dict(),
        "energy": energy,
        "correction": 0.0,
        "entry_id": name,
        "parameters": {},
        "data": {},
    }


def _write_defect_entries(
    path: Path, ranked: Sequence[Candidate], entries: Mapping[str, Mapping[str, Any]], host: Host
) -> None:
    """What was in the file of doped with other energies and structures, to which its corrections do not belong."""
    bulk = {"bulk_entry": _entry(host.atoms, host.energy, "host"), "_bulk_entry_energy": None}
    written: dict[str, Any] = {}
    for one in (one for one in ranked if one.name in entries):
        of_model = {"sc_entry": _computed(one), "_sc_entry_energy": None, "corrections": {}}
        # Where one defect was given twice, the first, which is the lower one.
        written.setdefault(
            defect_of(one.name, one.formula, charge_of(one.atoms)), {**entries[one.name], **bulk, **of_model}
        )
    path.write_text(json.dumps(written), encoding="utf-8")


__all__ = ["defect_of", "distortion_of", "plot_distortions", "write_tree"]
