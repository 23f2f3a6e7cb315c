"""A person browses the viewer in a real headless Chromium."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.evaluation.statistics import compare, mean, success_rate
from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory, TrajectoryStore
from eto_gym.view import write_view
from tests.view.conftest import Reader
from tests.view.hostile import HOSTILE, write_hostile

pytestmark = pytest.mark.browser


def episode(task: int, policy: str, *, success: bool, sample: int = 0) -> Trajectory:
    said = [f"Thought: {policy} thinks\nAction: {word}" for word in ("look", policy, "take")]
    said[1] = said[1] if task % 3 else f"I have no idea, says {policy}."
    actions = ["look", policy if task % 3 else None, "take"]
    messages = [Message("user", "Instruction"), Message("assistant", "OK.")]
    messages.append(Message("user", f"Your task is to: take coin {task}."))
    for text in said:
        messages += [Message("assistant", text, True), Message("user", "Observation: Hm.")]
    return Trajectory(
        task_id=f"task-{task:05}",
        task_type=("coin", "cup")[task % 2],
        messages=tuple(messages[:-1]),
        steps=tuple(Step(a, "Hm.", float(a == "take" and success)) for a in actions),
        outcome="terminated" if success else "truncated",
        reward=float(success),
        success=success,
        policy=policy,
        sample=sample,
        usage={"decoded_tokens": 40},
        facts=tuple(
            {
                **{"finish": "length" if i == 1 else "stop", "decoded_tokens": 13 + i},
                **{"seconds": 0.25, "admissible": i != 1, "admissible_actions": ["look", "take"]},
            }
            for i in range(3)
        ),
    )


def two_policies() -> tuple[list[Trajectory], list[Trajectory]]:
    before = [episode(i, "old", success=i % 4 == 0, sample=s) for i in range(40) for s in (0, 1)]
    after = [
        episode(i, "new", success=(i + s) % 3 != 0, sample=s) for i in range(40) for s in (0, 1)
    ]
    return before, after


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    before, after = two_policies()
    for name, episodes in (("eval-sft-aa", before), ("eval-eto-bb", after)):
        stage = folder / "stages" / name
        with TrajectoryStore(stage / "trajectories.jsonl") as store:
            for item in episodes:
                store.add(item)
        (stage / "finished.json").write_text('{"seconds": 61.0}')
    stage = folder / "stages" / "pairs-cc"
    stage.mkdir()
    sides = [
        [
            turn
            for action in actions
            for turn in (
                {"from": "gpt", "value": f"Thought: t\nAction: {action}"},
                {"from": "human", "value": "Hm."},
            )
        ][:-1]
        for actions in (("look", "open", "take"), ("look", "close"))
    ]
    pair = {"id": "task-00003", "prompt": [{"from": "human", "value": "You see."}]}
    pairs = [{**pair, "chosen": sides[0], "rejected": sides[1]}] * 2
    (stage / "pairs.json").write_text(json.dumps(pairs))
    model = folder / "stages" / "dpo-dd" / "model"
    model.mkdir(parents=True)
    metrics = [{"step": i, "loss": 0.7 / i, "rewards/margins": i / 10} for i in range(1, 9)]
    (model / "training.json").write_text(json.dumps({"method": "dpo", "metrics": metrics}))
    return write_view([folder], folder / "report.html")


def test_the_list_is_filtered_by_clicks_and_text(reader: Reader, page: Path) -> None:
    reader.open(page)
    reader.click("#to-episodes")
    reader.see("160 of 160 episodes", "#count")
    reader.choose("#filter-type", "cup")
    reader.see("80 of 160", "#count")
    reader.choose("#filter-result", "failure")
    reader.click("#filter-bad")
    failing = [
        t
        for group in two_policies()
        for t in group
        if t.task_type == "cup" and not t.success and any(s.action is None for s in t.steps)
    ]
    reader.see(f"{len(failing)} of 160", "#count")
    assert "task-0" in reader.find(".row").text
    reader.find("#text").send_keys("coin 33\n")
    reader.see(f"{sum(t.task_id == 'task-00033' for t in failing)} of 160", "#count")
    assert "type=cup" in reader.driver.current_url  # the filters are in the address


def test_an_episode_is_a_conversation_with_thought_and_action_apart(
    reader: Reader, page: Path
) -> None:
    reader.open(page, "#/episodes?type=cup")
    reader.click(".row")
    reader.see("task-00001", "h1")
    assert reader.texts(".thought pre") == ["old thinks"] * 3
    assert reader.texts(".action pre") == ["look", "old", "take"]
    assert "reward 0" in reader.texts(".conversation .turn.assistant .facts")[0]
    assert "13 tokens" in reader.texts(".conversation .turn.assistant .facts")[0]
    assert "0.25 s" in reader.texts(".conversation .turn.assistant .facts")[0]
    cut = reader.texts(".conversation .turn.assistant .facts")[1]
    assert "cut at its limit" in cut
    assert "inadmissible" in cut
    assert "look" not in reader.texts(".admissible li")
    reader.click(".admissible summary")
    assert reader.texts(".admissible li")[:2] == ["look", "take"]
    assert reader.texts(".turn.user pre")[-1] == "Hm."
    assert "Instruction" not in reader.find("main").text
    reader.click(".head summary")
    reader.see("Instruction")


def test_what_is_not_trained_on_is_shaded(reader: Reader, page: Path) -> None:
    reader.open(page, "#/episode/eval-sft/task-00001/0")
    masked = reader.find(".conversation .turn.user.masked")
    before = masked.value_of_css_property("background-image")
    reader.keys("m")
    assert "gradient" in masked.value_of_css_property("background-image") != before
    trained = reader.find(".conversation .turn.assistant.trained")
    assert "gradient" not in trained.value_of_css_property("background-image")


def test_a_reply_without_an_action_is_shown_whole(reader: Reader, page: Path) -> None:
    reader.open(page, "#/episode/eval-sft/task-00003/0")
    reader.see("no action was found", ".fault")
    reader.see("I have no idea, says old.", ".raw")


def test_a_deep_link_opens_the_episode_and_its_other_samples(reader: Reader, page: Path) -> None:
    reader.open(page, "#/episode/eval-eto/task-00005/1")
    reader.see("sample 1")
    reader.click("#samples")
    reader.see("4 episodes")
    assert len(reader.all(".row")) == 4


def test_an_episode_that_was_played_again_counts_once(reader: Reader, tmp_path: Path) -> None:
    failed = episode(1, "p", success=False)
    failed = Trajectory.from_json({**failed.to_json(), "outcome": "error", "error": "timeout"})
    file = tmp_path / "t.jsonl"
    with TrajectoryStore(file) as store:
        store.add(failed)
        store.add(episode(1, "p", success=True))
    reader.open(write_view([file], tmp_path / "v.html"))
    assert reader.texts("td")[1] == "1"
    reader.click("#to-episodes")
    reader.see("success 1.000", "#count")
    assert "played again" in reader.find(".row").text
    reader.click(".row")
    reader.see("error: timeout", "h1")
    reader.see("the later episode counts")


def test_policies_in_one_file_do_not_take_each_others_place(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    with TrajectoryStore(file) as store:
        for policy, success in (("a", True), ("b & <c>", False), ("a", False), ("b & <c>", True)):
            store.add(episode(1, policy, success=success))
    page = write_view([file], tmp_path / "v.html")
    reader.open(page, "#/scores")
    rates = [row.split()[1:3] for row in reader.texts("tbody tr")]
    assert rates == [["1", "0.000"], ["1", "1.000"]], "the last of each policy"
    reader.open(page, "#/episodes")
    reader.see("4 episodes", "#count")
    assert ["played again" in row for row in reader.texts(".row")] == [True, True, False, False]
    reader.all(".row")[1].click()
    reader.see("the later episode counts")
    reader.see("b & <c> thinks")
    reader.open(page, "#/episode/t/task-00001/0")
    reader.see("a thinks")
    reader.open(page, "#/episode/t/task-00001/0?policy=b%20%26%20%3Cc%3E")
    reader.see("b & <c> thinks")


def test_keys_walk_through_list_and_episodes(reader: Reader, page: Path) -> None:
    reader.open(page, "#/episodes?group=eval-eto%20%C2%B7%20new")
    reader.keys("j", "j", "j", "k", "\ue007")
    reader.see("task-00000", "h1")
    reader.see("sample 1")
    reader.keys("j")
    reader.see("task-00001", "h1")
    reader.keys("u")
    reader.see("80 of 160", "#count")  # back to the list as it was filtered
    reader.keys("?")
    reader.see("free text", "dialog")
    reader.keys("\ue00c")
    reader.keys("s")
    reader.see("Scores", "h1")


def test_the_rows_of_a_long_list_come_while_it_is_scrolled(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    with TrajectoryStore(file) as store:
        for i in range(650):
            store.add(episode(i, "p", success=True))
    reader.open(write_view([file], tmp_path / "v.html"), "#/episodes")
    assert len(reader.all(".row")) < 650
    seen = len(reader.all(".row"))
    while seen < 650:
        reader.run("document.querySelector('.more').scrollIntoView()")
        count = f"return document.querySelectorAll('.row').length > {seen}"
        reader.wait(functools.partial(_holds, count))
        seen = len(reader.all(".row"))


def _holds(script: str, driver: Any) -> Any:
    return driver.execute_script(script)


def test_an_end_that_stays_in_sight_brings_all_rows(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    with TrajectoryStore(file) as store:
        for i in range(650):
            store.add(episode(i, "p", success=True))
    reader.open(write_view([file], tmp_path / "v.html"), "#/episodes")
    reader.run("document.querySelector('.more').style.cssText = 'position: fixed; bottom: 0'")
    reader.wait(lambda _: len(reader.all(".row")) == 650)


def test_pairs_stand_side_by_side_with_the_first_divergence(reader: Reader, page: Path) -> None:
    reader.open(page)
    reader.click("#to-pairs")
    reader.see("2 pairs")
    reader.click(".row")
    reader.see("first divergence: turn 2", "#divergence")
    assert reader.texts(".left .action pre") == ["look", "open", "take"]
    assert reader.texts(".right .action pre") == ["look", "close"]
    assert reader.texts(".turn.first .action pre") == ["open", "close"]
    left, right = reader.all(".differs > div")
    assert left.rect["y"] == right.rect["y"]
    reader.keys("j")
    reader.see("pair 2 of 2")


def test_two_policies_are_compared_as_eval_compares_them(reader: Reader, page: Path) -> None:
    reader.open(page, "#/compare")
    before, after = two_policies()
    test = compare(before, after)
    reader.see(f"gained {test.gained}, lost {test.lost}", "#verdict")
    reader.click("#change-lost")
    reader.wait(lambda _: len(reader.all(".row")) == test.lost)
    reader.click(".row")
    reader.see("first divergence: turn", "#divergence")


def test_the_page_computes_what_eval_computes(reader: Reader, page: Path) -> None:
    reader.open(page)
    before, after = two_policies()
    rows = [
        [{"task": t.task_id, "sample": t.sample, "success": int(t.success), "reward": t.reward}
         for t in group]
        for group in (before, after)
    ]  # fmt: skip
    found: dict[str, Any] = reader.run(
        "const [a, b] = arguments; const test = paired(a, b);"
        "return {p: test.p, reward: test.reward, rate: successRate(b),"
        " single: successRate(b.filter((r) => r.sample === 0)),"
        " mean: meanOf(b.map((r) => r.reward), b.map((r) => r.task)),"
        " quantiles: [1, 2, 7, 30, 999].map(studentQuantile)}",
        *rows,
    )
    test = compare(before, after)
    tasks = [t.task_id for t in after]
    single = [t for t in after if t.sample == 0]
    expected = {
        "rate": success_rate([t.success for t in after], tasks),
        "single": success_rate([t.success for t in single], [t.task_id for t in single]),
        "mean": mean([t.reward for t in after], tasks),
        "reward": test.reward,
    }
    for name, estimate in expected.items():
        for bound in ("mean", "low", "high"):
            assert found[name][bound] == pytest.approx(getattr(estimate, bound), rel=1e-6), name
    assert found["p"] == pytest.approx(test.p)
    from scipy import stats

    assert found["quantiles"] == pytest.approx(stats.t.ppf(0.975, [1, 2, 7, 30, 999]), rel=1e-9)


def test_the_overview_has_stages_and_curves(reader: Reader, page: Path) -> None:
    reader.open(page)
    reader.see("1.0 min", ".bar-value")
    reader.see("loss, dpo", "figcaption")
    reader.choose("select[aria-label='what is plotted']", "rewards/margins")
    reader.see("rewards/margins, dpo", "figcaption")
    points = reader.find("polyline").get_attribute("points").split()
    assert len(points) == 8


def test_light_and_dark(reader: Reader, page: Path) -> None:
    reader.open(page)
    body = reader.find("body")
    before = body.value_of_css_property("background-color")
    reader.click("#theme")
    assert body.value_of_css_property("background-color") != before
    reader.keys("t")
    assert body.value_of_css_property("background-color") == before


@pytest.mark.parametrize("address", ["", "#/episodes", "#/scores", "#/compare", "#/pair/1"])
def test_a_phone_scrolls_in_one_direction(reader: Reader, page: Path, address: str) -> None:
    reader.driver.set_window_size(500, 850)  # the narrowest that Chromium's window takes
    reader.open(page, address)
    assert reader.run("return document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize(
    "address",
    ["", "#/episodes", "#/scores", "#/compare?change=gained", "#/pairs", "#/pair/1", "#/duel/0/2"],
)
def test_hostile_text_stays_text(reader: Reader, tmp_path: Path, address: str) -> None:
    page = write_view([write_hostile(tmp_path)], tmp_path / "v.html")
    reader.open(page, address)
    for details in reader.all("details"):
        reader.run("arguments[0].open = true", details)
    assert reader.run("return window.ran") is None
    allowed = {"octet": "script[type='application/octet-stream']", "own": "script:not([type])"}
    assert len(reader.all("script")) == sum(len(reader.all(css)) for css in allowed.values())
    assert len(reader.all(allowed["own"])) == 1
    assert reader.all("main img, main iframe, main object, main [onload], main [onerror]") == []
    assert reader.run("return document.querySelector('main').textContent.includes('window.ran')")
    for link in reader.all("main a"):
        assert (link.get_attribute("href") or "").startswith(page.as_uri() + "#")


def test_a_hostile_episode_is_opened_by_a_click(reader: Reader, tmp_path: Path) -> None:
    page = write_view([write_hostile(tmp_path)], tmp_path / "v.html")
    reader.open(page, "#/episodes")
    reader.click(".row")
    reader.find("#conversation")
    title = "return document.querySelector('h1').textContent.includes(arguments[0])"
    assert reader.run(title, "<script>window.ran = 1</script>")
    assert reader.run("return window.ran") is None


def test_markup_cannot_be_made_at_all(reader: Reader, page: Path) -> None:
    reader.open(page)
    made = reader.run(
        "try { document.body.insertAdjacentHTML('beforeend', arguments[0]); return 'made' }"
        " catch (error) { return error.name }",
        HOSTILE.replace("\ud800", ""),
    )
    assert made == "TypeError"
    reader.complaints()  # the browser tells what it refused
