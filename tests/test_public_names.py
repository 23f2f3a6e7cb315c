"""The public names: what the packages export, what they cost to import, and that they are told."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

PACKAGES = [
    "eto_gym",
    "eto_gym.agents",
    "eto_gym.testing",
    "eto_gym.trainers",
    "eto_gym.trajectories",
    "eto_gym.vector",
]
PUBLIC = [
    (package, name) for package in PACKAGES for name in importlib.import_module(package).__all__
]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=[".".join(pair) for pair in PUBLIC])
def test_every_public_name_is_there_and_documented(package: str, name: str) -> None:
    module = importlib.import_module(package)
    value = getattr(module, name)
    assert name in dir(module)
    if isinstance(value, type) or inspect.isroutine(value):
        text = (value.__doc__ or "").strip()
        assert text
        assert not text.startswith(f"{name}(")  # what dataclasses write by themselves


@pytest.mark.parametrize("package", ["eto_gym.agents", "eto_gym.trainers"])
def test_the_names_cost_no_torch_until_they_are_used(package: str) -> None:
    code = (
        f"import sys, {package} as package\n"
        "heavy = {'torch', 'transformers', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not hasattr(package, 'Nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "path",
    [
        "eto_gym.agents.collect.RolloutSpec",
        "eto_gym.agents.collect.collect",
        "eto_gym.agents.endpoint.EndpointPolicy",
        "eto_gym.agents.policies.endpoint_policy",
        "eto_gym.agents.rollout.plan_episodes",
        "eto_gym.agents.sb3.CandidatesEnv",
        "eto_gym.agents.sb3.policy.load_sb3_policy",
        "eto_gym.agents.serving.ModelServers",
        "eto_gym.conversation.ConversationEnv",
        "eto_gym.testing.TextEnvContract",
        "eto_gym.trainers.tool_env.tool_environments",
    ],
)
def test_the_paths_that_the_documentation_showed_stay(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_a_function_may_have_the_name_of_its_module() -> None:
    module = importlib.import_module("eto_gym.agents.collect")
    package = importlib.import_module("eto_gym.agents")
    assert package.collect is module.collect
