"""The page that shows what a folder of `relax.py` holds."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

import modeling_adapt.cli.relax as command
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.report import write_report
from modeling_adapt.simulation.report_drawings import embedded
from modeling_adapt.simulation.results import SummaryFile

NASTY = "<img src=x onerror=alert(1)> & \"'$title"


class Copper(EMT):
    """EMT in the place of a model with energies; where there is nickel, its forces end at the third call."""

    domain = None
    calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += "Ni" in self.atoms.symbols
        if self.calls > 2 and "Ni" in self.atoms.symbols:
            self.results["forces"] = np.full((len(self.atoms), 3), np.nan)


def _vacancy(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True) * 3
    del atoms[0]
    atoms.rattle(0.05, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A vacancy that converges, one that does not, one with nickel that leaves; bulk; bulk under a nasty name."""
    folder = tmp_path_factory.mktemp("report")
    frozen, nickel = _vacancy(2), _vacancy(3)
    frozen.positions[0] += 0.4
    frozen.set_constraint(FixAtoms([5]))
    nickel.symbols[7] = "Ni"
    inputs = {"easy": _vacancy(1), "frozen": frozen, "nickel": nickel, "bulk": bulk("Cu") * 3, NASTY: bulk("Cu")}
    for name, atoms in inputs.items():
        ase.io.write(folder / f"{name}.extxyz", atoms)
    paths = [str(folder / f"{name}.extxyz") for name in inputs]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("modeling_adapt.simulation.relaxation.can_batch", lambda *_: False)
        monkeypatch.setattr(ADAPTCalculator, "from_pretrained", lambda *_, **__: Copper())
        output = folder / "out"
        command.main([*paths, "--model", "runs/<copper>", "--steps", "4", "--fmax", "0.2", "--output", str(output)])
    return output


@pytest.fixture
def output(results, tmp_path) -> Path:
    """A copy to change."""
    for path in results.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell, section and script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.sections: dict[str, str] = {}
        self.data: list[dict] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "path"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "b":
            self.sections[""] = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in self._open:
            assert self._open.pop() == tag
        if tag == "b":
            self.sections[self.sections.pop("")] = ""

    def handle_data(self, text):
        if "table" in self._open and self.rows and self.rows[-1]:
            self.rows[-1][-1] += text
        if "script" in self._open and "details" in self._open:
            self.data.append(json.loads(text))
        elif "details" in self._open and self.sections:
            name = next(reversed(self.sections))
            self.sections[name] += text

    def statuses(self) -> dict[str, str]:
        header, *rows = self.rows
        return {row[0]: row[header.index("status")][2:] for row in rows if len(row) == len(header)}


def _change_summary(output: Path, name: str, **changes: str) -> None:
    path = output / "summary.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    for row in rows:
        row |= changes if row["name"] == name else {}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_tables_of_another_shape_are_one_line(tmp_path):
    SummaryFile(tmp_path / "summary.csv").start()
    (tmp_path / "relax.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match="its tables are not as relax.py writes them"):
        write_report(tmp_path)


def test_statuses_are_those_of_the_summary(output):
    _change_summary(output, "bulk", status="converged?")
    page = Page(write_report(output))
    expected = {row["name"]: row["status"] for row in csv.DictReader((output / "summary.csv").open(newline=""))}
    assert set(expected.values()) == {"converged", "not converged", "left the trained region", "converged?"}
    assert page.statuses() == expected | {"bulk": "unknown status"}
    text = (output / "report.html").read_text()
    for count in ("✓ 2 converged", "… 1 not converged", "✗ 1 left the trained region", "? 1 unknown status"):
        assert f"{count}</span>" in text.replace("<span>", "")
    assert re.search(r"step \d: the force on Cu \(atom 0\) is not finite", text)


def test_an_unfinished_folder_says_so(output):
    lines = (output / "summary.csv").read_text().splitlines(keepends=True)
    (output / "summary.csv").write_text("".join(lines[:-1]))
    assert "1 without a result</span>" in write_report(output).read_text()


def test_needs_nothing_from_elsewhere(output):
    page = Page(write_report(output))
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith("#") for link in links)
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    text = (output / "report.html").read_text()
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_what_files_say_is_text(output):
    finding = "step 1: </script><script>alert(2)</script> & more"
    _change_summary(output, NASTY, status="left the trained region", findings=finding)
    page = Page(write_report(output, "<i>Title</i> $facts"))
    text = (output / "report.html").read_text()
    assert "<img" not in text and "<script>alert" not in text and "<copper>" not in text
    assert "&lt;i&gt;Title&lt;/i&gt; $facts</h1>" in text and "<dd>&lt;copper&gt;</dd>" in text
    assert page.statuses()[NASTY] == "left the trained region"
    assert NASTY in page.sections and finding in page.sections[NASTY]
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "details"}
    assert {f"#{one}" for one in ids} == {attributes["href"] for tag, attributes in page.tags if tag == "a"}


def test_columns_without_values_are_left_out(output):
    header = Page(write_report(output)).rows[0]
    assert {"fmax (eV/Å)", "moved (Å)", "ΔQ (amu1/2 Å)", "ΔE (eV)", "E (eV)"} <= set(header)
    assert not any("spread" in name for name in header)
    assert "E − lowest (eV)" in header  # of the ranking
    (output / "ranking.csv").unlink()
    for name in ("easy", "frozen", "nickel", "bulk", NASTY):
        _change_summary(output, name, energy_change_ev="")
    header = Page(write_report(output)).rows[0]
    assert "ΔE (eV)" not in header and "E − lowest (eV)" not in header


def test_what_is_asked_first_stands_first(output):
    """By rank; each uncertainty beside its number, and no path of this machine."""
    lines = [
        ["rank", "name", "energy_above_lowest_ev", "energy_above_lowest_uncertainty_ev", "same_as"],
        ["2", "easy", "0.7", "0.125", "easy"],
        ["1", "bulk", "0.0", "0.0", "bulk"],
    ]
    (output / "ranking.csv").write_text("\n".join(map(",".join, [lines[0], lines[2], lines[1]])) + "\n")
    record = json.loads((output / "relax.json").read_text())
    (output / "relax.json").write_text(json.dumps(record | {"model": [str(output)], "host": str(output / "host.cif")}))
    header, *rows = Page(write_report(output)).rows
    assert header[:4] == ["name", "status", "rank", "E − lowest (eV)"] and not any(
        "uncertainty" in one for one in header
    )
    assert [row[0] for row in rows][:2] == ["bulk", "easy"] and rows[1][3] == "0.700 ± 0.12"
    page = (output / "report.html").read_text()
    assert f"<h1>Relaxations with {output.name}</h1>" in page and str(output) not in page and "host.cif" in page


def test_charts_and_views(output):
    page = Page(write_report(output))
    text = (output / "report.html").read_text()
    easy = text[text.index('<details id="easy"') : text.index('<details id="frozen"')]
    assert [label in easy for label in ("fmax (eV/Å)", "energy − start (eV)", "displacement (Å)")] == [True] * 3
    assert "At the start: v_Cu." in page.sections["easy"]
    assert "There is no defect at the start" in page.sections["bulk"]
    assert "no host crystal found" in page.sections[NASTY]

    data = page.data[list(page.sections).index("easy")]
    frames = ase.io.read(output / "easy.traj.extxyz", ":")
    start, end = (np.array(data[name]) for name in ("start", "end"))
    np.testing.assert_allclose(end - start, frames[-1].positions - frames[0].positions, atol=2e-3)
    wrapped = Atoms(frames[0].numbers, start, cell=data["cell"], pbc=True)
    np.testing.assert_allclose(wrapped.get_all_distances(mic=True), frames[0].get_all_distances(mic=True), atol=3e-3)
    np.testing.assert_allclose(data["defects"], np.zeros((1, 3)), atol=1e-3)  # in the middle
    far = np.flatnonzero(np.linalg.norm(start, axis=1) > 5.0)
    assert set(far) <= set(data["far"])  # the nearest image may be outside the box
    moved = np.linalg.norm(end - start, axis=1)
    assert set(data["moved"]) >= set(np.flatnonzero(moved > 0.102)) and 0 < len(data["moved"]) < len(start)


def test_energies_against_distortions(output):
    """Of what converged; the numbers of others are those of no minimum."""
    easy = next(line for line in csv.DictReader((output / "summary.csv").open()) if line["name"] == "easy")
    summary = SummaryFile(output / "summary.csv")
    for name, energy, status in [
        *(("v_Cu_0/Bond_Distortion_-30.0%", -1.5, "converged"), ("v_Cu_0/Bond_Distortion_20.0%", -1.0, "converged")),
        *(("v_Cu_0/Bond_Distortion_10.0%", -9.0, "not converged"), ("v_Cu_0/Unperturbed", -1.2, "converged")),
        ("v_Cu_+1/Unperturbed", -1.0, "converged"),
    ]:
        line = easy | {"name": name, "energy_ev": energy, "status": status}
        with summary.path.open("a") as file:
            csv.DictWriter(file, easy).writerow(line)
    text = write_report(output).read_text()
    part = text[text.index("Energy against distortion") : text.index("<h2>Structures")]
    assert part.count("<svg") == 1 and "v_Cu_0 (dashed: Unperturbed)" in part and "bond distortion (%)" in part
    assert ">0.3</text>" in part and "−8" not in part


@pytest.mark.parametrize("content", [None, "", "no structure\n"])
def test_a_trajectory_that_is_lost(output, content):
    path = output / "easy.traj.extxyz"
    path.unlink() if content is None else path.write_text(content)
    page = Page(write_report(output))
    assert page.statuses()["easy"] == "converged"
    section = page.sections["easy"]
    assert "nothing to draw" in section and ("missing" in section or "empty" in section or "cannot read" in section)
    assert len(page.data) == len(page.sections) - 1


def test_molecules_have_no_cell(output):
    for frame in (frames := ase.io.read(output / "easy.traj.extxyz", ":")):
        frame.cell, frame.pbc = None, False
    ase.io.write(output / "easy.traj.extxyz", frames)
    page = Page(write_report(output))
    assert "Where the defect is, is not known" in page.sections["easy"]
    assert page.data[list(page.sections).index("easy")]["cell"] == []


def test_size(output):
    """Fifty structures of 217 atoms are to fit in 6 MB."""
    write_report(output)
    text = (output / "report.html").read_text()
    section = text[text.index('<details id="easy"') : text.index('<details id="frozen"')]
    assert len(section) < 250 * len(_vacancy(1)) + 5_000


def test_without_a_summary(tmp_path):
    with pytest.raises(InputError, match="summary.csv: no such file"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_record(output):
    (output / "relax.json").unlink()
    assert "<h1>Relaxations</h1>" in write_report(output).read_text()
    (output / "relax.json").write_text("{")
    with pytest.raises(InputError, match=r"relax\.json cannot be read"):
        write_report(output)


def test_data_cannot_end_the_script_that_holds_them():
    text = embedded({"name": "</script><b>"})
    assert "<" not in text and json.loads(text) == {"name": "</script><b>"}
