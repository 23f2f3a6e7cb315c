"""What a worker process does: it makes its environments, and answers calls until told to stop."""

from __future__ import annotations

import logging
import pickle
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from eto_gym.errors import EngineError
from eto_gym.processes import follow_parent
from eto_gym.vector.group import Answer, EnvGroup, EnvMaker, Request

logger = logging.getLogger(__name__)


def work(
    connection: Connection, place: Any, make_env: EnvMaker, slots: Sequence[int], same_step: bool
) -> None:
    """Be a worker: make the environments, then answer calls until told to stop.

    Args:
        connection: To the parent.
        place: A shared integer; tells the parent which request is being played, from 1.
        make_env: Makes one environment.
        slots: Which ones.
        same_step: See `EnvGroup`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    follow_parent()
    try:
        group = EnvGroup(make_env, slots, same_step=same_step)
    except Exception as err:
        connection.send((None, _portable(err)))
        return
    try:
        connection.send((group.describe(), None))
        # The end of the pipe means that the parent is gone.
        while (call := connection.recv()) is not None:
            method, arguments = call
            try:
                if method == "play":
                    result: Any = [_plain(answer) for answer in _play(group, arguments[0], place)]
                else:
                    result = getattr(group, method)(*arguments)
                reply: tuple[Any, Exception | None] = (result, None)
            except Exception as err:
                reply = (None, _portable(err))
            _send_reply(connection, reply)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        group.close()


def _play(group: EnvGroup, requests: Sequence[Request], place: Any) -> list[Answer]:
    """Play one request after the other, and tell which one."""
    answers = []
    for number, request in enumerate(requests, start=1):
        place.value = number
        answers += group.play([request])
    place.value = 0
    return answers


def _send_reply(connection: Connection, reply: tuple[Any, Exception | None]) -> None:
    try:
        connection.send(reply)
    except (pickle.PicklingError, TypeError, AttributeError) as err:
        connection.send((None, EngineError(f"the answer cannot leave the worker process: {err}")))


def _plain(answer: Answer) -> tuple[Any, ...]:
    """Return an answer as a plain tuple, which is faster to send, fit for the way."""
    if isinstance(answer.problem, Exception):
        answer = answer._replace(problem=_portable(answer.problem))
    return tuple(answer)


def _portable(err: Exception) -> Exception:
    """Return the error, or its text where it would not survive the way to the parent."""
    try:
        if type(pickle.loads(pickle.dumps(err))) is type(err):  # noqa: S301
            return err
    except Exception:
        logger.debug("an error cannot be pickled", exc_info=True)
    return EngineError(f"{type(err).__name__}: {err}")
