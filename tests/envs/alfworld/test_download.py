"""`eto-gym data download alfworld` against a local server with small archives."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

import eto_gym
from eto_gym.cli.main import main
from eto_gym.envs.alfworld import builtin
from eto_gym.envs.alfworld.download import GAMES, RELEASES, TRAJECTORIES, default_folder
from tests.server import Site, serve

assert eto_gym.registered_ids()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Pack built-in games as the official release packs its own."""
    files: dict[str, bytes] = {}
    for verb in GAMES:
        root = tmp_path_factory.mktemp(verb)
        for split in ("train", "dev", "test"):
            builtin.write_games(root, split, count=3, action_grammar=verb)
        members = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        games = {n: data for n, data in members.items() if n.endswith("game.tw-pddl")}
        files[GAMES[verb].path] = _zip(games)
    others = {n: data for n, data in members.items() if n.endswith("traj_data.json")}
    others["json_2.1.1/train/no-game/trial/traj_data.json"] = b"{}"
    files[TRAJECTORIES.path] = _zip(others)
    return files


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def site(archives: dict[str, bytes]) -> Iterator[Site]:
    with serve(dict(archives)) as running:
        yield running


def _command(site: Site, *options: str, games: str = "put") -> int:
    accept = [f"--sha256={TRAJECTORIES.name}=any", f"--sha256={GAMES[games].name}=any"]  # type: ignore[index]
    line = ["data", "download", "alfworld", "--mirror", site.url, "--games", games]
    return main([*line, *accept, *options])


@pytest.mark.parametrize("games", ["put", "move"])
def test_what_was_downloaded_plays(
    site: Site, tmp_path: Path, games: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "alfworld"
    assert _command(site, "--out", str(out), games=games) == 0
    told = capsys.readouterr().out
    assert "train 3, valid_seen 3, valid_unseen 3" in told
    assert str(out) in told
    env = gym.make("ETO/ALFWorld-v0", data=out, split="test", admissible_actions=True)
    _, info = env.reset(seed=0)
    assert ("help" in info["admissible_actions"]) == (games == "move")
    # Trials without a game, and the archives, are not left lying about.
    assert not (out / "json_2.1.1/train/no-game").exists()
    assert not list(out.glob("archives/*.zip"))


def test_a_second_call_asks_nothing_of_the_network(site: Site, tmp_path: Path) -> None:
    assert _command(site, "--out", str(tmp_path)) == 0
    asked = len(site.requests)
    assert _command(site, "--out", str(tmp_path)) == 0
    assert len(site.requests) == asked


def test_a_killed_unpacking_is_completed(site: Site, tmp_path: Path) -> None:
    assert _command(site, "--out", str(tmp_path), "--keep-archives") == 0
    asked = len(site.requests)
    # As if killed before the end: no marker, one file missing, one cut off.
    (tmp_path / "eto-gym-download.json").unlink()
    first, second, *_ = sorted(tmp_path.rglob("game.tw-pddl"))
    whole = second.read_bytes()
    first.unlink()
    second.write_bytes(whole[:100])
    assert _command(site, "--out", str(tmp_path), "--keep-archives") == 0
    assert first.exists()
    assert second.read_bytes() == whole
    assert len(site.requests) == asked
    record = json.loads((tmp_path / "eto-gym-download.json").read_text())
    assert record["games"] == {"train": 3, "valid_seen": 3, "valid_unseen": 3}


def test_a_wrong_checksum_stops_it(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without `any`, the checksums of the real archives apply.
    line = ["data", "download", "alfworld", "--mirror", site.url, "--out", str(tmp_path)]
    assert main(line) == 2
    assert f"expected {GAMES['put'].sha256}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.zip"))


def test_a_damaged_archive_is_an_error(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files[GAMES["put"].path] = b"<html>not found</html>"
    assert _command(site, "--out", str(tmp_path)) == 2
    assert "not a readable zip" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--sha256=x", "--sha256=other.zip=any"])
def test_malformed_checksums_are_refused(site: Site, tmp_path: Path, option: str) -> None:
    assert _command(site, "--out", str(tmp_path), option) == 2
    assert not site.requests


def test_the_wordings_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETO_GYM_DATA", "/data")
    assert default_folder("put") == Path("/data/alfworld")
    assert default_folder("move") == Path("/data/alfworld-move")
    assert RELEASES.startswith("https://")
    for archive in (TRAJECTORIES, *GAMES.values()):
        assert archive.sha256 is None or len(archive.sha256) == 64


def test_missing_games_name_this_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(eto_gym.DataError, match="`eto-gym data download alfworld`"):
        gym.make("ETO/ALFWorld-v0", data=tmp_path)
