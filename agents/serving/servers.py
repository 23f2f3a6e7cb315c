"""Model servers as processes of this machine: start, wait until they answer, keep up, stop."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from eto_gym.agents.models.adapters import base_of, is_adapter, link_whole
from eto_gym.agents.models.model_names import resolve_model
from eto_gym.agents.serving.templated import link_with_template, settled
from eto_gym.agents.serving.transformers_command import check_served, transformers_command
from eto_gym.command_lines import fill, split_server_command
from eto_gym.errors import EtoGymError, require

logger = logging.getLogger(__name__)

_WATCHER = Path(__file__).with_name("watcher.py")
_GRACE = 5.0
"""Seconds between asking a server to end and ending it."""
_RESTARTS = 3
"""How often one worker is started anew after it has served."""
_POLL = 0.2  # seconds
_LOG_LINES = 20
_PORT_TAKEN = "address already in use"


class ModelServers:
    """A context in which `workers` processes serve a model through OpenAI's interface.

    Entering it starts the processes and waits until each answers; leaving it stops them. If this
    process dies, however it dies, they end too. One that dies after it has served is started anew
    on its port.

    Example:
        with ModelServers("my-model", workers=2) as servers:
            policy = EndpointPolicy(servers.base_urls, servers.model)

    Attributes:
        model: Name by which requests must call the model; for an adapter, and with a template of
            its own, it is known once the context is entered.
        base_urls: Where the servers answer, for `EndpointPolicy`; known once the context is
            entered.
    """

    def __init__(
        self,
        model: str | None,
        *,
        workers: int = 1,
        host: str = "127.0.0.1",
        port: int | None = None,
        command: str | None = None,
        arguments: Sequence[str] = (),
        gpus: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        startup_timeout: float = 900.0,
        log_folder: str | Path | None = None,
        chat_template: str = "",
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Choose what to start; nothing runs yet.

        Args:
            model: Folder, or name on the Hugging Face hub. For the folder of a LoRA adapter,
                `transformers serve` gets a temporary folder with links to the adapter and to its
                base, and each worker loads the base with the adapter on top. None: servers of
                transformers that hold no model until they are told to; see `KeptModels`.
            workers: Processes, each with the whole model.
            host: Address to listen on; loopback, because the servers let everyone in.
            port: Port of the first worker, the others take the next ones; None takes free ports.
            command: Runs something else than `transformers serve`, in another environment if need
                be: "/opt/vllm/bin/vllm serve {model} --host {host} --port {port}".
            arguments: More arguments for the command ("--dtype", "bfloat16").
            gpus: What the workers get as `CUDA_VISIBLE_DEVICES`, in turn ("0", "1", or "0,1" for
                one worker on two). None leaves the variable as it is.
            environment: Further variables of the workers' environment.
            startup_timeout: Seconds until all must answer; large models load for minutes.
            log_folder: Where the processes' output is kept, `server-0.log` and so on. None keeps
                it in a temporary folder until the context is left.
            chat_template: File of a chat template that replaces the model's own, or the template.
                The servers then get a temporary folder of links to the model, with this template.
            template_kwargs: Variables that are set in the template, as in training and in play; a
                template that reads the clock has the date of the run.

        Raises:
            EtoGymError: An option has no meaning, or the command lacks a placeholder.
            DataError: The base of an adapter is not there, or the parts of the model do not fit
                each other.
            MissingDependencyError: `transformers serve` lacks a package.
        """
        if workers < 1:
            raise EtoGymError(f"expected workers >= 1, got {workers}")
        if port is not None and not 1 <= port <= 65536 - workers:
            raise EtoGymError(f"expected ports in 1..65535, got {port} to {port + workers - 1}")
        if gpus is not None and not gpus:
            raise EtoGymError("expected at least one entry in gpus, got none")
        if command is None and "--trust-remote-code" in arguments:
            raise EtoGymError("code that comes with a model is never run: drop --trust-remote-code")
        if model is None and (command is not None or chat_template or template_kwargs):
            raise EtoGymError("expected a model, which all but `transformers serve` starts with")
        if model is not None:
            model = resolve_model(model) if command is None else model
            model = str(Path(model).resolve()) if Path(model).exists() else model
        self.model = model or ""
        self.base_urls: list[str] = []
        self._adapter = model if command is None and model and is_adapter(model) else None
        if self._adapter is not None:
            require("peft", feature="LoRA adapters", extra="train")
            base_of(self._adapter)
        self._template: str | None = None
        if model is not None and (chat_template or template_kwargs):
            self._template = settled(model, chat_template, template_kwargs or {})
        # Of a folder of links the model's own name does not matter.
        linked = self._adapter is not None or self._template is not None
        if command is None:
            self._command = transformers_command("" if linked else model)
            if model is not None:
                check_served(model)
        else:
            self._command = split_server_command(command)
        self._command += arguments
        self._host = host
        self._first_port = port
        self._startup_timeout = startup_timeout
        self._kept_logs = None if log_folder is None else Path(log_folder)
        self._gpus = None if gpus is None else list(gpus)
        self._environment = dict(environment or {})
        self._count = workers
        self._workers: list[_Server] = []
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        self._stack = contextlib.ExitStack()
        self.failure: str | None = None
        """Why a worker is gone for good; the others go on."""

    def __enter__(self) -> Self:
        """Start the servers and wait until each answers.

        Raises:
            EtoGymError: One of them died, or the time is up; the message ends with its log.
        """
        with contextlib.ExitStack() as stack:
            folder = self._kept_logs or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="eto-gym-serve-"))
            )
            folder.mkdir(parents=True, exist_ok=True)
            if self._adapter is not None or self._template is not None:
                links = stack.enter_context(tempfile.TemporaryDirectory(prefix="eto-gym-adapter-"))
                given, self.model = self.model, str(Path(links) / "model")
                if self._template is not None:
                    link_with_template(given, self.model, self._template)
                else:
                    link_whole(given, self.model)
            stack.callback(self._stop)
            ports = self._ports()
            for i, port in enumerate(ports):
                self._workers.append(
                    _Server(self._filled(port), self._env(i), folder / f"server-{i}.log", port)
                )
            deadline = time.monotonic() + self._startup_timeout
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                self._await(worker, deadline)
            self.base_urls = [f"http://{self._netloc(w.port)}/v1" for w in self._workers]
            self._keeper = threading.Thread(target=self._keep, daemon=True)
            self._keeper.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the servers and wait until they are gone."""
        self._stack.close()

    # --- starting --------------------------------------------------------------------------------

    def _ports(self) -> list[int]:
        if self._first_port is not None:
            ports = list(range(self._first_port, self._first_port + self._count))
            _check_free(self._host, ports)
            return ports
        return _free_ports(self._host, self._count)

    def _filled(self, port: int) -> list[str]:
        values = {"{model}": self.model, "{host}": self._host, "{port}": str(port)}
        return fill(self._command, values)

    def _env(self, index: int) -> dict[str, str]:
        env = {**os.environ, **self._environment}
        # The servers share the cores; numeric libraries read this when they are first imported.
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self._count)))
        env.setdefault("PYTHONUNBUFFERED", "1")  # so that the log tells why a server died
        if self._gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[index % len(self._gpus)]
        return env

    def _netloc(self, port: int) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _await(self, worker: _Server, deadline: float) -> None:
        moves = 0
        while not (_answers(self._netloc(worker.port)) and worker.alive):
            if not worker.alive:
                # Somebody may have taken the port between its choice and its use.
                if self._first_port is None and moves < 3 and worker.log_says(_PORT_TAKEN):
                    moves += 1
                    worker.port = _free_ports(self._host, 1)[0]
                    worker.command = self._filled(worker.port)
                    worker.start()
                    continue
                raise EtoGymError(worker.story())
            if time.monotonic() > deadline:
                raise EtoGymError(
                    f"no answer from port {worker.port} within {self._startup_timeout:g} s; "
                    f"the log ends:\n{worker.tail()}"
                )
            time.sleep(_POLL)

    def await_all(self) -> None:
        """Wait until all answer again, also one that has died since and is started anew.

        Raises:
            EtoGymError: One is gone for good, or the time of a start is up.
        """
        deadline = time.monotonic() + self._startup_timeout
        for worker in self._workers:
            while not (worker.alive and _answers(self._netloc(worker.port))):
                gone = not worker.alive and worker.starts > _RESTARTS
                if gone or time.monotonic() > deadline:
                    raise EtoGymError(self.failure or worker.story())
                time.sleep(_POLL)

    # --- running and stopping --------------------------------------------------------------------

    def wait(self) -> None:
        """Block until every worker is gone for good, which `failure` then explains."""
        while self._keeper is not None and self._keeper.is_alive():
            self._keeper.join(timeout=1.0)  # in slices, so that signals are handled

    def _keep(self) -> None:
        """Start workers anew that die; runs in a thread."""
        living = list(self._workers)
        while living and not self._stopping.wait(_POLL):
            for worker in [worker for worker in living if not worker.alive]:
                self.failure = worker.story()
                if worker.starts > _RESTARTS:
                    living.remove(worker)
                    logger.error("%s\nIt has died too often: given up.", self.failure)
                    continue
                logger.warning("%s\nStarting it again.", self.failure)
                worker.start()

    def _stop(self) -> None:
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join()
        for worker in self._workers:
            worker.tell_to_stop()
        for worker in self._workers:
            worker.wait()


class _Server:
    """One server process, behind the watcher that ends it."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path, port: int) -> None:
        self.command = command
        self.port = port
        self.starts = 0
        self._env = env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            self.tell_to_stop()
            self.wait()
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # -I -S: the watcher needs neither the environment's paths nor its packages.
                [sys.executable, "-I", "-S", str(_WATCHER), str(_GRACE), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,  # an interrupt from the terminal is for this process only
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tell_to_stop(self) -> None:
        """Close the watcher's pipe; a child of this process may hold it too, hence the signal."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.terminate()

    def wait(self) -> None:
        if self._process is not None:
            self._process.wait()

    def log_says(self, words: str) -> bool:
        return words in self.tail().lower()

    def tail(self) -> str:
        """Return the last lines of the log."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 16384))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:]) or "(it is empty)"

    def story(self) -> str:
        """Tell how the process ended."""
        status = self._process.returncode if self._process is not None else None
        return (
            f"the server on port {self.port} ended with status {status}: "
            f"{shlex.join(self.command)}\nIts log ends:\n{self.tail()}"
        )


def _free_ports(host: str, count: int) -> list[int]:
    """Return ports that are free now, all different."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket(family)) for _ in range(count)]
        try:
            for each in held:
                each.bind((host, 0))
        except OSError as err:
            raise EtoGymError(f"cannot listen on {host}: {err}") from err
        return [int(each.getsockname()[1]) for each in held]


def _check_free(host: str, ports: Sequence[int]) -> None:
    """Refuse ports that somebody has: what answers there would be taken for a server of ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        with socket.socket(family) as tried:
            # As servers do it, so that connections which have just ended do not matter.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
            except OSError as err:
                raise EtoGymError(f"cannot listen on port {port} of {host}: {err}") from err


def _answers(netloc: str) -> bool:
    """Whether a server says that it is healthy, or lists its models where it has no `/health`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in ("/health", "/v1/models"):
        try:
            with opener.open(f"http://{netloc}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as err:
            err.close()
            if err.code != 404:
                return False
        except (OSError, http.client.HTTPException):
            return False
    return False
