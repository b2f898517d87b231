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

from modeling_adapt.command_line import CommandParser, run_command
from modeling_adapt.errors import InputError, one_line
from modeling_adapt.hub.card import write_model_card
from modeling_adapt.hub.dataset import is_of_dataset, stage_dataset
from modeling_adapt.hub.example import example_structure
from modeling_adapt.hub.private import last_name, require_nothing_private
from modeling_adapt.hub.repository import Upload, upload
from modeling_adapt.hub.run_folder import RunFolder, open_run, require_all_used
from modeling_adapt.hub.staging import ENERGY, LICENSE, is_ours, stage_model, staged_files
from modeling_adapt.hub.stranger import check_as_stranger
from modeling_adapt.locations import is_local

EXAMPLE = """\
examples:
  python hub_upload.py runs/silicon my-name/adapt-si --dry-run
  python hub_upload.py runs/silicon my-name/adapt-si --evaluation results/silicon --tag v1
  python hub_upload.py runs/forces my-org/adapt-si --energy runs/energy --dataset datasets/silicon --private

Before anything goes out, the folder is loaded in a clean process, with transformers alone, and has to compute what its
example says. Then one commit brings the repository up to date: model, code, example, figures, recipe, metrics, card.
The second model is in the folder energy/, the data set in the repository ORG/NAME-data. When an upload broke off, the
same command goes on with what is missing; when nothing has changed, nothing is sent.
Log in first with `hf auth login`, or set HF_TOKEN.
"""


def main(argv: list[str] | None = None) -> int | None:
    arguments = _parser().parse_args(argv)
    _require_repository(arguments.repository)
    runs = [open_run(arguments.model, arguments.evaluation)]
    if arguments.energy is not None:
        runs.append(open_run(arguments.energy, arguments.evaluation))
    require_all_used(arguments.evaluation, runs)
    token = None if arguments.dry_run else _token()
    with tempfile.TemporaryDirectory(prefix="adapt-upload-") as scratch:
        model = _stage(arguments, runs, Path(scratch) / "model")
        data = {}
        if arguments.dataset is not None:
            data = stage_dataset(arguments.dataset, Path(scratch) / "data", data_repository(arguments.repository))
        home = f"{Path.home()}/".replace("//", "")
        secrets = [token or get_token() or "", home, *(str(run.run.resolve()) for run in runs)]
        require_nothing_private([*model.items(), *data.items()], secrets)
        subfolders = ["", ENERGY][: len(runs)]
        found = check_as_stranger(Path(scratch) / "model", subfolders)
        print(f"loads with transformers alone; deviation from the example: at most {max(found.values()):.1e}")
        if arguments.dry_run:
            _show(arguments, model, data)
            return 0
        _send(arguments, HfApi(token=token), model, data)
    return 0


def data_repository(repository: str) -> str:
    """Where the data set of a model goes."""
    return f"{repository}-data"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("Publishes a model on the Hugging Face Hub.", EXAMPLE)
    parser.add_argument("model", help="folder of a run of train.py, or of a checkpoint")
    parser.add_argument("repository", metavar="ORG/NAME", help="where it goes on the Hub")
    parser.add_argument("--energy", metavar="FOLDER", help="second model, an energy, for the folder energy/")
    parser.add_argument("--dataset", metavar="FOLDER", help="data set to publish as ORG/NAME-data")
    parser.add_argument(
        "--evaluation", metavar="FOLDER", nargs="+", default=[], help="what evaluate.py wrote for these models"
    )
    parser.add_argument("--license", default="mit", help="of the weights, as the Hub names it (default: mit)")
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


def _stage(arguments: argparse.Namespace, runs: list[RunFolder], folder: Path) -> dict[str, Path]:
    """The folder of the model with its card; name in the repository -> file."""
    recorded = runs[0].recipe.get("dataset")
    local = recorded is not None and Path(recorded).expanduser().is_dir()
    structure = example_structure(arguments.dataset or (recorded if local else None))
    models = [stage_model(run, structure, folder, name) for run, name in zip(runs, ("", ENERGY), strict=False)]
    if len(models) > 1 and models[1].config.model_type != "adapt_energy":
        raise InputError(f"--energy {arguments.energy} is no energy model")
    if LICENSE.is_file():
        (folder / "LICENSE").write_bytes(LICENSE.read_bytes())
    revision, dataset = arguments.tag or arguments.revision, _dataset_of(arguments, recorded)
    write_model_card(folder, arguments.repository, license=arguments.license, dataset=dataset, revision=revision)
    return staged_files(folder)


def _dataset_of(arguments: argparse.Namespace, recorded: str | None) -> str | None:
    """Hub id of what the model was trained on, where it has one."""
    if arguments.dataset is None:
        return recorded if recorded is not None and not is_local(recorded) else None
    if recorded is not None and last_name(recorded) != Path(arguments.dataset).absolute().name:
        print(
            f"the model was trained on {recorded}, not on {arguments.dataset}: the card does not name the data set",
            file=sys.stderr,
        )
        return None
    return data_repository(arguments.repository)


def _show(arguments: argparse.Namespace, model: dict[str, Path], data: dict[str, Path]) -> None:
    for repository, files in ((arguments.repository, model), (data_repository(arguments.repository), data)):
        if files:
            print(f"\n{repository}")
            for name in sorted(files):
                print(f"{_size(files[name]):>10}  {name}")
    print(f"\n{model['README.md'].read_text(encoding='utf-8')}")
    print("dry run: nothing was sent")


def _send(arguments: argparse.Namespace, api: HfApi, model: dict[str, Path], data: dict[str, Path]) -> None:
    """The data set first, so that no card names one that is not there."""
    if sys.stderr.isatty():
        enable_progress_bars()
    logging.set_verbosity_error()  # it says each new try on a line of its own; what stays wrong is one line
    options = {"private": arguments.private, "revision": arguments.revision, "tag": arguments.tag}
    if data:
        name = data_repository(arguments.repository)
        _say(upload(api, name, data, "Upload data set", kind="dataset", ours=is_of_dataset, **options))

    def ours(name: str) -> bool:  # a second model that is there and not given now stays
        return is_ours(name) and (arguments.energy is not None or not name.startswith(f"{ENERGY}/"))

    _say(upload(api, arguments.repository, model, "Upload ADAPT model", ours=ours, **options))


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
