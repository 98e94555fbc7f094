"""Reads the headers of JPEG and PNG files: the size they state, whether their end is there, and what is special."""

import struct
from typing import NamedTuple
from zlib import crc32

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PLAIN = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"tEXt",
             b"zTXt", b"iTXt", b"tIME"}  # fmt: skip
"""Chunks that leave the pixels as they are: neither transparency (tRNS), animation (acTL) nor orientation (eXIf)."""

MIN_BLOCK_BITS = 1  # of a JPEG's 8 x 8 luma pixels, in every way of coding but the arithmetic one
DEFLATE_RATIO = 1040  # bytes out of one byte, at most


class Header(NamedTuple):
    """What a header states.

    Attributes:
        width: in pixels; 0 when it is not stated.
        height: in pixels.
        ordinary: 8 bits, grey or colour, opaque, one picture, intact as far as checksums tell.
        lacks: what is missing, empty when nothing is.
    """

    width: int
    height: int
    ordinary: bool
    lacks: str = ""


def jpeg_header(data: bytes) -> Header | None:
    """Return what a JPEG's header states; None for other files.

    What libjpeg makes of a picture that lost its end depends on the version of OpenCV: nothing, or a face half grey.
    The markers are followed up to the scan, so that the end of a thumbnail in the header is not taken for the end.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    height = width = channels = bits = 0
    position, length = 2, len(data)
    while position + 4 <= length:
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xFF:  # stray or fill bytes between segments
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 10 <= length:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
        if marker == 0xDA:
            lacks = ""
            if not width * height:
                lacks = "a JPEG that does not state its size"
            elif data.rfind(b"\xff\xd9") < position:
                break
            elif (length - position) * 8 < width * height / 64 * MIN_BLOCK_BITS:
                lacks = f"{length:,} bytes for {width:,} x {height:,} pixels"
            return Header(width, height, bits == 8 and channels in (1, 3), lacks)
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return Header(width, height, False, "it is truncated: a JPEG without its end")


def png_header(data: bytes) -> Header | None:
    """Return what a PNG's header states; None for other files."""
    if not data.startswith(PNG_SIGNATURE):
        return None
    if len(data) < 33 or data[12:16] != b"IHDR":
        return Header(0, 0, False, "it is truncated: a PNG without its header")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    ordinary = bits <= 8 and colour in (0, 2, 3)
    position, length = 8, len(data)
    while position + 12 <= length:
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + size
        if end > length:
            break
        if kind not in PNG_PLAIN or crc32(data[position + 4 : end - 4]).to_bytes(4, "big") != data[end - 4 : end]:
            ordinary = False
        if kind == b"IEND":
            if length * DEFLATE_RATIO < width * height * bits * {2: 3, 4: 2, 6: 4}.get(colour, 1) // 8:
                lacks = f"{length:,} bytes for {width:,} x {height:,} pixels"
                return Header(width, height, False, lacks)
            return Header(width, height, ordinary)
        position = end
    return Header(width, height, False, "it is truncated: a PNG without its end")
