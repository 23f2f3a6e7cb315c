"""Checks before a run that its models can read the conversations that they are to be given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from eto_gym.agents.models.model_names import folder_of_model
from eto_gym.agents.models.room import check_prompt
from eto_gym.prompt import Message
from eto_gym.trainers.settings.base import TrainSettings
from eto_gym.trainers.settings.world import WorldSettings


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
