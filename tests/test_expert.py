from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eto_gym.expert import Adviser, Coach, Reply


class Script:
    """Says its actions one after the other, whatever it sees, and gives up after the last."""

    def __init__(self, actions: Iterable[str]) -> None:
        self._actions = iter(actions)
        self.heard: list[str] = []

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        self.heard.append(observation)
        action = next(self._actions, None)
        return None if action is None else Reply("", action)


class Watcher(Script):
    def __init__(self) -> None:
        super().__init__(())
        self.seen: list[tuple[str | None, str]] = []

    def observe(self, action: str | None, observation: str) -> None:
        self.seen.append((action, observation))

    def advise(self) -> Reply | None:
        return Reply("", f"after {len(self.seen)}")


def said(reply: Reply | None) -> str | None:
    return None if reply is None else reply.action


def test_an_expert_goes_on_while_what_it_says_is_done_and_is_made_anew_where_not() -> None:
    made: list[Script] = []

    def make() -> Script:
        made.append(Script(["a", "b"]))
        return made[-1]

    adviser = Adviser(make)
    adviser.observe(None, "0")
    assert said(adviser.advise({})) == "a"
    adviser.observe("a", "1")
    assert said(adviser.advise({})) == "b"
    assert made[0].heard == ["0", "1"]
    adviser.observe("x", "2")
    assert said(adviser.advise({})) == "a"
    assert [script.heard for script in made] == [["0", "1"], ["2"]]
    assert said(adviser.advise({})) == "a"  # again at the same step: it has not been done
    adviser.observe(None, "no action in that")  # the state stays, and so does the advice
    assert said(adviser.advise({})) == "a"
    adviser.observe("a", "3")
    assert said(adviser.advise({})) == "b"
    adviser.observe("b", "4")
    assert said(adviser.advise({})) is None


def test_an_expert_that_gave_up_is_not_asked_for_more_than_it_says() -> None:
    adviser = Adviser(lambda: Script([]))
    adviser.observe(None, "0")
    assert said(adviser.advise({})) is None
    adviser.observe("x", "1")
    assert said(adviser.advise({})) is None


def test_a_coach_is_told_of_every_step_and_made_once() -> None:
    made: list[Watcher] = []

    def make() -> Watcher:
        made.append(Watcher())
        return made[-1]

    adviser = Adviser(make)
    for step, action in enumerate((None, "x", None, "y"), start=1):
        adviser.observe(action, "seen")
        assert said(adviser.advise({})) == f"after {step}"
    [watcher] = made
    assert isinstance(watcher, Coach)
    assert not isinstance(Script([]), Coach)
    assert [action for action, _ in watcher.seen] == [None, "x", None, "y"]
