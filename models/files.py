"""Reads the tensors and plain values that a file holds, and says of other files what they are and what to do.

No pickled code runs. This project's files hold tensors and plain values only and are read with `weights_only=True`. A
published file may carry other pickled objects beside its tensors (MA-Net's has a recorder of its training curves): an
unpickler that knows how to rebuild tensors reads it, with an inert placeholder wherever it names anything else.
"""

import pickle
import re
import types
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from diversified_fer.contents import ARCHIVE, ELSEWHERE, recognize

BASE_FILE, BRANCH_FILE = "Net-Base-Shared_Representations.pt", "Net-Branch_{}.pt"
EXPECTED = (
    "a checkpoint written by this project (best.pt, last.pt), a folder with "
    f"{BASE_FILE} and {BRANCH_FILE.format(1)}, a folder with config.json and model.safetensors, or a released MA-Net "
    ".pth file"
)
UNPACK = "unpack it, and name the file or folder that comes out"
TEXT = bytes(range(32, 127)) + bytes(range(128, 256)) + b"\t\r\n\f"
LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save wrote first before version 1.6
PROGRAMS = {  # a member of a zip: what wrote it
    "constants.pkl": "TorchScript",
    "archive_format": "torch.export",
    "serialized_exported_program.json": "torch.export",
}
MAX_UNPACKED = 8 * 2**30  # bytes of a zip whose members are compressed; torch.save never compresses
SHOWN = 60  # characters of a name from a file that a message shows


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file."""


def read_tensors(path: Path) -> dict[Any, Any]:
    """Read a checkpoint's tensors and plain values without running any code it carries.

    Returns:
        What the file holds, a dict; the elements of a list are under their numbers.

    Raises:
        FileNotFoundError: when there is no file at `path`.
        CheckpointError: when the file is truncated, damaged, or no checkpoint; it says what it is instead.
    """
    content = _read(path)
    if isinstance(content, type) and issubclass(content, Placeholder):  # a class or function by its name alone
        content = content()
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if isinstance(content, Placeholder) and content.entries:
        content = content.entries
    if not isinstance(content, dict):
        is_object = isinstance(content, Placeholder)
        what = content.described if is_object else f"a {type(content).__name__}, no state dict"
        raise CheckpointError(f"{path} holds {what}; expected {EXPECTED}")
    return content


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder at a path; False where it cannot be told, which reading it then says."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_head(path: Path, length: int = 4096) -> bytes:
    """Return the first bytes of a file.

    Raises:
        FileNotFoundError: when there is nothing at `path`.
        CheckpointError: for what is no regular file (reading a pipe would wait without end) or cannot be opened.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(length)
        exists = path.exists()
    except OSError as error:  # a name that is too long, a place that may not be looked into
        reason = error.strerror or error
        raise CheckpointError(f"{shown(str(path))} cannot be opened: {reason}; expected {EXPECTED}") from error
    if exists:
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; expected {EXPECTED}")
    address = " (addresses are not read: download the file first)" if re.match(r"\w{2,}:[/\\]", str(path)) else ""
    raise FileNotFoundError(f"no checkpoint at {path.absolute()}{address}; expected {EXPECTED}")


def describe_other(head: bytes, path: Path) -> str | None:
    """Say what a file is that torch.save did not write, and what to do; None where it may have written it."""
    if not head:
        return "(0 bytes) cannot be read: it is empty; copy or download it again"
    if not head.strip(b"\0"):
        return "begins with zeros only, as a download does that was not finished: copy or download it again"
    kind, what = recognize(head)
    if kind and not head.startswith((b"PK", b"\x80")):  # torch.save writes zips, and wrote pickles
        ending = {ARCHIVE: f": {UNPACK}", ELSEWHERE: ""}.get(kind, "; only files of torch.save are read")
        return f"is {what}{ending}"
    if not head.translate(None, TEXT):
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        first = text.decode("utf-8", "replace").splitlines()[0][:SHOWN] if text else ""
        return f"is a text file that begins {first!r}: download the file itself"
    if path.suffix == ".pb" or path.suffix == ".index" or ".data-0000" in path.name:
        return "is a part of a TensorFlow network; only PyTorch's weights are read"
    if head[0] == 8 and head[1:2] < b"\x20" and head[2:3] in b"\x12\x1a\x22\x28\x32\x3a\x42" and len(head) > 2:
        return "is an ONNX file, which holds a program: name the checkpoint that it was made from"
    if head[8:9] == b"{" and (path.parent / "config.json").is_file():
        return "is a safetensors file with a config.json beside it: name their folder"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return (
            "is a safetensors file without the config.json that models.export --hub writes beside it: name a folder "
            "with both; for weights of MA-Net, read it with safetensors.torch.load_file, write what you get with "
            "torch.save and name that file"
        )
    if head[0] == 0x80 and head[1:2] <= b"\x05" and len(head) > 32 and LEGACY_MAGIC not in head[:32]:
        return (
            "begins like a pickle, but not as torch.save writes (pickle.dump and joblib write such files; damage may "
            "look like it): open it where it was written and torch.save its state_dict()"
        )
    return None


class Placeholder:
    """Is put where a file names something that is no tensor; it takes any state and runs nothing.

    Attributes:
        origin: what the file names, module and class.
        entries: what the file puts into it by keys; not empty for a dict of a class of its own.
        is_network: whether its state is that of a `torch.nn.Module`.
    """

    origin = "unknown"
    is_network = False
    dump_patches = False  # torch.load asks modules of old files for it, and would write a file were it true

    def __new__(cls, *arguments: Any, **keywords: Any) -> "Placeholder":
        """Make one whichever way a pickle asks for it, with or without `__init__`."""
        made = super().__new__(cls)
        made.entries = {}
        return made

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        if arguments and isinstance(arguments[0], type) and issubclass(arguments[0], Placeholder):
            self.origin = arguments[0].origin  # copyreg._reconstructor and the like take the class

    @property
    def described(self) -> str:
        """What a message says it is, and what to do."""
        kind = "network" if self.is_network else "object"
        return f"a whole pickled {kind} (class {shown(self.origin)}): save its state_dict() where it was written"

    def __call__(self, *arguments: Any, **keywords: Any) -> "Placeholder":
        """Stand for what a function of the file returns as well."""
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def add(self, item: Any) -> None:
        """Take what a pickled list or set holds and forget it."""

    append = extend = add


class TensorUnpickler(pickle._Unpickler):  # the one in Python: a wrong number in a file makes the other fill the memory
    """Rebuilds tensors and nothing else: every other global a file names becomes a `Placeholder`.

    Storages never come here: torch.load looks after them.
    """

    KNOWN = {  # noqa: RUF012 - a constant table
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): lambda *arguments: {},
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    }
    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012 - a constant table

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up in the table; nothing is imported."""
        own_name = name.rpartition(".")[2]  # what Python's messages say
        return self.KNOWN.get((module, name)) or type(own_name, (Placeholder,), {"origin": f"{module}.{name}"})

    def load_build(self) -> None:
        """Drop an object's state: what is known here has none, and a file must not set attributes of it."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.is_network = isinstance(state, dict) and "_modules" in state

    dispatch[pickle.BUILD[0]] = load_build


TENSOR_PICKLE = types.SimpleNamespace(
    __name__="tensor_pickle",
    Unpickler=TensorUnpickler,
    load=lambda file, **keywords: TensorUnpickler(file, **keywords).load(),
)


def _read(path: Path) -> Any:
    head = read_head(path)
    what = describe_other(head, path)
    if what is not None:
        raise CheckpointError(f"{path} {what}; expected {EXPECTED}")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.load, to programmers
            if head.startswith(b"PK"):
                _check_zip(file, path)
                file.seek(0)
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except Exception:  # anything, from a global that is no tensor to damage: the other reader will tell
                file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=False, pickle_module=TENSOR_PICKLE)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
        reason = shown(str(error).split(". ")[0].splitlines()[0] if str(error).strip() else type(error).__name__, 200)
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read: it is truncated, damaged or no checkpoint "
            f"({reason}). Copy it again or name another; expected {EXPECTED}"
        ) from error


def _check_zip(file: Any, path: Path) -> None:
    """Raise unless a zip is one of torch.save and its members are as they were written, by their check sums."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename for member in members if not member.is_dir()]
        endings = {name.rpartition("/")[2] for name in names}
        program = next((PROGRAMS[ending] for ending in PROGRAMS if ending in endings), None)
        if program:
            raise CheckpointError(f"{path} is a program of {program}, which would have to be run; expected {EXPECTED}")
        if "data.pkl" not in endings:
            what = f"is a zip of {some(names) or 'nothing'}: {UNPACK}"
            if names and all(name.endswith(".npy") for name in names):
                what = f"is a NumPy archive of {some(names)}; only files of torch.save are read"
            elif "model.weights.h5" in endings or "saved_model.pb" in endings:
                what = "is a network of Keras or TensorFlow; only PyTorch's weights are read"
            raise CheckpointError(f"{path} {what}; expected {EXPECTED}")
        if f"{names[0].partition('/')[0]}/data.pkl" not in names:
            raise CheckpointError(
                f"{path} is a checkpoint that was unpacked and packed again in another way ({some(names)}): copy or "
                f"download it again, and leave it packed; expected {EXPECTED}"
            )
        if len(set(names)) != len(names):
            raise zipfile.BadZipFile("two members have the same name")
        if sum(m.file_size for m in members) > MAX_UNPACKED and any(m.compress_type for m in members):
            raise zipfile.BadZipFile(f"its compressed members would fill more than {MAX_UNPACKED / 2**30:.0f} GiB")
        if not any(member.CRC for member in members):
            return  # written after torch.serialization.set_crc32_options(False)
        for member in members:
            with archive.open(member) as content:
                while content.read(2**20):  # raises at the end where the sum differs
                    pass


def shown(name: Any, length: int = SHOWN) -> str:
    """Return a name from a file as a message shows it: on one line, printable, not too long."""
    if not isinstance(name, str):
        name = str(name) if isinstance(name, int) and abs(name) < 10**9 else f"a key of type {type(name).__name__}"
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= length else text[: length - 3] + "..."


def some(names: Any) -> str:
    """Return the first three names, sorted, as a message shows them."""
    ordered = sorted(names, key=str)
    return ", ".join(map(shown, ordered[:3])) + (", ..." if len(ordered) > 3 else "")
