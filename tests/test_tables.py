"""Tables of the commands, the cards and docs/results.md: their form is ours, whatever the library lays them with."""

import csv
import io

import pytest

from modeling_adapt.tables import csv_rows, csv_text, format_table, markdown_table, plus_minus


def test_numbers_stand_below_each_other_as_they_were_written():
    table = format_table(("name", "MAE"), [("vacancy", "53.10"), ("Å", "-"), ("", "0012")])
    assert table.splitlines() == [
        "name       MAE",
        "-------  -----",
        "vacancy  53.10",
        "Å            -",
        "          0012",
    ]


def test_no_rows_are_a_table_too():
    assert format_table(("name", "MAE"), []) == "name  MAE\n----  ---"
    assert markdown_table(("name", "MAE"), []) == "| name | MAE |\n| --- | --- |"


def test_markdown_does_not_follow_the_width_of_its_cells():
    table = markdown_table(("a|b", "c"), [(1, "x\ny"), (None, "1.50")])
    assert table == "| a\\|b | c |\n| --- | --- |\n| 1 | x y |\n| None | 1.50 |"


FORMULAS = ["=cmd()", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1"]


@pytest.mark.parametrize("name", [*FORMULAS, "'", "", "-", "<script>", "a,b", 'a"b', "a\nb", "-3.5", "vacancy", "Å"])
def test_no_cell_is_a_formula_and_each_comes_back(name):
    text = csv_text([("name", "energy"), (name, -3.5), (f"{name}2", None)])
    cells = [row[0] for row in csv.reader(io.StringIO(text, newline=""))]
    assert not any(cell[:1] in ("=", "+", "@", "\t", "\r") for cell in cells)
    assert all(not cell.startswith("-") or float(cell) for cell in cells)
    assert [row["name"] for row in csv_rows(text)] == [name, f"{name}2"]
    assert "-3.5" in text and "'-3.5" not in text


def test_an_uncertainty_is_never_0():
    assert [plus_minus(one) for one in (None, 0.237, 0.003, 1e-5)] == ["", " ± 0.24", " ± 0.003", " ± 0.001"]
