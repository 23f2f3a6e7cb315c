"""The contract, held by every registered environment and by a third party's."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import eto_gym
from eto_gym.testing import TextEnvContract, TextGymEnv
from tests.toy import make_corridor


class TestToy(TextEnvContract):
    def make_env(self, **kwargs: Any) -> TextGymEnv:
        return make_corridor(**kwargs)


@pytest.mark.usefixtures("warm_engine")
@pytest.mark.parametrize("env_id", eto_gym.registered_ids())
def test_gymnasium_checker_passes(env_id: str) -> None:
    env = gym.make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checker advises numpy spaces
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_importing_is_light() -> None:
    heavy = ["torch", "transformers", "trl", "flask", "scienceworld", "py4j", "textworld", "tqdm"]
    code = (
        "import sys, eto_gym\n"
        f"heavy = [m for m in {heavy} if m in sys.modules]\n"
        "own = [m for m in sys.modules if m.startswith(('eto_gym.agents', 'eto_gym.trainers',"
        " 'eto_gym.envs.'))]\n"
        "assert not heavy and not own, (heavy, own)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("env_id", eto_gym.registered_ids())
def test_making_one_environment_loads_no_other(env_id: str) -> None:
    code = (
        "import sys, gymnasium as gym, eto_gym\n"
        f"env = gym.make({env_id!r}); env.reset(seed=0)\n"
        "name = type(env.unwrapped).__module__.split('.')[2]\n"
        "own = {m.split('.')[2] for m in sys.modules if m.startswith('eto_gym.envs.')}\n"
        "assert own == {name}, own\n"
        "heavy = [m for m in ('torch', 'transformers', 'flask') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "env.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
