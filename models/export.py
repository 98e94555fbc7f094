"""Takes a trained network elsewhere: to ONNX, to the folders of model hubs and of published ESR weights, to half size.

Run:  python -m models.export checkpoint/esr_ferplus/demo/best.pt --onnx face.onnx --esr-folder face_esr --half face.pt
      python -m models.export checkpoint/esr_ferplus/demo/best.pt --hub face_hub --license mit
From another folder: python PROJECT/models/export.py with the same words.

ONNX: the input "images" is (N, 3, image_size, image_size), RGB, uint8 or float32 in [0, 1], for any N; channel order
and normalisation are in the graph. Outputs: "probabilities" (N, K), the network's own mixture of its branches, "logits"
(B, N, K), and "affect" (N, 2), valence and arousal, of networks that have it. The metadata name architecture, classes,
image size, and the temperature that calibrates the probabilities. With --onnx-half the weights are in float16, half as
large, and computed with in float32. With --int8 FACES its convolutions are in int8, a quarter as large, unless that
costs more accuracy on these faces than --max-loss.
ESR folder: `Net-Base-Shared_Representations.pt` and `Net-Branch_1.pt` .., which `models.weights` reads.
Half: a checkpoint like any other with its weights in float16, half as large, to be handed on.
"""

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
import onnxruntime
import onnxscript
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

if not __package__:  # run as a file: Python looks beside it for modules, not in the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from diversified_fer.console import one_line_errors
from diversified_fer.writing import replacing, write_atomically
from models.classifier import ExpressionClassifier, default_labels, resize
from models.esr import ESR
from models.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, Card, Result, write_hub
from models.quantize import quantize_onnx
from models.weights import (
    BASE_FILE,
    BRANCH_FILE,
    FORMAT,
    SETTINGS_FILE,
    check_version,
    describe_model,
    halve,
    load_model,
    read_tensors,
)

TOLERANCE = 1e-4  # how far ONNX Runtime and PyTorch may be apart, in probabilities, logits and affect
CHECKED_BATCHES = (1, 5)  # faces at a time in the comparison
INPUT_TYPES = {"uint8": torch.uint8, "float32": torch.float32}
NOTE_FILE = "Net-README.txt"


class ExportError(ValueError):
    """A network that cannot be written in this format or to this place; the message says what to do."""


class Exportable(nn.Module):
    """A network that returns plain tensors: probabilities (N, K), logits (B, N, K) and, where it has one, affect."""

    def __init__(self, model: ExpressionClassifier) -> None:
        super().__init__()
        self.model = model
        self.output_names = ["probabilities", "logits"] + (["affect"] if model.predicts_affect else [])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Score pictures (N, 3, H, W), RGB, uint8 or float in [0, 1]; affect is the mean over branches, (N, 2)."""
        outputs = self.model(images)
        logits = self.model.branch_logits(outputs)
        results = (self.model.mean_probabilities(logits), logits)
        return (*results, outputs.affect.mean(dim=0)) if "affect" in self.output_names else results


def export_onnx(
    model: ExpressionClassifier,
    path: str | Path,
    input_type: Literal["uint8", "float32"] = "uint8",
    half: bool = False,
) -> float:
    """Write a network as one ONNX file, after ONNX Runtime has given the same results with it as PyTorch.

    Args:
        model: ESR or MA-Net, on any device and in any mode; it is left as it is.
        path: the file to write, `.onnx`; what is there is replaced once the new file has been checked.
        input_type: what the file takes, uint8 or float32 in [0, 1].
        half: store the weights in float16, which halves the file; it computes in float32, so that a network whose
            weights were in float16 before gives the same results.

    Returns:
        The largest absolute difference between ONNX Runtime and PyTorch (CPU, float32) on random pictures; with `half`,
        PyTorch with the rounded weights.

    Raises:
        ExportError: when the results differ by more than `TOLERANCE` (no file is left), or `path` cannot be the file.
    """
    path = check_onnx_path(path)
    if input_type not in INPUT_TYPES:
        raise ExportError(f"input_type is {input_type!r}; expected one of {', '.join(INPUT_TYPES)}")
    copied = deepcopy(model).cpu().float()
    if half:
        copied.load_state_dict(halve(describe_model(copied))["state_dict"])
    network = Exportable(copied).eval()
    example = torch.zeros(2, 3, model.image_size, model.image_size, dtype=INPUT_TYPES[input_type])
    with torch.no_grad():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=network.output_names,
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
            optimize=not half,  # it folds BatchNorms into weights, which float16 would not hold exactly any more
            verbose=False,
        )
    values = "uint8" if input_type == "uint8" else "float32 in [0, 1]"
    if half:
        onnxscript.optimizer.fold_constants(program.model)
        onnxscript.optimizer.remove_unused_nodes(program.model)
    program.model.metadata_props.update(
        architecture=model.architecture,
        labels=json.dumps(model.labels),
        image_size=str(model.image_size),
        temperature=repr(model.temperature),
        input=f"images (N, 3, image_size, image_size), RGB, {values}; channel order and normalisation are in the graph",
    )
    _make_folder(path.parent)
    with replacing(path) as unchecked:
        content = program.model_proto
        for node in content.graph.node:
            del node.metadata_props[:]  # where in which file of this machine each node comes from
        if half:
            halve_initializers(content)
        onnx.save(content, unchecked)
        difference = largest_difference(network, unchecked)
        if not difference <= TOLERANCE:  # also where it is not a number
            raise ExportError(
                f"ONNX Runtime {onnxruntime.__version__} and PyTorch {torch.__version__} differ by {difference:.2g} on "
                f"random pictures, more than {TOLERANCE:g}; {path} was not written. Try other versions of torch, "
                "onnxscript or onnxruntime"
            )
    return difference


def check_onnx_path(path: str | Path) -> Path:
    """Return the path of a file that can become an ONNX file; raise ExportError for others."""
    path = Path(path)
    if path.suffix.lower() != ".onnx" or path.is_dir():
        raise ExportError(f"{path} cannot be the ONNX file: name a file that ends in .onnx")
    _make_folder(path.parent)
    return path


def _make_folder(folder: Path) -> None:
    """Make a folder for what is written; raises ExportError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{folder.absolute()} cannot be made a folder ({error.strerror}); name another") from error


def read_labelled_faces(root: Path, model: ExpressionClassifier, input_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Read faces (N, 3, S, S) as an ONNX file of this input takes them, and the classes (N,) that a network calls them.

    Faces of classes that the network does not know are left out. `root` is what `utils.udata.EmotionFolders` reads, or
    FER+, of which Valid is taken.
    """
    from utils.udata import EmotionFolders, FERPlus  # the command is above all rooms, and alone in needing these

    faces = FERPlus(root, "valid") if (root / "Labels").is_dir() else EmotionFolders(root)
    known = [n for n, label in enumerate(faces.labels) if faces.class_names[int(label)] in model.labels]
    targets = [model.labels.index(faces.class_names[int(faces.labels[n])]) for n in known]
    scaled = [(255 * resize(faces[n][0][None], model.image_size)).round().to(torch.uint8) for n in known]
    images = torch.cat(scaled) if scaled else torch.empty(0, 3, model.image_size, model.image_size, dtype=torch.uint8)
    return (images / 255 if input_type == "float32" else images).numpy(), np.array(targets, dtype=np.int64)


def halve_initializers(content: onnx.ModelProto) -> None:
    """Store every float32 tensor that float16 holds exactly in float16, with a node that casts it back."""
    casts = []
    for tensor in content.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        halved = values.astype(np.float16)
        if np.array_equal(halved.astype(np.float32), values):
            name, stored = tensor.name, f"{tensor.name}_float16"
            tensor.CopyFrom(onnx.numpy_helper.from_array(halved, stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *content.graph.node]
    del content.graph.node[:]
    content.graph.node.extend(nodes)


@torch.inference_mode()
def largest_difference(network: Exportable, path: Path) -> float:
    """Compare an ONNX file with the network it was made from on random pictures, one and five at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    is_float = session.get_inputs()[0].type == "tensor(float)"
    differences = []
    for number in CHECKED_BATCHES:
        images = random_pictures(number, network.model.image_size)
        images = images / 255 if is_float else images
        found = session.run(network.output_names, {"images": images.numpy()})
        differences += [
            (torch.from_numpy(result) - expected).abs().max()
            for result, expected in zip(found, network(images), strict=True)
        ]
    return torch.stack(differences).max().item()


def export_half(checkpoint: str | Path, path: str | Path) -> None:
    """Write a checkpoint of this project with its weights in half precision; it loads like any other, into float32.

    Args:
        checkpoint: `best.pt` of an experiment, or another checkpoint of this project.
        path: the file to write, `.pt`; it appears when it is complete.

    Raises:
        ExportError: for published weights, and for a `path` that is the checkpoint itself or no `.pt` file.
        FileNotFoundError, CheckpointError: as `load_model`.
    """
    checkpoint, path = Path(checkpoint), Path(path)
    if path.suffix != ".pt" or path.is_dir() or path.resolve() == checkpoint.resolve():
        raise ExportError(f"{path} cannot be the smaller checkpoint: name another file that ends in .pt")
    content = {} if checkpoint.is_dir() else read_tensors(checkpoint)
    if content.get("format") != FORMAT:
        raise ExportError(f"{checkpoint} holds published weights; --half takes a checkpoint that this project wrote")
    check_version(content, checkpoint)
    _make_folder(path.parent)
    write_atomically(path, lambda temporary: torch.save(halve(content), temporary))


def random_pictures(number: int, size: int) -> Tensor:
    """Return pictures (number, 3, size, size), uint8: patches of colour under noise, the same at every call."""
    generator = torch.Generator().manual_seed(number)
    patches = F.interpolate(torch.rand(number, 3, 6, 6, generator=generator), (size, size), mode="bilinear")
    noise = torch.rand(number, 3, size, size, generator=generator)
    return (255 * (0.8 * patches + 0.2 * noise)).to(torch.uint8)


def export_esr_folder(model: ExpressionClassifier, folder: str | Path) -> str:
    """Write an ESR in the published folder format, with a note on what the format does not carry.

    The written folder is read back and compared bit for bit before anything is put in place.

    Args:
        model: an ESR on any device; it is left as it is.
        folder: where to write; created when missing. Weights of as many branches or fewer there are replaced.

    Returns:
        The line of Python that loads the folder, with what the format leaves out: normalisation and image size.

    Raises:
        ExportError: for another architecture, for classes the format cannot name, or when `folder` is a file or holds
            branches that would be read as part of this ensemble.
    """
    folder = _check_esr_folder(model, folder)
    branches = [BRANCH_FILE.format(number) for number in range(1, len(model.branches) + 1)]
    states = dict(zip([BASE_FILE, *branches], [model.base, *model.branches], strict=True))
    code = f'model = load_model("{folder.as_posix()}")'
    _make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        unchecked = Path(temporary)
        for name, module in states.items():
            torch.save({key: value.cpu() for key, value in module.state_dict().items()}, unchecked / name)
        (unchecked / NOTE_FILE).write_text(_note(model, code), "utf-8")
        settings = {name: model.arguments[name] for name in ("normalization", "image_size")}
        settings["temperature"] = model.temperature
        (unchecked / SETTINGS_FILE).write_text(json.dumps(settings) + "\n", "utf-8")
        written, read = model.state_dict(), load_model(unchecked).state_dict()
        differing = sorted(written.keys() ^ read.keys())
        differing += [key for key in written.keys() & read.keys() if not torch.equal(written[key].cpu(), read[key])]
        if differing:
            raise ExportError(
                f"the folder did not load back as it was written (first difference: {differing[0]}); "
                "nothing was put in place. Weights of reduced precision must be converted with model.float() first"
            )
        (folder / BASE_FILE).unlink(missing_ok=True)  # without it nobody reads a mixture of two ensembles
        for name in (*branches, NOTE_FILE, SETTINGS_FILE, BASE_FILE):
            (unchecked / name).replace(folder / name)
    return code


def export_hub(
    checkpoint: str | Path,
    folder: str | Path,
    license: str = "other",
    datasets: Sequence[str] = (),
    normalization: str | None = None,
) -> Card:
    """Write a network as the folder that model hubs expect: config.json, model.safetensors and README.md, its card.

    The written folder is read back and compared bit for bit before anything is put in place. The card names the data
    and the numbers of the metrics.json beside the checkpoint, where a training script has written one, and takes over
    a page of the checkpoint's name in Markdown.

    Args:
        checkpoint: in any format that `load_model` reads.
        folder: where to write; created when missing.
        license: for the card, an identifier that hubs know, such as "mit" or "cc-by-nc-4.0".
        datasets: that the network was trained on, where that is not recorded.
        normalization: as `load_model` takes it, of published weights.

    Returns:
        What the card says.

    Raises:
        ExportError: when `folder` is a file or holds other things than such a network.
        FileNotFoundError, CheckpointError: as `load_model`.
    """
    checkpoint, folder = Path(checkpoint), Path(folder).absolute()
    own = {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, ".gitattributes", ".git"}
    if folder.is_file() or (folder.is_dir() and {path.name for path in folder.iterdir()} - own):
        raise ExportError(
            f"{folder} is a file, or holds other things than {CONFIG_FILE}, {WEIGHTS_FILE} and {CARD_FILE}; name "
            "another folder, or a new one"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ExportError(
            f"license is {license!r}; expected an identifier such as mit, apache-2.0, cc-by-nc-4.0 or other"
        )
    model = load_model(checkpoint, normalization=normalization)
    content = describe_model(model)
    if not checkpoint.is_dir():
        read = read_tensors(checkpoint)
        content |= {
            name: read[name] for name in ("measured", "variables") if read.get("format") == FORMAT and name in read
        }
    card = _card(checkpoint, content, license, datasets)
    _make_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        unchecked = Path(temporary)
        write_hub(content, card, unchecked)
        written, read_back = content["state_dict"], load_model(unchecked).state_dict()
        if written.keys() != read_back.keys() or not all(torch.equal(written[k].cpu(), read_back[k]) for k in written):
            raise ExportError("the folder did not load back as it was written; nothing was put in place")
        folder.mkdir(exist_ok=True)
        (folder / CONFIG_FILE).unlink(missing_ok=True)  # without it nobody reads a mixture of two networks
        for name in (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE):
            (unchecked / name).replace(folder / name)
    return card


def _card(checkpoint: Path, content: dict[str, Any], license: str, datasets: Sequence[str]) -> Card:
    """Return what is known of a network: its run's metrics.json says the data, where it is of these weights."""
    whole = checkpoint.absolute()
    name = "-".join((whole if whole.is_dir() else whole.with_suffix("")).parts[-2:])
    page = whole.with_suffix(".md")
    text = page.read_text("utf-8") if page.is_file() else ""
    written = checkpoint.parent / "metrics.json"
    try:
        found = json.loads(written.read_text("utf-8")) if written.is_file() else {}
    except ValueError:
        found = {}
    if not isinstance(found, dict) or not content.get("measured") or found.get("found") != content["measured"]:
        return Card(name, license, datasets, text=text)
    data, best = found["data"], found["best"]
    values = {which: best[which] for which in ("accuracy", "macro_f1")}
    result = Result(data["name"], data["split"], best["n"], values)
    return Card(name, license, datasets or [data["source"]], [result], text)


def _check_esr_folder(model: ExpressionClassifier, folder: str | Path) -> Path:
    folder = Path(folder).absolute()
    if not isinstance(model, ESR):
        raise ExportError(
            f"this network is {model.architecture}; the folder format holds the base and the branches of an ESR, and "
            "nothing else. Its checkpoint is one file already; export it with --onnx for use without PyTorch"
        )
    if model.labels != default_labels(len(model.labels)):
        raise ExportError(
            f"the classes are {', '.join(model.labels)}; the folder format carries no names, and its readers take "
            f"{', '.join(default_labels(len(model.labels)))}: keep the checkpoint, or export with --onnx"
        )
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; name a folder for the weights")
    own = {BRANCH_FILE.format(number) for number in range(1, len(model.branches) + 1)}
    surplus = sorted({path.name for path in folder.glob(BRANCH_FILE.format("*"))} - own)
    if surplus:
        raise ExportError(
            f"{folder} holds {', '.join(surplus[:3])}{', ...' if len(surplus) > 3 else ''} of another ensemble, which "
            f"would be read as part of this one ({len(own)} branch{'es' if len(own) > 1 else ''}); nothing was "
            "written. Remove the Net-* files there, or choose another folder"
        )
    return folder


def _note(model: ESR, code: str) -> str:
    order, mean, std = (
        getattr(model, f"input_{name}").flatten().cpu().tolist() for name in ("channels", "mean", "std")
    )
    return f"""\
An ensemble with shared representations (ESR) of {len(model.branches)} branches, in the folder format of the published
ESR weights: state dicts of the shared base ({BASE_FILE}) and of each branch.

The format does not carry what these weights saw. Feed them
  pictures of {model.image_size} x {model.image_size} pixels,
  channels {"".join("RGB"[channel] for channel in order)}, values in [0, 1],
  minus {", ".join(f"{value:.4g}" for value in mean)}, divided by {", ".join(f"{value:.4g}" for value in std)}.
Classes, in order: {", ".join(model.labels)}.

With the Diversified FER project this is done by

from models import load_model
{code}

It reads {SETTINGS_FILE}, which other programs ignore: without that file a folder of 8 classes is taken for published
weights, which saw BGR in [0, 1] without mean and deviation, at 96 x 96 pixels.
"""


@dataclass
class Export:
    """What to write."""

    checkpoint: Annotated[Path, tyro.conf.Positional]  # a .pt checkpoint, a released MA-Net file or an ESR folder
    onnx: Path | None = None  # the ONNX file to write
    esr_folder: Path | None = None  # the folder to write, in the published ESR format
    hub: Path | None = None  # the folder to write, as model hubs expect it: config.json, model.safetensors, README.md
    license: str = "other"  # of the weights, for the hub's card: mit, apache-2.0, cc-by-nc-4.0, ...
    datasets: str = ""  # that the network was trained on, for the hub's card, with commas between
    half: Path | None = None  # the checkpoint to write with weights in half precision
    input_type: Literal["uint8", "float32"] = "uint8"  # what the ONNX file takes: uint8, or float32 in [0, 1]
    int8: Path | None = None  # labelled faces (folders by emotion, a table, or FER+) to write --onnx in int8 with
    max_loss: float = 0.5  # percentage points of accuracy on them that int8 may cost; for more, no file is written
    onnx_half: bool = False  # store the ONNX file's weights in float16; it computes in float32 all the same
    normalization: Literal["rgb", "bgr", "imagenet"] | None = None  # what published weights saw, if not the usual


def main(export: Export) -> None:
    """Write what was asked for, and say in one line each what it is."""
    if (export.onnx, export.esr_folder, export.hub, export.half) == (None,) * 4:
        raise ExportError("nothing to write: name --onnx FILE, --esr-folder FOLDER, --hub FOLDER or --half FILE")
    model = load_model(export.checkpoint, normalization=export.normalization)
    if export.esr_folder is not None:  # what cannot be written is said before the ONNX file is
        _check_esr_folder(model, export.esr_folder)
    size = model.image_size
    if export.int8 is not None and (export.onnx is None or export.onnx_half):
        raise ExportError("--int8 is a form of the ONNX file: name --onnx FILE, and leave --onnx-half out")
    if export.int8 is not None:
        images, targets = read_labelled_faces(export.int8, model, export.input_type)
        check_onnx_path(export.onnx)
        found = quantize_onnx(
            lambda path: export_onnx(model, path, export.input_type), export.onnx, images, targets, export.max_loss
        )
        print(
            f"wrote {export.onnx} ({export.onnx.stat().st_size / 1e6:.1f} MB): {model.architecture}, {size} x {size}, "
            f"{export.input_type}, convolutions in int8; accuracy {found.after:.2%}, in float32 {found.before:.2%} "
            f"({found.faces:,} faces of {export.int8} that the ranges were not taken from)"
        )
    elif export.onnx is not None:
        difference = export_onnx(model, export.onnx, export.input_type, export.onnx_half)
        print(
            f"wrote {export.onnx} ({export.onnx.stat().st_size / 1e6:.1f} MB): {model.architecture}, {size} x {size}, "
            f"{export.input_type}, {len(model.labels)} classes; largest difference from PyTorch {difference:.1e}"
        )
    if export.esr_folder is not None:
        code = export_esr_folder(model, export.esr_folder)
        written = [*export.esr_folder.glob("Net-*")]
        print(
            f"wrote {export.esr_folder} ({sum(path.stat().st_size for path in written) / 1e6:.1f} MB): base and "
            f"{len(model.branches)} branches, equal bit for bit when read back. Load it with"
        )
        print("from models import load_model\n" + code)
    if export.hub is not None:
        datasets = [name.strip() for name in export.datasets.split(",") if name.strip()]
        card = export_hub(export.checkpoint, export.hub, export.license, datasets, export.normalization)
        size = sum((export.hub / name).stat().st_size for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE))
        known = ", ".join(result.data for result in card.results) or "no recorded numbers: add yours to its README.md"
        print(
            f"wrote {export.hub} ({size / 1e6:.1f} MB): config.json, model.safetensors, README.md (licence "
            f"{card.license}; {known}), equal bit for bit when read back by load_model"
        )
    if export.half is not None:
        export_half(export.checkpoint, export.half)
        print(f"wrote {export.half} ({export.half.stat().st_size / 1e6:.1f} MB): the same network in half precision")


if __name__ == "__main__":
    with one_line_errors(command="models.export"):
        main(tyro.cli(Export))
