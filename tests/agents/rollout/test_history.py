"""What a policy reads with each history setting, and that training takes up exactly that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest

import eto_gym
from eto_gym import EtoGymError
from eto_gym.agents.policies import expert_policy
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.agents.rollout.engine import Rollout, plan_episodes
from eto_gym.agents.rollout.slot import Episode
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import DataError
from eto_gym.history import (
    OMISSION,
    TOLD_BELOW,
    WHOLE,
    Recap,
    StateWriter,
    as_sampled,
    bounded,
    check_history,
)
from eto_gym.prompt import Message
from eto_gym.trajectories import Trajectory
from tests.agents.rollout.coin import TASKS, CoinPolicy
from tests.toy import CorridorEnv, make_corridor

HISTORIES = ("full", "last:1", "last:3", "state", "state:1")


class DoorCount(Recap):
    def __init__(self, first: str) -> None:
        super().__init__(first)
        self.seen = 0

    def _update(self, action: str, observation: str) -> None:
        self.seen += observation.startswith("You are at")

    def _write(self) -> str:
        return f"Doors passed: {self.seen}."


class CountedEnv(CorridorEnv):
    """Its state block says how many doors were passed."""

    def state_writer(self) -> StateWriter:
        return DoorCount


def make_counted() -> gym.Env[str, str]:
    return CountedEnv(max_episode_steps=8)


class Reader:
    """Answers as another policy does, and notes what it is given to read."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.name = policy, policy.name
        self.needs_env = getattr(policy, "needs_env", False)
        self.read: dict[str, list[tuple[Message, ...]]] = {}

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        for c in conversations:
            self.read.setdefault(c.key, []).append(tuple(c.messages))
        return list(self.policy.act(conversations))

    def release(self, key: str) -> None:
        self.policy.release(key)


class TurnCoin(CoinPolicy):
    """Goes or opens by the seed and the place in the whole conversation."""

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        words = ("go", "open", "dance", "go")
        return [PolicyReply(f"Action: {words[(c.seed >> c.position) & 3]}") for c in conversations]


def play(history: str, **options: Any) -> tuple[dict[str, Trajectory], Reader]:
    reader = Reader(TurnCoin())
    make_env = options.pop("make_env", make_counted)
    rollout = Rollout(
        make_env, reader, slots=4, prompt_style="instruction", history=history, **options
    )
    played = rollout.play(plan_episodes(TASKS, seed=1))
    return {f"{t.task_id}#{t.sample}": t for t in played}, reader


def read_in_training(trajectory: Trajectory) -> list[tuple[list[tuple[str, str]], str]]:
    """List, for every trained reply, what stands before it in training, and the reply."""
    found = []
    for row in trajectory.as_sampled():
        for place, message in enumerate(row):
            if message.train:
                before: list[tuple[str, str]] = [(m.role, m.content) for m in row[:place]]
                found.append((before, message.content))
    return found


def check_training(played: dict[str, Trajectory], reader: Reader) -> None:
    for key, trajectory in played.items():
        trained = read_in_training(trajectory)
        said = [m.content for m in trajectory.messages if m.train]
        assert [reply for _, reply in trained] == said
        read = [[(m.role, m.content) for m in prompt] for prompt in reader.read[key]]
        assert [before for before, _ in trained] == read
        again = Trajectory.from_json(json.loads(json.dumps(trajectory.to_json())))
        assert again == trajectory


@pytest.mark.parametrize("history", HISTORIES)
def test_what_is_trained_is_what_was_read(history: str) -> None:
    played, reader = play(history)
    check_training(played, reader)
    assert {t.history for t in played.values()} == {history}
    assert any(t.states for t in played.values()) == history.startswith("state")


@pytest.mark.parametrize("history", HISTORIES[1:])
def test_a_bounded_history_changes_nothing_but_what_is_read(history: str) -> None:
    full, everything = play("full")
    short, reader = play(history)
    assert {k: replace(t, history="full", states=()) for k, t in short.items()} == full
    exchanges = check_kept(history)
    for key, prompts in reader.read.items():
        for turn, (read, whole) in enumerate(zip(prompts, everything.read[key], strict=True)):
            state = short[key].states[turn] if short[key].states else ""
            assert read == bounded(whole, 2, history, state)
            assert len(read) == 3 + 2 * min(turn, exchanges)
            assert read[2].content.endswith(OMISSION) == (turn > exchanges)
            assert not state or read[-1].content.endswith(f"\n\n{state}")


def test_a_block_that_tells_the_first_observation_stands_for_it() -> None:
    talk = [Message("user", "task")]
    for turn in "abc":
        talk += [Message("assistant", turn), Message("user", turn.upper())]
    assert bounded(talk, 0, "state:1", f"{WHOLE} all")[0].content == TOLD_BELOW
    assert bounded(talk, 0, "state:1", "So far: some")[0].content == "task" + OMISSION
    assert bounded(talk, 0, "state:3", f"{WHOLE} all")[0] == talk[0]  # nothing is left out


def check_kept(history: str) -> int:
    assert check_history(history) == history
    return int(history.partition(":")[2] or 2)


@pytest.mark.parametrize("history", ["last:2", "state"])
def test_worker_processes_and_snapshots_give_the_same_prompts(history: str) -> None:
    played, _ = play(history)
    apart, reader = play(history, env_workers=1)
    assert apart == played
    check_training(apart, reader)

    env = ConversationEnv(make_counted(), prompt_style="instruction", history=history)
    assert list(env.prompt) == []
    env.reset(options={"task": TASKS[3]})
    for _ in range(3):
        env.step("Action: dance")
    assert bounded(env.conversation, 2, history, "") != env.conversation
    state = eto_gym.get_state(env)
    other = ConversationEnv(make_counted(), prompt_style="instruction", history=history)
    eto_gym.set_state(other, state)
    assert other.prompt == env.prompt
    going_on = Reader(TurnCoin())
    rollout = Rollout(make_counted, going_on, prompt_style="instruction", history=history)
    (trajectory,) = rollout.play([Episode(TASKS[3], 0, 1, state=state)])
    assert going_on.read[f"{TASKS[3]}#0"][0] == env.prompt
    trained = read_in_training(trajectory)
    assert len(trained) == trajectory.step_count
    assert trained[3][0] == [(m.role, m.content) for m in env.prompt]


def test_without_a_writer_state_is_the_task_and_the_last_exchanges() -> None:
    plain, reader = play("state", make_env=make_corridor)
    check_training(plain, reader)
    _, last = play("last:2", make_env=make_corridor)
    assert reader.read == last.read


def test_the_prompt_of_an_ended_episode_is_that_of_its_last_reply() -> None:
    env = ConversationEnv(make_counted(), prompt_style="none", history="state:1")
    env.reset(options={"task": 0})
    env.step("Action: go")
    before = env.prompt
    env.step("Action: open")
    assert env.prompt == before


@pytest.mark.parametrize("history", ["full", "last:2", "state"])
@pytest.mark.parametrize("env_id", ["ETO/ALFWorld-v0", "ETO/WebShop-v0"])
def test_benchmarks_train_what_was_read(env_id: str, history: str) -> None:
    reader = Reader(expert_policy())
    env = gym.make(env_id)
    tasks = [env.unwrapped.task_set[i].id for i in range(3)]  # type: ignore[attr-defined]
    env.close()
    rollout = Rollout(lambda: gym.make(env_id), reader, slots=2, history=history)
    played = {f"{t.task_id}#0": t for t in rollout.play(plan_episodes(tasks))}
    assert all(t.success for t in played.values())
    check_training(played, reader)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "last",
        "last:0",
        "last:-1",
        "last:x",
        "LAST:2",
        "last:\u0663",
        "state:0",
        "state:",
        "last:2 ",
    ],
)
def test_an_unknown_history_is_refused(wrong: str) -> None:
    with pytest.raises(EtoGymError, match="expected history"):
        Rollout(make_corridor, CoinPolicy(), history=wrong)
    with pytest.raises(EtoGymError, match="expected history"):
        ConversationEnv(make_corridor(), history=wrong)


def test_earlier_thoughts_are_left_out_where_that_is_asked_for() -> None:
    env = ConversationEnv(make_corridor(), history="last:1-thoughts", prompt_style="none")
    env.reset(options={"task": "door-3/3"})
    for _ in range(2):
        env.step("<think>Action: open</think>\n\nAction: go")
        assert env.prompt[-2].content == "Action: go"
        assert env.conversation[-2].content.startswith("<think>")
    assert len(env.prompt) == 3
    rows = as_sampled(env.conversation, 0, "full-thoughts")
    assert [[m.content[:8] for m in row if m.role == "assistant"] for row in rows] == [
        ["<think>A"],
        ["Action: ", "<think>A"],
    ]
    assert as_sampled(env.conversation, 0, "full") == [env.conversation[:-1]]


def test_damaged_records_are_refused() -> None:
    played, _ = play("last:1")
    trajectory = next(iter(played.values()))
    for wrong in (
        {"history": "none"},
        {"states": "a" * trajectory.step_count},
        {"states": ["a"] * 99},
    ):
        with pytest.raises(DataError):
            Trajectory.from_json({**trajectory.to_json(), **wrong})
