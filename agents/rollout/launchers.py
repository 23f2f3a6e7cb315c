"""The launcher protocol (where a rollout is played), and launchers by name: local, Ray."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Protocol

from eto_gym.agents.rollout.engine import Episode
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.errors import unknown_name
from eto_gym.trajectories import PlayedTrajectory

_NAME = re.compile(r"local|ray(?::([0-9]+))?")


class Launcher(Protocol):
    """Plays episodes somewhere: in this process, in several, on a cluster."""

    def play(
        self, spec: RolloutSpec, episodes: Sequence[Episode]
    ) -> Generator[PlayedTrajectory, None, None]:
        """Yield exactly one trajectory per episode, each as soon as it is there, in any order.

        Where an episode is played changes nothing in its trajectory: `Rollout.play` yields it, in
        whatever process. Failures that `Rollout` sees are retried there, by `spec.retry`. A worker
        that is lost costs the episodes that it had been handed one attempt each; those that have
        none left are yielded as `failed_episode(episode, "worker")`.

        Closing the generator, at any time, stops every worker.

        Raises:
            EtoGymError: The run cannot go on: the policy cannot be built, there is no such task, or
                workers die before they play.
        """
        ...


def get_launcher(name: str) -> Launcher:
    """Return the launcher of this name.

    Args:
        name: "local" (this machine), "ray" (a Ray cluster, with a policy in every worker), or
            "ray:N" (with N policy actors, which the workers share).

    Raises:
        UnknownNameError: There is no such launcher.
        MissingDependencyError: Its packages are not installed.
    """
    policies = check_launcher(name)
    if name == "local":
        from eto_gym.agents.rollout.local_launcher import LocalLauncher

        return LocalLauncher()
    from eto_gym.agents.rollout.ray_launcher import RayLauncher

    return RayLauncher(policies=policies)


def check_launcher(name: str) -> int:
    """Return how many policy actors a launcher's name asks for; see `get_launcher`.

    Raises:
        UnknownNameError: There is no such launcher.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise unknown_name("launcher", name, ["local", "ray", "ray:N"])
    return int(match[1] or 0)
