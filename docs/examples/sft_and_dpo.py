"""ETO by hand: SFT on the expert's episodes, then DPO on the model's failures against them.

python docs/examples/sft_and_dpo.py MODEL runs/by-hand
"""

import functools
import sys
from pathlib import Path

import gymnasium as gym

import eto_gym  # noqa: F401  registers the environments
from eto_gym.agents import RolloutSpec, collect, plan_episodes
from eto_gym.agents.policies import expert_policy, local_policy
from eto_gym.trainers import DPOSettings, PairingSettings, SFTSettings, make_pairs, run_dpo, run_sft


def main(
    model: str, folder: str, env_id: str = "ETO/ALFWorld-v0", count: int = 200, **sft: float
) -> None:
    """Train `model` on `count` tasks; `sft` are settings of SFT."""
    out = Path(folder)
    with gym.make(env_id) as env:
        episodes = plan_episodes(env.unwrapped.task_set.ids[:count])  # type: ignore[attr-defined]
    experts = collect(RolloutSpec(env_id, expert_policy), episodes)
    run_sft(SFTSettings(**sft), experts, model=model, output=out / "sft")  # type: ignore[arg-type]

    fine_tuned = functools.partial(
        local_policy, str(out / "sft"), temperature=0.7, max_new_tokens=64
    )
    explored = collect(RolloutSpec(env_id, fine_tuned), episodes)
    pairs, report = make_pairs(explored, experts, PairingSettings())
    print(f"{report.pairs} pairs; not paired: {dict(report.skipped)}")
    run_dpo(
        DPOSettings(batch_size=8, micro_batch_size=4), pairs, model=out / "sft", output=out / "dpo"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
