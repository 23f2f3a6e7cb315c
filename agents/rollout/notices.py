"""What a rollout warns of, once each: replies that were cut, conversations that became too long."""

from __future__ import annotations

import logging

from eto_gym.history import exchanges_of
from eto_gym.trajectories import Trajectory

logger = logging.getLogger(__name__)


class Notices:
    """Looks at trajectories as they end, and says each thing once."""

    def __init__(self, history: str) -> None:
        """Begin with nothing said; `history` is how much of a conversation is read."""
        self._history = history
        self._told: set[str] = set()

    def look_at(self, trajectory: Trajectory) -> None:
        """Warn of what the settings of the play could avoid."""
        counts = [n for n in ("cut_in_reasoning", "cut_before_action") if trajectory.usage.get(n)]
        if counts and self._first("cut"):
            logger.warning(
                "%s#%d: a reply was cut before its action: a larger max_new_tokens gives it room "
                "(usage counts these as %s; this is said once)",
                *trajectory.key,
                " and ".join(counts),
            )
        if trajectory.error == "context" and self._first("full"):
            logger.warning(
                "%s#%d: the conversation left no room for reply %d, with history %s: %s, a shorter "
                "prompt style or a larger max_context gives it room (such episodes end with the "
                "error 'context'; this is said once)",
                *trajectory.key,
                len(trajectory.steps) + 1,
                self._history,
                self._shorter(),
            )

    def _first(self, kind: str) -> bool:
        first = kind not in self._told
        self._told.add(kind)
        return first

    def _shorter(self) -> str:
        kept = exchanges_of(self._history)
        if kept is None:
            return "a bounded history (last:K, state)"
        return f"a K below {kept}" if kept > 1 else "a lower max_new_tokens"
