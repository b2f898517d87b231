"""Defect sites for structures that come without: against a host crystal that is given, or found for each of them."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ...crystal.defect_sites import DefectSite, find_defects
from ...crystal.host_crystal import host_of
from ...errors import InputError
from .frames import file_state, read_frames


def host_state(host: str) -> tuple[int, int] | None:
    """The [`file_state`] of a given host; None where there is no file."""
    return None if host in ("auto", "none") else file_state(Path(host))


class SiteSearch:
    """Finds the defect sites of structures, one after another.

    Args:
        host (`str`, defaults to `"auto"`):
            `"auto"`, `"none"`, or the file of the perfect crystal, in any format that ASE reads.

    Raises:
        [`InputError`]: There is no such file.
    """

    def __init__(self, host: str = "auto"):
        self._automatic = host == "auto"
        self._host = None if host in ("auto", "none") else next(read_frames(Path(host), "0"))

    def columns(self, atoms: Atoms, new_trajectory: bool, where: str = "structure") -> dict[str, Any]:
        """The columns `defect_sites`, (S, 3) in Å, and `defect_kinds` of a row; neither where there is no host.

        Args:
            atoms (`Atoms`): A structure that [`structure_row`] accepts.
            new_trajectory (`bool`):
                Otherwise the host found for the structure before is tried first, which saves time.
            where (`str`, defaults to `"structure"`): What errors call the structure.

        Raises:
            [`InputError`]: A host was given that is not the one of this structure.
        """
        defects = self._automatically(atoms, new_trajectory) if self._automatic else self._against_given(atoms, where)
        if defects is None:
            return {}
        return {
            "defect_sites": np.array([site.position for site in defects]).reshape(-1, 3),
            "defect_kinds": [site.kind for site in defects],
        }

    def _against_given(self, atoms: Atoms, where: str) -> list[DefectSite] | None:
        try:
            return None if self._host is None else find_defects(atoms, self._host)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def _automatically(self, atoms: Atoms, new_trajectory: bool) -> list[DefectSite] | None:
        for host in (None,) if new_trajectory or self._host is None else (self._host, None):
            try:
                self._host = host_of(atoms) if host is None else host
                return find_defects(atoms, self._host)
            except InputError:
                self._host = None
        return None
