"""`eto-gym train sft|dpo --data FILE`: one training on what a file holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from eto_gym.agents.models.model_names import check_model
from eto_gym.cli.train.options import MAIN_OF_METHODS, Command, printed, read_command
from eto_gym.errors import DataError
from eto_gym.trainers.data.pairing import make_pairs
from eto_gym.trainers.run.training import TrainReport
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trainers.settings.methods import DPOSettings, SFTSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.formats import (
    ReadReport,
    is_pair,
    read_demonstrations,
    read_pairs,
    read_records,
)
from eto_gym.trajectories.pairs import PreferencePair

T = TypeVar("T")

_DATA = {
    "sft": "conversations: stored trajectories, the paper's SFT form, the Hugging Face form and "
    "others (docs/data.md), as a JSON list or as JSON Lines",
    "dpo": "pairs in the paper's DPO form, the Hugging Face preference form and others "
    "(docs/data.md), or trajectories, which are paired here; as a JSON list or as JSON Lines",
}


_WHAT = {
    "sft": "Fine-tune a model on trajectories.",
    "dpo": "Train a model to prefer the chosen continuations, with itself as the reference.",
}


def file_command(method: str) -> Command:
    """Return what the command of a method that trains on a file takes."""
    return Command(
        method=method,
        description=_WHAT[method],
        settings=SFTSettings if method == "sft" else _PairsAndDPO,
        flags=functools.partial(_add_flags, method),
        main=MAIN_OF_METHODS,
    )


def _add_flags(method: str, parser: Any) -> None:
    parser.add_argument("--data", required=True, metavar="FILE", help=_DATA[method])
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="model or adapter folder, GGUF file, smollm2, or hub name",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="folder of the new model; an interrupted run is continued",
    )
    parser.add_argument(
        "--restart", action="store_true", help="discard the checkpoints of an interrupted run"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a file with corrupt lines or records"
    )
    parser.add_argument(
        "--progress", type=bool, default=True, help="show a progress bar (default: True)"
    )
    if method == "sft":
        parser.add_argument(
            "--failures",
            action="store_true",
            help="learn from trajectories that failed too; otherwise they are left out",
        )
    else:
        parser.add_argument(
            "--experts",
            default="",
            metavar="FILE",
            help="trajectories to pair those of --data with",
        )


@dataclass(frozen=True, kw_only=True)
class _PairsAndDPO(DPOSettings):
    """Settings of DPO on a file, which may hold trajectories that are to be paired."""

    pairing: PairingSettings = field(default_factory=PairingSettings)


def train_on_file(method: str, argv: Sequence[str]) -> int:
    """Run SFT or trajectory DPO on a file."""
    chosen = read_command(file_command(method), argv)
    options, settings = chosen.options, chosen.settings
    if options.dry_run:
        print(printed(chosen, data=options.data, model=options.model, out=options.out))
        return 0
    check_model(options.model)  # before anything long begins
    from eto_gym.trainers import Watch, run_dpo, run_sft

    keywords: dict[str, Any] = {
        "model": options.model,
        "output": Path(options.out),
        "resume": not options.restart,
        "watch": Watch(progress=options.progress),
    }
    if method == "sft":
        shown = _demonstrations(Path(options.data), options.failures, strict=options.strict)
        report = run_sft(settings, shown, **keywords)
    else:
        alone = {item.name: getattr(settings, item.name) for item in fields(DPOSettings)}
        report = run_dpo(
            DPOSettings(**alone),
            _pairs(Path(options.data), options.experts, settings.pairing, strict=options.strict),
            **keywords,
        )
    print(_summary(report))
    return 0


def _demonstrations(path: Path, failures: bool, *, strict: bool) -> list[Trajectory]:
    everything = _read(read_demonstrations, path, strict=strict)
    chosen = [t for t in everything if t.success or (failures and t.scored)]
    if left := len(everything) - len(chosen):
        print(f"{path}: left out {left} of {len(everything)} trajectories that did not succeed")
    return chosen


def _pairs(
    path: Path, experts: str, pairing: PairingSettings, *, strict: bool
) -> list[PreferencePair]:
    records = read_records(path, strict=strict)
    paired = sum(map(is_pair, records))
    if paired:
        if paired < len(records):
            raise DataError(
                f"{path} holds {paired} pairs and {len(records) - paired} other records: put them "
                "into files of their own"
            )
        if experts:
            raise DataError(f"{path} holds pairs already: --experts is for trajectories")
        return _read(read_pairs, path, strict=strict)
    if pairing.contrast == "expert" and not experts:
        raise DataError(
            f"{path} holds trajectories: give --experts FILE to pair them with, or "
            "--pairing.contrast self to pair them with each other"
        )
    pairs, report = make_pairs(
        _read(read_demonstrations, path, strict=strict),
        _read(read_demonstrations, experts, strict=strict) if experts else (),
        pairing,
    )
    print(f"{path}: {report.pairs} pairs; not paired: {dict(report.skipped) or 'none'}")
    return pairs


def _read(
    read: Callable[..., tuple[list[T], list[int]]], path: str | Path, *, strict: bool
) -> list[T]:
    """Read a file, and say what became of its records."""
    report = ReadReport()
    items, _ = read(path, strict=strict, report=report)
    for line in report.lines():
        print(line)
    return items


def _summary(report: TrainReport) -> str:
    lines = [
        f"{report.output}: {report.steps} steps in {report.seconds:.1f} s "
        f"({report.tokens_per_second:.0f} tokens/s), loss {report.final_loss:.4f}",
        f"{report.data.rows} rows, {report.data.tokens} tokens, of which "
        f"{report.data.trained_tokens} trained; {report.data.cut} cut, {report.data.dropped} "
        "dropped",
    ]
    return "\n".join(lines)
