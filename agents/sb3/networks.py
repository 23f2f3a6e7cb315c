"""A pointer-like network that scores candidates, and policies of MaskablePPO and DQN around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import DQN
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e8
"""Score of a place without a candidate: its probability is exactly 0 in float32. Finite, because
SB3 multiplies values of finished episodes by 0."""


class CandidateScorer(BaseFeaturesExtractor):
    """Scores each candidate by its own features and the state's; places are interchangeable.

    The state is made of task, observation, history and the mean of the candidates. A candidate
    meets it as itself, as a product with it, and as three cosines: how much it has in common with
    the task, the observation and the history, which holds for words that no weight has seen yet.

    Returns the scores of all places, `MASKED` where there is no candidate, and then the state.
    """

    def __init__(self, observation_space: spaces.Dict, *, width: int = 64) -> None:
        """Create the network.

        Args:
            observation_space: `Candidates.space`.
            width: Width of the state and of a candidate's embedding.
        """
        self.places = int(np.prod(observation_space["mask"].shape or ()))
        super().__init__(observation_space, features_dim=self.places + width)
        dim = int(np.prod(observation_space["task"].shape or ()))
        self._scale = dim**0.5
        self.texts = nn.ModuleDict(
            {name: nn.Linear(dim, width) for name in ("task", "observation", "history")}
        )
        self.candidate = nn.Linear(dim, width)
        self.state = nn.Sequential(
            nn.ReLU(), nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.score = nn.Sequential(nn.Linear(3 * width + 4, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, observations: PyTorchObs) -> Tensor:
        """Return scores and state, side by side."""
        assert isinstance(observations, dict)
        mask = observations["mask"].bool()
        # Only places that hold a candidate are computed: `episode` and `place` name them.
        episode, place = mask.nonzero(as_tuple=True)
        choices = functional.normalize(
            observations["candidates"].view(len(mask), self.places, -1)[episode, place], dim=-1
        )
        embedded = self.candidate(choices * self._scale)
        units = {name: functional.normalize(observations[name], dim=-1) for name in self.texts}
        pooled = embedded.new_zeros(len(mask), embedded.shape[-1])
        pooled = pooled.index_add(0, episode, embedded) / mask.sum(-1, keepdim=True).clamp(min=1)
        state = self.state(
            torch.cat(
                [*(net(units[name] * self._scale) for name, net in self.texts.items()), pooled],
                dim=-1,
            )
        )
        around = state[episode]
        cosines = [(choices * unit[episode]).sum(-1, keepdim=True) for unit in units.values()]
        taken = torch.log1p(observations["taken"][episode, place]).unsqueeze(-1)
        scores = self.score(
            torch.cat([embedded, around, embedded * around, *cosines, taken], dim=-1)
        ).squeeze(-1)
        masked = scores.new_full(mask.shape, MASKED).index_put((episode, place), scores)
        return torch.cat([masked, state], dim=-1)


class _Split(nn.Module):
    """Gives the scores to the actor and the state to the critic."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = places, width

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return features[:, : self.latent_dim_pi]

    def forward_critic(self, features: Tensor) -> Tensor:
        return features[:, self.latent_dim_pi :]


class MaskableCandidatePolicy(MaskableActorCriticPolicy):
    """MaskablePPO's policy: a categorical distribution over the candidates.

    A place without a candidate has a probability of exactly 0, also where no `action_masks` are
    given: the observation holds the mask.

    Example:
        >>> from sb3_contrib import MaskablePPO
        >>> import eto_gym, gymnasium as gym
        >>> from eto_gym.agents.sb3 import CandidatesEnv
        >>> env = CandidatesEnv(gym.make("ETO/ALFWorld-v0", admissible_actions=True))
        >>> model = MaskablePPO(MaskableCandidatePolicy, env, n_steps=16, batch_size=16)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of MaskablePPO's policies; the extractor is `CandidateScorer`."""
        kwargs.setdefault("features_extractor_class", CandidateScorer)
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        scorer = self.features_extractor
        assert isinstance(scorer, CandidateScorer)
        width = scorer.features_dim - scorer.places
        self.mlp_extractor = _Split(scorer.places, width)  # type: ignore[assignment]
        self.action_net = nn.Identity()
        self.value_net = nn.Linear(width, 1)
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )


def __getattr__(name: str) -> Any:
    if name == "CandidateActorCriticPolicy":
        raise ImportError(
            "CandidateActorCriticPolicy is gone: use MaskableCandidatePolicy, and MaskablePPO of "
            "sb3-contrib in place of PPO"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class CandidateQNetwork(QNetwork):
    """The value of each candidate: the state's, plus the candidate's score."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of SB3's network."""
        super().__init__(*args, **kwargs)
        scorer = self.features_extractor
        assert isinstance(scorer, CandidateScorer)
        self.places = scorer.places
        self.q_net = nn.Sequential(nn.Linear(self.features_dim - self.places, 1))

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Return the values; those of masked places lie near `MASKED`."""
        assert self.features_extractor is not None
        features = self.extract_features(obs, self.features_extractor)
        value: Tensor = self.q_net(features[:, self.places :])
        return features[:, : self.places] + value


class CandidateDQNPolicy(DQNPolicy):
    """DQN's policy: the candidate of highest value; masked places are never the highest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of SB3's policy; the extractor is `CandidateScorer`."""
        kwargs.setdefault("features_extractor_class", CandidateScorer)
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        """Make the network, with an extractor of its own."""
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        return CandidateQNetwork(**net_args).to(self.device)


class MaskedDQN(DQN):
    """SB3's DQN, exploring among the candidates only, each environment by a draw of its own.

    SB3 explores by sampling the action space, which mostly holds padding here.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        self._explore = np.random.default_rng(self.seed)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_explore"]

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return the best candidates, or with probability epsilon random ones."""
        places, state = self.policy.predict(observation, state, episode_start, deterministic)
        if deterministic or self.exploration_rate <= 0:
            return places, state
        assert isinstance(observation, dict)
        places = np.array(places)
        drawn = self._draw(observation["mask"].reshape(places.size, -1)).reshape(places.shape)
        explore = self._explore.random(places.shape) < self.exploration_rate
        return np.where(explore, drawn, places), state

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.num_timesteps < learning_starts:
            assert isinstance(self._last_obs, dict)
            places = self._draw(self._last_obs["mask"])
            return places, places
        return super()._sample_action(learning_starts, action_noise, n_envs)

    def _draw(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Draw one candidate of each row, uniformly."""
        keys = self._explore.random(mask.shape)
        drawn: NDArray[Any] = np.argmax(np.where(mask > 0, keys, -1.0), axis=1)
        return drawn
