"""The card of a model: every number is that of a file beside it, and the Hub's library reads it."""

import json
import platform
import re
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import yaml
from hub_uploads import PIXEL
from huggingface_hub import ModelCard

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.configuration.versions_adapt import ADAPT_VERSION, FORMAT_VERSION
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.answers import Answer, write_answers
from modeling_adapt.evaluation.metrics import EnergyMetrics, ForceMetrics
from modeling_adapt.evaluation.physical_checks import CHECKS
from modeling_adapt.evaluation.questions import Reference
from modeling_adapt.evaluation.report import COLUMNS
from modeling_adapt.hub.card import write_model_card
from modeling_adapt.hub.run_folder import open_run, require_all_used
from modeling_adapt.hub.staging import ENERGY, example_structure, stage_model
from modeling_adapt.loading import weights_hash
from modeling_adapt.markdown import code, escaped, unescaped

PAIRWISE = {"architecture": "pairwise", "num_vector_channels": 8}
KINDS = ["vacancy", "carbon|pair", "", "vacancy"]


def force_metrics(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    metrics = ForceMetrics()
    labels = rng.normal(size=(4, 5, 3))
    metrics.update(labels + 0.1 * rng.normal(size=labels.shape), labels, rng.uniform(0, 9, (4, 5)), KINDS)
    return metrics.compute()


def energy_metrics(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    metrics = EnergyMetrics()
    labels = rng.normal(size=4)
    metrics.update(labels + 0.1, labels, np.full(4, 8.0), labels + 1.0, KINDS)
    return metrics.compute()


def prefixed(prefix: str, metrics: dict) -> dict:
    return {f"{prefix}_{name}": value for name, value in metrics.items() if name != "by_config_type"}


@pytest.fixture
def make_run(make_force_model, make_energy_model, structures, tmp_path):
    """Function from a kind of model to a folder as a training and an evaluation of it leave it."""

    def make(kind="forces", evaluated=True, recorded=True):
        folder = tmp_path / kind
        model = make_force_model(**PAIRWISE)
        if kind != "forces":
            model = make_energy_model(**(PAIRWISE if kind == "pooled" else {"architecture": kind}))
        measured = energy_metrics(2) if kind == "mlp" else force_metrics(1)
        if kind == "pooled":  # both in one file, as evaluate.py writes them
            energies, groups = energy_metrics(2), measured["by_config_type"]
            groups = {name: energies["by_config_type"][name] | group for name, group in groups.items()}
            measured = energies | measured | {"by_config_type": groups}
        if recorded:
            rows = [structure_row(atoms, np.full((len(atoms), 3), 0.25)) for atoms in structures]
            model.config.training_domain = fit_domain(rows).to_dict()
        model.save_pretrained(folder)
        ADAPTFeatureExtractor.for_model(model.config).save_pretrained(folder)
        if recorded:
            trained = prefixed("eval", force_metrics(5)) | prefixed("test", force_metrics(6))
            trained |= {"eval_octahedral_error": 1.3e-5, "eval_rotation_error": 2.5e-5, "epoch": 6.0}
            (folder / "training_metrics.json").write_text(json.dumps(trained))
            recipe = {"architecture": "pairwise", "dataset": "/data/me/springs", "learning_rate": 0.003, "seed": 7}
            (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
            run = {"device": "cuda H100", "processes": 2, "parameters": 4321, "data": {"train": "abc123"}}
            run |= {"structures": {"train": 800}, "versions": {"torch": "2.13"}, "git_revision": "f00d"}
            (folder / "run.json").write_text(json.dumps({"parts": [{"device": "old"}, run]}))
            log = {"log_history": [{"train_runtime": 9000.0, "step": 5}]}
            (folder / "trainer_state.json").write_text(json.dumps(log))
        if evaluated:
            (folder / "evaluation").mkdir()
            names = {"model": str(folder), "dataset": "/data/me/springs", "split": "test"}
            names |= {"weights_sha256": weights_hash(folder), "model_path": str(folder)}
            (folder / "evaluation" / "metrics.json").write_text(json.dumps(names | measured))
        return folder

    return make


@pytest.fixture
def stage(tmp_path):
    """Function from run folders to the staged folder and its card."""

    def stage(*folders, **options):
        target = tmp_path / "staged"
        for folder, name in zip(folders, ("", ENERGY), strict=False):
            stage_model(open_run(folder), example_structure(None), target, name)
        return target, write_model_card(target, "org/adapt-si", **options)

    return stage


def tables(text: str, heading: str) -> list[list[list[str]]]:
    """The tables of a section: rows of cells."""
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    found = next(part for part in section if part.startswith(heading + "\n"))
    blocks = re.findall(r"(?:^\|.*\|\n?)+", found, flags=re.MULTILINE)
    split = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in row] for row in table if row[0].strip() != "---"] for table in split]


def require_table(table: list[list[str]], key: str, lines: dict) -> None:
    """Every cell of the table is the number of the file, and every number of the file that it may show is there."""
    columns = [column for column in COLUMNS[key] if any(column[1] in line for line in lines.values())]
    assert table[0][1:] == [heading for heading, _, _ in columns]
    assert [row[0] for row in table[1:]] == [name.replace("|", r"\|") or "(none)" for name in lines]
    for row, line in zip(table[1:], lines.values(), strict=True):
        assert row[1:] == [format(line[name], style) if name in line else "-" for _, name, style in columns]


def test_sources_and_their_licences_are_named(make_run, stage):
    folder = make_run("forces")
    record = json.loads((folder / "run.json").read_text())
    told = {"name": "si-dft", "license": "bsd-3-clause", "structures": 305, "citation": "Zuo 2020"}
    record["parts"][-1]["sources"] = [told]
    (folder / "run.json").write_text(json.dumps(record))
    table = tables(stage(folder)[1], "What it was trained on")[0]
    assert table == [
        ["source", "licence", "structures", "cite", "from"],
        ["si-dft", "bsd-3-clause", "305", "Zuo 2020", "-"],
    ]


@pytest.mark.parametrize("kind", ["forces", "pooled", "mlp"])
def test_errors_are_those_of_the_evaluation(make_run, stage, kind):
    folder = make_run(kind)
    staged, text = stage(folder)
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    lines = metrics["by_config_type"] | {"all": metrics}
    keys = {"forces": ["forces"], "pooled": ["forces", "energy"], "mlp": ["energy"]}[kind]
    for key, table in zip(keys, tables(text, "Errors"), strict=False):
        require_table(table, key, lines)
    assert "split `test` of `springs`" in text

    data = ModelCard.load(staged / "README.md", ignore_metadata_errors=False).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("transformers", "unknown", "other")
    assert {"force-field", "Si", "C"} <= set(data.tags) and data.datasets is None
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    shown = {"Force MAE (meV/Å)": "force_mae_mev_per_ang", "Energy MAE (meV/atom)": "energy_mae_mev_per_atom"}
    assert {name: values[name] for name in shown if name in values} == {
        name: metrics[key] for name, key in shown.items() if key in metrics
    }
    assert set(values.values()) <= {value for value in metrics.values() if isinstance(value, float)}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_without_an_evaluation_it_says_so_and_shows_the_training(make_run, stage):
    folder = make_run(evaluated=False)
    staged, text = stage(folder)
    trained = json.loads((folder / "training_metrics.json").read_text())
    lines = {
        split: {name[5:]: value for name, value in trained.items() if name.startswith(prefix)}
        for split, prefix in (("validation", "eval_"), ("test", "test_"))
    }
    assert "It has not been evaluated by kind of structure" in text
    require_table(tables(text, "Errors")[0], "forces", lines)
    results = ModelCard.load(staged / "README.md").data.eval_results
    assert {result.metric_value for result in results} <= set(trained.values())
    assert results[0].metric_value == trained["test_force_mae_mev_per_ang"] and results[0].dataset_split == "test"


def test_domain_symmetry_and_training_are_those_of_the_files(make_run, stage):
    staged, text = stage(make_run(), datasets=["org/adapt-si-data"], license="cc-by-4.0", revision="v1")
    config = json.loads((staged / "config.json").read_text())
    domain = config["training_domain"]
    shown = dict(tables(text, "What it was trained on")[0][1:])
    assert shown["elements"] == "C, Si" and shown["atoms"] == "7 to 16" and shown["largest force (eV/Å)"] == "0.433"
    pairs = dict(pair.rsplit(" ", 1) for pair in shown["closest distances (Å)"].split(", "))
    assert pairs == {pair: f"{value:.3f}" for pair, value in domain["closest_distances"].items()}

    symmetry = {row[0]: row[1] for row in tables(text, "Physical checks")[0][1:]}
    net = np.abs(np.sum(json.loads((staged / "example.json").read_text())["forces"], axis=0)).max()
    assert list(symmetry) == [
        "RMS deviation under the symmetries of the cube, in training",
        "RMS deviation under random rotations, in training",
        "net force on the example",
    ]
    scale = "of the RMS force component"
    assert list(symmetry.values()) == [f"1.3e-05 {scale}", f"2.5e-05 {scale}", f"{net:.1e} eV/Å"]
    training = dict(tables(text, "Training")[0][1:])
    assert training["data"] == "springs" and training["structures"] == "train 800" and training["seed"] == "7"
    assert (
        training["fingerprint of the data"] == "train abc123"
        and training["time of part 2, the last one (h)"] == "2.50"
    )
    assert training["hardware"] == "cuda H100, processes: 2" and training["revision of the code"] == "f00d"
    assert "4,321 parameters" in text
    data = ModelCard.load(staged / "README.md").data
    assert data.license == "cc-by-4.0" and data.datasets == ["org/adapt-si-data"]
    assert text.count('revision="v1"') == text.count('"org/adapt-si"') == 5 and "10.48550/arXiv.2509.24115" in text


class TestPhysicalChecks:
    """Those of the evaluation stand in the card, each beside what it should be; none of them is made up."""

    @staticmethod
    def measured(folder, **changes) -> dict:
        checks = {name: 0.1234567 * 10**power for power, name in enumerate(CHECKS, -5)} | changes
        TestEvaluations.change(folder, physical_checks=checks)
        return checks

    def test_all(self, make_run, stage):
        checks = self.measured(folder := make_run())
        staged, text = stage(folder)
        assert json.loads((staged / "metrics.json").read_text())["physical_checks"] == checks
        (table,) = tables(text, "Physical checks")  # what was measured in training is not needed
        assert len(table) == 1 + len(CHECKS)
        for row, (name, (words, ideal)) in zip(table[1:], CHECKS.items(), strict=True):
            value, *unit = row[1].split()
            assert (row[0], row[2]) == (words, ideal) and row[3], name  # a row of its own for the reference
            assert unit == (["meV/Å"] if name.endswith("_mev_per_ang") else [])
            assert float(value) == pytest.approx(checks[name], rel=0.05)

    def test_bulk_atoms_are_held_against_the_reference(self, make_run, stage):
        """123 meV/Å in structures that are not relaxed is no alarm where the reference has as much."""
        names = [f"bulk_atom_{one}_mev_per_ang" for one in ("force", "reference", "error")]
        checks = dict(zip(names, (123.4, 122.9, 1.5), strict=True))
        TestEvaluations.change(folder := make_run(), physical_checks=checks)
        rows = tables(stage(folder)[1], "Physical checks")[0][1:4]
        assert [row[1] for row in rows] == ["123 meV/Å", "123 meV/Å", "1.5 meV/Å"]
        assert [row[2] for row in rows] == ["that of the reference", "0 in a relaxed structure", "0"]

    def test_training_and_example_stand_in_for_what_is_missing(self, make_run, stage):
        names = ("octahedral_error_mev_per_ang", "scan_jump_mev_per_ang")
        TestEvaluations.change(folder := make_run(), physical_checks=dict.fromkeys(CHECKS) | dict.fromkeys(names, 0.5))
        _, text = stage(folder)
        shown = [row[0] for row in tables(text, "Physical checks")[0][1:]]
        assert shown == [
            *(CHECKS[name][0] for name in names),
            "RMS deviation under random rotations, in training",
            "net force on the example",
        ]

    @pytest.mark.parametrize("wrong", ["0.1", True, float("nan"), float("inf"), [1.0]])
    def test_what_is_no_number(self, make_run, wrong):
        self.measured(folder := make_run(), jacobian_asymmetry=wrong)
        with pytest.raises(InputError, match="metrics.json cannot be read: jacobian_asymmetry is .*, no number"):
            open_run(folder)
        TestEvaluations.change(folder, physical_checks=wrong)
        with pytest.raises(InputError, match="physical_checks holds no names with numbers"):
            open_run(folder)

    def test_a_model_of_energies_is_measured_by_these(self, make_run, stage):
        _, text = stage(make_run("mlp"))
        assert "in training | 1.3e-05 of the composition-only error | 0 |  |" in text


def test_errors_by_distance_and_element(make_run, stage):
    folder = make_run()
    groups = {
        "by_defect_distance": {"0-3 Å": force_metrics(1), "8 Å and more": force_metrics(2)},
        "by_element": {"C": force_metrics(3), "Si": force_metrics(4)},
    }
    TestEvaluations.change(folder, **groups)
    for name in ("error_by_distance.png", "error_by_force.png", "secret.png"):
        (folder / "evaluation" / name).write_bytes(PIXEL)
    staged, text = stage(folder)
    for lines, table in zip(groups.values(), tables(text, "Errors")[1:], strict=True):
        require_table(table, "forces", lines)
    assert "](error_by_distance.png)" in text and "](error_by_force.png)" in text
    assert {path.name for path in staged.glob("*.png")} == {
        *("error_by_distance.png", "error_by_force.png", "example.png")
    }


def test_limits_are_those_of_the_kind_of_model(make_run, stage):
    _, text = stage(make_run("forces"), make_run("pooled"))
    assert "not the gradient of an energy" in text and "so it serves for molecular dynamics too" in text
    assert 'energy_model="org/adapt-si", energy_subfolder="energy"' in text
    assert "## Errors of `energy/`" in text and 'subfolder="energy"' in text and "Neutral defects only" in text
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, "README.md", "exec")


class TestWhatComesFromFiles:
    """It is text: neither markup nor code."""

    HOSTILE = "<img src=x onerror=alert(1)> [a](b) `c` *d* _e_ | &amp; $x$\n# f"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("v_Si (C) 1.5 eV/Å", "v_Si (C) 1.5 eV/Å"),
            ("a|b\\c", r"a\|b\\c"),
            ("*a* __b__ `c` ~~d~~ $e$", r"\*a\* \_\_b\_\_ \`c\` \~\~d\~\~ \$e\$"),
            ("[a](b) ![c](d)", r"\[a\](b) !\[c\](d)"),
            ("<b>&\n# x", "&lt;b&gt;&amp; # x"),
            (escaped("a|b"), r"a\|b"),
        ],
    )
    def test_text(self, value, text):
        assert escaped(value) == text and unescaped(text) == " ".join(unescaped(value).splitlines())

    @pytest.mark.parametrize(("value", "span"), [("a|b", "`a|b`"), ("a`b\nc", "`` a`b c ``"), ("``", "``` `` ```")])
    def test_code(self, value, span):
        assert code(value) == span

    def test_in_a_card(self, make_run, stage):
        folder = make_run()
        groups = {self.HOSTILE: force_metrics(1), "vacancy": force_metrics(2)}
        TestEvaluations.change(folder, by_config_type=groups, split=self.HOSTILE, dataset=self.HOSTILE)
        for name, key in (("recipe.yaml", "lr_scheduler_type"), ("run.json", "device")):
            record = yaml.safe_load((folder / name).read_text())
            (record if name == "recipe.yaml" else record["parts"][-1])[key] = self.HOSTILE
            (folder / name).write_text(json.dumps(record))
        _, text = stage(folder, revision='v"1')
        body = text.split("\n---\n", 1)[1]
        outside_code = re.sub(r"(`+).*?\1", "", re.sub(r"```.*?```", "", body, flags=re.DOTALL))
        assert "<img" not in outside_code and "\n# f" not in body and not re.search(r"(?<!\\)\[a", outside_code)
        assert [row[0] for row in tables(text, "Errors")[0][1:]] == [escaped(self.HOSTILE), "vacancy", "all"]
        assert r"&lt;img src=x onerror=alert(1)&gt; \[a\](b)" in dict(tables(text, "Training")[0])["lr_scheduler_type"]
        for block in re.findall(r"```python\n(.*?)```", body, re.DOTALL):
            compile(block, "README.md", "exec")


def test_settings_are_those_of_the_configuration_and_of_the_recipe(make_run, stage):
    """A field that the architecture does not read, and that its config.json has not, is nowhere on the card."""
    staged, _ = stage(folder := make_run())
    config = json.loads((staged / "config.json").read_text())
    absent = {name: config.pop(name, "relu") for name in ("norm_position", "fourier_wave_numbers", "hidden_act")}
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | absent | {"weight_decay": 0.1, "train_subset": 100}
    (staged / "config.json").write_text(json.dumps(config))
    (staged / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"augmentation": ["octahedral", "translation"]}))
    text = write_model_card(staged, "org/adapt-si")
    architecture, training = (dict(tables(text, title)[0]) for title in ("Architecture", "Training"))
    assert architecture["hidden_size"] == "16" and architecture["embedding_sizes"] == "16"
    assert not {name for name in architecture if name and name not in config}
    assert not absent.keys() & training.keys() and "train_subset" not in training, "a default"
    assert training["weight_decay"] == "0.1" and training["augmentation"] == "octahedral, translation"
    assert not any(name in text for name in absent)


def test_versions_and_where_the_code_comes_from(make_run, stage):
    _, text = stage(make_run())
    names = {"transformers", "torch", "accelerate", "datasets"}
    versions = {name: version(name) for name in names} | {"python": platform.python_version()}
    said = " ".join(re.split(r"^## ", text, flags=re.MULTILINE)[-3].split())
    assert said.startswith("Versions") and all(f"{name} {number}" in said for name, number in versions.items())
    assert f"version {ADAPT_VERSION} of this project" in said and f"checkpoint format {FORMAT_VERSION}" in said
    assert re.findall(r"pip install ([^`]*)`", text) == ["torch transformers"], "no name that no index has"
    assert "trust_remote_code=True" in text and "With the tools of the project, which come from its repository" in text


def test_a_model_that_gives_no_forces_promises_none(make_run, stage):
    _, text = stage(make_run("mlp"))
    assert "at most 24 atoms" in text and "pipeline(" not in text and "get_forces" not in text


def test_a_model_without_any_records(make_run, stage):
    staged, text = stage(make_run(evaluated=False, recorded=False))
    assert "nothing tells whether a structure is like" in text and "do not rely on it" in text
    assert "## Training" not in text
    assert not ModelCard.load(staged / "README.md").data.eval_results


def test_numbers_of_another_model_never_stand_in_a_card(make_run):
    ours, other = make_run("forces"), make_run("pooled")
    run = open_run(ours, [other / "evaluation"])
    assert run.evaluation == ours / "evaluation"
    with pytest.raises(InputError, match="is an evaluation of .*pooled, not of this model"):
        require_all_used([other / "evaluation"], [run.evaluation])
    (ours / "evaluation" / "metrics.json").write_text("{ no")
    with pytest.raises(InputError, match=r"metrics.json cannot be read"):
        open_run(ours)


class TestEvaluations:
    """Which one is of a model is told by the hash of the weights."""

    @staticmethod
    def change(folder, drop=(), **values):
        path = folder / "evaluation" / "metrics.json"
        metrics = {name: value for name, value in json.loads(path.read_text()).items() if name not in drop}
        path.write_text(json.dumps(metrics | values))

    @pytest.mark.parametrize("how", [{"ensemble": ["runs/two"]}, {"ensemble": [], "num_images": 6}])
    def test_averaged_predictions_are_not_the_model(self, make_run, capsys, how):
        folder = make_run()
        self.change(folder, **how)
        with pytest.raises(InputError, match="averaged predictions, not of this model alone; run evaluate.py on it"):
            open_run(folder, [folder / "evaluation"])
        assert open_run(folder).evaluation is None and "evaluation is not taken" in capsys.readouterr().err

    def test_a_run_of_the_same_name_is_another_one(self, make_run, tmp_path):
        folder, other = make_run(), make_run("pooled")
        (tmp_path / "a").mkdir()
        folder, other = folder.rename(tmp_path / "a" / "final"), other.rename(tmp_path / "final")
        (folder / "evaluation" / "metrics.json").unlink()
        assert open_run(folder, [other / "evaluation"]).evaluation is None
        assert open_run(other, [other / "evaluation"]).evaluation == other / "evaluation"  # though it was renamed

    def test_weights_that_were_trained_again(self, make_run, make_force_model):
        folder = make_run()
        make_force_model(seed=9, **PAIRWISE).save_pretrained(folder)
        assert open_run(folder).evaluation is None

    def test_one_without_hash_has_to_be_named_and_to_name_the_folder(self, make_run, tmp_path):
        folder = make_run()
        self.change(folder, drop=["weights_sha256"])
        assert open_run(folder).evaluation is None
        assert open_run(folder, [folder / "evaluation"]).evaluation == folder / "evaluation"
        self.change(folder, model=f"elsewhere/{folder.name}")
        run = open_run(folder, [folder / "evaluation"])
        with pytest.raises(InputError, match="does not say of which weights it is .*: evaluate the model again"):
            require_all_used([folder / "evaluation"], [run.evaluation])

    def test_two_of_one_model_and_the_file_itself(self, make_run, tmp_path):
        folder = make_run()
        second = shutil.copytree(folder / "evaluation", tmp_path / "second")
        with pytest.raises(InputError, match="are both evaluations of .*forces; name one of them"):
            open_run(folder, [folder / "evaluation", second])
        assert open_run(folder, [second / "metrics.json"]).evaluation == second
        require_all_used([second / "metrics.json"], [second])

    def test_the_path_stays_home(self, make_run, stage, tmp_path):
        staged, _ = stage(make_run())
        metrics = json.loads((staged / "metrics.json").read_text())
        assert metrics["model"] == "forces" and "model_path" not in metrics
        assert str(tmp_path) not in (staged / "metrics.json").read_text()


@pytest.mark.parametrize(("dataset", "shown"), [("/data/me/springs/", "org/d"), ("/data/you/springs", "springs")])
def test_results_are_of_the_data_set_that_was_evaluated(make_run, stage, dataset, shown):
    """Two folders can have one last name; the published data set is that of the training."""
    folder = make_run()
    TestEvaluations.change(folder, dataset=dataset)
    staged, text = stage(folder, datasets=["org/d"])
    data = ModelCard.load(staged / "README.md").data
    assert data.datasets == ["org/d"] and {result.dataset_name for result in data.eval_results} == {shown}


@pytest.mark.parametrize("best", [True, False])
def test_the_validation_split_flatters_where_it_chose(make_run, stage, best):
    folder = make_run(evaluated=False)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"load_best_model_at_end": best}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained = json.loads((folder / "training_metrics.json").read_text())
    _, text = stage(folder)
    assert ("which chose the checkpoint, so its errors flatter" in text) == best
    assert "the test split, looked at once" in text
    only_test = {name: value for name, value in trained.items() if not name.startswith("eval_")}
    (folder / "training_metrics.json").write_text(json.dumps(only_test))
    _, text = stage(folder)
    assert "(`training_metrics.json`): the test split, looked at once." in text


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        (
            "training_metrics.json",
            {"eval_force_mae_mev_per_ang": "12"},
            "eval_force_mae_mev_per_ang is '12', no number",
        ),
        ("recipe.yaml", {"dataset": 5}, "dataset is no text"),
        ("run.json", {"parts": 3}, "parts is no list of records"),
        ("run.json", {"parts": [{"structures": [800]}]}, "structures is"),
        ("trainer_state.json", {"log_history": [{"train_runtime": "long"}]}, "train_runtime is no number"),
        ("evaluation/metrics.json", {"by_config_type": [1]}, "by_config_type holds no groups"),
        ("evaluation/metrics.json", {"by_defect_distance": {"0-3 Å": 1}}, "by_defect_distance holds no groups"),
        ("evaluation/metrics.json", {"by_element": {"C": {"force_slope": "1"}}}, "force_slope is '1', no number"),
        ("evaluation/metrics.json", {"num_structures": 4.5}, "num_structures is 4.5, no number"),
    ],
)
def test_records_that_were_edited_are_one_line(make_run, stage, name, record, message):
    folder = make_run()
    (folder / name).write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"{name.split('/')[-1]} cannot be read: {message}") as caught:
        stage(folder)
    assert "\n" not in str(caught.value)


def test_the_network_that_counts_places_needs_its_feature_extractor(make_run, stage):
    folder = make_run("mlp")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="has no preprocessor_config.json, without which nobody knows in which order"):
        stage(folder)


class TestAnswers:
    """Those of evaluate.py --answers for these weights, and of no others."""

    @staticmethod
    def answered(folder, place="evaluation", **changes) -> None:
        references = {"DFT": Reference(3.673, "PW91"), "GAP": Reference(3.527, "there")}
        answers = {"vacancy": Answer("eV", {64: 3.35, 216: 3.47}, references, notes=("a note | of it",))}
        names = {"model": str(folder), "host": "silicon", "weights_sha256": weights_hash(folder)}
        (folder / place).mkdir(exist_ok=True)
        write_answers(folder / place, answers, names | changes)

    def test_the_table_is_on_the_card(self, make_run, stage):
        folder = make_run("pooled")
        self.answered(folder)
        staged, text = stage(folder)
        (table,) = tables(text, "Answers")
        assert table[0] == ["answer", "unit", "this model", "64 to 216 atoms", "DFT", "error", "GAP"]
        assert table[1] == ["vacancy", "eV", "3.47", "+0.12", "3.67", "-0.20", "3.53"]
        assert r"- vacancy: a note \| of it" in text and "- DFT: PW91" in text
        assert json.loads((staged / "answers.json").read_text())["model"] == folder.name

    def test_they_may_lie_in_a_folder_of_their_own(self, make_run):
        folder = make_run("pooled")
        self.answered(folder, "answers")
        for named in (folder / "answers", folder / "answers" / "answers.json"):
            run = open_run(folder, [folder / "evaluation", named])
            assert run.answers["host"] == "silicon" and run.metrics
        require_all_used([folder / "evaluation", folder / "answers"], [run.evaluation, run.answered])

    def test_those_of_other_weights_stay_away(self, make_run, stage):
        folder = make_run("pooled")
        self.answered(folder, weights_sha256="another")
        staged, text = stage(folder)
        assert "## Answers" not in text and not (staged / "answers.json").exists()

    def test_a_damaged_record_is_one_line(self, make_run, stage):
        folder = make_run("pooled")
        self.answered(folder)
        path = folder / "evaluation" / "answers.json"
        path.write_text(path.read_text().replace("3.47", '"many"'))
        with pytest.raises(InputError, match="answers.json cannot be read: its answers are not as evaluate.py writes"):
            stage(folder)

    def test_energies_have_a_table_of_their_own(self, make_run, stage):
        folder = make_run("pooled")
        references = {"DFT": Reference(3.673, "PW91")}
        answers = {
            "lattice constant": Answer("Å", {8: 5.469}, {"DFT": Reference(5.469, "PBE")}),
            "vacancy": Answer("eV", {216: 3.47}, references, uncertainty=0.19),
        }
        (folder / "answers").mkdir()
        write_answers(folder / "answers", answers, {"model": "m", "weights_sha256": weights_hash(folder)})
        target = folder.parent / "with-answers"
        stage_model(open_run(folder, [folder / "answers"]), example_structure(None), target)
        energies, others = tables(write_model_card(target, "org/adapt-si", license="mit"), "Answers")
        assert energies[0] == ["answer", "unit", "this model", "±", "DFT", "error"]
        assert energies[1] == ["vacancy", "eV", "3.47", "0.19", "3.67", "-0.20"]
        assert others[1] == ["lattice constant", "Å", "5.469", "5.469", "+0.000"]


class TestWhatIsUsed:
    """The card lists what the model reads, and names what others have."""

    @pytest.mark.parametrize(
        ("kind", "config", "there", "absent"),
        [
            ("forces", {}, {"force_loss"}, {"force_weight", "stress_weight", "reads_charge", "long_range"}),
            ("pooled", {}, {"force_loss", "force_weight"}, {"stress_weight", "long_range_cutoff"}),
            ("pooled", {"force_weight": 0.0}, set(), {"force_loss", "force_weight"}),
            ("pooled", {"long_range": True}, {"long_range", "long_range_cutoff"}, {"reads_charge"}),
            ("mlp", {}, {"max_atoms"}, {"force_loss", "force_weight", "pairwise_cutoff"}),
        ],
    )
    def test_settings(self, make_run, stage, kind, config, there, absent):
        staged, _ = stage(make_run(kind))
        path = staged / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        shown = {row[0] for row in tables(write_model_card(staged, "org/adapt-si"), "Architecture")[0][1:]}
        assert there <= shown and not shown & absent and "architecture" in shown

    @pytest.mark.parametrize(
        ("initial", "base"), [("org/first", ["org/first"]), ("../secret/first", None), ("adapt-si", None)]
    )
    def test_the_model_that_it_started_from_and_the_paper(self, make_run, stage, initial, base):
        folder = make_run()
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"initial_model": initial}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        staged, text = stage(folder)
        data = ModelCard.load(staged / "README.md").data
        assert data.base_model == base and ("(https://huggingface.co/org/first)" in text) == (base is not None)
        assert "arxiv:2509.24115" in data.tags and "](https://arxiv.org/abs/2509.24115)" in text

    def test_the_picture_goes_with_it(self, make_run, stage):
        staged, text = stage(make_run(), revision="v1")
        assert (staged / "example.png").is_file() and "](example.png)" in text
        address = "https://huggingface.co/org/adapt-si/resolve/v1/example.png"
        assert ModelCard.load(staged / "README.md").data.thumbnail == address

    def test_a_folder_is_no_data_set_of_the_hub(self, make_run, stage):
        """A relative path looks like the id of a repository; it has no revision."""
        folder = make_run()
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        recipe |= {"dataset": "datasets/springs", "dataset_revision": None}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        TestEvaluations.change(folder, dataset="datasets/springs")
        staged, text = stage(folder)
        assert "datasets/springs" not in text and "split `test` of `springs`" in text
        assert yaml.safe_load((staged / "recipe.yaml").read_text())["dataset"] == "springs"

    def test_stress_and_limits(self, make_run, stage):
        _, text = stage(make_run("pooled"))
        assert "was not learned: hold a cell" in text and "no stress" not in text
        _, text = stage(make_run("mlp"))
        assert "There is no stress: cells stay fixed" in text
