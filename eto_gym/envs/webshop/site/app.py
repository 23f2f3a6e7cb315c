"""The web site: a person plays the very episodes that agents play."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flask import Flask, Request, Response, abort, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.catalog.goals import NO_LIMIT, Goal, GoalKind
from eto_gym.envs.webshop.env import WebShopEnv
from eto_gym.envs.webshop.reward import Reward
from eto_gym.envs.webshop.site.view import page_view
from eto_gym.envs.webshop.site.visitors import Visitor, Visitors
from eto_gym.errors import UnknownNameError

COOKIE = "eto_gym_shop"
MAX_REQUEST = 64 * 1024
"""Longest request body in bytes; a search is far shorter."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # With "no-referrer", browsers hide the origin of the shop's own forms from it too.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_app(
    *,
    catalog: str | Path | Catalog = "builtin",
    goals: GoalKind = "human",
    split: str = "all",
    show_attributes: bool = False,
    max_steps: int | None = None,
    reveal: bool = False,
    visitor_limit: int = 256,
    lifetime: float = 7200.0,
) -> Flask:
    """Create the site; all its state lives in the returned object.

    Args:
        catalog: See `WebShopEnv`.
        goals: See `WebShopEnv`.
        split: See `WebShopEnv`.
        show_attributes: See `WebShopEnv`.
        max_steps: Steps of an episode; None sets no limit, as for the people of the original.
        reveal: Show the goal, and the parts of the reward after a purchase.
        visitor_limit: Visitors kept at a time.
        lifetime: Seconds without a request after which a visitor is forgotten.
    """
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=MAX_REQUEST, TRUSTED_HOSTS=["127.0.0.1", "localhost"])
    app.jinja_options = {"trim_blocks": True}

    def make_env() -> WebShopEnv:
        return WebShopEnv(
            catalog=catalog,
            goals=goals,
            split=split,
            show_attributes=show_attributes,
            max_episode_steps=max_steps,
        )

    kept = make_env()  # keeps the catalog open while nobody is in the shop, and fails early
    visitors = Visitors(make_env, limit=visitor_limit, lifetime=lifetime)
    shop = _Shop(kept, visitors, reveal=reveal)
    app.before_request(shop.recognise)
    app.after_request(shop.seal)
    app.add_url_rule("/", view_func=shop.show)
    app.add_url_rule("/enter", view_func=shop.enter, methods=["POST"])
    app.add_url_rule("/act", view_func=shop.act, methods=["POST"])
    app.add_url_rule("/new", view_func=shop.new_episode, methods=["POST"])
    app.add_url_rule("/trajectory.json", view_func=shop.trajectory)
    return app


class _Shop:
    """What the site answers; each visitor plays an episode of their own."""

    def __init__(self, kept: WebShopEnv, visitors: Visitors, *, reveal: bool) -> None:
        self._kept = kept
        self._card = kept.card()
        self._visitors = visitors
        self._reveal = reveal

    def recognise(self) -> None:
        """Find out whose request it is; a page of another site may not ask."""
        if request.endpoint not in {"show", "act", "new_episode", "enter", "trajectory"}:
            return
        token = request.cookies.get(COOKIE)
        if _is_of_another_site(request):
            abort(403, "A page of another site asked for this.")
        if request.method == "POST" or _is_own_navigation(request):
            g.token, g.visitor = self._visitors.get(token)
        elif (visitor := self._visitors.find(token)) is not None:
            g.token, g.visitor = token, visitor

    def seal(self, response: Response) -> Response:
        """Set the headers of every answer, and the cookie of who is new."""
        response.headers.update(_HEADERS)
        if "token" in g and request.cookies.get(COOKIE) != g.token:
            response.set_cookie(COOKIE, g.token, httponly=True, samesite="Strict")
        return response

    def enter(self) -> BaseResponse:
        """Lead to the shop; the form that leads here makes a visitor."""
        return redirect(url_for("show"), code=303)

    def show(self) -> str:
        """Show the door, or the page that the visitor is on."""
        if "visitor" not in g:
            return render_template("door.html")
        visitor: Visitor = g.visitor
        with visitor.lock:
            notice, visitor.notice = visitor.notice, ""
            session = visitor.env.session
            return render_template(
                "site.html",
                view=page_view(session),
                turn=visitor.turn,
                steps=visitor.steps,
                limit=self._kept.max_episode_steps,
                notice=notice,
                over=visitor.over,
                catalog=self._card["catalog"]["name"],
                goal=_revealed(session.goal) if self._reveal else None,
                score=None if session.reward is None else session.reward.total,
                bought="" if session.product is None else session.product.title,
                chosen=", ".join(f"{k}: {v}" for k, v in session.options.items()),
                parts=_parts(session.reward) if self._reveal and session.reward else None,
            )

    def act(self) -> BaseResponse:
        """Play what a form asks for, if it belongs to the page that the visitor is on."""
        visitor: Visitor = g.visitor
        form = request.form
        with visitor.lock:
            if form.get("turn") != str(visitor.turn) or visitor.over:
                visitor.notice = (
                    "That page was out of date, so nothing was done. This is the shop now."
                )
            elif form.get("action", "").strip():
                visitor.act(form["action"], form.get("thought", ""))
            elif form.get("query", "").strip():
                visitor.act(f"search[{form['query']}]", form.get("thought", ""))
        return redirect(url_for("show"), code=303)

    def new_episode(self) -> BaseResponse:
        """Start another episode, of the goal that was asked for or any."""
        visitor: Visitor = g.visitor
        asked = request.form.get("goal", "").strip()
        with visitor.lock:
            try:
                visitor.restart(int(asked) if asked else None)
            except (UnknownNameError, ValueError):
                visitor.notice = f"There is no goal {asked[:40]!r} here."
        return redirect(url_for("show"), code=303)

    def trajectory(self) -> Response:
        """Send the episode that is over as a file."""
        if "visitor" not in g:
            abort(409, "No episode has begun.")
        visitor: Visitor = g.visitor
        with visitor.lock:
            if not visitor.over:
                abort(409, "The episode is not over yet.")
            record = visitor.trajectory()
        response = Response(
            json.dumps(record.to_json(), ensure_ascii=False, indent=1), mimetype="application/json"
        )
        name = f"{record.task_id}.json"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response


def _is_of_another_site(request: Request) -> bool:
    """Tell whether a page of another site, or of another port, asked for more than to be led here.

    Browsers say in `Sec-Fetch-Site` and `Origin` where a request comes from; pages cannot change
    that. Following a link to the front page is everybody's right.
    """
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        return True
    if request.headers.get("Sec-Fetch-Site") not in {"cross-site", "same-site"}:
        return False
    return request.method != "GET" or request.headers.get("Sec-Fetch-Mode") != "navigate"


def _is_own_navigation(request: Request) -> bool:
    """Tell whether a person typed the address, or followed a link of the shop itself."""
    return (
        request.headers.get("Sec-Fetch-Mode") == "navigate"
        and request.headers.get("Sec-Fetch-Dest", "document") == "document"
        and request.headers.get("Sec-Fetch-Site") in {"none", "same-origin"}
    )


def _revealed(goal: Goal) -> dict[str, Any]:
    options = goal.options
    return {
        "index": goal.index,
        "asin": goal.asin,
        "name": goal.name,
        "attributes": goal.attributes,
        "options": list(options)
        if isinstance(options, tuple)
        else [f"{name}: {value}" for name, value in options.items()],
        "price": "none" if goal.price_upper >= NO_LIMIT else f"${goal.price_upper:.2f}",
    }


def _parts(reward: Reward) -> list[tuple[str, str, str]]:
    """Word the parts of a reward for a table: name, how far it is met, its weight."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    rows = [
        ("Attributes", share(reward.r_att), share(reward.w_att)),
        ("Options", share(reward.r_option), share(reward.w_option)),
        (
            "Price",
            "-" if reward.r_price is None else share(float(reward.r_price)),
            share(reward.w_price),
        ),
        ("Kind of product", f"x {reward.r_type:g}", "factor"),
    ]
    return [row for row in rows if row[1] != "-"]
