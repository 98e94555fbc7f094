"""What holds for all tests."""

import os


def pytest_configure(config) -> None:
    """Ask for UTF-8 of this project alone: libraries in programs that tests start also rely on a default encoding."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        os.environ.pop("PYTHONWARNDEFAULTENCODING", None)
