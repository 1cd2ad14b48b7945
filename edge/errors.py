"""Everything `edge` raises on purpose.

    EdgeError
    ├── DecodeError        one image cannot be used: the run goes on, its row says why
    ├── ModelError         the model file cannot be used: the run stops
    ├── InputError         the list of images cannot be used: the run does not start
    └── PredictionsError   a predictions file cannot be read, or cannot be continued

Messages are one line: what was wrong, what was got, what was expected.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors raised on purpose, here and in the packages built on this one.

    Attributes:
      exit_status: Of a command that it stops: 3 for input, 4 for the model, 5 for the machine. A class has its own;
        `EdgeError(message, exit_status=5)` needs none.
    """

    exit_status = 3

    def __init__(self, message: str = "", *, exit_status: int | None = None) -> None:
        super().__init__(message)
        if exit_status is not None:
            self.exit_status = exit_status


class DecodeError(EdgeError):
    """One image that cannot be turned into pixels.

    Attributes:
      path: As given; "<bytes>", "<image>" or "<array>" for what is not a path.
      reason: One line without the path.
      width, height: Stored size in pixels, None when the header could not be read.
    """

    def __init__(self, path: str, reason: str, *, width: int | None = None, height: int | None = None) -> None:
        self.path, self.reason = path, " ".join(reason.split())
        self.width, self.height = width, height
        super().__init__(f"{path}: {self.reason}")


class ModelError(EdgeError):
    """A model file that cannot be loaded, describes itself wrongly, or fails to run."""

    exit_status = 4


class InputError(EdgeError):
    """A list of images that is empty, missing or unreadable."""


class PredictionsError(EdgeError):
    """A predictions file that is damaged, of another kind, or belongs to another run."""
