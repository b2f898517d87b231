"""The experiments: what is trained is kept and known again, numbers are read from files, verdicts follow from them."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import modeling_adapt.evaluation.experiments.__main__ as command
from modeling_adapt.command_line import run_command
from modeling_adapt.errors import InputError
from modeling_adapt.evaluation.experiments import EXPERIMENTS
from modeling_adapt.evaluation.experiments import loss as loss_experiment
from modeling_adapt.evaluation.experiments.cells import ERRORS, MAE, change, exponent, force_cells
from modeling_adapt.evaluation.experiments.experiment import Experiment, Training
from modeling_adapt.evaluation.experiments.lab import Lab
from modeling_adapt.evaluation.experiments.outcome import is_made_of, read_table, to_csv, write_outcome
from modeling_adapt.evaluation.experiments.page import page_text
from modeling_adapt.evaluation.experiments.relaxation import _ranking

DOCS = Path(__file__).resolve().parents[1] / "docs"
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
    monkeypatch.setattr(command, "EXPERIMENTS", {"two-widths": TwoWidths()})
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
    assert "0 of them new" in capsys.readouterr().out
    assert [(folder / "finished.json").stat().st_mtime_ns for folder in trained] == written
    assert TwoWidths.measured == 1, "an outcome of the same models is not measured again"


def test_an_interruption_loses_only_the_training_that_runs(springs, monkeypatch, tmp_path):
    ran = []

    def run(self, command):
        ran.append(command[command.index("--num_vector_channels") + 1])
        if ran == ["8", "16"]:
            raise KeyboardInterrupt
        Path(command[-1]).mkdir()

    monkeypatch.setattr(Lab, "_run", run)
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
        (["loss", "--page", "x.md"], "--page writes about all experiments"),
        (["loss", "--scale", "0"], "'0' is not a positive number"),
        (["relaxation", "--dataset", "x"], "--dataset: relaxation would not read it"),
        (["loss", "--dataset", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path):
    assert run_command(lambda: command.main([*words, "--output", str(tmp_path / "results")])) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_other_data_are_another_training(springs, tmp_path):
    """By content, wherever they lie; the model of one data set is never taken for that of another."""
    lab = Lab(tmp_path, dataset=str(springs))
    known = lab.fingerprint([SMALL])
    assert known != lab.fingerprint([WIDE])
    assert known != Lab(tmp_path, scale=2, dataset=str(springs)).fingerprint([SMALL])
    for changed in ("train", "validation"):
        lab._hash = lambda name, changed=changed: Lab(tmp_path, dataset=str(springs))._hash(name) | {changed: "other"}
        assert known != lab.fingerprint([SMALL])


def test_the_page_says_what_stands_in_the_files():
    text = page_text(list(EXPERIMENTS.values()), DOCS / "results")
    assert (DOCS / "results.md").read_text(encoding="utf-8") == text


@pytest.mark.figures
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_figures_are_drawn_from_the_tables_alone(name, tmp_path):
    experiment = EXPERIMENTS[name]
    experiment.draw(read_table(experiment, DOCS / "results" / f"{name}.csv"), tmp_path / "figure.png")
    height, width, _ = imread(tmp_path / "figure.png").shape
    assert height > 200 and width > 1000


def test_a_number_that_differs_is_found(tmp_path):
    for file in (DOCS / "results").glob("*.[cj]s*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "loss.csv"
    number = re.search(r"\d+\.\d+", table.read_text()).group()
    table.write_text(table.read_text().replace(number, str(float(number) + 1), 1))
    assert (DOCS / "results.md").read_text(encoding="utf-8") != page_text(list(EXPERIMENTS.values()), tmp_path)


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


def test_a_folder_of_the_user_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        write_outcome(TwoWidths(), [], tmp_path / "out", made_of={})
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_verdicts_follow_from_the_numbers():
    def row(geometry, loss, length):
        cells = dict.fromkeys(loss_experiment.Loss.columns, 10.0)
        return cells | {"geometry": geometry, "loss": loss, loss_experiment.LENGTH: length}

    lengths = {"mse": 0.05, "weighted_mse": 0.9, "weighted_l2": 0.9}
    rows = [row(geometry, loss, lengths[loss]) for geometry in ("pairwise", "fourier") for loss in lengths]
    assert EXPERIMENTS["loss"].verdict(rows)[0] == "reproduced"
    none_trivial = [one | {loss_experiment.LENGTH: 0.9} for one in rows]
    assert EXPERIMENTS["loss"].verdict(none_trivial)[0] == "not reproduced"
    all_trivial = [one | {loss_experiment.LENGTH: 0.1} for one in rows]
    assert EXPERIMENTS["loss"].verdict(all_trivial)[0] == "not reproduced"


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
