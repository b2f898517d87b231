"""One walk through a split: what it finds, and that it is walked once."""

import numpy as np
import pytest

from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.columns import ArrayRows
from modeling_adapt.data.load import survey as surveys
from modeling_adapt.data.load.reading import read_split
from modeling_adapt.data.load.survey import content_hash, fit_statistics, require_cubic_cells, survey
from modeling_adapt.errors import InputError


@pytest.fixture
def rows(springs):
    return read_split(springs, "train")


@pytest.mark.parametrize("rows_per_read", [1000, 3])
def test_it_finds_what_the_rows_say(rows, monkeypatch, rows_per_read):
    monkeypatch.setattr("modeling_adapt.data.columns.ROWS_PER_READ", rows_per_read)
    found, plain = survey(rows), rows.to_list()
    assert found.elements.tolist() == [14]
    assert found.sizes.tolist() == [len(row["atomic_numbers"]) for row in plain]
    assert found.compositions[:, 14].tolist() == found.sizes.tolist() and found.compositions.shape == (16, 119)
    assert found.energies.tolist() == [row["energy"] for row in plain]
    assert found.cubic.tolist() == [row["cell"][0][0] == row["cell"][1][1] for row in plain]
    assert found.defective.all() and not found.weighted.any()
    forces = np.concatenate([row["forces"] for row in plain])
    np.testing.assert_allclose(found.statistics.force_std, forces.std(axis=0))


def test_a_split_is_walked_once(rows, monkeypatch):
    walks = []
    tables = surveys.tables
    monkeypatch.setattr(surveys, "tables", lambda rows: walks.append(rows) or tables(rows))
    content_hash(rows), fit_statistics(rows)
    with pytest.raises(InputError, match="row 1 .*cubic"):
        require_cubic_cells(rows)
    assert len(walks) == 1
    assert content_hash(rows.select([0])) != content_hash(rows) and len(walks) == 2


def test_arrays_have_the_same_domain_as_python_objects(rows):
    assert fit_domain(ArrayRows(rows), reads_coordinates=True) == fit_domain(rows, reads_coordinates=True)
