"""`hub_upload.py` over HTTP: one commit or none, whatever fails, and nothing of somebody else's is touched."""

import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import hub_uploads
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_uploads import EXPECTED, OF_ENERGY, PAIRWISE, REPOSITORY, assert_one_line, require_clean, save
from huggingface_hub import constants
from packaging.requirements import Requirement

from modeling_adapt.cli import hub_upload
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.data.build.dataset_card import write_card

run_folder, data_folder = hub_uploads.run_folder, hub_uploads.data_folder  # the fixtures
NO = {"status": 403, "message": "read only"}


class TestOverHttp:
    @pytest.fixture
    def publish(self, hub, monkeypatch, tmp_path):
        """Function from arguments to the exit status; the Hub is that of the test, and nothing waits between tries.
        What was published is looked at by `test_the_command`, in processes of its own, and not every time."""
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setattr(
            "modeling_adapt.hub.stranger.check_as_stranger", lambda folder, subfolders: {"forces": 0.0}
        )
        monkeypatch.setattr("modeling_adapt.hub.staging._require_modest", lambda path: None)

        def publish(*arguments, token=hub.token) -> int:
            monkeypatch.setenv("HF_TOKEN", token)
            license = [] if {"--license", "--space"} & {str(one) for one in arguments} else ["--license", "mit"]
            return run_command(lambda: hub_upload.main([str(one) for one in (*arguments, *license)]))

        return publish

    @pytest.mark.figures
    def test_the_command(self, hub, run_folder, data_folder, make_energy_model, tmp_path, publish, capsys):
        """A process of its own publishes all there is, privately; another finds nothing left to do."""
        energy = save(make_energy_model(**PAIRWISE), tmp_path / "energy")
        options = ["--energy", energy, "--dataset", data_folder, "--private", "--tag", "v1", "--license", "mit"]
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
        figures = {f"figures/{name}.png" for name in ("forces", "distance", "kinds")}
        assert parquet and set(data.files) - parquet == {"README.md", *figures}
        assert len(data.commits) == 2 and data.private
        assert model.tags == {"v1": model.branches["main"]} and data.tags == {"v1": data.branches["main"]}
        require_clean(dict(model.files))
        require_clean({"README.md": data.files["README.md"]})
        assert 'load_dataset("org/adapt-si-data"' in data.files["README.md"].decode()

        hub.reset()
        assert publish(run_folder, "org/adapt-si", *options) == 0
        assert capsys.readouterr().out.count("is up to date: nothing was sent") == 2
        assert hub.count("POST", "/commit/") == hub.count("PUT") == 0

    def test_a_space(self, hub, publish, capsys):
        """The page with the package as source; a second time nothing, and what is gone is removed."""
        assert publish("--space", "org/relax", "--tag", "v1") == 0, capsys.readouterr().err
        space = hub.repository("org/relax", "space")
        package = {name.removeprefix("modeling_adapt/") for name in space.files if name.startswith("modeling_adapt/")}
        assert set(space.files) - {f"modeling_adapt/{name}" for name in package} == {
            *("app.py", "README.md", "requirements.txt")
        }
        assert {"simulation/relaxation.py", "templates/viewer.js", "configuration/configuration_adapt.py"} <= package
        assert "pretrained/adapt-si/model.safetensors" in package and not any(
            "__pycache__" in name for name in package
        )
        assert {name for name in package if name.endswith(".py")} == {
            path.relative_to(REPOSITORY / "modeling_adapt").as_posix()
            for folder in ("", "configuration")
            for path in (REPOSITORY / "modeling_adapt" / folder).rglob("*.py")
        }
        header = yaml.safe_load(space.files["README.md"].decode().split("---")[1])
        assert header["sdk"] == "gradio" and header["app_file"] == "app.py" and "adapt-force-field" in header["tags"]
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        assert space.files["requirements.txt"].decode().splitlines()[1:] == project["dependencies"]
        (gradio,) = project["optional-dependencies"]["space"]
        assert Requirement(gradio).specifier.contains(header["sdk_version"])
        assert space.tags == {"v1": space.branches["main"]}
        require_clean(dict(space.files))

        hub.reset()
        assert publish("--space", "org/relax", "--tag", "v1") == 0
        assert "is up to date: nothing was sent" in capsys.readouterr().out and hub.count("POST", "/commit/") == 0
        more = space.files | {"modeling_adapt/old.py": b"", "notes.txt": b"mine"}
        space.commit("main", "of somebody", more, frozenset())
        assert publish("--space", "org/relax") == 0
        assert "modeling_adapt/old.py" not in space.files and "notes.txt" in space.files

    def test_a_space_is_no_model(self, hub, publish, capsys, tmp_path):
        assert publish("run", "org/relax", "--space", "org/relax", "--license", "mit") == 2
        assert_one_line(capsys, "--space publishes the page and no model; leave out model, repository, license")
        hub.create("org/other", "space").commit("main", "of somebody else", {"app.py": b"print()"}, frozenset())
        assert publish("--space", "org/other") == 2
        assert_one_line(capsys, "org/other is no space that an upload wrote .*its card has no tag adapt-force-field")
        assert publish("--space", "org/relax", "--save", tmp_path / "kept") == 0
        assert (tmp_path / "kept" / "modeling_adapt" / "templates" / "viewer.js").is_file()
        assert publish("--space", "org/relax", "--dry-run") == 0
        assert "dry run: nothing was sent" in capsys.readouterr().out
        assert ("space", "org/relax") not in hub.repositories

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
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 0
        theirs = {"tool_adapt.py": b"x = 1", "NOTES.md": b"mine", "plots/a.png": b"x"}
        data = {"extra/rows.parquet": b"x", "figures/mine.png": b"x", "data/old.parquet": b"x"}
        model, rows = hub.repository("org/adapt-si"), hub.repository("org/adapt-si-data", "dataset")
        for repository, files in ((model, theirs), (rows, data)):
            repository.commit("main", "theirs", repository.files | files, repository.at("main").lfs)
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder, "--license", "mit") == 0
        assert set(model.files) == EXPECTED | theirs.keys()
        assert data.keys() - rows.files == {"data/old.parquet"}

    @pytest.mark.parametrize(
        ("kind", "theirs", "message"),
        [
            (
                "dataset",
                {"data/train-0.parquet": b"x"},
                "it holds data/train-0.parquet, and its card has no tag adapt",
            ),
            ("dataset", {"README.md": b"---\ntags: [silicon]\n---\nMine."}, "it holds README.md, and its card"),
            ("dataset", {"README.md": b"---\n[no\n---\nMine."}, "it holds README.md, and its card has no tag"),
            ("dataset", {"README.md": b"---\nlicense: mit\n---\n", "rows.csv": b"x"}, "it holds rows.csv, and its"),
            ("model", {"README.md": b"Mine."}, "it holds README.md, and there is no config.json"),
            ("model", {"weights.gguf": b"x"}, "it holds weights.gguf, and there is no config.json"),
        ],
    )
    def test_a_repository_of_somebody_else_is_not_touched(
        self, hub, run_folder, data_folder, publish, capsys, kind, theirs, message
    ):
        name = "org/adapt-si-data" if kind == "dataset" else "org/adapt-si"
        repository = hub.create(name, kind)
        repository.commit("main", "theirs", theirs, frozenset())
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 2
        assert_one_line(capsys, rf"{name} is no {kind} that an upload wrote .{message}.*; choose another name")
        assert repository.files == theirs
        assert list(hub.repositories) == [(kind, name)], "the other one is not even made"

    def test_what_the_page_of_the_hub_makes_is_nobodys_work(self, hub, run_folder, data_folder, publish):
        made = {".gitattributes": b"*.parquet filter=lfs", "README.md": b"---\nlicense: mit\n---\n"}
        for name, kind in (("org/adapt-si", "model"), ("org/adapt-si-data", "dataset")):
            hub.create(name, kind).commit("main", "initial commit", made, frozenset())
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder) == 0
        assert set(hub.repository("org/adapt-si").files) == EXPECTED | {".gitattributes"}
        assert ".gitattributes" in hub.repository("org/adapt-si-data", "dataset").files

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

    @pytest.mark.parametrize("recorded", ["org/springs", "hf://datasets/org/springs"])
    def test_what_it_was_trained_on_is_looked_up(self, hub, run_folder, publish, capsys, recorded):
        """A folder that was named by a relative path looks like an id of the Hub where it is not there any more."""
        recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
        (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"dataset": recorded}))
        assert publish(run_folder, "org/adapt-si") == 0
        note = "was trained on org/springs, which is no folder here and no data set of the Hub that you may read"
        assert note in capsys.readouterr().err
        card = hub.repository("org/adapt-si").files
        assert b"datasets:\n- org/springs" not in card["README.md"]
        hub.create("org/springs", "dataset")
        assert publish(run_folder, "org/adapt-si") == 0
        assert note not in capsys.readouterr().err
        assert b"datasets:\n- org/springs" in hub.repository("org/adapt-si").files["README.md"]

    def test_a_local_folder_goes_before_an_id(self, hub, run_folder, data_folder, publish, capsys, monkeypatch):
        monkeypatch.chdir(data_folder.parent)
        local = Path("org") / "springs"
        local.parent.mkdir()
        data_folder.rename(local)
        hub.create("org/springs", "dataset")
        assert publish(run_folder, "org/adapt-si", "--dataset", "org/springs") == 0
        assert any(name.endswith(".parquet") for name in hub.repository("org/adapt-si-data", "dataset").files)
        for name, message in (
            ("org/none", "org/none: no such folder"),
            ("nobody/springs", "--dataset nobody/springs: no such folder; what is on the Hub already needs no upload"),
            ("hf://datasets/org/springs", "hf://datasets/org/springs: no such folder; what is on the Hub already"),
        ):
            capsys.readouterr()
            assert publish(run_folder, "org/adapt-si", "--dataset", name) == 2
            assert_one_line(capsys, message)

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
            (lambda hub: hub.reject_card("no such license"), "rejects the card of the model: no such license"),
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
        assert hub.count("PUT", "/lfs/") == (0 if committing else 3)  # the weights and two pictures

    @pytest.mark.slow
    def test_cut_anywhere(self, hub, run_folder, publish, capsys):
        """An upload that breaks at a random byte of a large file or of the commit, once or every time."""
        dice, went_through = random.Random(0), 0
        for number in range(20):
            name, size = dice.choice([("/lfs/", 20_000), ("/commit/", 200_000)])
            method = "PUT" if name == "/lfs/" else "POST"
            fault = hub.fail(method, name, cut=dice.randrange(size), times=dice.choice([1, None]))
            status = publish(run_folder, f"org/a{number}")
            went_through += status == 0
            assert fault.times != 1, "nothing was cut"
            repository = hub.repository(f"org/a{number}")
            assert set(repository.files) == (EXPECTED if status == 0 else set())
            if status:
                assert_one_line(capsys, "the connection to the Hub broke")
            hub.reset()
            assert publish(run_folder, f"org/a{number}") == 0 and set(repository.files) == EXPECTED
            hub.objects.clear()  # so that the next one has large files to send
        print(f"uploads cut: {20 - went_through} refused, {went_through} sent at the second try, of 20")

    @pytest.mark.parametrize(
        ("plan", "message"),
        [
            (lambda hub: tag_main(hub.create("org/adapt-si"), "v1"), "org/adapt-si has a tag v1 already"),
            (
                lambda hub: hub.create("org/adapt-si") and hub.fail("POST", "models/org/adapt-si/preupload", **NO),
                "your token does not allow this with org/adapt-si: read only",
            ),
            (
                lambda hub: hub.create("org/adapt-si-data", "dataset") and hub.fail("POST", "data/preupload", **NO),
                "your token does not allow this with org/adapt-si-data: read only",
            ),
            (lambda hub: hub.reject_card("no such size"), "rejects the card of the model: no such size"),
            (
                lambda hub: hub.fail(
                    "POST", "/validate-yaml", after=1, status=400, body={"errors": [{"message": "x"}]}
                ),
                "rejects the card of the dataset: x",
            ),
            (lambda hub: hub.fail("POST", "/repos/create", status=403, message="no rights"), "no rights"),
            (lambda hub: hub.fail("POST", "/repos/create", after=1, status=409), "org/adapt-si-data cannot be a data"),
            (lambda hub: hub.create("org/adapt-si-data", "dataset"), "org/adapt-si-data exists and is public"),
        ],
    )
    def test_all_is_asked_before_anything_is_sent(self, hub, run_folder, data_folder, publish, capsys, plan, message):
        """Whichever of the two repositories it is that cannot be written, nothing goes to either; not even large
        files, which nobody sees before the commit."""
        plan(hub)
        private = ["--private"] if "public" in message else []
        assert publish(run_folder, "org/adapt-si", "--dataset", data_folder, "--tag", "v1", *private) == 2
        assert_one_line(capsys, message)
        assert not [one for one in hub.repositories.values() if one.files]
        assert hub.count("PUT") == hub.count("POST", "/commit/") == 0

    @pytest.mark.parametrize(
        ("part", "how", "message"),
        [
            ("/lfs/", {"method": "PUT", "cut": 100, "times": None}, "the connection to the Hub broke"),
            ("datasets/org/adapt-si-data/commit", {"status": 500}, "answers for org/adapt-si-data with error 500"),
            (
                "models/org/adapt-si/commit",
                {"status": 429, "headers": {"Retry-After": "9"}},
                "run the same again in 9 s",
            ),
            ("models/org/adapt-si/commit", {"cut": 100}, "the connection to the Hub broke"),
        ],
    )
    def test_faults_between_the_data_and_the_model(
        self, hub, run_folder, data_folder, publish, capsys, part, how, message
    ):
        """Each repository is whole or as it was, and never a model before the data that its card names."""
        hub.fail(how.pop("method", "POST"), part, **how)
        arguments = [run_folder, "org/adapt-si", "--dataset", data_folder]
        assert publish(*arguments) == 2
        assert_one_line(capsys, message)
        model, data = hub.repository("org/adapt-si"), hub.repository("org/adapt-si-data", "dataset")
        assert not model.files and bool(data.files) == ("models/" in part)
        hub.reset()
        assert publish(*arguments) == 0
        assert set(model.files) == EXPECTED and len(model.commits) == len(data.commits) == 2

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
        energy = save(make_energy_model(**PAIRWISE), tmp_path / "energy")
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


def tag_main(repository, tag: str) -> None:
    repository.tags[tag] = repository.branches["main"]
