"""The tables and plots of the study, from what finished runs left behind.

Everything is that of the last epoch's network on Valid, on which nothing was chosen. Intervals are 95 % bootstrap
intervals over faces and seeds, both sampled with replacement; three seeds understate how far seeds differ.
"""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diversified_fer.writing import write_atomically
from results.copies import Copies, read_copies
from results.predictions import Stored, average, read_predictions
from utils.ubootstrap import RESAMPLES, Interval, percentile_interval, resample_faces, sum_in_cells
from utils.umetrics import compute_rates
from utils.uplot import plot_intervals, plot_panels, plot_points, write_figure
from utils.ureport import span

BASELINE = "attention"  # what every setting is compared with: attention maps that nothing makes differ
SINGLE, INDEPENDENT = "single", "independent"  # networks of one branch, and MEMBERS of them averaged
MEMBERS = 3
PAIRED_WITH = {"manet_logdet_median_0.1": "manet"}  # baselines of settings that are no ESR


class Result(NamedTuple):
    """A run: its predictions on Valid, its rows of history.csv, the commits that it was trained at, and its command."""

    predictions: Stored
    history: list[dict[str, str]]
    commits: list[str]
    command: str = ""


class Figures(NamedTuple):
    """What a run is worth, shares in [0, 1]; not a number where a run has no such figure."""

    accuracy: float
    accuracy_without_copies: float
    mean_class_accuracy: float
    branch_accuracy: float
    ensemble_gain: float
    disagreement: float
    correlation_logits: float
    correlation_spatial: float
    correlation_channel: float
    distance_spatial: float
    distance_channel: float
    similarity_spatial: float
    similarity_channel: float
    gradient_spatial: float
    gradient_channel: float


ACCURACY = {  # columns of the first table
    "accuracy": "accuracy",
    "accuracy_without_copies": "without copies",
    "mean_class_accuracy": "mean class accuracy",
    "branch_accuracy": "mean branch",
    "ensemble_gain": "ensemble gain",
    "disagreement": "disagreement",
    "correlation_logits": "correlation of scores",
}
MAPS = {  # columns of the second table
    "correlation_spatial": "correlation in space",
    "correlation_channel": "over channels",
    "distance_spatial": "distance in space",
    "distance_channel": "over channels",
    "similarity_spatial": "similarity in space",
    "similarity_channel": "over channels",
    "gradient_spatial": "its gradient in space",
    "gradient_channel": "over channels",
}
SHARES = Figures._fields[:6]  # as percentages


def read_runs(folder: Path, seeds: tuple[int, ...], names: list[str]) -> dict[str, dict[int, Result]]:
    """Return the finished runs of every setting by seed, and the ensembles of networks trained apart."""
    found: dict[str, dict[int, Result]] = {}
    for name in names:
        numbers = range(MEMBERS * (max(seeds) + 1)) if name == SINGLE else seeds
        runs = {
            n: _read_run(folder / f"{name}_{n}") for n in numbers if (folder / f"{name}_{n}/predictions.npz").exists()
        }
        if runs:
            found[name] = runs
    for seed in seeds:
        members = [found.get(SINGLE, {}).get(number) for number in range(MEMBERS * seed, MEMBERS * (seed + 1))]
        if all(members):
            commits = sorted({commit for member in members for commit in member.commits})
            ensemble = average([member.predictions for member in members])
            found.setdefault(INDEPENDENT, {})[seed] = Result(ensemble, [], commits)
    return found


def _read_run(folder: Path) -> Result:
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        history = list(csv.DictReader(file))
    note = json.loads((folder / "run.json").read_text("utf-8"))
    return Result(read_predictions(folder / "predictions.npz"), history, note["commits"], note["command"])


def right(stored: Stored) -> np.ndarray:
    """Return which faces the ensemble labels rightly, (N,) float64."""
    return (stored.choices == stored.targets).astype(float)


def gains(stored: Stored) -> np.ndarray:
    """Return, for every face, whether the ensemble is right minus the share of branches that are, (N,)."""
    return right(stored) - (stored.branch_choices == stored.targets).mean(axis=0)


def figures_of(result: Result, copies: Copies) -> Figures:
    """Return the figures of a run; those that depend on its predictions alone are computed from them."""
    stored, history = result.predictions, result.history
    B, _, K = stored.probabilities.shape
    pairs = np.triu_indices(B, 1)
    differ = [(stored.branch_choices[i] != stored.branch_choices[j]).mean() for i, j in zip(*pairs, strict=True)]
    cells = stored.targets * K + stored.choices
    confusion = sum_in_cells(cells[None], K * K).reshape(K, K)
    return Figures(
        accuracy=right(stored).mean(),
        accuracy_without_copies=right(stored)[~copies.any].mean(),
        mean_class_accuracy=float(compute_rates(confusion).mean_class_accuracy),
        branch_accuracy=(right(stored) - gains(stored)).mean(),
        ensemble_gain=gains(stored).mean() if B > 1 else np.nan,
        disagreement=float(np.mean(differ)) if differ else np.nan,
        correlation_logits=_mean(history[-1:], "validation_correlation_logits"),
        correlation_spatial=_mean(history[-1:], "validation_correlation_spatial"),
        correlation_channel=_mean(history[-1:], "validation_correlation_channel"),
        distance_spatial=_mean(history[-1:], "validation_distance_spatial"),
        distance_channel=_mean(history[-1:], "validation_distance_channel"),
        similarity_spatial=_mean(history, "similarity_spatial"),
        similarity_channel=_mean(history, "similarity_channel"),
        gradient_spatial=_mean(history, "gradient_spatial"),
        gradient_channel=_mean(history, "gradient_channel"),
    )


def _mean(rows: list[dict[str, str]], start: str) -> float:
    """Return the mean over rows and over columns that start so; those without a value are left out."""
    values = [float(value) for row in rows for column, value in row.items() if column.startswith(start) and value]
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


def bootstrap(values: np.ndarray) -> tuple[float, Interval]:
    """Return the mean of values (S, N), one per seed and face, and its interval over seeds and faces."""
    S, N = values.shape
    sampled = np.concatenate([values[:, faces].mean(axis=2) for faces in resample_faces(N)], axis=1)  # (S, D)
    seeds = np.random.default_rng(1).integers(S, size=(S, RESAMPLES))
    return float(values.mean()), percentile_interval(np.take_along_axis(sampled, seeds, axis=0).mean(axis=0))


def paired(found: dict[str, dict[int, Result]], name: str) -> tuple[float, Interval] | None:
    """Return how much more accurate a setting is than its baseline, same faces and seeds; None without such runs."""
    other = found.get(PAIRED_WITH.get(name, BASELINE), {})
    shared = sorted(found[name].keys() & other.keys())
    if not shared or name in (SINGLE, PAIRED_WITH.get(name, BASELINE)) or name in PAIRED_WITH.values():
        return None
    rows = [right(found[name][seed].predictions) - right(other[seed].predictions) for seed in shared]
    return bootstrap(np.stack(rows))


def _cell(values: list[float], name: str) -> str:
    """Write mean and standard deviation over the seeds."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return "–"
    if name.startswith("gradient"):
        return f"{known.mean():.1e}"
    if name.startswith("distance"):  # from a fifth to a million
        return f"{known.mean():,.{0 if known.mean() > 100 else 2}f}"
    scale, digits = (100, 2) if name in SHARES else (1, 2)
    spread = f" ± {scale * known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{scale * known.mean():.{digits}f}{spread}".replace("-", "−")


def accuracy_table(found: dict[str, dict[int, Result]], copies: Copies) -> str:
    """Return what all settings are worth as a Markdown table."""
    rows = []
    for name, runs in found.items():
        difference = paired(found, name)
        words = "–" if difference is None else f"{100 * difference[0]:+.2f} ({span(difference[1], digits=2)})"
        rows.append([name, str(len(runs)), words.replace("-", "−"), *_cells(runs, copies, ACCURACY)])
    return _markdown(["setting", "seeds", "difference (points)", *ACCURACY.values()], rows)


def map_table(found: dict[str, dict[int, Result]], copies: Copies) -> str:
    """Return how alike the compared maps are, of the settings that have any, as a Markdown table."""
    rows = [[name, *_cells(runs, copies, MAPS)] for name, runs in found.items()]
    return _markdown(["setting", *MAPS.values()], [row for row in rows if set(row[1:]) != {"–"}])


def _cells(runs: dict[int, Result], copies: Copies, columns: dict[str, str]) -> list[str]:
    figures = [figures_of(result, copies) for result in runs.values()]
    return [_cell([getattr(row, field) for row in figures], field) for field in columns]


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def write_report(folder: Path, seeds: tuple[int, ...], names: list[str]) -> None:
    """Write tables.md and the plots next to the folder of the runs.

    Raises:
        ValueError: when no run is finished.
    """
    found = read_runs(folder, seeds, names)
    if not found:
        raise ValueError(f"no finished run is in {folder.absolute()}; python -m results.study makes them")
    copies = read_copies(folder / "copies.json")
    commits = sorted({commit for runs in found.values() for result in runs.values() for commit in result.commits})
    text = f"""# The study in numbers

FER+ Valid (majority rule), n = {len(copies.any):,}; the network of the last epoch, nothing chosen on these faces.
Shares in percent, mean ± standard deviation over the seeds. Without copies: without the {copies.same.sum():,} faces
whose pixels a training picture has, and the {copies.alike.sum():,} that look like one. Difference: accuracy minus that
of `{BASELINE}` (MA-Net: of `manet`), paired by face and seed, with its 95 % interval over faces and seeds.
`{INDEPENDENT}`: {MEMBERS} networks of one branch (`{SINGLE}`), trained apart, averaged.

{accuracy_table(found, copies)}

The attention maps of the branches. Correlation over the faces of Valid, last epoch: 1 for maps that say the same of
every face, 0 for maps that have nothing to do with each other, whatever constant they differ by. Distance, last epoch:
the squared distance of two branches' maps over the sum of their variances over the faces, 1 for independent maps of
equal mean; far above it the maps hardly depend on the face. Mean similarity, and norm of the gradient of its term: mean
over the epochs of training; with gamma "median" the similarity is near 0.37 whatever the branches do.

{map_table(found, copies)}

The first command, of which the others differ by what their names say and by the seed (`run.json` has each):

```
{next(iter(next(iter(found.values())).values())).command}
```

Commits: {", ".join(commits)}.
"""
    output = folder.parent
    write_atomically(output / "tables.md", lambda path: path.write_text(text, encoding="utf-8"))
    for name, figure in plots(found, copies).items():
        write_figure(figure, output / f"{name}.png")
    print(f"wrote tables.md and the plots of {len(found)} settings to {output}")


def plots(found: dict[str, dict[int, Result]], copies: Copies) -> dict:
    """Return the three figures by name: similarity over time, disagreement against accuracy, gain with intervals."""
    columns = {  # start of the columns: what it is called
        "similarity_spatial": "similarity in space, training",
        "similarity_channel": "similarity over channels, training",
        "validation_correlation_spatial": "correlation in space, Valid",
        "validation_disagreement": "disagreement, Valid",
    }
    over_time = {
        words: {name: _over_epochs(list(runs.values()), start) for name, runs in found.items()}
        for start, words in columns.items()
    }
    ensembles = {name: runs for name, runs in found.items() if name != SINGLE}
    rows = {name: [figures_of(result, copies) for result in runs.values()] for name, runs in ensembles.items()}
    points = {
        name: ([100 * row.disagreement for row in found_rows], [100 * row.accuracy for row in found_rows])
        for name, found_rows in rows.items()
    }
    gain = {
        f"{name} (n = {len(runs)})": bootstrap(np.stack([gains(result.predictions) for result in runs.values()]))
        for name, runs in ensembles.items()
    }
    values, intervals = zip(*gain.values(), strict=True)
    return {
        "similarity": plot_panels(over_time, "epoch", "How alike the branches are, mean over seeds"),
        "disagreement": plot_points(points, "disagreement (% of Valid)", "accuracy (%)", "One point per run"),
        "gain": plot_intervals(
            list(gain), values, intervals, "ensemble minus mean branch (points)", "Ensemble gain", zero=True
        ),
    }


def _over_epochs(results: list[Result], start: str) -> list[float]:
    """Return the mean over runs and columns of every epoch that all runs have."""
    epochs = min(len(result.history) for result in results)
    return [_mean([result.history[epoch] for result in results], start) for epoch in range(epochs)]
