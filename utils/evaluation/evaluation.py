"""Everything that is measured of one checkpoint, where it comes from, and what its results are called."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diversified_fer.media.output import common_folder
from models.classifier import ExpressionClassifier
from models.esr import ESR
from models.hub import is_hub_folder
from models.inference import optimize_for_inference
from models.weights import FORMAT, SETTINGS_FILE, CheckpointError, read_tensors
from utils.evaluation.branches import Disagreement, Similarity, measure_disagreement, watch_features
from utils.evaluation.classes import columns_of, keep_columns
from utils.uaffect import AffectMetrics, compute_affect_metrics
from utils.udata import FaceDataset
from utils.uhardware import Hardware
from utils.umetrics import Metrics, compute_metrics, fit_temperature
from utils.upipeline import FaceLoader
from utils.ureport import score
from utils.utrain import Predictions, predict_dataset

ENSEMBLE = "ensemble (mean)"
NO_CLASS = "another class"  # what labels of another tool are called that name no class which is scored
MISTAKES = 12


class Selection(NamedTuple):
    """The faces that an epoch was chosen by: data set, its split, and what they were called."""

    source: str
    split: str
    name: str


class Provenance(NamedTuple):
    """How a network came to be, as far as its checkpoint says.

    Attributes:
        variables: the variables of its experiment; empty for published weights.
        measured: stage, epoch and validation accuracy of the weights; empty likewise.
        selected_on: the faces that the epoch was chosen by, or None where that is not recorded.
        is_last: whether these are the weights after the last epoch, which nothing was chosen by.
    """

    variables: dict[str, Any]
    measured: dict[str, Any]
    selected_on: Selection | None
    is_last: bool = False

    @property
    def selection(self) -> str:
        """The faces that the epoch was chosen by, in words."""
        if self.is_last:
            return "nothing: these are the weights after the last epoch"
        return self.selected_on.name if self.selected_on else "not recorded"

    def was_selected_on(self, faces: FaceDataset) -> bool:
        """Tell whether the epoch was chosen by faces of this split."""
        chosen_by = self.selected_on
        return chosen_by is not None and (chosen_by.source, chosen_by.split) == (faces.source, faces.split)

    @property
    def found(self) -> str | None:
        """Stage, epoch and validation accuracy of the weights in words, or None where they are not recorded."""
        forms = {
            "stage": "stage {}", "epoch": ", epoch {}", "num_epochs": " of {}",
            "validation_accuracy": ", {:.2%} when it was selected",
        }  # fmt: skip
        words = [form.format(self.measured[name]) for name, form in forms.items() if name in self.measured]
        return "".join(words) or None

    @property
    def seed(self) -> int | None:
        """The seed of the run, or None where that is not recorded."""
        return self.variables.get("seed")


class Mistake(NamedTuple):
    """A face that a network labels wrongly: its file, both labels, and the probability of the wrong one."""

    path: Path
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class ScoredCheckpoint:
    """A checkpoint and all that was measured of it.

    Attributes:
        name: what the checkpoint is called in tables.
        description: architecture, branches and size in a few words.
        predicts_affect: whether the network also has heads for valence and arousal.
        affect: valence and arousal of the faces that have them; None for a network or data without.
        labels: the classes; last `NO_CLASS` for a table that names others.
        probabilities: of the ensemble by mean, (N, K).
        metrics: of the ensemble by mean and by vote, and of every branch.
        branches: what the branches are called in pictures.
        similarity: None for a network with one branch or without features to compare.
        disagreement: None for a network with one branch.
        mistakes: the surest first.
        temperature: of the network, see `models.classifier.ExpressionClassifier`; None for a table.
        calibrated: the ensemble by mean as `predict` returns it, with that temperature; None for a table.
        has_probabilities: off for the answers of another tool that are labels alone.
        is_table: whether these are the answers of another tool.
        groups: numbers by group of faces (`utils.evaluation.groups`).
        corruptions: numbers on spoiled pictures (`utils.evaluation.corruptions`).
    """

    name: str
    path: Path
    description: str
    predicts_affect: bool
    affect: AffectMetrics | None
    labels: tuple[str, ...]
    provenance: Provenance
    predictions: Predictions
    probabilities: Tensor
    metrics: dict[str, Metrics]
    branches: tuple[str, ...]
    similarity: Similarity | None
    disagreement: Disagreement | None
    mistakes: list[Mistake]
    has_probabilities: bool = True
    is_table: bool = False
    temperature: float | None = None
    calibrated: Metrics | None = None
    groups: list[Any] = field(default_factory=list)
    corruptions: list[Any] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: where the checkpoint comes from, and its numbers."""
        return {
            "checkpoint": str(self.path),
            "network": self.description,
            "selected_on": self.provenance.selection,
            "seed": self.provenance.seed,
            "found": self.provenance.measured,
            **{name: metrics.as_dict() for name, metrics in self.metrics.items()},
            "affect": self.affect and self.affect.as_dict(),
            "similarity": self.similarity and self.similarity.as_dict(),
            "disagreement": self.disagreement and self.disagreement.as_dict(),
            **({"temperature": self.temperature, "calibrated": self.calibrated.as_dict()} if self.calibrated else {}),
            **({"groups": self._groups_as_dict()} if self.groups else {}),
            **({"corruptions": [row.as_dict() for row in self.corruptions]} if self.corruptions else {}),
        }

    def _groups_as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for group in self.groups:
            found.setdefault(group.column, {})[group.name] = group.as_dict()
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the faces."""
        return tuple(label for label in self.labels if label != NO_CLASS)

    @property
    def ensemble(self) -> Metrics:
        """The metrics of the network's own mixture of its branches."""
        return self.metrics[ENSEMBLE]


def evaluate_model(
    model: ExpressionClassifier,
    path: Path,
    name: str,
    provenance: Provenance,
    loader: FaceLoader,
    hardware: Hardware,
    seed: int,
    flip: bool = False,
    fit: bool = False,
) -> ScoredCheckpoint:
    """Score a network on the faces of a loader, which is not shuffled, by the classes that these have.

    Args:
        model: the network, on its device.
        path: its checkpoint.
        name: what to call it.
        provenance: from `read_provenance`.
        loader: of the faces.
        hardware: see `utils.uhardware.choose_hardware`.
        seed: seed of the bootstrap.
        flip: average each face with its mirror image: the ensemble's probabilities, the scores of branches.
        fit: fit the network's temperature on these faces, not mirrored; see `check_fit`.
    """
    faces = loader.dataset
    fast = optimize_for_inference(model, hardware.precision)
    hardware = replace(hardware, precision=torch.float32)  # it is in its precision; autocast would take the heads along
    with watch_features(fast, len(faces)) as sample:
        predictions = predict_dataset(fast, loader, hardware)
    combined = model.combine(predictions.branch_logits)
    if fit:
        model.temperature = fit_temperature(combined, predictions.targets)
    if flip:
        mirrored = predict_dataset(fast, loader, hardware, flip=True).branch_logits
        combined = (combined + model.combine(mirrored)) / 2
        predictions = predictions._replace(branch_logits=(predictions.branch_logits + mirrored) / 2)
    affect = measure_affect(model, predictions, faces, seed)
    labels, columns = tuple(faces.class_names), columns_of(model.labels, faces.class_names)
    probabilities, calibrated = (keep_columns(rows, columns) for rows in (combined, model.calibrate(combined)))
    predictions = predictions._replace(branch_logits=predictions.branch_logits[:, :, columns])
    metrics = score(model, predictions, seed, labels)
    if flip or len(labels) < len(model.labels):  # a mixture of both views, or of all classes, of which these are kept
        metrics[ENSEMBLE] = compute_metrics(probabilities, predictions.targets, labels, seed)
    return ScoredCheckpoint(
        name=name,
        path=path,
        description=describe_network(model),
        predicts_affect=model.predicts_affect,
        affect=affect,
        labels=labels,
        provenance=provenance,
        predictions=predictions,
        probabilities=probabilities,
        metrics=metrics,
        branches=model.branch_names,
        similarity=sample.similarity,
        disagreement=measure_disagreement(predictions.branch_logits, predictions.targets),
        mistakes=find_mistakes(probabilities, predictions, faces, labels),
        temperature=model.temperature,
        calibrated=compute_metrics(calibrated, predictions.targets, labels, seed),
    )


def check_fit(models: Mapping[Path, ExpressionClassifier], faces: FaceDataset) -> None:
    """Refuse networks, by checkpoint, whose temperature cannot be fitted on these faces and put into the checkpoint.

    Raises:
        CheckpointError: for what is no checkpoint as this project's training writes it, or has other classes, and
            where no network is named at all.
    """
    if not models:
        raise CheckpointError("--fit-temperature is for networks: name a checkpoint, or leave it out")
    for path, model in models.items():
        why = None
        if is_hub_folder(path) or (path / SETTINGS_FILE).is_file():
            kind = "model hubs" if is_hub_folder(path) else "other tools"
            why = (
                f"is a folder exported for {kind}, in which a temperature is not changed: name the checkpoint it was "
                "exported from, and export it again"
            )
        elif path.is_dir() or read_tensors(path).get("format") != FORMAT:
            why = "was not written by this project's training, so it has no place for a temperature"
        elif model.labels != tuple(faces.class_names):
            why = f"has other classes than {faces.name}: a temperature is fitted on all of them"
        if why:
            raise CheckpointError(f"{path} {why}; or leave --fit-temperature out")


def describe_computation(hardware: Hardware, flip: bool, normalization: str | None) -> str:
    """Say in a few words how the numbers are computed: device, precision, and what is not as usual."""
    words = [hardware.device.type, str(hardware.precision).removeprefix("torch.")]
    words += ["each face averaged with its mirror image"] if flip else []
    words += [f"normalisation {normalization} of published weights"] if normalization else []
    return ", ".join(words)


def align_classes(first: ScoredCheckpoint, second: ScoredCheckpoint) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return the probabilities (N, K) of both, and their classes; `NO_CLASS`, the last one, may be absent from one."""
    labels = max(first.labels, second.labels, key=len)
    padded = (functional.pad(own.probabilities, (0, len(labels) - len(own.labels))) for own in (first, second))
    return *padded, labels


def measure_affect(model: ESR, predictions: Predictions, faces: FaceDataset, seed: int) -> AffectMetrics | None:
    """Score valence and arousal on the faces that have them; None where there are none."""
    if not model.predicts_affect or faces.affect is None:
        return None
    targets = torch.from_numpy(faces.affect)[predictions.indices]
    known = (targets.abs() <= 1).all(dim=1)
    predicted = model.mean_affect(predictions.branch_logits).cpu()
    return compute_affect_metrics(predicted[known], targets[known], seed) if known.any() else None


def describe_network(model: ExpressionClassifier) -> str:
    """Say in a few words what a network is."""
    num_branches = len(model.branch_names)
    branches = "1 branch" if num_branches == 1 else f"{num_branches} branches"
    attention = {True: "with attention, ", False: "without attention, "}.get(model.arguments.get("attention"), "")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = model.image_size
    return f"{model.architecture}, {branches}, {attention}{size} × {size} pixels, {parameters:,} parameters"


def read_provenance(path: Path) -> Provenance:
    """Read how a checkpoint came to be; the faces it was selected on are in the metrics.json of its run."""
    content = {} if path.is_dir() else read_tensors(path)
    if content.get("format") != FORMAT:
        return Provenance({}, {}, None)
    variables = content.get("variables", {})
    if "optimizer" in content:  # last.pt
        measured = {name: content[name] for name in ("stage", "epoch")}
        return Provenance(variables, measured, None, is_last=True)
    measured = content.get("measured", {})
    written = path.parent / "metrics.json"
    try:
        result = json.loads(written.read_text("utf-8")) if written.is_file() else {}
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{written} is no JSON ({error}); run the training script again to write it") from error
    same = isinstance(result, dict) and result.get("found") == measured
    chosen_by = result.get("selected_on") if same else None
    known = isinstance(chosen_by, dict) and chosen_by.keys() == set(Selection._fields)
    return Provenance(variables, measured, Selection(**chosen_by) if known else None)


def name_checkpoints(paths: Sequence[Path]) -> list[str]:
    """Return a short name for every checkpoint: its folder and stem, with as many folders more as tell them apart.

    Raises:
        ValueError: when a checkpoint is named twice.
    """
    resolved = [_named(path).absolute() for path in paths]
    for path in resolved:
        if resolved.count(path) > 1:
            raise ValueError(f"{path} is named twice; name every checkpoint once")
    parts = [path.parts[1:] if path.is_dir() else (*path.parts[1:-1], path.stem) for path in resolved]
    if len(set(parts)) < len(parts):  # best.pt and best.pth
        parts = [path.parts[1:] for path in resolved]
    depth = 2
    while len({own[-depth:] for own in parts}) < len(parts):
        depth += 1
    return ["/".join(own[-depth:]) for own in parts]


def choose_folders(paths: Sequence[Path], names: Sequence[str], output: Path | None, ending: str) -> list[Path]:
    """Return where the results of every checkpoint go, and last where their comparison goes.

    Args:
        paths: the checkpoints.
        names: what they are called, from `name_checkpoints`.
        output: folder for all results; None for beside each checkpoint, and the folder that holds all checkpoints (the
            first one's where they are on several drives).
        ending: of every folder's name.

    Raises:
        ValueError: when two checkpoints' results would go to the same place.
    """
    if output:
        folders = [output / f"{name.replace('/', '_')}{ending}" for name in names]
    else:
        folders = [path.with_name((path.name if path.is_dir() else path.stem) + ending) for path in map(_named, paths)]
    if len(set(folders)) < len(folders):
        raise ValueError(
            "two checkpoints of the same name are in one folder; choose a folder for the results by --output"
        )
    parents = [_named(path).absolute().parent for path in paths]
    common = output or common_folder(parents) or parents[0]  # on several drives no folder holds all
    return [*folders, common / f"comparison{ending}"]


def _named(path: Path) -> Path:
    """Return a path that ends in a name, which "." and ".." do not."""
    return path.resolve() if path.name in ("", "..") else path


def find_mistakes(
    probabilities: Tensor, predictions: Predictions, faces: FaceDataset, labels: Sequence[str], number: int = MISTAKES
) -> list[Mistake]:
    """Return the mistakes that a network is most sure of, the surest first."""
    confidence, predicted = probabilities.max(dim=1)
    wrong = torch.nonzero(predicted != predictions.targets).ravel()
    surest = wrong[torch.argsort(confidence[wrong], descending=True, stable=True)][:number]
    found = (values[surest].tolist() for values in (predictions.indices, predictions.targets, predicted, confidence))
    return [Mistake(faces.paths[i], labels[t], labels[p], sure) for i, t, p, sure in zip(*found, strict=True)]
