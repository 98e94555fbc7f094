"""A network as a folder that model hubs expect: config.json, model.safetensors and a README.md that is its card.

Nothing of it is executed: the weights are numbers, the config is JSON, and networks of this project alone are built.
The names are those that hubs look for (`id2label`, `architectures`, `library_name`, `pipeline_tag`, `model-index`; the
card's front matter is specified at github.com/huggingface/hub-docs, modelcard.md).
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diversified_fer.contents import ARCHIVE, recognize
from models.files import UNPACK, CheckpointError, describe_other, read_head, shown

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
OTHER_WEIGHTS = re.compile(r"\.bin(\.index\.json)?$|\.safetensors\.index\.json$|-of-\d+\.safetensors$|\.(h5|msgpack)$")
LIBRARY = "diversified-fer"
MAX_CONFIG = 2**20  # bytes
KEPT = ("format", "version", "arguments", "image_size", "measured", "variables")  # of a checkpoint
DATA_LICENCES = (
    "The code is under the MIT licence. Which terms the weights are under also depends on the pictures they were "
    "trained on; those of face data sets are mostly for research."
)


class Card(NamedTuple):
    """What the card of a network says.

    Attributes:
        name: of the network.
        license: an identifier that hubs know, such as "mit", or "other".
        trained_on: names of data sets.
        results: numbers measured, each with the data they are of.
        text: a page in Markdown, put below what the card says of itself.
    """

    name: str
    license: str = "other"
    trained_on: Sequence[str] = ()
    results: Sequence["Result"] = ()
    text: str = ""


class Result(NamedTuple):
    """Numbers of a network on a data set: shares in [0, 1] by the metric's name, over n faces."""

    data: str
    split: str
    n: int
    values: dict[str, float]


def is_hub_folder(folder: Path) -> bool:
    """Tell whether a folder holds a config or weights as hubs keep them."""
    return any((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))


def read_hub(folder: Path) -> dict[str, Any]:
    """Return what a folder holds in the form of a checkpoint of this project, for `models.weights.build_model`.

    Raises:
        CheckpointError: when a file is missing or damaged, or it is the folder of another program.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            there = sorted(path.name for path in folder.iterdir())
            other = next((one for one in there if OTHER_WEIGHTS.search(one)), None)
            remedy = (
                f"{other} is another form of weights, which is not read: export the network again by "
                "`python -m models.export --hub`"
                if other
                else "download the whole folder again"
            )
            raise CheckpointError(f"{folder} has no {name} (it holds {', '.join(there[:6])}); {remedy}")
    config = _read_config(folder / CONFIG_FILE)
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, ValueError, OSError) as error:
        kind, what = recognize(read_head(folder / WEIGHTS_FILE))
        if kind:
            remedy = f": {UNPACK}" if kind is ARCHIVE else "; expected weights of safetensors"
            raise CheckpointError(f"{folder / WEIGHTS_FILE} is {what}{remedy}") from error
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} ({(folder / WEIGHTS_FILE).stat().st_size:,} bytes) cannot be read: it is "
            f"truncated or damaged ({shown(str(error), 120)}); download it again"
        ) from error
    content = {name: config[name] for name in KEPT if name in config}
    content |= {"architecture": config["architectures"][0], "state_dict": state}
    content |= {"labels": [config["id2label"][str(k)] for k in range(len(config["id2label"]))]}
    return content | {"temperature": config.get("temperature", 1.0)}


def _read_config(path: Path) -> dict[str, Any]:
    """Read and check the config, but for what `build_model` checks in every checkpoint."""
    head = read_head(path).removeprefix(b"\xef\xbb\xbf")  # as editors of Windows begin a text
    if path.stat().st_size > MAX_CONFIG or head.lstrip()[:1] != b"{":
        what = describe_other(head, path) or "is no JSON"
        raise CheckpointError(f"{path} {what if head else 'is empty'}; expected the config of a network in JSON")
    try:
        config = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({shown(str(error), 120)}); download it again") from error
    architectures = config.get("architectures")
    if config.get("format") != LIBRARY:
        of = config.get("model_type") or (
            architectures[0] if isinstance(architectures, list) and architectures else None
        )
        raise CheckpointError(
            f"{path} describes a network of another program{f' ({shown(of)})' if of else ''}; expected one that "
            f"`python -m models.export --hub` wrote (format {LIBRARY!r}). Score others by their answers: evaluate.py "
            "--predictions"
        )
    names, temperature = config.get("id2label"), config.get("temperature", 1.0)
    lacks = None
    if not (isinstance(architectures, list) and len(architectures) == 1 and isinstance(architectures[0], str)):
        lacks = "architectures is no list of one name"
    elif not (isinstance(names, dict) and names and set(names) == {str(k) for k in range(len(names))}):
        lacks = "id2label does not name the classes 0, 1, 2, ..."
    elif not all(isinstance(name, str) for name in names.values()):
        lacks = "id2label holds other things than names"
    elif type(temperature) not in (int, float) or not (math.isfinite(temperature) and temperature > 0):
        lacks = f"temperature is {shown(temperature)}; expected a number above 0"
    if lacks:
        raise CheckpointError(f"{path}: {lacks}; download it again, or export the network again")
    return config


def write_hub(content: dict[str, Any], card: Card, folder: Path) -> None:
    """Write a network into an existing folder.

    Args:
        content: a checkpoint of this project, from `models.weights.describe_model`; temperature, measured and variables
            are optional.
        card: what README.md says.
        folder: where to; files of the same names are replaced.
    """
    labels = content["labels"]
    config = {
        "format": LIBRARY,
        "version": content["version"],
        "model_type": LIBRARY,
        "architectures": [content["architecture"]],
        "arguments": content["arguments"],
        "image_size": content["image_size"],
        "num_channels": 3,
        "num_labels": len(labels),
        "id2label": {str(k): label for k, label in enumerate(labels)},
        "label2id": {label: k for k, label in enumerate(labels)},
        "temperature": float(content.get("temperature", 1.0)),
        **{name: content[name] for name in ("measured", "variables") if content.get(name)},
    }
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str) + "\n"
    state: dict[str, Tensor] = {
        key: value.detach().cpu().clone().contiguous() for key, value in content["state_dict"].items()
    }
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CARD_FILE).write_text(_card_text(content, card), "utf-8")
    (folder / CONFIG_FILE).write_text(text, "utf-8")


def _card_text(content: dict[str, Any], card: Card) -> str:
    """Return README.md: front matter in YAML (whose strings may be written as in JSON), and a page for people."""
    quoted = json.dumps
    lines = ["---", f"license: {card.license}"]
    if card.license == "other":
        lines += ["license_name: depends-on-training-data", "license_link: README.md"]
    lines += [f"library_name: {LIBRARY}", "pipeline_tag: image-classification", "tags:"]
    lines += [f"- {tag}" for tag in ("facial-expression-recognition", "pytorch", "safetensors")]
    if card.trained_on:
        lines += ["datasets:", *(f"- {quoted(name, ensure_ascii=False)}" for name in card.trained_on)]
    lines += ["metrics:", "- accuracy", "- f1"]
    if card.results:
        lines += ["model-index:", f"- name: {quoted(card.name, ensure_ascii=False)}", "  results:"]
    for result in card.results:
        lines += ["  - task:", "      type: image-classification", "      name: Facial expression recognition"]
        lines += ["    dataset:", f"      type: {quoted(_slug(result.data), ensure_ascii=False)}"]
        lines += [f"      name: {quoted(result.data, ensure_ascii=False)}", f"      split: {quoted(result.split)}"]
        lines += ["    metrics:"]
        for name, value in result.values.items():
            lines += [f"    - type: {'f1' if 'f1' in name else 'accuracy'}", f"      value: {value:.4f}"]
            lines += [f"      name: {quoted(name.replace('_', ' '))}"]
    size, labels = content["image_size"], content["labels"]
    temperature = float(content.get("temperature", 1.0))
    rows = [
        f"| {result.data} | {result.n:,} | {name.replace('_', ' ')} | {100 * value:.1f} % |"
        for result in card.results
        for name, value in result.values.items()
    ]
    table = ["| data | faces | number | value |", "|---|---|---|---|", *rows] if rows else ["Not recorded here."]
    return "\n".join(
        [
            *lines, "---", "", f"# {card.name}", "",
            f"{content['architecture']} for facial expressions: pictures of one face, {size} x {size} pixels, RGB; "
            f"classes in order: {', '.join(labels)}. Normalisation and channel order are in the network."
            + (f" Its probabilities are calibrated with temperature {temperature:.3g}." if temperature != 1 else ""),
            "", "## Use", "", "```python", "from models import load_model", "",
            'model = load_model("FOLDER")  # this folder; nothing in it is executed',
            "probabilities = model.predict(faces)  # crops of faces: pictures, arrays or tensors", "```", "",
            "With the Diversified FER project, which wrote this folder.", "", "## Numbers", "", *table, "",
            "## Training", "", f"Data: {', '.join(card.trained_on) or 'not recorded'}.", "",
            "## Licence", "", DATA_LICENCES, "",
            *([card.text] if card.text else []), "## Limits", "",
            "A label says what most annotators would call the picture of a face; expressions are not feelings. Not for "
            "judging people. How well it does on other faces than those above was not measured here.", "",
        ]
    )  # fmt: skip


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "+" else "-" for letter in name.lower()).strip("-")
