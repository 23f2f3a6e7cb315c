"""Folders of official games: finding, filtering, listing and remembering them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from eto_gym.envs.alfworld import builtin, games, manifest
from eto_gym.envs.alfworld.env import ALFWorldEnv
from eto_gym.envs.alfworld.games import OfficialGames, eto_test_ids
from eto_gym.errors import DataError, UnknownNameError

HINT = "eto-gym data download alfworld"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ETO_GYM_DATA", str(folder))
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("games")
    builtin.write_games(folder, "train", count=6)
    builtin.write_games(folder, "dev", count=2)
    return folder


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "games"))


def _train(folder: Path) -> Path:
    return folder / "json_2.1.1" / "train"


def _trial(folder: Path) -> Path:
    return next(_train(folder).glob("*/*/game.tw-pddl")).parent


def _ids(folder: Path, split: str = "train") -> tuple[str, ...]:
    return OfficialGames(folder, split).task_set.ids


@pytest.mark.parametrize("below", ["", "json_2.1.1", "json_2.1.1/train"])
def test_any_of_the_folders_will_do(folder: Path, below: str) -> None:
    ids = _ids(folder / below)
    assert len(ids) == 6
    assert list(ids) == sorted(ids)
    assert all((_train(folder) / task).is_dir() for task in ids)


def test_home_and_variables_are_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMES", str(folder))
    monkeypatch.setenv("HOME", str(folder.parent))
    assert _ids(Path("$GAMES")) == _ids(folder) == _ids(Path(f"~/{folder.name}"))


def test_aliases_name_the_official_splits(folder: Path) -> None:
    assert _ids(folder, "dev") == _ids(folder, "valid_seen")
    task_set = OfficialGames(folder, "dev").task_set
    assert (task_set.split, task_set[0].split) == ("dev", "valid_seen")


def _rewrite(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def _spoil_solvable(trial: Path) -> None:
    _rewrite(trial / "game.tw-pddl", {"solvable": False})


def _spoil_key(trial: Path) -> None:
    data = json.loads((trial / "game.tw-pddl").read_text())
    del data["solvable"]
    (trial / "game.tw-pddl").write_text(json.dumps(data))


def _spoil_type(trial: Path) -> None:
    _rewrite(trial / "traj_data.json", {"task_type": "pick_and_place_with_movable_recep"})


def _spoil_json(trial: Path) -> None:
    (trial / "game.tw-pddl").write_text('{"pddl_domain": ')


def _spoil_bytes(trial: Path) -> None:
    (trial / "traj_data.json").write_bytes(b"\xff\xfe\x00")


def _spoil_shape(trial: Path) -> None:
    (trial / "traj_data.json").write_text("[1, 2]")


def _no_game(trial: Path) -> None:
    (trial / "game.tw-pddl").unlink()


def _no_trajectory(trial: Path) -> None:
    (trial / "traj_data.json").unlink()


def _sliced(trial: Path) -> None:
    trial.rename(trial.with_name(trial.name + "_Sliced"))


def _movable(trial: Path) -> None:
    trial.rename(trial.with_name(trial.name + "_movable"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_spoil_solvable, "unsolvable"),
        (_spoil_key, "not checked for a solution"),
        (_spoil_type, "other task type"),
        (_spoil_json, "unreadable"),
        (_spoil_bytes, "unreadable"),
        (_spoil_shape, "unreadable"),
        (_no_game, "no game file"),
        (_no_trajectory, None),
        (_sliced, "movable or sliced"),
        (_movable, "movable or sliced"),
    ],
)
def test_unplayable_trials_are_left_out_and_counted(
    folder: Path, spoil: Any, reason: str | None
) -> None:
    before = _ids(folder)  # also makes the list, which must then count as stale
    trial = _trial(folder)
    spoil(trial)
    assert set(before) - set(_ids(folder)) == {f"{trial.parent.name}/{trial.name}"}
    skipped = manifest.load_manifest(_train(folder)).skipped
    assert skipped == ({reason: 1} if reason else {})


def test_the_list_is_read_back_and_nothing_is_scanned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _ids(folder)
    assert (folder / "json_2.1.1" / ".eto-gym-manifest-train.json").is_file()
    monkeypatch.setattr(manifest, "_build", lambda *_: pytest.fail("scanned again"))
    assert _ids(folder) == before


def test_a_new_or_changed_game_makes_the_list_stale(folder: Path) -> None:
    builtin.write_games(folder, "train", count=7)
    assert len(_ids(folder)) == 7
    game = _trial(folder) / "game.tw-pddl"
    status = game.stat()
    _rewrite(game, {"solvable": False})
    # Even with the old time, the size tells.
    os.utime(game, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(_ids(folder)) == 6


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": 1}', "null"])
def test_a_damaged_list_is_made_anew(folder: Path, content: str) -> None:
    before = _ids(folder)
    (folder / "json_2.1.1" / ".eto-gym-manifest-train.json").write_text(content)
    assert _ids(folder) == before


def test_a_folder_that_cannot_be_written_uses_the_users_cache(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of the list's name is in the way, which stops even root, unlike file modes.
    (folder / "json_2.1.1" / ".eto-gym-manifest-train.json").mkdir()
    before = _ids(folder)
    assert list(own_cache.glob("manifests/alfworld-train-*.json"))
    monkeypatch.setattr(manifest, "_build", lambda *_: pytest.fail("scanned again"))
    assert _ids(folder) == before


def test_nowhere_to_keep_the_list_is_no_error(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "json_2.1.1" / ".eto-gym-manifest-train.json").mkdir()
    (own_cache / "manifests").write_text("a file in the way")
    assert len(_ids(folder)) == 6


def test_errors_name_the_download(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=HINT):
        OfficialGames(tmp_path / "nothing", "train")
    with pytest.raises(DataError, match=rf"train, valid_seen.*{HINT}"):
        OfficialGames(folder, "test")
    (folder / "json_2.1.1" / "valid_unseen").mkdir()
    with pytest.raises(DataError, match=rf"no playable game.*{HINT}"):
        OfficialGames(folder, "test")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=rf"no split at all.*{HINT}"):
        OfficialGames(empty, "train")


def test_a_wrong_split_or_task_names_a_close_one(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'valid_seen'"):
        OfficialGames(folder, "valid_sen")
    with pytest.raises(UnknownNameError, match="Did you mean 'train'"):
        ALFWorldEnv(split="trian")
    env = ALFWorldEnv(folder)
    task = env.task_set[0].id
    with pytest.raises(UnknownNameError, match="Did you mean"):
        env.reset(options={"task": task[:-1]})


def test_a_game_that_vanishes_or_breaks_is_a_data_error(folder: Path) -> None:
    env = ALFWorldEnv(folder)
    trial = _trial(folder)
    (trial / "game.tw-pddl").write_text('{"solvable": true}')
    with pytest.raises(DataError, match="pddl_domain"):
        env.reset(options={"task": f"{trial.parent.name}/{trial.name}"})
    (trial / "game.tw-pddl").unlink()
    with pytest.raises(DataError, match=HINT):
        env.reset(options={"task": f"{trial.parent.name}/{trial.name}"})


def test_the_papers_list_is_a_split(folder: Path) -> None:
    ids = eto_test_ids()
    assert len(ids) == len(set(ids)) == 134
    builtin.write_games(folder, "test", count=1)
    with pytest.raises(DataError, match="134"):
        OfficialGames(folder, "eto_test")
    unseen = folder / "json_2.1.1" / "valid_unseen"
    for task in ids:
        (unseen / task).mkdir(parents=True)
        (unseen / task / "game.tw-pddl").write_text('{"solvable": true}')
        kind = task.split("-")[0]
        (unseen / task / "traj_data.json").write_text(json.dumps({"task_type": kind}))
    assert _ids(folder, "eto_test") == ids
    assert len(_ids(folder, "test")) == 135


def test_environments_share_parsed_games() -> None:
    one, other = ALFWorldEnv(), ALFWorldEnv()
    for env in (one, other):
        env.reset(options={"task": 0})
    assert one._backend.episode.game is other._backend.episode.game


def test_the_cache_forgets_the_game_used_longest_ago() -> None:
    cache, source = games.GameCache(2), games.BuiltinGames("dev", "auto")
    first, second, third = source.task_set.ids[:3]
    kept = [cache.get(source, task, "auto") for task in (first, second)]
    assert cache.get(source, first, "auto") is kept[0]
    cache.get(source, third, "auto")
    assert cache.get(source, first, "auto") is kept[0]
    assert cache.get(source, second, "auto") is not kept[1]


def test_a_refused_reset_leaves_the_episode_as_it_was(folder: Path) -> None:
    env = ALFWorldEnv(data=folder)
    good, bad = env.task_set.ids[:2]
    path = next(folder.rglob(f"{bad}/game.tw-pddl"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "pddl_problem": "(define)"}))
    env.reset(options={"task": good})
    env.step("look")
    state = env.get_state()
    with pytest.raises(DataError, match="no section"):
        env.reset(options={"task": bad})
    assert env.get_state() == state
    with pytest.raises(DataError, match="no section"):
        env.set_state({**state, "task_id": bad})
    assert env.get_state() == state
    assert env.step("look")[4]["task_id"] == good


def test_a_game_of_one_id_is_each_split_s_own(folder: Path) -> None:
    games_folder = folder / "json_2.1.1"
    game = ALFWorldEnv(data=folder).task_set.ids[0]
    shutil.copytree(games_folder / "train" / game, games_folder / "valid_seen" / game)
    path = games_folder / "valid_seen" / game / "game.tw-pddl"
    text = path.read_text()
    assert "Your task is to: " in text
    path.write_text(text.replace("Your task is to: ", "Your task is to: CHANGED "))
    for split in ("train", "valid_seen"):
        observation, _ = ALFWorldEnv(data=folder, split=split).reset(options={"task": game})
        assert ("CHANGED" in observation) == (split == "valid_seen")
