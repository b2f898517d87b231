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
from safetensors.torch import load_file, save_file

import hub_upload
from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.command_line import run_command
from modeling_adapt.data.card import write_card
from modeling_adapt.errors import InputError
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
def run_folder(make_force_model, tmp_path) -> Path:
    """A run with records that name folders of this machine, beside all that must not go out."""
    folder = save(make_force_model(**PAIRWISE), tmp_path / "home of me" / "run1")
    recipe = {"dataset": "/data/me/springs", "output_dir": str(folder), "seed": 1, "hub_token": SECRET}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"initial_model": "../secret-project/first"}))
    command = ["train.py", f"--output_dir={folder}", "--dataset", "/data/me/springs", "--hub_token", SECRET]
    run = {"command": command, "resumed_from": str(folder / "checkpoint-5"), "parameters": 12}
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
        ],
    )
    def test_wrong_options(self, run_folder, arguments, message, capsys, monkeypatch):
        monkeypatch.setattr("hub_upload.get_token", lambda: None)
        given = [str(run_folder) if word == "RUN" else word for word in arguments]
        assert run_command(lambda: hub_upload.main(given)) == 2
        assert_one_line(capsys, message)

    def test_a_secret_in_any_text_file_stops_it(self, tmp_path):
        for text, secrets in ((SECRET, []), ("in /home/me/runs", ["/home/me/"])):
            (tmp_path / "README.md").write_text(text)
            with pytest.raises(InputError, match="README.md would publish a token or a folder"):
                require_nothing_private([("README.md", tmp_path / "README.md")], secrets)

    def test_local_names_and_secrets_in_values(self):
        values = {"hub_token": "x", "path": "/home/me/a b/c.yaml", "dataset": "org/data", "model": "pairwise-small"}
        values |= {"args": ["--api_key", "k", "--seed", "1", "--x=C:\\Users\\me\\d", "~/e"], "url": "https://a.b/c"}
        assert publishable(values) == {
            **{"path": "c.yaml", "dataset": "org/data", "model": "pairwise-small", "url": "https://a.b/c"},
            "args": ["--seed", "1", "--x=d", "e"],
        }
        text = f"from `/home/me/x.py`, ../y/z and file:///tmp/q; eV/Å, a / b, https://c.d/e, {SECRET}"
        assert publishable_text(text) == "from `x.py`, z and q; eV/Å, a / b, https://c.d/e, hf_..."


class TestOverHttp:
    @pytest.fixture
    def publish(self, hub, monkeypatch, tmp_path):
        """Function from arguments to the exit status; the Hub is that of the test, and nothing waits between tries."""
        for name, value in {"ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False}.items():
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

    def test_a_second_model_stays_where_it_is_not_named(
        self, hub, run_folder, make_energy_model, publish, tmp_path, capsys
    ):
        energy = save(make_energy_model(), tmp_path / "energy")
        assert publish(run_folder, "org/adapt-si", "--energy", energy) == 0
        assert publish(run_folder, "org/adapt-si") == 0
        assert OF_ENERGY <= set(hub.repository("org/adapt-si").files)

    def test_branch_and_tag(self, hub, run_folder, publish, capsys):
        assert publish(run_folder, "org/adapt-si", "--revision", "next", "--tag", "v2") == 0
        repository = hub.repository("org/adapt-si")
        assert repository.files == {} and set(repository.at("v2").files) == EXPECTED
        assert 'revision="v2"' in repository.at("next").files["README.md"].decode()
        assert publish(run_folder, "org/adapt-si", "--revision", "next", "--tag", "v2") == 0
        assert publish(run_folder, "org/adapt-si", "--revision", "next", "--tag", "v2", "--license", "cc0-1.0") == 2
        assert_one_line(capsys, "has a tag v2 already, of something else")

    def test_private_is_never_public(self, hub, run_folder, publish, capsys):
        hub.create("org/adapt-si")
        assert publish(run_folder, "org/adapt-si", "--private") == 2
        assert_one_line(capsys, "exists and is public")
        assert hub.repository("org/adapt-si").files == {}

    def test_a_data_set_that_the_model_was_not_trained_on_is_not_in_its_card(
        self, hub, run_folder, data_folder, publish, capsys
    ):
        other = data_folder.rename(data_folder.with_name("other"))
        assert publish(run_folder, "org/adapt-si", "--dataset", other) == 0
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


def parse(folder: Path):
    return hub_upload._parser().parse_args([str(folder), "org/adapt-si"])


def assert_one_line(capsys, message: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error), error


def pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def set_weight(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[sorted(weights)[0]].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
