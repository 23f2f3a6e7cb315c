"""The command of a user that has servers take the weights of a stage."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping

from eto_gym.command_lines import fill
from eto_gym.errors import EtoGymError

_LINES = 20  # of its output


def run_hook(command: str, values: Mapping[str, str], timeout: float) -> None:
    """Run a user's command to its end.

    Args:
        command: The command, with placeholders.
        values: Placeholder -> its value.
        timeout: Seconds that it may take.

    Raises:
        EtoGymError: It cannot be run, takes too long, or fails; the message ends with its output.
    """
    words = fill(shlex.split(command), values)
    with tempfile.TemporaryFile() as output:  # no pipe: what it leaves running would hold that open
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
            how = f"ended with status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            how = f"took more than {timeout:g} s"
        except OSError as err:
            raise EtoGymError(f"cannot run the play_hook {words[0]!r}: {err.strerror}") from err
        if not how:
            return
        output.seek(max(0, output.seek(0, os.SEEK_END) - 16384))
        lines = output.read().decode(errors="replace").splitlines()[-_LINES:]
    told = "\n".join(lines) or "(it is empty)"
    raise EtoGymError(f"the play_hook {how}: {shlex.join(words)}\nIts output ends:\n{told}")
