"""The expert: it reads every goal, wins nearly always, and needs nothing but the observations."""

from __future__ import annotations

import itertools
import tarfile
from pathlib import Path
from typing import Literal

import gymnasium as gym
import pytest

from eto_gym.envs.alfworld import builtin
from eto_gym.envs.alfworld.builtin.world import TASK_TEXTS
from eto_gym.envs.alfworld.env import ALFWorldEnv
from eto_gym.envs.alfworld.players.beliefs import Beliefs
from eto_gym.envs.alfworld.players.expert import ALFWorldExpert, Instruction, parse_goal

SHARED = Path(__file__).parents[3].parent / "shared"
STEP_LIMIT = 40

Style = Literal["full", "eto"]


def play(env: ALFWorldEnv, task: str | int, limit: int = STEP_LIMIT) -> tuple[bool, list[str]]:
    """Let the expert play and return success and the actions."""
    observation, info = env.reset(options={"task": task})
    expert = env.make_expert()
    actions: list[str] = []
    while len(actions) < limit:
        reply = expert.act(observation, info)
        if reply is None:
            break
        actions.append(reply.action)
        assert reply.thought
        assert "\n" not in reply.thought
        observation, _, terminated, _, info = env.step(reply.action)
        if terminated:
            break
    return bool(info["success"]), actions


@pytest.mark.parametrize(
    ("task", "goal"),
    [
        ("put a mug in shelf.", Instruction("move", "mug", "shelf")),
        ("put some mug on shelf.", Instruction("move", "mug", "shelf")),
        ("look at cd under the desklamp.", Instruction("light", "cd", "desklamp")),
        ("examine the cd with the desklamp.", Instruction("light", "cd", "desklamp")),
        ("put a clean fork in drawer.", Instruction("treat", "fork", "drawer", "clean")),
        ("clean some fork and put it in drawer.", Instruction("treat", "fork", "drawer", "clean")),
        ("put a hot egg in fridge.", Instruction("treat", "egg", "fridge", "heat")),
        ("heat some egg and put it in fridge.", Instruction("treat", "egg", "fridge", "heat")),
        ("put a cool pan in stoveburner.", Instruction("treat", "pan", "stoveburner", "cool")),
        (
            "cool some pan and put it in stoveburner.",
            Instruction("treat", "pan", "stoveburner", "cool"),
        ),
        ("put two book in bed.", Instruction("two", "book", "bed")),
        ("find two book and put them in bed.", Instruction("two", "book", "bed")),
        ("paint the wall.", None),
        ("", None),
    ],
)
def test_every_way_to_state_a_task_is_read(task: str, goal: Instruction | None) -> None:
    assert parse_goal(task) == goal


def test_every_template_of_the_games_is_read() -> None:
    for texts in TASK_TEXTS.values():
        for text in texts:
            assert parse_goal(text.format(obj="mug", to="shelf")) is not None


@pytest.mark.parametrize("style", ["full", "eto"])
@pytest.mark.parametrize("verb", ["put", "move"])
def test_the_expert_wins_built_in_games(style: Style, verb: Literal["put", "move"]) -> None:
    env = ALFWorldEnv("builtin", "test", action_grammar=verb, observation=style)
    won = [play(env, index) for index in range(150)]
    assert sum(success for success, _ in won) >= 0.97 * len(won)
    steps = sorted(len(actions) for _, actions in won)
    assert 6 <= steps[len(steps) // 2] <= 15


def test_the_expert_wins_in_large_houses() -> None:
    env = ALFWorldEnv("builtin:large", "test")
    assert sum(play(env, index)[0] for index in range(60)) >= 57


def test_the_expert_makes_no_filler_moves() -> None:
    env = ALFWorldEnv("builtin", "dev")
    for index in range(60):
        _, actions = play(env, index)
        assert not {"look", "inventory", "help"} & set(actions)
        for before, after in itertools.pairwise(actions):
            assert not (before.startswith("go to") and before == after)


def test_the_expert_is_the_same_each_time() -> None:
    env = ALFWorldEnv("builtin", "dev")
    observation, info = env.reset(options={"task": 3})
    one, two = env.make_expert(), env.make_expert()
    for _ in range(6):
        reply = one.act(observation, info)
        assert reply == two.act(observation, info)
        if reply is None:
            break
        observation, _, _, _, info = env.step(reply.action)


def test_info_is_not_needed() -> None:
    env = ALFWorldEnv("builtin", "dev")
    observation, _ = env.reset(options={"task": 0})
    expert = ALFWorldExpert()
    terminated = False
    while not terminated:
        reply = expert.act(observation, {})
        assert reply is not None
        observation, _, terminated, _, _ = env.step(reply.action)


def test_the_expert_finds_the_words_of_the_game_by_itself() -> None:
    env = ALFWorldEnv("builtin", "dev", action_grammar="move")
    task = next(task.id for task in env.task_set if task.type == "pick_and_place_simple")
    observation, info = env.reset(options={"task": task})
    expert = ALFWorldExpert(verb="put")
    for _ in range(STEP_LIMIT):
        reply = expert.act(observation, info)
        assert reply is not None
        observation, _, terminated, _, info = env.step(reply.action)
        if terminated:
            return
    pytest.fail("the expert kept to the wrong words")


@pytest.mark.parametrize("observation", ["", "Nothing happens.", "Your task is to: fly.", "\x00"])
def test_the_expert_gives_up_on_what_it_cannot_read(observation: str) -> None:
    expert = ALFWorldExpert()
    assert expert.act(observation, {}) is None
    assert expert.act(observation, {}) is None


def test_the_expert_gives_up_where_nothing_ever_happens() -> None:
    env = ALFWorldEnv("builtin", "dev")
    observation, info = env.reset(options={"task": 0})
    expert = env.make_expert()
    replies = 0
    while expert.act(observation, info) is not None:
        observation = "Nothing happens."
        replies += 1
        assert replies < 10


def test_the_expert_goes_on_from_where_another_player_left() -> None:
    env = ALFWorldEnv("builtin", "dev", admissible_actions=True)
    tasks = builtin.task_set("dev").ids[:40]
    won = 0
    for task in tasks:
        observation, info = env.reset(options={"task": task})
        expert = ALFWorldExpert()
        expert.observe(None, observation)
        terminated = False
        for number in range(60):
            reply = expert.advise()
            if number < 8 or reply is None:
                actions = info["admissible_actions"]
                action = actions[(number * 7919) % len(actions)]
            else:
                action = reply.action
            observation, _, terminated, _, info = env.step(action)
            expert.observe(action, observation)
            if terminated:
                break
        won += terminated
    assert won >= 0.95 * len(tasks)


def test_neighbours_at_one_spot_are_learnt_from_a_failed_walk() -> None:
    beliefs = Beliefs()
    beliefs.update(
        None,
        "You are in the middle of a room. Looking quickly around you, you see a drawer 2, and a "
        "drawer 1.\nYour task is to: put a pen in drawer.",
    )
    beliefs.update("go to drawer 1", "The drawer 1 is closed.")
    assert not beliefs.is_here("drawer 2")
    beliefs.update("go to drawer 2", "Nothing happens.")
    assert beliefs.is_here("drawer 2")
    assert beliefs.here == "drawer 1"
    beliefs.update(
        "open drawer 2", "You open the drawer 2. The drawer 2 is open. In it, you see a pen 1."
    )
    assert beliefs.where("pen") == [("pen 1", "drawer 2")]


def test_the_registered_environment_makes_the_expert() -> None:
    env = gym.make("ETO/ALFWorld-v0", split="dev")
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, ALFWorldEnv)
    observation, info = env.reset(seed=0)
    assert unwrapped.make_expert().act(observation, info) is not None
    env.close()


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded transcripts are not here")
def test_the_expert_wins_official_games(tmp_path: Path) -> None:
    with tarfile.open(SHARED / "data" / "alfworld" / "games_seen.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for style in ("full", "eto"):
        env = ALFWorldEnv(tmp_path, "valid_seen", observation="full" if style == "full" else "eto")
        assert len(env.task_set) == 140
        results = [play(env, index) for index in range(140)]
        assert sum(success for success, _ in results) == 140
