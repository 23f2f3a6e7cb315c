"""Words the errors of training: numbers that are not finite, disks that are full."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from eto_gym.errors import EtoGymError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors and torch report a failed write as errors of their own, with these words.
_FULL_WORDS = (
    "No space left",
    "os error 28",
    "PytorchStreamWriter failed writing",
    "enforce fail at inline_container",  # the end of torch's archive is not where it should be
)


class TrainingError(EtoGymError):
    """Training cannot go on; what was written before is whole."""


class DiskFullError(TrainingError):
    """A checkpoint or a model could not be written; the run resumes from the one before."""


@contextlib.contextmanager
def disk_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn a write that failed for want of space into an error that says how to go on.

    Args:
        folder: Where the block writes.
        what: What it writes, for the message.

    Raises:
        DiskFullError: There was no space.
    """
    try:
        yield
    except Exception as err:
        if not _disk_is_full(err):
            raise
        free = shutil.disk_usage(_existing(folder)).free
        raise DiskFullError(
            f"{what} could not be written to {folder}: {err} ({free / 2**20:.0f} MiB are free). "
            "Make room and run the same command again, without --restart (in Python with "
            "resume=True): it goes on from the last whole checkpoint."
        ) from err


def _disk_is_full(err: BaseException) -> bool:
    if isinstance(err, OSError) and err.errno in _FULL:
        return True
    return any(words in str(err) for words in _FULL_WORDS)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
