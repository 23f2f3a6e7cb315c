"""A trained Stable-Baselines3 policy as a policy of the rollout engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.agents.sb3.candidates import Candidates, describe_all
from eto_gym.agents.sb3.features import EmbeddedText, HashedText, TextFeatures
from eto_gym.errors import DataError, EtoGymError, check_choice, require

Play = Literal["greedy", "sampled"]

SETTINGS_FILE, MODEL_FILE = "settings.json", "model.zip"


class SB3Policy:
    """Plays a model that `train` of this package made; its replies hold an action and no thought.

    A sampled reply depends on the episode's seed and the turn alone. `candidates_dropped` in a
    reply's usage counts the admissible actions that had no place.
    """

    def __init__(
        self, network: Any, make_state: Callable[[], Candidates], *, play: Play, name: str
    ) -> None:
        """Create the policy; `load_sb3_policy` does so from a run folder.

        Args:
            network: `MaskableCandidatePolicy` or `CandidateDQNPolicy`.
            make_state: Makes the state of an episode; all must share their features.
            play: "greedy" takes the best candidate; "sampled" draws from PPO's distribution.
            name: Recorded with every trajectory.
        """
        self.name = name
        self._network = network
        self._make_state = make_state
        self._play = play
        self._states: dict[str, Candidates] = {}
        self._rngs: dict[str, np.random.Generator] = {}

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Return one reply per conversation, in order."""
        states = [self._update(conversation) for conversation in conversations]
        arrays = describe_all(states)
        batch = {key: np.stack([one[key] for one in arrays]) for key in arrays[0]}
        places = self._choose(batch, [self._rngs[c.key] for c in conversations])
        return [
            PolicyReply(
                f"Action: {state.choose(int(place))}",
                usage={"candidates_dropped": state.dropped} if state.dropped else {},
            )
            for state, place in zip(states, places, strict=True)
        ]

    def release(self, key: str) -> None:
        """Forget an episode that has ended."""
        self._states.pop(key, None)
        self._rngs.pop(key, None)

    def _update(self, conversation: Conversation) -> Candidates:
        key = conversation.key
        if key not in self._states:
            self._states[key] = self._make_state()
            self._rngs[key] = np.random.default_rng(conversation.seed)
            self._states[key].begin(conversation.observation, conversation.info, self._rngs[key])
        else:
            self._states[key].advance(conversation.observation, conversation.info, self._rngs[key])
        return self._states[key]

    def _choose(self, batch: dict[str, Any], rngs: Sequence[np.random.Generator]) -> Sequence[int]:
        if self._play == "greedy":
            return self._network.predict(batch, deterministic=True)[0].tolist()  # type: ignore[no-any-return]
        import torch

        with torch.no_grad():
            tensors, _ = self._network.obs_to_tensor(batch)
            chances = self._network.get_distribution(tensors).distribution.probs.double().numpy()
        totals = chances.cumsum(axis=1)
        # The first place whose running total exceeds the draw; padding adds nothing to a total.
        return [
            int(np.searchsorted(total, rng.random() * total[-1], side="right"))
            for total, rng in zip(totals, rngs, strict=True)
        ]


def load_sb3_policy(
    folder: str | Path,
    *,
    play: Play = "greedy",
    embedder: Callable[[Sequence[str]], Any] | None = None,
) -> SB3Policy:
    """Load the policy of a run folder.

    Only `settings.json` and the weights inside `model.zip` are read, the latter by torch's
    `weights_only`. The pickled objects that Stable-Baselines3 puts into the same file are never
    opened, so a folder from elsewhere can hold wrong weights but no code. (`MaskablePPO.load`
    itself does open them.)

    Args:
        folder: What `train` wrote.
        play: "greedy" or "sampled" (PPO only).
        embedder: The embedder that the policy was trained with, if it was.

    Raises:
        DataError: The folder does not hold a trained model.
        EtoGymError: The embedder is missing, or "sampled" is asked of DQN.
    """
    for package in ("stable_baselines3", "sb3_contrib"):
        require(package, feature="a Stable-Baselines3 policy", extra="sb3")
    check_choice("play", play, get_args(Play))
    path = Path(folder)
    try:
        settings = json.loads((path / SETTINGS_FILE).read_text("utf-8"))
        algo, width = str(settings["algo"]), int(settings["width"])
        own_embedder, features_dim = bool(settings["embedder"]), int(settings["features_dim"])
        options = {
            "max_candidates": int(settings["max_candidates"]),
            "overflow": settings["overflow"],
            "history": int(settings["history"]),
        }
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as err:
        raise DataError(f"{path} is no run of eto-gym train sb3: {err!r}") from err
    if play == "sampled" and algo == "dqn":
        raise EtoGymError("DQN has values and no distribution to sample from: choose play='greedy'")
    features = make_features(features_dim, embedder, wanted=own_embedder)

    def make_state() -> Candidates:
        return Candidates(features, **options)

    network = _build_network(algo, make_state(), width)
    _load_weights(network, path / MODEL_FILE)
    return SB3Policy(network, make_state, play=play, name=f"sb3-{algo}")


def make_features(
    dim: int, embedder: Callable[[Sequence[str]], Any] | None, *, wanted: bool
) -> TextFeatures:
    """Return the hashed features, or the embedder's where one is `wanted`.

    Raises:
        EtoGymError: One is wanted and there is none, or the other way round.
    """
    if wanted != (embedder is not None):
        raise EtoGymError(
            "the policy was trained with an embedder: pass the same one"
            if wanted
            else "the policy was trained on hashed features: pass no embedder"
        )
    return HashedText(dim=dim) if embedder is None else EmbeddedText(embedder)


def _build_network(algo: str, state: Candidates, width: int) -> Any:
    import torch
    from gymnasium.spaces import Discrete

    from eto_gym.agents.sb3.networks import CandidateDQNPolicy, MaskableCandidatePolicy

    kinds = {"ppo": MaskableCandidatePolicy, "dqn": CandidateDQNPolicy}
    check_choice("algo", algo, kinds)
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and then replaced
        return kinds[algo](
            state.space,
            Discrete(state.max_candidates),
            lambda _: 0.0,
            features_extractor_kwargs={"width": width},
        )


def _load_weights(network: Any, path: Path) -> None:
    from stable_baselines3.common.save_util import load_from_zip_file

    try:
        _, weights, _ = load_from_zip_file(path, load_data=False, device="cpu")
        network.load_state_dict(weights["policy"])
    except Exception as err:  # zipfile, torch and pickle each raise kinds of their own
        raise DataError(f"{path} holds no weights of this policy: {err}") from err
    network.set_training_mode(False)
