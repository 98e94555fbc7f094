"""Tells what a file is by its first bytes, for the messages of readers that expected something else."""

import re

ELSEWHERE, ARCHIVE, WORKBOOK, PDF, PICTURE, OTHER = "elsewhere", "archive", "workbook", "PDF", "picture", "other"
KINDS = (  # kind, what such a file is, pattern of its first bytes
    (ELSEWHERE, "a git-lfs pointer, not the file itself: run `git lfs pull`", rb"version https://git-lfs"),
    (ELSEWHERE, "a git-annex pointer, not the file itself: run `git annex get`", rb"[./]*(git)?/annex/objects/"),
    (ELSEWHERE, "a web page (HTML) in its place: download the file itself", rb"<(?i:!doctype|html|head|\?xml|!--)"),
    (WORKBOOK, "a workbook of a spreadsheet program (xlsx)", rb"PK(.*xl/|.{0,180}\[Content_Types\]\.xml)"),
    (WORKBOOK, "a workbook of a spreadsheet program (ods)", rb".{0,180}opendocument\.spreadsheet"),
    (WORKBOOK, "a workbook of a spreadsheet program (xls)", rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    (ARCHIVE, "a gzip archive", rb"\x1f\x8b"),
    (ARCHIVE, "a bzip2 archive", rb"BZh.1AY&SY"),
    (ARCHIVE, "an xz archive", rb"\xfd7zXZ\x00"),
    (ARCHIVE, "a zstd archive", rb"\x28\xb5\x2f\xfd"),
    (ARCHIVE, "a 7z archive", rb"7z\xbc\xaf\x27\x1c"),
    (ARCHIVE, "a rar archive", rb"Rar!\x1a\x07"),
    (ARCHIVE, "a tar archive", rb".{257}ustar"),
    (ARCHIVE, "a zip archive", rb"PK(\x03\x04|\x05\x06)"),
    (ARCHIVE, "a lz4 archive", rb"\x04\x22\x4d\x18"),
    (ARCHIVE, "a compress archive", rb"\x1f\x9d"),
    (ARCHIVE, "a lzip archive", rb"LZIP"),
    (PICTURE, "a picture", rb"\x89PNG|\xff\xd8\xff|GIF8"),
    (PDF, "a PDF document", rb"%PDF"),
    (OTHER, "an HDF5 file, as Keras writes", rb"\x89HDF\r\n\x1a\n"),
    (OTHER, "a NumPy array", rb"\x93NUMPY"),
    (OTHER, "a TensorFlow Lite network", rb".{4}TFL3"),
    (OTHER, "a GGUF file", rb"GGUF"),
    (OTHER, "a Parquet file", rb"PAR1"),
    (OTHER, "an SQLite database", rb"SQLite format 3\0"),
    (OTHER, "a Python pickle", rb"\x80[\x02-\x05]"),
)


def recognize(head: bytes) -> tuple[str, str]:
    """Return the kind of a file that begins so, and what it is with its article; two empty texts where it is not known.

    64 bytes tell most kinds, 512 all. Of `ELSEWHERE` the text also says what to do.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for kind, what, pattern in KINDS:
        if re.match(pattern, text if kind is ELSEWHERE else head, re.DOTALL):
            return kind, what
    return "", ""
