"""What a command says: in one line where it cannot go on, and whatever the names of files are."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.writing import names_its_file


@contextmanager
def one_line_errors(interrupted: str = "interrupted", command: str | None = None) -> Iterator[None]:
    """End a command with one line, and exit code 1, where the user can mend what is wrong; print any file's name.

    Args:
        interrupted: what Ctrl-C has left behind, in a few words.
        command: what the user called; default the script's file.
    """
    speak_any_name()
    script = command or Path(sys.argv[0]).name
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{script}: {error.strerror if names_its_file(error) and error.strerror else error}")
    except KeyboardInterrupt:
        sys.exit(f"{script}: {interrupted}")


def speak_any_name() -> None:
    """Let no character that the terminal cannot show end a run: print an escape in its place, \\udcff or \\uc0ac.

    For the part of a script that runs as a program, before it prints. Where the terminal is UTF-8, names that are not
    are printed as they are on disk.
    """
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):  # replaced by a notebook, a test or a window without a console
            continue
        is_utf8 = (stream.encoding or "").lower().replace("-", "").replace("_", "") in ("utf8", "utf8sig", "cp65001")
        stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
