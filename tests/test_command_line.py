"""What all commands share: options, failures and output folders."""

import os
import subprocess
import sys
import tempfile

import datasets
import pytest
import transformers

from modeling_adapt.cli.command_line import (
    CommandParser,
    number_not_negative,
    positive_number,
    run_command,
    whole_number,
)
from modeling_adapt.device import available_device
from modeling_adapt.errors import InputError
from modeling_adapt.files import require_empty_folder
from modeling_adapt.hub_access import is_local


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser("Does something.", "example:\n  python something.py 3")
    parser.add_argument("count", type=whole_number(2))
    parser.add_argument("--size", type=positive_number)
    parser.add_argument("--shift", type=number_not_negative)
    return parser


def test_options_are_read(parser):
    arguments = parser.parse_args(["2", "--size", "1e-3", "--shift", "0"])
    assert (arguments.count, arguments.size, arguments.shift) == (2, 1e-3, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1"], "argument count: '1' is not a whole number of at least 2"),
        (["2.5"], "'2.5' is not a whole number"),
        (["2", "--size", "0"], "'0' is not a positive number"),
        (["2", "--size", "inf"], "'inf' is not a positive number"),
        (["2", "--shift", "nan"], "'nan' is not a number of at least 0"),
        (["2", "--shifts", "1"], "unrecognized arguments: --shifts"),
        ([], "required: count"),
    ],
)
def test_bad_options_are_one_line(parser, capsys, arguments, message):
    assert run_command(lambda: parser.parse_args(arguments) and 0) == 2
    error = capsys.readouterr().err
    assert (
        message in error and error.startswith("error: ") and error.endswith("see --help\n") and error.count("\n") == 1
    )


def test_help_keeps_the_lines_of_the_example(parser):
    assert parser.format_help().endswith("example:\n  python something.py 3\n")


def test_status_of_failures(capsys):
    def fail(error: BaseException):
        raise error

    assert run_command(lambda: None) == 0 and run_command(lambda: 1) == 1
    assert run_command(lambda: fail(InputError("two\n  lines"))) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert run_command(lambda: fail(KeyboardInterrupt())) == 130


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("a\n b"), MemoryError(), RecursionError("deep"), KeyError("x"), UnicodeError("x" * 9999)],
)
def test_what_nobody_foresaw_is_one_line_with_its_traceback_kept(capsys, monkeypatch, tmp_path, error):
    def somewhere():
        raise error

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["x"])
    assert run_command(somewhere) == 3
    said = capsys.readouterr().err
    (kept,) = tmp_path.iterdir()
    assert said.startswith(f"error: {type(error).__name__}") and said.count("\n") == 1 and len(said) < 2500
    assert str(kept) in said and "in somewhere" in kept.read_text()
    monkeypatch.setattr(sys, "argv", ["x", "--debug"])
    assert run_command(somewhere) == 3 and sys.argv == ["x"]
    assert "in somewhere" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug", "underflow_overflow"])  # that of `TrainingArguments`
    run_command(somewhere)
    assert sys.argv == ["train.py", "--debug", "underflow_overflow"]


def test_a_terminal_that_cannot_write_our_letters_ends_nothing():
    code = """
import sys
from modeling_adapt.cli.command_line import run_command
sys.exit(run_command(lambda: print("53 meV/Å, ΔQ, caf" + chr(0xDCE9)) or print("Å", file=sys.stderr)))
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == rb"53 meV/\xc5, \u0394Q, caf\udce9" + b"\n"


def test_commands_show_no_bars_of_libraries_which_they_import_later():
    code = """
import sys
from modeling_adapt.cli.command_line import run_command

def main():
    assert not {"datasets", "transformers"} & set(sys.modules)
    import datasets, transformers
    return 7 if bars(datasets, transformers) else 0

def bars(datasets, transformers):
    return transformers.logging.is_progress_bar_enabled() or datasets.are_progress_bars_disabled() is False

sys.exit(run_command(main))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_commands_show_no_bars_of_libraries_which_are_there():
    datasets.enable_progress_bars()
    transformers.logging.enable_progress_bar()
    run_command(lambda: None)
    assert datasets.are_progress_bars_disabled() and not transformers.logging.is_progress_bar_enabled()


def test_output_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/er"):
        assert require_empty_folder(tmp_path / name) == tmp_path / name
    for name, message in ((".", "not empty"), ("file", "is a file"), ("file/below", "cannot be written")):
        with pytest.raises(InputError, match=message):
            require_empty_folder(tmp_path / name)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_folder_without_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written"):
        require_empty_folder(tmp_path / "closed" / "new")


def test_what_exists_or_looks_like_a_path_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs", "runs/misspelled", "./a", "/a/b", "a/b/c", "a", "", "../a"):
        assert is_local(name), name
    for name in ("organisation/name", "org-1/na.me_2"):
        assert not is_local(name), name


@pytest.mark.parametrize("name", ["nonsense", "cuda:77", "meta", ""])
def test_devices_that_are_not_there(name):
    with pytest.raises(InputError, match="no device"):
        available_device(name)
