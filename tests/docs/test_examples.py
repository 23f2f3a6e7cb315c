"""Every example is run as its reader runs it, as small as it can be."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from eto_gym.testing.fake_endpoint import FakeEndpoint
from tests.docs.conftest import ROOT
from tests.toy import CORRIDOR

EXAMPLES = ROOT / "docs/examples"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(name)


def run(*argv: str, cwd: Path, paths: list[Path]) -> str:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths]))}
    done = subprocess.run(
        [sys.executable, *argv], cwd=cwd, env=environ, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(folder: Path) -> Path:
    """Put the maze where an installed package would be, with what names its entry point."""
    info = folder / "maze-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: maze\nVersion: 0.1.0\n")
    told = (EXAMPLES / "maze/pyproject.toml").read_text()
    line = told[told.index('[project.entry-points."eto_gym.environments"]') :].splitlines()[1]
    assert line == '"Maze-v0" = "maze"'
    (info / "entry_points.txt").write_text("[eto_gym.environments]\nMaze-v0 = maze\n")
    (folder / "maze.py").write_text((EXAMPLES / "maze/maze.py").read_text())
    return folder


def test_an_outside_package_is_found_and_played(tmp_path: Path) -> None:
    site = installed(tmp_path / "site")
    command = ["eval", "maze", "--policy", "expert", "--limit", "5", "--out", "e.jsonl"]
    said = run("-m", "eto_gym.cli.main", *command, cwd=tmp_path, paths=[site])
    report = json.loads((tmp_path / "e.report.json").read_text())
    assert report["results"]
    assert report["card"]["env"] == "maze:Maze-v0"
    assert "1.000" in said


def test_an_outside_package_keeps_the_rules(tmp_path: Path) -> None:
    site = installed(tmp_path / "site")
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}"]
    said = run(
        "-m", "pytest", *options, str(EXAMPLES / "maze"), cwd=tmp_path, paths=[site]
    )  # fmt: skip
    assert " passed" in said
    assert "skipped" not in said


def test_an_endpoint_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    example = load("evaluate_endpoint", monkeypatch)
    out = tmp_path / "e.jsonl"
    with FakeEndpoint(models=["m"]) as fake:
        arguments = [fake.url, "--env", CORRIDOR, "--limit", "6", "--out", str(out)]
        example.main(arguments)
        asked = len(fake.requests)
        example.main(arguments)  # all of it is there
        assert len(fake.requests) == asked
    assert len(out.read_text().splitlines()) == 6
    assert "success" in capsys.readouterr().out


def test_sft_and_dpo_from_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    monkeypatch.setenv("ETO_GYM_DATA", str(tmp_path / "data"))
    texts = ["Your task is to: open door 3. You are at door 1.", "Thought: Further on.\nAction: go"]
    tokenizer = train_tokenizer(texts * 4, vocab_size=300)
    model = build_model(tokenizer, hidden_size=32, layers=1, heads=2, mlp_size=64, context=4096)
    example = load("sft_and_dpo", monkeypatch)
    example.main(
        str(save_tiny(model, tokenizer, tmp_path / "tiny")),
        str(tmp_path / "out"),
        CORRIDOR,
        4,
        epochs=1,
    )
    assert (tmp_path / "out/dpo/model.safetensors").is_file()
    assert "4 pairs" in capsys.readouterr().out


def test_the_notebook_runs() -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "look_at_episodes.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # they are made, not kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (last,) = notebook.cells[-1].outputs
    assert last["data"]["text/plain"] == "True"
