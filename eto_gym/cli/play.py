"""`eto-gym play ENV_ID`: play an environment by hand, in a plain terminal.

Whatever is typed goes to the environment as an action, without the blanks around it; lines that
start with a colon are commands of this program. Episodes can be stepped back and saved as
trajectories.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym

from eto_gym.cli.arguments import (
    ENV_HELP,
    add_env_arguments,
    add_prompt_style,
    env_arguments,
)
from eto_gym.cli.terminal import printable, reason_of
from eto_gym.conversation import ConversationEnv, PromptStyle
from eto_gym.env import text_env
from eto_gym.errors import EtoGymError
from eto_gym.expert import Adviser, Reply
from eto_gym.lookup import id_of_task
from eto_gym.registration import make_text_env, resolve_env_id
from eto_gym.snapshot import get_state, set_state
from eto_gym.trajectories import Outcome, Trajectory, TrajectoryStore

HELP = """\
Type an action, or one of:
  :a [WORD]    list the admissible actions (those that hold WORD), numbered
  :N           take action number N of the last list
  :t TEXT      note a thought; it goes with the next action
  :e           let the scripted expert take the next action
  :u [N]       undo the last N actions (default 1)
  :i           show score, steps and task
  :p           show the instruction that an agent gets
  :s           save the episode so far as a trajectory
  :n [TASK]    start anew, on TASK (an id or an index) or on another task
  :h           show this help
  :q           quit (so does the end of input)"""


_MANY_DIGITS = 19


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("env", metavar="ENV", help=ENV_HELP)
    add_env_arguments(parser)
    parser.add_argument(
        "--task", default=None, metavar="TASK", help="task id, or index within the split"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        metavar="N",
        help="seed that draws the tasks (default: at random)",
    )
    parser.add_argument(
        "--save",
        type=Path,
        default=Path("runs/play.jsonl"),
        metavar="FILE",
        help="file that :s appends trajectories to (default: runs/play.jsonl)",
    )
    add_prompt_style(parser, "what precedes the first observation in a saved trajectory")


def run(args: argparse.Namespace) -> int:
    """Play until the player quits."""
    for stream in (sys.stdout, sys.stdin):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if args.seed is not None and args.seed < 0:
        raise EtoGymError(f"expected --seed >= 0, got {args.seed}")
    env_id = resolve_env_id(args.env)
    env = make_text_env(env_id, **env_arguments(args, env_id))
    try:
        game = Game(env, save=args.save, prompt_style=args.prompt_style)
        print("Type :h for help; the tab key completes actions. Ctrl-C drops a line, :q quits.")
        game.start(task_reference(args.task), seed=args.seed)
        for line in _lines(game.complete):
            if not game.handle(line):
                break
    finally:
        env.close()
    return 0


def task_reference(text: str | None) -> str | int | None:
    """Read a task from the command line: digits are an index, anything else is an id."""
    number = None if text is None else _number(text)
    return text if number is None else number


def _number(text: str) -> int | None:
    """Read digits; None where there are others, or so many that they count nothing."""
    return int(text) if text.isdecimal() and len(text) < _MANY_DIGITS else None


class Game:
    """One player's session: the environment, its past states, and what the player typed."""

    def __init__(
        self,
        env: gym.Env[str, str],
        *,
        save: Path,
        prompt_style: PromptStyle = "one-shot",
        show: Callable[[str], None] = print,
    ) -> None:
        """Create the session.

        Args:
            env: The environment.
            save: File that trajectories are appended to.
            prompt_style: What precedes the first observation in a saved trajectory.
            show: Receives what the player shall read.
        """
        self.env = ConversationEnv(env, prompt_style=prompt_style)
        self._inner = text_env(env)
        self._save = save
        self._output = show
        self._past: list[tuple[dict[str, Any], bool, bool]] = []
        self._listed: list[str] = []
        self._thought = ""
        self._seen: list[tuple[str | None, str]] = []  # each observation, and what led to it
        self._adviser: Adviser | None = None  # made when it is first asked; has seen all of these
        self._info: dict[str, Any] = {}
        self._terminated = False
        self._truncated = False

    def start(self, task: str | int | None = None, *, seed: int | None = None) -> None:
        """Begin an episode and show its first observation; a number is a place in the split."""
        options = None if task is None else {"task": id_of_task(task, self._inner.task_set)}
        observation, self._info = self.env.reset(seed=seed, options=options)
        self._past, self._listed, self._thought, self._adviser = [], [], "", None
        self._seen = [(None, self._inner._last_observation)]
        self._terminated = self._truncated = False
        self._show(f"[task {self._info['task_id']}]\n{observation}")

    def handle(self, line: str) -> bool:
        """Take one line from the player; return False when the player quits."""
        text = line.strip()
        try:
            return self._handle(text) if text else True
        except EtoGymError as err:
            self._show(f"[{err}]")
        except OSError as err:  # a file that cannot be written ends no game
            self._show(f"[{reason_of(err)}]")
        return True

    def _handle(self, text: str) -> bool:
        if not text.startswith(":"):
            self._act(text)
            return True
        name, _, rest = text[1:].partition(" ")
        rest = rest.strip()
        if name == "q":
            return False
        if name.isdecimal():
            self._pick(name)
            return True
        commands: dict[str, Callable[[str], None]] = {
            "a": self._list,
            "e": self._expert,
            "h": lambda _: self._show(HELP),
            "i": self._status,
            "n": self._again,
            "p": lambda _: self._show(self._inner.prompt().instruction),
            "s": self._store,
            "t": self._note,
            "u": self._undo,
        }
        if name not in commands:
            self._show(f"There is no command :{name}; :h shows all.")
            return True
        commands[name](rest)
        return True

    def complete(self, text: str) -> list[str]:
        """Return the admissible actions, and the commands, that begin with a text."""
        if text.startswith(":"):
            return [f":{name}" for name in "aehinpqstu" if f":{name}".startswith(text)]
        if self._terminated or self._truncated:
            return []
        try:
            actions = self._inner._admissible_actions()
        except EtoGymError:  # the benchmark lists none
            return []
        return [action for action in actions if action.lower().startswith(text.lower())]

    def trajectory(self) -> Trajectory:
        """Return the episode so far; one that has not ended counts as truncated."""
        outcome: Outcome = "terminated" if self._terminated else "truncated"
        error = self._info.get("error")
        return Trajectory(
            task_id=self._info["task_id"],
            task_type=self._info["task_type"],
            messages=self._messages(),
            steps=self.env.steps,
            outcome="error" if error is not None else outcome,
            reward=sum(step.reward for step in self.env.steps),
            success=error is None and bool(self._info["success"]),
            error=None if error is None else "environment",
            policy="human",
            env=self._inner.card(),
            sample=self._sample(),
        )

    def _show(self, text: str) -> None:
        self._output(printable(text))

    # --- commands -------------------------------------------------------------------------------

    def _act(self, action: str) -> None:
        if self._terminated or self._truncated:
            self._show("[the episode is over: :n starts another, :u steps back, :s saves]")
            return
        self._past.append((get_state(self.env), self._terminated, self._truncated))
        played = self.env.take(Reply(self._thought, action))
        observation, reward, self._terminated, self._truncated, self._info = played
        self._thought, self._listed = "", []
        self._see(action, self._inner._last_observation)
        self._show(observation.removeprefix(self._inner.prompt().observation_prefix))
        if float(reward) != 0.0:
            self._show(f"[reward {float(reward):+.3f}]")
        if self._info.get("error") is not None:
            self._show(f"[the engine failed: {self._info.get('error_detail', 'no detail')}]")
        if self._terminated or self._truncated:
            how = "solved" if self._info["success"] else "over, not solved"
            limit = " (step limit)" if self._truncated and not self._terminated else ""
            self._show(f"[the episode is {how}{limit}; score {self._info['score']:.3f}]")

    def _see(self, action: str, observation: str) -> None:
        self._seen.append((action, observation))
        if self._adviser is not None:
            self._adviser.observe(action, observation)

    def _list(self, word: str) -> None:
        actions = self._inner._admissible_actions()
        self._listed = [action for action in actions if word.lower() in action.lower()]
        width = len(str(len(self._listed)))
        self._show(
            "\n".join(f"{i:>{width}}  {action}" for i, action in enumerate(self._listed, start=1))
            or "[no such action]"
        )

    def _pick(self, digits: str) -> None:
        number = _number(digits)
        if number is not None and 1 <= number <= len(self._listed):
            self._show(f"> {self._listed[number - 1]}")
            self._act(self._listed[number - 1])
        else:
            self._show(f"[there is no action {digits} in the list; :a makes one]")

    def _note(self, text: str) -> None:
        self._thought = text

    def _expert(self, _: str) -> None:
        if self._adviser is None:
            self._adviser = Adviser(self._inner.make_expert)
            for action, observation in self._seen:
                self._adviser.observe(action, observation)
        reply = None if self._terminated else self._adviser.advise(self._info)
        if reply is None:
            self._show("[the expert does not know how to go on from here]")
            return
        self._thought = self._thought or reply.thought
        self._show(f"Thought: {self._thought}\n> {reply.action}")
        self._act(reply.action)

    def _undo(self, count: str) -> None:
        number = _number(count or "1")
        if number is None:
            self._show(f"[expected a number of actions, got {count!r}]")
            return
        if not self._past or number < 1:
            self._show("[there is nothing to undo]")
            return
        number = min(number, len(self._past))
        state, self._terminated, self._truncated = self._past[-number]
        del self._past[-number:]
        del self._seen[-number:]
        set_state(self.env, state)
        self._info = self._inner._full_info()
        self._listed, self._adviser = [], None
        self._show(f"[{number} undone]\n{self._inner._last_observation}")

    def _status(self, _: str) -> None:
        limit = self.env.step_limit
        self._show(
            f"[task {self._info['task_id']}, step {len(self.env.steps)}"
            f"{f' of {limit}' if limit else ''}, score {self._info['score']:.3f}, "
            f"reward {sum(step.reward for step in self.env.steps):.3f}]"
        )

    def _again(self, task: str) -> None:
        self.start(task_reference(task or None))

    def _store(self, _: str) -> None:
        if not self.env.steps:
            self._show("[there is nothing to save yet]")
            return
        with TrajectoryStore(self._save) as store:
            store.add(self.trajectory())
        self._show(f"[saved to {self._save}]")

    def _sample(self) -> int:
        """Return the number that follows those which the file holds for the task."""
        stored = TrajectoryStore(self._save).load()
        samples = [item.sample for item in stored if item.task_id == self._info["task_id"]]
        return max(samples, default=-1) + 1

    def _messages(self) -> tuple[Any, ...]:
        """Return the conversation up to the player's last reply."""
        messages = self.env.conversation
        if messages and messages[-1].role == "user":
            messages = messages[:-1]
        return messages


def _lines(complete: Callable[[str], list[str]]) -> Iterator[str]:
    """Yield what is typed, until the end of input; in a terminal, with history and completion."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline

            def complete_word(text: str, state: int) -> str | None:
                found = complete(text)
                return found[state] if state < len(found) else None

            readline.set_completer(complete_word)
            readline.set_completer_delims("")  # actions have spaces
            readline.parse_and_bind("tab: complete")
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # as in a shell: it drops the line, not the game
            print("\n[Ctrl-C drops the line; :q quits]")
