"""What PPO adds to a model and to a run: the value head, the end of rounds, their checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from eto_gym.trainers.data.encoding import TokenReport
from eto_gym.trainers.methods.row_forests import turn_starts
from eto_gym.trainers.model.scoring import VALUE_HEAD, Score
from eto_gym.trainers.model.weights import load_weights, save_weights
from eto_gym.trainers.run.callbacks import checkpoint_folder

HEAD_FILE = "value_head.safetensors"


class RoundKeeper(TrainerCallback, ExportableState):
    """Ends steps as rounds demand, and keeps in checkpoints what transformers does not know of."""

    def __init__(self, trainer: Any, *, every: int) -> None:
        """Prepare.

        Args:
            trainer: The `PPOTrainer`.
            every: Rounds between checkpoints, 0: only the last.
        """
        self._trainer = trainer
        self._every = every

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        trainer = self._trainer
        data, notes = dataclasses.asdict(trainer.data), dict(getattr(trainer, "notes", {}))
        return {"args": {}, "attributes": {"done": trainer.done, "data": data, "notes": notes}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on from the round of a checkpoint, whose weights are loaded already."""
        if state.global_step:
            load_weights(self._trainer.head, checkpoint_folder(args, state) / HEAD_FILE)
            kept = state.stateful_callbacks[type(self).__name__]["attributes"]
            self._trainer.done = kept["done"]
            self._trainer.data.include(TokenReport.from_json(kept["data"]))
            self._trainer.notes.update(kept.get("notes", {}))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save after every so many rounds, and after the last."""
        if self._trainer.end_step():
            done, total = self._trainer.progress()
            control.should_training_stop |= done == total
            due = self._every > 0 and done % self._every == 0
            control.should_save = control.should_training_stop or due

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the value head to a checkpoint; one of adapters has them alone."""
        if state.is_world_process_zero:
            save_weights(self._trainer.head, checkpoint_folder(args, state) / HEAD_FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the value head off the model, which is then one as any other."""
        if hasattr(self._trainer.bare, VALUE_HEAD):
            delattr(self._trainer.bare, VALUE_HEAD)


class ValueHead(torch.nn.Module):
    """Predicts what is still to be earned from the state before a turn; starts at zero."""

    def __init__(self, width: int) -> None:
        """Prepare for hidden states of `width` numbers."""
        super().__init__()
        self.linear = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    @classmethod
    def added_to(cls, model: Any) -> ValueHead:
        """Make one a part of a model: moved, wrapped for devices and clipped with the rest.

        Args:
            model: The model itself, not a wrapper of PEFT around it.
        """
        head = cls(model.config.get_text_config().hidden_size)
        head = head.to(model.get_input_embeddings().weight.device)
        model.add_module(VALUE_HEAD, head)
        return head

    def forward(self, hidden: torch.Tensor, score: Score) -> torch.Tensor:
        """Return one value per turn in float32, row by row.

        Args:
            hidden: The last hidden states of a batch, (B, T, width).
            score: Its labels, (B, T); a run of them is a turn, and none stands first in a row. Of a
                tree, the places of the states before its turns come third.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            # states: (turns of the batch, width)
            if isinstance(score, torch.Tensor):
                states = hidden[:, :-1][turn_starts(score)].to(self.linear.weight.dtype)
            else:
                starts = score[2] if len(score) > 2 else score[0][:0]
                states = hidden[0].index_select(0, starts.to(hidden.device))
                states = states.to(self.linear.weight.dtype)
            values: torch.Tensor = self.linear(states).squeeze(-1)
        return values
