"""Dev success: plays held-out tasks with the model in training, for early stopping."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.errors import EtoGymError
from eto_gym.trainers.model.models import load_tokenizer
from eto_gym.trainers.model.scoring import without_dropout

logger = logging.getLogger(__name__)


class DevSuccess:
    """Plays dev tasks greedily with the model that is being trained; returns how well that went.

    Of several processes that train together the first plays all the tasks, and the others wait for
    its verdict (`KeepBest` asks it alone): each has the whole model, but dev tasks are few, and one
    player keeps their batches, and so the score, the same for any number of processes.
    """

    def __init__(
        self,
        spec: RolloutSpec,
        task_ids: Sequence[str],
        *,
        tokenizer: str,
        max_new_tokens: int,
        context: int,
        seed: int,
        template_kwargs: Mapping[str, Any] | None = None,
        chat_template: str = "",
    ) -> None:
        """Prepare.

        Args:
            spec: The environment, and how many play at a time. Its policy is not used, and neither
                are its processes: the model is in this one.
            task_ids: The tasks.
            tokenizer: Folder or name of the model that training starts from.
            max_new_tokens: Longest reply in tokens.
            context: Longest conversation in tokens.
            seed: Seed of the episodes.
            template_kwargs: Variables of the chat template.
            chat_template: Replaces the model's own template; "" for none.
        """
        self._spec = spec
        self._episodes = plan_episodes(tuple(task_ids), samples=1, seed=seed)
        self._codec = ChatCodec(load_tokenizer(tokenizer, chat_template, template_kwargs))
        self._options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "context": context}

    def __call__(self, step: int, model: Any) -> tuple[float, float]:
        """Return the success rate of `model`, and the mean reward, which tells equal ones apart.

        Episodes that failed to run count for neither.

        Raises:
            EtoGymError: All of them failed to run.
        """
        policy = LocalPolicy(model, self._codec, name=f"step-{step}", **self._options)
        spec = replace(self._spec, make_policy=lambda: policy, workers=1)
        with without_dropout(model):
            trajectories = collect(spec, self._episodes)
        scored = [t for t in trajectories if t.scored]
        if lost := Counter(t.error for t in trajectories if not t.scored):
            kinds = ", ".join(f"{kind} {count}" for kind, count in lost.items())
            failed = f"{lost.total()} of {len(trajectories)} dev episodes failed ({kinds})"
            if not scored:
                raise EtoGymError(
                    f"step {step}: {failed}: nothing tells if the model got better or worse"
                )
            logger.warning("step %d: %s, and do not count", step, failed)
        return fmean(t.success for t in scored), fmean(t.reward for t in scored)
