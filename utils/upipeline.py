"""From a data set on disk to batches on the training device: every picture is decoded once, where it fits."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from diversified_fer.console import is_watched
from diversified_fer.writing import replacing, write_json
from models.classifier import resize
from utils.udata import DatasetError, FaceDataset, read_image
from utils.uhardware import Batch, Hardware

GIB = 2**30
CACHES = ("auto", "device", "memory", "disk", "none")


class Pictures(NamedTuple):
    """What is read of a batch: pictures (n, 3, S, S) uint8 RGB, and their positions in the data set, (n,)."""

    images: Tensor
    indices: Tensor


class FaceImages(Dataset):
    """The pictures of a data set at one size, decoded once and kept where there is room.

    Pictures larger than `image_size` are shrunk when they are decoded; smaller ones are kept as they are and enlarged
    on the training device, so that the cache of a data set of small faces stays small.

    Args:
        dataset: what to read.
        image_size: height and width in pixels that the network is given.
        cache: "device" (the GPU's memory), "memory", "disk" (a file mapped into memory), "none" (decode at every
            access), or "auto": the device where it is a GPU, otherwise memory, and none for more than `cache_gib`.
        cache_gib: decoded pictures that "auto" may keep, in GiB.
        cache_folder: where the decoded pictures are written, to be there at the next start; a file of pictures that
            have changed since (by name, size or time), or that is damaged, is written anew. None writes nothing.
        hardware: whose device it is; the first process writes the file, the others wait for it.

    Attributes:
        kept: where the pictures are: "device", "memory", "disk" or "none".

    Raises:
        DatasetError: when pictures cannot be decoded; all of them are counted and the first are named.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        image_size: int,
        cache: str = "auto",
        cache_gib: float = 4.0,
        cache_folder: Path | None = None,
        hardware: Hardware | None = None,
    ) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache is {cache!r}; expected one of {', '.join(CACHES)}")
        if cache == "disk" and cache_folder is None:
            raise ValueError('cache is "disk" and there is no folder for it: name one in base_path_to_cache')
        self.dataset = dataset
        hardware = hardware or Hardware(torch.device("cpu"))
        sample = np.linspace(0, len(dataset) - 1, min(len(dataset), 32)).astype(int)
        self.side = min(image_size, max(_longest_side(dataset.paths[index]) for index in sample) or image_size)
        self._shape = (len(dataset), 3, self.side, self.side)
        if cache == "auto" and len(dataset) * 3 * self.side**2 > cache_gib * GIB:
            cache = "none"
        elif cache == "auto":
            cache = "memory" if hardware.device.type == "cpu" else "device"
        self.kept = cache
        self.images: np.ndarray | Tensor | None = None
        if cache == "none":
            return
        if cache_folder is None:
            self.images = self._decode_all(np.empty(self._shape, dtype=np.uint8))
        else:
            path = self._cache_file(cache_folder)
            if hardware.is_main:
                self._refresh(path)
            hardware.wait_for_everyone()
            self.images = np.load(path, mmap_mode="r" if cache == "disk" else None)
        if cache == "device":
            self.images = torch.from_numpy(self.images).to(hardware.device)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pictures | Exception:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Pictures | Exception:
        """Return one batch; PyTorch's loader calls this with the indices of a whole batch.

        A picture that cannot be read is returned as its error: one that is raised in a worker comes with tracebacks.
        """
        places = torch.as_tensor(indices)
        if isinstance(self.images, Tensor):
            images = self.images[places.to(self.images.device, non_blocking=True)]
        elif self.images is not None:
            images = torch.from_numpy(self.images[np.asarray(places)])
        else:
            try:
                images = torch.from_numpy(np.stack([self._decode(index) for index in places.tolist()]))
            except (DatasetError, OSError) as error:
                return error
        return Pictures(images, places)

    def _decode(self, index: int) -> np.ndarray:
        image = read_image(self.dataset.paths[index])
        if image.shape[:2] != (self.side, self.side):
            shrinks = max(image.shape[:2]) > self.side
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = cv2.resize(image, (self.side, self.side), interpolation=method)
        return image.transpose(2, 0, 1)  # (3, side, side)

    def _decode_all(self, images: np.ndarray) -> np.ndarray:
        def decode(index: int) -> str | None:
            try:
                images[index] = self._decode(index)
            except (DatasetError, OSError) as error:
                return str(error)

        with ThreadPoolExecutor() as pool:  # OpenCV decodes outside Python's lock
            results, title = pool.map(decode, range(len(self))), f"decode {self.dataset.name}"
            progress = tqdm(results, title, len(self), unit=" faces", leave=False, disable=not is_watched())
            errors = [message for message in progress if message is not None]
        if errors:
            first = "; ".join(errors[:3])
            raise DatasetError(f"{len(errors)} of {len(self)} pictures of {self.dataset.name} cannot be read: {first}")
        return images

    def _cache_file(self, folder: Path) -> Path:
        """Name the file after the data set, the pictures it was read from, and their size."""
        places = "\n".join(str(path.absolute()) for path in self.dataset.paths)  # a part of the faces has its own file
        place = hashlib.sha256(places.encode(errors="surrogateescape")).hexdigest()[:8]
        name = "".join(letter if letter.isalnum() else "_" for letter in self.dataset.name)
        return folder / f"{name}_{self.side}px_{place}.npy"

    def _refresh(self, path: Path) -> None:
        """Write the decoded pictures to `path`, unless they are there and no picture has changed since."""
        fingerprint = self._fingerprint()
        description = path.with_suffix(".json")
        if path.exists() and description.exists():
            why = self._why_anew(path, description, fingerprint)
            if not why:
                return
            print(f"{path}: {why}; it is written anew")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            description.unlink(missing_ok=True)  # a file without its description counts as unfinished
            with replacing(path) as temporary:
                self._decode_all(new_array(temporary, np.uint8, self._shape)).flush()
            write_json(fingerprint, description)
        except OSError as error:
            size = np.prod(self._shape, dtype=np.int64) / GIB
            reason = os.strerror(error.errno) if error.errno else error
            raise OSError(
                f"the decoded pictures ({size:.2f} GiB) cannot be kept in {path.parent.absolute()} ({reason}): name "
                "another folder with --base-path-to-cache, or None to keep them in memory alone; --cache none decodes "
                "at every access"
            ) from error

    def _why_anew(self, path: Path, description: Path, fingerprint: dict[str, str | int]) -> str:
        """Say why kept pictures cannot be taken; an empty text where they can."""
        try:
            if json.loads(description.read_text("utf-8")) != fingerprint:
                return "the pictures have changed since it was written"
        except ValueError:  # no UTF-8, or no JSON
            return f"its description {description.name} is damaged"
        try:
            kept = np.load(path, mmap_mode="r")
            return "" if (kept.shape, kept.dtype) == (self._shape, np.uint8) else "it holds other pictures"
        except Exception:  # a damaged header raises nearly anything
            return "it is damaged"

    def _fingerprint(self) -> dict[str, str | int]:
        """Return what changes whenever a picture is added, removed, replaced or rewritten."""
        digest = hashlib.sha256()
        for path in self.dataset.paths:
            try:
                found = path.stat()
                state = f"{found.st_size}\0{found.st_mtime_ns}"
            except FileNotFoundError:
                state = "missing"  # decoding reports it
            digest.update(f"{path.name}\0{state}\n".encode(errors="surrogateescape"))
        return {"faces": len(self), "pixels": self.side, "files": digest.hexdigest()}


def new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """Make an .npy file of this type and shape and map it into memory.

    Raises:
        OSError: when the disk has no room for all of it, which would end the process where it is written to.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("rb+") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _longest_side(path: Path) -> int:
    """Return a picture's longer side, or 0 where it cannot be read, which is reported when its turn comes."""
    try:
        return max(read_image(path).shape[:2])
    except (DatasetError, OSError):
        return 0


class SharedBatches(Sampler[list[int]]):
    """This process's share of every batch; the batches are the same for any number of processes.

    Args:
        num_faces: size of the data set.
        batch_size: faces of a batch, over all processes together.
        shuffle: a new order every epoch, from PyTorch's random state; for training, which takes no batch of one.
        hardware: how many processes there are, and which is this one.
    """

    def __init__(self, num_faces: int, batch_size: int, shuffle: bool, hardware: Hardware) -> None:
        if num_faces < hardware.processes or batch_size < hardware.processes:
            raise ValueError(
                f"{num_faces} faces in batches of {batch_size} cannot be shared by {hardware.processes} processes: "
                "set batch_size, which counts the faces of all processes together, to at least their number"
            )
        if shuffle and num_faces < 2:
            raise ValueError(
                f"{num_faces} faces cannot be trained on: BatchNorm learns from the spread within a batch, of 2 or more"
            )
        self.shuffle, self.hardware = shuffle, hardware
        starts = list(range(0, num_faces, batch_size))
        fewest = max(2 if shuffle else 1, hardware.processes)  # a training batch of one face has no spread
        if len(starts) > 1 and num_faces - starts[-1] < fewest:
            starts.pop()  # too few faces are left: they join the batch before
        self.bounds = [*starts, num_faces]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def shares(self, batch: int) -> list[int]:
        """Return how many faces of a batch each process has."""
        faces, processes = self.bounds[batch + 1] - self.bounds[batch], self.hardware.processes
        return [faces // processes + (rank < faces % processes) for rank in range(processes)]

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.bounds[-1])
        if self.shuffle:
            seed = self.hardware.shared_seed()
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))
            if not self.hardware.is_main:
                torch.manual_seed(seed + self.hardware.rank)  # another augmentation in every process
        for batch in range(len(self)):
            shares = self.shares(batch)
            begin = self.bounds[batch] + sum(shares[: self.hardware.rank])
            yield order[begin : begin + shares[self.hardware.rank]].tolist()


def _as_read(batch: Pictures | Exception) -> Pictures | Exception:
    """Return a batch, which is read as one: there is nothing to collate."""
    return batch


class FaceLoader:
    """The faces of a data set in batches, on the device and at the network's size.

    The order of a shuffled loader follows PyTorch's random state.

    Args:
        dataset: what to read.
        image_size: height and width in pixels that the network is given.
        batch_size: faces per batch, over all processes; the last batch of an epoch may be of another size.
        shuffle: for training: a new order every epoch, and no batch of a single face.
        hardware: where the batches go; default one process on the CPU.
        cache, cache_gib, cache_folder: see `FaceImages`.
        num_workers: processes that decode while a step is computed, where pictures are not kept; None for one per core,
            at most 8.

    Attributes:
        dataset, image_size, batch_size: as given.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        image_size: int,
        batch_size: int = 128,
        *,
        shuffle: bool = False,
        hardware: Hardware | None = None,
        cache: str = "auto",
        cache_gib: float = 4.0,
        cache_folder: Path | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.dataset, self.image_size, self.batch_size = dataset, image_size, batch_size
        self._hardware = hardware or Hardware(torch.device("cpu"))
        images = FaceImages(dataset, image_size, cache, cache_gib, cache_folder, self._hardware)
        if images.kept != "none":
            num_workers = 0
        elif num_workers is None:
            num_workers = min(8, os.cpu_count() or 1)
        self._sampler = SharedBatches(len(images), batch_size, shuffle, self._hardware)
        self._loader = DataLoader(
            images,
            batch_sampler=self._sampler,
            num_workers=num_workers,
            collate_fn=_as_read,
            pin_memory=self._hardware.device.type == "cuda" and images.kept != "device",
            persistent_workers=False,  # seeded anew every epoch, so that a continued run sees the same random choices
        )

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        hardware, usual = self._hardware, self._sampler.shares(0)
        for number, read in enumerate(self._loader):
            if isinstance(read, Exception):
                raise read
            images, indices = read
            shares = self._sampler.shares(number)
            targets = self.dataset.targets(indices.numpy())  # here, so that sampled ones are the same with any workers
            yield Batch(
                resize(hardware.to_device(images), self.image_size),
                hardware.gather(hardware.to_device(targets), shares),
                indices,
                shares,
                is_full=self._sampler.shuffle and shares == usual,
            )
