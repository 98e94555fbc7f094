"""Checkpoints on the same faces: their predictions, paired differences, mean and deviation over seeds."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from torch import Tensor

from diversified_fer.writing import new_table
from models.classifier import ExpressionClassifier
from models.weights import CheckpointError
from utils.evaluation.evaluation import Provenance, ScoredCheckpoint, align_classes, describe_network
from utils.evaluation.groups import Grouping, compare_groups
from utils.evaluation.subset import ScoredFaces
from utils.umetrics import Difference, compute_differences
from utils.ureport import NUMBERS

MAY_DIFFER_BETWEEN_SEEDS = {
    "seed", "name_experiment", "base_path_to_dataset", "base_path_experiment", "base_path_to_cache", "cache",
    "cache_gib", "device", "resume",
}  # fmt: skip


class SeedSummary(NamedTuple):
    """Mean and standard deviation (with n - 1) of a number over runs that differ in their seed."""

    mean: float
    deviation: float
    values: list[float]


class Comparison(NamedTuple):
    """Several checkpoints on the same faces.

    Attributes:
        differences: of every checkpoint from the first; None for seeds.
        seeds: mean and deviation of every number; None where the checkpoints are no seeds of one experiment.
        differing: variables in which the seeds' runs differ otherwise, with the value of each.
        groups: of every checkpoint the differences from the first in each group (column, name) of faces.
    """

    differences: dict[str, dict[str, Difference]] | None
    seeds: dict[str, SeedSummary] | None
    differing: dict[str, list[Any]]
    groups: dict[str, dict[tuple[str, str], dict[str, Difference]]] = {}  # noqa: RUF012 - is not written to

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        differences = self.differences and {
            name: {which: difference._asdict() for which, difference in found.items()}
            for name, found in self.differences.items()
        }
        seeds = self.seeds and {name: summary._asdict() for name, summary in self.seeds.items()}
        plain = {"differences_from_the_first": differences, "seeds": seeds, "variables_that_differ": self.differing}
        groups = {
            name: {
                f"{column}: {group}": {which: difference._asdict() for which, difference in found.items()}
                for (column, group), found in of_groups.items()
            }
            for name, of_groups in self.groups.items()
        }
        return plain | ({"differences_by_group": groups} if groups else {})


def check_seeds(
    names: Sequence[str], models: Sequence[ExpressionClassifier], provenances: Sequence[Provenance]
) -> None:
    """Refuse checkpoints that cannot be runs of one experiment with several seeds.

    Args:
        names: what the checkpoints are called.
        models: their networks.
        provenances: how they came to be.

    Raises:
        CheckpointError: when there is one run only, runs are of different networks, or two have the same seed.
    """
    if len(names) < 2:
        raise CheckpointError("one checkpoint is one seed; name the checkpoints of at least two, or leave --seeds out")
    networks = [describe_network(model) for model in models]
    if len(set(networks)) > 1:
        listing = "; ".join(f"{name}: {network}" for name, network in zip(names, networks, strict=True))
        raise CheckpointError(f"these are not seeds of one experiment: {listing}. Leave --seeds out to compare them")
    known = [provenance.seed for provenance in provenances if provenance.seed is not None]
    if len(set(known)) < len(known):
        listing = ", ".join(f"{name} has seed {p.seed}" for name, p in zip(names, provenances, strict=True))
        raise CheckpointError(f"two runs have the same seed ({listing}); leave --seeds out to compare them")


def compare(
    results: Sequence[ScoredCheckpoint], seeds: bool, seed: int, groupings: Sequence[Grouping] = ()
) -> Comparison:
    """Compare several checkpoints on the same faces.

    Args:
        results: two or more.
        seeds: they are runs of one experiment: mean and deviation of the ensemble's numbers. Otherwise every one after
            the first is compared with the first, on the same samples of the same faces.
        seed: seed of the bootstrap.
        groupings: of the faces, to be compared in each group too.
    """
    if seeds:
        values = {name: [getattr(result.ensemble, name) for result in results] for name in NUMBERS}
        summaries = {name: SeedSummary(mean(found), stdev(found), found) for name, found in values.items()}
        recorded = [result.provenance.variables for result in results]
        names = sorted(set().union(*recorded) - MAY_DIFFER_BETWEEN_SEEDS)
        variables = {name: [variables.get(name) for variables in recorded] for name in names}
        differing = {name: found for name, found in variables.items() if found.count(found[0]) < len(found)}
        return Comparison(None, summaries, differing)
    first = results[0]
    differences = {}
    for result in results[1:]:
        before, after, labels = align_classes(first, result)
        differences[result.name] = compute_differences(before, after, first.predictions.targets, labels, seed)
    by_group = {result.name: compare_groups(first, result, groupings, seed) for result in results[1:] if groupings}
    return Comparison(differences, None, {}, by_group)


def write_predictions(result: ScoredCheckpoint, faces: ScoredFaces, path: Path) -> None:
    """Write one row per face: file, label, prediction, the probability of every class, and every branch's choice."""
    columns = {"predicted": _names(result, result.probabilities)}
    for label, values in zip(result.labels, result.probabilities.T.tolist(), strict=True):
        columns[f"probability_{label}"] = [f"{value:.6f}" for value in values]
    for b, logits in enumerate(result.predictions.branch_logits, start=1):
        columns[f"branch_{b}"] = _names(result, logits)
    _write_faces(result, faces, path, {"label": _labels(result), **columns})


def write_choices(results: Sequence[ScoredCheckpoint], faces: ScoredFaces, path: Path) -> None:
    """Write one row per face: file, label, and the prediction of every checkpoint.

    The label is called `true_label`, so that nobody takes it for the answers of a tool (`--predictions`).
    """
    choices = {result.name: _names(result, result.probabilities) for result in results}
    _write_faces(results[0], faces, path, {"true_label": _labels(results[0]), **choices})


def _labels(result: ScoredCheckpoint) -> list[str]:
    return [result.labels[target] for target in result.predictions.targets.tolist()]


def _names(result: ScoredCheckpoint, scores: Tensor) -> list[str]:
    return [result.labels[choice] for choice in scores.argmax(dim=1).tolist()]


def _write_faces(result: ScoredCheckpoint, faces: ScoredFaces, path: Path, columns: dict[str, list[str]]) -> None:
    with new_table(path) as writer:
        writer.writerow(["file", *columns])
        for index, *row in zip(result.predictions.indices.tolist(), *columns.values(), strict=True):
            writer.writerow([faces.file_name(faces.dataset.paths[index]), *row])
