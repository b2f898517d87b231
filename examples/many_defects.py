"""
Which distortion of a defect ends lowest, in minutes and before DFT: the starts of ShakeNBreak, which is installed with
`pip install shakenbreak`, are relaxed and ranked, and written back as folders in which VASP and ShakeNBreak go on.
"""

import sys
from pathlib import Path

from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor
from shakenbreak.input import Distortions

from modeling_adapt.cli import relax
from modeling_adapt.cli.command_line import run_command


def main(folder: str = "runs/many_defects", cells: int = 2, *options: str) -> int:
    starts, host_file = Path(folder) / "starts", str(Path(folder) / "host.vasp")
    host = bulk("Si", cubic=True, a=5.468).repeat(cells)
    vacancy = host.copy()
    del vacancy[0]
    structure = AseAtomsAdaptor.get_structure
    made, _ = Distortions.from_structures([structure(vacancy)], bulk=structure(host)).apply_distortions(verbose=False)

    for name, defect in made.items():
        structures = defect["charges"][0]["structures"]  # the neutral one: the model in the box knows no charges
        for distortion, start in {"Unperturbed": structures["Unperturbed"], **structures["distortions"]}.items():
            path = starts / f"{name}_0" / distortion / "POSCAR"
            path.parent.mkdir(parents=True)
            start.to(filename=str(path), fmt="poscar")
    host.write(host_file, format="vasp")

    output = ["--output", str(Path(folder) / "relaxed"), "--write-tree", str(Path(folder) / "for_dft")]
    return run_command(lambda: relax.main([str(starts), "--host", host_file, *output, "--report", *options]))


if __name__ == "__main__":
    sys.exit(main())
