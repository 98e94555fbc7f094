"""What a command says: in one line where it cannot go on, and whatever the names of files are."""

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diversified_fer.writing import names_its_file


def is_watched() -> bool:
    """Tell whether somebody sees a progress bar: on a terminal or in a notebook, and not in a log file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def one_line_errors(interrupted: str = "interrupted", command: str | None = None) -> Iterator[None]:
    """End a command with one line, and exit code 1, where the user can mend what is wrong; print any file's name.

    A character that the terminal cannot show is printed as an escape, \\udcff or \\uc0ac. Where the terminal is UTF-8,
    names that are not are printed as they are on disk.

    Args:
        interrupted: what Ctrl-C has left behind, in a few words.
        command: what the user called; default the script's file.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not replaced by a notebook, a test or a window without a console
            is_utf8 = codecs.lookup(stream.encoding or "ascii").name.startswith("utf-8")
            stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
    script = command or Path(sys.argv[0]).name
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{script}: {error.strerror if names_its_file(error) and error.strerror else error}")
    except KeyboardInterrupt:
        sys.exit(f"{script}: {interrupted}")
