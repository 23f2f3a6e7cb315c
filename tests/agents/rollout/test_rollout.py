"""The rollout engine: scheduling, failures, threads and streaming policies."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import pytest

from eto_gym import EngineError, EtoGymError, UnknownNameError
from eto_gym.agents.policies import expert_policy
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.agents.rollout.engine import Episode, RetryPolicy, Rollout, plan_episodes
from eto_gym.errors import DataError
from eto_gym.trajectories import Trajectory
from tests.agents.rollout.coin import TASKS, CoinPolicy
from tests.toy import CorridorEnv, LanedCorridorEnv, make_corridor


def play(policy: Any, slots: int, episodes: Sequence[Episode]) -> dict[Any, Trajectory]:
    rollout = Rollout(make_corridor, policy, slots=slots, prompt_style="none")
    return {trajectory.key: trajectory for trajectory in rollout.play(episodes)}


def test_results_do_not_depend_on_slots_or_order() -> None:
    episodes = plan_episodes(TASKS, samples=3, seed=1)
    one = play(CoinPolicy(), 1, episodes)
    assert len(one) == len(episodes) == 72
    assert one == play(CoinPolicy(), 7, episodes) == play(CoinPolicy(), 500, episodes[::-1])
    assert len({t.success for t in one.values()}) == 2
    assert one[TASKS[0], 0].usage["decoded_tokens"] == 2 * len(one[TASKS[0], 0].steps)


def test_slots_are_refilled_at_once() -> None:
    policy = CoinPolicy()
    play(policy, 8, plan_episodes(TASKS, seed=2))
    assert policy.batches[0] == 8
    busy = [size for size in policy.batches[:-8] if size == 8]
    assert len(busy) >= len(policy.batches[:-8]), "a slot waited although tasks were left"
    assert not policy.live, "an episode was never released"


def test_expert_policy_solves_the_toy() -> None:
    results = play(expert_policy(), 5, plan_episodes(TASKS))
    assert all(t.success and t.reward == 1.0 for t in results.values())
    sample = results["door-2/2", 0]
    assert [s.action for s in sample.steps] == ["go", "go", "open"]
    assert (sample.policy, sample.env["benchmark"]) == ("expert", "corridor")


def test_replies_cut_in_their_reasoning_are_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Thinking(CoinPolicy):
        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            cut = "<think>Perhaps\nAction: go"
            whole = "<think>Action: go</think>\nAction: open"
            return [PolicyReply(cut if len(c.messages) < 5 else whole) for c in conversations]

    results = play(Thinking(), 2, plan_episodes(TASKS[:4]))
    for trajectory in results.values():
        assert [s.action for s in trajectory.steps[:3]] == [None, None, "open"]
        assert trajectory.usage["cut_in_reasoning"] == 2
    assert sum("max_new_tokens" in record.message for record in caplog.records) == 1


def test_replies_cut_at_their_limit_and_a_servers_reasoning_are_recorded() -> None:
    replies = [
        PolicyReply("", truncated=True, reasoning="Perhaps"),
        PolicyReply("Thought: I would", truncated=True),
        PolicyReply("Well."),
        PolicyReply("Action: open\nand so", truncated=True, reasoning="Surely"),
    ]

    class Cut(CoinPolicy):
        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            return [replies[sum(m.train for m in c.messages) % 4] for c in conversations]

    (trajectory,) = play(Cut(), 1, plan_episodes(TASKS[:1])).values()
    assert trajectory.usage["cut_in_reasoning"] == trajectory.usage["cut_before_action"]
    assert trajectory.usage["cut_in_reasoning"] == len(trajectory.reasoning[::4])
    assert trajectory.reasoning[:4] == ("Perhaps", "", "", "Surely")[: trajectory.step_count]
    assert Trajectory.from_json(json.loads(json.dumps(trajectory.to_json()))) == trajectory
    plain = replace(trajectory, reasoning=())
    assert "reasoning" not in plain.to_json()
    assert Trajectory.from_json(plain.to_json()) == plain
    for wrong in ("abcd", ["a"], [1] * trajectory.step_count):
        with pytest.raises(DataError, match="reasoning"):
            Trajectory.from_json({**plain.to_json(), "reasoning": wrong})


def test_a_policy_failure_is_recorded_and_spares_the_others() -> None:
    policy = CoinPolicy(fail_on=TASKS[3])
    results = play(policy, 1, plan_episodes(TASKS[:6]))
    assert [t.error for t in results.values()] == [None, None, None, "policy", None, None]
    assert not results[TASKS[3], 0].success


def test_a_policy_that_always_fails_stops_the_rollout() -> None:
    class Broken(CoinPolicy):
        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            raise RuntimeError("out of memory")

    with pytest.raises(EtoGymError, match="out of memory"):
        play(Broken(), 2, plan_episodes(TASKS))


class BreakingEnv(CorridorEnv):
    """Breaks on one task, in `reset` or in `step`."""

    def _reset(self, task: Any, options: Any) -> str:
        if task.id == TASKS[1]:
            raise EngineError("no start")
        return super()._reset(task, options)

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        if self.task.id == TASKS[2]:
            raise RuntimeError("engine broke")
        return super()._step(action)


def test_an_environment_failure_is_recorded_and_its_environment_replaced() -> None:
    made = []

    def make() -> gym.Env[str, str]:
        made.append(BreakingEnv(max_episode_steps=8))
        return made[-1]

    rollout = Rollout(
        make, expert_policy(), slots=1, prompt_style="none", retry=RetryPolicy(attempts=1)
    )
    results = list(rollout.play(plan_episodes(TASKS[:4])))
    assert [t.error for t in results] == [None, "environment", "environment", None]
    assert len(made) == 3


def test_an_unknown_task_is_the_callers_error() -> None:
    with pytest.raises(UnknownNameError, match="door"):
        play(CoinPolicy(), 2, plan_episodes(["no-such-task"]))


def test_a_retried_episode_differs_in_nothing_but_its_count() -> None:
    class BreaksOnce(CorridorEnv):
        broken: ClassVar[set[str]] = set()

        def _step(self, action: str) -> tuple[str, float, bool, bool]:
            if self.task.id in TASKS[:3] and self.task.id not in self.broken:
                self.broken.add(self.task.id)
                raise EngineError("now and then")
            return super()._step(action)

    episodes = plan_episodes(TASKS[:6], seed=5)
    rollout = Rollout(
        lambda: BreaksOnce(max_episode_steps=8), CoinPolicy(), slots=4, prompt_style="none"
    )
    results = list(rollout.play(episodes))
    assert sorted(t.key for t in results) == sorted(e.key for e in episodes), "one each"
    plain = play(CoinPolicy(), 4, episodes)
    for result in results:
        expected = plain[result.key]
        if result.task_id in TASKS[:3]:
            expected = replace(expected, usage={**expected.usage, "failed_attempts": 1})
        assert result == expected


def test_attempts_and_kinds_bound_the_retries() -> None:
    tries: list[str] = []

    class Flaky(CoinPolicy):
        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            tries.extend(c.info["task_id"] for c in conversations)
            kind: Any = "timeout" if conversations[0].info["task_id"] == TASKS[0] else "context"
            return [PolicyReply("", error=kind) for _ in conversations]

    retry = RetryPolicy(attempts=4, kinds=frozenset({"timeout"}))
    rollout = Rollout(make_corridor, Flaky(), slots=1, prompt_style="none", retry=retry)
    results = {t.task_id: t for t in rollout.play(plan_episodes(TASKS[:2]))}
    assert (tries.count(TASKS[0]), tries.count(TASKS[1])) == (4, 1)
    assert results[TASKS[0]].usage == {"failed_attempts": 3}
    assert [results[name].error for name in TASKS[:2]] == ["timeout", "context"]


def test_a_bad_conversation_is_found_in_its_batch() -> None:
    results = play(CoinPolicy(fail_on=TASKS[3]), 16, plan_episodes(TASKS, seed=1))
    assert [key[0] for key, t in results.items() if t.failed_to_run] == [TASKS[3]]
    plain = play(CoinPolicy(), 16, plan_episodes(TASKS, seed=1))
    assert all(results[key] == plain[key] for key in plain if key[0] != TASKS[3])


@pytest.mark.parametrize("wrong", [lambda r: r[:-1], lambda r: [None, *r[1:]], lambda r: r * 2])
def test_what_is_no_reply_is_an_error_of_its_own_kind(wrong: Any) -> None:
    class Sloppy(CoinPolicy):
        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            replies = super().act(conversations)
            bad = any(c.info["task_id"] == TASKS[2] for c in conversations[:1])
            return wrong(replies) if bad else replies

    results = play(Sloppy(), 1, plan_episodes(TASKS[:5], seed=1))
    assert {key[0]: t.error for key, t in results.items() if t.error} == {TASKS[2]: "format"}


@pytest.mark.parametrize("lanes", [1, 3])
def test_threads_change_no_result(lanes: int) -> None:
    numbers = itertools.cycle(range(lanes))
    threads = set()

    class Laned(LanedCorridorEnv):
        def _step(self, action: str) -> tuple[str, float, bool, bool]:
            threads.add(threading.current_thread())
            return super()._step(action)

    episodes = plan_episodes(TASKS, samples=2, seed=1)
    rollout = Rollout(
        lambda: Laned(lane=next(numbers), max_episode_steps=8),
        CoinPolicy(),
        slots=7,
        prompt_style="none",
    )
    assert {t.key: t for t in rollout.play(episodes)} == play(CoinPolicy(), 7, episodes)
    assert threading.main_thread() not in threads
    assert lanes <= len(threads) <= 2 * lanes


def test_the_policy_answers_while_a_slow_environment_steps() -> None:
    answered = threading.Event()
    numbers = itertools.count()

    class Waits(LanedCorridorEnv):
        def _step(self, action: str) -> tuple[str, float, bool, bool]:
            if self.task.id == TASKS[0] and self.position == 1:
                assert answered.wait(20), "the policy waited for the slow environment"
            return super()._step(action)

    class Policy(CoinPolicy):
        def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
            # Its second reply makes the slow one wait; whoever is answered after that frees it.
            if all(c.info["task_id"] != TASKS[0] for c in conversations):
                answered.set()
            return [PolicyReply("Action: go") for _ in conversations]

    rollout = Rollout(
        lambda: Waits(lane=next(numbers), max_episode_steps=8),
        Policy(),
        slots=3,
        prompt_style="none",
    )
    results = list(rollout.play(plan_episodes(TASKS[:3])))
    assert answered.is_set()
    assert [t.error for t in results] == [None] * 3


class Streaming(CoinPolicy):
    """Replies to each conversation by itself, and to the first task's when most others are over."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool = ThreadPoolExecutor(8)
        self.over = 0
        self.most_are_over = threading.Event()

    def release(self, key: str) -> None:
        super().release(key)
        self.over += 1
        if self.over >= len(TASKS) - 3:
            self.most_are_over.set()

    def submit(self, conversation: Conversation) -> Future[PolicyReply]:
        return self.pool.submit(self._reply, conversation)

    def _reply(self, conversation: Conversation) -> PolicyReply:
        if conversation.info["task_id"] == TASKS[0]:
            assert self.most_are_over.wait(60), "the others wait for it"
        return super().act([conversation])[0]


def test_streamed_replies_give_the_same_results_and_wait_for_nobody() -> None:
    episodes = plan_episodes(TASKS, seed=1)
    policy = Streaming(fail_on=TASKS[7])
    rollout = Rollout(make_corridor, policy, slots=5, prompt_style="none")
    results = list(rollout.play(episodes))
    plain = play(CoinPolicy(fail_on=TASKS[7]), 5, episodes)
    assert {t.key: t for t in results} == plain
    assert {t.task_id for t in results if t.error == "policy"} == {TASKS[7]}
    assert [t.task_id for t in results].index(TASKS[0]) > len(TASKS) - 5
    assert not policy.live


def test_a_streaming_policy_that_always_fails_stops_the_rollout() -> None:
    class Broken(Streaming):
        def submit(self, conversation: Conversation) -> Future[PolicyReply]:
            raise RuntimeError("no server")

    with pytest.raises(EtoGymError, match="no server"):
        play(Broken(), 3, plan_episodes(TASKS))


def test_closing_a_rollout_releases_and_closes_everything() -> None:
    closed = []

    class Closes(LanedCorridorEnv):
        def close(self) -> None:
            closed.append(self)

    policy = CoinPolicy()
    rollout = Rollout(
        lambda: Closes(lane=0, max_episode_steps=8), policy, slots=4, prompt_style="none"
    )
    playing = rollout.play(plan_episodes(TASKS))
    next(playing)
    playing.close()  # type: ignore[attr-defined]
    assert len(set(closed)) == len(closed) == 4
    assert not policy.live


class Wordy:
    """A policy that counts tokens, and is cut at every second reply."""

    name = "wordy"

    def __init__(self) -> None:
        self.asked = 0

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        self.asked += 1
        usage = {"prompt_tokens": 7, "decoded_tokens": 3}
        reply = PolicyReply("Action: heads", usage, truncated=self.asked % 2 == 0)
        return [reply] * len(conversations)

    def release(self, key: str) -> None:
        pass


@pytest.mark.parametrize("record", [False, True])
def test_what_is_known_of_each_reply_stands_with_its_step(record: bool) -> None:
    def make_env() -> gym.Env[str, str]:
        return gym.make("ETO/ALFWorld-v0", admissible_actions=True, max_episode_steps=3)

    rollout = Rollout(make_env, Wordy(), slots=1, record_admissible=record, record_seconds=record)
    task = make_env().unwrapped.task_set.ids[0]  # type: ignore[attr-defined]
    (played,) = rollout.play(plan_episodes([task]))
    assert [facts["finish"] for facts in played.facts] == ["stop", "length", "stop"]
    assert all(facts["decoded_tokens"] == 3 for facts in played.facts)
    assert all(facts.get("seconds", -1) >= 0 for facts in played.facts) is record
    assert all(facts["admissible"] is False for facts in played.facts)
    assert all(("look" in facts.get("admissible_actions", ())) is record for facts in played.facts)
    assert Trajectory.from_json(json.loads(json.dumps(played.to_json()))).facts == played.facts
