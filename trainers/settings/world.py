"""Settings that the loops share: environment, model, play, experts, exploration, control."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self, get_args

from eto_gym.agents.models.hardware import DTYPES
from eto_gym.agents.models.tiny import SMALLEST_VOCABULARY
from eto_gym.conversation import PromptStyle
from eto_gym.history import FULL, STATE_VERSION, check_room
from eto_gym.prompt import Feedback
from eto_gym.registration import check_arguments, data_kwargs
from eto_gym.trainers.settings.ahead import check_ahead
from eto_gym.trainers.settings.base import SettingsError, check_values, option
from eto_gym.trainers.settings.methods import SFTSettings
from eto_gym.trainers.settings.playing import PlayerSettings

_LEAST = {
    "max_steps": 0,
    "eval_tasks": 0,
    "dev_tasks": 0,
    "dev_every": 0,
    "patience": 0,
    "slots": 1,
    "workers": 1,
    "train_tasks": 0,
    "iterations": 0,
    "explore_tasks": 0,
    "explore_samples": 1,
    "explore_temperature": 0,
    "step_tasks": 0,
    "later_tokens": 0,
    "control_epochs": 0,
    "control_tokens": 0,
    "control_rate": 0,
    "max_new_tokens": 1,
    "max_context": 1,
    "seed": 0,
}

_LEAST_OF_BASE = {
    "tasks": 0,
    "samples": 1,
    "steps": 1,
    "vocab_size": SMALLEST_VOCABULARY,
    "hidden_size": 1,
    "layers": 1,
    "heads": 1,
    "kv_heads": 1,
    "mlp_size": 1,
    "context": 1,
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """Size of the tiny model, the play that it learns from, and how it learns.

    A pretrained model knows words before it meets a benchmark. A model from scratch knows none, and
    from demonstrations alone it learns them by heart. The base stage gives it what pretraining
    gives others, on episodes that demonstrate no task.
    """

    tasks: int = option(1500, "training tasks that are played aimlessly")
    samples: int = option(1, "episodes of play per task")
    steps: int = option(
        20, "steps of play per episode; short ones show more houses for the same number of tokens"
    )
    vocab_size: int = option(768, "tokens of the byte-level BPE, trained on the play")
    hidden_size: int = option(128, "width of the decoder")
    layers: int = option(3, "decoder layers")
    heads: int = option(4, "attention heads")
    kv_heads: int = option(2, "heads of keys and values; fewer make long contexts cheaper")
    mlp_size: int = option(384, "inner width of the feed-forward part")
    context: int = option(2048, "longest conversation in tokens")
    seed: int = option(0, "seed of the weights")
    train: SFTSettings = field(
        default_factory=lambda: SFTSettings(
            train_on="all",
            optimizer="muon",
            learning_rate=1e-2,
            adam_beta2=0.95,
            epochs=1.0,
            batch_size=4,
            micro_batch_size=4,
            schedule="linear",
            max_length=2048,
            truncation="cut",
        )
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        check_values(self, _LEAST_OF_BASE)
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise SettingsError(
                f"expected hidden_size ({self.hidden_size}) to be a multiple of heads "
                f"({self.heads}), and that of kv_heads ({self.kv_heads})"
            )


@dataclass(frozen=True, kw_only=True)
class WorldSettings(PlayerSettings):
    """What every loop needs: an environment, a model, and how episodes are played and scored."""

    env: str = option(
        "ETO/ALFWorld-v0",
        "environment: a registered id, `module:id`, or alfworld, webshop, scienceworld",
    )
    data: str = option(
        "builtin",
        "'builtin' for the benchmark's own tasks, or a folder of official data (ALFWorld's games, "
        "WebShop's catalog)",
    )
    env_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "further arguments of gym.make, such as {'action_grammar': 'put'}"},
    )
    model: str = option(
        "tiny",
        "'tiny' builds a small model from scratch; else a model folder, a GGUF file, smollm2, or a "
        "hub name",
    )
    train_split: str = option("train", "split that is demonstrated and explored")
    eval_split: str = option("test", "held-out split that every policy is evaluated on")
    eval_tasks: int = option(0, "tasks to evaluate on; 0: all")
    dev_tasks: int = option(
        0,
        "tasks of the dev split that are played while a preference or a reward is trained on: the "
        "weights with the best success are kept, and they may be those that it began with; 0: none",
    )
    dev_split: str = option(
        "dev",
        "split of these tasks, not the one that is reported. Where it is the training split, for "
        "an environment that has no other, its last tasks, a quarter of them at most, are set "
        "aside for this and not trained on",
    )
    dev_every: int = option(
        0, "optimizer steps (rounds, for PPO) between two such evaluations; 0: each epoch (round)"
    )
    patience: int = option(
        3, "end such training after this many evaluations without a new best; 0: never"
    )
    max_steps: int = option(
        0, "replies per episode; 0: the environment's registered limit", paper="ALFWorld 40"
    )
    prompt_style: PromptStyle = option(
        "one-shot",
        "what precedes the first observation: one-shot, instruction, or none",
        paper="one-shot",
        choices=get_args(PromptStyle),
    )
    history: str = option(
        FULL,
        "how much of a conversation is read for a reply, in play and in training alike: full; "
        "last:K for the instruction, the task and the last K exchanges; or state for these and "
        "what the environment writes of what was seen so far",
        paper="full",
    )
    feedback: Feedback = option(
        "plain",
        "helpful answers an action that came to nothing with why, as far as the agent can see it",
        paper="plain",
        choices=get_args(Feedback),
    )
    template_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "variables of the chat template, in play and in training alike, such as "
            "{'enable_thinking': false} or a date_string; models that are trained have them set in "
            "their template"
        },
    )
    chat_template: str = option(
        "",
        "file with a chat template (Jinja) in place of the model's own, in play and in training "
        "alike; models that are trained have it saved with them",
    )
    max_new_tokens: int = option(256, "longest reply in tokens")
    max_context: int = option(4096, "longest conversation in tokens", paper="4096")
    play_dtype: str = option(
        "auto",
        "precision in which the models of stages play in this process; 'auto': as they were saved, "
        "which is float32 where all weights are trained. bfloat16 needs half the memory, and less "
        "time where the processor has instructions for it; 'hardware' takes it there, and not "
        "elsewhere. A model in training plays as it trains, and servers as their arguments say",
        choices=DTYPES,
    )
    play_compile: bool = option(
        False,
        "compile the decoding step of models that play in this process by torch.compile, on a GPU "
        "into CUDA graphs; has no effect on what names a stage. Each stage and worker compiles "
        "anew, which takes up to minutes. A model in training plays without",
    )
    slots: int = option(
        64, "episodes that are played at the same time, by each process that was launched"
    )
    workers: int = option(
        1,
        "processes that play; each loads the model, unless servers do. Under `accelerate launch` "
        "each process that it starts plays its part, with so many workers of its own on its device",
    )
    seed: int = option(
        0,
        "seed of the task order and of sampling; the seeds of the parts, such as sft.seed, count "
        "from it",
    )
    progress: bool = option(True, "show progress bars")
    preset: str = option("custom", "name of the preset; recorded in reports")
    base: BaseSettings = field(default_factory=BaseSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        check_values(self, _LEAST)
        check_room(self.history, self.max_context)
        if self.play_dtype not in ("auto", "hardware") and self.play_kind != "local":
            raise SettingsError(
                "play_dtype is for play local: servers are told by their own arguments, as in "
                "play_arguments '--dtype bfloat16'"
            )
        if self.play_compile and self.play_kind != "local":
            raise SettingsError("play_compile is for play local: servers decode as they do")
        if self.play_ahead:
            check_ahead(self)
        if self.dev_tasks and self.dev_split == self.eval_split:
            raise SettingsError(
                f"dev tasks choose the weights, so the split that is reported ({self.eval_split!r})"
                " cannot be theirs: set dev_split to another one, such as the training split "
                f"({self.train_split!r}), or dev_tasks to 0"
            )
        parts = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        ranks = {name: part.lora_r for name, part in parts.items() if getattr(part, "lora_r", 0)}
        if len(set(ranks.values())) > 1:
            raise SettingsError(
                "one adapter goes through all trainings: expected the same lora_r in each, got "
                + ", ".join(f"{name}.lora_r {rank}" for name, rank in ranks.items())
            )

    def env_kwargs(self) -> dict[str, Any]:
        """Return the arguments of `gym.make`, the split excepted.

        Raises:
            UnknownNameError: There is no such environment, or it takes no data.
        """
        limit = {"max_episode_steps": self.max_steps} if self.max_steps else {}
        more = {**self.env_options}
        if self.feedback != "plain":
            more["feedback"] = self.feedback
        check_arguments(self.env, more)
        return {**data_kwargs(self.env, self.data), **limit, **more}

    def read_so(self) -> dict[str, Any]:
        """Return what a stage depends on by how conversations are read: nothing by default."""
        return {
            **({} if self.history == FULL else {"history": self.history}),
            **({"state_text": STATE_VERSION} if self.history.startswith("state") else {}),
            **({"template_kwargs": self.template_kwargs} if self.template_kwargs else {}),
            **({"chat_template": self.chat_template} if self.chat_template else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        return dataclasses.asdict(self)

    def seeded(self) -> Self:
        """Return these settings with the run's seed added to the seeds of all parts."""
        shared = self.template_kwargs, self.chat_template
        return dataclasses.replace(self, **_parts_seeded(self, self.seed, *shared))


def _parts_seeded(
    settings: Any, seed: int, variables: dict[str, Any], template: str
) -> dict[str, Any]:
    """Return the parts of a dataclass, with `seed` added to their seeds, at any depth.

    Those that train have the `variables` of the chat template beside their own, and the `template`
    where they have none.
    """
    found: dict[str, Any] = {}
    for part in dataclasses.fields(settings):
        value = getattr(settings, part.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            own: dict[str, Any] = {}
            if hasattr(value, "seed"):
                own["seed"] = value.seed + seed
            if variables and hasattr(value, "template_kwargs"):
                own["template_kwargs"] = {**variables, **value.template_kwargs}
            if template and hasattr(value, "chat_template") and not value.chat_template:
                own["chat_template"] = template
            parts = _parts_seeded(value, seed, variables, template)
            found[part.name] = dataclasses.replace(value, **own, **parts)
    return found


@dataclass(frozen=True, kw_only=True)
class ExpertSettings:
    """Where demonstrations come from."""

    train_tasks: int = option(0, "tasks to demonstrate; 0: all", paper="all")
    expert_file: str = option(
        "",
        "demonstrations in the paper's SFT form or as stored trajectories; eto:webshop, "
        "eto:sciworld or eto:alfworld: those of the paper; empty: own expert",
    )
    strict: bool = option(
        False, "refuse an expert file with corrupt lines instead of skipping them"
    )
    eval_start: bool = option(
        True,
        "also evaluate the model that SFT starts from, which often solves nothing and takes the "
        "longest to say so",
        decides=False,
    )


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """What stands beside the method: plain SFT on the same demonstrations."""

    control: bool = option(
        True, "also continue SFT on the same demonstrations, as the control for preference training"
    )
    control_epochs: float = option(
        0.0,
        "epochs of the control over the demonstrations, whatever sft says; 0: as long as SFT, in "
        "epochs, steps or tokens",
    )
    control_tokens: int = option(
        0, "tokens that the control trains on, in place of epochs; 0: as control_epochs says"
    )
    control_rate: float = option(
        1.0,
        "learning rates of the control, as a part of SFT's: at all of it the few steps of a new "
        "optimizer may undo what SFT taught",
    )

    def control_of(self, sft: SFTSettings) -> SFTSettings:
        """Return the settings of the control: as long, and as fast, as it says, or as SFT."""
        sft = dataclasses.replace(
            sft,
            learning_rate=self.control_rate * sft.learning_rate,
            muon_learning_rate=self.control_rate * sft.muon_learning_rate,
        )
        if self.control_tokens:
            return dataclasses.replace(sft, train_tokens=self.control_tokens)
        if self.control_epochs:
            return dataclasses.replace(sft, epochs=self.control_epochs, max_steps=0, train_tokens=0)
        return sft


@dataclass(frozen=True, kw_only=True)
class ExplorationSettings:
    """How the agent explores, and how often."""

    iterations: int = option(
        1, "rounds of exploration and training on what it found", paper="ALFWorld 1, others 2"
    )
    explore_tasks: int = option(
        0, "tasks to explore; 0: those that are demonstrated, or all", paper="all"
    )
    explore_samples: int = option(1, "episodes per task in exploration", paper="1")
    explore_temperature: float = option(
        0.0, "sampling temperature of exploration; 0: greedy", paper="0"
    )

    @property
    def rounds(self) -> int:
        """How often the agent explores, each time with a training after it."""
        return self.iterations
