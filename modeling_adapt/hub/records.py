"""The records beside a model, read so that one that is damaged or edited is one line and no traceback."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, one_line
from ..evaluation.answers import ANSWERS_FILE, Answer
from ..evaluation.physical_checks import CHECKS
from ..evaluation.report import COLUMNS

PHYSICAL_CHECKS = "physical_checks"  # in metrics.json
_SHOWN = {metric for columns in COLUMNS.values() for _, metric, _ in columns}
_GROUPS = ("by_config_type", "by_defect_distance", "by_element")
_NAMES = ("dataset", "initial_model", "train_split", "validation_split", "test_split")
_PARTS: dict[str, Any] = {
    "data": Mapping | str,
    "structures": Mapping,
    "sources": list,
    "versions": Mapping,
    "training_seconds": float | int,
    "command": list,
}


def read_record(path: Path) -> dict[str, Any]:
    """A mapping of JSON or YAML; empty where there is no such file.

    Raises:
        [`InputError`]: It cannot be read, or what the card shows of it has another type than we write.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be read: it holds no names with values")
    check = _CHECKS.get(path.name)
    problem = None if check is None else check(found)
    if problem is not None:
        raise InputError(f"{path} cannot be read: {problem}; write it again, or correct it")
    return found


def checks_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a card shows of the checks in a metrics.json; what could not be measured is absent or null there."""
    found = metrics.get(PHYSICAL_CHECKS) or {}
    return {name: found[name] for name in CHECKS if found.get(name) is not None}


def answers_of(record: Mapping[str, Any]) -> dict[str, Answer]:
    """What answers.json tells, by name; nothing of an empty record."""
    return {str(name): Answer.of_record(one) for name, one in record.get("answers", {}).items()}


def _problem_of_recipe(recipe: Mapping[str, Any]) -> str | None:
    wrong = [name for name in _NAMES if not isinstance(recipe.get(name), str | None)]
    if not isinstance(recipe.get("train_subset", 100), int | float):
        return "train_subset is no number"
    return f"{wrong[0]} is no text" if wrong else None


def _problem_of_run(run: Mapping[str, Any]) -> str | None:
    parts = run.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return "parts is no list of records"
    for part in parts:
        for name, kind in _PARTS.items():
            if name in part and part[name] is not None and not isinstance(part[name], kind):
                return f"{name} is {part[name]!r}"
        if not all(isinstance(source, dict) for source in part.get("sources") or []):
            return "sources is no list of records"
    return None


def _problem_of_training(metrics: Mapping[str, Any]) -> str | None:
    return _no_number({name: value for name, value in metrics.items() if name.startswith(("eval_", "test_"))})


def _problem_of_evaluation(metrics: Mapping[str, Any]) -> str | None:
    lines = [metrics]
    for key in _GROUPS:
        groups = metrics.get(key, {})
        if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
            return f"{key} holds no groups"
        lines += groups.values()
    if not isinstance(metrics.get(PHYSICAL_CHECKS), dict | None):
        return f"{PHYSICAL_CHECKS} holds no names with numbers"
    checks = checks_of(metrics)
    shown = [{name: value for name, value in line.items() if name in _SHOWN} for line in lines]
    problems = [_no_number(line) for line in (*shown, checks)]
    problems += [f"{name} is {value}, no number" for name, value in checks.items() if not _is_finite(value)]
    wrong = [name for name in ("model", "dataset", "split") if not isinstance(metrics.get(name), str | None)]
    problems += [f"{name} is no text" for name in wrong]
    return next((problem for problem in problems if problem is not None), None)


def _problem_of_answers(record: Mapping[str, Any]) -> str | None:
    try:
        numbers = [value for one in answers_of(record).values() for value in (one.value, one.error or 0.0)]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        return f"its answers are not as evaluate.py writes them ({type(error).__name__}: {one_line(error)})"
    return None if all(map(math.isfinite, numbers)) else "an answer is no finite number"


def _problem_of_state(state: Mapping[str, Any]) -> str | None:
    log = state.get("log_history", [])
    if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        return "log_history is no list of records"
    wrong = [entry for entry in log if not isinstance(entry.get("train_runtime", 0.0), float | int)]
    return "train_runtime is no number" if wrong else None


def _no_number(values: Mapping[str, Any]) -> str | None:
    """The first value that is no number, where a table prints numbers; counts are whole ones."""
    for name, value in values.items():
        kind: Any = int if name.endswith("num_structures") else int | float
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"{name} is {value!r}, no number"
    return None


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


_CHECKS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "recipe.yaml": _problem_of_recipe,
    "run.json": _problem_of_run,
    "training_metrics.json": _problem_of_training,
    "metrics.json": _problem_of_evaluation,
    "trainer_state.json": _problem_of_state,
    ANSWERS_FILE: _problem_of_answers,
}
