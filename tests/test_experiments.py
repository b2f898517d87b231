"""The experiments: what is trained is kept and known again, numbers are read from files, verdicts follow from them."""

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from datasets import DatasetDict, load_dataset
from matplotlib.image import imread

import experiments
import experiments.__main__ as command
from experiments import lab as lab_module
from experiments import loss as loss_experiment
from experiments.attention_radius import ALL, LARGE, RADIUS
from experiments.descriptors import SAME
from experiments.experiment import DEFECTS, IONIC, REAL, Experiment, Training, all_experiments, training_on
from experiments.lab import Lab, end_all, run_python
from experiments.opposite_charges import DISTANCE, GLOBAL, LABEL, LOCAL
from experiments.outcome import NOT_RUN, draw_again, is_made_of, page_text, read_table, to_csv, write_outcome
from experiments.relaxation import _ranking
from experiments.shared import CHANCE, ERRORS, FAR, MAE, NEAR, SHARE, change, exponent, force_cells
from modeling_adapt.cli.command_line import run_command
from modeling_adapt.errors import InputError

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXPERIMENTS = all_experiments()
RUN = [experiment for name, experiment in EXPERIMENTS.items() if (DOCS / "results" / f"{name}.csv").is_file()]
TINY = {"hidden_size": 16, "embedding_sizes": [16], "num_hidden_layers": 1, "intermediate_size": 16}
SMALL = Training("pairwise-small", TINY | {"num_vector_channels": 8}, steps=2)
WIDE = Training("pairwise-small", TINY | {"num_vector_channels": 16}, steps=2)


class TwoWidths(Experiment):
    name, title, question, paper = "two-widths", "Two widths", "Which is better?", "nothing"
    columns = {"width": "d", **ERRORS}
    measured = 0

    def trainings(self, lab):
        yield from (SMALL, WIDE, SMALL)

    def measure(self, lab):
        type(self).measured += 1
        return [{"width": width, **force_cells(lab.errors(one))} for width, one in ((8, SMALL), (16, WIDE))]

    def draw(self, rows, path):
        path.write_bytes(b"")

    def reading(self, rows):
        return f"They have {rows[0][MAE]:.1f} and {rows[1][MAE]:.1f}."

    def verdict(self, rows):
        return "new here", "nobody has asked"


@pytest.fixture
def run(monkeypatch, springs, tmp_path):
    """Runs the command on a tiny data set; returns its exit status."""
    monkeypatch.setattr(command, "all_experiments", lambda: {"two-widths": TwoWidths()})
    monkeypatch.setattr(TwoWidths, "measured", 0)

    def run(*options):
        arguments = ["two-widths", "--output", str(tmp_path / "results"), "--dataset", str(springs), *options]
        return run_command(lambda: command.main(arguments))

    return run


def test_what_is_trained_is_trained_once(run, tmp_path, capsys):
    assert run() == 0
    said = capsys.readouterr().out
    assert "two-widths: 2 trainings, 2 of them new" in said and "nobody has asked" in said
    trained = sorted((tmp_path / "results" / "trained").iterdir())
    assert len(trained) == 2
    written = [(folder / "finished.json").stat().st_mtime_ns for folder in trained]
    rows = read_table(TwoWidths(), tmp_path / "results" / "two-widths" / "table.csv")
    assert [row["width"] for row in rows] == [8, 16] and rows[0][MAE] > 0

    assert run() == 0
    said = capsys.readouterr().out
    assert "0 of them new (about 0 minutes with their data), and about 0 minutes to measure" in said
    assert "together 0 new trainings, as experiments share some: about 0 minutes" in said
    assert [(folder / "finished.json").stat().st_mtime_ns for folder in trained] == written
    assert TwoWidths.measured == 1, "an outcome of the same models is not measured again"


def test_an_interruption_loses_only_the_training_that_runs(springs, monkeypatch, tmp_path):
    ran = []

    def run(*command, threads):
        ran.append(command[command.index("--num_vector_channels") + 1])
        if ran == ["8", "16"]:
            raise KeyboardInterrupt
        Path(command[-1]).mkdir()

    monkeypatch.setattr(lab_module, "run_python", run)
    lab = Lab(tmp_path, dataset=str(springs), jobs=1)
    with pytest.raises(KeyboardInterrupt):
        lab.prepare([SMALL, WIDE])
    assert lab.missing([SMALL, WIDE]) == [WIDE]
    lab.prepare([SMALL, WIDE])
    assert ran == ["8", "16", "16"] and not lab.missing([SMALL, WIDE])
    assert len(list((tmp_path / "trained").iterdir())) == 2, "nothing half done is left"


def test_a_training_that_fails_is_one_line_and_leaves_nothing(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        TwoWidths, "trainings", lambda self, lab: iter([Training("pairwise-small", {"hidden_size": 7})])
    )
    assert run() == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: train.py") and "hidden_size (7) must be a multiple" in message
    assert not list((tmp_path / "results" / "trained").glob("*"))


def test_a_dry_run_trains_nothing(run, tmp_path, capsys):
    assert run("--dry-run") == 0
    assert re.search(r"together 2 new trainings, .* about \d+ minutes", capsys.readouterr().out)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lose"], "there is no experiment 'lose'; there are all, attention-radius"),
        ([], "name an experiment, or 'all' of them"),
        (["loss", "--page", "x.md"], "--page writes about all experiments"),
        (["loss", "--scale", "0"], "'0' is not a positive number"),
        (["relaxation", "descriptors", "--dataset", "x"], "--dataset: descriptors, relaxation would not read it"),
        (["loss", "--dataset", "/nowhere"], "/nowhere: no such folder"),
        (["loss", "--dft", "/nowhere"], "/nowhere: no such folder"),
        (["md-drift", "--dft", "/nowhere"], "--dft: md-drift would not read it"),
        (["charges"], "charges needs structures of several charges: name files with --charged"),
        (["charges", "--charged", "/nowhere"], "/nowhere cannot be read"),
        (["loss", "--charged", "/nowhere"], "--charged: loss would not read it"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path):
    assert run_command(lambda: command.main([*words, "--output", str(tmp_path / "results")])) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_page_that_cannot_be_written_is_known_before_hours_of_work(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TwoWidths, "trainings", lambda self, lab: iter([SMALL]))
    (tmp_path / "file").touch()
    arguments = ["all", "--output", str(tmp_path / "results"), "--page", str(tmp_path / "file" / "results.md")]
    assert run_command(lambda: command.main(arguments)) == 2
    assert "is no folder that you may write to" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_other_data_are_another_training(springs, tmp_path):
    """By content, wherever they lie; the model of one data set is never taken for that of another."""
    lab = Lab(tmp_path, dataset=str(springs))
    hashes = lab.data.hashes(DEFECTS)
    known = lab.fingerprint(TwoWidths())
    assert known["models"] != Lab(tmp_path, scale=2, dataset=str(springs)).fingerprint(TwoWidths())["models"]
    for changed in ("train", "validation"):
        lab.data.hashes = lambda name, changed=changed: hashes | {changed: "other"}
        assert known["models"] != lab.fingerprint(TwoWidths())["models"]
    lab.data.hashes = lambda name: hashes | {lab.data.unseen(DEFECTS): "other"}
    assert known["measured on"] != lab.fingerprint(TwoWidths())["measured on"]


def test_what_is_only_measured_on_counts_too(springs, tmp_path):
    class Elsewhere(TwoWidths):
        also_measured_on = ("kinds",)

    lab = Lab(tmp_path, dataset=str(springs))
    lab.data.given["kinds"] = str(springs)
    known = lab.fingerprint(Elsewhere())
    hashes = lab.data.hashes
    lab.data.hashes = lambda name: hashes(name) | ({lab.data.unseen("kinds"): "other"} if name == "kinds" else {})
    assert known["models"] == lab.fingerprint(Elsewhere())["models"]
    assert known["measured on"] != lab.fingerprint(Elsewhere())["measured on"]


def test_all_of_them_are_expected_to_end_within_three_hours(tmp_path, springs):
    lab = Lab(tmp_path, real=str(springs))
    wanted = [training for experiment in EXPERIMENTS.values() for training in experiment.trainings(lab)]
    also = {name for experiment in EXPERIMENTS.values() for name in experiment.also_measured_on}
    measuring = sum(experiment.minutes for experiment in EXPERIMENTS.values())
    assert 30 < lab.minutes(wanted, also) + measuring < 180


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ("split", {}, "no split test or validation"),
        ("sites", {}, "no defect sites: import the data with --host"),
        ("cell", {"augmentation": ["octahedral"]}, "octahedral"),
    ],
)
def test_given_data_are_looked_at_before_anything_is_trained(changed, options, message, springs, tmp_path):
    splits = load_dataset(str(springs))
    if changed == "split":
        splits = DatasetDict(train=splits["train"])
    elif changed == "sites":
        splits["train"] = splits["train"].map(lambda row: row | {"defect_sites": [], "defect_kinds": []})
    else:
        splits["train"] = splits["train"].map(
            lambda row: row | {"cell": (np.diag([1.0, 1, 2]) * row["cell"]).tolist()}
        )
    for split, rows in splits.items():
        (tmp_path / "given" / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(str(tmp_path / "given" / "data" / f"{split}-00000-of-00001.parquet"))
    with pytest.raises(InputError, match=message):
        Lab(tmp_path, dataset=str(tmp_path / "given")).check([Training("fourier-small", options)])


def test_what_runs_ends_when_the_run_does():
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        sleeping = pool.submit(run_python, "-c", "import time; time.sleep(60)")
        while not lab_module._running:
            time.sleep(0.01)
        end_all()
        with pytest.raises(InputError, match="failed"):
            sleeping.result()
    assert time.monotonic() - began < 30


def test_a_smaller_scale_has_fewer_steps_and_at_least_one():
    arguments = SMALL.arguments(0.001)
    assert arguments["max_steps"] == 1 and arguments["warmup_steps"] == 0
    assert Training("pairwise-small").arguments(1)["warmup_steps"] == 50


def without_those_not_run(page: str) -> str:
    """An experiment that nobody has run yet is no more than a line of the summary."""
    return "".join(line for line in page.splitlines(keepends=True) if not line.endswith(f"| {NOT_RUN} |\n"))


def test_the_page_says_what_stands_in_the_files():
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert without_those_not_run(page) == page_text(RUN, DOCS / "results")
    assert len(RUN) >= 10


def test_an_experiment_that_was_not_run_is_a_line_of_the_page(tmp_path, monkeypatch, capsys):
    shutil.copytree(DOCS / "results", tmp_path / "results")
    monkeypatch.setattr(command, "all_experiments", lambda: EXPERIMENTS | {"two-widths": TwoWidths()})
    monkeypatch.setattr("experiments.outcome.draw_again", lambda *_: None)
    assert run_command(lambda: command.main(["--page", str(tmp_path / "results.md")])) == 0
    assert "page written to" in capsys.readouterr().out
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert f"| Two widths (`python -m experiments two-widths`) | nothing | {NOT_RUN} |\n" in page
    assert without_those_not_run(page) == page_text(RUN, DOCS / "results")


def test_an_experiment_is_its_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "one_more.py").write_text(
        "from experiments.experiment import Experiment\n\n\n"
        "class OneMore(Experiment):\n    name = 'one-more'\n"
        "    trainings = measure = draw = reading = verdict = lambda self, *_: None\n"
    )
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    assert list(all_experiments()) == sorted([*EXPERIMENTS, "one-more"])
    monkeypatch.undo()
    assert list(all_experiments()) == list(EXPERIMENTS)
    assert {name.replace("-", "_") for name in EXPERIMENTS} <= {
        path.stem for path in DOCS.parent.glob("experiments/*")
    }


def test_figures_are_drawn_from_the_tables_alone(tmp_path):
    """What each of them shows is looked at by `test_figures.py`."""
    shutil.copy(DOCS / "results" / "relaxation.csv", tmp_path)
    draw_again(RUN, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["relaxation.csv", "relaxation.png"]
    height, width, _ = imread(tmp_path / "relaxation.png").shape
    assert height > 200 and width > 1000


def test_a_number_that_differs_is_found(tmp_path):
    for file in (DOCS / "results").glob("*.[cj]s*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "loss.csv"
    number = re.search(r"\d+\.\d+", table.read_text()).group()
    table.write_text(table.read_text().replace(number, str(float(number) + 1), 1))
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert without_those_not_run(page) != page_text(RUN, tmp_path)


def test_tables_are_read_as_they_were_written(tmp_path):
    rows = [{"width": 8, MAE: 12.3456, "of zero force": 0.5, "near the defect": None}]
    write_outcome(TwoWidths(), [*rows, *rows], tmp_path / "out", made_of={"models": "a"})
    read = read_table(TwoWidths(), tmp_path / "out" / "table.csv")
    assert read == [*rows, *rows]
    assert "| 8 | 12.3 | 50% | - |" in (tmp_path / "out" / "table.md").read_text()
    assert is_made_of(TwoWidths(), tmp_path / "out", {"models": "a"})
    assert not is_made_of(TwoWidths(), tmp_path / "out", {"models": "b"})
    write_outcome(TwoWidths(), [*rows, *rows, *rows], tmp_path / "out", made_of={"models": "b"})
    assert len(read_table(TwoWidths(), tmp_path / "out" / "table.csv")) == 3


def test_an_outcome_that_cannot_be_drawn_leaves_the_last_one(tmp_path, monkeypatch):
    rows = [{"width": 8, MAE: 12.0, "of zero force": 0.5, "near the defect": None}] * 2
    write_outcome(TwoWidths(), rows, tmp_path / "out", made_of={"models": "a"})
    for name in (".out.new", ".out.old"):  # left by a kill
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.csv").touch()
    monkeypatch.setattr(TwoWidths, "draw", lambda self, rows, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_outcome(TwoWidths(), rows, tmp_path / "out", made_of={"models": "b"})
    assert is_made_of(TwoWidths(), tmp_path / "out", {"models": "a"})
    monkeypatch.undo()
    write_outcome(TwoWidths(), rows, tmp_path / "out", made_of={"models": "b"})
    assert is_made_of(TwoWidths(), tmp_path / "out", {"models": "b"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_the_user_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        write_outcome(TwoWidths(), [], tmp_path / "out", made_of={})
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_verdicts_follow_from_the_numbers():
    def row(geometry, loss, length):
        cells = dict.fromkeys(loss_experiment.Loss.columns, 10.0) | {"data": "generated"}
        return cells | {"geometry": geometry, "loss": loss, loss_experiment.LENGTH: length}

    lengths = {"mse": 0.05, "weighted_mse": 0.9, "weighted_l2": 0.9}
    rows = [row(geometry, loss, lengths[loss]) for geometry in ("pairwise", "fourier") for loss in lengths]
    assert EXPERIMENTS["loss"].verdict(rows)[0] == "reproduced"
    none_trivial = [one | {loss_experiment.LENGTH: 0.9} for one in rows]
    assert EXPERIMENTS["loss"].verdict(none_trivial)[0] == "not comparable", "what is avoided does not happen"
    all_trivial = [one | {loss_experiment.LENGTH: 0.1} for one in rows]
    assert EXPERIMENTS["loss"].verdict(all_trivial)[0] == "not reproduced"


def test_a_small_model_must_do_and_a_large_one_overfit():
    def rows(*errors):
        shapes = zip(("32 x 1", "64 x 2", "128 x 2"), (1, 2, 3), errors, strict=True)
        return [
            {"data": "generated", "width x layers": shape, "parameters": count, MAE: mae}
            for shape, count, mae in shapes
        ]

    verdict = EXPERIMENTS["model-size"].verdict
    assert verdict(rows(2.0, 1.0, 1.5))[0] == "reproduced"
    assert verdict(rows(2.0, 1.0, 1.0)) == (
        "not reproduced",
        "on the generated data the error of the preset is 0% above the best (64 x 2), so it is sufficient; "
        "that of the largest is 0% above, so it does not overfit",
    )
    assert verdict(rows(2.0, 1.5, 1.0))[0] == "not reproduced"


def test_a_drift_is_one_only_beyond_its_error():
    times = np.arange(10.0)
    noise = np.where(times % 2, 0.5, -0.5)

    def rows(direct, own):
        models = {"pairwise, direct forces": direct, "pairwise energy and gradient": own, "the potential itself": 0.0}
        cells = ("forces by", "time (ps)", "total energy (meV/atom)", "its own energy (meV/atom)")
        return [
            dict(zip(cells, (name, time, slope * time + jump, own * time), strict=True))
            for name, slope in models.items()
            for time, jump in zip(times, noise, strict=True)
        ]

    verdict = EXPERIMENTS["md-drift"].verdict
    slope, covariance = np.polyfit(times, 5.0 * times + noise, 1, cov=True)
    expected = f"direct forces the energy drifts by {slope[0]:+.3f} ± {covariance[0, 0] ** 0.5:.3f} meV/atom/ps"
    assert verdict(rows(5.0, 0.01))[0] == "reproduced" and expected in verdict(rows(5.0, 0.01))[1]
    assert verdict(rows(0.02, 0.01))[0] == "not reproduced", "no more than the noise"
    assert verdict(rows(5.0, 4.0))[0] == "not reproduced", "a gradient drifts as well"


def test_the_symmetry_is_learned_only_from_much_data():
    def rows(count, turned):
        cells = {"structures": count, MAE: 50.0, "of zero force": 0.2, "Oh error (meV/Å)": turned}
        return [cells | {"model": model} for model in ("fourier", "fourier, augmented", "pairwise")]

    verdict = EXPERIMENTS["data-scaling"].verdict
    assert verdict(rows(800, 1.0))[0] == "not comparable"
    assert verdict(rows(252_240, 1.0))[0] == "reproduced"
    assert verdict(rows(252_240, 100.0))[0] == "not reproduced"


def test_real_data_are_trained_on_where_they_are_given(springs, tmp_path):
    without, beside = Lab(tmp_path), Lab(tmp_path, real=str(springs))
    assert (without.data.kinds, beside.data.kinds) == (["generated"], ["generated", "DFT"])
    assert Lab(tmp_path, dataset=str(springs)).data.kinds == ["given"], "what the user gives is not called generated"
    several = Lab(tmp_path, real=[str(springs), "there/inp"])
    assert several.data.kinds == ["generated", "DFT", "DFT inp"] and several.data.path("dft inp") == "there/inp"
    assert training_on("DFT inp", "pairwise-small").dataset == "dft inp"
    for name in ("attention-radius", "loss", "data-scaling", "model-size", "geometry"):
        few, more = (list(EXPERIMENTS[name].trainings(lab)) for lab in (without, beside))
        generated = {DEFECTS, IONIC} if name == "attention-radius" else {DEFECTS}
        assert {training.dataset for training in few} == generated
        assert [training for training in more if training.dataset in generated] == few
        assert {training.dataset for training in more} == {*generated, REAL}


def test_radii_are_judged_on_each_data_set():
    def rows(data, *errors, zero=10.0):
        return [{"data": data, MAE: mae, SHARE: mae / zero, "increase": mae / errors[-1] - 1} for mae in errors]

    verdict = EXPERIMENTS["attention-radius"].verdict
    assert verdict(rows("ionic", 3.0, 2.0, 1.0))[0] == "reproduced"
    assert verdict(rows("generated", 3.0, 1.0, 1.0))[0] == "not reproduced", "a radius does as well"
    found, why = verdict(rows("ionic", 3.0, 2.0, 1.0) + rows("generated", 3.0, 1.0, 1.0))
    assert found == "new here" and "+100% on the ionic data, +0% on the generated data" in why
    hopeless = rows("DFT", 10.0, 9.9, 9.8)
    assert verdict(hopeless)[0] == "not comparable", "no training is better than no forces"
    found, why = verdict(rows("ionic", 3.0, 2.0, 1.0) + hopeless)
    assert found == "reproduced" and why.endswith("; nothing was learned on the DFT data, which tell nothing of it")


def test_radii_are_read_with_what_is_known():
    row = {"data": "ionic", MAE: 4.0, NEAR: 8.0, FAR: 2.0, LARGE: 6.0}
    rows = [
        row | {RADIUS: "3 Å"},
        row | {RADIUS: "5 Å", MAE: 2.0},
        row | {RADIUS: ALL, MAE: 1.0, FAR: None, LARGE: 3.0},
    ]
    said = EXPERIMENTS["attention-radius"].reading(rows)
    assert "the best radius, 5 Å, gives 2.0 meV/Å, and 1.0 where all atoms meet by waves too (-50 %;" in said
    assert "far from it ?; in cells never trained on 6.0 and 3.0)" in said


def test_opposite_charges_are_followed_or_not():
    def rows(local, everything):
        return [
            {DISTANCE: d, LABEL: 4 / d, LOCAL: local(4 / d), GLOBAL: everything(4 / d)}
            for d in (4.2, 6.3, 8.4, 12.6, 16.8)
        ]

    followed = rows(lambda force: 0.4, lambda force: force + 0.01)
    experiment = EXPERIMENTS["opposite-charges"]
    assert "follows the labels from 6.3 to 12.6 Å: an error of 0.010 eV/Å" in experiment.verdict(followed)[1]
    assert "changes by 0.317 eV/Å, that of the model that sees 5 Å by 0.000" in experiment.reading(followed)
    assert "does not follow" in experiment.verdict(rows(lambda force: 0.4, lambda force: 0.4))[1]


def test_radii_have_two_seeds(tmp_path):
    trainings = list(EXPERIMENTS["attention-radius"].trainings(Lab(tmp_path, 0.4)))
    assert [one.options.get("seed", 0) for one in trainings] == 10 * [0, 1]


@pytest.fixture
def charged(tmp_path) -> str:
    """Six frames of a defect in two charges."""
    frames = []
    for charge in (0, 2):
        for frame in range(6):
            atoms = bulk("Si", cubic=True)
            atoms.info |= {"config_type": "v", "charge": charge, "REF_energy": -5.0 * charge - 0.1 * frame}
            atoms.arrays["REF_forces"] = np.zeros((8, 3))
            frames.append(atoms)
    write(tmp_path / "set.extxyz", frames)
    return str(tmp_path / "set.extxyz")


def test_charges_are_divided_by_frames(charged, tmp_path, monkeypatch):
    found = {}

    def run(script, *inputs, threads=None):
        for word in inputs[:2]:
            split, _, file = word.partition("=")
            found[split] = [(atoms.info["charge"], atoms.info["REF_energy"]) for atoms in read(file, ":")]
        Path(inputs[2]).mkdir()

    monkeypatch.setattr(lab_module, "run_python", run)
    lab = Lab(tmp_path, charged=[charged])
    trained_on = {training.dataset for training in EXPERIMENTS["charges"].trainings(lab)}
    assert trained_on == {"charged set", "charged set without +0", "charged set without +2"}
    lab.data.path("charged set")
    assert len(found["train"]) == 10 and found["test"] == [(0, -0.2), (2, -10.2)]
    lab.data.path("charged set without +2")
    assert {charge for charge, _ in found["train"]} == {0} and len(found["test"]) == 2


def test_charges_are_measured_by_defect_and_charge(charged, tmp_path, monkeypatch):
    lab = Lab(tmp_path, charged=[charged])
    states = {"config_type": ["v", "v"], "charge": [0.0, 2.0]}
    trained = {"config_type": ["v"] * 10, "charge": [0.0] * 5 + [2.0] * 5}
    labels = np.array([-0.2, -10.2])

    def energies(training, dataset=None, charge=None):
        error = 0.5 if "without" in training.dataset else 0.1 if "reads_charge" in training.options else 2.0
        chosen = slice(None) if charge is None else [states["charge"].index(charge)]
        return (labels + error)[chosen], labels[chosen]

    monkeypatch.setattr(lab.data, "rows", lambda name, split, target: trained if split == "train" else states)
    monkeypatch.setattr(lab, "energies", energies)
    experiment = EXPERIMENTS["charges"]
    first, second = experiment.measure(lab)
    assert (second["charge"], second["frames"], second["unseen"]) == (2, 5, 1)
    assert second["energy (eV)"] == pytest.approx(-10.0) and first["energy (eV)"] == 0
    assert second["told it"] == pytest.approx(0.1) and second["charge never seen"] == pytest.approx(0.5)
    assert "20.0 times as large on set" in experiment.verdict([first, second])[1]


def test_no_verdict_rests_on_less_than_chance():
    rows = read_table(EXPERIMENTS["descriptors"], DOCS / "results" / "descriptors.csv")
    by_chance = [abs(row["change"]) for row in rows if row["what a token says of its element"] in SAME]
    assert len(by_chance) == 4 and max(by_chance) < CHANCE


def test_powers_and_changes():
    x = np.array([1.0, 10.0, 100.0])
    assert exponent(x, 3 * x**-0.5) == pytest.approx(-0.5)
    assert change(10.0, 11.2) == "+12 %" and change(10.0, 5.0) == "-50 %"


def test_candidates_are_ranked_within_their_composition():
    structures = [[0] * 2, [0] * 2, [0] * 2, [0] * 3, [0] * 3]
    truth = [1.0, 2.0, 3.0, -10.0, -11.0]
    assert _ranking(structures, truth, [5.0, 6.0, 9.0, 0.2, 0.1]) == pytest.approx(1.0)
    assert _ranking(structures, truth, [9.0, 6.0, 5.0, 0.1, 0.2]) == pytest.approx(-1.0)
    assert _ranking(structures, [1.0] * 5, [5.0, 6.0, 9.0, 0.2, 0.1]) is None, "one minimum has no order"


def test_csv_has_numbers_to_six_digits():
    assert to_csv({"a": "", "b": ".1f", "c": ",d"}, [{"a": "x", "b": 1 / 3, "c": 4096}]) == "a,b,c\nx,0.333333,4096\n"
