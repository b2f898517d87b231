"""What every figure has: units, counts, nothing over anything else, and no meaning that colour alone carries."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

import modeling_adapt.figures as look
from experiments import opposite_charges
from experiments.attention_radius import ALL, RADIUS
from experiments.experiment import all_experiments
from experiments.outcome import read_table
from experiments.shared import DATA, FAR, MAE, NEAR, of_percent
from modeling_adapt.data.build.dataset_card import write_card
from modeling_adapt.data.build.writing import write_dataset
from modeling_adapt.data.structures import structure_row
from modeling_adapt.evaluation.answers import Answer, draw_energies
from modeling_adapt.evaluation.calibration import Calibration, calibration_plot
from modeling_adapt.evaluation.plots import ENERGIES, error_profile, parity_plot, training_curve
from modeling_adapt.evaluation.questions import Reference
from modeling_adapt.hub.picture import draw_example
from modeling_adapt.simulation.tree import plot_distortions

pytestmark = pytest.mark.figures
RESULTS = Path(__file__).parents[1] / "docs" / "results"
UNIT = r"\([^)]+\)$|in %|number of|^atoms$|in a hexagon|step|loss"  # or what has none


@pytest.fixture
def shown(monkeypatch) -> list[Figure]:
    """Figures as they would be written, laid out."""
    figures: list[Figure] = []

    def keep(figure, path):
        look.FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        figures.append(figure)

    monkeypatch.setattr(look, "save_figure", keep)
    return figures


def require_readable(figure: Figure) -> None:
    within = figure.bbox.padded(1)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    beyond = _not_drawn(figure)
    texts = [text for text in texts if text not in beyond]
    boxes = [text.get_window_extent().padded(-2) for text in texts]
    for number, (text, box) in enumerate(zip(texts, boxes, strict=True)):
        assert within.x0 <= box.x0 and box.x1 <= within.x1 and within.y0 <= box.y0 and box.y1 <= within.y1, (
            text.get_text()
        )
        for other, more in zip(texts[:number], boxes[:number], strict=True):
            assert not box.overlaps(more), (text.get_text(), other.get_text())
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes)
    for axes in figure.axes:
        assert axes.get_legend() is None, "a legend stands outside of the axes"
        labels = [axes.get_xlabel(), axes.get_ylabel()]
        for label in filter(None, labels):
            assert re.search(UNIT, label), label
        handles = axes.get_legend_handles_labels()[0]
        looks = [_without_colour(handle) for handle in handles]
        assert len(set(looks)) == len(looks), looks


def _not_drawn(figure: Figure) -> set[Text]:
    """Labels of ticks beyond the ends of an axis, which are there too."""
    labels: set[Text] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        seen = axis._update_ticks() if axis.axes.axison else []
        unseen = [tick for tick in (*axis.majorTicks, *axis.minorTicks) if tick not in seen]
        labels |= {label for tick in unseen for label in (tick.label1, tick.label2)}
    return labels


def _without_colour(handle) -> tuple:
    lines = [handle, *getattr(handle, "lines", [])]
    line = next((one for one in lines if hasattr(one, "get_marker")), None)
    if line is not None:
        return line.get_marker(), line.get_linestyle(), line._unscaled_dash_pattern
    bar = handle[0] if hasattr(handle, "__getitem__") else handle
    return bar.get_hatch(), bar.get_linestyle()


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("count", [1, 40, 6000])
def test_parity(shown, count):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=count)
    predicted = reference + 0.1 * rng.normal(size=count)
    title = "a-model-with-a-long-name-2026-11-29-rate-0.003, validation of a-data-set"
    parity_plot(predicted, reference, "parity.png", title=title, baseline="zero forces: MAE 800.0 meV/Å")
    parity_plot(predicted, reference, "energy.png", ENERGIES, title="adapt-si")
    for figure in shown:
        require_readable(figure)
    said = words(shown[0])
    mae, rmse = np.abs(predicted - reference).mean(), np.sqrt(np.square(predicted - reference).mean())
    assert f"n = {count:,} force components" in said and f"n = {count:,} structures" in words(shown[1])
    assert f"MAE {1000 * mae:.1f}, RMSE {1000 * rmse:.1f} meV/Å" in said and "difference (meV/Å)" in said
    assert "a-model-with" in said and "zero forces" in said


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("count", [1, 3000])
def test_error_profile(shown, count, log_scale):
    rng = np.random.default_rng(0)
    forces = rng.normal(size=(count, 3))
    predicted = forces + 0.03 * rng.normal(size=forces.shape)
    quantity = np.append(rng.uniform(0.05, 9, count), [np.nan, np.inf])  # what is not known is left out
    more = np.zeros((2, 3))
    arrays = np.vstack([predicted, more]), np.vstack([forces, more])
    error_profile(quantity, *arrays, "p.png", "distance (Å)", log_scale, "adapt-si")
    (figure,) = shown
    require_readable(figure)
    (bars,) = figure.axes[1].patches
    assert bars.get_data().values.sum() == count and f"n = {count:,} atoms" in words(figure)
    assert len(figure.axes[0].containers) == 2  # both with bars


def test_training_curve(shown, tmp_path):
    zero = {"eval_zero_force_mae_mev_per_ang": 816.6, "eval_composition_baseline_mae_mev_per_atom": 155.4}
    history = [{"step": step, "loss": 10 / step} for step in range(10, 400, 10)]
    for step in (100, 200, 300):
        found = {"eval_force_mae_mev_per_ang": 4000 / step, "eval_energy_mae_mev_per_atom": 300 / step}
        trained = {"eval_train_force_mae_mev_per_ang": 3000 / step, "eval_num_structures": 50}
        history.append({"step": step, **zero, **found, **trained})
    training_curve(history, tmp_path / "run" / "training_curve.png", chosen=200)
    (figure,) = shown
    require_readable(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "training loss",
        "force MAE (meV/Å)",
        "energy MAE (meV/atom)",
    ]
    assert all(axes.get_yscale() == "log" for axes in figure.axes)
    for axes, error in zip(figure.axes[1:], (20.0, 1.5), strict=True):
        (star,) = [line for line in axes.lines if line.get_label() == "chosen checkpoint"]
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (200, error)
        low, high = axes.get_ylim()
        assert low < error < high and high > 100  # the trivial baseline is there too
    assert "training of run" in words(figure) and "n = 50 structures" in words(figure)


def test_calibration(shown):
    rng = np.random.default_rng(0)
    calibration_plot(Calibration(None, rng.exponential(size=500), rng.exponential(size=500)), "c.png", "two models")
    require_readable(shown[0])
    assert "n = 500 atoms" in words(shown[0]) and "two standard errors" in words(shown[0])


def test_answers(shown):
    references = {"DFT": Reference(3.6, "a"), "GAP": Reference(3.5, "b")}
    answers = {f"defect {number}": Answer("eV", {64: 3.3}, references, 0.2) for number in range(9)}
    answers["barrier"] = Answer("eV", {64: 0.3}, {"GAP": Reference(0.5, "b")})
    draw_energies(answers, Path("answers.png"), "adapt-si: energies of silicon")
    require_readable(shown[0])
    assert "one standard deviation" in words(shown[0])
    assert [axes.get_xlabel() for axes in shown[0].axes] == ["energy (eV)", "energy − DFT (eV)"]


def test_distortions(shown):
    from modeling_adapt.simulation.ranking import Candidate, rank

    cell = bulk("Cu", cubic=True) * 2
    group = []
    for number, name in enumerate(
        ("Bond_Distortion_-40.0%", "Bond_Distortion_20.0%", "Unperturbed", "Rattled", "Dimer")
    ):
        atoms = cell.copy()
        atoms.positions[3, 0] += 0.4 * number
        group.append(Candidate(f"v_Cu_0/{name}", atoms, 0.1 * number - 3))
    plot_distortions(rank(group), Path("v.png"), "v_Cu_0, a model")
    require_readable(shown[0])
    assert "n = 5 relaxed structures" in words(shown[0])


def test_data_set(shown, tmp_path):
    rng = np.random.default_rng(0)
    vacancy = bulk("Si", cubic=True) * 2
    site = vacancy.positions[0].copy()
    del vacancy[0]
    rows = []
    for number in range(30):
        known = {"defect_sites": [site], "defect_kinds": ["v_Si"], "config_type": f"kind {number % 5}"}
        made = structure_row(
            vacancy, rng.normal(size=(63, 3)), -1.0, trajectory=f"t{number}", source=f"a#{number}", **known
        )
        rows.append(made)
    write_dataset({"train": rows[:20], "validation": rows[20:25], "test": rows[25:]}, tmp_path / "set")
    write_card(tmp_path / "set")
    assert len(shown) == 3
    for figure in shown:
        require_readable(figure)
    said = "\n".join(map(words, shown))
    assert (
        "train (n = 1,260 atoms)" in said
        and "n = 30 structures" in said
        and "n = 1,890 atoms of 30 structures" in said
    )


# Rows of experiments without a table of results.
NOT_YET_RUN = {
    "attention-radius": [
        {DATA: data, RADIUS: radius, MAE: 60.0, NEAR: 90.0, FAR: far}
        for data in ("generated", "ionic")
        for radius, far in (("3 Å", 30.0), (ALL, None))
    ],
    "opposite-charges": [
        dict(zip(opposite_charges.OppositeCharges.columns, (distance, 4 / distance, 0.5, 4 / distance), strict=True))
        for distance in (4.2, 6.3, 8.4, 10.5, 12.6)
    ],
}


@pytest.mark.parametrize("experiment", all_experiments().values(), ids=lambda experiment: experiment.name)
def test_experiments(shown, experiment):
    table = RESULTS / f"{experiment.name}.csv"
    rows = read_table(experiment, table) if table.is_file() else NOT_YET_RUN[experiment.name]
    experiment.draw(rows, Path("figure.png"))
    require_readable(shown[0])


def test_example(shown):
    rng = np.random.default_rng(0)
    atoms = bulk("Si", cubic=True)
    example = {"atomic_numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array, "pbc": True}
    draw_example(example | {"energy": -43.0, "forces": rng.normal(size=(8, 3))}, Path("example.png"))
    draw_example(example | {"energy": -43.0}, Path("example.png"))
    assert "Si8: energy -43.000 eV" in words(shown[0]) and "eV/Å" in words(shown[0])
    assert sum(isinstance(text, Annotation) for text in shown[0].findobj(Text)) == 8
    for figure in shown:
        require_readable(figure)


def test_intervals_of_shares():
    """Against statsmodels' proportion_confint(4, 16, method="wilson")."""
    below, above = of_percent(16)(25.0)
    assert 25 - below == pytest.approx(10.18, abs=0.02) and 25 + above == pytest.approx(49.50, abs=0.02)
    assert of_percent(16)(100.0)[1] == of_percent(16)(0.0)[0] == 0


def test_the_styles_differ_in_grey():
    grey = [
        np.dot([0.299, 0.587, 0.114], [int(style.colour[place : place + 2], 16) for place in (1, 3, 5)])
        for style in look.STYLES[:2]
    ]
    assert abs(grey[0] - grey[1]) > 40
    for part in ("marker", "dash", "hatch"):
        values = [getattr(style, part) for style in look.STYLES]
        assert len(set(map(str, values))) == len(values)


def test_a_style_of_the_user_changes_nothing(tmp_path, shown):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.spines.top": True}):
        parity_plot(np.ones(3), np.zeros(3), "p.png")
    assert shown[0].axes[0].xaxis.label.get_size() == 8 and dict(matplotlib.rcParams) == before
