"""Tasks, spaces, errors and the module layout."""

from __future__ import annotations

import ast
import configparser
import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.wrappers import (
    Autoreset,
    DelayObservation,
    FrameStackObservation,
    RecordEpisodeStatistics,
)
from hypothesis import given
from hypothesis import strategies as st

from eto_gym import (
    MissingDependencyError,
    Task,
    TaskSet,
    UnicodeText,
    UnknownNameError,
    get_state,
    set_state,
)
from eto_gym.errors import EtoGymError, check_choice, require
from tests.toy import make_corridor

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "eto_gym": "eto_gym",
    "eto_gym.agents": "agents",
    "eto_gym.trainers": "trainers",
    "eto_gym.benchmarks": "benchmarks",
}


def task_set(n: int) -> TaskSet:
    return TaskSet([Task(f"t{i}", f"kind{i % 3}", "train") for i in range(n)], split="train")


@given(st.integers(0, 40), st.integers(1, 7))
def test_shards_partition_the_set(n: int, count: int) -> None:
    tasks = task_set(n)
    shards = [tasks.shard(i, count) for i in range(count)]
    assert sorted(i for shard in shards for i in shard.ids) == sorted(tasks.ids)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_shuffle_permutes_and_repeats(n: int, seed: int) -> None:
    tasks = task_set(n)
    assert sorted(tasks.shuffle(seed).ids) == sorted(tasks.ids)
    assert tasks.shuffle(seed).ids == tasks.shuffle(seed).ids


def test_task_lookup() -> None:
    tasks = task_set(5)
    assert tasks.get("t3") is tasks.get(3) is tasks[3]
    assert tasks.filter(type="kind1").ids == ("t1", "t4")
    assert tasks[1:3].ids == ("t1", "t2")
    with pytest.raises(UnknownNameError, match="Did you mean 'kind1'"):
        tasks.filter(type="kindd1")
    with pytest.raises(UnknownNameError, match=r"0\.\.4"):
        tasks.get(-1)
    with pytest.raises(UnknownNameError):
        tasks.get(True)
    with pytest.raises(ValueError, match="more than once"):
        TaskSet([tasks[0], tasks[0]], split="train")


@given(st.text())
def test_text_space_holds_any_string(text: str) -> None:
    assert text in UnicodeText()
    assert (text in UnicodeText(max_length=3)) == (len(text) <= 3)


def test_text_space_samples_are_seeded_members() -> None:
    a, b = UnicodeText(max_length=9, seed=4), UnicodeText(max_length=9, seed=4)
    drawn = [a.sample() for _ in range(50)]
    assert drawn == [b.sample() for _ in range(50)]
    assert all(text in a for text in drawn)
    assert len(set(drawn)) > 10
    assert UnicodeText() != UnicodeText(max_length=9) == a


@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_stacked_and_delayed_observations(padding: str) -> None:
    actions = ["look", "inventory", "look"]

    def play(env: Any) -> list[Any]:
        seen = [env.reset(seed=0)[0]]
        return [*seen, *(env.step(action)[0] for action in actions)]

    plain = play(gym.make("ETO/ALFWorld-v0"))
    stacked = play(FrameStackObservation(gym.make("ETO/ALFWorld-v0"), 2, padding_type=padding))
    first = plain[0] if padding == "reset" else ""
    assert stacked == [(before, now) for before, now in zip([first, *plain], plain, strict=False)]
    assert play(DelayObservation(gym.make("ETO/ALFWorld-v0"), 1)) == ["", *plain[:-1]]


def test_a_snapshot_holds_what_gymnasiums_wrappers_count() -> None:
    def make() -> gym.Env[Any, Any]:
        return RecordEpisodeStatistics(Autoreset(make_corridor()))

    env = make()
    env.reset(options={"task": 1})
    env.step("go")
    middle = json.loads(json.dumps(get_state(env)))
    ended = env.step("open")
    after = json.loads(json.dumps(get_state(env)))
    for other in (env, make()):  # the one has to start anew, the other never began
        set_state(other, middle)
        *answer, info = other.step("open")
        assert answer == list(ended[:-1])
        told = info.pop("episode")
        assert (told["r"], told["l"]) == (1.0, 2)
        assert told["t"] < 600
        set_state(other, after)
        assert other.step("go")[0].startswith("You are at door 0."), "the next episode"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: FrameStackObservation(env, 3),
        lambda env: FrameStackObservation(env, 3, padding_type="before the first"),
        lambda env: DelayObservation(env, 2),
        lambda env: FrameStackObservation(DelayObservation(env, 1), 2),
    ],
)
def test_a_snapshot_holds_what_was_observed_before_it(wrap: Callable[[Any], Any]) -> None:
    def make() -> Any:
        return wrap(make_corridor())

    env = make()
    env.reset(options={"task": 5})
    env.step("go")
    middle = json.loads(json.dumps(get_state(env)))
    seen = [env.step(action)[0] for action in ("go", "go", "look")]
    elsewhere = make()
    elsewhere.reset(options={"task": 2})
    elsewhere.step("look")
    for other in (env, make(), elsewhere):
        set_state(other, middle)
        assert [other.step(action)[0] for action in ("go", "go", "look")] == seen
    again, expected = env.reset(options={"task": 3})[0], make().reset(options={"task": 3})[0]
    assert again == expected


def test_a_snapshot_of_observations_that_are_no_texts_is_refused() -> None:
    inner = FrameStackObservation(make_corridor(), 2)
    env = DelayObservation(inner, 1)
    env.reset()
    with pytest.raises(EtoGymError, match="DelayObservation keeps are no texts"):
        get_state(env)
    get_state(inner)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(UnknownNameError, match=r"expected split in \{train, dev\}.*Did you mean"):
        check_choice("split", "tran", ["train", "dev"])
    with pytest.raises(MissingDependencyError, match=r'pip install "eto-gym\[magic\]"'):
        require("no_such_module_here", feature="magic", extra="magic")


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    on_disk = {
        ".".join([package, *init.parent.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
        if not any(
            p.is_symlink() for p in init.relative_to(ROOT).parents if (ROOT / p).is_symlink()
        )
    }
    on_disk = {name for name in on_disk if "__pycache__" not in name}
    assert listed == on_disk


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("eto_gym", ("eto_gym.agents", "eto_gym.trainers", "eto_gym.benchmarks")),
        ("agents", ("eto_gym.trainers", "eto_gym.benchmarks")),
        ("trainers", ("eto_gym.benchmarks",)),
    ],
)
def test_imports_flow_one_way(folder: str, banned: tuple[str, ...]) -> None:
    links = {ROOT / "eto_gym" / name for name in ("agents", "trainers", "benchmarks")}
    for path in (ROOT / folder).rglob("*.py"):
        # The command line is where everything meets.
        if links & set(path.parents) or (ROOT / "eto_gym" / "cli") in path.parents:
            continue
        wrong = {name for name in imports_of(path) if name.startswith(banned)}
        assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize("count", [0, 1, 24])
def test_a_pickled_task_set_is_the_same_and_small(count: int) -> None:
    tasks = task_set(count)
    packed = pickle.dumps(tasks)
    again = pickle.loads(packed)  # noqa: S301
    assert (list(again), again.split, again.ids) == (list(tasks), tasks.split, tasks.ids)
    assert len(packed) < 200 + 20 * count
    assert copy.deepcopy(tasks) is tasks


@pytest.mark.parametrize("options", [[], (), "", 0, False, [{"task": 1}]])
def test_options_that_are_no_dictionary_are_refused(options: Any) -> None:
    env = make_corridor()
    env.reset(seed=0)
    before = get_state(env)
    with pytest.raises(TypeError, match="expected options of type dict or None"):
        env.reset(seed=1, options=options)
    assert get_state(env) == before
