"""GRPO by TRL's own trainer, with our environments as tools, for a model that can call tools.

python docs/examples/grpo_with_trl.py Qwen/Qwen3-0.6B runs/grpo-tools
"""

from __future__ import annotations

import sys
from typing import Any

from trl import GRPOConfig, GRPOTrainer

import eto_gym  # noqa: F401  registers the environments
from eto_gym.trainers.tool_env import tool_dataset, tool_environments


def main(
    model: Any,
    output: str,
    env_id: str = "ETO/ALFWorld-v0",
    *,
    tokenizer: Any = None,
    env_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> GRPOTrainer:
    """Train `model` on the tasks of an environment.

    Args:
        model: Name or folder of a model, or the model.
        output: Folder of the checkpoints.
        env_id: The environment.
        tokenizer: The model's, where the model is no name.
        env_kwargs: Arguments of `gym.make`, such as the split.
        options: Further arguments of `GRPOConfig`.
    """
    trainer = GRPOTrainer(
        model,
        environment_factory=tool_environments(env_id, **(env_kwargs or {})),
        train_dataset=tool_dataset(env_id, **(env_kwargs or {})),
        processing_class=tokenizer,
        args=GRPOConfig(output, **{"max_completion_length": 4096, **options}),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
