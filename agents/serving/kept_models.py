"""Servers of transformers that stay while the whole models that they hold come and go."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from eto_gym.agents.serving.asking import ask
from eto_gym.agents.serving.servers import ModelServers
from eto_gym.agents.serving.templated import link_model
from eto_gym.agents.serving.transformers_command import check_served
from eto_gym.errors import EtoGymError

logger = logging.getLogger(__name__)

_REMEDY = "Without keep_servers each stage starts servers of its own"


class Loaded(NamedTuple):
    """What servers hold.

    Attributes:
        urls: Their base URLs.
        name: What it must be asked for by.
    """

    urls: list[str]
    name: str


class KeptModels:
    """Servers that hold one model at a time, none at first.

    Nothing of them outlives this process, however it ends; see `ModelServers`. One that died and is
    started anew loads the model at the first request for it.
    """

    def __init__(self, make: Callable[[], ModelServers], timeout: float) -> None:
        """Prepare; nothing is started.

        Args:
            make: Returns servers without a model that were not started yet.
            timeout: Seconds that a server may take to load a model.
        """
        self._make = make
        self._timeout = timeout
        self._stack = contextlib.ExitStack()
        self._servers: ModelServers | None = None
        self._links = Path()
        self._holds: tuple[str, str | None] | None = None
        self._count = 0

    def hold(self, model: str, template: str | None) -> Loaded:
        """Have all servers hold a model in place of the one before, unless they do.

        The one before is given up first, so that there is room for one.

        Args:
            model: Its folder, or that of an adapter, which is served on its base.
            template: A chat template in place of its own; None: its own.

        Raises:
            EtoGymError: They do not come up, are gone for good, or refuse it.
            DataError: It cannot be served.
        """
        if self._servers is None:
            check_served(model)
            self._links = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="eto-gym-kept-"))
            )
            self._servers = self._stack.enter_context(self._make())
        else:
            self._servers.await_all()
        if self._holds != (model, template):
            check_served(model)
            self._holds = None
            before = self._link
            self._count += 1
            link_model(model, self._link, template)
            for url in self._servers.base_urls:
                swap_model(url, str(self._link), timeout=self._timeout)
            shutil.rmtree(before, ignore_errors=True)
            self._holds = (model, template)
            logger.info("%s is loaded into the servers that run", model)
        return Loaded(self._servers.base_urls, str(self._link))

    @property
    def _link(self) -> Path:
        """The folder of links to the model that is asked for: each has one of its own."""
        return self._links / str(self._count)

    def close(self) -> None:
        """Stop the servers, if there are any."""
        self._stack.close()
        self._servers, self._holds = None, None


def swap_model(base_url: str, model: str, *, timeout: float) -> None:
    """Have a `transformers serve` drop what it holds, and load a model.

    Args:
        base_url: The server's base URL, which ends in `/v1`.
        model: Folder of the model, without an @, which parts a name from a revision there.
        timeout: Seconds without a word of the server.

    Raises:
        EtoGymError: It takes no models while it runs, or not this one.
    """
    root = base_url.removesuffix("/v1")
    ask(f"{root}/reset", {}, timeout, remedy=_REMEDY)
    url = f"{root}/load_model"
    events = ask(url, {"model": model}, timeout, remedy=_REMEDY).decode(errors="replace")
    last = events.strip().rpartition("\n")[2].removeprefix("data:")
    try:
        told = json.loads(last)
        status = told["status"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise EtoGymError(f"{url} does not say that {model} is loaded: {last[-200:]!r}") from err
    if status != "ready":
        raise EtoGymError(f"{url} has not loaded {model}: {told.get('message', status)}. {_REMEDY}")
