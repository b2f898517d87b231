"""Options that several commands about data sets share."""

import argparse
from pathlib import Path

from ..data.split.splitting import split_fractions
from ..errors import InputError
from ..files import require_plain_path
from .command_line import whole_number


def add_output(parser: argparse.ArgumentParser, name: str = "OUTPUT_DATASET") -> None:
    """Gives a command its last argument, the folder of a new data set."""
    parser.add_argument("output", metavar=name, type=_output, help="folder to write; must not exist or be empty")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Gives a command `--num-proc`, which `build_dataset` understands."""
    parser.add_argument("--num-proc", type=whole_number(1), default=1, help="processes (default %(default)s)")


def add_host(parser: argparse.ArgumentParser) -> None:
    """Gives a command `--host`, which `SiteSearch` understands."""
    parser.add_argument(
        "--host",
        default="auto",
        metavar="HOST",
        help="where defect sites come from that the input does not tell: 'auto' (default) finds the perfect crystal "
        "behind each structure, and no site where there is none; FILE is that crystal, in the same cell; 'none' finds "
        "no sites",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """Gives a command `--split` and `--seed`, which `divide_rows` understands."""
    parser.add_argument(
        "--split",
        default="0.8,0.1,0.1",
        type=_split,
        help="fractions of train, validation and test by trajectory (%(default)s), or one split name for everything",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of everything random (default %(default)s)")


def _split(text: str) -> str:
    """The type of `--split`: checked when the command starts, not when hours of work are to be divided."""
    try:
        split_fractions(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _output(text: str) -> Path:
    """The type of an output, likewise."""
    try:
        return require_plain_path(Path(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
