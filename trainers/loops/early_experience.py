"""Early experience: predict what other actions lead to, then imitate the experts.

Source: Zhang et al., "Agent Learning via Early Experience", 2025
(https://arxiv.org/abs/2510.08558), implicit world modelling, in its two stages.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import eto_gym
from eto_gym.agents.policies import random_policy
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.conversation import ConversationEnv
from eto_gym.trainers.data.experience import gather_experience
from eto_gym.trainers.data.steps import ExpertPath, repeat_expert
from eto_gym.trainers.loops.loop import Demonstrated, Loop
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import (
    MODEL,
    NothingToLearn,
    load_trajectories,
    model_of,
    write_trajectories,
)
from eto_gym.trainers.loops.step_stage import chosen_experts
from eto_gym.trainers.methods.sft import run_sft
from eto_gym.trainers.run.watch import Watch
from eto_gym.trainers.settings.base import deciding
from eto_gym.trainers.settings.loops import EarlyExperienceSettings


class EarlyExperienceLoop(Loop[EarlyExperienceSettings]):
    """One run of early experience in a run folder."""

    method = "early-experience"

    def _run_stages(self) -> None:
        s = self.settings
        start, experts, _ = first = self._demonstrate(s, s.sft)
        world = self._predict(start, self._experience(first))
        current = self.train.sft("sft-world", s.sft, world, experts)
        self.play.evaluate("early experience", "sft-world", current)
        self._control(s, s.sft, first)

    def _experience(self, first: Demonstrated) -> Stage:
        """Try other actions at the steps of demonstrations; the first process does."""
        s = self.settings
        settings = s.experience
        model = first.sft if settings.source == "sft" else first.start
        random = settings.source == "random"
        spec = self.play.spec(
            random_policy
            if random
            else self.play.policy_maker(model, "experience", temperature=settings.temperature),
            s.train_split,
            {"admissible_actions": True} if random else None,
        )

        def work(folder: Path) -> Any:
            with self.play.playing(spec) as ready:
                return self.play.processes.first(lambda: self._gather(ready, first.experts, folder))

        depends_on = {
            "env": s.env,
            "env_kwargs": s.env_kwargs(),
            "seed": s.seed,
            "tasks": s.explore_tasks,
            "prompt_style": s.prompt_style,
            **s.read_so(),
            **self.play.limits,
            "version": eto_gym.__version__,
            **deciding(settings),
        }
        inputs = (first.experts,) if random else (model, first.experts)
        return self.play.folder.run("experience", work, settings=depends_on, inputs=inputs)

    def _gather(self, spec: RolloutSpec, experts: Stage, folder: Path) -> dict[str, Any]:
        s = self.settings
        env = ConversationEnv(spec.make_env(), prompt_style=s.prompt_style, history=s.history)
        policy = spec.make_policy()
        try:
            chosen = chosen_experts(experts, s.explore_tasks, seed=s.seed)
            repeated = [repeat_expert(env, expert) for expert in chosen]
            paths: list[ExpertPath] = [path for path in repeated if path is not None]
            found, report = gather_experience(env, paths, policy, s.experience, seed=s.seed)
        finally:
            env.close()
            if (close := getattr(policy, "close", None)) is not None:
                close()
        if s.experience.source != "random":
            self.play.check_replies(report.errors, report.asked, "experience")
        report.not_repeated = len(chosen) - len(paths)
        write_trajectories(folder, found)
        return report.to_json()

    def _predict(self, start: Stage, experience: Stage) -> Stage:
        """Train the start model to say what is observed after each action."""
        settings = self.settings.world

        def work(folder: Path) -> Any:
            rows = load_trajectories(experience)
            if not rows:
                raise NothingToLearn(
                    f"experience holds no action to learn from: {experience.result}. Raise "
                    "experience.tries or its temperature, or set its source to 'random'"
                )
            report = run_sft(
                settings,
                rows,
                model=model_of(start),
                output=folder / MODEL,
                resume=True,
                watch=Watch(progress=self.settings.progress),
            )
            return asdict(report)

        return self.play.folder.run(
            "world", work, settings=deciding(settings), inputs=(start, experience)
        )
