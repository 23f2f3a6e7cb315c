from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.envs.scienceworld.simplifications import ENGINE_NAMES, PRESETS, expand, parse
from eto_gym.envs.scienceworld.tasks import (
    ETO_STEP_LIMITS,
    SPLITS,
    VARIATIONS,
    find_task,
    load_tasks,
    split_id,
    step_limit,
    task_names,
)
from eto_gym.errors import UnknownNameError


def test_official_splits_partition_all_variations() -> None:
    sizes = [len(load_tasks(split)) for split in SPLITS]
    assert sizes == [3592, 1796, 1819]
    together = [task_id for split in SPLITS for task_id in load_tasks(split).ids]
    assert len(set(together)) == sum(sizes) == sum(VARIATIONS.values()) == 7207
    assert {split_id(task_id)[0] for task_id in together} == set(task_names())


def test_eto_splits_have_the_papers_size_and_overlap() -> None:
    train, dev, test = (set(load_tasks(split, "eto").ids) for split in SPLITS)
    assert (len(train), len(dev), len(test)) == (1483, 194, 211)
    assert len(train - set(load_tasks("train").ids)) == 357
    assert len(train & dev) == 54
    assert not test & (train | dev)
    assert {split_id(i)[0] for i in train | dev | test} == set(ETO_STEP_LIMITS)
    assert load_tasks("train", "eto")[0].id == "test-conductivity/412"


@given(st.sampled_from(sorted(VARIATIONS)), st.integers(-3, 1500))
def test_ids_of_existing_variations_alone_are_found(name: str, variation: int) -> None:
    task_id = f"{name}/{variation}"
    if 0 <= variation < VARIATIONS[name]:
        task = find_task(task_id, "official")
        assert (task.id, task.type) == (task_id, name)
        assert task_id in load_tasks(task.split).ids
        assert split_id(task_id) == (name, variation)
    else:
        with pytest.raises(UnknownNameError, match="variation"):
            find_task(task_id, "official")


@pytest.mark.parametrize(
    "wrong", ["", "boil", "boil/", "boil/01", "boil/ 1", "boils/1", "boil/1/2"]
)
def test_malformed_ids_are_refused(wrong: str) -> None:
    with pytest.raises(UnknownNameError, match="expected"):
        find_task(wrong, "eto")


def test_a_task_outside_the_eto_splits_has_no_split_and_the_official_limit() -> None:
    assert find_task("mendelian-genetics-known-plant/0", "eto").split == "none"
    assert step_limit("mendelian-genetics-known-plant", "eto") == 100
    assert step_limit("find-plant", "eto") == 15
    assert step_limit("find-plant", "official") == 100


def test_simplifications() -> None:
    assert parse("easy") == set(ENGINE_NAMES) - {"openContainers"}
    assert expand("easy", "boil") == "easy"
    assert expand("none", "boil") == ""
    assert "noElectricalAction" in expand("easy-open", "boil")
    assert "noElectricalAction" not in expand("easy-open", "test-conductivity")
    assert expand("openDoors, teleportAction", "boil") == "teleportAction,openDoors"
    assert set(PRESETS) == {"none", "easy", "easy-open"}
    for wrong in ("", "eazy", "openDoors,openDoors", "easy,openDoors"):
        with pytest.raises(UnknownNameError, match="expected"):
            parse(wrong)


def test_facts_agree_with_the_engine(session: EngineSession) -> None:
    """Names, numbers of variations and the division into splits are the engine's own."""
    session.load("boil", 0, "easy")
    lane, member = session.lane, session._member
    assert lane is not None
    interface = member.interface
    assert tuple(lane.call(member, lambda: lane.strings(interface.getTaskNames()))) == task_names()
    for name in task_names():
        count = lane.call(member, lambda name=name: interface.getTaskMaxVariations(name))  # type: ignore[misc]
        assert count == VARIATIONS[name]
    for name in ("boil", "find-plant", "identify-life-stages-2", "lifespan-longest-lived"):
        session.load(name, 0, "easy")
        for split in SPLITS:
            ask = getattr(interface, f"getVariations{split.capitalize()}")
            text = lane.call(member, lambda ask=ask: str(ask().toString()))  # type: ignore[misc]
            expected = [split_id(i)[1] for i in load_tasks(split).filter(type=name).ids]
            assert [int(v) for v in text.strip("[]").split(",")] == expected
