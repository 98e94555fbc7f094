"""What a command says: in one line where it cannot go on, and whatever the names of files are."""

import codecs
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from diversified_fer.writing import names_its_file

OUT_OF_MEMORY = re.compile(r"out of memory|DefaultCPUAllocator: (can't|not enough)", re.IGNORECASE)  # PyTorch's words


def is_watched() -> bool:
    """Tell whether somebody sees a progress bar: on a terminal or in a notebook, and not in a log file."""
    return (sys.stderr is not None and sys.stderr.isatty()) or "ipykernel" in sys.modules


class LastingStream:
    """A text stream that ends no program: where its reader goes away or its disk is full, what follows goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what was not written yet."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Lead the stream to the null device, with what is in its buffers."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)
        if self is sys.stdout and not isinstance(error, BrokenPipeError):  # `| head` wants no more, and knows it
            print(f"nothing more can be printed ({error.strerror}); the run goes on", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def one_line_errors(interrupted: str = "interrupted", command: str | None = None) -> Iterator[None]:
    """End a command with one line, and exit code 1, where the user can mend what is wrong; print any file's name.

    A character that the terminal cannot show is printed as an escape, \\udcff or \\uc0ac. Where the terminal is UTF-8,
    names that are not are printed as they are on disk. Printing never ends the command, whatever becomes of the
    terminal, pipe or file that it goes to.

    Args:
        interrupted: what Ctrl-C has left behind, in a few words.
        command: what the user called; default the script's file.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (LastingStream(stream or open(os.devnull, "w")) for stream in before)  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not replaced by a notebook, a test or a window without a console
            is_utf8 = codecs.lookup(stream.encoding or "ascii").name.startswith("utf-8")
            stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
    script = command or Path(sys.argv[0]).name
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{script}: {error.strerror if names_its_file(error) and error.strerror else error}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        sys.exit(f"{script}: not enough memory for this batch_size or image_size: lower one of them ({reason[:300]})")
    except KeyboardInterrupt:
        sys.exit(f"{script}: {interrupted}")
    finally:
        sys.stdout.flush()  # while what cannot be written is still dropped
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
