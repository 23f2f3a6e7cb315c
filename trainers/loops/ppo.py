"""The PPO baseline as a loop: SFT on the experts, then PPO from there."""

from __future__ import annotations

from eto_gym.trainers.loops.on_policy import OnPolicyLoop
from eto_gym.trainers.methods.ppo import run_ppo
from eto_gym.trainers.settings.loops import PPOLoopSettings


class PPOLoop(OnPolicyLoop[PPOLoopSettings]):
    """One run of the PPO baseline in a run folder."""

    method = "ppo"

    def _run_stages(self) -> None:
        s = self.settings
        first = self._demonstrate(s, s.sft)
        learnt = self._learn(
            first.sft, run_ppo, part="ppo", settings=s.ppo, episodes=s.ppo.episodes
        )
        self.play.evaluate("PPO", "ppo", learnt)
