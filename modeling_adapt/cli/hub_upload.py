"""Command: publishes a model, a data set, or the page to try a model on, on the Hugging Face Hub, with all that others
need and no more."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .command_line import CommandParser

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ..hub.publishing import Publication

EXAMPLE = """\
examples:
  python hub_upload.py runs/silicon my-name/adapt-si --dry-run
  python hub_upload.py runs/silicon my-name/adapt-si --evaluation results/silicon --license mit --tag v1
  python hub_upload.py runs/forces my-org/adapt-si --energy runs/energy --dataset datasets/silicon --license cc-by-4.0
  python hub_upload.py --space my-name/relax-a-defect --dry-run
  python hub_upload.py my-org/open-defects --dataset datasets/open-defects

Before anything goes out, the folder is loaded in a clean process, with transformers alone, and has to compute what its
example says. Then one commit brings the repository up to date: model, code, example, figures, recipe, metrics, card.
The second model is in the folder energy/, the data set in the repository ORG/NAME-data, which is as private as the
model where it is new; without a model it is ORG/NAME itself. A structure of the data goes out, as the example, only
with --dataset. When an upload broke off, the same command goes on with what is missing; when nothing has changed,
nothing is sent. --space publishes the page of `make space` instead.
Log in first with `hf auth login`, or set HF_TOKEN.
"""
_OF_A_MODEL = ("model", "repository", "energy", "dataset", "evaluation", "license")


def main(argv: list[str] | None = None) -> int | None:
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if arguments.space is not None:
        if given := [name for name in _OF_A_MODEL if getattr(arguments, name) != parser.get_default(name)]:
            raise InputError(f"--space publishes the page and no model; leave out {', '.join(given)}")
        return _publish_space(arguments)
    if arguments.repository is None:  # of one name, that is the repository
        arguments.model, arguments.repository = None, arguments.model
    if arguments.repository is None:
        parser.error("the following arguments are required: ORG/NAME")
    # What takes seconds to import comes after the options are known.
    from huggingface_hub import get_token

    from ..files import require_empty_folder
    from ..hub import dataset, publishing, staging, stranger
    from ..hub.card import require_license
    from ..hub.privacy import local_names, require_nothing_private
    from ..hub.repository import require_ref_name, require_repository_name
    from ..hub.run_folder import open_runs

    # What is named has to be right, and to be there.
    _require_apart(arguments)
    require_repository_name(arguments.repository)
    if arguments.model is None:
        return _publish_dataset(arguments)
    require_ref_name(arguments.tag, "--tag")
    require_ref_name(arguments.revision, "--revision")
    runs = open_runs([arguments.model, arguments.energy], arguments.evaluation)
    if arguments.license is not None or not arguments.dry_run:
        require_license(arguments.license)
    if arguments.save is not None:
        require_empty_folder(arguments.save)
    local_alone = arguments.dry_run or arguments.save is not None
    api = None if local_alone else publishing.connect()
    data_repository = f"{arguments.repository}-data"

    with tempfile.TemporaryDirectory(prefix="adapt-upload-") as scratch:
        # What goes out is written anew, from a list of what may.
        rows: dict[str, Path] = {}
        with staging.enough_space(Path(scratch)):
            if arguments.dataset is not None:
                rows = dataset.stage_dataset(arguments.dataset, Path(scratch) / "data", data_repository)
            files = staging.stage_repository(
                runs,
                Path(scratch) / "model",
                arguments.repository,
                dataset=arguments.dataset,
                data_repository=data_repository,
                license=arguments.license or "unknown",
                revision=arguments.tag or arguments.revision,
                api=api,
            )

        # Nothing of this machine is in it, and it works where only transformers is.
        named = [arguments.model, arguments.energy, arguments.dataset, *arguments.evaluation]
        named += [name for run in runs for name in run.named_folders]
        local = local_names(named, public=(arguments.repository, data_repository))
        require_nothing_private([*files.items(), *rows.items()], local, [get_token() or ""])
        deviation = stranger.check_as_stranger(Path(scratch) / "model", staging.SUBFOLDERS[: len(runs)])
        print(
            "loads with transformers alone; deviation from the example: "
            f"at most {max(deviation.values()):.1e} eV/Å or eV"
        )

        # It is kept, shown, or sent.
        if api is None:
            _keep_or_show(arguments, {arguments.repository: files, data_repository: rows})
            return 0
        options = {"private": arguments.private, "revision": arguments.revision, "tag": arguments.tag}
        model = publishing.Publication(
            arguments.repository, files, ours=staging.is_ours, untested=staging.ENERGY, **options
        )
        data = publishing.Publication(data_repository, rows, "dataset", ours=dataset.is_of_dataset, **options)
        _send(api, model, data if rows else None)
    return 0


def _publish_space(arguments: argparse.Namespace) -> int:
    from huggingface_hub import get_token

    from ..files import require_empty_folder
    from ..hub import publishing
    from ..hub.privacy import local_names, require_nothing_private
    from ..hub.repository import require_ref_name, require_repository_name
    from ..hub.space import is_of_space, stage_space

    _require_apart(arguments)
    require_repository_name(arguments.space)
    require_ref_name(arguments.tag, "--tag")
    require_ref_name(arguments.revision, "--revision")
    if arguments.save is not None:
        require_empty_folder(arguments.save)
    api = None if arguments.dry_run or arguments.save is not None else publishing.connect()
    with tempfile.TemporaryDirectory(prefix="adapt-upload-") as scratch:
        files = stage_space(Path(scratch) / "space")
        require_nothing_private(files.items(), local_names([], public=(arguments.space,)), [get_token() or ""])
        if api is None:
            _keep_or_show(arguments, {arguments.space: files})
            return 0
        options = {"private": arguments.private, "revision": arguments.revision, "tag": arguments.tag}
        _send(api, publishing.Publication(arguments.space, files, "space", ours=is_of_space, **options))
    return 0


def _publish_dataset(arguments: argparse.Namespace) -> int:
    """A data set without a model."""
    from huggingface_hub import get_token

    from ..data.load.reading import members
    from ..hub import dataset, publishing, staging
    from ..hub.privacy import local_names, require_nothing_private
    from ..hub.repository import require_ref_name

    if arguments.dataset is None:
        raise InputError("name a model before ORG/NAME, or a data set with --dataset")
    of_models = {"--energy": arguments.energy, "--evaluation": arguments.evaluation}
    of_models["--license (the card of a data set has its own)"] = arguments.license
    if any(of_models.values()):
        raise InputError(f"without a model leave out {', '.join(filter(of_models.get, of_models))}")
    require_ref_name(arguments.tag, "--tag")
    require_ref_name(arguments.revision, "--revision")
    api = None if arguments.dry_run else publishing.connect()
    with tempfile.TemporaryDirectory(prefix="adapt-upload-") as scratch:
        with staging.enough_space(Path(scratch)):
            rows = dataset.stage_dataset(arguments.dataset, Path(scratch) / "data", arguments.repository)
        local = local_names([arguments.dataset], public=(arguments.repository,))
        require_nothing_private(rows.items(), local, [get_token() or ""])
        if api is None:
            _keep_or_show(arguments, {arguments.repository: rows})
            return 0
        ours = dataset.is_of_several if members(arguments.dataset) else dataset.is_of_dataset
        options = {"private": arguments.private, "revision": arguments.revision, "tag": arguments.tag}
        _send(api, publishing.Publication(arguments.repository, rows, "dataset", ours=ours, **options))
    return 0


def _require_apart(arguments: argparse.Namespace) -> None:
    """Raises [`InputError`] where something is to be kept here, and to be sent."""
    beside = {"--dry-run": arguments.dry_run, "--private": arguments.private, "--dataset": arguments.dataset}
    if arguments.save is not None and any(beside.values()):
        raise InputError(
            f"--save keeps the model here and sends nothing; leave out {', '.join(filter(beside.get, beside))}"
        )


def _keep_or_show(arguments: argparse.Namespace, repositories: Mapping[str, Mapping[str, Path]]) -> None:
    """What would be sent, the first of the repositories whole."""
    from ..files import finished_folder

    files = next(iter(repositories.values()))
    if arguments.save is None:
        _show(repositories)
        print(f"\n{files['README.md'].read_text(encoding='utf-8')}")
        print("dry run: nothing was sent")
        return
    with finished_folder(arguments.save) as folder:
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
    print(f"saved to: {arguments.save}")


def _send(api: "HfApi", what: "Publication", rows: "Publication | None" = None) -> None:
    from huggingface_hub.utils import enable_progress_bars

    from ..hub.publishing import publish

    if sys.stderr.isatty():
        enable_progress_bars()
    for done in publish(api, what, rows):
        _say(done.url, str(done.head), len(done.changed), len(done.gone))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "Publishes a model, a data set, or a Space to try one on, on the Hugging Face Hub.", EXAMPLE
    )
    parser.add_argument(
        "model", nargs="?", help="folder of a run of train.py, or of a checkpoint; left out: data alone"
    )
    parser.add_argument("repository", nargs="?", metavar="ORG/NAME", help="where it goes on the Hub")
    parser.add_argument("--space", metavar="ORG/NAME", help="publish the page of `make space` there, and no model")
    parser.add_argument("--energy", metavar="FOLDER", help="second model, an energy, for the folder energy/")
    parser.add_argument(
        "--dataset",
        metavar="FOLDER",
        help="data set to publish as ORG/NAME-data; with a structure of it as example (else: silicon); without a "
        "model it is published as ORG/NAME",
    )
    parser.add_argument(
        "--evaluation", metavar="FOLDER", nargs="+", default=[], help="what evaluate.py wrote for these models alone"
    )
    parser.add_argument(
        "--license", metavar="ID", help="of the weights, as the Hub names it, such as mit; only a dry run goes without"
    )
    parser.add_argument("--private", action="store_true", help="only members see it")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to upload to (default: main)")
    parser.add_argument("--tag", help="name for this version, such as v1")
    parser.add_argument("--save", metavar="FOLDER", help="write the repository into this new folder; no network")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and the card; no network")
    return parser


def _show(repositories: Mapping[str, Mapping[str, Path]]) -> None:
    for repository, files in repositories.items():
        if files:
            print(f"\n{repository}")
            for name in sorted(files):
                print(f"{_size(files[name]):>10}  {name}")


def _say(url: str, commit: str, sent: int, removed: int) -> None:
    if not sent and not removed:
        print(f"{url} is up to date: nothing was sent")
        return
    print(f"{sent} files sent{f', {removed} removed' if removed else ''} in one commit ({commit[:8]}): {url}")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
