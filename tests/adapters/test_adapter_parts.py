"""What the adapters share, without the frameworks."""

from __future__ import annotations

import pytest

from eto_gym.adapters import first_tasks, result_so_far
from eto_gym.conversation import ConversationEnv
from eto_gym.env import text_env
from eto_gym.errors import EngineError, EtoGymError
from tests.toy import make_corridor


def test_a_limit_takes_the_first_tasks_and_leaves_out_none_in_silence() -> None:
    tasks = text_env(make_corridor()).task_set
    assert list(first_tasks(tasks, None)) == list(tasks)
    assert list(first_tasks(tasks, 2)) == list(tasks)[:2]
    for limit in (0, -1):
        with pytest.raises(EtoGymError, match="expected limit >= 1"):
            first_tasks(tasks, limit)


def test_an_episode_whose_engine_failed_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = make_corridor()
    env = ConversationEnv(inner, prompt_style="none")
    env.reset(seed=0)
    env.step("Action: go")
    assert result_so_far(env).steps == 1

    told = text_env(inner)._info
    monkeypatch.setattr(text_env(inner), "_info", lambda: {**told(), "error": "gone"})
    env.step("Action: go")
    with pytest.raises(EngineError, match="has no score"):
        result_so_far(env)
