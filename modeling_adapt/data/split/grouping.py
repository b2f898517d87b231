"""Rows that must stay together when a data set is divided, in an order that does not depend on theirs."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Unit = Literal["trajectory", "config_type"]  # what is never divided


class RowKey(NamedTuple):
    """What decides the split of a row."""

    trajectory: str
    config_type: str
    has_forces: bool


class Group(NamedTuple):
    """Rows that stay together.

    Args:
        name: of the trajectory, or of the config type.
        config_type: the one of most of its rows.
        has_forces: of any of its rows.
        rows: their numbers.
    """

    name: str
    config_type: str
    has_forces: bool
    rows: list[int]


def groups(keys: Sequence[RowKey], rows: Iterable[int], by: Unit = "trajectory") -> list[Group]:
    """The trajectories that `rows` (numbers into `keys`) belong to, or their config types; each with its rows.

    A trajectory whose structures are of several config types counts as the one of most of them. A row without the name
    of a trajectory is one of its own, called by its number.
    """
    trajectories: dict[str, list[int]] = {}
    for row in rows:
        trajectories.setdefault(keys[row].trajectory or f"row {row}", []).append(row)
    found = [_group(name, members, keys) for name, members in trajectories.items()]
    if by == "trajectory":
        return found
    kinds: dict[str, list[Group]] = {}
    for group in found:
        kinds.setdefault(group.config_type, []).append(group)
    return [
        Group(kind, kind, any(part.has_forces for part in parts), [row for part in parts for row in part.rows])
        for kind, parts in kinds.items()
    ]


def _group(name: str, rows: list[int], keys: Sequence[RowKey]) -> Group:
    kinds = [keys[row].config_type for row in rows]
    kind = min(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    return Group(name, kind, any(keys[row].has_forces for row in rows), rows)


def strata(found: Iterable[Group]) -> list[list[Group]]:
    """Groups of one config type each, the types in alphabetical order."""
    by_type: dict[str, list[Group]] = {}
    for group in found:
        by_type.setdefault(group.config_type, []).append(group)
    return [by_type[kind] for kind in sorted(by_type)]


def shuffled(found: Iterable[Group], seed: int) -> list[Group]:
    """Random order that depends on the seed and the names alone, so that further groups do not change it."""
    return sorted(found, key=lambda group: hashlib.blake2b(f"{seed}:{group.name}".encode()).digest())
