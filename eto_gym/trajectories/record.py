"""The record of one episode: what was said, what was done, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from eto_gym.errors import DataError, EtoGymError
from eto_gym.history import FULL, as_sampled, check_history
from eto_gym.prompt import ROLES, Message
from eto_gym.trajectories.numbers import is_number
from eto_gym.trajectories.sampled import SampledTokens

DIGEST = "digest"
"""Key of a stored record that holds the digest of all others; see `lines.seal`."""

Outcome = Literal["terminated", "truncated", "error"]
ErrorKind = Literal["environment", "policy", "context", "timeout", "format", "worker"]
"""Why an episode could not be played out.

"environment": the environment raised, or said so in its info. "policy": the policy raised or gave
up. "context": the conversation does not fit into the model. "timeout": a step or a reply took too
long. "format": what the policy returned is no reply (an endpoint's broken response, say); a reply
in which no action is found is no error but a step. "worker": the process that played it was lost
through no fault of its own that is known.

"context" is the agent's own failure and counts as one (see `counts`); the others tell nothing of
the agent.
"""


def counts(error: str | None) -> bool:
    """Whether an episode that ended so counts, in evaluation and in training.

    It was played out (None), or the conversation outgrew the model: to leave those out would favour
    a policy that fills its context on what it cannot do.
    """
    return error in (None, "context")


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the bare action taken (None for a malformed reply) and what came of it."""

    action: str | None
    observation: str
    reward: float


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode of one policy on one task.

    Attributes:
        task_id: The task.
        task_type: The benchmark's category of the task.
        messages: The whole conversation, prompt included, ending with the agent's last reply.
        steps: One entry per assistant turn after the prompt, in order.
        outcome: "terminated" by the task, "truncated" by the step limit, or "error".
        reward: Sum of the step rewards; an error has a reward too (what was earned before it),
            which counts only where the error is "context".
        success: Whether the task was solved.
        error: Kind of the error where the outcome is "error", else None.
        policy: Name of the policy that acted.
        env: The environment's card.
        sample: Index among several episodes of the same task by the same policy.
        seed: Seed of the episode's sampling.
        usage: Token counts and other measurements of the policy ("prompt_tokens", ...).
        reasoning: What a server's reasoning parser took out of the replies, one text per step, for
            reading; empty where there was none. Reasoning that a reply itself holds is in its
            message.
        history: How much of the conversation each reply was given to; see `eto_gym.history`.
        states: The state block that was read for each reply, one text per step; empty where there
            was none.
        facts: What is known of each reply, one entry per step, or empty: "finish" ("stop" or
            "length"), the reply's token counts, whether its action was "admissible", and, where
            they were to be recorded, "seconds" until it was there and the
            "admissible_actions". They are no part of what was played: two trajectories are equal
            whatever these say.
        tokens: The tokens that were read and sampled, one entry per step, or empty: recorded where
            the policy was asked to return them. Steps that a snapshot held have empty ones. As
            `facts` they are no part of what was played.
        player: The model that acted, where a loop played ahead of its training: the stage of the
            run that made it ("model"), and how many trainings it was behind the model that learns
            from the episode ("staleness"). Empty where the newest model played.
    """

    task_id: str
    task_type: str
    messages: tuple[Message, ...]
    steps: tuple[Step, ...]
    outcome: Outcome
    reward: float
    success: bool
    error: ErrorKind | None = None
    policy: str = ""
    env: dict[str, Any] = field(default_factory=dict)
    sample: int = 0
    seed: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    reasoning: tuple[str, ...] = ()
    history: str = FULL
    states: tuple[str, ...] = ()
    facts: tuple[dict[str, Any], ...] = field(default=(), compare=False)
    tokens: tuple[SampledTokens, ...] = field(default=(), compare=False)
    player: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject records that contradict themselves."""
        if (self.outcome == "error") != (self.error is not None):
            raise DataError(f"outcome {self.outcome!r} contradicts error kind {self.error!r}")
        given = {
            "reasoning": self.reasoning,
            "states": self.states,
            "facts": self.facts,
            "tokens": self.tokens,
        }
        for name, entries in given.items():
            if entries and len(entries) != len(self.steps):
                raise DataError(
                    f"expected an entry of {name} per step, got {len(entries)} for "
                    f"{len(self.steps)} steps"
                )

    @property
    def key(self) -> tuple[str, int]:
        """Task id and sample index: what a resumed run looks up."""
        return (self.task_id, self.sample)

    @property
    def failed_to_run(self) -> bool:
        """Whether the episode ended in an error."""
        return self.outcome == "error"

    @property
    def scored(self) -> bool:
        """Whether the episode's success and reward count; see `counts`."""
        return counts(self.error)

    @property
    def replies(self) -> tuple[Message, ...]:
        """The agent's own replies, trained on or not: those that steps were made of.

        Where there are fewer than steps, or no steps, those that are trained on.
        """
        said = [m for m in self.messages if m.role == "assistant"]
        if self.steps and len(said) >= len(self.steps):
            said = said[-len(self.steps) :]
        else:
            said = [m for m in said if m.train]
        return tuple(said)

    @property
    def start(self) -> int:
        """Index of the first message that is no prompt: the observation of the first reply.

        The replies are those that steps were made of; of an imported conversation, those that are
        trained on. Where both say nothing, it is a guess for showing; `head` raises there.
        """
        replies = [i for i, m in enumerate(self.messages) if m.role == "assistant"]
        if self.steps and len(replies) >= len(self.steps):
            return max(0, replies[-len(self.steps)] - 1)
        trained = [i for i in replies if self.messages[i].train]
        return max(0, trained[0] - 1) if trained else max(replies, default=-1) + 1

    @property
    def head(self) -> int:
        """Messages that precede the first observation.

        Raises:
            DataError: The steps are not those of the conversation.
        """
        replies = [i for i, m in enumerate(self.messages) if m.role == "assistant"]
        steps = len(self.steps)
        if not steps or len(replies) < steps or replies[-steps] < 1:
            raise DataError(
                f"{self.task_id} has {steps} steps and {len(replies)} replies: what each reply was "
                f"given to cannot be told for history {self.history!r}"
            )
        return replies[-steps] - 1

    def as_sampled(self) -> list[tuple[Message, ...]]:
        """Return the conversations in which the replies were sampled; see `history.as_sampled`.

        Raises:
            DataError: With a bounded history, the steps are not those of the conversation.
        """
        if self.history == FULL:
            return [self.messages]
        if not self.steps:
            return []
        return as_sampled(self.messages, self.head, self.history, self.states)

    @property
    def step_count(self) -> int:
        """Number of steps."""
        return len(self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form that `from_json` reads; it shares `env` and `usage`."""
        # `asdict` does the same, deep copies included, in five times the time.
        return {
            "task_id": self.task_id,
            "task_type": self.task_type,
            "messages": [
                {"role": m.role, "content": m.content, "train": m.train} for m in self.messages
            ],
            "steps": [
                {"action": s.action, "observation": s.observation, "reward": s.reward}
                for s in self.steps
            ],
            "outcome": self.outcome,
            "reward": self.reward,
            "success": self.success,
            "error": self.error,
            "policy": self.policy,
            "env": self.env,
            "sample": self.sample,
            "seed": self.seed,
            "usage": self.usage,
            # Only where they say something, so that files stay what they were.
            **({"reasoning": list(self.reasoning)} if self.reasoning else {}),
            **({"history": self.history} if self.history != FULL else {}),
            **({"states": list(self.states)} if self.states else {}),
            **({"facts": list(self.facts)} if self.facts else {}),
            **({"tokens": [link.to_json() for link in self.tokens]} if self.tokens else {}),
            **({"player": self.player} if self.player else {}),
        }

    @classmethod
    def from_json(cls, data: Any) -> Trajectory:
        """Build a trajectory from parsed JSON.

        Raises:
            DataError: A field is missing, unknown or of the wrong kind.
        """
        try:
            fields = dict(data)
            fields.pop(DIGEST, None)
            fields["messages"] = tuple(_message(item) for item in fields["messages"])
            fields["steps"] = tuple(Step(**item) for item in fields["steps"])
            for name in ("reasoning", "states"):
                fields[name] = _texts(name, fields.get(name, ()))
            fields["facts"] = tuple(dict(item) for item in fields.get("facts", ()))
            fields["tokens"] = tuple(map(SampledTokens.from_json, fields.get("tokens", ())))
            check_history(fields.get("history", FULL))
            if fields["outcome"] not in get_args(Outcome):
                raise DataError(f"unknown outcome {fields['outcome']!r:.60}")
            if fields.get("error") not in (None, *get_args(ErrorKind)):
                raise DataError(f"unknown kind of error {fields['error']!r:.60}")
            _check_kinds(fields)
            return cls(**fields)
        except DataError:
            raise
        except (AttributeError, TypeError, KeyError, ValueError, EtoGymError) as err:
            raise DataError(f"not a trajectory: {type(err).__name__}: {err}") from err


_KINDS: dict[str, tuple[type, ...]] = {
    "task_id": (str,),
    "task_type": (str,),
    "reward": (int, float),
    "success": (bool,),
    "policy": (str,),
    "env": (dict,),
    "sample": (int,),
    "seed": (int,),
    "usage": (dict,),
    "history": (str,),
    "player": (dict,),
}


def _check_kinds(fields: dict[str, Any]) -> None:
    """Raise `DataError` unless every field is of its kind, and every reward a finite number."""
    for name, kinds in _KINDS.items():
        _check_kind(name, fields.get(name), kinds, missing=name not in fields)
    for message in fields["messages"]:
        _check_kind("train", message.train, (bool,))
    for step in fields["steps"]:
        _check_kind("a step's action", step.action, (str, type(None)))
        _check_kind("a step's observation", step.observation, (str,))
        _check_kind("a step's reward", step.reward, (int, float))
    for name, count in fields.get("usage", {}).items():
        _check_kind(f"usage {name!r:.40}", count, (int, float))


def _check_kind(name: str, value: Any, kinds: tuple[type, ...], *, missing: bool = False) -> None:
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if not missing and (wrong or (float in kinds and not is_number(value))):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise DataError(f"expected {expected} as {name}, got {value!r:.60}")


def _texts(name: str, items: Any) -> tuple[str, ...]:
    if isinstance(items, str) or not all(isinstance(item, str) for item in items):
        raise DataError(f"{name} is no list of texts")
    return tuple(items)


def _message(item: dict[str, Any]) -> Message:
    if item["role"] not in ROLES:
        raise DataError(f"unknown role {item['role']!r}, expected one of {ROLES}")
    if not isinstance(item["content"], str):
        raise DataError(f"message content is {type(item['content']).__name__}, expected str")
    return Message(**item)
