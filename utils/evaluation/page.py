"""The report page: plots, numbers and what is behind them, in one HTML file that needs nothing else."""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from diversified_fer.writing import write_atomically
from utils.evaluation.comparison import Comparison
from utils.evaluation.evaluation import ScoredCheckpoint
from utils.evaluation.subset import ScoredFaces
from utils.evaluation.tables import Table, list_corruptions, list_group_differences, list_groups
from utils.ubootstrap import RESAMPLES
from utils.udata import read_image
from utils.umetrics import CALIBRATION_BINS, COMPARED
from utils.uplot import (
    plot_accuracy_against_disagreement,
    plot_class_bars,
    plot_confusion,
    plot_faces,
    plot_intervals,
    plot_matrix,
    plot_reliability,
    plot_severities,
    write_figure,
)
from utils.ureport import NUMBERS, number, percent, signed, span

TEMPLATE = "report.html.jinja"
DPI = 200
FEW_FACES = 30


class Picture(NamedTuple):
    """A plot with its words.

    Attributes:
        heading: what it is.
        caption: how to read it.
        alt: what is to be seen, for those who cannot see it.
        content: the PNG.
        numbers: what is plotted, as a table; None where the page has one elsewhere.
    """

    heading: str
    caption: str
    alt: str
    content: bytes
    numbers: Table | None

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.content).decode()


def draw_pictures(result: ScoredCheckpoint, faces: ScoredFaces, folder: Path) -> list[Picture]:
    """Plot what was measured of a checkpoint, and write each plot into its folder."""
    for pattern in (
        "similarity_*.png",
        "disagreement*.png",
        "mistakes.png",
        "corruptions.png",
    ):  # of an earlier network at this place
        for outdated in folder.glob(pattern):
            outdated.unlink()
    metrics, labels = result.ensemble, result.labels
    subject = f"{result.name} on {faces.dataset.name}"
    pictures = []

    def add(file: str, heading: str, figure: Any, caption: str, alt: str, numbers: Table | None = None) -> None:
        pictures.append(Picture(heading, caption, alt, write_figure(figure, folder / file, DPI), numbers))

    add(
        "confusion_matrix.png",
        "Confusion matrix",
        plot_confusion(metrics.confusion, labels, subject),
        "Each row shows, in percent of its faces, what the faces of one label were called. An empty cell holds none.",
        f"Confusion matrix. {_largest_confusion(metrics.confusion, labels)}",
        Table("Number of faces; rows are labels, columns predictions", labels, _rows(labels, metrics.confusion)),
    )
    bins = metrics.reliability
    edges = [f"{b / CALIBRATION_BINS:.2f} to {(b + 1) / CALIBRATION_BINS:.2f}" for b in range(CALIBRATION_BINS)]
    shares = [(percent(sure), percent(right)) for sure, right in zip(bins.confidence, bins.accuracy, strict=True)]
    rows = [(edge, f"{n:,}", *both) for edge, n, both in zip(edges, bins.count, shares, strict=True)]
    add(
        "reliability.png",
        "Reliability",
        plot_reliability(bins, subject),
        f"Accuracy of the faces in each of {CALIBRATION_BINS} bins of confidence, and how many faces each bin holds. "
        "Below the dashed line the network is surer than it is right. The calibration error is the mean distance from "
        "the line, weighted by the number of faces.",
        f"Reliability diagram; the calibration error is {metrics.calibration_error:.3f}.",
        Table("Faces by confidence", ("Faces", "Mean confidence", "Accuracy"), rows),
    )
    add(
        "classes.png",
        "Precision and recall by class",
        plot_class_bars(metrics, subject),
        "Recall: share of the faces with this label that were called so. Precision: share of the faces called so that "
        "have this label. Black lines are 95 % intervals; the table “By class” has the numbers.",
        "Bars of recall and precision by class. The numbers are in the table of this section.",
    )
    if result.similarity is not None:
        for name, matrix in result.similarity.matrices.items():
            parts, values = result.similarity.parts, matrix.tolist()
            single = " Here there is one pair, and γ follows it: its value says little." if len(parts) == 2 else ""
            add(
                f"similarity_{name}.png",
                f"Similarity, {name}",
                plot_matrix(matrix, parts, "similarity", subject),
                f"Mean of exp(−γ ‖xᵢ − xⱼ‖²) over {result.similarity.faces:,} faces for the {name} features x that the "
                "diversity loss compares. γ is 1 over the median squared distance between the parts over these faces, "
                "so that a typical pair has a similarity near 0.37 at any scale: pairs can be compared within a "
                f"matrix, not between networks.{single}",
                f"Matrix of {name} similarity between {len(parts)} parts of the network.",
                Table(f"Similarity of {name} features", parts, _rows(parts, values, ".3f")),
            )
    if result.disagreement is not None:
        different, branches = result.disagreement, result.branches
        accuracies, rests = different.accuracy.tolist(), different.with_the_rest.tolist()
        rows = [(name, percent(a), percent(rest)) for name, a, rest in zip(branches, accuracies, rests, strict=True)]
        add(
            "disagreement.png",
            "Disagreement of branches",
            plot_matrix(different.pairwise, branches, "% of the faces", subject, percent=True),
            "Share of the faces for which two branches choose different classes.",
            f"Matrix of disagreement between {len(branches)} branches, "
            f"on average {percent(float(different.with_the_rest.mean()))} of the faces.",
            Table("% of the faces", branches, _rows(branches, (100 * different.pairwise).tolist(), ".1f")),
        )
        add(
            "disagreement_accuracy.png",
            "Accuracy against disagreement",
            plot_accuracy_against_disagreement(rests, accuracies, branches, metrics.accuracy, subject),
            "An ensemble gains from branches that are accurate and err on different faces: up and to the right.",
            "Accuracy of every branch against its disagreement with the others.",
            Table("Branches", ("Accuracy", "Differs from another branch, mean"), rows),
        )
    if result.mistakes:
        captions = [f"{m.predicted} {m.confidence:.0%}\nlabel: {m.label}" for m in result.mistakes]
        rows = [(faces.file_name(m.path), m.label, m.predicted, percent(m.confidence)) for m in result.mistakes]
        add(
            "mistakes.png",
            "Most confident mistakes",
            plot_faces([read_image(mistake.path) for mistake in result.mistakes], captions, subject),
            "The wrong answers that the network is surest of; some of them may be wrong labels. Whether these faces "
            "may be published is for the licence of the data set to say.",
            "Grid of faces; the table below it has their files, labels and predictions.",
            Table("Most confident mistakes", ("Label", "Prediction", "Confidence"), rows),
        )
    if result.corruptions:
        none, *spoiled = result.corruptions
        curves: dict[str, list[float]] = {}
        for row in spoiled:
            curves.setdefault(row.corruption, [none.accuracy]).append(row.accuracy)
        add(
            "corruptions.png",
            "Accuracy on spoiled pictures",
            plot_severities(curves, subject),
            "Accuracy by kind and severity of corruption; the table “Spoiled pictures” has the parameters and numbers.",
            f"Curves of accuracy, from {percent(none.accuracy)} on the pictures as they are down to "
            f"{percent(min(row.accuracy for row in spoiled))}.",
        )
    return pictures


def draw_comparison(
    results: Sequence[ScoredCheckpoint], comparison: Comparison, faces: ScoredFaces, folder: Path
) -> list[Picture]:
    """Plot several checkpoints' accuracies, and their differences from the first, and write them into a folder."""
    for outdated in folder.glob("difference_*.png"):  # of an earlier comparison at this place
        outdated.unlink()
    names, metrics = [result.name for result in results], [result.ensemble for result in results]
    pictures = []

    def add(file: str, heading: str, figure: Any, caption: str) -> None:
        alt = f"{heading}; the numbers are in the table above."
        pictures.append(Picture(heading, caption, alt, write_figure(figure, folder / file, DPI), None))

    accuracies = plot_intervals(
        names, [m.accuracy for m in metrics], [m.accuracy_interval for m in metrics],
        "accuracy (%)", f"Accuracy on {faces.dataset.name}", zero=False,
    )  # fmt: skip
    add("accuracies.png", "Accuracy", accuracies, "Accuracy of the ensemble with its 95 % interval over faces.")
    for name in COMPARED if comparison.differences else ():
        found = [differences[name] for differences in comparison.differences.values()]
        heading = f"Difference of {NUMBERS[name]}"
        differences = plot_intervals(
            names[1:], [d.value for d in found], [d.interval for d in found],
            "percentage points", f"{heading} from {names[0]}", zero=True,
        )  # fmt: skip
        caption = "Difference with its 95 % paired interval; right of the dashed line is better than the first."
        add(f"difference_{name}.png", heading, differences, caption)
    return pictures


def write_report(
    path: Path,
    faces: ScoredFaces,
    results: Sequence[tuple[ScoredCheckpoint, list[Picture]]],
    computed: str,
    seed: int,
    comparison: Comparison | None = None,
    comparison_pictures: Sequence[Picture] = (),
) -> None:
    """Write the page, atomically.

    Args:
        path: HTML file to write.
        faces: what was scored.
        results: the checkpoints with their pictures.
        computed: device and precision in words.
        seed: seed of the bootstrap.
        comparison: of several checkpoints, with its pictures.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "span": span, "signed": signed, "number": number}
    environment.filters["affect"] = lambda value: "–" if value is None else f"{value:.3f}".replace("-", "−")
    environment.filters["affect_span"] = lambda interval: span(interval, "calibration_error")
    first = results[0][0]
    support = [sum(row) for row in first.ensemble.confusion]
    most = support.index(max(support))
    checkpoints = [(result, plots, list_warnings(result, faces), list_missing(result)) for result, plots in results]
    headings = {name: words[0].upper() + words[1:] for name, words in NUMBERS.items()}
    page = environment.get_template(TEMPLATE).render(
        title=f"{first.name if len(results) == 1 else f'{len(results)} checkpoints'} on {faces.dataset.name}",
        faces=faces,
        n=len(faces.dataset),
        support=Counter(dict(zip(first.classes, support, strict=False))),  # 0 for what is no class of the faces
        constant=(first.labels[most], support[most] / sum(support)),
        results=checkpoints,
        comparison=comparison,
        comparison_pictures=comparison_pictures,
        numbers=headings,
        compared={name: headings[name] for name in COMPARED},
        resamples=RESAMPLES,
        bins=CALIBRATION_BINS,
        seed=seed,
        computed=computed,
        list_groups=list_groups,
        list_group_differences=list_group_differences,
        list_corruptions=list_corruptions,
        has_groups=any(result.groups for result, _ in results),
    )
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8", errors="backslashreplace"))


def list_warnings(result: ScoredCheckpoint, faces: ScoredFaces) -> list[str]:
    """Say what makes a checkpoint's numbers look better, or less certain, than they are."""
    provenance = result.provenance
    on_training, on_these = faces.split == "train", provenance.was_selected_on(faces.dataset)
    unrecorded = provenance.selected_on is None and provenance.variables and not provenance.is_last
    support = {label: sum(row) for label, row in zip(result.labels, result.ensemble.confusion, strict=True)}
    few = ", ".join(label for label, n in support.items() if 0 < n < FEW_FACES)
    absent = ", ".join(label for label in result.classes if not support[label])
    warnings = {
        "These are faces of the training split: the numbers do not tell how the network does on others.": on_training,
        "The epoch was selected on these very faces: on others it would probably do worse.": on_these,
        "Which faces the epoch was selected on is not recorded beside this checkpoint; if it was these, on others it "
        "would probably do worse.": unrecorded,
        f"Fewer than {FEW_FACES} faces: {few}. Their intervals are rough, and a share of 0 or 100 % has an interval "
        "without width, because resampling cannot show what did not happen.": few,
        "These are labels without probabilities: each counts as certain, so the calibration error is the share of "
        "mistakes, and the surest mistakes are the first ones.": not result.has_probabilities,
        f"No faces with the label {absent}: left out of the mean class accuracy.": absent,
    }
    return [warning for warning, holds in warnings.items() if holds]


def list_missing(result: ScoredCheckpoint) -> list[str]:
    """Say what was not computed for a checkpoint, and why."""
    if result.is_table:
        what = "Branches, their similarity, seed and training: these are answers of another tool, read from a table."
        return [what] + ([] if result.mistakes else ["Most confident mistakes: there are none."])
    single = result.disagreement is None
    featureless, unannotated = result.similarity is None and not single, result.predicts_affect and not result.affect
    missing = {
        "Similarity and disagreement of branches: this network has a single branch.": single,
        "Similarity of branches: this network has no attention maps, nor other features to compare.": featureless,
        "Valence and arousal, which this network also predicts: these faces have no such annotation.": unannotated,
        "Most confident mistakes: there are none.": not result.mistakes,
        "Seed, selection and training variables: this checkpoint carries none.": not result.provenance.variables,
    }
    return [words for words, holds in missing.items() if holds]


def _rows(names: Sequence[str], values: Sequence[Sequence[float]], style: str = ",") -> list[tuple[str, ...]]:
    return [(name, *(format(value, style) for value in row)) for name, row in zip(names, values, strict=True)]


def _largest_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Say which mistake is the most frequent."""
    wrong = [(n, r, c) for r, row in enumerate(confusion) for c, n in enumerate(row) if r != c]
    most, row, column = max(wrong, key=lambda found: found[0])
    if not most:
        return "There are no mistakes."
    return f"The most frequent mistake: {most:,} faces labelled {labels[row]} were called {labels[column]}."
