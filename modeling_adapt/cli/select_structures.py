"""Of many structures without labels, those whose DFT calculation would teach a model most, none like another."""

from pathlib import Path

from ..errors import InputError
from ..pretrained_adapt import DEFAULT_MODEL
from .command_line import CommandParser, whole_number

EXAMPLE = """\
examples:
  python data_scripts/select_structures.py candidates/*.vasp --number 10 --output next
  python data_scripts/select_structures.py relaxed/*.traj.extxyz --model runs/si-energy --number 20 --output next
  python data_scripts/select_structures.py datasets/silicon --model runs/si-energy --number 50 --output next

Writes NEXT/RANK-NAME/POSCAR for each that is chosen, the most instructive first, and NEXT/selected.csv: what its
labels would teach beyond those before it (in nats), and how far its least usual atom is from those of the training
(1: as far as 1 of 100 of those). Compute their energies and forces, import them beside the old data, train again.
"""


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("input", nargs="+", metavar="FILE", help="structures, folders, globs or a data set")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="energy model with its uncertainty: %(default)s")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--subfolder", default="", help="folder of the model in its repository")
    parser.add_argument("--index", default=":", help="frames of each file, as in ASE (default: all)")
    parser.add_argument("--split", default="train", help="split of a data set (default: %(default)s)")
    parser.add_argument("--number", type=whole_number(1), default=10, help="how many to choose (default: %(default)s)")
    parser.add_argument("--device", help="such as cpu, cuda, mps (default: the best there is)")
    parser.add_argument("--output", required=True, metavar="NEXT", help="folder, which must be new or empty")
    arguments = parser.parse_args(argv)

    from ..device import available_device, on_device
    from ..evaluation.selection import choose
    from ..feature_extraction_adapt import charge_of
    from ..files import finished_folder, require_empty_folder
    from ..loading import load_model
    from ..simulation.doubt import load_doubt
    from ..simulation.inputs import read_inputs
    from ..tables import csv_text, format_table

    output = Path(arguments.output)
    require_empty_folder(output)
    where = {"subfolder": arguments.subfolder, "revision": arguments.revision}
    model, feature_extractor = load_model(arguments.model, **where)
    doubt = load_doubt(arguments.model, **where) if model.config.predicts == "energy" else None
    if doubt is None:
        raise InputError(
            f"{arguments.model} does not say how uncertain it is; add that with evaluate.py {arguments.model} DATASET "
            "--calibrate, or name an energy model that does"
        )
    candidates = read_inputs(arguments.input, arguments.index, arguments.split, model.config.reads_charge)
    model = on_device(model, available_device(arguments.device))
    chosen = choose(candidates, arguments.number, model, feature_extractor, doubt)
    lines = [
        [one.name, str(len(atoms)), f"{charge_of(atoms) or 0:+g}", f"{one.gain:.3g}", f"{one.doubt:.2f}"]
        for one, atoms in ((one, candidates[one.name]) for one in chosen)
    ]
    header = ["structure", "atoms", "charge", "gain (nats)", "largest doubt"]
    with finished_folder(output) as unfinished:
        for rank, one in enumerate(chosen, start=1):
            folder = unfinished / f"{rank:03d}-{one.name.replace('/', '-')[-200:]}"
            folder.mkdir()
            atoms = candidates[one.name]
            atoms.set_constraint()  # nothing is relaxed in what is only labelled
            atoms.write(folder / "POSCAR", format="vasp", sort=True)
        (unfinished / "selected.csv").write_text(csv_text([header, *lines]), encoding="utf-8")
    print(format_table(header, lines))
    print(f"{len(chosen)} of {len(candidates)} structures written to: {output}")
