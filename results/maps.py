"""The maps of a base that is trained already, computed once: branches are trained on them at a fraction of the cost.

With three branches at 64 pixels, ESR spends four fifths of a step in its base (CPU, float32). Where the base is
kept as it is, its maps of augmented faces can be stored, and what is compared is what happens in the branches.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diversified_fer.writing import replacing
from models import load_model
from models.esr import ESR
from models.weights import ARCHITECTURES
from utils.uhardware import Batch, Hardware
from utils.upipeline import FaceLoader, SharedBatches, new_array
from utils.utrain import show_progress


class ESROnMaps(ESR):
    """The branches of an ESR: takes the shared maps (N, 128, h, w) that a base has made of pictures."""

    __signature__ = inspect.signature(ESR)  # the arguments that its checkpoints may name

    def __init__(self, *values: Any, **arguments: Any) -> None:
        super().__init__(*values, **arguments)
        self.base = nn.Identity()

    def normalize(self, images: Tensor) -> Tensor:
        """Return maps as they are."""
        return images

    def compiled_parts(self) -> list[nn.Module]:
        """Return the branches."""
        return list(self.branches)


ARCHITECTURES["ESROnMaps"] = ESROnMaps  # a run reads its checkpoints again


def load_base(path: Path, image_size: int) -> ESR:
    """Load the network whose base is kept.

    Raises:
        FileNotFoundError, CheckpointError: as `load_model`.
        ValueError: when it is no ESR, or sees pictures of another size.
    """
    network = load_model(path)
    if type(network) is not ESR or network.image_size != image_size:
        raise ValueError(
            f"path_to_base is {path}, a network of architecture {network.architecture} for {network.image_size} "
            f"pixels; expected an ESR for the {image_size} pixels of image_size: name "
            "another network, or set image_size to its pixels"
        )
    return network


class MapLoader:
    """The maps of a data set in batches, read like `FaceLoader`'s pictures; the file is written at the first use.

    Args:
        pictures: the faces, not shuffled.
        network: whose base makes the maps.
        hardware: where they are computed, and where the batches go.
        folder: where the file is kept; its name says what is in it.
        batch_size: faces per batch.
        shuffle: for training: a new order every epoch.
        views: maps of each face, one of which is picked at random at each access.
        augment: what is done to a face before every view; None for nothing.
        seed: of the augmentation; PyTorch's random state is left as it was.

    Attributes:
        dataset, batch_size: as given.
        maps: (views, N, h, w, 128) float16, mapped into memory.
    """

    def __init__(
        self,
        pictures: FaceLoader,
        network: ESR,
        hardware: Hardware,
        folder: Path,
        batch_size: int = 128,
        *,
        shuffle: bool = False,
        views: int = 1,
        augment: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        self.dataset, self.batch_size = pictures.dataset, batch_size
        self._hardware, self._views = hardware, views
        self._sampler = SharedBatches(len(self.dataset), batch_size, shuffle, hardware)
        weights = hashlib.sha256()
        for name, values in network.base.state_dict().items():
            weights.update(name.encode() + values.cpu().numpy().tobytes())
        found = [(path, path.stat()) for path in self.dataset.paths]
        faces = [(str(path.absolute()), state.st_size, state.st_mtime_ns) for path, state in found]
        content = [weights.hexdigest(), network.image_size, network.arguments["normalization"]]
        content += [faces, views, repr(augment), seed, str(hardware.precision)]
        path = folder / f"maps_{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}.npy"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self._write(pictures, network.to(hardware.device, memory_format=hardware.memory_format), augment, path)
        self.maps = np.load(path, mmap_mode="r")

    @torch.inference_mode()
    def _write(self, pictures: FaceLoader, network: ESR, augment: nn.Module | None, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        network.eval()
        file = None
        title = f"maps of {self.dataset.name}"
        with replacing(path) as temporary, show_progress(title, self._views, " views", self._hardware) as progress:
            for view in range(self._views):
                for batch in pictures:
                    images = batch.images if augment is None else augment(batch.images)
                    images = images.contiguous(memory_format=self._hardware.memory_format)
                    with self._hardware.computing():
                        maps = network.base(network.normalize(images))
                    if file is None:
                        shape = (self._views, len(self.dataset), *maps.permute(0, 2, 3, 1).shape[1:])
                        file = new_array(temporary, np.float16, shape)
                    file[view, batch.indices.numpy()] = maps.permute(0, 2, 3, 1).half().cpu().numpy()
                progress.update()
            file.flush()

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        usual = self._sampler.shares(0)
        for number, chosen in enumerate(self._sampler):
            indices, shares = torch.tensor(chosen), self._sampler.shares(number)
            views = torch.randint(self._views, (len(chosen),)).numpy()
            maps = torch.from_numpy(self.maps[views, indices.numpy()].astype(np.float32)).permute(0, 3, 1, 2)
            targets = self._hardware.to_device(self.dataset.targets(indices.numpy()))
            is_full = self._sampler.shuffle and shares == usual
            yield Batch(self._hardware.to_device(maps), targets, indices, shares, is_full)
