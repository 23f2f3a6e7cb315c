"""The paper's expert trajectories as episodes of our tasks.

A record has an id of its own, the paper's instruction, and what was said after it. Here it becomes
an episode of the task that it was played on: the environment's own opening takes the place of the
paper's, so that it pairs with what an agent plays, and the first observation tells whether it is
that task.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import gymnasium as gym

from eto_gym.conversation import ConversationEnv, PromptStyle, parse_reply
from eto_gym.env import TextEnv, text_env
from eto_gym.errors import DataError
from eto_gym.prompt import Message
from eto_gym.tasks import Task
from eto_gym.trajectories.eto_files import PREFIX
from eto_gym.trajectories.formats import from_turns, read_records
from eto_gym.trajectories.record import Step, Trajectory

POLICY = "eto-expert"
"""The policy that these trajectories name."""

SCIENCEWORLD_TASKS = (
    "boil",
    "change-the-state-of-matter-of",
    "freeze",
    "melt",
    "measure-melting-point-known-substance",
    "measure-melting-point-unknown-substance",
    "use-thermometer",
    "power-component",
    "power-component-renewable-vs-nonrenewable-energy",
    "test-conductivity",
    "test-conductivity-of-unknown-substances",
    "find-animal",
    "find-living-thing",
    "find-non-living-thing",
    "find-plant",
    "grow-fruit",
    "grow-plant",
    "chemistry-mix",
    "chemistry-mix-paint-secondary-color",
    "chemistry-mix-paint-tertiary-color",
    "lifespan-longest-lived",
    "lifespan-longest-lived-then-shortest-lived",
    "lifespan-shortest-lived",
    "identify-life-stages-1",
    "identify-life-stages-2",
    "inclined-plane-determine-angle",
    "inclined-plane-friction-named-surfaces",
    "inclined-plane-friction-unnamed-surfaces",
    "mendelian-genetics-known-plant",
    "mendelian-genetics-unknown-plant",
)
"""ScienceWorld's tasks in the order in which the paper's ids number them, from 0."""

_BENCHMARKS = {"webshop": "webshop", "sciworld": "scienceworld", "alfworld": "alfworld"}
"""What the paper's files call a benchmark -> what the card of its environment does."""

_HINTS = {
    "webshop": "These experts shopped in the full official catalog (--data FOLDER of `eto-gym data "
    "build webshop`)",
    "sciworld": "These experts belong to the paper's splits (--env-arg split_scheme=eto)",
    "alfworld": "These experts played the official games (--data FOLDER of `eto-gym data download "
    "alfworld`), split train",
}
# They begin where a run of blanks, or a part of a path, does: each would be read anew from within.
_OBSERVATION = re.compile(r"(?<!\s)\s*Observation:\s*")
_TASK = re.compile(r"(?<!\s)\s*Task Description:\s*")
_GAME = re.compile(r"(?<![^/\s])[^/\s](?:[^/\s-]*-){3}[^/\s]*-\d+/trial_[^/\s]+")


@dataclass(slots=True)
class ExpertReport:
    """What became of the records.

    Attributes:
        records: Records in the file.
        taken: Records that are episodes of tasks of the environment.
        left_out: Reason -> count: "not_in_split" (the environment's split has no such task),
            "other_observation" (its first observation is another), "ambiguous" (several tasks
            begin and go on as the record does), "malformed" (not the form of these files).
        examples: Reason -> the ids of the first records that it concerned.
    """

    records: int = 0
    taken: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def leave_out(self, reason: str, record: Any) -> None:
        """Count a record that is not taken."""
        self.left_out[reason] += 1
        if len(self.examples[reason]) < 3:
            self.examples[reason].append(str(record.get("id")) if isinstance(record, dict) else "?")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        return {
            "records": self.records,
            "taken": self.taken,
            "left_out": dict(self.left_out),
            "examples": dict(self.examples),
        }

    def __str__(self) -> str:
        """Say it in one line."""
        told = ", ".join(
            f"{count} {reason.replace('_', ' ')} (such as {', '.join(self.examples[reason])})"
            for reason, count in self.left_out.items()
        )
        return f"{self.taken} of {self.records} expert records taken; left out: {told or 'none'}"


@dataclass(frozen=True, slots=True)
class _Record:
    """A record as far as it is understood: what was said from the task on."""

    id: str
    game: str
    task_text: str
    turns: tuple[Message, ...]
    reward: float

    @property
    def replies(self) -> tuple[str, ...]:
        return tuple(turn.content for turn in self.turns[::2])

    @property
    def observations(self) -> tuple[str, ...]:
        return tuple(_OBSERVATION.sub("", turn.content, count=1) for turn in self.turns[1::2])


def read_experts(
    path: str | Path, name: str, env: gym.Env[str, str], *, prompt_style: PromptStyle = "one-shot"
) -> tuple[list[Trajectory], ExpertReport]:
    """Read a file of the paper's experts as episodes of an environment's tasks.

    The rewards are those of the file (WebShop's has them; the paper counts every expert of the
    other two as 1). Several records of one task become several samples of it. An observation has
    the environment's prefix; apart from that, what was said stands as it is in the file.

    Args:
        path: The file.
        name: "eto:webshop", "eto:sciworld" or "eto:alfworld": how its ids are to be read.
        env: The environment, with the split that was demonstrated; ALFWorld's with
            `admissible_actions=True` tells games that begin alike apart.
        prompt_style: What precedes the first observation, as for the agent.

    Raises:
        DataError: The file is missing or no JSON list, the environment is of another benchmark, or
            not one record belongs to its tasks.
    """
    benchmark = name.removeprefix(PREFIX)
    inner = text_env(env)
    wanted, found = _BENCHMARKS[benchmark], str(inner.card()["benchmark"])
    if found.casefold() != wanted:
        raise DataError(f"{name} holds experts of {wanted}, and the environment is {found}")
    report = ExpertReport()
    talk = ConversationEnv(env, prompt_style=prompt_style)
    finder = _Finder(benchmark, talk, inner)
    prefix = inner.prompt().observation_prefix
    samples: Counter[str] = Counter()
    taken: list[Trajectory] = []
    for item in read_records(path):
        report.records += 1
        try:
            record = _parse(item, rewarded=benchmark == "webshop")
        except DataError:
            report.leave_out("malformed", item)
            continue
        opening = finder.opening(record)
        if isinstance(opening, str):
            report.leave_out(opening, item)
            continue
        task_id, messages = opening
        sample = samples[task_id]
        taken.append(_episode(record, inner.task, messages, prefix, sample))
        samples[task_id] += 1
    report.taken = len(taken)
    if not taken:
        raise DataError(f"{path}: {report}. {_HINTS[benchmark]}")
    return taken, report


def _parse(item: Any, *, rewarded: bool) -> _Record:
    """Read a record; `rewarded` says that it must have a reward.

    Raises:
        DataError: It has another form.
    """
    if not isinstance(item, dict) or not isinstance(item.get("id"), str | int):
        raise DataError("expected a record with an id")
    messages = from_turns(item.get("conversations"))
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]  # what follows the last reply teaches nothing
    first = next((i for i, message in enumerate(messages) if message.train), 0)
    turns = messages[first:]
    roles = [turn.role for turn in turns]
    alternate = ["user" if i % 2 else "assistant" for i in range(len(roles))]
    if first < 1 or messages[first - 1].role != "user" or roles != alternate:
        raise DataError("expected a task and then replies and observations in turn")
    reward = item.get("reward") if rewarded else item.get("reward", 1.0)
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not 0 <= reward <= 1:
        raise DataError(f"expected a reward from 0 to 1, got {reward!r}")
    return _Record(
        id=str(item["id"]),
        game=str(item.get("game_file", "")),
        task_text=messages[first - 1].content,
        turns=turns,
        reward=float(reward),
    )


def _episode(
    record: _Record,
    task: Task,
    opening: tuple[Message, ...],
    prefix: str,
    sample: int,
) -> Trajectory:
    """Put a record's turns after the opening of its task."""
    turns = [
        Message("assistant", turn.content, train=True)
        if turn.role == "assistant"
        else Message("user", prefix + _OBSERVATION.sub("", turn.content, count=1))
        for turn in record.turns
    ]
    seen = (*record.observations, "")  # what the last reply led to is not in the file
    steps = []
    for number, (reply, observation) in enumerate(zip(record.replies, seen, strict=True), start=1):
        parsed = parse_reply(reply)
        reward = record.reward if number == len(seen) else 0.0
        steps.append(Step(parsed.action if parsed else None, observation, reward))
    return Trajectory(
        task_id=task.id,
        task_type=task.type,
        messages=(*opening, *turns),
        steps=tuple(steps),
        outcome="terminated",
        reward=record.reward,
        success=record.reward >= 1.0,
        policy=POLICY,
        sample=sample,
    )


# --- which task a record belongs to --------------------------------------------------------------


class _Finder:
    """Finds the task of a record, and how it opens."""

    def __init__(self, benchmark: str, talk: ConversationEnv, inner: TextEnv) -> None:
        self._benchmark = benchmark
        self._talk = talk
        self._inner = inner
        self._by_text: dict[str, list[str]] | None = None

    def opening(self, record: _Record) -> tuple[str, tuple[Message, ...]] | str:
        """Return the task's id and its opening, or why the record is left out."""
        task_id = self._named(record)
        if task_id is None:
            candidates = self._alike(record)
            if len(candidates) > 1:
                candidates = [each for each in candidates if self._goes_on_as(record, each)]
            if len(candidates) != 1:
                return "ambiguous" if candidates else "not_in_split"
            task_id = candidates[0]
        opening = self._open(task_id)
        if opening is None:
            return "not_in_split"
        if _plain(record.task_text) not in self._texts(opening[-1].content):
            return "other_observation"
        return task_id, opening

    def _named(self, record: _Record) -> str | None:
        """Return the task that a record's id names; None where it names none."""
        if self._benchmark == "webshop":
            return f"human-{record.id}"
        if self._benchmark == "sciworld":
            task, _, variation = record.id.partition("_")
            known = task.isdecimal() and int(task) < len(SCIENCEWORLD_TASKS)
            return f"{SCIENCEWORLD_TASKS[int(task)]}/{variation}" if known else record.id
        for name in (record.game, record.id):
            if match := _GAME.search(PurePosixPath(name).as_posix()):
                return match.group()
        return None

    def _open(self, task_id: str) -> tuple[Message, ...] | None:
        """Start an episode of a task; None where the split has no such task."""
        if not self._inner.task_set.has(task_id):
            return None
        self._talk.reset(options={"task": task_id})
        return self._talk.conversation

    def _texts(self, observation: str) -> set[str]:
        """Return what a record may have for a task's first observation."""
        if self._benchmark == "sciworld":
            return {_plain(observation), _plain(_description(observation))}
        if self._benchmark == "alfworld" and observation.startswith("-= Welcome"):
            return {_plain(observation), _plain(observation.partition("\n\n")[2])}
        return {_plain(observation)}

    def _alike(self, record: _Record) -> list[str]:
        """Return the tasks that open as a record does, for records whose id names none."""
        if self._by_text is None:
            self._by_text = defaultdict(list)
            for task_id in self._inner.task_set.ids:
                opening = self._open(task_id)
                for text in self._texts(opening[-1].content) if opening else ():
                    self._by_text[text].append(task_id)
        return list(dict.fromkeys(self._by_text.get(_plain(record.task_text), [])))

    def _goes_on_as(self, record: _Record, task_id: str) -> bool:
        """Whether a record's actions lead to its observations in a task."""
        self._open(task_id)
        for reply, observation in zip(record.replies, record.observations, strict=False):
            action = parse_reply(reply)
            if action is None:
                continue
            spelt = self._spelt(action.action)
            seen, _, terminated, truncated, _ = self._talk.step(f"Action: {spelt}")
            if _plain(_OBSERVATION.sub("", seen, count=1)) != _plain(observation):
                return False
            if terminated or truncated:
                break
        return True

    def _spelt(self, action: str) -> str:
        """Spell an action as the environment does: some records write "dining table 1"."""
        plain = _plain(action)
        admissible = self._talk.info.get("admissible_actions", ())
        return next((each for each in admissible if _plain(each) == plain), action)


def _description(observation: str) -> str:
    """Return ScienceWorld's task description, without the room that it starts in."""
    return observation.partition("\nThis ")[0]


def _plain(text: str) -> str:
    """Return a text without white space, case and the word that introduces it, for comparisons."""
    text = _TASK.sub("", _OBSERVATION.sub("", text, count=1), count=1)
    return "".join(text.split()).casefold()
