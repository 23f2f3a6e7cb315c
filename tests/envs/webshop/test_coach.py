"""The shopper watches somebody else shop, and says at each step how it would go on."""

from __future__ import annotations

import random

import pytest

from eto_gym.envs.webshop import WebShopEnv, WebShopExpert

WISH = "i need a red mug that is dishwasher safe, in a size of 12 ounce, and price lower than 20.00"
HEAD = f"Instruction: [SEP] {WISH} [SEP] Back to Search [SEP] "
START = f"WebShop [SEP] Instruction: [SEP] {WISH} [SEP] Search"
RESULTS = HEAD + (
    "Page 1 (Total results: 2) [SEP] Next > [SEP] B000000001 [SEP] Red Mug Dishwasher Safe [SEP] "
    "$9.50 [SEP] B000000002 [SEP] Garden Chair [SEP] $12.00"
)
QUERY = "red mug dishwasher safe 12 ounce"
MUG, CHAIR = (
    f"{HEAD}< Prev [SEP] size [SEP] 8 ounce [SEP] 12 ounce [SEP] {title} [SEP] Price: {price} "
    "[SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    for title, price in (("Red Mug Dishwasher Safe", "$9.50"), ("Garden Chair", "$12.00"))
)
FEATURES = f"{HEAD}< Prev [SEP] It is round."


def _watch(*seen: tuple[str | None, str], budget: int = 10) -> WebShopExpert:
    expert = WebShopExpert(budget=budget)
    for action, page in [(None, START), *seen]:
        expert.observe(action, page)
    return expert


def _advice(expert: WebShopExpert) -> str | None:
    reply, again = expert.advise(), expert.advise()
    if reply is None or again is None:
        assert reply is again
        return None
    assert reply.action == again.action, "advice takes nothing as done"
    return reply.action


OPEN_MUG = [("search[cup]", RESULTS), ("click[b000000001]", MUG)]
OPEN_CHAIR = [("search[cup]", RESULTS), ("click[B000000002]", CHAIR)]


@pytest.mark.parametrize(
    ("seen", "advice"),
    [
        ([], f"search[{QUERY}]"),
        ([("look", START)], f"search[{QUERY}]"),
        ([(None, "Error: no action")], f"search[{QUERY}]"),
        # What somebody else searched by is used as it is.
        (OPEN_MUG[:1], "click[b000000001]"),
        ([*OPEN_MUG[:1], ("click[b00000001]", RESULTS)], "click[b000000001]"),
        ([*OPEN_MUG[:1], (None, "Error: no action")], "click[b000000001]"),
        (OPEN_MUG, "click[12 ounce]"),
        (OPEN_CHAIR, "click[< prev]"),
        ([*OPEN_CHAIR, ("click[features]", FEATURES)], "click[< prev]"),
        # An option that is chosen is not chosen again; one that the page lacks is none.
        ([*OPEN_MUG, ("click[12 ounce]", MUG)], "click[buy now]"),
        ([*OPEN_MUG, ("click[16 ounce]", MUG)], "click[12 ounce]"),
        ([*OPEN_MUG, ("click[8 ounce]", MUG)], "click[12 ounce]"),
        ([*OPEN_MUG, ("click[12 ounce]", MUG), ("click[buy now]", "Thank you")], None),
        # Going back to the search page says that nothing was found.
        (
            [*OPEN_MUG, ("click[back to search]", START)],
            f"search[{QUERY}]",
        ),
        ([(f"search[{QUERY}]", START)], None),
        (
            [("search[hat]", RESULTS.replace("Red Mug Dishwasher Safe", "Hat"))],
            f"search[{QUERY}]",
        ),
    ],
)
def test_advice_goes_on_from_what_somebody_else_did(
    seen: list[tuple[str | None, str]], advice: str | None
) -> None:
    assert _advice(_watch(*seen)) == advice


def test_replies_without_an_action_take_steps() -> None:
    assert _advice(_watch(*OPEN_MUG, budget=4)) == "click[12 ounce]"
    assert _advice(_watch(*OPEN_MUG, (None, "Error"), budget=4)) == "click[buy now]"
    assert _advice(_watch((None, "Error"), budget=4)) is not None
    assert _advice(_watch((None, "Error"), (None, "Error"), budget=4)) is None


def test_watching_its_own_episode_it_says_what_it_does() -> None:
    env = WebShopEnv(split="train")
    for task in env.task_set[:20]:
        observation, info = env.reset(options={"task": task.id})
        player, coach = env.make_expert(), WebShopExpert()
        coach.observe(None, observation)
        while (reply := player.act(observation, info)) is not None:
            assert coach.advise() == reply
            observation, *_, info = env.step(reply.action)
            coach.observe(reply.action, observation)
        assert coach.advise() is None


def test_advice_leads_from_wherever_somebody_went_to_a_purchase() -> None:
    rng = random.Random(0)
    scores = []
    env = WebShopEnv(split="train", admissible_actions=True)
    for task in env.task_set[:60]:
        observation, info = env.reset(options={"task": task.id})
        coach = WebShopExpert()
        coach.observe(None, observation)
        for _ in range(3):
            offered = [a for a in info["admissible_actions"] if a != "click[buy now]"]
            action = rng.choice(offered) if offered else f"search[{task.id}]"
            if rng.random() < 0.2:
                action = "click[b0nonsense]"
            if action == "search[<query>]":
                action = f"search[{rng.choice(['mug', 'red shoes', 'snack'])}]"
            observation, *_, info = env.step(action)
            coach.observe(action, observation)
        bought = False
        while (advice := coach.advise()) is not None:
            observation, _, bought, _, info = env.step(advice.action)
            coach.observe(advice.action, observation)
        assert bought, task.id
        scores.append(info["score"])
    assert sum(scores) / len(scores) > 0.6
