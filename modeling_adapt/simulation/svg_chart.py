"""Small charts as inline SVG: a tenth of what matplotlib writes, in the colours of the page around them."""

from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator

_WIDTH, _HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 10, 42
_SMALLEST = 1e-4  # the least that a logarithmic axis shows; forces that are zero by symmetry are 1e-16


def chart(
    x: np.ndarray,
    y: np.ndarray,
    x_label: str,
    y_label: str,
    *,
    line: bool = True,
    logarithmic: bool = False,
    threshold: float | None = None,
) -> str:
    """
    One quantity against another.

    Args:
        x, y: (N,); what is not finite is left out.
        line: x are steps, joined by a line with a dot at the last one; else dots, which differ above `threshold`.
        logarithmic: along y.
        threshold: y of a dashed line.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if not len(x):
        return f'<p class="note">{escape(y_label)}: no finite values</p>'
    levels = np.array([] if threshold is None else [threshold])
    above = y > threshold if threshold is not None else np.zeros(len(y), dtype=bool)
    if logarithmic:
        y, levels = np.log10(np.maximum(y, _SMALLEST)), np.log10(np.maximum(levels, _SMALLEST))
    x_limits = min(0.0, float(x.min())), float(x.max()) or 1.0
    y_limits = _limits(np.append(y, levels))
    across = _LEFT + (x - x_limits[0]) / (x_limits[1] - x_limits[0]) * (_WIDTH - _LEFT - _RIGHT)
    up = _up(y, y_limits)
    points = [f"{one:.1f} {other:.1f}" for one, other in zip(across, up, strict=True)]
    if line:
        drawn = f'<path class="line" d="M{" ".join(points)}"/><path class="dots" d="M{points[-1]}h0"/>'
    else:
        drawn = _dots(points, ~above, "dots") + _dots(points, above, "dots moved")
    return "".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{y_label} against {x_label}")}">',
            *(_x_tick(tick, x_limits) for tick in _ticks(*x_limits, whole=line)),
            *(_y_tick(label, height) for label, height in _y_ticks(y_limits, logarithmic)),
            *(_level(height, threshold) for height in _up(levels, y_limits)),
            f'<path class="axes" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>',
            drawn,
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}">{escape(x_label)}</text>',
            f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)">{escape(y_label)}</text>',
            "</svg>",
        ]
    )


def _dots(points: list[str], chosen: np.ndarray, style: str) -> str:
    """Lines of no length with round ends, which take less text than circles."""
    marks = "".join(f"M{point}h0" for point, one in zip(points, chosen, strict=True) if one)
    return f'<path class="{style}" d="{marks}"/>' if marks else ""


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _up(y: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return _HEIGHT - _BOTTOM - (y - limits[0]) / (limits[1] - limits[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _y_ticks(limits: tuple[float, float], logarithmic: bool) -> list[tuple[str, float]]:
    """Labels and heights; of a logarithmic axis at 1, 2 and 5 of each decade as long as these are few."""
    if not logarithmic:
        ticks = _ticks(*limits)
        return list(zip(map(_label, ticks), _up(np.array(ticks), limits), strict=True))
    decades = range(int(np.floor(limits[0])), int(np.ceil(limits[1])) + 1)
    values = [step * 10.0**decade for decade in decades for step in ((1, 2, 5) if len(decades) < 4 else (1,))]
    shown = [value for value in values if limits[0] <= np.log10(value) <= limits[1]]
    return list(zip(map(_label, shown), _up(np.log10(shown), limits), strict=True))


def _label(value: float) -> str:
    return f"{round(value, 10) + 0.0:g}".replace("-", "−")


def _x_tick(value: float, limits: tuple[float, float]) -> str:
    x, foot = _LEFT + (value - limits[0]) / (limits[1] - limits[0]) * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM
    return f'<path class="axes" d="M{x:.1f} {foot}v4"/><text x="{x:.1f}" y="{foot + 16}">{_label(value)}</text>'


def _y_tick(label: str, height: float) -> str:
    return (
        f'<path class="grid" d="M{_LEFT} {height:.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text class="left" x="{_LEFT - 6}" y="{height + 4:.1f}">{label}</text>'
    )


def _level(height: float, value: float | None) -> str:
    """A dashed line with its value at the start, where a relaxation is still far above it."""
    return (
        f'<path class="threshold" d="M{_LEFT} {height:.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text class="value" x="{_LEFT + 6}" y="{height - 4:.1f}">{_label(value or 0.0)}</text>'
    )
