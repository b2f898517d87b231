"""Looks for leakage between the splits of a data set: divided trajectories, and nearly equal structures."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from .command_line import CommandParser, positive_number

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.split.duplicates import NearDuplicate

EXAMPLE = """example:
  python data_scripts/check_splits.py datasets/defects --tolerance 0.1

exit status: 0 if nothing is found, 1 otherwise"""
_ENOUGH = 10_000  # pairs, after which the search ends
_LINES = 20


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("dataset", metavar="DATASET", help="folder or Hub id of a data set")
    parser.add_argument(
        "--tolerance",
        type=positive_number,
        default=0.05,
        metavar="A",
        help="structures are nearly equal if every atom is as near as this, in Å, to one of the other structure, in "
        "any order and across cell boundaries (default %(default)s)",
    )
    arguments = parser.parse_args(argv)

    from ..data.load.reading import read_splits
    from ..data.split.duplicates import near_duplicates

    splits = read_splits(arguments.dataset)
    divided = _divided_trajectories(splits)
    for trajectory, names in list(divided.items())[:_LINES]:
        print(f"the trajectory {trajectory!r} is in {' and '.join(names)}")
    pairs = list(islice(near_duplicates(splits, arguments.tolerance), _ENOUGH))
    if pairs:
        print(_table(splits, pairs))
    print(f"trajectories in several splits: {len(divided) or 'none'}")
    more = " or more" if len(pairs) == _ENOUGH else ""
    print(f"nearly equal structures in different splits: {f'{len(pairs)} pairs{more}' if pairs else 'none'}")
    return 1 if divided or pairs else 0


def _divided_trajectories(splits: Mapping[str, "Dataset"]) -> dict[str, list[str]]:
    """Names of trajectories that are in several splits, with these."""
    where: dict[str, list[str]] = defaultdict(list)
    for split, rows in splits.items():
        for trajectory in set(rows["trajectory"]) - {"", None}:
            where[trajectory].append(split)
    return {trajectory: names for trajectory, names in sorted(where.items()) if len(names) > 1}


def _table(splits: Mapping[str, "Dataset"], pairs: list["NearDuplicate"]) -> str:
    """The nearest pairs; the column of distances says how far atoms are apart at most."""
    from ..tables import format_table

    nearest = sorted(pairs, key=lambda pair: pair.distance)[:_LINES]
    rows = [
        (
            *(
                f"{split} {row} ({splits[split][row]['source']})"
                for split, row in zip(pair.splits, pair.rows, strict=True)
            ),
            f"{pair.distance:.4f}",
        )
        for pair in nearest
    ]
    return format_table(("split, row (source)", "is nearly", "apart in Å"), rows)
