"""Decoded once, kept or streamed, shared by processes: the batches are always the same ones."""

import json
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from utils.udata import AffectNet, DatasetError, FERPlus
from utils.udemosets import write_affectnet, write_fer_plus
from utils.uhardware import Hardware, choose_hardware
from utils.upipeline import FaceImages, FaceLoader, SharedBatches

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> AffectNet:
    root = write_affectnet(tmp_path_factory.mktemp("drawn") / "affectnet", images_per_class=4, validation_per_class=1)
    return AffectNet(root, "train")


def folder_of_pictures(root, count):
    folder = root / "Validation" / "0"
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:07d}_{index % 8}_0_0.jpg"), np.full((20, 20, 3), 10 * index, np.uint8))
    return folder


def test_wherever_pictures_are_kept_the_batches_are_the_same(faces, tmp_path):
    kinds = {kind: FaceImages(faces, 48, kind, cache_folder=tmp_path) for kind in ("memory", "disk", "none")}
    assert isinstance(kinds["disk"].images, np.memmap) and kinds["none"].images is None
    batches = [images.__getitems__([3, 1, 30]) for images in kinds.values()]
    assert batches[0].images.shape == (3, 3, 48, 48) and batches[0].images.dtype == torch.uint8
    assert batches[0].indices.tolist() == [3, 1, 30]
    for other in batches[1:]:
        assert all(torch.equal(a, b) for a, b in zip(batches[0], other, strict=True))
    assert FaceImages(faces, 224, "memory").side == 96, "small pictures are enlarged later"
    assert FaceImages(faces, 48, "auto", cache_gib=0).kept == "none"
    assert FaceImages(faces, 48, "auto").kept == "memory"


def test_a_cache_of_changed_pictures_is_noticed_and_rebuilt(tmp_path, capsys):
    folder = folder_of_pictures(tmp_path, 8)
    cache = tmp_path / "cache"

    def read(index=3):
        return int(FaceImages(AffectNet(tmp_path, "validation"), 20, "disk", cache_folder=cache).images[index].mean())

    assert read() == 30
    written = next(cache.glob("*.npy"))
    before = written.stat().st_mtime_ns
    assert read() == 30 and written.stat().st_mtime_ns == before, "an unchanged cache is not written again"
    assert "anew" not in capsys.readouterr().out
    changed = folder / "0000003_3_0_0.jpg"
    found = changed.stat()
    cv2.imwrite(str(changed), np.full((20, 20, 3), 99, np.uint8))
    os.utime(changed, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))
    assert read() == 99 and "written anew" in capsys.readouterr().out
    (folder / "0000000_0_0_0.jpg").unlink()
    assert read(0) == 10 and len(list(cache.iterdir())) == 4, "other faces have a file of their own"
    for description in cache.glob("*.json"):  # as after a kill between the two files
        description.unlink()
    assert read(0) == 10
    assert json.loads(next(cache.glob("*.json")).read_text())["faces"] == 7


@pytest.mark.parametrize("suffix", [".json", ".npy"])
@pytest.mark.parametrize("damage", [bytes, lambda size: b"", lambda size: None, lambda size: b"\xff{" * size])
def test_a_damaged_cache_is_written_anew(suffix, damage, tmp_path, capsys):
    folder_of_pictures(tmp_path, 8)
    cache = tmp_path / "cache"
    whole = FaceImages(AffectNet(tmp_path, "validation"), 20, "memory", cache_folder=cache).images
    [path] = cache.glob(f"*{suffix}")
    before = path.read_bytes()
    data = damage(len(before))
    path.write_bytes(before[: len(before) // 2] if data is None else data)
    capsys.readouterr()
    for kind in ("disk", "memory"):
        again = FaceImages(AffectNet(tmp_path, "validation"), 20, kind, cache_folder=cache)
        assert np.array_equal(again.images, whole) and path.read_bytes() == before
    assert capsys.readouterr().out.count("is damaged; it is written anew") == 1


def test_names_that_are_no_utf8_are_kept_on_disk(tmp_path):
    folder = folder_of_pictures(tmp_path, 8)
    faces = AffectNet(tmp_path, "validation")
    faces.paths[0] = faces.paths[0].rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))
    for _ in range(2):
        assert len(FaceImages(faces, 20, "disk", cache_folder=tmp_path / "cache").images) == 8


def test_two_runs_with_other_faces_do_not_share_a_cache(tmp_path):
    folder_of_pictures(tmp_path, 8)
    faces, cache = AffectNet(tmp_path, "validation"), tmp_path / "cache"
    parts = [faces.subset([0, 1, 2, 3]), faces.subset([4, 5, 6, 7])]
    images = [FaceImages(part, 20, "disk", cache_folder=cache).images for part in parts]
    expected = [[int(part[i][0].float().mean()) for i in range(4)] for part in parts]
    assert [[int(image.mean()) for image in found] for found in images] == expected
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_streamed_epoch_is_the_same_after_a_new_start(tmp_path):
    """The draws of an epoch follow from the random state at its beginning, also of the workers that decode."""
    folder_of_pictures(tmp_path, 8)
    loader = lambda: FaceLoader(AffectNet(tmp_path, "validation"), 20, 3, shuffle=True, cache="none", num_workers=2)  # noqa: E731
    torch.manual_seed(0)
    whole = loader()
    first = [batch.indices.tolist() for batch in whole]
    state = torch.get_rng_state()
    second, after = [batch.indices.tolist() for batch in whole], torch.rand(1)
    torch.set_rng_state(state)
    again = [batch.indices.tolist() for batch in loader()]
    assert again == second != first and torch.equal(torch.rand(1), after)


def test_unreadable_pictures_are_counted_and_named_and_leave_no_cache(tmp_path):
    folder = folder_of_pictures(tmp_path, 12)
    for index in (4, 7):
        (folder / f"{index:07d}_{index % 8}_0_0.jpg").write_bytes(b"")
    dataset = AffectNet(tmp_path, "validation")
    with pytest.raises(DatasetError, match=r"2 of 12 pictures .*0000004_4_0_0\.jpg \(0 bytes\)"):
        FaceLoader(dataset, 8, 4, shuffle=False, cache_folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_a_header_beyond_every_limit_is_an_unreadable_picture_like_others(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    folder = folder_of_pictures(tmp_path, 12)
    (folder / "0000004_4_0_0.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rest)
    message = r"0000004_4_0_0\.jpg .*100,000 x 100,000 pixels, more than[^\n]*$"
    with pytest.raises(DatasetError, match=message):
        FaceImages(AffectNet(tmp_path, "validation"), 20, "memory")
    for num_workers in (0, 2):  # a worker's errors are one line too
        loader = FaceLoader(
            AffectNet(tmp_path, "validation"), 20, 4, hardware=choose_hardware("cpu"), cache="none",
            num_workers=num_workers,
        )  # fmt: skip
        with pytest.raises(DatasetError, match=rf"^\S*{message}"):
            list(loader)


def test_what_is_transparent_is_white_in_training(tmp_path):
    """OpenCV's IMREAD_COLOR would show what was erased."""
    folder = folder_of_pictures(tmp_path, 8)
    hidden = np.full((20, 20, 4), 60, np.uint8)
    hidden[..., 3] = 0
    (folder / "0000004_4_0_0.jpg").write_bytes(cv2.imencode(".png", hidden)[1].tobytes())
    images = FaceImages(AffectNet(tmp_path, "validation"), 20, "memory").images
    assert (images[4] == 255).all() and int(images[3].mean()) == 30


def test_every_face_comes_once_and_the_order_follows_the_random_state(faces):
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(torch.cat([batch.indices for batch in FaceLoader(faces, 48, 5, shuffle=True)]).tolist())
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(32))
    streamed = FaceLoader(faces, 48, 5, shuffle=False, cache="none", num_workers=1)
    assert torch.cat([batch.indices for batch in streamed]).tolist() == list(range(32))


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("num_faces", [32, 33, 45, 7])
def test_processes_share_the_batches_of_one(processes, num_faces):
    def batches(rank, processes):
        torch.manual_seed(5)
        sampler = SharedBatches(num_faces, 8, True, Hardware(CPU, rank=rank))  # alone, so that it draws its own seed
        sampler.hardware = Hardware(CPU, rank=rank, processes=1)
        sampler.bounds = SharedBatches(num_faces, 8, True, Hardware(CPU, processes=processes)).bounds
        drawn = list(sampler)
        sampler.hardware = Hardware(CPU, rank=rank, processes=processes)
        return drawn, [sampler.shares(number) for number in range(len(sampler))]

    whole, shares = batches(0, processes)
    assert sorted(index for batch in whole for index in batch) == list(range(num_faces))
    assert [sum(share) for share in shares] == [len(batch) for batch in whole]
    assert all(min(share) >= 1 and max(share) - min(share) <= 1 for share in shares)
    assert all(len(batch) == 8 for batch in whole[:-1]) and len(whole[-1]) < 8 + max(2, processes)


def test_too_many_processes_are_refused():
    with pytest.raises(ValueError, match="cannot be shared by 4 processes: set batch_size"):
        SharedBatches(100, 2, True, Hardware(CPU, processes=4))


def test_labels_of_a_batch(tmp_path):
    root = write_fer_plus(tmp_path / "ferplus", images_per_class=4, validation_per_class=1, test_per_class=1)
    for rule in FERPlus.RULES:
        dataset = FERPlus(root, "train", rule)
        targets = next(iter(FaceLoader(dataset, 48, 16, shuffle=False))).targets
        assert targets.shape == ((16,) if rule in ("majority", "probability") else (16, 8))
        if rule == "probability":
            possible = dataset.labels[np.arange(16), targets.numpy()]
            assert (possible > 0).all()
        else:
            assert targets.tolist() == dataset.labels[:16].tolist()


def test_sampled_labels_are_the_same_with_and_without_workers(tmp_path):
    root = write_fer_plus(tmp_path / "ferplus", images_per_class=4, validation_per_class=1, test_per_class=1)
    dataset, seen = FERPlus(root, "train", "probability"), []
    for num_workers in (0, 2):
        loader = FaceLoader(dataset, 48, 8, shuffle=True, cache="none", num_workers=num_workers)
        torch.manual_seed(3)
        batches = [(batch.indices.tolist(), batch.targets.tolist(), torch.rand(2).tolist()) for batch in loader]
        seen.append(batches)
    assert seen[0] == seen[1]
