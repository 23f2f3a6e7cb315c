"""Checks before a run: what the environment has, and whether models can read its conversations."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eto_gym.agents.models.model_names import folder_of_model
from eto_gym.agents.models.room import check_prompt
from eto_gym.agents.serving.transformers_command import check_packages
from eto_gym.conversation import prompt_messages
from eto_gym.env import TextEnv, text_env
from eto_gym.errors import DataError, EtoGymError, require
from eto_gym.prompt import Message
from eto_gym.registration import make_text_env
from eto_gym.tasks import TaskSet
from eto_gym.trainers.settings.base import TrainSettings
from eto_gym.trainers.settings.playing import PlayerSettings
from eto_gym.trainers.settings.world import ExpertSettings, WorldSettings
from eto_gym.trajectories.eto_files import PREFIX, find_file


@dataclass(frozen=True)
class World:
    """What a loop plays in.

    Attributes:
        tasks: Name of a split -> its tasks, in the split's own order.
        lists_actions: Whether its players need a list of the admissible actions.
    """

    tasks: dict[str, TaskSet]
    lists_actions: bool


def open_world(settings: WorldSettings) -> World:
    """Look up the tasks of every split that a loop plays; makes the environment once for each.

    What would only be found out in the middle of a run is found out here: it costs a second, and
    the run may take hours.

    Raises:
        UnknownNameError: There is no such environment, split or argument of the environment.
        EtoGymError: The environment cannot be made, or lacks what the method needs; or the model's
            conversations cannot be rendered, or have no room; or servers cannot play; or the file
            of the experts cannot be read.
    """
    check_players(settings)
    if isinstance(settings, ExpertSettings):
        check_experts(settings)
    splits = [settings.train_split, settings.eval_split]
    if settings.dev_tasks:
        splits.append(settings.dev_split)
    tasks, lists = {}, False
    for split in dict.fromkeys(splits):
        env = make_text_env(settings.env, **{**settings.env_kwargs(), "split": split})
        inner = text_env(env)
        tasks[split] = inner.task_set
        prompt = inner.prompt()
        env.close()
        lists = not _is_default(type(inner), TextEnv._admissible_actions)
        _check_helpers(type(inner), settings, lists_actions=lists)
        lists = lists and type(inner).player_reads_actions
    check_reading(settings, prompt_messages(prompt, settings.prompt_style))
    return World(tasks, lists)


def check_experts(settings: ExpertSettings) -> None:
    """Refuse a file of demonstrations that is not there, is a folder, or may not be read.

    It is not opened: a pipe can be read once.

    Raises:
        DataError: It cannot be read, or the paper's was not downloaded yet.
        UnknownNameError: The paper has no such file.
    """
    name = settings.expert_file
    if name.startswith(PREFIX):
        find_file(name)
    elif name:
        path = Path(name)
        try:
            folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as err:
            raise DataError(f"could not read the expert file {path}: {err}") from err
        if folder or not os.access(path, os.R_OK):
            why = "it is a folder" if folder else "it may not be read"
            raise DataError(f"could not read the expert file {path}: {why}")


def check_players(settings: PlayerSettings) -> None:
    """Refuse servers that could not be started, or asked, once it is their turn.

    Raises:
        MissingDependencyError: `transformers serve`, or the policy that asks servers, lacks a
            package.
        EtoGymError: The program of a command is not on this machine.
    """
    if settings.play_kind == "local":
        return
    if settings.play_kind == "serve" and not settings.play_command:
        check_packages()
    require("openai", feature="a policy that asks servers", extra="openai")
    for name in ("play_command", "play_hook"):
        command = getattr(settings, name)
        program = shlex.split(command)[0] if command else ""
        if program and "{" not in program and shutil.which(program) is None:
            raise EtoGymError(
                f"{name} starts with {program!r}, and there is no such program here: expected a "
                "path to one that may be executed, or the name of one on the PATH"
            )


def _check_helpers(kind: type[TextEnv], settings: WorldSettings, *, lists_actions: bool) -> None:
    """Refuse an environment without the expert or the player that the settings ask for."""
    asks = isinstance(settings, ExpertSettings) and not settings.expert_file
    if asks and _is_default(kind, TextEnv.make_expert):
        raise EtoGymError(
            f"the method learns from demonstrations, and {settings.env} has no scripted expert: "
            "give some with --expert-file FILE, or take `eto-gym train self-play`, which needs none"
        )
    plays = lists_actions or not _is_default(kind, TextEnv.make_player)
    if settings.model == "tiny" and not plays:
        raise EtoGymError(
            f"--model tiny learns to speak from aimless play, and {settings.env} has neither a "
            "player nor a list of admissible actions: give a pretrained --model"
        )


def _is_default(kind: type[TextEnv], method: Callable[..., object]) -> bool:
    """Tell whether a class has not overridden a method of `TextEnv`."""
    return getattr(kind, method.__name__) is method


def check_reading(settings: WorldSettings, head: Sequence[Message]) -> None:
    """Refuse templates that cannot render the conversations, and prompts that leave no room.

    Looks at a model that lies in a folder of this machine; of another one the first play tells. A
    template that replaces the model's own, for a training, is looked at too.

    Args:
        settings: The settings of a loop.
        head: The messages that precede the first observation.

    Raises:
        EtoGymError: See `check_prompt`.
        DataError: A template or the tokenizer cannot be read.
    """
    folder = folder_of_model(settings.model)
    if settings.model == "tiny" or not folder.is_dir():
        return
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    for template in dict.fromkeys([settings.chat_template, *_templates(settings)]):
        tokenizer = load_tokenizer(folder, template, settings.template_kwargs)
        check_prompt(default_codec(tokenizer), head, settings.history, context=settings.max_context)


def _templates(settings: Any) -> Iterator[str]:
    """Yield the chat templates that trainings are given."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, TrainSettings) and value.chat_template:
            yield value.chat_template
        if dataclasses.is_dataclass(value) and item.name != "base":
            yield from _templates(value)
