"""The commands of an installed package, `adapt-train` and the others; `pyproject.toml` names them."""

from collections.abc import Callable
from importlib import import_module

from .command_line import run_command


def _command(module: str) -> Callable[[], int]:
    """Runs the `main` of a module beside this one, which is imported for it alone."""
    return lambda: run_command(import_module(f".{module}", __package__).main)


build = _command("build_dataset")
check_splits = _command("check_splits")
convert = _command("convert_published")
describe = _command("describe_dataset")
evaluate = _command("evaluate")
generate = _command("generate_defects")
import_published = _command("import_published")
import_structures = _command("import_structures")
neb = _command("neb")
relax = _command("relax")
select = _command("select_structures")
split = _command("split_dataset")
train = _command("train")
upload = _command("hub_upload")
