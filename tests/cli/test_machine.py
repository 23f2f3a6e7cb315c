"""What a machine refuses is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from eto_gym.cli.main import main
from tests.toy import CORRIDOR


@pytest.mark.parametrize(
    "command",
    [
        "rollout alfworld --policy random --limit 1 --out {place}/run",
        "rollout alfworld --policy random --limit 1 --out {place}/run.jsonl",
        "eval alfworld --policy random --limit 1 --out {place}/report.json",
        "expert alfworld --limit 1 --out {place}/experts.jsonl",
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing can be made below a file, whoever asks; a read-only folder means nothing to root.
    place = tmp_path / "file"
    place.write_text("in the way", encoding="utf-8")
    assert main(command.format(place=place).split()) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(place) in told
    assert told.startswith("eto-gym ")


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"null", b"\xff\xfe", b"\0" * 9, b"[" * 100_000, b'{"env": ', b"\xef\xbb\xbf{}"],
)
def test_a_damaged_settings_file_is_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.settings.json").write_bytes(content)
    command = f"rollout alfworld --policy random --limit 1 --out {tmp_path}/run.jsonl"
    assert main(command.split()) == 2
    assert "run.settings.json does not say how" in capsys.readouterr().err
    assert (tmp_path / "run.settings.json").read_bytes() == content


@pytest.mark.parametrize("command", ["eval --from {out}", "compare {out} {out}"])
def test_scores_of_damaged_files_are_refused_or_leave_out_what_is_damaged(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("scipy")
    out = tmp_path / "run.jsonl"
    assert main(f"rollout {CORRIDOR} --policy random --limit 2 --out {out}".split()) == 0
    words = command.format(out=out).split()
    assert main(words) == 0
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0].replace('"reward":', '"reward":1') + lines[1])
    assert main(words) == 0
    assert "run.jsonl:1: skipping a corrupt line (the record is not the one" in caplog.text
    for content in (b"[" * 20_000, b"null", b"\xff"):
        (tmp_path / "run.settings.json").write_bytes(content)
        capsys.readouterr()
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "run.settings.json" in err
