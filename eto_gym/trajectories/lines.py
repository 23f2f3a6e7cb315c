"""Trajectories as the lines of a file that they become."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple, TypeAlias

from eto_gym.errors import DataError
from eto_gym.trajectories.record import DIGEST, ErrorKind, Outcome, Trajectory, counts

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def json_line(value: Any) -> bytes:
    """Return a JSON value as a line, its newline included."""
    try:
        return _compact(value).encode() + b"\n"
    except UnicodeEncodeError:
        # A lone surrogate is a legal str but not legal UTF-8: JSON's own escape keeps it readable.
        return _escaped(value).encode() + b"\n"


_SEAL = len(f',"{DIGEST}":"0123456789abcdef"}}\n')
"""Bytes of the end of a sealed line."""


def seal(line: bytes) -> bytes:
    """Add the digest of a line that holds an object, as the object's last key."""
    return line[:-2] + b',"%s":"%s"}\n' % (DIGEST.encode(), _digest(line).encode())


def check_seal(value: Any, line: bytes | None = None) -> None:
    """Compare an object with the digest that it holds; without one, all is well.

    Args:
        value: What was read.
        line: The line that it was read from, where that is at hand. One that another program wrote
            anew (with other blanks, say) has the same digest as long as it means the same and its
            keys stand in their order.

    Raises:
        DataError: The object is not what its digest was made of.
    """
    if not isinstance(value, dict) or DIGEST not in value:
        return
    expected = value[DIGEST]
    if line is not None and _digest(line[:-_SEAL] + b"}\n") == expected:
        return
    try:
        written = json_line({key: item for key, item in value.items() if key != DIGEST})
    except ValueError:  # a number that JSON does not know
        written = b""
    if _digest(written) != expected:
        raise DataError(
            f"the record is not the one that was written: its digest is that of another. Where it "
            f"was changed on purpose, remove its key {DIGEST!r}"
        )


def _digest(line: bytes) -> str:
    return hashlib.blake2b(line, digest_size=8).hexdigest()


class EncodedTrajectory(NamedTuple):
    """A trajectory as its line, with what a run wants to know of it; see `Trajectory`.

    The process that played an episode makes it, so that the one that stores all episodes neither
    parses nor encodes any.

    Attributes:
        line: The JSON with its digest (see `seal`), and its newline.
        task_id: The task.
        sample: Index among the episodes of the task.
        task_type: The benchmark's category of the task.
        outcome: How it ended.
        reward: Sum of the step rewards.
        success: Whether the task was solved.
        error: Kind of the error, or None.
        step_count: Number of steps.
    """

    line: bytes
    task_id: str
    sample: int
    task_type: str
    outcome: Outcome
    reward: float
    success: bool
    error: ErrorKind | None
    step_count: int

    @property
    def key(self) -> tuple[str, int]:
        """Task id and sample index."""
        return (self.task_id, self.sample)

    @property
    def failed_to_run(self) -> bool:
        """Whether the episode ended in an error."""
        return self.outcome == "error"

    @property
    def scored(self) -> bool:
        """Whether the episode counts; see `Trajectory.scored`."""
        return counts(self.error)

    def decode(self) -> Trajectory:
        """Return the trajectory itself."""
        return Trajectory.from_json(json.loads(self.line))


PlayedTrajectory: TypeAlias = Trajectory | EncodedTrajectory
"""A trajectory as launchers yield it: encoded where it comes from another process."""


def decode(trajectory: PlayedTrajectory) -> Trajectory:
    """Return the trajectory itself, whichever it is."""
    return trajectory.decode() if isinstance(trajectory, EncodedTrajectory) else trajectory


def encode(trajectory: Trajectory) -> PlayedTrajectory:
    """Encode a trajectory; one that would not come back the same from its line stays as it is.

    That is so of numbers that JSON does not know, and of lone surrogates, two of which become one
    character where they meet.
    """
    try:
        line = seal(_compact(trajectory.to_json()).encode() + b"\n")
    except (TypeError, ValueError):  # a UnicodeEncodeError is one, too
        return trajectory
    return EncodedTrajectory(
        line,
        trajectory.task_id,
        trajectory.sample,
        trajectory.task_type,
        trajectory.outcome,
        trajectory.reward,
        trajectory.success,
        trajectory.error,
        trajectory.step_count,
    )
