"""The file that says of which sources a data set is made: what is read of each, under what licence, with what weight.

```yaml
energies: VASP PBE  # the level of theory whose energies are kept; by default the one of most structures
sources:
  - name: relaxations
    files: [vacancy.extxyz, runs/]  # below --root; a folder is searched for VASP runs
    license: cc-by-4.0
    level: VASP PBE
    weight: 2.0
    split: train
```
"""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from ..errors import InputError, no_such
from ..files import read_yaml
from .options import ReadingOptions
from .split.splitting import Unit, split_fractions

# Identifiers of the Hub for licences under which everybody may pass data on, changed, and beside data of others.
OPEN_LICENSES = (
    *("apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "cdla-permissive-2.0"),
    *("isc", "mit", "odc-by", "pddl", "unlicense"),
)


@dataclass(frozen=True)
class Source:
    """Files of one origin.

    Args:
        name (`str`): What rows, card and messages call it; letters, digits, `_`, `-` and `.`.
        files (`list[str]`): Below the root; a folder is searched for VASP runs.
        license (`str`): As the Hub calls it where it knows it, such as mit; any words.
        level (`str`): The level of theory, in any words; energies of sources of one level are of one zero.
        citation (`str`, defaults to `""`): Whom to cite.
        url (`str`, defaults to `""`): Where it is from.
        description (`str`, defaults to `""`): What it is, in a sentence.
        weight (`float`, defaults to `1.0`): By which the loss of each of its structures is multiplied.
        split (`str`, defaults to `"0.8,0.1,0.1"`):
            Where all of it goes, or fractions of train, validation and test, into which whole trajectories go.
        split_by (`Unit`, defaults to `"trajectory"`): With fractions what is not divided, of [`Unit`].
        max_energy_per_atom (`float`, *optional*): In eV; structures above it are left out.
        max_force (`float`, *optional*): In eV/Å; structures with a longer force on an atom are left out.
        forces_key (`str`, *optional*): Of [`ReadingOptions`], as are the following.
        energy_key (`str`, *optional*): Likewise.
        stress_key (`str`, *optional*): Likewise.
        group_key (`str`, *optional*): Likewise.
        group_pattern (`str`, *optional*): Likewise.
        host (`str`, defaults to `"auto"`): Likewise; a file is below the root.
    """

    name: str
    files: list[str]
    license: str
    level: str
    citation: str = ""
    url: str = ""
    description: str = ""
    weight: float = 1.0
    split: str = "0.8,0.1,0.1"
    split_by: Unit = "trajectory"
    max_energy_per_atom: float | None = None
    max_force: float | None = None
    forces_key: str | None = None
    energy_key: str | None = None
    stress_key: str | None = None
    group_key: str | None = None
    group_pattern: str | None = None
    host: str = "auto"

    def options(self, skip_broken: bool) -> ReadingOptions:
        """How its files are read."""
        told = {name: getattr(self, name) for name in ReadingOptions._fields if name != "skip_broken"}
        return ReadingOptions(**told, skip_broken=skip_broken)


@dataclass(frozen=True)
class SourceList:
    """
    Args:
        sources (`list[Source]`): At least one.
        energies (`str`, *optional*):
            The level of theory whose energies are kept. None: the one with most structures that have an energy.
        seed (`int`, defaults to `0`): Of splits by fractions.
        apart (`bool`, defaults to `False`):
            Each source becomes a data set of its own, with its own energies, in a repository that can be published; so
            each needs a licence of `OPEN_LICENSES`.
    """

    sources: list[Source]
    energies: str | None = None
    seed: int = 0
    apart: bool = False


def read_sources(path: str | Path) -> SourceList:
    """
    Raises:
        [`InputError`]: There is no such file, or it says what makes no sense; the line names the source and the key.
    """
    content = read_yaml(path)
    if not isinstance(content.get("sources"), list) or not content["sources"]:
        raise InputError(f"{path}: no list named sources")
    _require_known(content, SourceList, str(path))
    sources = [_source(one, f"{path}, source {number}") for number, one in enumerate(content["sources"], 1)]
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: two sources have the name {twice[0]}")
    energies, seed = content.get("energies"), content.get("seed", 0)
    levels = list(dict.fromkeys(source.level for source in sources))
    if energies is not None and energies not in levels:
        raise InputError(f"{path}: energies: no source has the level {energies!r}; there are {', '.join(levels)}")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"{path}: seed: {seed!r} is not a whole number of at least 0")
    if not isinstance(apart := content.get("apart", False), bool):
        raise InputError(f"{path}: apart: {apart!r} is neither true nor false")
    if apart:
        _require_open(sources, str(path))
        if energies is not None:
            raise InputError(f"{path}: energies goes with one data set; with apart: true each source keeps its own")
    return SourceList(sources, energies, seed, apart)


def _require_open(sources: list[Source], where: str) -> None:
    """Raises [`InputError`] for a source that is not everybody's to pass on."""
    for source in sources:
        if source.license not in OPEN_LICENSES:
            raise InputError(
                f"{where}: {source.name} is under '{source.license}', by which not everybody may pass it on; leave it "
                f"out of a list with apart: true, which takes {', '.join(OPEN_LICENSES)}"
            )


def _source(content: Any, where: str) -> Source:
    if not isinstance(content, dict):
        raise InputError(f"{where}: not a list of keys and values")
    where = f"{where} ({content['name']})" if "name" in content else where
    _require_known(content, Source, where)
    if missing := [one.name for one in fields(Source) if one.default is MISSING and one.name not in content]:
        raise InputError(f"{where}: it needs {', '.join(missing)}")
    values = {name: value for name, value in content.items() if value is not None}
    values["files"] = [values["files"]] if isinstance(values["files"], str) else values["files"]
    if isinstance(values.get("split"), list):
        values["split"] = ",".join(map(str, values["split"]))
    for name, value in values.items():
        _require_type(name, value, where)
    source = Source(**values)
    if not re.fullmatch(r"[\w.-]+", source.name):
        raise InputError(f"{where}: a name has letters, digits, _, - and . alone")
    if not source.weight > 0:
        raise InputError(f"{where}: weight: {source.weight} is not a positive number")
    if source.split_by not in (units := get_args(Unit)):
        raise InputError(f"{where}: {no_such(source.split_by, units, 'split_by')} There are {', '.join(units)}")
    if source.group_pattern is not None and source.group_key is None:
        raise InputError(f"{where}: group_pattern goes with group_key, and there is none")
    try:
        if split_fractions(source.split) is None and "split_by" in values:
            raise InputError(f"split_by divides rows, and all of these are in the split {source.split}; leave it out")
        re.compile(source.group_pattern or "")
    except InputError as error:
        raise InputError(f"{where}: {str(error).replace('--split', 'split')}") from error
    except re.error as error:
        raise InputError(f"{where}: group_pattern: {error}") from error
    return source


def _require_known(content: Mapping[str, Any], kind: Any, where: str) -> None:
    known = [one.name for one in fields(kind)]
    if unknown := [name for name in content if name not in known]:
        raise InputError(f"{where}: {no_such(str(unknown[0]), known, 'key')} There are {', '.join(known)}")


def _require_type(name: str, value: Any, where: str) -> None:
    if name == "files":
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise InputError(f"{where}: files: name one file or a list of them")
    elif name in ("weight", "max_energy_per_atom", "max_force"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{where}: {name}: {value!r} is not a number")
    elif not isinstance(value, str):
        raise InputError(f"{where}: {name}: {value!r} is no text; write it in quotes")
