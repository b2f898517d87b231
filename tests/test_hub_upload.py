"""`hub_upload.py` publishes what is on its list and nothing else, in one commit, or says in one line why not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import hub_upload
from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.command_line import run_command
from modeling_adapt.data.card import write_card
from modeling_adapt.data.content import content_hash
from modeling_adapt.data.reading import read_split
from modeling_adapt.errors import InputError
from modeling_adapt.hub.answers import answers
from modeling_adapt.hub.dataset import stage_dataset
from modeling_adapt.hub.example import example_structure
from modeling_adapt.hub.private import publishable, publishable_text, require_nothing_private
from modeling_adapt.hub.run_folder import open_run
from modeling_adapt.hub.staging import staged_files
from modeling_adapt.hub.stranger import check_as_stranger

PAIRWISE = {"geometry": "pairwise", "num_vector_channels": 8}
REPOSITORY = Path(__file__).resolve().parents[1]
SECRET = "hf_PlantedTokenThatMustStayHome"
PIXEL = b"\x89PNG\r\n\x1a\n" + b"not much of a picture"


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
    *("recipe.yaml", "run.json", "training_metrics.json", "training_curve.png", "configuration_adapt.py"),
    *("elements_adapt.py", "feature_extraction_adapt.py", "geometry_adapt.py", "modeling_adapt.py"),
    *("pairwise_adapt.py", "pipeline_adapt.py"),
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


class TestBeforeAnythingGoesOut:
    def test_dry_run_shows_the_tree_and_the_card_without_network_or_token(self, run_folder, capsys, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr("hub_upload.get_token", lambda: None)
        monkeypatch.setattr("hub_upload.HfApi", None)
        monkeypatch.setattr("hub_upload.check_as_stranger", lambda folder, subfolders: {"forces": 0.0})
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
        hub_upload._stage(parse(run_folder), [open_run(run_folder)], staged)
        weights = load_file(staged / "model.safetensors")
        name = next(name for name in weights if name.endswith("head.weight") or "layers" in name)
        save_file(weights | {name: weights[name] + 0.1}, staged / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match="does not work for a stranger: forces differ from the example by"):
            check_as_stranger(staged)

    def test_only_listed_files_and_modest_code_pass(self, run_folder, tmp_path):
        staged = tmp_path / "staged"
        files = hub_upload._stage(parse(run_folder), [open_run(run_folder)], staged)
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
        files = hub_upload._stage(parse(run_folder), [open_run(run_folder)], tmp_path / "staged")
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
            (["RUN", "org/x"], "no token: log in"),
            (["RUN", "org/x", "--dry-run", "--energy", "RUN"], "is no energy model"),
            (["RUN", "org/x", "--dry-run", "--evaluation", "RUN"], "holds no metrics.json"),
            (["RUN", "org/x", "--dry-run", "--license", "free for all"], "'free for all': the Hub knows no such"),
            (["RUN", "org/x", "--dry-run", "--tag", "a..b"], "--tag 'a..b': git takes no such name"),
            (["RUN", "org/x", "--dry-run", "--tag", "f" * 40], "git takes no such name"),
            (["RUN", "org/x", "--dry-run", "--revision", "refs/pr/1"], "--revision 'refs/pr/1': git takes no such"),
        ],
    )
    def test_wrong_options(self, run_folder, arguments, message, capsys, monkeypatch):
        monkeypatch.setattr("hub_upload.get_token", lambda: None)
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
        ):
            path.write_text(text)
            with pytest.raises(InputError, match=f"README.md would publish {found}"):
                folders = ["/home/me/", "/data/my folder/springs", "runs/silicon", "springs", "./here"]
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
        for options, silicon in (([], True), (["--dataset", str(data_folder)], False)):
            staged = tmp_path / f"staged{len(options)}"
            hub_upload._stage(parse(run_folder, *options), [open_run(run_folder)], staged)
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

    monkeypatch.setattr("modeling_adapt.hub.staging.AtomForcesPipeline.save_pretrained", full)
    assert run_command(lambda: hub_upload.main([str(run_folder), "org/adapt-si", "--dry-run"])) == 2
    assert_one_line(capsys, "no space is left in .*adapt-upload-.*: make room, or name another folder with TMPDIR")


def test_an_energy_that_is_the_first_model_has_no_second(make_energy_model, tmp_path, capsys):
    energy = save(make_energy_model(**PAIRWISE, architecture="pooled"), tmp_path / "energy")
    arguments = [str(energy), "org/adapt-si", "--energy", str(energy), "--dry-run"]
    assert run_command(lambda: hub_upload.main(arguments)) == 2
    assert_one_line(capsys, "is an energy model itself")


@pytest.mark.parametrize("recorded", ["org/springs", "hf://datasets/org/springs"])
def test_a_data_set_of_the_hub_is_named_as_the_hub_does(run_folder, tmp_path, recorded):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"dataset": recorded}))
    hub_upload._stage(parse(run_folder), [open_run(run_folder)], tmp_path / "staged")
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


class TestOverHttp:
    @pytest.fixture
    def publish(self, hub, monkeypatch, tmp_path):
        """Function from arguments to the exit status; the Hub is that of the test, and nothing waits between tries."""
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setattr("hub_upload.check_as_stranger", lambda folder, subfolders: {"forces": 0.0})

        def publish(*arguments, token=hub.token) -> int:
            monkeypatch.setenv("HF_TOKEN", token)
            return run_command(lambda: hub_upload.main([str(argument) for argument in arguments]))

        return publish

    def test_the_command(self, hub, run_folder, data_folder, make_energy_model, tmp_path, publish, capsys):
        """A process of its own publishes all there is, privately; another finds nothing left to do."""
        energy = save(make_energy_model(**PAIRWISE, architecture="pooled"), tmp_path / "energy")
        options = ["--energy", energy, "--dataset", data_folder, "--private", "--tag", "v1"]
        command = [sys.executable, str(REPOSITORY / "hub_upload.py"), run_folder, "org/adapt-si", *options]
        environment = hub.env(tmp_path / "hf") | {"OMP_NUM_THREADS": "1"}
        environment.pop("HF_HUB_DISABLE_XET")  # the command knows by itself
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr and done.stdout.count("in one commit") == 2

        model, data = hub.repository("org/adapt-si"), hub.repository("org/adapt-si-data", "dataset")
        assert set(model.files) == EXPECTED | OF_ENERGY and len(model.commits) == 2 and model.private
        assert "datasets:\n- org/adapt-si-data" in model.files["README.md"].decode()
        assert b'"command"' not in model.files["run.json"]
        parquet = {name for name in data.files if name.endswith(".parquet")}
        assert parquet and set(data.files) - parquet == {"README.md"} and len(data.commits) == 2 and data.private
        assert model.tags == {"v1": model.branches["main"]} and data.tags == {"v1": data.branches["main"]}
        require_clean(dict(model.files))
        require_clean({"README.md": data.files["README.md"]})
        assert 'load_dataset("org/adapt-si-data"' in data.files["README.md"].decode()

        hub.reset()
        assert publish(run_folder, "org/adapt-si", *options) == 0
        assert capsys.readouterr().out.count("is up to date: nothing was sent") == 2
        assert hub.count("POST", "/commit/") == hub.count("PUT") == 0

    def test_only_what_changed_is_sent_and_what_is_gone_is_removed(self, hub, run_folder, publish, capsys):
        assert publish(run_folder, "org/adapt-si") == 0
        repository = hub.repository("org/adapt-si")
        before = dict(repository.files)
        repository.commit(
            "main", "theirs", before | {"NOTES.md": b"mine", "metrics.json": b"{}"}, repository.at("main").lfs
        )
        hub.reset()
        assert publish(run_folder, "org/adapt-si", "--license", "cc-by-4.0") == 0
        assert "1 files sent, 1 removed" in capsys.readouterr().out and hub.count("PUT") == 0
        assert {name for name in before if repository.files[name] != before[name]} == {"README.md"}
        assert set(repository.files) == EXPECTED | {"NOTES.md"}

    def test_a_second_model_does_not_stay_with_code_that_nobody_tested_with_it(
        self, hub, run_folder, make_energy_model, publish, tmp_path, capsys
    ):
        energy = save(make_energy_model(), tmp_path / "energy")
        assert publish(run_folder, "org/adapt-si", "--energy", energy) == 0
        commits = len(hub.repository("org/adapt-si").commits)
        capsys.readouterr()
        assert publish(run_folder, "org/adapt-si") == 2
        assert_one_line(capsys, "has a second model in energy/, which nobody has tested .*--energy")
        assert len(hub.repository("org/adapt-si").commits) == commits

    def test_what_others_put_there_stays(self, hub, run_folder, data_folder, publish):
        theirs = {"tool_adapt.py": b"x = 1", "NOTES.md": b"mine", "plots/a.png": b"x"}
        data = {"extra/rows.parquet": b"x", "figures/mine.png": b"x", "data/old.parquet": b"x"}
        hub.create("org/adapt-si").commit("main", "theirs", theirs, frozenset())
        hub.create("org/adapt-si-data", "dataset").commit("main", "theirs", data, frozenset())
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 0
        assert set(hub.repository("org/adapt-si").files) == EXPECTED | theirs.keys()
        assert data.keys() - hub.repository("org/adapt-si-data", "dataset").files == {"data/old.parquet"}

    @pytest.mark.parametrize(
        ("config", "found"), [(b'{"model_type": "bert"}', "bert"), (b"[1]", "None"), (b"{", "None")]
    )
    def test_a_model_of_another_kind_is_not_replaced(self, hub, run_folder, publish, capsys, config, found):
        repository = hub.create("org/adapt-si")
        repository.commit("main", "theirs", {"config.json": config, "metrics.json": b"{}"}, frozenset())
        before = dict(repository.files)
        assert publish(run_folder, "org/adapt-si") == 2
        assert_one_line(capsys, f"holds another model .its model_type is '?{found}'?.; choose another name")
        assert repository.files == before

    def test_branch_and_tag(self, hub, run_folder, publish, capsys):
        assert publish(run_folder, "org/adapt-si", "--revision", "next", "--tag", "v2") == 0
        repository = hub.repository("org/adapt-si")
        assert repository.files == {} and set(repository.at("v2").files) == EXPECTED
        assert 'revision="v2"' in repository.at("next").files["README.md"].decode()
        assert publish(run_folder, "org/adapt-si", "--revision", "next", "--tag", "v2") == 0
        assert publish(run_folder, "org/adapt-si", "--revision", "next", "--tag", "v2", "--license", "cc0-1.0") == 2
        assert_one_line(capsys, "has a tag v2 already, of something else")

    def test_a_tag_and_a_branch_never_share_a_name(self, hub, run_folder, publish, capsys):
        repository = hub.create("org/adapt-si")
        repository.branches["next"] = repository.branches["main"]
        repository.tags["v1"] = repository.branches["main"]
        for options, message in (
            (["--tag", "main"], "has a branch main; choose another --tag"),
            (["--tag", "next"], "has a branch next"),
            (["--tag", "new", "--revision", "new"], "has a branch new"),
            (["--revision", "v1"], "has a tag v1; choose another --revision"),
        ):
            assert publish(run_folder, "org/adapt-si", *options) == 2
            assert_one_line(capsys, message)
        assert set(repository.branches) == {"main", "next"} and not repository.files

    @pytest.mark.parametrize("how", [{"status": 500}, {"cut": 0}])
    def test_a_tag_that_fails_after_the_commit(self, hub, run_folder, publish, capsys, how):
        hub.fail("POST", "/tag/", times=None, **how)
        assert publish(run_folder, "org/adapt-si", "--tag", "v1") == 2
        error = assert_one_line(capsys, "the files are there, but the tag v1 may be missing: run the same command")
        assert "as it was" not in error
        repository = hub.repository("org/adapt-si")
        assert set(repository.files) == EXPECTED and not repository.tags
        hub.reset()
        assert publish(run_folder, "org/adapt-si", "--tag", "v1") == 0
        assert repository.tags == {"v1": repository.branches["main"]} and hub.count("POST", "/commit/") == 0

    def test_a_commit_whose_answer_is_lost_is_found(self, hub, run_folder, publish, capsys):
        hub.fail("POST", "/commit/", lost=True)
        assert publish(run_folder, "org/adapt-si", "--tag", "v1") == 0
        assert f"{len(EXPECTED)} files sent in one commit" in capsys.readouterr().out
        repository = hub.repository("org/adapt-si")
        assert len(repository.commits) == 2 and repository.tags == {"v1": repository.branches["main"]}

    def test_when_nobody_can_tell_whether_a_commit_went_through(self, hub, run_folder, publish, capsys):
        hub.create("org/adapt-si")
        hub.fail("POST", "/commit/", lost=True)
        hub.fail("GET", "/api/models/org/adapt-si/revision/main", times=None, after=1, status=500)
        assert publish(run_folder, "org/adapt-si") == 2
        assert "as it was" not in assert_one_line(capsys, "whether the files are there is not known: run the same")
        hub.reset()
        assert publish(run_folder, "org/adapt-si") == 0
        assert "nothing was sent" in capsys.readouterr().out

    def test_private_is_never_public(self, hub, run_folder, publish, capsys):
        hub.create("org/adapt-si")
        assert publish(run_folder, "org/adapt-si", "--private") == 2
        assert_one_line(capsys, "exists and is public")
        assert hub.repository("org/adapt-si").files == {}

    @pytest.mark.parametrize("private", [True, False])
    def test_a_new_data_set_is_as_private_as_the_model(self, hub, run_folder, data_folder, publish, private):
        hub.create("org/adapt-si", private=private)
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 0
        assert hub.repository("org/adapt-si-data", "dataset").private == private

    def test_what_it_was_trained_on_is_told_by_the_rows(self, hub, run_folder, data_folder, publish, capsys):
        """Not by the name of the folder."""
        renamed = data_folder.rename(data_folder.with_name("other"))
        assert publish(run_folder, "org/adapt-si", "--dataset", renamed) == 0
        assert "datasets:\n- org/adapt-si-data" in hub.repository("org/adapt-si").files["README.md"].decode()
        path = next(renamed.rglob("train*.parquet"))
        table = pq.read_table(path)
        pq.write_table(table.slice(1), path)
        write_card(renamed)
        same_name = renamed.rename(data_folder)
        capsys.readouterr()
        assert publish(run_folder, "org/adapt-si", "--dataset", same_name) == 0
        assert "the card does not name the data set" in capsys.readouterr().err
        assert "adapt-si-data" not in hub.repository("org/adapt-si").files["README.md"].decode()

    def test_data_sets_that_are_not_fit(self, run_folder, data_folder, publish, capsys):
        card = (data_folder / "README.md").read_text()
        (data_folder / "README.md").write_text(re.sub(r"download_size: \d+", "download_size: 5", card))
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 2
        assert_one_line(capsys, "is of other files; write it anew")
        (data_folder / "README.md").unlink()
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 2
        assert_one_line(capsys, "has no card")
        path = next(data_folder.rglob("*.parquet"))
        table = pq.read_table(path)
        names = pa.array(["/home/me/a.xyz#0"] * len(table))
        pq.write_table(table.set_column(table.column_names.index("source"), "source", names), path)
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 2
        assert_one_line(capsys, "the column source names a folder of this machine ./home/me/a.xyz#0.")

    @pytest.mark.parametrize(
        ("plan", "message"),
        [
            (lambda hub: hub.fail("PUT", "/lfs/", cut=100, times=None), "the connection to the Hub broke"),
            (lambda hub: hub.fail("POST", "/commit/", cut=100), "the connection to the Hub broke"),
            (lambda hub: hub.fail("PUT", "/lfs/", status=500, times=None), "error 500"),
            (lambda hub: hub.fail("POST", "/commit/", status=500), "error 500"),
            (lambda hub: hub.fail("POST", "/commit/", status=429, headers={"Retry-After": "7"}), "requests.* in 7 s"),
            (lambda hub: hub.fail("POST", "/repos/create", status=429), "too many requests"),
            (lambda hub: hub.fail("POST", "/commit/", status=412), "somebody else changed"),
            (lambda hub: hub.fail("POST", "/repos/create", status=409), "the name is taken by something else"),
            (lambda hub: hub.reject_card("no such license"), "rejects the card of the model: - no such license"),
        ],
    )
    def test_faults(self, hub, run_folder, publish, capsys, plan, message):
        """One line; what was there is as it was; the same command completes, and sends no large file twice."""
        plan(hub)
        assert publish(run_folder, "org/adapt-si") == 2
        assert_one_line(capsys, message)
        assert not [one for one in hub.repositories.values() if one.files]
        committing = hub.count("POST", "/commit/") > 0
        hub.reset()
        assert publish(run_folder, "org/adapt-si") == 0
        repository = hub.repository("org/adapt-si")
        assert set(repository.files) == EXPECTED and len(repository.commits) == 2
        assert hub.count("PUT", "/lfs/") == (0 if committing else 2)

    @pytest.mark.parametrize(
        ("token", "message"),
        [
            ("hf_wrong", "the Hub refuses your token"),
            ("hf_reader", "your token does not allow this with org/adapt-si"),
            ("hf_stranger", "your token does not allow this with org/adapt-si"),
        ],
    )
    def test_tokens(self, hub, run_folder, publish, capsys, token, message):
        for exists in (False, True):
            assert publish(run_folder, "org/adapt-si", token=token) == 2
            assert_one_line(capsys, message)
            if not exists:
                hub.create("org/adapt-si")
        assert hub.repository("org/adapt-si").files == {}

    def test_no_network(self, hub, run_folder, publish, capsys, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert publish(run_folder, "org/adapt-si") == 2
        assert_one_line(capsys, "the connection to the Hub broke")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert publish(run_folder, "org/adapt-si") == 2
        assert_one_line(capsys, "HF_HUB_OFFLINE is set")

    @pytest.mark.slow
    def test_the_code_of_the_card_runs_as_printed(
        self, hub, run_folder, data_folder, make_energy_model, publish, tmp_path
    ):
        """Where only transformers is known, and the last block where our package is; the data set is read streamed."""
        energy = save(make_energy_model(**PAIRWISE, architecture="pooled"), tmp_path / "energy")
        assert publish(run_folder, "org/adapt-si", "--energy", energy, "--dataset", data_folder) == 0
        card = hub.repository("org/adapt-si").files["README.md"].decode()
        blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        refuse = "import sys\nsys.modules.update(modeling_adapt=None, configuration=None)\n"
        check = "\nimport numpy\nprint(abs(numpy.asarray({}) - numpy.asarray(example['forces'])).max())"
        programs = [
            refuse + "".join(blocks[:2]) + check.format("pipe(example)['forces']"),
            refuse + blocks[0] + "".join(blocks[2:3]) + check.format("model(**extract(example)).forces[0].detach()"),
            refuse + blocks[0] + blocks[3] + "\nprint(0 if model.config.model_type == 'adapt_energy' else 1)",
            blocks[0] + blocks[4] + "\natoms.get_potential_energy()" + check.format("atoms.get_forces()"),
            "from datasets import load_dataset\n"
            "rows = load_dataset('org/adapt-si-data', split='train', streaming=True)\nprint(len(list(rows)) - 16)",
        ]
        assert len(blocks) == 5
        for program in programs:
            environment = hub.env(tmp_path / "hf") | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert float(done.stdout.split()[-1]) < 1e-5


def parse(folder: Path, *options: str):
    return hub_upload._parser().parse_args([str(folder), "org/adapt-si", *options])


def assert_one_line(capsys, message: str) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error), error
    return error


def pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def remark(folder: Path) -> None:
    (folder / "run.json").write_text(json.dumps({"parts": [{"remark": f"done in {folder} at night"}]}))


def set_weight(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[sorted(weights)[0]].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
