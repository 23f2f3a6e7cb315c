from __future__ import annotations

import json
import random
import time
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eto_gym
from eto_gym.envs.scienceworld import ScienceWorldEnv
from eto_gym.envs.scienceworld.instructions import load_examples, worked_example
from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.envs.scienceworld.simplifications import expand
from eto_gym.envs.scienceworld.tasks import split_id, task_names
from eto_gym.errors import EngineError, UnknownNameError
from eto_gym.testing import TextEnvContract, TextGymEnv

PAINT = (
    "teleport to art studio",
    "pour cup containing blue paint in art studio in bowl",
    "pour cup containing yellow paint in art studio in bowl",
    "mix bowl",
    "focus on green paint",
)


class TestScienceWorld(TextEnvContract):
    play_steps = 6

    @pytest.fixture(autouse=True)
    def _warm(self, warm_lane: EngineSession) -> None:
        pass

    def make_env(self, **kwargs: Any) -> TextGymEnv:
        return gym.make("ETO/ScienceWorld-v0", lanes=1, **kwargs)


@pytest.fixture
def env(warm_lane: EngineSession) -> Any:
    env = ScienceWorldEnv(lanes=1)
    yield env
    env.close()


def test_first_observation_is_task_and_look(env: ScienceWorldEnv) -> None:
    observation, info = env.reset(options={"task": "boil/4"})
    assert observation.startswith("Task Description:\nYour task is to boil ")
    assert observation.endswith("\n" + env.look())
    assert env.inventory().startswith("In your inventory, you see:")
    assert info == {
        "task_id": "boil/4",
        "task_type": "boil",
        "score": 0.0,
        "best_score": 0.0,
        "success": False,
    }


def test_rewards_sum_to_the_best_score_and_solving_terminates(env: ScienceWorldEnv) -> None:
    env.reset(options={"task": "chemistry-mix-paint-secondary-color/2"})
    rewards = []
    for action in PAINT:
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        assert terminated is (action == PAINT[-1])
        assert not truncated
        assert sum(rewards) == pytest.approx(info["best_score"])
    assert (info["score"], info["success"]) == (1.0, True)
    assert min(rewards) >= 0


def test_a_fatal_focus_terminates_without_success_or_loss(env: ScienceWorldEnv) -> None:
    env.reset(options={"task": "chemistry-mix-paint-secondary-color/2"})
    first = env.step("teleport to art studio")[1]
    _, reward, terminated, truncated, info = env.step("focus on desk")
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (info["score"], info["best_score"], info["success"]) == (-1.0, first, False)


def test_a_worse_score_takes_nothing_back(env: ScienceWorldEnv) -> None:
    """`reset task` lowers the engine's score; rewards only ever count new heights."""
    env.reset(options={"task": "chemistry-mix-paint-secondary-color/2"})
    _, gained, *_ = env.step("teleport to art studio")
    _, reward, _, _, info = env.step("reset task")
    assert gained > 0
    assert reward == 0.0
    assert info["best_score"] == gained
    assert info["score"] <= gained


def test_step_limits_follow_the_scheme(warm_lane: EngineSession) -> None:
    task = "lifespan-shortest-lived/3"
    for kwargs, limit in (
        ({"split_scheme": "eto"}, 10),
        ({"split_scheme": "official"}, 100),
        ({"split_scheme": "eto", "max_episode_steps": 4}, 4),
        ({"split_scheme": "eto", "task_step_limits": False}, None),
        ({"task_step_limits": False, "max_episode_steps": 200}, 200),
    ):
        env = ScienceWorldEnv(lanes=1, **kwargs)
        env.reset(options={"task": task})
        assert env.step_limit == limit
        if limit == 4:
            assert [env.step("look around")[3] for _ in range(4)] == [False, False, False, True]
        env.close()


def test_tasks_of_any_split_are_reachable_by_id(env: ScienceWorldEnv) -> None:
    assert not env.task_set.has("boil/29")
    _, info = env.reset(options={"task": "boil/29"})
    assert (info["task_id"], env.task.split) == ("boil/29", "test")
    with pytest.raises(UnknownNameError, match="boil"):
        env.reset(options={"task": "boill/2"})


def test_arguments_are_checked() -> None:
    for kwargs in (
        {"split": "val"},
        {"split_scheme": "ours"},
        {"simplification": "harder"},
        {"isolation": "none"},
        {"lanes": 0},
    ):
        with pytest.raises(ValueError, match="expected"):
            ScienceWorldEnv(**kwargs)


def test_open_containers_are_what_the_prompt_says(warm_lane: EngineSession) -> None:
    for simplification, closed in (("easy", True), ("easy-open", False)):
        env = ScienceWorldEnv(lanes=1, simplification=simplification)
        observation, _ = env.reset(options={"task": "chemistry-mix-paint-secondary-color/2"})
        assert ("closed" in observation) is closed
        instruction = env.prompt().instruction
        assert ("All containers are open." in instruction) is not closed
        assert ("closed" in env.prompt().example[0]) is closed
        env.close()
    plain = ScienceWorldEnv(simplification="none").prompt()
    assert "teleport" not in plain.instruction
    assert not any("teleport" in turn for turn in plain.example)


@pytest.mark.parametrize("name", ["teleport", "teleport-open", "doors"])
def test_worked_examples_are_real_episodes(session: EngineSession, name: str) -> None:
    recorded = load_examples()[name]
    task, variation = split_id(recorded["task_id"])
    session.load(task, variation, expand(recorded["simplification"], task))
    observation = f"{session.task_description()}\n{session.look()}"
    for turn in recorded["turns"]:
        assert turn["observation"] == observation
        result = session.step(turn["action"])
        observation = result.observation
    assert (result.score, result.completed) == (1.0, True)
    assert len(worked_example(name)) == 2 * len(recorded["turns"])


@pytest.mark.parametrize("letter", ["\u03a3", "\u0130", "a\u03a3 "])
def test_no_letter_is_slow_to_write_in_lower_case(session: EngineSession, letter: str) -> None:
    """At this length Java takes minutes for it, and the other episodes of its JVM wait."""
    session.load("boil", 0, "easy")
    unknown = session.step("xyzzy").observation
    began = time.monotonic()
    assert session.step(letter * 60_000).observation == unknown
    assert time.monotonic() - began < 60


def test_commands_of_the_instruction_exist(session: EngineSession) -> None:
    """Every form of command that the instruction offers is known to the engine."""
    session.load("test-conductivity", 0, "easy")
    for action in (
        "teleport to kitchen",
        "go to hallway",
        "teleport to kitchen",
        "look around",
        "look at stove",
        "look in sink",
        "examine stove",
        "open cupboard",
        "close cupboard",
        "pick up thermometer",
        "use thermometer on stove",
        "put down thermometer",
        "inventory",
        "move thermometer to sink",
        "pour glass cup into sink",
        "dunk glass cup in sink",
        "mix glass cup",
        "activate stove",
        "deactivate stove",
        "wait1",
        "wait",
        "task",
        "eat orange",
        "read picture",
        "flush stove",
        "teleport to workshop",
        "disconnect battery",
        "connect battery anode to battery cathode",
    ):
        answer = session.step(action).observation
        assert "No known action" not in answer, action


def test_asking_changes_nothing(warm_lane: EngineSession) -> None:
    """The list of admissible actions, look and inventory have no influence on the episode."""
    task = "identify-life-stages-2/6"  # its bees make the engine draw names at random
    plan = (
        "pick up bee hive",
        "teleport to foundry",
        "open bee hive",
        "wait1",
        "pick up adult bee",
    )
    records = []
    for asking in (False, True):
        env = ScienceWorldEnv(lanes=1, admissible_actions=asking)
        observation, _ = env.reset(options={"task": task})
        record = [observation]
        for action in plan:
            record.append(env.step(action)[0])
            if asking:
                assert env.valid_actions() == env.valid_actions()
                env.look()
                env.inventory()
                env.goal_progress()
        records.append(record)
        env.close()
    assert records[0] == records[1]


def test_a_snapshot_that_cannot_be_reached_is_refused(env: ScienceWorldEnv) -> None:
    env.reset(options={"task": "chemistry-mix-paint-secondary-color/2"})
    env.step(PAINT[0])
    state = json.loads(json.dumps(eto_gym.get_state(env)))
    state["env"]["engine"]["score"] = 0.9
    with pytest.raises(EngineError, match="replaying"):
        eto_gym.set_state(env, state)


def test_the_card_names_engine_and_flags(env: ScienceWorldEnv) -> None:
    card = env.card()
    assert card["engine_version"] == "1.2.3"
    assert "-XX:hashCode=2" in card["jvm_flags"]
    assert (card["split_scheme"], card["simplification"]) == ("official", "easy")


@pytest.fixture(scope="module")
def fuzzed(warm_lane: EngineSession) -> Any:
    env = ScienceWorldEnv(lanes=1)
    env.reset(options={"task": "test-conductivity/3"})
    yield env
    env.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(action=st.one_of(st.text(), st.text(alphabet="abcdegilmnopqrtu ()0123456789\n\t")))
def test_no_text_makes_step_raise(fuzzed: ScienceWorldEnv, action: str) -> None:
    observation, reward, terminated, truncated, info = fuzzed.step(action)
    assert isinstance(observation, str)
    assert reward >= 0
    assert "error" not in info
    if terminated or truncated:
        fuzzed.reset(options={"task": "test-conductivity/3"})


def test_random_words_on_random_tasks(warm_lane: EngineSession) -> None:
    """Sentences of the world's own words reach much further into the engine than noise does."""
    rng = random.Random(5)
    env = ScienceWorldEnv(lanes=1)
    for name in rng.sample(task_names(), 4):
        env.reset(options={"task": f"{name}/{rng.randrange(10)}"})
        verbs = (
            "open",
            "pick up",
            "move",
            "focus on",
            "use",
            "go to",
            "pour",
            "",
            "connect",
            "mix",
        )
        for _ in range(15):
            words = [w.strip(".,:()") for w in env.look().split()]
            text = f"{rng.choice(verbs)} {rng.choice(words)} {rng.choice(('to', 'on', 'in', ''))}"
            *_, terminated, truncated, info = env.step(f"{text} {rng.choice(words)}")
            assert "error" not in info, (name, text)
            if terminated or truncated:
                break
    env.close()
