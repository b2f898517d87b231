"""What every command shares: how it reads its options, and how it fails."""

import argparse
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from ..errors import InputError

_LONGEST_LINE = 2000


class CommandParser(argparse.ArgumentParser):
    """An argument parser that keeps the lines of its example, and whose errors are the one line of every bad input."""

    def __init__(self, description: str | None, example: str, prog: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=example, formatter_class=layout)
        self.add_argument("--debug", action="store_true", help="show where an unforeseen error happened")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option: a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return read


def positive_number(text: str) -> float:
    """The type of an option: a finite number above zero."""
    value = _finite(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def number_not_negative(text: str) -> float:
    """The type of an option: a finite number of at least zero."""
    value = _finite(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def finite_number(text: str) -> float:
    """The type of an option: a finite number."""
    value = _finite(text)
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _finite(text: str) -> float:
    """The number that `text` says; NaN, which no comparison accepts, where it says none or an infinite one."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def run_command(main: Callable[[], int | None]) -> int:
    """Runs `main` and turns what goes wrong into one line on stderr.

    Returns:
        `int`: Exit status; what `main` returned (None = 0), 2 for bad input, 3 for an error that nobody foresaw, 130
        when interrupted.
    """
    _without_bars()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # of a stream that stands for another one by now
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # where it cannot write an Å, work goes on
    debug = _debug()
    try:
        return main() or 0
    except (InputError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {_on_one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        said = _on_one_line(f"{type(error).__name__}: {error}").rstrip(": ")
        print(f"error: {said}; nobody foresaw this, please report it{_kept(debug)}", file=sys.stderr)
        return 3


def _on_one_line(text: str) -> str:
    """Of a text that may quote a damaged or hostile file what a terminal shows and does not obey."""
    words = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words[:_LONGEST_LINE])


def _debug() -> bool:
    """Whether `--debug` was given; the option of `TrainingArguments` that is called so too has a value."""
    for place, word in enumerate(sys.argv[1:], 1):
        if word == "--debug" and (place + 1 == len(sys.argv) or sys.argv[place + 1].startswith("--")):
            del sys.argv[place]
            return True
    return False


def _kept(shown: bool) -> str:
    """Keeps the traceback in a file; says where."""
    if shown:
        return ""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="adapt-error-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
    except (OSError, UnicodeError):
        return " with what the same command says with --debug"
    return f" with {file.name}, or with what the same command says with --debug"


def _without_bars() -> None:
    """Loading weights and opening data sets take no time worth a bar, and bars would break up one-line errors."""
    for variable in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")  # read by the libraries when they are imported, which takes seconds
    if "transformers" in sys.modules:
        sys.modules["transformers"].logging.disable_progress_bar()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
