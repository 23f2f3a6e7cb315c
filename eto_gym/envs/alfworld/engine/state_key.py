"""Names the states of a game: two states have one name exactly where all play after them is equal.

What no text, no admissible command and no goal can ever tell apart is left out: whether a lamp that
the goal does not ask for is on, say, or that something was once taken from a place to which it can
only be put back.
"""

from __future__ import annotations

from eto_gym.envs.alfworld.engine.engine import Playthrough

_SHOWN = ("clean", "hot", "cool", "sliced", "toggled")
_CHANGED_BY = {"clean": "clean", "hot": "heat", "cool": "cool", "sliced": "slice", "toggled": "use"}


def state_parts(episode: Playthrough) -> tuple[object, ...]:
    """Return what the future of an episode depends on; equal parts of one game, equal futures."""
    game, goal = episode.game, episode.game.goal
    removed = [(o, r) for o, r in episode.removed if _can_be_shown(episode, o, r)]
    listed = {(o, game.place[r]) for o, r in removed}
    asked = any(literal.predicate == "objectatlocation" for literal in goal.literals)
    cut = game.sliceable if game.knives else ()
    places = [
        (o, location)
        for o, at in enumerate(episode.at)
        for location in at
        if asked or o in cut or (o, location) in listed
    ]
    conditions = [
        sorted(
            o
            for o in getattr(episode, name)
            if _CHANGED_BY[name] in goal.triggers
            or (o not in game.holders and (o in game.pickupable or o == episode.held))
        )
        for name in _SHOWN
    ]
    return (
        episode.location,
        episode.held,
        sorted(episode.opened),
        episode.contents,
        sorted(removed),
        sorted(places),
        conditions,
    )


def _can_be_shown(episode: Playthrough, o: int, receptacle: int) -> bool:
    """Tell whether `look` lists, or may come to list, an object beside where it was taken from."""
    game = episode.game
    place = game.place[receptacle]
    return place in episode.at[o] or any(
        other != receptacle and other in game.accepts[o] for other in game.residents[place]
    )
