"""The conversation around an episode: a model's replies in, observations to answer out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium as gym
from gymnasium.error import ResetNeeded

from eto_gym.env import text_env
from eto_gym.errors import EtoGymError, check_choice
from eto_gym.expert import Reply
from eto_gym.history import (
    FULL,
    Exchange,
    StateBlocks,
    StateWriter,
    bounded,
    check_history,
    no_state,
)
from eto_gym.prompt import Message, Prompt
from eto_gym.reasoning import split_reasoning
from eto_gym.reply_parser import PARSER_VERSION as PARSER_VERSION
from eto_gym.reply_parser import parse_reply as parse_reply
from eto_gym.trajectories.record import Outcome, Step

PromptStyle = Literal["none", "instruction", "one-shot"]

ACKNOWLEDGEMENT = "OK."
"""The agent's answer to the instruction; it keeps the turns alternating and is never trained on."""

FORMAT_ERROR = (
    "Error: no action was found in your reply. "
    "Reply with a line `Thought: ...` and then a line `Action: ...`."
)
"""What a reply without an action gets for an observation."""


def prompt_messages(prompt: Prompt, style: PromptStyle) -> tuple[Message, ...]:
    """Return the messages that precede the first observation.

    Args:
        prompt: The benchmark's instruction and worked example.
        style: "one-shot" gives both, as in the paper; "instruction" leaves out the example; "none"
            gives no message at all (for a small model that is trained on one benchmark).

    Raises:
        UnknownNameError: There is no such style.
        EtoGymError: The style is "one-shot", and the prompt has no example.
    """
    check_choice("prompt style", style, get_args(PromptStyle))
    if style == "none":
        return ()
    text = prompt.instruction
    if style == "one-shot":
        if not prompt.example:
            raise EtoGymError("prompt style 'one-shot' needs a worked example, and there is none")
        text += "\n\nHere is an example.\n\n" + "\n\n".join(prompt.example)
        text += "\n\nNow it is your turn, on another task."
    return (Message("user", text), Message("assistant", ACKNOWLEDGEMENT))


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What an episode has come to so far.

    Attributes:
        reward: Sum of the step rewards.
        success: Whether the task is solved.
        score: The benchmark's score after the last step that reached the environment (0..1 unless
            the benchmark documents otherwise).
        steps: Replies given, malformed ones included.
        outcome: "terminated" by the task, "truncated" by the step limit, "error" if the
            environment failed, None while the episode goes on.
    """

    reward: float
    success: bool
    score: float
    steps: int
    outcome: Outcome | None


class Dialogue:
    """The conversation of one episode: messages, steps and the step limit, without an environment.

    `begin` starts it. Then each reply goes through `read`; the action that it holds is played, and
    what came of that goes through `observe`, or, where there is none, `complain` takes its place.
    Both return what the agent reads, as `step` does.

    Attributes:
        history: How much of the conversation is to be read for a reply.
        head: The messages that precede the first observation.
        info: The info of the last reset, or of the last step that reached the environment.
        step_limit: Replies after which the episode is truncated, malformed ones included.
        outcome: How the episode ended; None while it goes on.
    """

    def __init__(
        self,
        prompt: Prompt,
        prompt_style: PromptStyle,
        *,
        history: str = FULL,
        state_writer: StateWriter = no_state,
    ) -> None:
        """Create a dialogue that has not begun.

        Args:
            prompt: The benchmark's prompt.
            prompt_style: See `prompt_messages`.
            history: How much of the conversation is to be read; see `eto_gym.history`.
            state_writer: The environment's, for the history "state".
        """
        self.history = check_history(history)
        self._states = StateBlocks(state_writer if history.startswith("state") else no_state)
        self.head = prompt_messages(prompt, prompt_style)
        self.info: dict[str, Any] = {}
        self.step_limit: int | None = None
        self.outcome: Outcome | None = None
        self._prefix = prompt.observation_prefix
        self._messages: list[Message] = []
        self._steps: list[Step] = []
        self._reply = ""
        self._action: str | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages so far; the last is the observation to answer, or the final reply."""
        return tuple(self._messages)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What is to be read for the next reply (or was for the last, where there is no next)."""
        if not self._messages:
            return ()
        ended = len(self._states) == len(self._steps)
        talk = self._messages[:-1] if ended else self._messages
        return bounded(talk, len(self.head), self.history, self._states.last)

    @property
    def states(self) -> tuple[str, ...]:
        """The state blocks that were read for the replies; empty if none was written."""
        return self._states.read(len(self._steps))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps so far: one per reply."""
        return tuple(self._steps)

    @property
    def observation(self) -> str:
        """The bare observation to answer."""
        return self._steps[-1].observation if self._steps else self._messages[-1].content

    def begin(self, observation: str, info: dict[str, Any], step_limit: int | None) -> None:
        """Start an episode; the first observation stands without a prefix."""
        self._messages = [*self.head, Message("user", observation)]
        self._steps = []
        self._states.begin(observation)
        self.info = info
        self.step_limit = step_limit
        self.outcome = "error" if info.get("error") is not None else None

    def read(self, reply: str) -> str | None:
        """Take the agent's reply; return the action that it holds, if it holds one."""
        parsed = parse_reply(reply)
        self._reply = reply
        self._action = parsed.action if parsed is not None else None
        return self._action

    def take(self, reply: Reply) -> str:
        """Take a thought and an action that are known apart; return the action as it is."""
        self._reply, self._action = str(reply), reply.action
        return reply.action

    def observe(
        self,
        observation: str,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Note what came of the action; return the observation as the agent reads it."""
        self.info = info
        return self._turn(observation, reward, terminated, truncated, info)

    def complain(self) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer a reply without an action: it costs a step, and the environment knows nothing."""
        info = {**self.info, "format_error": True}
        if split_reasoning(self._reply).cut:
            info["cut_in_reasoning"] = True
        return self._turn(FORMAT_ERROR, 0.0, False, False, info)

    def _turn(
        self,
        observation: str,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._messages.append(Message("assistant", self._reply, train=True))
        self._steps.append(Step(self._action, observation, reward))
        limit = self.step_limit
        truncated = truncated or (limit is not None and len(self._steps) >= limit)
        text = self._prefix + observation
        if info.get("error") is not None:
            self.outcome = "error"
        elif terminated or truncated:
            self.outcome = "terminated" if terminated else "truncated"
        answered = not (terminated or truncated)
        if answered:
            self._messages.append(Message("user", text))
        self._states.add(Exchange(self._action, observation), answered=answered)
        return text, reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Return the dialogue in a JSON-serialisable form, the step limit excluded."""
        return {
            "messages": [[m.role, m.content, m.train] for m in self._messages],
            "steps": [[s.action, s.observation, s.reward] for s in self._steps],
            "info": dict(self.info),
            "outcome": self.outcome,
        }

    def set_state(self, state: dict[str, Any], step_limit: int | None) -> None:
        """Go on from what `get_state` returned."""
        self._messages = [Message(*item) for item in state["messages"]]
        self._steps = [Step(*item) for item in state["steps"]]
        if self._messages:
            first = self._messages[len(self.head)].content
            seen = [Exchange(step.action, step.observation) for step in self._steps]
            answered = self._messages[-1].role == "user"
            self._states.rebuild(first, seen, answered=answered)
        else:  # it had not begun
            self._states.clear()
        self.info = dict(state["info"])
        self.step_limit = step_limit
        self.outcome = state.get("outcome")  # snapshots of earlier versions do not hold it


def episode_step_limit(env: gym.Env[Any, Any]) -> int | None:
    """Return the steps after which the current episode of an environment is truncated.

    That is the lowest of the limits of the text environment, which may depend on the task, and of
    `gym.make`.

    Raises:
        EtoGymError: It is no text environment.
    """
    limits = [text_env(env).step_limit, env.spec.max_episode_steps if env.spec else None]
    return min((limit for limit in limits if limit is not None), default=None)


class ConversationEnv(gym.Wrapper[str, str, str, str]):
    r"""Takes a language model's whole reply as the action of `step`, and keeps the conversation.

    The reply's action goes to the environment. A reply without an action costs a step, does not
    touch the environment, and gets `FORMAT_ERROR` for its observation; it never raises. `info` then
    holds `format_error: True`, and `cut_in_reasoning: True` where the reply ended inside a
    reasoning block. Steps are counted here, malformed ones included, against the environment's step
    limit.

    Example:
        >>> import gymnasium as gym
        >>> import eto_gym
        >>> env = ConversationEnv(gym.make("ETO/ALFWorld-v0"), prompt_style="one-shot")
        >>> observation, info = env.reset(seed=0)
        >>> [message.role for message in env.conversation]
        ['user', 'assistant', 'user']
        >>> observation, *_ = env.step("Thought: Let me look around.\nAction: look")
        >>> observation.startswith("Observation: ")
        True
        >>> env.result()
        EpisodeResult(reward=0.0, success=False, score=0.0, steps=1, outcome=None)
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        *,
        prompt_style: PromptStyle = "one-shot",
        prompt: Prompt | None = None,
        history: str = FULL,
    ) -> None:
        """Wrap a text environment.

        Args:
            env: A registered environment or a `TextEnv`, with any wrappers around it.
            prompt_style: What precedes the first observation; "one-shot" as in the paper.
            prompt: Replaces the benchmark's own prompt.
            history: How much of the conversation `prompt` holds: "full" (the default, as in the
                paper), "last:K" for the instruction, the task and the last K exchanges, or "state"
                for these and a block that the environment writes; see `eto_gym.history`.

        Raises:
            EtoGymError: It is no text environment, or the history setting is none.
        """
        super().__init__(env)
        inner = text_env(env)
        self._dialogue = Dialogue(
            prompt or inner.prompt(),
            prompt_style,
            history=history,
            state_writer=inner.state_writer(),
        )

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages so far; the last is the observation to answer, or the final reply."""
        return self._dialogue.messages

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What is to be read for the next reply (or was for the last, where there is no next)."""
        return self._dialogue.prompt

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps so far: one per reply."""
        return self._dialogue.steps

    def chat_messages(self) -> list[dict[str, str]]:
        """Return the messages as dicts with `role` and `content`, as chat templates take them."""
        return [{"role": m.role, "content": m.content} for m in self.conversation]

    def result(self) -> EpisodeResult:
        """Return what the episode has come to so far.

        Raises:
            EtoGymError: `reset` was never called.
        """
        if not self.conversation:
            raise EtoGymError("there is no result before reset")
        return EpisodeResult(
            reward=float(sum(step.reward for step in self.steps)),
            success=self._dialogue.outcome != "error" and bool(self.info["success"]),
            score=float(self.info["score"]),
            steps=len(self.steps),
            outcome=self._dialogue.outcome,
        )

    @property
    def history(self) -> str:
        """How much of the conversation is read for a reply."""
        return self._dialogue.history

    @property
    def states(self) -> tuple[str, ...]:
        """The state blocks that were read for the replies; empty if none was written."""
        return self._dialogue.states

    @property
    def info(self) -> dict[str, Any]:
        """The info of the last reset, or of the last step that reached the environment."""
        return self._dialogue.info

    @property
    def step_limit(self) -> int | None:
        """Replies after which the episode is truncated."""
        return episode_step_limit(self.env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode; the first observation is the environment's, without a prefix."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._dialogue.begin(observation, info, self.step_limit)
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a whole reply; return the observation as the agent reads it.

        Raises:
            ResetNeeded: `reset` was never called.
        """
        self._need_reset("step")
        bare = self._dialogue.read(action)
        return self._dialogue.complain() if bare is None else self._play(bare)

    def take(self, reply: Reply) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a thought and an action that are known apart, as `step` takes a whole reply.

        The action is played as it is, quotes and full stop included, whatever would be read out of
        a text that holds it.

        Raises:
            ResetNeeded: `reset` was never called.
        """
        self._need_reset("take")
        return self._play(self._dialogue.take(reply))

    def _need_reset(self, call: str) -> None:
        if not self.conversation:
            raise ResetNeeded(f"{call} was called before reset")

    def _play(self, bare: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(bare)
        return self._dialogue.observe(observation, float(reward), terminated, truncated, info)

    def get_wrapper_state(self) -> dict[str, Any]:
        """Return the conversation in a JSON-serialisable form."""
        return self._dialogue.get_state()

    def set_wrapper_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_wrapper_state` returned."""
        self._dialogue.set_state(state, self.step_limit)
