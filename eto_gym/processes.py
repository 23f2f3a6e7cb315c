"""Process and thread helpers: spawn contexts, shared endings, wake-ups."""

from __future__ import annotations

import ast
import multiprocessing
import multiprocessing.spawn
import os
import sys
import threading
import time
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

_PERIOD = 0.25  # seconds

# What a spawned process does before anything else: imports alone can take many seconds. A signal at
# the parent's death (prctl) would come when the thread ends that started the process.
_WATCH = (
    "import os, threading, time\n"
    "def watch():\n"
    "    while os.getppid() == {parent}: time.sleep({period})\n"
    "    os._exit(1)\n"
    "threading.Thread(target=watch, name='eto-gym-parent', daemon=True).start()\n"
)

# A script without `if __name__ == "__main__"` runs whole wherever it is imported, and would begin
# its work again in each process that it starts. Such a one is imported only where a name of its own
# is asked for, when `multiprocessing` says what is wrong with it.
_LATER = (
    "eto_gym_script = {script!r}\n"
    "def __getattr__(name):\n"
    "    if name.startswith('__'): raise AttributeError(name)\n"
    "    from eto_gym.processes import import_script\n"
    "    return getattr(import_script(), name)\n"
)
_SCRIPT = ("init_main_from_name", "init_main_from_path")  # `multiprocessing`'s names of a script
_launching = threading.Lock()
_spawn: Any = multiprocessing.spawn


def follow_parent() -> None:
    """Let this process end soon after its parent, even if that was killed outright.

    A process that waits for a message learns of its parent's end by itself; one that is at work, or
    hangs, does not.
    """
    parent = multiprocessing.parent_process()
    number = os.getppid() if parent is None else parent.pid

    def watch() -> None:
        while os.getppid() == number:
            time.sleep(_PERIOD)
        os._exit(1)

    threading.Thread(target=watch, name="eto-gym-parent", daemon=True).start()


class FollowingProcess(SpawnProcess):
    """A spawned process that ends soon after its parent from its first moment on."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        if sys.platform == "win32":  # the number of a parent says nothing there
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]
        with _launching:
            command_line, preparation_data = _spawn.get_command_line, _spawn.get_preparation_data
            main = sys.modules["__main__"]
            script: dict[str, str] = dict(vars(main).get("eto_gym_script", {}))
            if not _is_guarded(getattr(main, "__file__", None)):
                _spawn.get_preparation_data = _without_script(preparation_data, script)
            _spawn.get_command_line = _prepared(command_line, script)
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                _spawn.get_command_line = command_line
                _spawn.get_preparation_data = preparation_data


class FollowingContext(SpawnContext):
    """Makes processes as `multiprocessing.get_context("spawn")` does, which follow their parent."""

    Process = FollowingProcess


def _prepared(plain: Any, script: dict[str, str]) -> Any:
    """Return `plain`, which makes the command of a process, with more to do before anything else.

    Args:
        plain: The function of `multiprocessing`.
        script: What `import_script` imports there; empty, and it is imported at once as ever.
    """

    def command_line(**options: Any) -> list[str]:
        command: list[str] = plain(**options)
        if "-c" in command:  # else the program is frozen
            at = command.index("-c") + 1
            first = _WATCH.format(parent=os.getpid(), period=_PERIOD)
            if script:
                first += _LATER.format(script=script)
            command[at] = first + command[at].replace("; ", "\n")
        return command

    return command_line


def _without_script(plain: Any, script: dict[str, str]) -> Any:
    """Return `plain`, which says what a process prepares, with the script moved into `script`."""

    def preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = plain(name)
        script.update({key: data.pop(key) for key in _SCRIPT if key in data})
        return data

    return preparation_data


def _is_guarded(path: str | None) -> bool:
    """Tell whether a script asks for its `__name__` outside of its functions, as a guard does."""
    if path is None or not path.endswith((".py", ".pyw")):
        return True
    try:
        body = ast.parse(Path(path).read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError):
        return True  # whatever it is, it is not known to be without
    tests = [statement.test for statement in body if isinstance(statement, ast.If)]
    names = [node for test in tests for node in ast.walk(test) if isinstance(node, ast.Name)]
    return any(name.id == "__name__" for name in names)


def import_script() -> Any:
    """Return the module of the script that started this process, imported if it is not yet.

    Raises:
        RuntimeError: The script starts processes when it is imported.
    """
    script = vars(sys.modules["__main__"]).pop("eto_gym_script", None)
    if script:
        current: Any = multiprocessing.current_process()
        before = getattr(current, "_inheriting", False)
        current._inheriting = True  # refuses that it starts processes, and says why
        try:
            for key, value in script.items():
                getattr(_spawn, f"_fixup_main{key.removeprefix('init_main')}")(value)
        finally:
            if not before:
                del current._inheriting
    return sys.modules["__main__"]


def leave_group() -> None:
    """Let this process belong to none of the processes that were launched together.

    It inherits their names in the environment, and a library that finds these there joins in.
    """
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


class Alarm:
    """Something to wait for together with connections, which any thread can set off."""

    def __init__(self) -> None:
        """Create an alarm that is silent."""
        self.connection, self._bell = multiprocessing.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._rings = False

    def ring(self) -> None:
        """Make `connection` ready to be received from, until `stop`; too late is no error."""
        with self._lock:
            if not (self._rings or self._bell.closed):
                self._rings = True
                self._bell.send_bytes(b"!")

    def stop(self) -> None:
        """Make it silent again."""
        with self._lock:
            self.connection.recv_bytes()
            self._rings = False

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._bell.close()
            self.connection.close()
