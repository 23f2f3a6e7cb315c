"""The launcher of a Ray cluster: environment and policy actors on any number of machines."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import eto_gym
from eto_gym.agents.rollout.engine import Episode
from eto_gym.agents.rollout.local_launcher import Message, Worker, WorkerPool
from eto_gym.agents.rollout.ray_actors import Origin, PolicyActor, RemotePolicy, WorkerActor
from eto_gym.agents.rollout.ray_cluster import Head, import_ray, ray_cluster
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.trajectories import PlayedTrajectory

logger = logging.getLogger(__name__)

_SPREAD = "SPREAD"
"""Over the machines, as evenly as they have room. By default Ray fills one to its half first."""

_SLIVER = 0.001
"""CPUs that Ray books for a policy actor: it finds a place beside any workers, so a policy that was
lost with its machine is never kept waiting by those that ask it, nor they by it. Not 0: then a head
that declares no CPUs would get some."""

_GRAIN = 10_000
"""Ray counts resources in ten-thousandths."""

_TURN = 5.0
"""Seconds that it waits for workers before it looks around."""

_QUIET = 300.0
"""Seconds without a word of any worker until that is told: machines may be gone for good."""


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
        >>> from eto_gym.agents.rollout.launchers import get_launcher
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
                gives each the most with which all have a place, one at most.

        Raises:
            MissingDependencyError: Ray is not installed.
        """
        if policies < 0:
            raise EtoGymError(f"expected policies >= 0, got {policies}")
        self._address = address or os.environ.get("RAY_ADDRESS")
        import_ray(self._address)
        self._policies = policies
        self._gpus = gpus

    def play(
        self, spec: RolloutSpec, episodes: Sequence[Episode]
    ) -> Generator[PlayedTrajectory, None, None]:
        """Play the episodes; see `Launcher.play`."""
        if not episodes:
            return
        with ray_cluster(self._address):
            pool = _RayPool(spec, episodes, policies=self._policies, gpus=self._gpus)
            try:
                yield from pool.trajectories()
            finally:
                pool.stop()


class _RayPool(WorkerPool):
    """Workers that are actors, and the policy actors that they ask."""

    def __init__(
        self,
        spec: RolloutSpec,
        episodes: Sequence[Episode],
        *,
        policies: int,
        gpus: float | None,
    ) -> None:
        super().__init__(spec, episodes)
        import ray

        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        there = [node["Resources"] for node in nodes if node["Alive"]]
        # Fractions, so that all workers fit where there are more of them than cores.
        rooms = [machine.get("CPU", 0.0) - policies * _SLIVER for machine in there]
        cpus = largest_share(rooms, spec.workers) or 1.0  # none: they wait for a machine
        if gpus is None:
            # A part of a GPU is a part of one.
            whole = [1.0 for machine in there for _ in range(int(machine.get("GPU", 0.0)))]
            gpus = largest_share(whole, policies or spec.workers)
        self._make_worker = ray.remote(WorkerActor).options(
            num_cpus=cpus,
            num_gpus=0.0 if policies else gpus,
            scheduling_strategy=_SPREAD,
        )
        # Ray starts a lost policy again; its workers end, and their successors find it.
        self._origin = Origin(folder=str(Path.cwd()), version=eto_gym.__version__)
        make = ray.remote(PolicyActor).options(
            num_cpus=_SLIVER, num_gpus=gpus, max_restarts=-1, scheduling_strategy=_SPREAD
        )
        self._policies: list[Any] = [
            make.remote(spec.make_policy, self._origin) for _ in range(policies)
        ]
        self._started = 0
        self._head = Head(ray.get_runtime_context().gcs_address)
        self._heard = time.monotonic()

    def new_worker(self, *, alone: bool) -> Worker:
        self._head.wait()  # it gives workers their places
        spec, policy, name = self.spec, None, uuid.uuid4().hex
        if self._policies:
            policy = self._policies[self._started % len(self._policies)]
            spec = replace(spec, make_policy=partial(RemotePolicy, policy, name))
        self._started += 1
        return _Actor(
            self._make_worker.remote(spec, 1 if alone else None, self._origin),
            alone=alone,
            on_stop=lambda: _forget(policy, name),
        )

    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        import ray

        by_answer = {actor.answer(): actor for actor in cast("Sequence[_Actor]", workers)}
        while not (ready := ray.wait(list(by_answer), timeout=_TURN)[0]):
            self._head.look()
            if time.monotonic() - self._heard < _QUIET:
                continue
            self._heard = time.monotonic()
            there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            cpus = there.get("CPU", 0.0)
            logger.warning(
                "no worker has told anything for %.0f s; %d have no place yet or are at work, and "
                "the cluster has %g CPUs",
                _QUIET,
                len(by_answer),
                cpus,
            )
        self._head.look()
        self._heard = time.monotonic()
        return [by_answer[answer] for answer in ready]

    def stop(self) -> None:
        import ray

        super().stop()
        for policy in self._policies:
            ray.kill(policy)


def largest_share(rooms: Sequence[float], parts: int) -> float:
    """Return the most of a resource, 1 at most, that each of `parts` actors can have at once.

    Args:
        rooms: What there is of it in each place; an actor's share lies in one place.
        parts: How many actors there are.

    Returns:
        A multiple of a ten-thousandth; 0.0 where they do not fit however little they take.
    """
    counts = Counter(grains for room in rooms if (grains := round(room * _GRAIN)) > 0)
    # The largest share fills some place to its last grain, or is 1.
    shares = {min(_GRAIN, grains // k) for grains in counts for k in range(1, parts + 1)} - {0}
    fitting = (
        share
        for share in shares
        if sum(number * (grains // share) for grains, number in counts.items()) >= parts
    )
    return max(fitting, default=0) / _GRAIN


def _forget(policy: Any, worker: str) -> None:
    if policy is not None:
        policy.forget.remote(worker)


class _Actor:
    """The driver's side of a worker.

    One call is under way at any time: it carries the episodes that the worker asked for, and
    returns with what the worker says next.
    """

    def __init__(self, actor: Any, *, alone: bool, on_stop: Callable[[], None]) -> None:
        self.alone = alone
        self.playing: dict[tuple[str, int], Episode] = {}
        self._handed: list[Sequence[Episode]] = []
        self._answer: Any = None
        self._told_to_end = False
        self._end = "ended"
        self._on_stop = on_stop
        self._actor = actor

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
