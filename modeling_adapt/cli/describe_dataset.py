"""What a data set holds: prints a summary, and writes its card (README.md and figures/) into its folder."""

from contextlib import nullcontext
from pathlib import Path

from ..files import alone_in
from .command_line import CommandParser

EXAMPLE = """example:
  python data_scripts/describe_dataset.py datasets/defects --license cc-by-4.0
"""


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, EXAMPLE)
    parser.add_argument("dataset", metavar="DATASET", help="folder of a data set")
    parser.add_argument("--name", default="", help="title of the card (default: as before, or the name of the folder)")
    parser.add_argument(
        "--license", default="", help="identifier of the Hub, such as mit (default: as before, or unknown)"
    )
    arguments = parser.parse_args(argv)

    from ..data.build.dataset_card import write_card
    from ..data.build.summary import summary_table

    folder = Path(arguments.dataset).expanduser()
    with alone_in(folder) if folder.is_dir() else nullcontext():  # else `write_card` says so
        summary = write_card(arguments.dataset, name=arguments.name, license=arguments.license)
    print(summary_table(summary))
    print(f"card written to: {arguments.dataset}/README.md")
