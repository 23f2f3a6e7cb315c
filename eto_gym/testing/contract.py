"""Checks of the text-environment contract, for our own environments and for anyone's.

Subclass `TextEnvContract` in a test module and implement `make_env`; pytest runs each rule as a
test of its own, named after the rule.

    class TestMyEnv(TextEnvContract):
        def make_env(self, **kwargs):
            return gym.make("Mine/Text-v0", **kwargs)
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np

from eto_gym.env import text_env
from eto_gym.errors import EtoGymError, UnknownNameError
from eto_gym.snapshot import get_state, set_state
from eto_gym.spaces import UnicodeText

ODD_ACTIONS = (
    "",
    " ",
    "\n",
    "no such action",
    "go to " * 500,
    "[]",
    "search[",
    "click[]",
    "search[[]]",
    "a\x00b",
    "\ud800",
    "日本語 😀 é",
    "{obj} %s %(x)s {0}",
    '"; drop table tasks; --',
    "../../etc/passwd",
    "<script>alert(1)</script>",
)
"""Strings that untrusted text may well hold; every environment must take them as actions."""

TextGymEnv = gym.Env[str, str]


def play(
    env: TextGymEnv, *, seed: int, steps: int, task: str | int | None = None
) -> list[tuple[str, float, bool, bool, dict[str, Any]]]:
    """Play random admissible actions and return what every call answered, the reset first."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed, options=None if task is None else {"task": task})
    record = [(observation, 0.0, False, False, dict(info))]
    for _ in range(steps):
        record.append(random_step(env, rng, info))
        *_, terminated, truncated, info = record[-1]
        if terminated or truncated:
            break
    return record


def random_step(
    env: TextGymEnv, rng: np.random.Generator, info: dict[str, Any]
) -> tuple[str, float, bool, bool, dict[str, Any]]:
    """Take one uniformly drawn admissible action; slots such as `<query>` are left as they are."""
    actions = info["admissible_actions"]
    action = actions[int(rng.integers(len(actions)))] if actions else ""
    observation, reward, terminated, truncated, info = env.step(action)
    return observation, float(reward), terminated, truncated, dict(info)


def _answers(env: TextGymEnv, state: dict[str, Any]) -> list[Any]:
    """Return what some actions are answered from a state, but for the end of its time."""
    rng = np.random.default_rng(2)
    set_state(env, state)
    answers: list[Any] = []
    info = text_env(env)._full_info()
    for _ in range(3):
        observation, reward, terminated, _, info = random_step(env, rng, info)
        answers.append((observation, reward, terminated, text_env(env).state_key()))
        if terminated:
            break
    return answers


class TextEnvContract:
    """The rules that every text environment keeps, one test method each."""

    play_steps = 12
    """Steps of random play in the tests that play; fewer for a slow engine."""

    def make_env(self, **kwargs: Any) -> TextGymEnv:
        """Make the environment under test; takes `admissible_actions` and `render_mode`."""
        raise NotImplementedError

    def _closing(self, **kwargs: Any) -> _Closing:
        return _Closing(self.make_env(**kwargs))

    def test_spaces_are_unicode_text(self) -> None:
        """Both spaces hold any string."""
        with self._closing() as env:
            assert isinstance(env.observation_space, UnicodeText)
            assert isinstance(env.action_space, UnicodeText)

    def test_reset_and_step_return_the_documented_types(self) -> None:
        """Observation str, reward float, flags bool, info with the documented keys."""
        with self._closing() as env:
            observation, info = env.reset(seed=0)
            self._check_observation_and_info(env, observation, info)
            observation, reward, terminated, truncated, info = env.step("no such action")
            self._check_observation_and_info(env, observation, info)
            assert type(reward) is float
            assert type(terminated) is bool
            assert type(truncated) is bool

    def _check_observation_and_info(
        self, env: TextGymEnv, observation: str, info: dict[str, Any]
    ) -> None:
        assert type(observation) is str
        assert env.observation_space.contains(observation)
        assert isinstance(info["task_id"], str)
        assert isinstance(info["task_type"], str)
        assert type(info["score"]) is float
        assert type(info["success"]) is bool
        assert "admissible_actions" not in info, "admissible actions come only on request"
        instruction = text_env(env).prompt().instruction
        assert all(value != instruction for value in info.values()), "prompt text in info"

    def test_same_seed_same_episode(self) -> None:
        """A seed fixes the task and everything that follows."""
        with (
            self._closing(admissible_actions=True) as a,
            self._closing(admissible_actions=True) as b,
        ):
            first = play(a, seed=7, steps=self.play_steps)
            assert first == play(b, seed=7, steps=self.play_steps)
            assert first == play(a, seed=7, steps=self.play_steps), "an earlier episode leaks"

    def test_seeds_draw_different_tasks(self) -> None:
        """Without the option, tasks are drawn from the split by the seed."""
        with self._closing() as env:
            if len(text_env(env).task_set) < 20:
                return
            assert len({env.reset(seed=seed)[1]["task_id"] for seed in range(6)}) > 1

    def test_task_option_selects_by_id_and_by_index(self) -> None:
        """The task option takes an id or an index, and sticks for that episode only."""
        with self._closing() as env:
            task_set = text_env(env).task_set
            wanted = task_set[min(3, len(task_set) - 1)].id
            first, info = env.reset(seed=1, options={"task": wanted})
            assert info["task_id"] == wanted
            assert env.reset(seed=2, options={"task": wanted})[0] == first

    def test_unknown_task_and_option_are_refused(self) -> None:
        """A wrong task names a close one; a misspelt option is not swallowed."""
        with self._closing() as env:
            known = text_env(env).task_set[0].id
            env.reset(seed=0)
            for options in ({"task": known + "~"}, {"taks": known}, {"task": 10**9}):
                try:
                    env.reset(options=options)
                except UnknownNameError as err:
                    assert "expected" in str(err)  # noqa: PT017
                else:
                    raise AssertionError(f"reset took {options}")

    def test_any_string_is_a_legal_action(self) -> None:
        """No text makes `step` raise, and the episode can go on."""
        with self._closing() as env:
            env.reset(seed=0)
            for action in ODD_ACTIONS:
                observation, reward, terminated, truncated, _ = env.step(action)
                assert isinstance(observation, str)
                assert np.isfinite(float(reward))
                if terminated or truncated:
                    env.reset(seed=0)

    def test_admissible_actions_are_sorted_and_on_request(self) -> None:
        """The list is sorted, without repeats, and made of strings."""
        with self._closing(admissible_actions=True) as env:
            for *_, info in play(env, seed=3, steps=self.play_steps):
                actions = info["admissible_actions"]
                assert actions == sorted(set(actions))
                assert all(isinstance(action, str) for action in actions)

    def test_step_before_reset_is_refused(self) -> None:
        """The error is clear and not an engine's."""
        with self._closing() as env:
            try:
                text_env(env).step("look")
            except EtoGymError:
                return
            raise AssertionError("step before reset was taken")

    def test_step_limit_truncates(self) -> None:
        """`max_episode_steps` ends an episode by truncation, not termination."""
        with self._closing(max_episode_steps=3) as env:
            env.reset(seed=0)
            ends = [env.step("no such action")[2:4] for _ in range(3)]
            assert ends == [(False, False), (False, False), (False, True)]

    def test_snapshot_forks_an_episode(self) -> None:
        """A snapshot, sent through JSON, replays the same future, twice and in another copy."""
        with (
            self._closing(admissible_actions=True) as env,
            self._closing(admissible_actions=True) as other,
        ):
            play(env, seed=5, steps=4)
            state = json.loads(json.dumps(get_state(env)))
            futures = []
            other.reset(seed=11)
            for target in (env, other, env):
                set_state(target, state)
                rng = np.random.default_rng(0)
                info = text_env(target)._full_info()
                future = []
                for _ in range(self.play_steps):
                    future.append(random_step(target, rng, info))
                    *_, terminated, truncated, info = future[-1]
                    if terminated or truncated:
                        break
                futures.append(future)
            assert futures[0] == futures[1] == futures[2]

    def test_state_key_names_the_state(self) -> None:
        """States with one key answer alike, in another copy too; asking changes nothing."""
        with (
            self._closing(admissible_actions=True) as env,
            self._closing(admissible_actions=True) as other,
        ):
            rng = np.random.default_rng(0)
            _, info = env.reset(seed=5)
            other.reset(seed=11)
            states: dict[str, list[Any]] = {}
            for _ in range(self.play_steps):
                state = json.loads(json.dumps(get_state(env)))
                key = text_env(env).state_key()
                assert type(key) is str
                assert key == text_env(env).state_key()
                set_state(other, state)
                assert text_env(other).state_key() == key
                assert json.loads(json.dumps(get_state(env))) == state, "asking changed the state"
                states.setdefault(key, []).append(state)
                *_, terminated, truncated, info = random_step(env, rng, dict(info))
                if terminated or truncated:
                    break
            for same in states.values():
                for state in same[1:]:
                    assert _answers(env, state) == _answers(other, same[0])

    def test_steps_to_go_and_milestones_are_sound(self) -> None:
        """`cost_to_go` is None or a count, 0 exactly at success; `milestones` in 0..1, 1 there."""
        with self._closing(admissible_actions=True) as env:
            rng = np.random.default_rng(1)
            _, info = env.reset(seed=6)
            info = dict(info)
            for _ in range(self.play_steps):
                before = json.loads(json.dumps(get_state(env)))
                left, share = text_env(env).cost_to_go(), text_env(env).milestones()
                assert json.loads(json.dumps(get_state(env))) == before, "asking changed the state"
                assert left is None or (type(left) is int and left >= 0)
                assert type(share) is float
                assert 0.0 <= share <= 1.0
                if left is not None:
                    assert (left == 0) == info["success"]
                assert share == 1.0 or not info["success"]
                *_, terminated, truncated, info = random_step(env, rng, info)
                if terminated or truncated:
                    break

    def test_reset_after_the_end_and_close_twice(self) -> None:
        """An ended episode can be reset, and closing twice does no harm."""
        env = self.make_env(max_episode_steps=1)
        env.reset(seed=0)
        env.step("no such action")
        env.reset(seed=0)
        env.close()
        env.close()

    def test_render_ansi_shows_the_observation(self) -> None:
        """Render mode "ansi" returns the last observation."""
        with self._closing(render_mode="ansi") as env:
            observation, _ = env.reset(seed=0)
            assert env.render() == observation

    def test_card_is_json(self) -> None:
        """The card says which benchmark and split was run."""
        with self._closing() as env:
            card = text_env(env).card()
            assert json.loads(json.dumps(card)) == card
            assert {"benchmark", "split"} <= set(card)

    def test_prompt_is_complete(self) -> None:
        """There is an instruction that names the reply format, and a worked example in turns."""
        with self._closing() as env:
            prompt = text_env(env).prompt()
            assert "Thought:" in prompt.instruction
            assert "Action:" in prompt.instruction
            assert len(prompt.example) >= 2

    def test_spec_pickles(self) -> None:
        """The spec of a made environment can be sent to another process."""
        with self._closing() as env:
            assert env.spec is not None
            assert pickle.loads(pickle.dumps(env.spec)) == env.spec  # noqa: S301


class _Closing:
    """Closes the environment when the block ends."""

    def __init__(self, env: TextGymEnv) -> None:
        self.env = env

    def __enter__(self) -> TextGymEnv:
        return self.env

    def __exit__(self, *exc_info: object) -> None:
        self.env.close()
