"""A run and a data set to publish, with all beside them that must stay home; and what is on the list."""

import base64
import json
import re
from pathlib import Path

import pytest
import yaml

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.data.build.dataset_card import write_card
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.load.survey import content_hash
from modeling_adapt.hub.run_folder import open_runs
from modeling_adapt.hub.staging import stage_repository

PAIRWISE = {"architecture": "pairwise", "num_vector_channels": 8}
REPOSITORY = Path(__file__).resolve().parents[1]
SECRET = "hf_PlantedTokenThatMustStayHome"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    ADAPTFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def run_folder(make_force_model, springs, tmp_path) -> Path:
    """A run with records that name folders of this machine, beside all that must not go out."""
    folder = save(make_force_model(**PAIRWISE), tmp_path / "home of me" / "run1")
    recipe = {"dataset": "/data/me/springs", "output_dir": str(folder), "seed": 1, "hub_token": SECRET}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"initial_model": "../secret-project/first"}))
    command = ["train.py", f"--output_dir={folder}", "--dataset", "/data/me/springs", "--hub_token", SECRET]
    learned = {"train": content_hash(read_split(springs, "train"))}
    run = {"command": command, "data": learned, "resumed_from": str(folder / "checkpoint-5"), "parameters": 12}
    (folder / "run.json").write_text(json.dumps({"parts": [run]}))
    (folder / "training_metrics.json").write_text(json.dumps({"eval_force_mae_mev_per_ang": 1.5}))
    (folder / "training_curve.png").write_bytes(PIXEL)
    for name in (".env", "token", "optimizer.pt", "training_args.bin", "trainer_state.json", "scheduler.pt", "x.py"):
        (folder / name).write_text(json.dumps({"token": SECRET}))
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"x")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": str(folder)}))
    return folder


@pytest.fixture
def data_folder(springs, tmp_path) -> Path:
    folder = tmp_path / "springs"
    for path in Path(springs).rglob("*.parquet"):
        target = folder / path.relative_to(springs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    write_card(folder, {"command": "import /data/me/a.xyz", "inputs": "/data/me/a.xyz"})
    (folder / ".env").write_text(SECRET)
    return folder


EXPECTED = {
    *("LICENSE", "README.md", "config.json", "preprocessor_config.json", "model.safetensors", "example.json"),
    *(
        "example.png",
        "recipe.yaml",
        "run.json",
        "training_metrics.json",
        "training_curve.png",
        "configuration_adapt.py",
    ),
    *("architectures_adapt.py", "elements_adapt.py", "embeddings_adapt.py", "encoder_adapt.py", "mlp_adapt.py"),
    *("feature_extraction_adapt.py", "modeling_adapt.py", "neighbours_adapt.py", "pairwise_adapt.py"),
    *("mesh_adapt.py", "reciprocal_adapt.py", "repulsion_adapt.py"),
    *("pipeline_adapt.py", "pretrained_adapt.py", "versions_adapt.py"),
}
OF_ENERGY = {f"energy/{name}" for name in ("config.json", "preprocessor_config.json", "model.safetensors")}
OF_ENERGY |= {"energy/example.json"}


def require_clean(contents: dict[str, bytes]) -> None:
    """Nothing of the planted secrets and folders is in any byte."""
    home = str(Path.home()).encode() + b"/"
    for name, content in contents.items():
        for secret in (SECRET.encode(), b"home of me", b"/data/me", b"secret-project", home):
            assert secret not in content, (name, secret)
        assert not name.endswith((".pt", ".bin", ".pkl")) and "checkpoint-" not in name


def stage(run_folder: Path, folder: Path, **options) -> dict[str, Path]:
    """The files of a model as they would go out, in `folder`."""
    return stage_repository(open_runs([run_folder]), folder, "org/adapt-si", **options)


def assert_one_line(capsys, message: str) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error), error
    return error
