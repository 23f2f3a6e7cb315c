"""A chat template that is given by file is the same in training, in play, and on a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError, EtoGymError
from eto_gym.prompt import Message
from eto_gym.trainers.settings.loops import ETOSettings

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# ruff: noqa: E402
from eto_gym.agents.models.adapters import CONFIG_FILE
from eto_gym.agents.models.loading import read_template
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer
from eto_gym.agents.serving.servers import ModelServers
from eto_gym.agents.serving.templated import link_with_template, settled
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.model.models import default_codec, load_tokenizer

TALK = (Message("user", "Find a mug ."), Message("assistant", "Action: go"), Message("user", "No."))
TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}\r\n{{ mood }} \u2192 "
    "{%- for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] + '<|end|>' }}"
    "{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VARIABLES = {"mood": "gl\u00e4d"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["Find a mug . Action: go"], vocab_size=300)
    model = build_model(tokenizer, hidden_size=8, layers=1, heads=1, kv_heads=1, mlp_size=8)
    return save_tiny(model, tokenizer, tmp_path_factory.mktemp("model"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps({"base_model_name_or_path": str(base)}))
    return folder


@pytest.fixture
def old(base: Path, tmp_path: Path) -> Path:
    """A model whose own template lies in its tokenizer's configuration."""
    folder = tmp_path / "old"
    folder.mkdir()
    for path in base.iterdir():
        if path.name != "chat_template.jinja":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    config["chat_template"] = "{{ 'its own' }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["base", "adapter", "old"])
def test_the_same_words_are_rendered_everywhere(
    kind: str, base: Path, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_GYM_DATE", "2025-03-04")
    model = base if kind == "base" else request.getfixturevalue(kind)
    file = tmp_path / "template.jinja"
    file.write_bytes(TEMPLATE.encode())

    tokenizer = str(base if kind == "adapter" else model)
    trained = default_codec(load_tokenizer(tokenizer, str(file), VARIABLES))
    given: dict[str, Any] = {"chat_template": str(file), "template_kwargs": VARIABLES}
    played = LocalPolicy.from_pretrained(str(base), **given).codec
    link_with_template(str(model), tmp_path / "linked", settled(tokenizer, str(file), VARIABLES))
    served: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "linked")

    chat = [{"role": m.role, "content": m.content} for m in TALK]
    text = served.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.startswith("04 Mar 2025\ngl\u00e4d \u2192<|user|>Find a mug .<|end|>")
    assert text.endswith("<|user|>No.<|end|><|assistant|>")
    ids = served.encode(text, add_special_tokens=False)
    assert ids == trained.generation_prompt(TALK) == played.generation_prompt(TALK)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "linked" / name).is_symlink()
        assert (tmp_path / "linked" / name).read_bytes() == (base / name).read_bytes()
    assert "its own" not in served.chat_template


def test_a_server_gets_a_folder_with_the_template(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATE)
    looks = "import sys; print(open(sys.argv[1] + '/chat_template.jinja').read()); sys.exit(3)"
    servers = ModelServers(
        str(base),
        command=f'python3 -c "{looks}" {{model}} {{host}} {{port}}',
        chat_template=str(file),
        template_kwargs={"date_string": "1 May 2025", **VARIABLES},
        log_folder=tmp_path,
    )
    with pytest.raises(EtoGymError, match="status 3"), servers:
        pass
    log = (tmp_path / "server-0.log").read_text(encoding="utf-8")
    assert "'01 May 2025'" in log
    assert '{% set mood = "gl\u00e4d" %}' in log
    assert not Path(servers.model).exists()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("no/such/file", "no/such/file"),
        ("plain.txt", "plain.txt holds no chat template"),
        ("{{ messages[0].content }}", "without a special token"),
    ],
)
def test_what_is_no_template_is_refused_before_a_server_starts(
    template: str, says: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.txt").write_text("Some\nwords.")
    with pytest.raises((DataError, EtoGymError), match=says) as caught:
        ModelServers(str(base), chat_template=template, command="x {model} {host} {port}")
    assert "\n" not in str(caught.value)


def test_a_loop_plays_and_trains_with_the_template_that_it_is_given(tmp_path: Path) -> None:
    file, other = tmp_path / "template.jinja", tmp_path / "other.jinja"
    text = TEMPLATE.replace("\r\n", "\n")
    file.write_text(text)
    plain = ETOSettings(model="some/model")
    settings = ETOSettings(model="some/model", chat_template=str(file))
    loop = ETOLoop(settings, tmp_path / "run")
    assert loop.settings.sft.chat_template == loop.settings.dpo.chat_template == text
    assert loop.settings.base.train.chat_template == text
    other.write_text(text)  # elsewhere, it decides the same
    again = ETOLoop(ETOSettings(model="some/model", chat_template=str(other)), tmp_path / "other")
    assert again.settings == loop.settings
    assert loop.settings.read_so() == {"chat_template": read_template(str(file))}
    assert ETOLoop(plain, tmp_path / "plain").settings.read_so() == {}

    stage = loop.play.folder.run("model", lambda _: {"model": "m"}, settings={})
    maker: Any = loop.play.policy_maker(stage, "eval", temperature=0.0)
    assert maker.chat_template == text
