"""The launcher of a Ray cluster: environment and policy actors on any number of machines."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import socket
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from eto_gym.agents.launcher import RolloutSpec
from eto_gym.agents.local_launcher import Message, Worker, WorkerPool, play_requested
from eto_gym.agents.policy import Conversation, Policy, PolicyReply
from eto_gym.agents.rollout import Episode
from eto_gym.errors import EtoGymError, require
from eto_gym.trajectories import PlayedTrajectory

logger = logging.getLogger(__name__)


class RayLauncher:
    """Plays on `spec.workers` actors of a Ray cluster, each with its share of the environments.

    By default every worker builds its own policy beside its environments, which suits scripted
    policies, clients of an endpoint, and models where there is a device for each worker. With
    `policies` the workers hold environments only and send their batches to that many policy actors:
    few devices then serve many cores. (The expert and the player read the environment itself, and
    so must stay with it.)

    What a lost worker or policy was playing is played again, by `spec.retry`.

    Inside a process that has called `ray.init` already, that cluster is used and left running. Else
    the one at `address` or in RAY_ADDRESS is; without either, one is started on this machine,
    reachable from this machine only, and stopped at the end.

    Example:
        >>> from eto_gym.agents.launcher import get_launcher
        >>> launcher = get_launcher("ray")  # collect(spec, episodes, launcher=launcher)
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        policies: int = 0,
        gpus: float | None = None,
    ) -> None:
        """Choose the cluster and the actors; nothing is started before `play`.

        Args:
            address: Address of a cluster's head, or "auto"; None reads RAY_ADDRESS.
            policies: Policy actors; 0 (the default) builds a policy in every worker.
            gpus: GPUs of each actor that holds a policy, fractions included. None (the default)
                divides those of the cluster among them, one each at most.

        Raises:
            MissingDependencyError: Ray is not installed.
        """
        if policies < 0:
            raise EtoGymError(f"expected policies >= 0, got {policies}")
        self._address = address or os.environ.get("RAY_ADDRESS")
        _import_ray(self._address)
        self._policies = policies
        self._gpus = gpus

    def play(
        self, spec: RolloutSpec, episodes: Sequence[Episode]
    ) -> Generator[PlayedTrajectory, None, None]:
        """Play the episodes; see `Launcher.play`."""
        if not episodes:
            return
        with ray_cluster(self._address) as resources:
            pool = _RayPool(
                spec, episodes, resources=resources, policies=self._policies, gpus=self._gpus
            )
            try:
                yield from pool.trajectories()
            finally:
                pool.stop()


def _import_ray(address: str | None) -> Any:
    """Import Ray, set up so that it reports nothing, and a cluster of ours is this machine's."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # Ray reads this when it is first imported. 0 makes nodes listen on the loopback only, on
        # every system.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if not _token_at_hand():  # else Ray leaves a token in the home folder
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return require("ray", feature="the launcher 'ray'", extra="ray")


def _token_at_hand() -> bool:
    """Whether Ray would find a token, in the places where it looks."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


@contextmanager
def ray_cluster(address: str | None = None, **options: Any) -> Iterator[dict[str, float]]:
    """Be connected to a Ray cluster inside the block; yields the cluster's resources.

    A connection that this process has already is used, and stays. Else the cluster at `address` or
    in RAY_ADDRESS is joined; without either, one is started on this machine's loopback, and stopped
    at the end.

    A cluster of several machines lets in only who shows its token. Ray shows one to an address only
    where RAY_AUTH_MODE=token says so, since it would show it to whoever listens there.

    Args:
        address: Address of a cluster's head, or "auto".
        options: Arguments of `ray.init` for a cluster that is started here.

    Raises:
        EtoGymError: There is no such cluster, or it lets nobody in without its token.
        MissingDependencyError: Ray is not installed.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    ray = _import_ray(address)
    ours = not ray.is_initialized()
    if ours:
        start = {"address": "local", "include_dashboard": False, **options}
        chosen = {"address": address} if address else start
        if address:
            check_listens(address)
        try:
            ray.init(logging_level=logging.WARNING, **chosen)
        except ray.exceptions.AuthenticationError as err:
            raise EtoGymError(f"the Ray cluster at {address} {_stranger()}") from err
        except (ConnectionError, RuntimeError, ValueError) as err:
            # Ray does not tell a token that is missing from a cluster that is.
            hint = f". If there is one, it may be that it {_stranger()}" if address else ""
            place = address or "this machine"
            raise EtoGymError(f"no Ray cluster at {place}: {err}{hint}") from err
        own_ip = ray.util.get_node_ip_address()
        if not address and own_ip != "127.0.0.1":
            logger.warning("Ray listens on %s: it was imported before eto_gym asked it to", own_ip)
    try:
        yield ray.cluster_resources()
    finally:
        if ours:
            ray.shutdown()


def _stranger() -> str:
    """Say what is missing where a cluster lets nobody in without its token."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        missing = "set RAY_AUTH_MODE=token here, so that the token is shown"
    elif _token_at_hand():
        missing = "the token of this machine may be another one"
    else:
        missing = "there is none on this machine"
    return (
        f"lets in only who shows its token: {missing}. The token is in ~/.ray/auth_token of the "
        "machine that started the cluster; copy it to the same place, or name its file in "
        "RAY_AUTH_TOKEN_PATH"
    )


def check_listens(address: str) -> None:
    """Find out at once that nothing listens; Ray takes minutes.

    Raises:
        EtoGymError: Nothing does.
    """
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        return  # "auto", or an address of another kind, which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as err:
        raise EtoGymError(f"no Ray cluster at {address}: {err}") from err


class _RayPool(WorkerPool):
    """Workers that are actors, and the policy actors that they ask."""

    def __init__(
        self,
        spec: RolloutSpec,
        episodes: Sequence[Episode],
        *,
        resources: dict[str, float],
        policies: int,
        gpus: float | None,
    ) -> None:
        super().__init__(spec, episodes)
        import ray

        # Fractions, so that all workers fit where there are more of them than cores.
        self._cpus = _share(resources.get("CPU", 1.0), spec.workers + policies)
        if gpus is None:
            gpus = _share(resources.get("GPU", 0.0), policies or spec.workers)
        self._gpus = 0.0 if policies else gpus
        # Ray starts a lost policy again; its workers end, and their successors find it.
        make = ray.remote(_PolicyActor).options(num_cpus=self._cpus, num_gpus=gpus, max_restarts=-1)
        self._policies: list[Any] = [make.remote(spec.make_policy) for _ in range(policies)]
        self._started = 0

    def new_worker(self, *, alone: bool) -> Worker:
        spec, policy, name = self.spec, None, uuid.uuid4().hex
        if self._policies:
            policy = self._policies[self._started % len(self._policies)]
            spec = replace(spec, make_policy=partial(_RemotePolicy, policy, name))
        self._started += 1
        options = {"num_cpus": self._cpus, "num_gpus": self._gpus}
        return _Actor(
            spec,
            slots=1 if alone else None,
            alone=alone,
            options=options,
            on_stop=lambda: _forget(policy, name),
        )

    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        import ray

        by_answer = {actor.answer(): actor for actor in cast("Sequence[_Actor]", workers)}
        ready, _ = ray.wait(list(by_answer))
        return [by_answer[answer] for answer in ready]

    def stop(self) -> None:
        import ray

        super().stop()
        for policy in self._policies:
            ray.kill(policy)


def _share(total: float, parts: int) -> float:
    """Divide a resource, one each at most; Ray counts in ten-thousandths."""
    return min(1.0, int(total / max(1, parts) * 10_000) / 10_000)


def _forget(policy: Any, worker: str) -> None:
    if policy is not None:
        policy.forget.remote(worker)


class _Actor:
    """The driver's side of a worker.

    One call is under way at any time: it carries the episodes that the worker asked for, and
    returns with what the worker says next.
    """

    def __init__(
        self,
        spec: RolloutSpec,
        *,
        slots: int | None,
        alone: bool,
        options: dict[str, float],
        on_stop: Callable[[], None],
    ) -> None:
        import ray

        self.alone = alone
        self.playing: dict[tuple[str, int], Episode] = {}
        self._handed: list[Sequence[Episode]] = []
        self._answer: Any = None
        self._told_to_end = False
        self._end = "ended"
        self._on_stop = on_stop
        self._actor: Any = ray.remote(_WorkerActor).options(**options).remote(spec, slots)

    @property
    def finished(self) -> bool:
        """Whether it has played all that there was."""
        return self._told_to_end and not self.playing

    def answer(self) -> Any:
        """Return Ray's reference to the call under way."""
        if self._answer is None:
            self._answer = self._actor.exchange.remote(self._handed)
            self._handed = []
        return self._answer

    def receive(self) -> Sequence[Message]:
        """Return the next messages; EOFError where the actor has ended or is lost."""
        import ray

        answer, self._answer = self.answer(), None
        try:
            messages: list[Message] = ray.get(answer)
        except ray.exceptions.RayError as err:
            self._end = f"{type(err).__name__}: {err}".strip()
            raise EOFError from err
        if not messages:
            raise EOFError
        return messages

    def hand(self, episodes: Sequence[Episode]) -> None:
        """Send episodes with the next call; none: there is no other."""
        self._told_to_end = not episodes
        self.playing.update((episode.key, episode) for episode in episodes)
        self._handed.append(episodes)

    def stop(self) -> str:
        """End the actor, and return what Ray said of it."""
        import ray

        ray.kill(self._actor)
        self._on_stop()
        return self._end


class _WorkerActor:
    """Plays in a thread of its actor, and hands messages over when it is asked."""

    def __init__(self, spec: RolloutSpec, slots: int | None) -> None:
        self._episodes: queue.SimpleQueue[Sequence[Episode]] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[tuple[Message, ...]] = queue.SimpleQueue()
        threading.Thread(target=self._play, args=(spec, slots), daemon=True).start()

    def exchange(self, handed: list[Sequence[Episode]]) -> list[Message]:
        """Take episodes; wait for a message, return all there are; none means the end."""
        for episodes in handed:
            self._episodes.put(episodes)
        messages = list(self._messages.get())
        while messages and not self._messages.empty():
            said = self._messages.get()
            if not said:
                self._messages.put(said)
                break
            messages += said
        return messages

    def _play(self, spec: RolloutSpec, slots: int | None) -> None:
        try:
            play_requested(
                spec, slots, lambda message: self._messages.put((message,)), self._episodes.get
            )
        finally:
            self._messages.put(())


class _PolicyActor:
    """A policy, asked by the workers that share it, one batch at a time."""

    def __init__(self, make_policy: Callable[[], Policy]) -> None:
        self._failure = ""
        self._live: set[str] = set()
        try:
            self._policy = make_policy()
        except Exception as err:  # it would fail again and again: tell those who ask
            self._failure = f"{type(err).__name__}: {err}"

    def name(self) -> str:
        """Return the policy's name."""
        if self._failure:
            raise EtoGymError(self._failure)
        return self._policy.name

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Answer a batch."""
        self._live.update(conversation.key for conversation in conversations)
        return self._policy.act(conversations)

    def release(self, key: str) -> None:
        """Forget an episode."""
        self._live.discard(key)
        self._policy.release(key)

    def forget(self, worker: str) -> None:
        """Forget all episodes of a worker that has ended."""
        for key in [key for key in self._live if key.startswith(worker)]:
            self.release(key)


class _RemotePolicy:
    """The workers' side of a policy actor.

    Keys bear the worker's name: an episode that is played again, after a worker was lost, has
    nothing to do with what the policy still holds of the first attempt.
    """

    def __init__(self, actor: Any, worker: str) -> None:
        self._actor = actor
        self._worker = worker
        self.name = str(self._ask(actor.name))

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Send the batch to the policy, without the environments."""
        sent = [replace(c, key=self._worker + c.key, env=None) for c in conversations]
        return cast("list[PolicyReply]", self._ask(self._actor.act, sent))

    def release(self, key: str) -> None:
        """Tell the policy; its answer is not waited for."""
        self._actor.release.remote(self._worker + key)

    def _ask(self, method: Any, *args: Any) -> Any:
        import ray

        try:
            return ray.get(method.remote(*args))
        except ray.exceptions.RayTaskError as err:
            raise err.cause from None  # what the policy raised, where it raised it
        except ray.exceptions.RayError:
            # The policy's process is gone, and its caches with it: so is this worker, whose
            # episodes are then played again from their beginning.
            logger.exception("the policy actor is lost")
            os._exit(1)
