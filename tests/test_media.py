"""Pictures and videos as people have them: each is read rightly or refused by one error, and none ends a run."""

import io
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path, PureWindowsPath

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from diversified_fer.media import video as decoding
from diversified_fer.media.arrays import as_rgb
from diversified_fer.media.container import Container, examine_container
from diversified_fer.media.inputs import describe_left_out, find_media, list_media
from diversified_fer.media.media import VideoFile, read_media, read_photo, stream_video
from diversified_fer.media.output import common_folder, plan_places
from diversified_fer.media.picture import (
    FORMATS,
    PHOTO_SUFFIXES,
    TURNED_BACK,
    MediaError,
    decode,
    is_ordinary,
    open_picture,
)
from utils.preparing.crop import crop_face
from utils.udata import DatasetError, read_image

SAMPLES = Path(__file__).parent / "samples"
PHOTO = cv2.resize(  # (60, 80, 3): smooth and colourful
    np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC
)
GREY = cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY)
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = np.full((60, 80), 255, np.uint8)
ALPHA[20:40, 20:50] = 0
ERASED, ERASED_GREY = PHOTO.copy(), GREY_RGB.copy()
ERASED[ALPHA == 0] = ERASED_GREY[ALPHA == 0] = 255
RGBA = Image.fromarray(np.dstack([PHOTO, ALPHA]))


def encode(image: Image.Image | np.ndarray, form: str, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *further: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(further) + end


def by_opencv(suffix: str, image: np.ndarray) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if image.shape[-1] == 4 else cv2.COLOR_RGB2BGR
    return cv2.imencode(suffix, image if image.ndim == 2 else cv2.cvtColor(image, order))[1].tobytes()


def with_tags(data: bytes, tags: dict[int, int]) -> bytes:
    """Change tags of a TIFF, little end first, that are one number each."""
    changed = bytearray(data)
    begin = int.from_bytes(data[4:8], "little") + 2
    for place in range(begin, begin + 12 * int.from_bytes(data[begin - 2 : begin], "little"), 12):
        tag = int.from_bytes(data[place : place + 2], "little")
        if tag in tags:
            changed[place + 8 : place + 12] = tags[tag].to_bytes(4, "little")
    return bytes(changed)


def packed(values: np.ndarray) -> np.ndarray:
    """Pack numbers (H, W) of 12 bits into bytes (H, W * 3 / 2), the highest bits first."""
    first, second = values[:, ::2].astype(np.uint16), values[:, 1::2].astype(np.uint16)
    parts = [first >> 4, ((first & 15) << 4) | (second >> 8), second & 255]
    return np.stack(parts, axis=-1).reshape(len(values), -1).astype(np.uint8)


# Pictures

DEEP = GREY.astype(np.uint16) * 257
PALETTE = Image.fromarray(PHOTO).quantize(16)
FIRST_COLOUR = int(np.array(PALETTE)[0, 0])
ERASED_PALETTE = np.array(PALETTE.convert("RGB"))
ERASED_PALETTE[np.array(PALETTE) == FIRST_COLOUR] = 255
ERASED_COLOUR = np.where((PHOTO[0, 0] == PHOTO).all(axis=2)[..., None], np.uint8(255), PHOTO)
SHORT_ROW = struct.pack(">6H", 0x1234, 0x2345, 0x3456, 0x1235, 0x2345, 0x3456)
CONTENTS = {  # file, the picture it shows, most that a value may differ
    "jpeg": (encode(PHOTO, "JPEG", quality=95), PHOTO, 20),
    "jpeg, grey": (encode(GREY, "JPEG", quality=95), GREY_RGB, 12),
    "jpeg of Adobe, CMYK inverted": (encode(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=98), PHOTO, 12),
    "png": (encode(PHOTO, "PNG"), PHOTO, 0),
    "png of 16 bits": (by_opencv(".png", PHOTO.astype(np.uint16) * 257), PHOTO, 0),
    "png, grey of 16 bits": (encode(DEEP, "PNG"), GREY_RGB, 0),
    "png, 1 bit": (encode(Image.fromarray(GREY > 128), "PNG"), np.where(GREY_RGB > 128, 255, 0), 0),
    "bmp": (encode(PHOTO, "BMP"), PHOTO, 0),
    "bmp with an empty fourth byte": (by_opencv(".bmp", np.dstack([PHOTO, 0 * ALPHA])), PHOTO, 0),
    "gif": (encode(PALETTE, "GIF"), np.array(PALETTE.convert("RGB")), 0),
    "webp": (encode(PHOTO, "WEBP", lossless=True), PHOTO, 0),
    "jpeg 2000": (encode(PHOTO, "JPEG2000"), PHOTO, 0),
    "ppm": (encode(PHOTO, "PPM"), PHOTO, 0),
    "tiff": (encode(PHOTO, "TIFF"), PHOTO, 0),
    "tiff, grey of 16 bits": (encode(DEEP, "TIFF"), GREY_RGB, 0),
    "tiff, grey of 16 bits, big end first": (
        encode(Image.frombytes("I;16B", (80, 60), DEEP.astype(">u2").tobytes()), "TIFF"), GREY_RGB, 0
    ),
    "tiff of 16 bits": (by_opencv(".tif", PHOTO.astype(np.uint16) * 257), PHOTO, 0),
    "tiff, grey of 12 bits": (
        with_tags(encode(packed(GREY.astype(int) * 4095 // 255), "TIFF"), {256: 80, 258: 12}), GREY_RGB, 1
    ),
    "tiff, CMYK": (encode(Image.fromarray(PHOTO).convert("CMYK"), "TIFF"), PHOTO, 1),
    "tiff, Lab": (encode(Image.fromarray(PHOTO).convert("LAB"), "TIFF"), PHOTO, 30),  # Lab of 8 bits is coarse
    "tiff, floats": (encode((GREY / 255).astype(np.float32), "TIFF"), GREY_RGB, 1),
    "tiff with a spare channel": (encode(Image.frombytes("RGBX", (80, 60), RGBA.tobytes()), "TIFF"), PHOTO, 0),
    "erased, png": (encode(RGBA, "PNG"), ERASED, 0),
    "erased, png of 16 bits": (by_opencv(".png", np.array(RGBA).astype(np.uint16) * 257), ERASED, 0),
    "erased, webp": (encode(RGBA, "WEBP", lossless=True, exact=True), ERASED, 0),
    "erased, tiff": (encode(RGBA, "TIFF"), ERASED, 0),
    "erased, tiff of 16 bits": (by_opencv(".tif", np.array(RGBA).astype(np.uint16) * 257), ERASED, 0),
    "erased, tiff, multiplied": (
        encode(np.dstack([np.where(ALPHA[..., None], PHOTO, 0), ALPHA]), "TIFF", tiffinfo={338: 1}), ERASED, 0
    ),
    "erased, jpeg 2000": (encode(RGBA, "JPEG2000"), ERASED, 0),
    "erased, grey": (encode(np.dstack([GREY, ALPHA]), "PNG"), ERASED_GREY, 0),
    "erased, grey tiff": (encode(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "TIFF"), ERASED_GREY, 0),
    "erased colour of a palette": (encode(PALETTE, "PNG", transparency=FIRST_COLOUR), ERASED_PALETTE, 0),
    "erased colour of a gif": (encode(PALETTE, "GIF", transparency=FIRST_COLOUR), ERASED_PALETTE, 0),
    "erased colour": (encode(PHOTO, "PNG", transparency=tuple(map(int, PHOTO[0, 0]))), ERASED_COLOUR, 0),
    "erased value of 2 bits": (
        png(2, 1, 2, 0, b"\0\x60", chunk(b"tRNS", b"\0\x01")), np.array([[[255] * 3, [170] * 3]]), 0
    ),
    "erased value of 1 bit": (
        png(2, 1, 1, 0, b"\0\x40", chunk(b"tRNS", b"\0\0")), np.array([[[255] * 3, [255] * 3]]), 0
    ),
    "erased value of 16 bits": (
        png(2, 1, 16, 0, b"\0" + SHORT_ROW[:2] + b"\x12\x99", chunk(b"tRNS", b"\x12\x34")),
        np.array([[[255] * 3, [0x12] * 3]]), 0,
    ),
    "erased colour of 16 bits": (
        png(2, 1, 16, 2, b"\0" + SHORT_ROW, chunk(b"tRNS", SHORT_ROW[:6])),
        np.array([[[255] * 3, [0x12, 0x23, 0x34]]]), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
def test_every_kind_shows_its_picture_wherever_it_is_opened(kind, tmp_path):
    """For labelling, for training, and for cutting faces out: what was erased stays erased, colours are right."""
    data, expected, tolerance = CONTENTS[kind]
    path = tmp_path / "picture.of_no_kind"
    path.write_bytes(data)
    for picture in (decode(data).pixels, read_photo(path), read_image(path)):
        assert picture.dtype == np.uint8 and picture.shape == expected.shape
        assert np.abs(picture.astype(int) - expected).max() <= tolerance
    if expected.shape[:2] == (60, 80):
        crop = crop_face(data, None, 60)[..., ::-1].astype(int)
        wanted = crop_face(by_opencv(".png", expected.astype(np.uint8)), None, 60)[..., ::-1]
        assert np.abs(crop - wanted).max() <= max(tolerance, 1)


def test_half_transparent_pixels_are_blended():
    data = encode(np.full((4, 4, 4), (200, 100, 0, 51), np.uint8), "PNG")  # a fifth of the colour
    assert np.abs(decode(data).pixels.astype(int) - (244, 224, 204)).max() <= 1


REFUSED = {
    "a header beyond every limit": (png(100_000, 100_000, 8, 2, bytes(1000)), r"100,000 x 100,000 pixels, more than"),
    "a long header": (png(2**31 - 1, 1, 8, 0, bytes(10)), "2,147,483,647 x 1 pixels, more than"),
    "a picture in too few bytes": (png(16_320, 12_240, 8, 2, bytes(1000)), r"bytes for 16,320 x 12,240 pixels"),
    "no size": (png(0, 9, 8, 2, bytes(10)), "0 x 9 pixels"),
    "nothing": (b"", "empty file"),
    "png without its end": (encode(PHOTO, "PNG")[:-20], "truncated"),
    "jpeg without its end": (encode(PHOTO, "JPEG")[:-20], "truncated"),
    "gif without its end": (encode(PHOTO, "GIF")[:700], ""),
    "webp without its end": (encode(PHOTO, "WEBP")[:300], ""),
    "tiff without its end": (encode(PHOTO, "TIFF", compression="tiff_lzw")[:5000], ""),
    "bmp without its end": (encode(PHOTO, "BMP")[:5000], "truncated"),
    "floats beyond 1": (encode(GREY.astype(np.float32), "TIFF"), r"floats from \d+ to \d+; expected 0 \(black\) to 1"),
    "no numbers": (encode(np.full((4, 4), np.nan, np.float32), "TIFF"), "floats from nan"),
    "32 bits": (encode(GREY.astype(np.int32), "TIFF"), "32 bits per pixel"),
    "floats in colour": (by_opencv(".tif", (PHOTO / 255).astype(np.float32)), "rare variety"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC .* convert to JPEG, for example with `heif-convert"),
    "a page": (b"\n<!DOCTYPE html><html>404", "web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
    "text": (b"hello" * 99, "no known kind"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_one_error_with_its_name_everywhere(kind, tmp_path):
    data, message = REFUSED[kind]
    path = tmp_path / "face.png"
    path.write_bytes(data)
    expected = rf"face\.png \({len(data):,} bytes\) is no picture that can be read: .*{message}"
    with pytest.raises(MediaError, match=expected) as refused:
        read_photo(path)
    said = str(refused.value)
    reason = said.split("read: ")[1]
    assert said.count(reason[:12]) == 1 and "\n" not in said and len(said) < 500, "said once, in a line"
    with pytest.raises(DatasetError) as same:
        read_image(path)
    assert str(same.value) == said


def test_photographs_of_telephones_with_200_megapixels_are_within_the_limits():
    data = png(16_320, 12_240, 1, 0, bytes(12_240 * (1 + 16_320 // 8)))
    assert is_ordinary(data), "it goes to OpenCV, whose own limit is five times as many"
    assert Image.MAX_IMAGE_PIXELS * 2 == 2**28


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(form, orientation):
    """The oracle is the definition: where the stored picture's first row and first column are to be shown."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :8], stored[:8, 16:] = 255, 128  # its left, and the right of its top
    shown = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[274] = orientation
    options = {"quality": 98, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    data = encode(image, form, exif=exif, **options)
    assert np.abs(decode(data).pixels.astype(int) - shown).max() < 12
    assert np.abs(decode(data, upright=False).pixels.astype(int) - stored).max() < 12


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_the_first_is_read_and_this_is_said(form, tmp_path):
    pictures = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (10, 120, 240)]
    path = tmp_path / f"three.{form.lower()}"
    path.write_bytes(encode(pictures[0], form, save_all=True, append_images=pictures[1:]))
    [frame] = read_media([path])
    assert frame.note == "first of 3 pictures; the others are not looked at"
    assert np.abs(frame.picture.astype(int) - 10).max() <= 2
    path.write_bytes(encode(pictures[0], form))
    [frame] = read_media([path])
    assert frame.note is None and frame.error is None


# Files that are not what they are called, or no files


def test_the_content_decides_what_a_file_is(tmp_path):
    video = write_video(tmp_path / "v.mp4").read_bytes()
    picture = encode(PHOTO, "JPEG")
    names = {"a.3gp": video, "b.MTS": video, "c.of_no_kind": video, "d.jpg": video, "e.mp4": picture, "f": picture}
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "g.txt").write_bytes(b"FFmpeg shows this as a video\n" * 50)
    (tmp_path / "h.mp4").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    frames = list(read_media([tmp_path / name for name in (*names, "g.txt", "h.mp4")]))
    counts = Counter(frame.source.name for frame in frames if frame.error is None)
    assert counts == {"a.3gp": 6, "b.MTS": 6, "c.of_no_kind": 6, "d.jpg": 6, "e.mp4": 1, "f": 1}
    errors = {frame.source.name: frame.error for frame in frames if frame.error}
    assert errors.keys() == {"g.txt", "h.mp4"} and "neither a picture nor a video" in errors["g.txt"]
    assert frames[-3].rate is None and frames[0].rate is not None


def test_only_files_are_opened(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    paths = [tmp_path / "folder.jpg", tmp_path / "missing.jpg", tmp_path / "missing.mp4"]
    expected = ["is a folder", "No such file", "No such file"]
    if hasattr(os, "mkfifo"):
        for name in ("pipe.jpg", "pipe.mp4"):
            os.mkfifo(tmp_path / name)
            paths.append(tmp_path / name)
            expected.append("is a named pipe")
        paths.append(Path("/dev/zero"))
        expected.append("is a device")
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        (tmp_path / "secret.jpg").write_bytes(encode(PHOTO, "JPEG"))
        (tmp_path / "secret.jpg").chmod(0)
        paths.append(tmp_path / "secret.jpg")
        expected.append("Permission denied")
    for frame, words in zip(read_media(paths), expected, strict=True):
        assert words in frame.error and frame.source.name in frame.error
    for path in paths[3:4]:
        with pytest.raises(DatasetError, match="is a named pipe; expected a picture in a file"):
            read_image(path)


def test_suffixes_of_all_decoders_are_taken_and_the_others_counted(tmp_path):
    names = (
        "1.JFIF 2.jpe 3.jif 4.gif 5.apng 6.dib 7.ppm 8.pgm 9.jp2 a.3GP b.3g2 c.MTS d.m2ts e.ts f.flv g.ogv h.asf i.vob"
    )
    for name in names.split():
        (tmp_path / name).touch()
    for name in ("x.HEIC", "y.heic", "z.cr2", "notes.txt", ".hidden.jpg", "Thumbs.db"):
        (tmp_path / name).touch()
    media = list_media([tmp_path])
    assert [path.name for path in media.files] == names.split()
    assert media.left_out == {".heic": 2, ".cr2": 1, ".txt": 1, "hidden or foreign files": 2}
    said = describe_left_out(media.left_out)
    assert "2 .heic (convert to JPEG, for example with `heif-convert" in said and "1 .txt" in said
    assert (".avif" in PHOTO_SUFFIXES) == ("AVIF" in FORMATS)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.heic").touch()
    with pytest.raises(MediaError, match=r"only holds no photos or videos .*left out: 1 \.heic \(convert"):
        list_media([tmp_path / "only"])


def test_results_of_earlier_runs_are_no_inputs(tmp_path):
    for name in ("in/1.jpg", "in/a/annotated/1.jpg", "in/a/explained/x/1.png", "in/a/predictions.csv", "in/a/own.jpg",
                 "in/annotated/2.jpg", "in/annotated/deep/3.jpg"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    media = list_media([tmp_path / "in"])
    found = [str(path.relative_to(tmp_path / "in")) for path in media.files]
    assert found == ["1.jpg", "a/own.jpg", "annotated/2.jpg", "annotated/deep/3.jpg"], (
        "the last two are nobody's results"
    )
    assert media.left_out["results of predict.py"] == 2
    assert len(find_media([tmp_path / "in" / "a" / "annotated"])) == 1, "by name they are"
    for name in ("predictions.unfinished.csv", ".predictions.12345.partial.csv"):
        tables = list((tmp_path / "in" / "a").glob("*predictions*.csv"))
        tables[0].rename(tables[0].with_name(name))
        assert list_media([tmp_path / "in"]).left_out["results of predict.py"] == 2, "of a run that did not end"


def test_wildcards_addresses_and_repeated_names(tmp_path, monkeypatch):
    for name in ("1.jpg", "2.jpg", "deep/er/3.jpg", "deep/notes.txt", "[4].jpg", "v.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def names(*patterns):
        return [path.as_posix() for path in find_media([Path(pattern) for pattern in patterns])]

    assert names("?.jpg") == ["1.jpg", "2.jpg"] and names("[4].jpg") == ["[4].jpg"], "a file's own name comes first"
    assert names("**/*.jpg") == ["1.jpg", "2.jpg", "[4].jpg", "deep/er/3.jpg"]
    assert names(str(tmp_path / "2*"), "2.jpg", "./2.jpg") == [(tmp_path / "2.jpg").as_posix()]
    assert names("**/*") == ["1.jpg", "2.jpg", "[4].jpg", "deep/er/3.jpg", "v.mp4"]
    assert list_media([Path("**/*")]).left_out == {".txt": 1}
    assert names("d*") == ["deep/er/3.jpg"]
    with pytest.raises(FileNotFoundError, match=r"no file or folder matches '\*\.png' in"):
        names("*.png")
    for address in ("rtsp://127.0.0.1:8554/cam", "http://a.b/c.jpg", "https://a.b/c.mp4"):
        with pytest.raises(MediaError, match=rf"{address}: addresses are not read; download it first"):
            names(address)
    with pytest.raises(FileNotFoundError, match="no file or folder at"):
        names("x" * 5000)


def test_wildcards_leave_results_out(tmp_path, monkeypatch):
    for name in ("1.jpg", "o/predictions.csv", "o/annotated/1.jpg", "annotated/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    listing = list_media([Path("**/*.jpg")])
    assert [path.as_posix() for path in listing.files] == ["1.jpg", "annotated/2.jpg"], "of a run, and of no run"
    assert listing.left_out == {"results of predict.py": 1}
    assert find_media([Path("o/annotated/*.jpg")]) == [Path("o/annotated/1.jpg")], "asked for by name"


def test_places_of_results_on_one_drive_and_on_two():
    paths = [PureWindowsPath(name) for name in (r"C:\a\b\1.jpg", r"C:\A\2.jpg", r"c:\a\b\c\3.jpg")]
    assert [place.as_posix() for place in plan_places(paths)] == ["b/1.jpg", "2.jpg", "b/c/3.jpg"]
    paths = [PureWindowsPath(name) for name in (r"C:\a\1.jpg", r"D:\a\1.jpg", r"\\server\share\1.jpg")]
    assert common_folder([path.parent for path in paths]) is None
    assert [place.as_posix() for place in plan_places(paths)] == ["C/a/1.jpg", "D/a/1.jpg", "server_share/1.jpg"]
    long = [Path("/x") / ("é" * 120 + f"{k}.jpg") for k in range(2)]
    places = plan_places(long)
    assert len(set(places)) == 2 and all(len(os.fsencode(place)) <= 160 and place.suffix == ".jpg" for place in places)
    assert plan_places([]) == []


# Videos


def write_video(path: Path, pictures: int = 6, rate: int = 10, size: tuple[int, int] = (96, 64)) -> Path:
    """Write a video whose picture i is grey of value 10 * i."""
    with VideoFile(path) as video:
        for number in range(pictures):
            video.write(np.full((size[1], size[0], 3), 10 * number % 250, np.uint8), number / rate, rate)
    return path


def outcome(path: Path) -> tuple[int, str | None]:
    frames = list(read_media([path]))
    return sum(frame.error is None for frame in frames), frames[-1].error


def insert_box(data: bytes, inside: list[bytes], box: bytes, skip: int = 0) -> bytes:
    """Put a box at the end of another one of an MP4 whose pictures come before the tables, as OpenCV's do."""
    begin, chain = 0, []
    for kind in inside:
        begin = data.index(kind, begin) - 4
        chain.append(begin)
    end = begin + int.from_bytes(data[begin : begin + 4], "big") - skip
    result = bytearray(data[:end] + box + data[end:])
    for place in chain:
        result[place : place + 4] = (int.from_bytes(result[place : place + 4], "big") + len(box)).to_bytes(4, "big")
    return bytes(result)


def test_healthy_videos_of_variable_rate_are_not_damaged(tmp_path):
    """Their containers state pictures per second of their clocks: 60 of 180 and 20 of 1,700 are all there are."""
    for name, pictures in (("variable.webm", 60), ("variable.avi", 20)):
        assert outcome(SAMPLES / name) == (pictures, None)
    frames = list(stream_video(SAMPLES / "variable.avi"))
    mean_rate = 19 / frames[-1].seconds
    assert frames[0].rate == pytest.approx(mean_rate, rel=1e-3)
    with VideoFile(tmp_path / "copy.mp4") as copy:
        for frame in frames:
            copy.write(frame.picture, frame.seconds, frame.rate)
    copied = list(stream_video(tmp_path / "copy.mp4"))
    assert abs(len(copied) - 20) <= 2 and copied[-1].seconds == pytest.approx(frames[-1].seconds, abs=0.15)
    cut = tmp_path / "cut.webm"
    data = (SAMPLES / "variable.webm").read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    pictures, error = outcome(cut)
    assert 20 < pictures < 55 and "cut.webm is damaged: it ends after" in error


def encode_noise(file: av.container.OutputContainer, codec: str, rate: int, ticks: Sequence[int]) -> list[av.Packet]:
    """Add a stream to a file, and return its packets: a picture of noise at each of these ticks of 1 / rate seconds."""
    random, stream, packets = np.random.default_rng(0), file.add_stream(codec, rate=rate), []
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    for tick in ticks:
        shown = av.VideoFrame.from_ndarray(random.integers(0, 256, (64, 96, 3), np.uint8), format="rgb24")
        shown.pts, shown.time_base = tick, Fraction(1, rate)
        packets += stream.encode(shown)
    return packets + stream.encode(None)


def write_matroska(path: Path, ticks: Sequence[int], seconds_of_sound: int = 0, last: int = 1) -> list[bytes]:
    """Write pictures at these tenths of a second, with sound from 0 on; the last picture stands for `last` of them.

    Returns:
        the coded pictures.
    """
    with av.open(str(path), "w") as file:
        packets = encode_noise(file, "mpeg4", 10, ticks)
        packets[-1].duration = last
        coded = [bytes(packet) for packet in packets]
        sound = file.add_stream("pcm_s16le", rate=8000) if seconds_of_sound else None
        for second in range(seconds_of_sound):
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
            heard.sample_rate, heard.pts, heard.time_base = 8000, 8000 * second, Fraction(1, 8000)
            packets += sound.encode(heard)
        file.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return coded


@pytest.mark.parametrize("seconds_of_sound", [0, 24, 60])
@pytest.mark.parametrize("begin", [0, 200])
def test_the_times_of_a_matroska_video_may_begin_late_and_its_sound_may_outlast_it(seconds_of_sound, begin, tmp_path):
    coded = write_matroska(tmp_path / "whole.mkv", range(begin, begin + 40), seconds_of_sound)
    assert outcome(tmp_path / "whole.mkv") == (40, None)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: data.index(coded[30])])
    pictures, error = outcome(tmp_path / "cut.mkv")
    assert 28 <= pictures <= 30 and f"cut.mkv is damaged: it ends after {pictures} of " in error
    for picture in coded[30:]:
        data = data.replace(picture, bytes(len(picture)))
    (tmp_path / "lost.mkv").write_bytes(data)
    pictures, error = outcome(tmp_path / "lost.mkv")
    assert 28 <= pictures <= 30 and f"lost.mkv is damaged: it ends after {pictures} of 40 pictures" in error


@pytest.mark.parametrize(
    ("name", "codec", "sound", "options"),
    [
        ("v.flv", "flv1", "pcm_s16le", {}),
        ("v.ts", "mpeg2video", "mp2", {}),
        ("v.m2ts", "mpeg2video", "mp2", {"mpegts_m2ts_mode": "1"}),
        ("v.mpg", "mpeg2video", "mp2", {}),
        ("fragments.mp4", "mpeg4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
@pytest.mark.parametrize("begin", [0, 25])
def test_sound_may_outlast_the_pictures_of_any_container(name, codec, sound, options, begin, tmp_path):
    path = tmp_path / name
    with av.open(str(path), "w", options=options) as file:
        packets = encode_noise(file, codec, 25, range(begin, begin + 60))
        coded = [bytes(packet) for packet in packets]
        heard = file.add_stream(sound, rate=44_100, layout="mono")
        resampler = av.AudioResampler(
            format=heard.codec_context.format, rate=44_100, frame_size=heard.frame_size or 1024
        )
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8 * 44_100), np.int16), "s16", "mono")
        silence.sample_rate, silence.pts, silence.time_base = 44_100, 0, Fraction(1, 44_100)
        for part in [*resampler.resample(silence), *resampler.resample(None)]:
            packets += heard.encode(part)
        packets += heard.encode(None)
        file.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    assert outcome(path) == (60, None)
    if name == "v.flv":  # the others state no more than what is there
        data = path.read_bytes()
        path.write_bytes(data[:-4] + b"\0\0\0\1")
        assert outcome(path) == (60, None), "what stands behind the last tag differs between programs"
        path.write_bytes(data[: data.index(coded[50]) + 100])
        seen, error = outcome(path)
        assert 30 <= seen <= 51 and f"{name} is damaged: it ends after {seen} of " in error


@pytest.mark.parametrize("ticks", [range(20), [0], [0, 50, 100]])
def test_the_last_picture_of_a_matroska_video_may_stand_long(ticks, tmp_path):
    write_matroska(tmp_path / "slides.mkv", ticks, last=200)
    assert outcome(tmp_path / "slides.mkv") == (len(ticks), None)


def test_pictures_that_opencv_cannot_decode_are_named(tmp_path):
    coded = write_matroska(tmp_path / "v.mkv", range(10))
    data = (tmp_path / "v.mkv").read_bytes()
    for picture in coded:
        data = data.replace(picture, bytes(len(picture)))
    (tmp_path / "v.mkv").write_bytes(data)
    _, error = outcome(tmp_path / "v.mkv")
    assert re.search(r"v\.mkv has pictures \(FMP4\) of which none can be decoded.*convert it to H\.264", error)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.tar", "clip"])
def test_what_is_no_video_is_named_under_any_name(name, tmp_path):
    with tarfile.open(tmp_path / name, "w") as archive:
        (tmp_path / "p.jpg").write_bytes(encode(PHOTO, "JPEG"))
        archive.add(tmp_path / "p.jpg", "p.jpg")
    assert re.search(r"is a tar archive: unpack it", outcome(tmp_path / name)[1])
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:")
    assert "git lfs pull" in outcome(tmp_path / name)[1]


def test_truncated_mp4_with_its_tables_at_the_start_or_the_end(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 40).read_bytes()
    (tmp_path / "cut_end.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert outcome(tmp_path / "cut_end.mp4")[0] == 0 and "cannot be opened" in outcome(tmp_path / "cut_end.mp4")[1]
    tables = whole.index(b"moov") - 4
    first = int.from_bytes(whole[:4], "big")
    shift = len(whole) - tables
    moov = bytearray(whole[tables:])
    place = moov.index(b"stco") + 8
    for entry in range(int.from_bytes(moov[place : place + 4], "big")):
        at = place + 4 + 4 * entry
        moov[at : at + 4] = (int.from_bytes(moov[at : at + 4], "big") + shift).to_bytes(4, "big")
    fast = whole[:first] + bytes(moov) + whole[first:tables]
    (tmp_path / "fast.mp4").write_bytes(fast)
    assert outcome(tmp_path / "fast.mp4") == (40, None)
    (tmp_path / "cut_fast.mp4").write_bytes(fast[: len(moov) + (len(fast) - len(moov)) * 2 // 3])
    pictures, error = outcome(tmp_path / "cut_fast.mp4")
    assert 0 < pictures < 40 and f"is damaged: it ends after {pictures} of" in error


def test_pictures_before_the_start_of_an_edit_list_are_not_missed(tmp_path):
    data = write_video(tmp_path / "v.mp4", 40).read_bytes()
    edts = data.find(b"edts")
    assert edts > 0
    at = data.index(b"mvhd") + 4
    timescale = int.from_bytes(data[at + 12 : at + 16], "big")
    entry = data.index(b"elst") + 12  # duration, time of the media
    media = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big")
    edited = bytearray(data)
    edited[entry : entry + 8] = struct.pack(">II", 2 * timescale, 2 * media)  # the last two of four seconds
    tkhd = data.index(b"tkhd") + 4
    edited[tkhd + 20 : tkhd + 24] = struct.pack(">I", 2 * timescale)
    (tmp_path / "edited.mp4").write_bytes(edited)
    pictures, error = outcome(tmp_path / "edited.mp4")
    assert error is None and 15 <= pictures <= 25


def test_pixels_that_are_not_square_and_pictures_that_lie_on_their_side(tmp_path):
    data = write_video(tmp_path / "v.mp4").read_bytes()
    boxes = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"mp4v"]
    for (horizontal, vertical), size in {
        (2, 1): (64, 192),
        (1, 2): (128, 96),
        (1, 1): (64, 96),
        (0, 1): (64, 96),
    }.items():
        box = struct.pack(">I4sII", 16, b"pasp", horizontal, vertical)
        plain = data.replace(b"pasp", b"free")
        (tmp_path / "wide.mp4").write_bytes(insert_box(plain, boxes, box))
        [first, *_] = stream_video(tmp_path / "wide.mp4")
        assert first.picture.shape == (*size, 3)
    turned = bytearray(data)
    at = data.index(b"tkhd") + 4 + 40
    turned[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(turned)
    frames = list(stream_video(tmp_path / "turned.mp4"))
    assert frames[0].picture.shape == (96, 64, 3)
    with VideoFile(tmp_path / "copy.mp4") as copy:
        for frame in frames:
            copy.write(frame.picture, frame.seconds, frame.rate)
    assert next(stream_video(tmp_path / "copy.mp4")).picture.shape == (96, 64, 3)
    both = insert_box(bytes(turned).replace(b"pasp", b"free"), boxes, struct.pack(">I4sII", 16, b"pasp", 2, 1))
    (tmp_path / "both.mp4").write_bytes(both)
    assert next(stream_video(tmp_path / "both.mp4")).picture.shape == (192, 64, 3), "stretched as stored, then turned"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_videos_whose_names_are_not_utf8_or_very_long(tmp_path):
    plain = write_video(tmp_path / "v.mp4")
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    deep = tmp_path
    for _ in range(8):
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    places = [
        folder / os.fsdecode(b"clip_\xff\xe9.mp4"),
        folder / "a\nb [1] %03d.mp4",
        deep / "x.mp4",
        tmp_path / "사진.mp4",
    ]
    for place in places:
        shutil.copy(plain, place)
        assert outcome(place) == (6, None)
        with VideoFile(place.with_name("copy_" + place.name)) as video:
            for frame in stream_video(place):
                video.write(frame.picture, frame.seconds, frame.rate)
        assert outcome(place.with_name("copy_" + place.name)) == (6, None)
    assert not [path for path in tmp_path.rglob("*partial*")]


WORKERS = {  # what the decoder's process does after its first picture, and what is said of it
    "crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"SIGSEGV|exit code"),
    "abort": ("import os; os.abort()", r"SIGABRT|exit code"),
    "exit": ("raise SystemExit(3)", "exit code 3"),
    "hang": ("import time; time.sleep(60)", "no answer for 5 s"),
    "garbage": ("real.write(b'\\x00garbage\\n'); real.flush(); import time; time.sleep(60)", "answers nonsense"),
    "lies": ("say(number=1, seconds=0, slot=99, shape=[9, 9, 3], file='slots1', size=999)", "answers nonsense"),
    "escapes": ("say(number=1, seconds=0, slot=0, shape=[9, 9, 3], file='../x', size=999)", "answers nonsense"),
    "endless": ("say(number=1, seconds=0, shape=[10**6, 10**6, 3], follows=3 * 10**12)", "answers nonsense|no answer"),
}


@pytest.mark.parametrize("kind", WORKERS)
def test_a_decoder_that_dies_hangs_or_lies_takes_nothing_with_it(kind, tmp_path, monkeypatch):
    program, words = WORKERS[kind]
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"import sys; sys.path.insert(0, {str(Path(decoding.__file__).parent)!r}); import videoworker as w\n"
        "decode = w.decode\n"
        "def spoiled(answers, path, *rest):\n"
        "    if 'bad' not in path: return decode(answers, path, *rest)\n"
        "    picture, real, say = answers.picture, answers.out, answers.say\n"
        "    def one(*arguments):\n"
        "        if arguments[1] < 1: return picture(*arguments)\n"
        f"        {program}\n"
        "        return True\n"
        "    answers.picture = one\n"
        "    decode(answers, path, *rest)\n"
        "w.decode = spoiled\n"
        "w.main()\n"
    )
    monkeypatch.setattr(decoding, "WORKER", [sys.executable, str(worker)])
    monkeypatch.setattr(decoding, "PATIENCE", 5.0 if kind in ("hang", "endless") else 30.0)
    for name in ("bad.mp4", "good.mp4"):
        write_video(tmp_path / name)
    began = time.monotonic()
    frames = list(read_media([tmp_path / "bad.mp4", tmp_path / "good.mp4"]))
    assert time.monotonic() - began < 100  # a starved machine takes its time
    errors = [frame.error for frame in frames if frame.error]
    assert len(errors) == 1 and "bad.mp4" in errors[0]
    assert re.search(words, errors[0]), errors[0]
    assert Counter(frame.source.name for frame in frames if not frame.error) == {"bad.mp4": 1, "good.mp4": 6}


def test_a_killed_program_leaves_no_memory(tmp_path):
    path = write_video(tmp_path / "v.mp4", 50)
    program = (
        "import sys, time; from pathlib import Path; from diversified_fer.media.video import Decoder;"
        "decoder = Decoder();"
        "next(decoder.pictures(Path(sys.argv[1]))) is None; pictures = decoder.pictures(Path(sys.argv[1]));"
        "next(pictures); print(decoder.folder, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(decoding.__file__).parents[2])
    folder = Path(process.stdout.readline().strip())
    assert folder.is_dir()
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 20
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not folder.exists()


def test_numbers_of_a_damaged_container_end_nothing(tmp_path):
    path = tmp_path / "v.webm"
    path.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(60))
    assert examine_container(path) == Container()


def test_a_damaged_video_costs_no_new_process(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    (tmp_path / "bad.mp4").write_bytes(path.read_bytes()[:600])
    with decoding.Decoder() as decoder:
        assert len(list(decoder.pictures(path))) == 6
        process = decoder.process
        with pytest.raises(MediaError, match=r"bad\.mp4 \(600 bytes\) cannot be opened"):
            list(decoder.pictures(tmp_path / "bad.mp4"))
        assert len(list(decoder.pictures(path))) == 6 and decoder.process is process


def test_a_decoder_that_does_not_start_is_one_error(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4")
    monkeypatch.setattr(decoding, "WORKER", [str(tmp_path / "no_python")])
    assert "does not start" in outcome(path)[1]
    monkeypatch.setattr(decoding, "WORKER", [sys.executable, "-c", "import no_such_module"])
    assert "exit code 1" in outcome(path)[1]


def test_pictures_go_through_the_pipe_where_no_memory_can_be_shared(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", 12)
    expected = [frame.picture for frame in stream_video(path)]
    monkeypatch.setattr(decoding, "_shared_folder", lambda: tmp_path / "nowhere")
    found = [frame.picture for frame in stream_video(path)]
    assert len(found) == 12 and all(map(np.array_equal, found, expected))


def test_a_video_that_is_left_early_leaves_no_process_and_no_memory(tmp_path):
    path = write_video(tmp_path / "v.mp4", 50)
    decoder = decoding.Decoder()
    pictures = decoder.pictures(path)
    next(pictures)
    process, folder = decoder.process, decoder.folder
    assert process.poll() is None and folder.is_dir()
    pictures.close()
    assert process.poll() is not None and not folder.exists()
    assert len(list(decoder.pictures(path, every=7))) == 8, "it can be used again"
    decoder.close()
    assert decoder.process is None


def test_a_jump_of_the_times_does_not_write_for_hours(tmp_path):
    picture = np.zeros((64, 96, 3), np.uint8)
    with (
        pytest.raises(MediaError, match="times of the pictures jump to 900,000,000"),
        VideoFile(tmp_path / "v.mp4") as video,
    ):
        video.write(picture, 0.0, 25.0)
        video.write(picture, 9e8, 25.0)
    assert not any(tmp_path.iterdir())


def test_ctrl_c_is_the_program_s_to_answer(tmp_path):
    if sys.platform == "win32":
        pytest.skip("its signals are others")
    path = write_video(tmp_path / "v.mp4", 20)
    decoder = decoding.Decoder()
    pictures = decoder.pictures(path)
    next(pictures)
    decoder.process.send_signal(signal.SIGINT)
    assert len(list(pictures)) == 19
    decoder.close()


def test_the_worker_imports_little():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(decoding.__file__).parent)!r}); import videoworker, cv2, numpy;"
        "print(sorted({'torch', 'PIL', 'utils', 'models'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_whatever_its_other_notes_are(orientation, tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    stored = Image.fromarray(upright)
    if orientation in TURNED_BACK:
        stored = stored.transpose(TURNED_BACK[orientation])
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tags += struct.pack("<HHI4s", 0x011A, 2, 3, b"72")  # the resolution, a text where a fraction is expected
    notes = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    stored.save(tmp_path / "a.webp", lossless=True, exif=notes)
    assert np.array_equal(open_picture(tmp_path / "a.webp").pixels, upright)
    assert np.array_equal(as_rgb(Image.open(tmp_path / "a.webp"), "images"), upright)


def test_a_tiff_whose_white_is_zero(tmp_path):
    grey = np.random.default_rng(0).integers(0, 65_536, (8, 8), np.uint16)
    Image.fromarray(65_535 - grey).save(tmp_path / "a.tif", tiffinfo={262: 0})
    Image.fromarray(grey).save(tmp_path / "b.tif")
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0
    assert np.array_equal(open_picture(tmp_path / "a.tif").pixels, open_picture(tmp_path / "b.tif").pixels)
