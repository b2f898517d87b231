"""Tables of the commands, the cards and docs/results.md: their form is ours, whatever the library lays them with."""

from modeling_adapt.tables import format_table, markdown_table


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
