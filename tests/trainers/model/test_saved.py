"""A trained folder stops, templates and tokenises for a client without eto-gym as it does here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

# ruff: noqa: E402
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer
from eto_gym.agents.policy import Conversation
from eto_gym.trainers.methods.sft import run_sft
from eto_gym.trainers.model.models import merge_adapter
from eto_gym.trainers.run.watch import Watch
from eto_gym.trainers.settings.methods import SFTSettings

# A reply ends by a token that neither the tokenizer nor the model knows as an end.
TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}{{ mood }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [Message("user", "You see a cup.")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["You see a cup. Action: look"], vocab_size=300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    model = build_model(tokenizer, hidden_size=32, layers=1, mlp_size=64, context=256)
    model.generation_config.pad_token_id = None
    return save_tiny(model, tokenizer, tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize("way", ["full", "merged", "adapter", "merged later"])
def test_a_generic_client_says_what_our_policy_says(base: Path, tmp_path: Path, way: str) -> None:
    reply = Message("assistant", "Action: look", train=True)
    steps = (Step("look", "You win.", 1.0),)
    told = Trajectory("t", "", (*TALK, reply), steps, "terminated", 1.0, True)
    settings = SFTSettings(
        learning_rate=2e-2, epochs=40, batch_size=1, micro_batch_size=1, warmup_ratio=0,
        schedule="constant", max_length=256,
        lora_r=0 if way == "full" else 8, merge_adapter=way == "merged",
        template_kwargs={"mood": "glad", "date_string": "1 May 2025"},
    )  # fmt: skip
    folder = tmp_path / "trained"
    run_sft(settings, [told], model=base, output=folder, watch=Watch(progress=False))
    if way == "merged later":
        merge_adapter(folder, tmp_path / "whole")
        folder = tmp_path / "whole"
    assert (folder / "adapter_config.json").exists() == (way == "adapter")

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": TALK[0].content}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.startswith("01 May 2025glad<|im_start|>user")
    inputs: Any = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    ends: dict[str, Any] = {}
    if way == "adapter":  # transformers takes these from the base, whose folder is not ours
        ends["generation_config"] = transformers.GenerationConfig.from_pretrained(folder)
    found = model.generate(**inputs, max_new_tokens=40, do_sample=False, **ends)
    said = found[0, inputs["input_ids"].shape[1] :].tolist()

    policy = LocalPolicy.from_pretrained(str(folder), max_new_tokens=40, tokens="ids")
    (own,) = policy.act([Conversation("k", TALK)])
    assert list(own.prompt_ids) == inputs["input_ids"][0].tolist()
    assert list(own.token_ids) == said
    assert said[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert own.text == "Action: look"
    config = transformers.GenerationConfig.from_pretrained(folder)
    assert said[-1] in config.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
