"""Plots of a training run and of a set of predictions.

Those of predictions are narrow, so that their letters can be read on a phone.
"""

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter

from diversified_fer.writing import write_atomically
from utils.ubootstrap import Interval
from utils.umetrics import Metrics, Reliability

INK, GRID, MARK = "#333333", "#dddddd", "#999999"
FIRST, SECOND = "#2b6ca3", "#c8742b"
WIDTH, LETTERS = 4.8, 8  # inches, points
CELLS_WITH_NUMBERS = 12  # rows of a matrix up to which its numbers are written into it


def write_figure(figure: Figure, path: Path, dpi: int = 130) -> bytes:
    """Write a figure as PNG, atomically, and return the file's content; dollar signs in names are no formulas."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.draw_without_rendering()  # only then are the ticks known that the layout makes room for
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    write_atomically(path, lambda temporary: temporary.write_bytes(content.getvalue()))
    return content.getvalue()


def plot_history(history: Sequence[dict[str, Any]], title: str) -> Figure:
    """Plot loss, accuracy and how different the branches are by epoch, over all stages; grey lines mark new stages.

    Args:
        history: one row per epoch, as written to history.csv.
        title: name of the run.
    """
    epochs = np.arange(1, len(history) + 1)
    figure, panels = draw_axes(12, 4, title, columns=3, letters=12)
    correlations = sorted({key for row in history for key in row if key.startswith("validation_correlation_")})
    columns_of = {  # panel: columns and what they are called
        "loss": {"train_loss": "train, all terms", "validation_loss": "validation, cross-entropy of the ensemble"},
        "accuracy (%)": {"train_accuracy": "train, augmented", "validation_accuracy": "validation"},
        "branches: correlation (1 alike, 0 unrelated)": {
            **{column: f"correlation, {column.removeprefix('validation_correlation_')}" for column in correlations},
            "validation_disagreement": "predictions that differ (share of faces)",
        },
    }
    for axes, (name, columns) in zip(panels, columns_of.items(), strict=True):
        for column, label in columns.items():
            found = [row.get(column) for row in history]
            values = np.array([np.nan if value in (None, "") else float(value) for value in found])
            known = np.isfinite(values)
            if known.any():
                values = 100 * values if "accuracy" in column else values
                axes.plot(epochs[known], values[known], marker="o", markersize=3, linewidth=1.4, label=label)
        for place in range(1, len(history)):
            if history[place]["stage"] != history[place - 1]["stage"]:
                axes.axvline(place + 0.5, color=MARK, linewidth=0.8)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=LETTERS, loc="upper center", bbox_to_anchor=(0.5, -0.17))
        else:
            axes.text(0.5, 0.5, "one branch: no pairs", transform=axes.transAxes, ha="center", color=MARK)
        if name.startswith("branches"):
            axes.set_ylim(bottom=min(-0.03, axes.get_ylim()[0]), top=1.03)
            axes.axhline(0, color=MARK, linewidth=0.8, linestyle=":")
    return figure


def plot_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> Figure:
    """Plot a confusion matrix: each row in percent of its class, the counts of the classes beside their names.

    Args:
        confusion: faces of each class (row) given each label (column), (K, K).
        labels: class names.
        title: what was scored.
    """
    counts = np.asarray(confusion)
    totals = counts.sum(axis=1)
    shares = 100 * counts / np.maximum(totals, 1)[:, None]
    written = np.where(counts, np.char.mod("%.0f", shares), "")
    figure, axes = draw_axes(WIDTH, 4.6, title)
    _draw_matrix(axes, shares, written, labels, [f"{label} ({n:,})" for label, n in zip(labels, totals, strict=True)])
    axes.set(xlabel="predicted", ylabel="labelled (number of faces); cells: % of the row")
    return figure


def plot_reliability(reliability: Reliability, title: str) -> Figure:
    """Plot accuracy against confidence, and below it how many faces each bin of confidence holds."""
    bins = len(reliability.count)
    edges = np.arange(bins) / bins
    figure, (upper, lower) = draw_axes(WIDTH, 4.8, title, rows=2, sharex=True, height_ratios=(3, 1.25))
    known = [b for b in range(bins) if reliability.count[b]]
    accuracy = [reliability.accuracy[b] for b in known]
    confidence = [reliability.confidence[b] for b in known]
    upper.plot((0, 1), (0, 1), color=MARK, linewidth=1, linestyle="--", label="as sure as right")
    upper.bar(edges[known], accuracy, 1 / bins, align="edge", color=FIRST, alpha=0.55, edgecolor="white")
    upper.plot(confidence, accuracy, "o", markersize=4, color=INK, label="accuracy at the bin's mean confidence")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    upper.legend(frameon=False, fontsize=LETTERS, loc="upper left")
    bars = lower.bar(edges, reliability.count, 1 / bins, align="edge", color=MARK, edgecolor="white")
    counts = [f"{count:,}" if count else "" for count in reliability.count]
    lower.bar_label(bars, counts, padding=2, fontsize=6.5, color=INK)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="faces")
    lower.set_ylim(0, 1.2 * max(reliability.count))
    for axes in (upper, lower):
        _tidy(axes, "both")
    return figure


def plot_class_bars(metrics: Metrics, title: str) -> Figure:
    """Plot precision and recall of every class with their intervals; the number of faces beside each name."""
    labels = list(metrics.recall)
    support = [sum(row) for row in metrics.confusion]
    figure, axes = draw_axes(WIDTH, 1.3 + 0.46 * len(labels), title)
    rows = np.arange(len(labels))
    series = (
        ("recall", metrics.recall, metrics.recall_interval, FIRST, -0.19),
        ("precision", metrics.precision, metrics.precision_interval, SECOND, 0.19),
    )
    for name, values, intervals, color, shift in series:
        axes.barh(rows + shift, [values[k] or 0 for k in labels], 0.36, color=color, alpha=0.75, label=name)
        for row, label in zip(rows, labels, strict=True):
            if values[label] is None:
                axes.text(0.01, row + shift, "none", va="center", fontsize=7, color=INK)
            elif intervals[label] is not None:
                axes.plot(intervals[label], [row + shift] * 2, color=INK, linewidth=1.2, marker="|", markersize=4)
    axes.set_yticks(rows, [f"{label} ({n:,})" for label, n in zip(labels, support, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("share of the faces labelled so (recall) or called so (precision)")
    _tidy(axes, "x")
    figure.legend(frameon=False, fontsize=LETTERS, ncols=2, loc="outside lower center")
    return figure


def plot_matrix(matrix: np.ndarray, names: Sequence[str], unit: str, title: str, percent: bool = False) -> Figure:
    """Plot how alike, or how different, the parts of a network are: values in [0, 1], (B, B)."""
    values = np.asarray(matrix) * (100 if percent else 1)
    written = np.char.mod("%.0f" if percent else "%.2f", values)
    figure, axes = draw_axes(WIDTH, min(2 + 0.35 * len(values), 4.6), title)
    highest = max(10 * np.ceil(values.max() / 10), 10) if percent else 1
    _draw_matrix(axes, values, written, names, names, highest, slanted=max(map(len, names)) > 2)
    scale = figure.colorbar(axes.images[0], ax=axes, shrink=0.9)
    scale.set_label(unit, size=LETTERS)
    scale.ax.tick_params(labelsize=LETTERS)
    scale.outline.set_visible(False)
    return figure


def plot_accuracy_against_disagreement(
    disagreement: Sequence[float], accuracy: Sequence[float], names: Sequence[str], ensemble: float, title: str
) -> Figure:
    """Plot the accuracy of every branch against how often it differs from the others; a line marks the ensemble's."""
    figure, axes = draw_axes(WIDTH, 3.8, title)
    axes.axhline(100 * ensemble, color=SECOND, linewidth=1.2, linestyle="--", label="ensemble")
    axes.plot(100 * np.asarray(disagreement), 100 * np.asarray(accuracy), "o", color=FIRST, label="branch")
    for x, y, name in zip(disagreement, accuracy, names, strict=True):
        axes.annotate(name, (100 * x, 100 * y), (5, 4), textcoords="offset points", fontsize=LETTERS, color=INK)
    axes.margins(0.15)
    axes.set(xlabel="differs from another branch on (% of the faces, mean)", ylabel="accuracy (%)")
    axes.legend(frameon=False, fontsize=LETTERS)
    _tidy(axes, "both")
    return figure


def plot_faces(faces: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 4) -> Figure:
    """Plot faces (H, W, 3), uint8 RGB, in a grid, each over its caption of two lines."""
    columns = min(columns, max(len(faces), 3))
    rows = -(-len(faces) // columns)
    side = WIDTH / columns
    figure, grid = draw_axes(WIDTH, 0.4 + rows * (side + 0.36), title, rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, face, caption in zip(grid.flat, faces, captions, strict=False):
        axes.imshow(face, interpolation="nearest" if max(face.shape) < 100 else "antialiased")
        axes.text(
            0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top",
            fontsize=LETTERS, color=INK, linespacing=1.15,
        )  # fmt: skip
    return figure


def plot_intervals(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[Interval], unit: str, title: str, zero: bool
) -> Figure:
    """Plot one value with its interval per row, in percent; `zero` marks where two networks are equal."""
    figure, axes = draw_axes(WIDTH, 1.3 + 0.36 * len(names), title)
    for row, (value, interval) in enumerate(zip(values, intervals, strict=True)):
        if interval is not None:
            axes.plot([100 * bound for bound in interval], [row] * 2, color=FIRST, linewidth=2, solid_capstyle="butt")
        axes.plot(100 * value, row, "o", color=INK, markersize=5)
    if zero:
        axes.axvline(0, color=MARK, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), [_as_utf8(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.set_xlabel(unit)
    _tidy(axes, "x")
    return figure


def plot_panels(panels: dict[str, dict[str, Sequence[float]]], xlabel: str, title: str) -> Figure:
    """Plot curves over 1, 2, 3, ... in panels side by side: {panel: {curve: values}}; one legend for all panels.

    Values that are not numbers are left out, and the curve goes on to the next; a name without a number is left out of
    the legend.
    """
    figure, row = draw_axes(4 * len(panels), 4.8, title, columns=len(panels), squeeze=False)
    shown = [name for curves in panels.values() for name, values in curves.items() if np.isfinite(values).any()]
    names = list(dict.fromkeys(shown))
    colors = dict(zip(names, colormaps["turbo"](np.linspace(0.05, 0.95, len(names))), strict=True))
    for axes, (panel, curves) in zip(row[0], panels.items(), strict=True):
        for name, values in curves.items():
            heights = np.asarray(values, dtype=float)
            known = np.isfinite(heights)
            if not known.any():
                continue
            steps = np.arange(1, len(heights) + 1)
            axes.plot(steps[known], heights[known], color=colors[name], linewidth=1.2, marker=".")
        axes.set_title(panel, fontsize=LETTERS)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _tidy(axes, "both")
    handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=handles, frameon=False, fontsize=LETTERS, ncols=4, loc="outside lower center")
    return figure


def plot_severities(curves: dict[str, Sequence[float]], title: str) -> Figure:
    """Plot how accuracy falls with the severity of each corruption, from 0 for none: {corruption: shares}."""
    figure, axes = draw_axes(WIDTH, 4.2, title)
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(curves)))
    for (name, values), color, marker in zip(curves.items(), colors, "osD^v*P"[: len(curves)], strict=True):
        axes.plot(100 * np.asarray(values), color=color, marker=marker, markersize=4, linewidth=1.4, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(0, 100)
    axes.set(xlabel="severity (0: as they are)", ylabel="accuracy (%)")
    _tidy(axes, "both")
    figure.legend(frameon=False, fontsize=LETTERS, ncols=3, loc="outside lower center")
    return figure


def plot_points(
    points: dict[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str
) -> Figure:
    """Plot points by name, (x, y) each; a color and a marker stand for each name."""
    figure, axes = draw_axes(WIDTH, 5, title)
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(points)))
    for (name, (x, y)), color, marker in zip(points.items(), colors, cycle("osD^v*P"), strict=False):
        axes.plot(x, y, marker, color=color, markersize=5, alpha=0.8, label=name)
    axes.margins(0.1)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _tidy(axes, "both")
    figure.legend(frameon=False, fontsize=LETTERS, ncols=3, loc="outside lower center")
    return figure


def draw_axes(
    width: float, height: float, title: str, rows: int = 1, columns: int = 1, letters: float = 9, **options: Any
) -> tuple[Figure, Any]:
    """Make a figure (inches) with a title in letters (points), and the axes that `Figure.subplots` gives it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(_as_utf8(title), color=INK, fontsize=letters)
    return figure, figure.subplots(rows, columns, **options)


def _as_utf8(text: str) -> str:
    """Return a text with the bytes of a file's name that are not UTF-8, which no font has, written as numbers."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _draw_matrix(
    axes: Axes, values: np.ndarray, written: np.ndarray, columns: Sequence[str], rows: Sequence[str],
    highest: float = 100, slanted: bool = True,
) -> None:  # fmt: skip
    axes.imshow(values, cmap="Blues", vmin=0, vmax=highest)
    if len(rows) <= CELLS_WITH_NUMBERS:
        for (row, column), text in np.ndenumerate(written):
            color = "white" if values[row, column] > 0.55 * highest else INK
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=LETTERS)
    axes.set_xticks(range(len(columns)), columns, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    _set_letters(axes)


def _tidy(axes: Axes, grid: str) -> None:
    axes.grid(color=GRID, linewidth=0.6, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _set_letters(axes)


def _set_letters(axes: Axes) -> None:
    axes.tick_params(labelsize=LETTERS)
    axes.xaxis.label.set_size(LETTERS + 0.5)
    axes.yaxis.label.set_size(LETTERS + 0.5)
