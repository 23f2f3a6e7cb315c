"""One Java virtual machine that hosts the engine, owned by this process and never outliving it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from eto_gym.envs.scienceworld.java import Java
from eto_gym.errors import EngineError, require

logger = logging.getLogger(__name__)

FLAGS = (
    "-XX:+UnlockExperimentalVMOptions",
    # The engine iterates over sets ordered by identity hash. One constant hash makes their order
    # that of insertion, so that an episode no longer depends on what the JVM did before it.
    "-XX:hashCode=2",
    "-XX:+UseSerialGC",
    # A heap that starts small and grows with what lives in it, for half of the memory that the
    # default takes; a still smaller one spends 10 % of a step on collecting garbage.
    "-Xms160m",
    "-Xmn96m",
    "-XX:+ExitOnOutOfMemoryError",  # the engine swallows errors and would go on half dead
    "-XX:-UsePerfData",  # no files in the machine's temporary folder
    "-Duser.language=en",  # the engine's toLowerCase is that of the locale
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
)
SHRINKING_FLAGS = ("-XX:-ShrinkHeapInSteps", "-XX:MinHeapFreeRatio=20", "-XX:MaxHeapFreeRatio=35")
"""Make a full collection give memory back at once."""

TRIMS_UP_TO = 17
"""Newest Java seen to make a full collection before its heap grows. Java 25 takes all the memory
that it may have first: 0.7 GB instead of 0.25 GB for one environment after 1,000 steps."""

START_SECONDS = 120.0
CALL_SECONDS = 600.0
"""Longest wait for one answer; gold paths of the genetics tasks take up to half a minute of CPU."""

_LAST_WORDS = 500
"""Bytes kept of what a dying JVM prints; its reason, such as lack of memory, is one line."""

_TYPE_IDS = "object_type_ids.tsv"
_FEATURE = "the ScienceWorld engine"
_EXTRA = "scienceworld"


class JvmDiedError(EngineError):
    """The JVM ended, or stopped answering, during a call."""


class Jvm:
    """A running JVM with a gateway to it; not thread-safe.

    Its standard input is a pipe that only this process holds open: when this process ends, however
    it does, the JVM reads the end of the pipe, deletes its private folder and exits.
    """

    def __init__(self, java: Java, *, heap_mb: int) -> None:
        """Start the JVM and connect to it.

        Args:
            java: The runtime.
            heap_mb: Limit of the Java heap in MiB.

        Raises:
            MissingDependencyError: `scienceworld` or `py4j` is not installed.
            EngineError: The JVM did not start.
        """
        gateway_module = require("py4j.java_gateway", feature=_FEATURE, extra=_EXTRA)
        engine = engine_folder()
        # py4j reports every lost connection at level ERROR; this package reports it once, itself.
        logging.getLogger("py4j").setLevel(logging.CRITICAL)
        self.java = java
        self.heap_mb = heap_mb
        self.owner = os.getpid()
        self._connections: list[Any] = []
        self._folder = Path(tempfile.mkdtemp(prefix="eto-gym-scienceworld-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        """Process id of the JVM, also after its end."""
        self.last_words = ""
        """What the JVM printed when it ended by itself, known after `stop`."""
        try:
            shutil.copyfile(engine / _TYPE_IDS, self._folder / _TYPE_IDS)
            port, token = self._launch(
                [
                    java.path,
                    *FLAGS,
                    f"-Xmx{heap_mb}m",
                    *(() if self.trims_its_heap else SHRINKING_FLAGS),
                    "-cp",
                    os.pathsep.join(
                        [gateway_module.find_jar_path(), str(engine / "scienceworld.jar")]
                    ),
                    "py4j.GatewayServer",
                    "--die-on-broken-pipe",
                    "--enable-auth",
                    "0",
                ]
            )
            self.gateway = self._connect(gateway_module, port, token)
            self.view = self.gateway.jvm
            self._make_silent()
        except BaseException:
            self.stop()
            raise

    @property
    def folder(self) -> Path:
        """Private working directory of the JVM."""
        return self._folder

    @property
    def trims_its_heap(self) -> bool:
        """Whether this JVM keeps its heap small without being asked to."""
        return self.java.version <= TRIMS_UP_TO

    def alive(self) -> bool:
        """Whether the JVM process runs."""
        return self._process is not None and self._process.poll() is None

    def release(self, *objects: Any) -> None:
        """Let the JVM forget objects that it handed out."""
        for obj in objects:
            self.gateway.detach(obj)

    def stop(self) -> None:
        """End the JVM at once and remove its folder; does nothing in a process that inherited it.

        The engine holds nothing that would need an orderly shutdown.
        """
        if os.getpid() != self.owner:
            return
        process, self._process = self._process, None
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                with contextlib.suppress(OSError):
                    said = process.stdout.read(_LAST_WORDS).decode(errors="replace")
                    self.last_words = said.strip()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def forget_in_child(self) -> None:
        """Close what a forked child inherited, so that it neither keeps the JVM nor talks to it.

        Sockets are closed, not shut down: shutting down would cut the parent's connection.
        """
        for connection in self._connections:
            with contextlib.suppress(OSError):
                os.close(connection.socket.detach())
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.returncode = 0  # it is no child of this process, so it must not be waited for

    # --- start ----------------------------------------------------------------------------------

    def _launch(self, command: list[str]) -> tuple[int, str]:
        errors = self._folder / "stderr.txt"
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is for the owner to handle
            )
        self.pid = self._process.pid
        # A JVM that hangs is killed, which ends the reading below.
        watchdog = threading.Timer(START_SECONDS, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            assert self._process.stdout is not None
            lines = iter(self._process.stdout.readline, b"")
            port = next((int(line) for line in lines if line.strip().isdigit()), None)
            token = next(lines, b"").decode("ascii").strip()
        finally:
            watchdog.cancel()
        if port is None or not token:
            said = errors.read_text(errors="replace").strip()[-2000:]
            raise EngineError(
                f"the JVM {command[0]!r} did not start (within {START_SECONDS:.0f} s): "
                f"{said or 'it said nothing'}"
            )
        return port, token

    def _connect(self, module: Any, port: int, token: str) -> Any:
        gateway = module.JavaGateway(
            gateway_parameters=module.GatewayParameters(
                address="127.0.0.1",
                port=port,
                auth_token=token,
                auto_field=False,
                # Java objects are released by hand: py4j would do it whenever, and in whichever
                # thread, Python collects garbage, and in forked children too.
                enable_memory_management=False,
                read_timeout=CALL_SECONDS,
            )
        )
        client = gateway._gateway_client
        create = client._create_connection

        def create_and_remember() -> Any:
            connection = create()
            self._connections.append(connection)
            return connection

        def send_once(command: str, retry: bool = False, binary: bool = False) -> Any:
            # py4j would send a command again when the answer is empty, and so act twice.
            if not client.deque and self._connections:
                raise JvmDiedError("the connection to the JVM is closed")
            connection = client._get_connection()
            answer = connection.send_command(command)
            client._give_back_connection(connection)
            return answer

        client._create_connection = create_and_remember
        client.send_command = send_once
        return gateway

    def _make_silent(self) -> None:
        """Drop the engine's own output and make the JVM remove its folder when it exits."""
        system = self.view.java.lang.System
        sink = self.view.java.io.PrintStream(self.view.java.io.OutputStream.nullOutputStream())
        system.setOut(sink)
        system.setErr(sink)
        # Deleted in the reverse order of registration: the files, then the folder.
        for name in ("", _TYPE_IDS, "stderr.txt"):
            self.view.java.io.File(str(self._folder / name)).deleteOnExit()


def engine_folder() -> Path:
    """Return the folder of the installed `scienceworld` package, without importing it.

    Raises:
        MissingDependencyError: It is not installed.
    """
    # Importing the package would run its own start-up code; its data files are all that is needed.
    spec = importlib.util.find_spec("scienceworld")
    if spec is None or spec.origin is None:
        require("scienceworld", feature=_FEATURE, extra=_EXTRA)
        raise EngineError("the package 'scienceworld' has no folder")
    return Path(spec.origin).parent


def engine_version() -> str:
    """Return the version of the installed `scienceworld` package."""
    engine_folder()
    return importlib.metadata.version("scienceworld")
