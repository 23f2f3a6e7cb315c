"""The public names: what the packages export, what they cost to import, and that they are told."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys

import gymnasium as gym
import pytest

import eto_gym
from eto_gym.benchmarks.public_names import BEGIN, END, PACKAGES, TARGET, names
from eto_gym.errors import EtoGymError, UnknownNameError
from tests.toy import CORRIDOR

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


def test_the_page_lists_every_public_name() -> None:
    text = TARGET.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    listed, whole = (re.findall(r"^(?:###|\|) `(\w[\w.]*)`", t, re.M) for t in (text, names()))
    assert len(whole) > 80
    assert listed == whole, "run: python -m eto_gym.benchmarks.public_names --write"


@pytest.mark.parametrize("name", ["run_sft", "run_dpo", "run_mixture", "run_ppo", "run_group"])
def test_signatures_show_every_argument(name: str) -> None:
    parameters = inspect.signature(getattr(importlib.import_module("eto_gym.trainers"), name))
    kinds = {parameter.kind for parameter in parameters.parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert {"settings", "model", "output", "resume", "watch"} <= parameters.parameters.keys()


@pytest.mark.parametrize("env_id", eto_gym.registered_ids())
def test_an_id_tells_splits_tasks_and_prompt(env_id: str) -> None:
    names = eto_gym.splits(env_id)
    assert {"train", "test"} <= set(names)
    for split in names:
        chosen = eto_gym.tasks(env_id, split)
        assert len(chosen) > 0
        assert chosen.split == split
    assert eto_gym.prompt(env_id).instruction
    with pytest.raises(UnknownNameError, match="split"):
        eto_gym.tasks(env_id, "nowhere")
    with pytest.raises(UnknownNameError, match="takes no argument"):
        eto_gym.prompt(env_id, splitt="train")


@pytest.mark.parametrize("env_id", ["ETO/ALFWorld-v0", "ETO/WebShop-v0"])
def test_the_opening_is_that_of_a_conversation(env_id: str) -> None:
    task = eto_gym.tasks(env_id, "test").ids[1]
    env = eto_gym.ConversationEnv(gym.make(env_id, split="test"), prompt_style="one-shot")
    env.reset(seed=7, options={"task": task})
    assert eto_gym.opening(env_id, task, split="test") == env.chat_messages()
    (named,) = [one for one in eto_gym.tasks(env_id, "test")[:3] if one.id == task]
    assert eto_gym.opening(env_id, named, split="test") == env.chat_messages()
    assert eto_gym.opening(env_id, 1, split="test") == env.chat_messages()
    for outside in (-1, len(eto_gym.tasks(env_id, "test"))):
        with pytest.raises(UnknownNameError, match="position in 0"):
            eto_gym.opening(env_id, outside, split="test")
    (only,) = eto_gym.opening(env_id, task, "none", split="test")
    assert only == env.chat_messages()[-1]
    env.close()


def test_an_environment_may_not_tell_its_splits() -> None:
    with pytest.raises(EtoGymError, match="does not tell its splits"):
        eto_gym.splits(CORRIDOR)


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
