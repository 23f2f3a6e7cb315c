"""GRPO by TRL's own trainer, with our environments as tools, for a model that can call tools.

python docs/examples/grpo_with_trl.py Qwen/Qwen3-0.6B runs/grpo-tools
"""

from __future__ import annotations

import sys
from typing import Any

from trl import GRPOConfig, GRPOTrainer

import eto_gym  # noqa: F401  registers the environments
from eto_gym.trainers.tool_env import tool_dataset, tool_environments


def main(model: Any, output: str, env_id: str = "ETO/ALFWorld-v0", **options: Any) -> GRPOTrainer:
    """Train `model` on the tasks of an environment.

    Args:
        model: Name or folder of a model, or the model.
        output: Folder of the checkpoints.
        env_id: The environment.
        options: Further arguments of `GRPOConfig`, and `processing_class` of the trainer.
    """
    tokenizer = options.pop("processing_class", None)
    trainer = GRPOTrainer(
        model,
        environment_factory=tool_environments(env_id),
        train_dataset=tool_dataset(env_id),
        processing_class=tokenizer,
        args=GRPOConfig(output, **{"max_completion_length": 4096, **options}),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:3])
