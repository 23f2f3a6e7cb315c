"""WebShop as a text environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import eto_gym
from eto_gym.env import TextEnv, state_digest
from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.catalog.goals import Goal, GoalKind
from eto_gym.envs.webshop.credit import Shortest, state_parts
from eto_gym.envs.webshop.expert import PAPER_STEPS, WebShopExpert
from eto_gym.envs.webshop.player import Roamer
from eto_gym.envs.webshop.prompt import PROMPT
from eto_gym.envs.webshop.recap import ShopRecap
from eto_gym.envs.webshop.session import Session
from eto_gym.envs.webshop.shop import open_shop
from eto_gym.envs.webshop.tasks import SPLITS, GoalTasks, goal_index, split_rule
from eto_gym.envs.webshop.why import explain
from eto_gym.errors import EtoGymError, check_choice
from eto_gym.expert import Expert
from eto_gym.history import Exchange, StateWriter, no_state
from eto_gym.prompt import Feedback, Prompt
from eto_gym.tasks import Task

ObservationMode = Literal["text", "text_rich", "html", "url"]
OBSERVATION_MODES = ("text", "text_rich", "html", "url")
_OF_THE_SHOP = frozenset({"_goals", "_pages", "_shortest", "_html"})


class WebShopEnv(TextEnv):
    """Find a product in a web shop that fits an instruction, choose its options, and buy it.

    ## Description
    A re-implementation of the WebShop text environment (Yao et al., 2022) without Java, HTML or
    spaCy at run time: pages, search ranking, transitions and rewards are the original's.

    ## Action Space
    Any string. `search[words]` searches, on every page; `click[name]` clicks what the page names,
    in any case. Everything else costs a step and changes nothing. `search[<r>]` shows 50 random
    products, `search[<q> query]`, `search[<c> category]` and `search[<a> attribute]` list the
    products with exactly that query, category or attribute.

    ## Observation Space
    The page, as `observation` says: "text" (visible texts joined by ` [SEP] `, as in the paper),
    "text_rich" (with the clickable texts marked), "html" (our own templates; needs the extra
    `webshop`), "url" (the page's address).

    ## Starting State
    The search page with the instruction. Without the option `task`, goals are drawn by weight;
    human goals all weigh the same.

    ## Rewards
    0 until a purchase; then the share of the wanted attributes, options and price limit that are
    met, times how well the kind of product fits: 0..1.

    ## Episode End
    Termination: a purchase. Later steps still act, as in the original.
    Truncation: after `max_episode_steps`; the registered limit is 10, as in the paper. A purchase
    on the last step counts.

    ## Information
    `score` is the reward of the purchase, 0 before it. `success` is true for a reward of 1, the
    benchmark's own success; `purchased` is true after any purchase, which is what the paper's code
    counts. After a purchase `reward_parts` holds r_type, r_att, w_att, query_match, category_match,
    title_score, r_option, w_option, r_price, w_price (those that apply). `page` names the kind of
    page. Task ids are "human-17" or "synthetic-17"; `options={"task": 17}` means goal 17 of the
    shuffled goal list. Admissible actions are whole actions; `search[<query>]` stands for the
    search bar.

    ## Arguments
    See `__init__`.

    ## Version History
    * v0: first version.
    """

    splits = SPLITS
    data_argument = "catalog"

    def __init__(
        self,
        *,
        catalog: str | Path | Catalog = "builtin",
        goals: GoalKind = "human",
        split: str = "train",
        observation: ObservationMode = "text",
        show_attributes: bool = False,
        max_episode_steps: int | None = None,
        admissible_actions: bool = False,
        render_mode: str | None = None,
        feedback: Feedback = "plain",
    ) -> None:
        """Create the environment.

        Args:
            catalog: "builtin" (a generated catalog, which needs no download, and whose scores
                compare with no paper), a folder that `build_catalog` made, or a catalog object.
                Environments of one process share it.
            goals: "human" (written by people, as the paper uses them) or "synthetic".
            split: "train", "test" or "all". On the full official catalog with human goals these are
                the paper's lists; elsewhere the goals of every tenth product are the test goals.
            observation: "text", "text_rich", "html" or "url"; "text" as in the paper.
            show_attributes: Offer each product's attributes on a page of their own; off as in the
                original, since they are what the reward compares.
            max_episode_steps: See `TextEnv`.
            admissible_actions: See `TextEnv`.
            render_mode: See `TextEnv`.
            feedback: See `TextEnv`.

        Raises:
            UnknownNameError: An option has no such value.
            EtoGymError: The catalog cannot be opened, or has no such goals.
            ValueError: `max_episode_steps` is below 1.
        """
        check_choice("observation", observation, OBSERVATION_MODES)
        self._shop = open_shop(catalog)
        tasks = self._shop.tasks(goals, split)
        super().__init__(
            tasks,
            max_episode_steps=max_episode_steps,
            admissible_actions=admissible_actions,
            render_mode=render_mode,
            feedback=feedback,
        )
        self._kind: GoalKind = goals
        self._show_attributes = show_attributes
        self._mode = observation
        self._session: Session | None = None
        self._enter(split)

    def _enter(self, split: str) -> None:
        """Take from the shop what its visitors share."""
        self._tasks = self._shop.tasks(self._kind, split)
        self._goals = self._shop.catalog.goals(self._kind)
        self._pages = self._shop.pages(show_attributes=self._show_attributes)
        self._shortest: Shortest | None = None
        if self._mode == "html":
            from eto_gym.envs.webshop.site.html import HtmlPages

            self._html = HtmlPages()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is the shop's, and write the visit as a snapshot of it."""
        state = {name: value for name, value in vars(self).items() if name not in _OF_THE_SHOP}
        tasks = self.task_set
        if isinstance(tasks, GoalTasks):  # a catalog's goals are as many as its file holds
            chosen = None if tasks is self._tasks else tasks.indices
            state["task_set"] = (tasks.split, chosen)
        session = self._session
        visit = None if session is None else (session.goal.index, session.get_state())
        return {**state, "_session": visit, "_tasks": self._tasks.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from what `__getstate__` returned."""
        visit, split = state["_session"], state["_tasks"]
        vars(self).update(state, _session=None)
        self._enter(split)
        if isinstance(self.task_set, tuple):
            name, chosen = self.task_set
            self.task_set = (
                self._tasks
                if chosen is None
                else GoalTasks(self._goals, self._kind, chosen, split=name)
            )
        if visit is not None:
            self._session = Session.from_state(self._pages, self._goals[visit[0]], visit[1])

    @property
    def session(self) -> Session:
        """The current visit to the shop.

        Raises:
            EtoGymError: There was no `reset` yet.
        """
        if self._session is None:
            raise EtoGymError("there is no current session before reset")
        return self._session

    def card(self) -> dict[str, Any]:
        """Describe the catalog, the goals and the settings."""
        return {
            "benchmark": "WebShop",
            "engine": "eto-gym",
            "engine_version": eto_gym.__version__,
            "catalog": self._shop.catalog.card(),
            "goals": self._kind,
            "split": self.task_set.split,
            "split_rule": split_rule(self._kind, len(self._goals)),
            "tasks": len(self.task_set),
            "observation": self._mode,
            "show_attributes": self._show_attributes,
            **self._card_of_feedback(),
        }

    def prompt(self) -> Prompt:
        """Return the rules of the shop and one worked purchase."""
        return PROMPT

    def state_writer(self) -> StateWriter:
        """Return what tells the page, the searches and the products opened, in mode "text".

        In the other observation modes there is no state block.
        """
        return ShopRecap if self._mode == "text" else no_state

    def make_expert(self) -> Expert:
        """Return an expert that reads pages in observation mode "text".

        Raises:
            EtoGymError: The observation mode is another one.
        """
        if self._mode != "text":
            raise EtoGymError(f"the expert reads observation 'text', not {self._mode!r}")
        budget = self.step_limit or PAPER_STEPS
        return WebShopExpert(budget=budget, elapsed=lambda: self._elapsed_steps)

    def make_player(self, seed: int) -> Expert:
        """Return a player that roams the shop; it needs `admissible_actions=True`."""
        return Roamer(np.random.default_rng(seed))

    def state_key(self) -> str:
        """Return a name of the state, see `TextEnv.state_key`.

        Chance is left out: which products `search[<r>]` will show, and which it has shown before.
        """
        address = self._mode != "text"
        return state_digest(self.task.id, state_parts(self.session, address=address))

    def cost_to_go(self) -> int | None:
        """Return the steps to a purchase that earns 1, for a player who knows the goal's product.

        It knows what the products on the page and the goal's own could earn, and finds the latter
        by its title; None where neither can earn 1, and after another purchase. It takes about a
        millisecond the first time that a page is seen, then some microseconds.
        """
        return self._known().steps(self.session)

    def milestones(self) -> float:
        """Return the share of the steps to a full reward that is done, see `credit.Shortest`."""
        return self._known().share(self.session)

    def _reset(self, task: Task, options: dict[str, Any]) -> str:
        seed = int(self.np_random.integers(2**32))
        self._session = Session(self._pages, self._goal(task), seed=seed)
        return self._observation()

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        reward, bought = self.session.act(action)
        return self._observation(), reward, bought, False

    def _info(self) -> dict[str, Any]:
        reward = self.session.reward
        if reward is None:
            return {"score": 0.0, "success": False, "purchased": False, "page": self.session.page}
        return {
            "score": reward.total,
            "success": reward.total == 1.0,
            "purchased": True,
            "page": self.session.page,
            "reward_parts": reward.parts(),
        }

    def _admissible_actions(self) -> list[str]:
        return self.session.admissible_actions()

    def _before_step(self) -> list[str]:
        return self.session.admissible_actions()

    def _explain(
        self, action: str, observation: str, first: str, seen: Sequence[Exchange], before: Any
    ) -> str:
        return explain(action, before) if self._mode.startswith("text") else ""

    def _get_state(self) -> Any:
        return self.session.get_state()

    def _set_state(self, task: Task, state: Any) -> None:
        self._session = Session.from_state(self._pages, self._goal(task), state)

    def _draw_task(self) -> Task:
        return self._tasks.draw(self.np_random)

    def _goal(self, task: Task) -> Goal:
        index = goal_index(task.id, self._kind)
        assert index is not None, "tasks of this set have ids of this kind"
        return self._goals[index]

    def _known(self) -> Shortest:
        """Return what is known of the goal's products; it is kept while episodes have the goal."""
        goal = self.session.goal
        if self._shortest is None or self._shortest.goal.index != goal.index:
            self._shortest = Shortest(self._pages, goal)
        return self._shortest

    def _observation(self) -> str:
        session = self.session
        if self._mode == "text":
            return session.text()
        if self._mode == "text_rich":
            return session.rich_text()
        return session.url if self._mode == "url" else self._html.render(session)
