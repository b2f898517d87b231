"""Several sources of labelled structures -> one parquet data set with weights, licences and energies of one level.

A YAML file lists the sources; those in configuration/datasets/ are examples. Energies of another level of theory
than the one that is kept become null: of these structures the forces alone are learned. Of structures that two
sources have, or two splits nearly, one is left out. A build that was interrupted goes on when the same command is
given again.

With `apart: true` each source becomes a data set of its own, and all of them a repository to publish, whose card tells
`datasets.load_dataset(repository, SOURCE)` where they are. It takes open licences alone, and begins anew after an
interruption.
"""

import sys
from argparse import Namespace
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.sources import Source, SourceList, read_sources
from ..errors import InputError
from ..files import require_empty_folder
from .command_line import CommandParser, run_command
from .dataset_options import add_output, add_processes

if TYPE_CHECKING:
    from ..data.build.building import Built, Notes
    from ..data.build.mixing import Mixture

EXAMPLE = """examples:
  python data_scripts/build_dataset.py configuration/datasets/silicon.yaml datasets/silicon --root ../shared/data
  python data_scripts/build_dataset.py configuration/datasets/open-defects.yaml datasets/open-defects --root FOLDER
"""
_LISTED = 20  # lines about what was left out


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("recipe", metavar="SOURCES.yaml", help="what to read, and as what")
    add_output(parser)
    parser.add_argument("--root", metavar="FOLDER", help="where the files are (default: the folder of SOURCES.yaml)")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out and list what cannot be used, instead of stopping there"
    )
    add_processes(parser)
    arguments = parser.parse_args(argv)
    output = require_empty_folder(arguments.output)
    listed = read_sources(arguments.recipe)
    root = Path(arguments.recipe).parent if arguments.root is None else Path(arguments.root)
    if not root.is_dir():
        raise InputError(f"--root {root}: no such folder")

    from ..data.read.site_search import SiteSearch

    listed = replace(listed, sources=[_with_host(source, root) for source in listed.sources])
    for host in {source.host for source in listed.sources}:
        SiteSearch(host)  # one that cannot be read is an error now, and not when the work begins
    (_build_apart if listed.apart else _build_one)(output, listed, root, arguments)
    print(f"data set written to: {output}")


def _build_apart(output: Path, listed: SourceList, root: Path, arguments: Namespace) -> None:
    from ..data.build.collection import Member, write_collection_card
    from ..data.build.mixing import source_files
    from ..files import finished_folder

    source_files(listed.sources, root)  # a file that is missing is an error now
    with finished_folder(output) as unfinished:
        members = []
        for source in listed.sources:
            print(f"\n{source.name}")
            alone = replace(listed, sources=[source], energies=source.level)
            built, mixture = _build_one(unfinished / source.name, alone, root, arguments)
            members.append(Member(source, built.summary, mixture.left_out()))
        told = {"command": "data_scripts/build_dataset.py", "recipe": Path(arguments.recipe).name, "seed": listed.seed}
        write_collection_card(unfinished, members, told, output.name)
    print()


def _build_one(output: Path, listed: SourceList, root: Path, arguments: Namespace) -> "tuple[Built, Mixture]":
    from ..data.build.building import build_dataset
    from ..data.build.mixing import Mixture, source_files, source_rows
    from ..data.build.summary import summary_table
    from ..data.read.site_search import host_state

    mixture = Mixture(listed)
    built = build_dataset(
        output,
        source_files(listed.sources, root),
        partial(source_rows, sources={one.name: one for one in listed.sources}, skip_broken=arguments.skip_broken),
        mixture.divide,
        revise=mixture.revise,
        plan=[[asdict(one), host_state(one.host)] for one in listed.sources] + [arguments.skip_broken],
        provenance=partial(_provenance, Path(arguments.recipe).name, mixture),
        num_proc=arguments.num_proc,
        description="building",
    )
    print(summary_table(built.summary))
    _report(built, mixture)
    return built, mixture


def _with_host(source: Source, root: Path) -> Source:
    return source if source.host in ("auto", "none") else replace(source, host=str(root / source.host))


def _provenance(recipe: str, mixture: "Mixture", notes: "list[Notes]") -> dict[str, Any]:
    return {"command": "data_scripts/build_dataset.py", "recipe": recipe} | mixture.provenance()


def _report(built: "Built", mixture: "Mixture") -> None:
    for name, count in mixture.filtered.items():
        if count:
            print(f"left out of {name} by its limits: {count}")
    forces_alone = [source.name for source in mixture.listed.sources if source.level != mixture.level]
    print(f"energies are of {mixture.level or 'no level'}; forces alone: {', '.join(forces_alone) or 'none'}")
    print(f"left out, as another source has them: {mixture.duplicates or 'none'}")
    print(f"left out, as another split has nearly the same: {mixture.leaks or 'none'}")
    if skipped := [line for note in built.notes for line in note["skipped"]]:
        print(f"left out because it cannot be read or has bad data: {len(skipped)}")
        print("\n".join(f"  {line}" for line in skipped[:_LISTED]))


if __name__ == "__main__":
    sys.exit(run_command(main))
