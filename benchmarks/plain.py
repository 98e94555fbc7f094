"""What every measurement is compared with: the same computation written plainly.

Float32, eager, contiguous; similarity pair by pair; one decode per access, in the main process; photographs decoded
whole, one after the other. Nothing here is used by the experiments.
"""

import csv
from itertools import combinations, permutations
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from utils.udata import FaceDataset


def similarity_matrix_in_pairs(features: Tensor, gamma: float = 10.0, both_ways: bool = False) -> Tensor:
    """Return the similarity (B, B) of features (B, N, ...), one pair of branches at a time over all faces.

    With `both_ways` the pair (j, i) is computed beside (i, j), as a loop over rows and columns does.
    """
    B = len(features)
    similarity = torch.eye(B, dtype=features.dtype, device=features.device)
    pairs = permutations(range(B), 2) if both_ways else combinations(range(B), 2)
    for i, j in pairs:
        distances = ((features[i] - features[j]) ** 2).flatten(1).sum(dim=1)
        similarity[i, j] = torch.exp(-gamma * distances).mean()
        if not both_ways:
            similarity[j, i] = similarity[i, j]
    return similarity


def det_loss(features: Tensor, gamma: float = 10.0, both_ways: bool = False) -> Tensor:
    """Return the diversity term -det(S) of features (B, N, ...)."""
    return -torch.linalg.det(similarity_matrix_in_pairs(features, gamma, both_ways))


def loader(faces: FaceDataset, image_size: int, batch_size: int) -> DataLoader:
    """Return batches in a random order; each face is opened, resized and augmented when it is asked for."""
    transform = v2.Compose(
        [
            v2.Resize((image_size, image_size), antialias=True),
            v2.ColorJitter(brightness=0.5, contrast=0.5),
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(30, translate=(0.1, 0.1), scale=(1.0, 1.25)),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def join(pairs: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        return torch.stack([transform(image) for image, _ in pairs]), torch.tensor([label for _, label in pairs])

    return DataLoader(faces, batch_size, shuffle=True, collate_fn=join)


def preprocess(table: Path, photographs: Path, destination: Path, image_size: int) -> int:
    """Cut the faces of an AffectNet table out of its photographs, one after the other; returns how many."""
    destination.mkdir(parents=True, exist_ok=True)
    with table.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            image = cv2.imread(str(photographs / row["subDirectory_filePath"]))
            top, left = max(int(row["face_y"]), 0), max(int(row["face_x"]), 0)
            bottom = int(row["face_y"]) + int(row["face_height"])
            right = int(row["face_x"]) + int(row["face_width"])
            face = cv2.resize(image[top:bottom, left:right], (image_size, image_size), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(destination / f"{number:07d}.jpg"), face, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return number + 1
