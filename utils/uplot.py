"""Pictures of a training run and of a set of predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.diversity import DEAD, SATURATED

INK, GRID, MARK = "#333333", "#dddddd", "#999999"


def plot_history(history: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw loss, accuracy and similarity against the epochs of all stages; a grey line marks each new stage.

    Args:
        history: one row per epoch, as written to history.csv.
        path: PNG to write.
        title: name of the run.
    """
    epochs = np.arange(1, len(history) + 1)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK)
    similarities = sorted({key for row in history for key in row if key.startswith("similarity_")})
    panels = {
        "loss per face": ["train_loss", "validation_loss"],
        "accuracy (%)": ["train_accuracy", "validation_accuracy"],
        "mean similarity of branches": similarities,
    }
    for axes, (name, columns) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for column in columns:
            values = np.array([_number(row.get(column)) for row in history])
            known = np.isfinite(values)
            if known.any():
                values = 100 * values if "accuracy" in column else values
                label = column.removeprefix("similarity_").split("_")[0]
                axes.plot(epochs[known], values[known], marker="o", markersize=3, linewidth=1.4, label=label)
        for place in range(1, len(history)):
            if history[place]["stage"] != history[place - 1]["stage"]:
                axes.axvline(place + 0.5, color=MARK, linewidth=0.8)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "one branch: no pairs", transform=axes.transAxes, ha="center", color=MARK)
        if name.startswith("mean similarity"):
            axes.set_ylim(-0.03, 1.03)
            for bound in (DEAD, SATURATED):
                axes.axhline(bound, color=MARK, linewidth=0.8, linestyle=":")
    figure.savefig(path, dpi=130)


def plot_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], path: Path, title: str) -> None:
    """Draw a confusion matrix: each row in percent of its class, the counts of the classes beside their names.

    Args:
        confusion: faces of each class (row) given each label (column), (K, K).
        labels: class names.
        path: PNG to write.
        title: what was scored.
    """
    counts = np.asarray(confusion)
    K = len(labels)
    totals = counts.sum(axis=1)
    shares = 100 * counts / np.maximum(totals, 1)[:, None]
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row in range(K):
        for column in range(K):
            if counts[row, column]:
                color = "white" if shares[row, column] > 55 else INK
                axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(K), labels, rotation=40, ha="right")
    axes.set_yticks(range(K), [f"{label} ({total:,})" for label, total in zip(labels, totals, strict=True)])
    axes.set(xlabel="predicted", ylabel="labelled (number of faces)")
    axes.set_title(title, color=INK, fontsize=11)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="% of the labelled class")
    figure.savefig(path, dpi=130)


def _number(value: Any) -> float:
    return np.nan if value in (None, "") else float(value)
