"""What training does with the CPU it is on: which precision, and memory that it gives back."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eto_gym.trainers import SFTSettings, run_sft
from eto_gym.trainers.run.training import TrainReport, Watch
from eto_gym.trajectories import Trajectory

torch = pytest.importorskip("torch")
cpu = pytest.importorskip("eto_gym.trainers.model.cpu")
hardware = pytest.importorskip("eto_gym.agents.models.hardware")
base_trainer = pytest.importorskip("eto_gym.trainers.run.base_trainer")


def has(
    monkeypatch: pytest.MonkeyPatch, vendor: str = "AuthenticAMD", **capabilities: bool
) -> None:
    monkeypatch.setattr(hardware, "vendor", lambda: vendor)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **capabilities})
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)


@pytest.mark.parametrize(
    ("vendor", "capabilities", "bf16"),
    [
        ("AuthenticAMD", {}, False),
        ("AuthenticAMD", {"avx512_bf16": False}, False),
        ("AuthenticAMD", {"avx512_bf16": True}, True),
        ("GenuineIntel", {"avx512_bf16": True}, False),
        ("GenuineIntel", {"avx512_bf16": True, "amx_bf16": True}, True),
        ("", {"avx512_bf16": True}, True),
    ],
)
def test_hardware_means_bf16_where_the_cpu_gains_by_it(
    monkeypatch: pytest.MonkeyPatch, vendor: str, capabilities: dict[str, bool], bf16: bool
) -> None:
    from eto_gym.trainers.model.models import uses_bf16

    has(monkeypatch, vendor, **capabilities)
    assert uses_bf16(SFTSettings(precision="hardware")) is bf16
    assert not uses_bf16(SFTSettings(precision="fp32"))
    assert not uses_bf16(SFTSettings(precision="auto"))  # for a GPU alone, as ever
    assert uses_bf16(SFTSettings(precision="bf16"))
    assert hardware.played_dtype("hardware", "cpu") == ("bfloat16" if bf16 else "auto")
    assert hardware.played_dtype("float32", "cpu") == "float32"
    assert hardware.played_dtype("hardware", "mps") == "auto"  # which torch.cuda cannot be asked of


@pytest.mark.parametrize("bf16", [True, False])
def test_a_model_plays_in_bf16_where_the_cpu_gains_by_it_and_its_card_says_so(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    from eto_gym.agents.evaluation.card import score_card
    from eto_gym.agents.models.loading import load_model

    has(monkeypatch, avx512_bf16=bf16)
    model = load_model(str(tiny), dtype="hardware", device="cpu")
    assert model.dtype is (torch.bfloat16 if bf16 else torch.float32)
    about = {"policy": str(tiny), "dtype": "hardware", "device": "cpu"}
    told = score_card([], about)["sampling"]
    assert told.get("dtype") == ("bfloat16" if bf16 else None)


def test_hardware_trains_as_the_precision_that_it_chose_and_reports_it(
    tiny: Path,
    make_play: Callable[..., Trajectory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plays = [make_play(n, rounds=1 + n % 4) for n in range(4)]
    returned: list[None] = []
    monkeypatch.setattr(base_trainer, "return_freed_memory", lambda: returned.append(None))

    def train(precision: str) -> TrainReport:
        settings = SFTSettings(
            learning_rate=3e-3, max_steps=2, batch_size=4, micro_batch_size=2, precision=precision
        )
        quiet = Watch(progress=False)
        return run_sft(settings, plays, model=tiny, output=tmp_path / "out", watch=quiet)

    losses = {name: [m["loss"] for m in train(name).metrics] for name in ("fp32", "bf16")}
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=0.02)
    assert losses["fp32"] != losses["bf16"]
    assert len(returned) == 4  # once in each optimizer step, not in each of its two passes
    for name, capable in (("bf16", True), ("fp32", False)):
        has(monkeypatch, avx512_bf16=capable)
        report = train("hardware")
        assert report.notes["precision"] == name
        assert [entry["loss"] for entry in report.metrics] == losses[name]
    assert "precision" not in train("fp32").notes


@pytest.mark.parametrize("held", ["avx2", "default"])
def test_a_cpu_whose_instructions_are_held_back_attends_in_bf16(
    monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """On a CPU with AMX torch fails there by itself, unless oneDNN is held back too."""
    has(monkeypatch, amx_bf16=True)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", held)
    assert not hardware.multiplies_bf16()
    code = (
        "import os, eto_gym.agents, torch\n"
        "x = torch.ones(2, 4, 600, 64, dtype=torch.bfloat16)\n"
        "torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)\n"
        "print(os.environ['ONEDNN_MAX_CPU_ISA'])"
    )
    for given, expected in ((None, "AVX2"), ("AVX", "AVX")):  # what is set by hand stays
        if given is None:
            monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        else:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", given)
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert said.stdout.strip() == expected, said.stderr


@pytest.mark.skipif(platform.system() != "Linux", reason="where Linux tells it")
def test_the_vendor_is_read_from_the_system() -> None:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "vendor" in line]
    assert hardware.vendor() == (named[0].split()[-1] if named else "")


def test_only_a_large_process_returns_memory_within_each_pass(
    tiny: Path,
    make_play: Callable[..., Trajectory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    returned: list[None] = []
    monkeypatch.setattr(cpu, "return_freed_memory", lambda: returned.append(None))
    settings = SFTSettings(max_steps=2, batch_size=4, micro_batch_size=2)
    plays = [make_play(n) for n in range(4)]
    # Two steps of two passes, there and back.
    for large, limit, expected in ((1 << 50, 1, 0), (0, 1 << 50, 0), (0, 1 << 20, 8)):
        monkeypatch.setattr(cpu, "LARGE", large)
        monkeypatch.setattr(cpu, "memory_limit", lambda limit=limit: limit)
        quiet = Watch(progress=False)
        run_sft(settings, plays, model=tiny, output=tmp_path / "out", watch=quiet)
        assert len(returned) == expected
