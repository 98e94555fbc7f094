"""Looks into the containers of videos for what OpenCV does not tell: whether the end is there, and how long it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

INSIDE = {b"moov", b"trak", b"mdia"}  # boxes whose contents are boxes
MOST_BOXES = 10_000  # of a file; a damaged one could hold millions of empty ones
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class Container(NamedTuple):
    """What a container states."""

    is_cut: bool = False  # the file is shorter than its parts say
    duration: float | None = None  # of the pictures that are shown, in seconds; None where it is not stated
    is_matroska: bool = False  # its duration is that of all its tracks, and counts from zero


def examine_container(path: Path) -> Container:
    """Look into an MP4 (MOV, 3GP), AVI, Matroska (WebM) or FLV file; of others nothing is known."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        try:
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                return _examine_mp4(file, size)
            if head.startswith(b"RIFF"):
                stated = int.from_bytes(head[4:8], "little")
                return Container(is_cut=0 < stated < 2**32 - 1 and stated + 8 > size)
            if head.startswith(EBML):
                return Container(is_cut=_matroska_end(file) > size, is_matroska=True)
            if head.startswith(b"FLV\x01"):
                return Container(is_cut=_flv_end(file) > size)
        except (ValueError, IndexError, OverflowError):
            pass  # damaged beyond what is read here; the decoder has said so, or did not need it
    return Container()


def _examine_mp4(file: BinaryIO, size: int) -> Container:
    """Follow the boxes of an ISO base media file (ISO/IEC 14496-12); edit lists are part of a track's duration."""
    is_cut, timescale, duration, durations = False, 0, 0, []
    for kind, begin, end in _boxes(file, size):
        is_cut = is_cut or end > size
        file.seek(begin)
        if kind == b"mvhd":
            timescale = _field(file, 12, 20, 4)
        elif kind == b"tkhd":
            duration = _field(file, 20, 28, 8)
        elif kind == b"hdlr" and file.read(12)[8:12] == b"vide" and 0 < duration < 2**32 - 1:
            durations.append(duration)
    return Container(is_cut, max(durations) / timescale if durations and timescale else None)


def _field(file: BinaryIO, place: int, place_of_version_1: int, length_of_version_1: int) -> int:
    """Return a number of 4 bytes of a box with a version; in version 1 it is elsewhere and may be longer."""
    content = file.read(40)
    if content[0] == 1:
        return int.from_bytes(content[place_of_version_1 : place_of_version_1 + length_of_version_1], "big")
    return int.from_bytes(content[place : place + 4], "big")


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes of a file, those inside of `INSIDE` after the one they are in: kind, begin of content, end."""
    left, places = MOST_BOXES, [(0, size)]
    while places:
        position, limit = places.pop()
        while position + 8 <= limit and left:
            left -= 1
            file.seek(position)
            head = file.read(16)
            length, kind, content = int.from_bytes(head[:4], "big"), head[4:8], position + 8
            if length == 1:
                length, content = int.from_bytes(head[8:16], "big"), position + 16
            elif length == 0:  # to the end of the file
                length = limit - position
            if length < 8:
                return
            yield kind, content, position + length
            position += length
            if kind in INSIDE:
                places.append((position, limit))
                position, limit = content, min(limit, position)


def _matroska_end(file: BinaryIO) -> int:
    """Return where the segment of a Matroska file should end, 0 when it does not say (a live recording)."""
    file.seek(4)
    length, _ = _variable_number(file)
    file.seek(length, 1)
    if file.read(4) != SEGMENT:
        return 0
    length, is_unknown = _variable_number(file)
    return 0 if is_unknown else file.tell() + length


def _variable_number(file: BinaryIO) -> tuple[int, bool]:
    """Read a number of EBML: the leading zero bits tell its length in bytes; all bits set means unknown."""
    first = file.read(1)[0]
    if first == 0:
        raise ValueError("a number of more than 8 bytes")
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (2 ** (8 - length) - 1)]) + file.read(length - 1), "big")
    return value, value == 2 ** (7 * length) - 1


def _flv_end(file: BinaryIO) -> int:
    """Return where an FLV file should end, 0 when something else than its tags comes between.

    A tag has 11 bytes of a head, and its length in 4 bytes behind it. FFmpeg takes other lengths there as well, so they
    are passed over.
    """
    file.seek(5)
    end = int.from_bytes(file.read(4), "big") + 4  # of the header, and of the length of no tag
    while file.seek(end) and len(head := file.read(11)) == 11:
        if head[0] & 0x1F not in (8, 9, 18):  # sound, pictures, notes
            return 0
        end += 11 + int.from_bytes(head[1:4], "big") + 4
    return end
