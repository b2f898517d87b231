"""What is planted in every place that goes out, in forms that nobody listed for this project, stays home."""

import json
from pathlib import Path

import hub_uploads
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_uploads import PIXEL, stage

from modeling_adapt.data.load.reading import parquet_splits, read_splits
from modeling_adapt.errors import InputError
from modeling_adapt.hub.dataset import stage_dataset
from modeling_adapt.hub.privacy import copy_png, publishable, publishable_text, require_nothing_private

run_folder, data_folder = hub_uploads.run_folder, hub_uploads.data_folder  # the fixtures

X = "Q7" * 20
KEYS = {
    "hugging face": f"hf_{X}",
    "github": f"ghp_{X[:36]}",
    "github, app": f"ghs_{X[:36]}",
    "github, fine": f"github_pat_{X}",
    "gitlab": f"glpat-{X[:20]}",
    "amazon": "AKIA" + "Q7" * 8,
    "openai": f"sk-proj-{X}",
    "anthropic": f"sk-ant-api03-{X}",
    "stripe": f"sk_live_{X}",
    "slack": f"xoxb-{X}",
    "google": f"AIza{X[:35]}",
    "npm": f"npm_{X[:36]}",
    "pypi": f"pypi-AgEIcHlwaS5vcmc{X}",
    "web token": f"eyJ{X}.eyJ{X}.{X}",
    "pem": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{X}\n-----END OPENSSH PRIVATE KEY-----",
    "address": f"https://me:{X}@git.example.org/x",
    "data base": f"postgresql://me:{X}@10.0.0.1:5432/x",
    "account": f"{X}@login.cluster.example.org",
    "account with a path": f"{X}@login1:runs",
}
PATHS = {
    "unc": f"\\\\server\\share\\{X}\\runs",
    "less": f"</home/{X}/runs>",
    "greater": f">/home/{X}/runs",
    "at": f"@/home/{X}/runs",
    "home": f"~{X}/runs",
    "windows": f"C:\\Users\\{X}\\runs",
    "file": f"file:///home/{X}/runs",
}
NAMES = (
    *("pass", "password", "passphrase", "pwd", "secret", "api_key", "access-key", "private_key", "hostname"),
    *("HOSTNAME", "host_name", "user", "username", "login", "email", "cookie", "authorization", "AWS_SECRET"),
)


@pytest.mark.parametrize("planted", [*KEYS.values(), *PATHS.values()], ids=[*KEYS, *PATHS])
def test_no_text_keeps_it(planted, tmp_path):
    assert X[:16] not in publishable_text(f"made with {planted} at night")
    assert X[:16] not in json.dumps(publishable({"a": [planted], f"b {planted}": {"c": f"in {planted}"}}))
    if planted in KEYS.values():
        (tmp_path / "README.md").write_text(f"made with\n{planted} at night")
        with pytest.raises(InputError, match="README.md would publish a token"):
            require_nothing_private([("README.md", tmp_path / "README.md")], [])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_like_a_secret_is_left_out(name):
    assert publishable({name: X, f"my_{name}": X, "seed": 1, "args": [f"--{name}", X]}) == {"seed": 1, "args": []}


@pytest.mark.parametrize(
    "text",
    [
        *("eV/Å, a / b, 3 @ 5 GPa, x@2", "v_Si<110>", "https://a.b/c?d=e@f", "risk-of-something-longer-than-this"),
        *("@torch.no_grad()", "github.com/libAtoms/silicon ec91b17", "a|b, 1 > 0.5", "task-force-fields-of-crystals"),
    ],
)
def test_what_is_no_secret_stays(text):
    assert publishable_text(text) == text


def test_records_go_out_by_their_fields_alone(run_folder, tmp_path):
    """Whatever else stands in a record of a run, under any name, in any depth."""
    for name in ("recipe.yaml", "run.json", "training_metrics.json", "config.json"):
        path = run_folder / name
        read = yaml.safe_load if path.suffix == ".yaml" else json.loads
        written = read(path.read_text()) | {"remark": X, "run_name": X, "logging_dir": X, "pass": X}
        written |= {"nested": {"deep": [X, {"x": X}]}}
        if name == "run.json":
            written["parts"][-1] |= {"remark": X, "nested": {"deep": X}, "sources": [{"name": "ours", "at": X}]}
        if name == "config.json":
            box = Path(__file__).parents[1] / "pretrained" / "adapt-si" / "config.json"
            written["training_domain"] = json.loads(box.read_text())["training_domain"] | {"remark": X}
        path.write_text(yaml.safe_dump(written) if path.suffix == ".yaml" else json.dumps(written))
    (run_folder / "training_curve.png").write_bytes(PIXEL + X.encode())
    files = stage(run_folder, tmp_path / "staged")
    for name, path in files.items():
        assert X.encode() not in path.read_bytes(), name
    assert yaml.safe_load(files["recipe.yaml"].read_text())["seed"] == 1
    assert json.loads(files["run.json"].read_text())["parts"][-1]["sources"] == [{"name": "ours"}]


def test_a_picture_goes_out_as_a_picture_alone(tmp_path):
    note = b"tEXtkey\0" + X.encode()
    chunk = len(note[4:]).to_bytes(4, "big") + note + b"\0\0\0\0"
    (tmp_path / "a.png").write_bytes(PIXEL[:33] + chunk + PIXEL[33:] + X.encode())
    copy_png(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == PIXEL
    for content in (b"", PIXEL[:40], PIXEL[1:], X.encode()):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match="a.png is no PNG picture"):
            copy_png(tmp_path / "a.png", tmp_path / "c.png")


def test_a_card_goes_out_by_its_fields_alone(data_folder, tmp_path):
    card = (data_folder / "README.md").read_text()
    hidden = f"annotations:\n- {X}\nextra:\n  at: {X}\n"
    (data_folder / "README.md").write_text(card.replace("\n---\n", f"\n{hidden}---\n", 1) + f"\n{KEYS['pem']}\n")
    files = stage_dataset(data_folder, tmp_path / "card", "org/data")
    assert X not in files["README.md"].read_text()


@pytest.mark.parametrize("planted", [*KEYS.values(), *PATHS.values()], ids=[*KEYS, *PATHS])
def test_no_row_goes_out_with_it(planted, data_folder, tmp_path):
    path = next(data_folder.rglob("train*.parquet"))
    table = pq.read_table(path)
    index = table.column_names.index("config_type")
    kinds = pa.array([*table["config_type"].to_pylist()[:-1], f"a {planted}"])
    pq.write_table(table.set_column(index, table.schema.field(index), kinds), path)
    with pytest.raises(InputError, match="the column config_type") as caught:
        stage_dataset(data_folder, tmp_path / "card", "org/data")
    assert planted not in KEYS.values() or X not in str(caught.value)


def test_nothing_of_ours_looks_like_a_secret():
    """The code and the box, which go out as they are."""
    home = Path(__file__).parents[1]
    ours = [*home.glob("modeling_adapt/*_adapt.py"), *home.glob("configuration/*.py"), home / "LICENSE"]
    ours += [path for path in (home / "pretrained").rglob("*") if path.suffix in (".json", ".md", ".yaml")]
    require_nothing_private([(path.name, path) for path in ours], [])


OUTSIDE = ["../other/*.parquet", "/other/a.parquet", "hf://datasets/evil/x/a.parquet", "https://evil.org/a.parquet"]
OUTSIDE += ["data/../../other/a.parquet", "~/a.parquet", "C:\\other\\a.parquet", "file:///other/a.parquet"]
OUTSIDE += [
    {"split": "train", "path": ["data/*.parquet", "../other/a.parquet"]},
    "zip://*.parquet::https://evil.org/a",
]


@pytest.mark.parametrize("named", OUTSIDE, ids=str)
@pytest.mark.parametrize("field", ["data_files", "data_dir"])
def test_a_data_set_is_in_its_folder(data_folder, named, field, monkeypatch):
    def fetch(*arguments, **options):
        raise AssertionError("the network is asked")

    monkeypatch.setattr("modeling_adapt.data.load.reading.load_dataset", fetch)
    monkeypatch.setattr("modeling_adapt.data.load.reading.load_dataset_builder", fetch)
    named = [named] if isinstance(named, dict) else named
    configs = yaml.safe_dump({"configs": [{"config_name": "default", field: named}]})
    card = (data_folder / "README.md").read_text()
    (data_folder / "README.md").write_text(card.replace("---\n", f"---\n{configs}", 1))
    for read in (read_splits, parquet_splits):
        with pytest.raises(InputError, match="README.md names files outside of its folder"):
            read(data_folder)


def test_a_link_out_of_a_data_set_is_not_published(data_folder, tmp_path):
    path = next(data_folder.rglob("train*.parquet"))
    (tmp_path / "private").mkdir()
    path.rename(tmp_path / "private" / path.name)
    path.symlink_to(tmp_path / "private" / path.name)
    with pytest.raises(InputError, match="leads out of .*springs, to .*private"):
        stage_dataset(data_folder, tmp_path / "card", "org/data")
