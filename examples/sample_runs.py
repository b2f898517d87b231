"""
A tree of runs as VASP leaves it, for those who have none at hand: relaxations of vacancies in 64-atom silicon. Their
energies and forces are of the empirical potential of Erhart and Albe, not of DFT: enough to try things, no more.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.optimize import FIRE

from modeling_adapt.data.defects.labelling import erhart_albe


def varray(name: str, rows: np.ndarray) -> str:
    return f'<varray name="{name}">' + "".join(f"<v>{x:.8f} {y:.8f} {z:.8f}</v>\n" for x, y, z in rows) + "</varray>\n"


def structure(atoms: Atoms, name: str = "") -> str:
    crystal = f"<crystal>{varray('basis', atoms.cell.array)}</crystal>"
    return f"<structure{name}>{crystal}{varray('positions', atoms.get_scaled_positions())}</structure>\n"


def ionic_step(atoms: Atoms) -> str:
    total = f"{atoms.get_potential_energy():.8f}"
    energy = f'<energy><i name="e_fr_energy">{total}</i><i name="e_0_energy">{total}</i></energy>\n'
    content = structure(atoms) + varray("forces", atoms.get_forces()) + energy
    return f"<calculation><scstep>{energy}</scstep>{content}</calculation>\n"


def vasprun(atoms: Atoms, steps: int) -> str:
    """What vasprun.xml tells of a relaxation of so many steps."""
    species = "".join(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in atoms.symbols)
    points = varray("kpointlist", np.zeros((1, 3))) + '<varray name="weights"><v>1.0</v></varray>'
    atominfo = f'<atominfo><array name="atoms"><set>{species}</set></array></atominfo>'
    text = f"<modeling>\n<kpoints>{points}</kpoints>{atominfo}\n"
    text += structure(atoms, ' name="initialpos"')
    for _ in FIRE(atoms, logfile=None, maxstep=0.05).irun(fmax=0.02, steps=steps):
        text += ionic_step(atoms)
    return f"{text}</modeling>\n"


def main(folder: str = "sample_runs", runs: int = 12, steps: int = 6) -> None:
    for number in range(runs):
        atoms = bulk("Si", cubic=True, a=5.429).repeat(2)
        del atoms[0]
        atoms.rattle(0.12, seed=number)
        atoms.calc = erhart_albe()
        path = Path(folder) / "v_Si_0" / f"{number:02d}" / "vasprun.xml"
        path.parent.mkdir(parents=True)
        path.write_text(vasprun(atoms, steps))
    print(f"{runs} runs written to: {folder}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample_runs")
