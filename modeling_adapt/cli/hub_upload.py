"""Command: publishes a trained model on the Hugging Face Hub with all that others need, and nothing else."""

import os

# What follows reads the environment when it is imported. Xet is a service of the real Hub, to which it is left; other
# servers that speak the Hub's endpoints (a mirror, the one of the tests) know only LFS.
if os.environ.get("HF_ENDPOINT", "").rstrip("/") not in ("", "https://huggingface.co"):
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

import argparse
import re
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import enable_progress_bars, logging, validate_repo_id

from .. import ADAPTConfig
from ..errors import InputError, one_line
from ..hub.card import write_model_card
from ..hub.dataset import is_of_dataset, stage_dataset
from ..hub.evaluations import require_all_used
from ..hub.example import example_structure
from ..hub.licenses import require_license
from ..hub.private import require_nothing_private
from ..hub.refs import require_ref_name
from ..hub.repository import Publication, Upload, look, make, send
from ..hub.run_folder import RunFolder, open_run
from ..hub.staging import ENERGY, LICENSE, enough_space, is_ours, stage_model, staged_files
from ..hub.stranger import check_as_stranger
from ..hub.trained_on import hub_dataset, learned_from, published_dataset
from ..hub_access import is_local
from .command_line import CommandParser, run_command

EXAMPLE = """\
examples:
  python hub_upload.py runs/silicon my-name/adapt-si --dry-run
  python hub_upload.py runs/silicon my-name/adapt-si --evaluation results/silicon --tag v1
  python hub_upload.py runs/forces my-org/adapt-si --energy runs/energy --dataset datasets/silicon --private

Before anything goes out, the folder is loaded in a clean process, with transformers alone, and has to compute what its
example says. Then one commit brings the repository up to date: model, code, example, figures, recipe, metrics, card.
The second model is in the folder energy/, the data set in the repository ORG/NAME-data, which is as private as the
model where it is new. A structure of the data goes out, as the example, only with --dataset. When an upload broke off,
the same command goes on with what is missing; when nothing has changed, nothing is sent.
Log in first with `hf auth login`, or set HF_TOKEN.
"""


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    _require_repository(arguments.repository)
    require_license(arguments.license)
    for option, name in (("--tag", arguments.tag), ("--revision", arguments.revision)):
        if name is not None:
            require_ref_name(name, option)
    runs = [open_run(arguments.model, arguments.evaluation)]
    if arguments.energy is not None:
        runs.append(open_run(arguments.energy, arguments.evaluation))
    require_all_used(arguments.evaluation, [run.evaluation for run in runs])
    token = None if arguments.dry_run else _token()
    api = None if token is None else HfApi(token=token)
    logging.set_verbosity_error()  # it says each new try on a line of its own; what stays wrong is one line
    with tempfile.TemporaryDirectory(prefix="adapt-upload-") as scratch:
        with enough_space(Path(scratch)):
            data = {}
            if arguments.dataset is not None:
                data = stage_dataset(arguments.dataset, Path(scratch) / "data", data_repository(arguments.repository))
            model = _stage(arguments, runs, Path(scratch) / "model", api)
        files = [*model.items(), *data.items()]
        require_nothing_private(files, _folders(arguments, runs), [token or get_token() or ""])
        subfolders = ["", ENERGY][: len(runs)]
        found = check_as_stranger(Path(scratch) / "model", subfolders)
        deviation = f"at most {max(found.values()):.1e} eV/Å or eV"
        print(f"loads with transformers alone; deviation from the example: {deviation}")
        if api is None:
            _show(arguments, model, data)
            return 0
        _send(arguments, api, model, data)
    return 0


def data_repository(repository: str) -> str:
    """Where the data set of a model goes."""
    return f"{repository}-data"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("Publishes a model on the Hugging Face Hub.", EXAMPLE)
    parser.add_argument("model", help="folder of a run of train.py, or of a checkpoint")
    parser.add_argument("repository", metavar="ORG/NAME", help="where it goes on the Hub")
    parser.add_argument("--energy", metavar="FOLDER", help="second model, an energy, for the folder energy/")
    parser.add_argument(
        "--dataset",
        metavar="FOLDER",
        help="data set to publish as ORG/NAME-data; with a structure of it as example (else: silicon)",
    )
    parser.add_argument(
        "--evaluation", metavar="FOLDER", nargs="+", default=[], help="what evaluate.py wrote for these models alone"
    )
    parser.add_argument(
        "--license", default="unknown", help="of the weights, as the Hub names it, such as mit (default: unknown)"
    )
    parser.add_argument("--private", action="store_true", help="only members see it")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to upload to (default: main)")
    parser.add_argument("--tag", help="name for this version, such as v1")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and the card; no network")
    return parser


def _require_repository(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{name} is no name of a repository: {one_line(error)}") from error
    if not re.fullmatch(r"[^/]+/[^/]+", name):
        raise InputError(f"{name}: name the repository as ORG/NAME, such as my-name/adapt-si")


def _token() -> str:
    token = get_token()
    if token is None:
        raise InputError("no token: log in with `hf auth login`, or set HF_TOKEN to a token that may write")
    return token


def _stage(
    arguments: argparse.Namespace, runs: list[RunFolder], folder: Path, api: HfApi | None = None
) -> dict[str, Path]:
    """The folder of the model with its card; name in the repository -> file."""
    structure = example_structure(arguments.dataset)
    models = [stage_model(run, structure, folder, name) for run, name in zip(runs, ("", ENERGY), strict=False)]
    if len(models) > 1 and models[1].config.model_type != "adapt_energy":
        raise InputError(f"--energy {arguments.energy} is no energy model")
    if len(models) > 1 and models[0].config.model_type == "adapt_energy":
        raise InputError(f"{arguments.model} is an energy model itself; --energy stands beside a force model")
    if LICENSE.is_file():
        (folder / "LICENSE").write_bytes(LICENSE.read_bytes())
    datasets = [_dataset_of(arguments, run, model.config, api) for run, model in zip(runs, models, strict=True)]
    revision = arguments.tag or arguments.revision
    write_model_card(folder, arguments.repository, license=arguments.license, datasets=datasets, revision=revision)
    return staged_files(folder)


def _dataset_of(arguments: argparse.Namespace, run: RunFolder, config: ADAPTConfig, api: HfApi | None) -> str | None:
    """Hub id of what a model was trained on, where it has one; a dry run takes the recipe's word for it."""
    if arguments.dataset is None:
        return hub_dataset(run) if api is None else published_dataset(run, api)
    if learned_from(run, config, arguments.dataset):
        return data_repository(arguments.repository)
    print(
        f"{run.run} has not learned from {arguments.dataset} as it is now (by the hash in its run.json): the card "
        "does not name the data set",
        file=sys.stderr,
    )
    return None


def _folders(arguments: argparse.Namespace, runs: list[RunFolder]) -> set[str]:
    """Of this machine, absolute and as they were named now or when the model was trained and evaluated."""
    named = [arguments.model, arguments.energy, arguments.dataset, *arguments.evaluation]
    for run in runs:
        named += [
            run.run,
            run.evaluation,
            *(run.recipe.get(name) for name in ("dataset", "output_dir", "initial_model")),
        ]
        named += [run.metrics.get(name) for name in ("model", "model_path", "dataset")]
    texts = [str(Path.home()), *(str(one) for one in named if isinstance(one, str | Path) and is_local(one))]
    absolute = {str(Path(text).expanduser().absolute()) for text in texts}
    resolved = {str(Path(text).expanduser().resolve()) for text in texts}
    # A folder may be called as the repository is, whose name is in every card.
    public = {arguments.repository, data_repository(arguments.repository)}
    return {text for text in {*texts, *absolute, *resolved} if os.path.normpath(text) not in public}


def _show(arguments: argparse.Namespace, model: dict[str, Path], data: dict[str, Path]) -> None:
    for repository, files in ((arguments.repository, model), (data_repository(arguments.repository), data)):
        if files:
            print(f"\n{repository}")
            for name in sorted(files):
                print(f"{_size(files[name]):>10}  {name}")
    print(f"\n{model['README.md'].read_text(encoding='utf-8')}")
    print("dry run: nothing was sent")


def _send(arguments: argparse.Namespace, api: HfApi, model: dict[str, Path], data: dict[str, Path]) -> None:
    """What can be refused is asked of both repositories before anything goes up; then the data set is first, so that
    no card names one that is not there."""
    if sys.stderr.isatty():
        enable_progress_bars()
    options = {"private": arguments.private, "revision": arguments.revision, "tag": arguments.tag}
    wanted = Publication(arguments.repository, model, ours=is_ours, untested=ENERGY, **options)
    found = look(api, wanted)
    todo = [(wanted, found, "Upload ADAPT model")]
    if data:
        name = data_repository(arguments.repository)
        rows = Publication(name, data, "dataset", ours=is_of_dataset, private_if_new=found.private, **options)
        todo.append((rows, look(api, rows), "Upload data set"))
    todo = [(one, make(api, one, state), message) for one, state, message in todo]
    for one, state, message in reversed(todo):
        _say(send(api, one, state, message))


def _say(done: Upload) -> None:
    if not done.sent and not done.removed:
        print(f"{done.url} is up to date: nothing was sent")
        return
    removed = f", {len(done.removed)} removed" if done.removed else ""
    print(f"{len(done.sent)} files sent{removed} in one commit ({done.commit[:8]}): {done.url}")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(run_command(main))
