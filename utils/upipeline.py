"""From a data set on disk to batches on the training device."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from utils.udata import DatasetError, FaceDataset, read_image

GIB = 2**30


class Batch(NamedTuple):
    """Pictures (N, 3, S, S) uint8 RGB, their labels (N,) or (N, K), and their places in the data set (N,)."""

    images: Tensor
    targets: Tensor
    indices: Tensor


class FaceImages(Dataset):
    """The pictures of a data set at one size, kept decoded in memory when they fit into `cache_gib`.

    Pictures larger than `image_size` are shrunk when they are decoded; smaller ones are kept as they are and enlarged
    on the training device, so that the cache of a data set of small faces stays small.

    Args:
        dataset: what to read.
        image_size: height and width in pixels that the network is given.
        cache_gib: decoded pictures that may be kept in memory, in GiB; a larger data set is decoded at every access.

    Raises:
        DatasetError: when pictures cannot be decoded; all of them are counted and the first are named.
    """

    def __init__(self, dataset: FaceDataset, image_size: int, cache_gib: float) -> None:
        self.dataset = dataset
        sample = np.linspace(0, len(dataset) - 1, min(len(dataset), 32)).astype(int)
        self.side = min(image_size, max(_longest_side(dataset.paths[index]) for index in sample) or image_size)
        self.cache: np.ndarray | None = None
        if len(dataset) * 3 * self.side**2 <= cache_gib * GIB:
            self.cache = self._decode_all()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return one batch; PyTorch's loader calls this with the indices of a whole batch."""
        images = self.cache[indices] if self.cache is not None else np.stack([self._decode(i) for i in indices])
        targets = torch.as_tensor(np.array([np.asarray(self.dataset.target(index)) for index in indices]))
        return Batch(torch.from_numpy(images), targets, torch.tensor(indices))

    def _decode(self, index: int) -> np.ndarray:
        image = read_image(self.dataset.paths[index])
        if image.shape[:2] != (self.side, self.side):
            shrinks = max(image.shape[:2]) > self.side
            image = cv2.resize(
                image, (self.side, self.side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        return image.transpose(2, 0, 1)  # (3, side, side)

    def _decode_all(self) -> np.ndarray:
        images = np.empty((len(self), 3, self.side, self.side), dtype=np.uint8)
        errors = []

        def decode(index: int) -> None:
            try:
                images[index] = self._decode(index)
            except (DatasetError, OSError) as error:
                errors.append((index, str(error)))

        with ThreadPoolExecutor() as pool:  # OpenCV decodes outside Python's lock
            progress = tqdm(
                pool.map(decode, range(len(self))), f"decode {self.dataset.name}", len(self), unit=" faces", leave=False
            )
            for _ in progress:
                pass
        if errors:
            first = "; ".join(message for _, message in sorted(errors)[:3])
            raise DatasetError(f"{len(errors)} of {len(self)} pictures of {self.dataset.name} cannot be read: {first}")
        return images


def _longest_side(path: Path) -> int:
    """Return a picture's longer side, or 0 where it cannot be read, which is reported when its turn comes."""
    try:
        return max(read_image(path).shape[:2])
    except (DatasetError, OSError):
        return 0


def make_loader(
    dataset: FaceDataset,
    image_size: int,
    batch_size: int,
    *,
    shuffle: bool,
    cache_gib: float = 4.0,
    num_workers: int | None = None,
) -> DataLoader:
    """Return a loader of `Batch`; the order of a shuffled one follows PyTorch's random state.

    Args:
        dataset: what to read.
        image_size: height and width in pixels that the network is given.
        batch_size: faces per batch; the last batch of an epoch may be smaller.
        shuffle: draw a new order every epoch.
        cache_gib: see `FaceImages`.
        num_workers: processes that decode while a step is computed, where pictures are not kept in memory; None for one
            per core, at most 8.
    """
    images = FaceImages(dataset, image_size, cache_gib)
    if images.cache is not None:
        num_workers = 0
    elif num_workers is None:
        num_workers = min(8, os.cpu_count() or 1)
    return DataLoader(
        images,
        batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
