"""Python code that comes with a model is never run, and nobody is asked whether it should be."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError, EtoGymError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from eto_gym.agents.models import loading
from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer
from eto_gym.trainers.model import models
from eto_gym.trainers.settings.base import TrainSettings

CLASSES = {name: f"mine.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose every file names code of its own, which would leave a mark."""

    def asked(*_: object) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(builtins, "input", asked)
    tokenizer = train_tokenizer(["Action: go"], vocab_size=280)
    model = build_model(tokenizer, hidden_size=16, layers=1, mlp_size=16, context=64)
    folder = tmp_path / "model"
    save_tiny(model, tokenizer, folder)
    change(folder / "config.json", auto_map=CLASSES)
    change(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Words", "mine.Words"]}
    )
    mark = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")
    return folder


def change(path: Path, **fields: Any) -> None:
    contents = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(contents | fields), encoding="utf-8")


def test_a_known_architecture_is_loaded_without_its_own_code(folder: Path) -> None:
    assert type(loading.load_model(str(folder))).__name__ == "LlamaForCausalLM"
    assert type(models.load_for_training(folder, TrainSettings())).__name__ == "LlamaForCausalLM"
    assert loading.load_tokenizer(str(folder))("go")["input_ids"]
    assert models.load_tokenizer(folder)("go")["input_ids"]
    assert not (folder.parent / "ran").exists()


class Mark:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_pickle_in_the_place_of_weights_is_not_run(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"lm_head.weight": Mark(folder.parent / "ran")}))
    for load in (
        lambda: loading.load_model(str(folder)),
        lambda: models.load_for_training(folder, TrainSettings()),
    ):
        with pytest.raises(DataError):
            load()
    assert not (folder.parent / "ran").exists()


HOSTILE = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{% for a in range(10**9) %}{% endfor %}x",
    "{{ raise_exception('no') }}",
    "{{ messages[99].content }}",
    "{% if %}",
)


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_chat_template_is_refused_in_one_line(folder: Path, template: str) -> None:
    tokenizer = loading.load_tokenizer(str(folder))
    with pytest.raises(EtoGymError) as caught:
        ChatCodec(tokenizer, chat_template=template)
    assert "\n" not in str(caught.value)


def test_what_needs_its_own_code_is_refused_in_one_line(folder: Path) -> None:
    change(folder / "config.json", model_type="mine", architectures=["Mine"])
    for load in (
        lambda: loading.load_model(str(folder)),
        lambda: models.load_for_training(folder, TrainSettings()),
    ):
        with pytest.raises(DataError, match="Python code of its own") as caught:
            load()
        assert "\n" not in str(caught.value)
    assert not (folder.parent / "ran").exists()
