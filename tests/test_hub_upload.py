"""`hub_upload.py` publishes what is on its list and nothing else, in one commit, or says in one line why not."""

import json
import re
from pathlib import Path

import hub_uploads
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hub_uploads import EXPECTED, PAIRWISE, PIXEL, SECRET, assert_one_line, require_clean, save, stage
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from modeling_adapt.cli import hub_upload
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.data.build.dataset_card import write_card
from modeling_adapt.errors import InputError
from modeling_adapt.hub import publishing
from modeling_adapt.hub.dataset import stage_dataset
from modeling_adapt.hub.privacy import publishable, publishable_text, require_nothing_private
from modeling_adapt.hub.repository import answers
from modeling_adapt.hub.staging import example_structure, staged_files
from modeling_adapt.hub.stranger import check_as_stranger
from modeling_adapt.markdown import escaped

WINDOWS = "C:\\_me/runs"
ODD = "/data/_my_/a*b|c & <d> [e]"
run_folder, data_folder = hub_uploads.run_folder, hub_uploads.data_folder  # the fixtures


class TestBeforeAnythingGoesOut:
    def test_dry_run_shows_the_tree_and_the_card_without_network_or_token(self, run_folder, capsys, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        monkeypatch.setattr(publishing, "HfApi", None)
        monkeypatch.setattr(
            "modeling_adapt.hub.stranger.check_as_stranger", lambda folder, subfolders: {"forces": 0.0}
        )
        assert run_command(lambda: hub_upload.main([str(run_folder), "org/adapt-si", "--dry-run"])) == 0
        shown = capsys.readouterr().out
        tree, card = shown.split("---", 1)
        assert set(re.findall(r"[kM]B  (\S+)$", tree, re.MULTILINE)) == EXPECTED
        assert "loads with transformers alone" in tree and "library_name: transformers" in card
        assert "| data | springs |" in card and "| started from | first |" in card
        require_clean({"shown": shown.encode()})

    @pytest.mark.slow
    def test_a_folder_that_computes_something_else_is_refused(self, run_folder, make_force_model, tmp_path):
        staged = tmp_path / "staged"
        stage(run_folder, staged)
        weights = load_file(staged / "model.safetensors")
        name = next(name for name in weights if name.endswith("head.weight") or "layers" in name)
        save_file(weights | {name: weights[name] + 0.1}, staged / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match="does not work for a stranger: forces differ from the example by"):
            check_as_stranger(staged)

    def test_only_listed_files_and_modest_code_pass(self, run_folder, tmp_path):
        staged = tmp_path / "staged"
        files = stage(run_folder, staged)
        assert set(files) == EXPECTED
        require_clean({name: path.read_bytes() for name, path in files.items()})
        (staged / "pipeline_adapt.py").write_text("import ase\n")
        with pytest.raises(InputError, match="pipeline_adapt.py imports ase"):
            staged_files(staged)
        (staged / "notes.txt").write_text("")
        with pytest.raises(InputError, match="notes.txt is not on the list"):
            staged_files(staged)

    def test_large_weights_are_shards(self, run_folder, tmp_path, monkeypatch):
        monkeypatch.setattr("modeling_adapt.hub.staging._SHARD", "10KB")
        files = stage(run_folder, tmp_path / "staged")
        shards = [name for name in files if name.endswith(".safetensors")]
        assert len(shards) > 1 and "model.safetensors.index.json" in files

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda folder: (folder / "config.json").unlink(), "holds no model"),
            (lambda folder: pickle_only(folder), "pickle only .pytorch_model.bin."),
            (lambda folder: set_weight(folder, float("nan")), "values that are not finite"),
            (lambda folder: (folder / "training_curve.png").write_text(SECRET), "is no PNG picture"),
            (lambda folder: (folder / "run.json").write_text("{ no"), "run.json cannot be read"),
            (lambda folder: remark(folder), "run.json would publish a folder of this machine .home of me/run1."),
            (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "cannot be loaded"),
        ],
    )
    def test_what_is_refused(self, run_folder, spoil, message, capsys):
        spoil(run_folder)
        assert run_command(lambda: hub_upload.main([str(run_folder), "org/adapt-si", "--dry-run"])) == 2
        assert_one_line(capsys, message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["none", "org/x"], "no such folder"),
            (["RUN", "adapt-si"], "name the repository as ORG/NAME"),
            (["RUN", "org/a b"], "no name of a repository"),
            (["RUN", "org/x", "--license", "mit"], "no token: log in"),
            (["RUN", "org/x"], "--license: say under which licence the weights go out"),
            (["RUN", "org/x", "--save", "new"], "--license: say under which licence"),
            (["RUN", "org/x", "--dry-run", "--energy", "RUN"], "is no energy model"),
            (["RUN", "org/x", "--dry-run", "--evaluation", "RUN"], "holds no metrics.json and no answers.json"),
            (["RUN", "org/x", "--dry-run", "--license", "free for all"], "'free for all': the Hub knows no such"),
            (["RUN", "org/x", "--dry-run", "--tag", "a..b"], "--tag 'a..b': git takes no such name"),
            (["RUN", "org/x", "--dry-run", "--tag", "f" * 40], "git takes no such name"),
            (["RUN", "org/x", "--dry-run", "--revision", "refs/pr/1"], "--revision 'refs/pr/1': git takes no such"),
        ],
    )
    def test_wrong_options(self, run_folder, arguments, message, capsys, monkeypatch):
        monkeypatch.setattr(publishing, "get_token", lambda: None)
        given = [str(run_folder) if word == "RUN" else word for word in arguments]
        assert run_command(lambda: hub_upload.main(given)) == 2
        assert_one_line(capsys, message)

    def test_a_secret_in_any_text_file_stops_it(self, tmp_path):
        path = tmp_path / "README.md"
        for text, found in (
            (SECRET, "a token"),
            ("the other secret", "a token"),
            ("in /home/me/runs", "a folder of this machine ./home/me."),
            ("https://a.b/xyz?at=/home/me", "a folder"),
            ("x: /data/my\n    folder/springs", "a folder"),  # as YAML folds a line
            ("see runs/silicon.", "a folder of this machine .runs/silicon."),
            (f"| {escaped(ODD)} |", "a folder of this machine"),
            (json.dumps({"in": ODD}), "a folder of this machine"),
            *((write(WINDOWS), "a folder of this machine") for write in (str, escaped, json.dumps)),
        ):
            path.write_text(text)
            with pytest.raises(InputError, match=f"README.md would publish {found}"):
                folders = ["/home/me/", "/data/my folder/springs", "runs/silicon", "springs", "./here", ODD, WINDOWS]
                require_nothing_private([("README.md", path)], folders, ["other secret"])
        path.write_text("springs, /home/melanie, runs/silicon-2, here, https://a.bc/home/me-too")
        require_nothing_private([("README.md", path)], folders, ["", "other secret"])

    def test_local_names_and_secrets_in_values(self):
        values = {"hub_token": "x", "path": "/home/me/a b/c.yaml", "dataset": "org/data", "model": "pairwise-small"}
        values |= {"in /home/me/x.py": {"/data/me/springs": 1}}
        values |= {"args": ["--api_key", "k", "--seed", "1", "--x=C:\\Users\\me\\d", "~/e"], "url": "https://a.b/c"}
        assert publishable(values) == {
            **{"path": "c.yaml", "dataset": "org/data", "model": "pairwise-small", "url": "https://a.b/c"},
            "in x.py": {"springs": 1},
            "args": ["--seed", "1", "--x=d", "e"],
        }
        text = f"from `/home/me/x.py`, ../y/z and file:///tmp/q; eV/Å, a / b, https://c.d/e, {SECRET}"
        assert publishable_text(text) == "from `x.py`, z and q; eV/Å, a / b, https://c.d/e, hf_..."


def rewrite(path: Path, **columns: list) -> None:
    """The file with other values of some columns, or with more columns."""
    table = pq.read_table(path)
    for name, values in columns.items():
        index = table.column_names.index(name) if name in table.column_names else len(table.column_names)
        kind = table.schema.field(name).type if name in table.column_names else None
        table = table.set_column(index, name, pa.array(values, kind)) if kind else table.append_column(name, [values])
    pq.write_table(table, path)


class TestDataSets:
    @pytest.fixture
    def folder(self, data_folder):
        return data_folder

    def stage(self, folder, tmp_path):
        return stage_dataset(folder, tmp_path / "card", "org/data")

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("config_type", "from /home/me/a", "column config_type names a folder of this machine .from /home/me/a."),
            ("source", "../secret/a.xyz#3", "column source names a folder"),
            ("trajectory", "train/../../a", "column trajectory names a folder"),
            ("trajectory", "train//data/me", "column trajectory names a folder"),
            ("source", "C:\\Users\\me", "column source names a folder"),
            ("source", "~me/a.xyz", "column source names a folder"),
            ("config_type", SECRET, "column config_type holds a token; "),
            ("defect_kinds", ["v_Si", "/home/me"], "column defect_kinds names a folder"),
        ],
    )
    def test_every_text_is_looked_at(self, folder, tmp_path, column, value, message):
        path = next(folder.rglob("train*.parquet"))
        plain = pq.read_table(path)[column].to_pylist()
        rewrite(path, **{column: [*plain[:-1], value]})
        with pytest.raises(InputError, match=message) as caught:
            self.stage(folder, tmp_path)
        assert SECRET not in str(caught.value)

    def test_names_that_are_no_folders_pass(self, folder, tmp_path):
        path = next(folder.rglob("train*.parquet"))
        count = pq.read_metadata(path).num_rows
        rewrite(path, source=["a/b c.xyz#3"] * count, config_type=["v_Si, 1/2 eV/Å (C)"] * count)
        write_card(folder)
        assert path.relative_to(folder).as_posix() in self.stage(folder, tmp_path)

    def test_columns_and_notes_of_others(self, folder, tmp_path):
        path = next(folder.rglob("train*.parquet"))
        plain = pq.read_table(path)
        rewrite(path, remarks=["x"] * len(plain))
        with pytest.raises(InputError, match="the column remarks is none of a data set of structures"):
            self.stage(folder, tmp_path)
        for metadata, message in (
            ({b"pandas": b"{}"}, "notes of another program .pandas."),
            ({b"huggingface": b'{"info": {"description": "/home/me"}}'}, "notes of its schema name a folder"),
        ):
            pq.write_table(plain.replace_schema_metadata(metadata), path)
            with pytest.raises(InputError, match=message):
                self.stage(folder, tmp_path)

    def test_only_the_figures_of_the_card(self, folder, tmp_path):
        (folder / "figures").mkdir(exist_ok=True)
        for name in ("forces.png", "secret.png"):
            (folder / "figures" / name).write_bytes(PIXEL)
        figures = {name for name in self.stage(folder, tmp_path) if name.startswith("figures/")}
        assert figures == {"figures/forces.png"}

    def test_links_to_files_that_bear_a_hash(self, folder, tmp_path):
        """As the cache of the Hub keeps them."""
        blobs = tmp_path / "blobs"
        blobs.mkdir()
        for number, path in enumerate(folder.rglob("*.parquet")):
            path.rename(blobs / str(number))
            path.symlink_to(blobs / str(number))
        link = tmp_path / "link"
        link.symlink_to(folder)
        expected = {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")} | {"README.md"}
        for where in (folder, link):
            assert {name for name in self.stage(where, tmp_path) if "figures" not in name} == expected

    def test_a_card_of_several_configurations(self, folder, tmp_path):
        card = (folder / "README.md").read_text()
        (folder / "README.md").write_text(re.sub(r"dataset_info:\n(.|\n)*?\n---", "dataset_info:\n- a: 1\n---", card))
        with pytest.raises(InputError, match="is of other files; write it anew"):
            self.stage(folder, tmp_path)


class TestExample:
    def test_a_structure_of_the_data_goes_out_only_with_the_data(self, run_folder, data_folder, tmp_path, monkeypatch):
        """A recorded name is not looked up, least of all where the command happens to run."""
        monkeypatch.chdir(data_folder.parent)
        recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
        (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"dataset": data_folder.name}))
        for options, silicon in (({}, True), ({"dataset": data_folder}, False)):
            staged = tmp_path / f"staged{len(options)}"
            stage(run_folder, staged, **options)
            source = json.loads((staged / "example.json").read_text())["source"]
            assert ("not from the training data" in source) == silicon

    def test_empty_splits(self, data_folder):
        expected = example_structure(data_folder)
        path = next(data_folder.rglob("validation*.parquet"))
        rows = pq.read_table(path)
        pq.write_table(rows.slice(0, 0), path)
        found = example_structure(data_folder)
        assert found["positions"] != expected["positions"]
        for path in data_folder.rglob("*.parquet"):
            pq.write_table(rows.slice(0, 0), path)
        with pytest.raises(InputError, match="holds no structures"):
            example_structure(data_folder)


def test_a_full_disk_is_one_line_that_names_the_folder(run_folder, capsys, monkeypatch, tmp_path):
    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("modeling_adapt.modeling_adapt.ADAPTPreTrainedModel.save_pretrained", full)
    assert run_command(lambda: hub_upload.main([str(run_folder), "org/adapt-si", "--dry-run"])) == 2
    assert_one_line(capsys, "no space is left in .*adapt-upload-.*: make room, or name another folder with TMPDIR")


def test_an_energy_that_is_the_first_model_has_no_second(make_energy_model, tmp_path, capsys):
    energy = save(make_energy_model(**PAIRWISE), tmp_path / "energy")
    arguments = [str(energy), "org/adapt-si", "--energy", str(energy), "--dry-run"]
    assert run_command(lambda: hub_upload.main(arguments)) == 2
    assert_one_line(capsys, "is an energy model itself")


@pytest.mark.parametrize("recorded", ["org/springs", "hf://datasets/org/springs"])
def test_a_data_set_of_the_hub_is_named_as_the_hub_does(run_folder, tmp_path, recorded):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"dataset": recorded}))
    stage(run_folder, tmp_path / "staged")
    assert "datasets:\n- org/springs\n" in (tmp_path / "staged" / "README.md").read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "/x/model.safetensors"),
            "/x/model.safetensors cannot be read",
        ),
        (ValueError("an odd answer"), "org/x: ValueError: an odd answer; it is as it was"),
        (EntryNotFoundError("no such file"), None),
        (LocalEntryNotFoundError("no such file"), "org/x: LocalEntryNotFoundError: no such file"),
        (
            ConnectionResetError("reset by peer"),
            "the connection to the Hub broke .ConnectionResetError: reset by peer.",
        ),
    ],
)
def test_errors_without_an_answer_of_the_hub(error, message, monkeypatch):
    """Each says what it is; none of them is None, and a missing file is no broken connection."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the tests run offline, an upload does not
    with (
        pytest.raises(type(error) if message is None else InputError, match=message),
        answers("org/x", "model", "it is as it was"),
    ):
        raise error


def pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def remark(folder: Path) -> None:
    (folder / "run.json").write_text(json.dumps({"parts": [{"sampling": f"done in {folder} at night"}]}))


def set_weight(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[sorted(weights)[0]].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
