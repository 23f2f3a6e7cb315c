"""Settings that say where stages play, and whether models do there or behind servers."""

from __future__ import annotations

from dataclasses import dataclass

from eto_gym.agents.rollout.launchers import check_launcher
from eto_gym.command_lines import split_command, split_server_command
from eto_gym.errors import EtoGymError, unknown_name
from eto_gym.trainers.settings.base import SettingsError, option
from eto_gym.urls import read_addresses

_ENDPOINT = "endpoint:"
_OF_SERVERS = ("gpus", "servers", "play_arguments", "play_adapter", "keep_servers")
_OF_ENDPOINTS = ("play_hook", "play_model")

ADAPTER_PLACEHOLDERS = ("{adapter}", "{name}")
ADAPTER_EXAMPLE = "--enable-lora --lora-modules {name}={adapter}"
HOOK_PLACEHOLDERS = ("{model}",)
HOOK_EXAMPLE = "./load.sh {model}"


@dataclass(frozen=True, kw_only=True)
class PlayerSettings:
    """Where the models of stages play, and when.

    None of this has an effect on what names a stage, `play_ahead` excepted.
    """

    play: str = option(
        "local",
        "where the model of a stage plays: local, in the processes of the run; serve, behind "
        "`transformers serve` on this machine; endpoint:URL,URL, behind servers that others run, "
        "see play_hook. Servers run while a stage plays, and not while a model is trained",
    )
    play_command: str = option(
        "",
        "runs something else than `transformers serve`: "
        "'vllm serve {model} --host {host} --port {port}'",
    )
    play_arguments: str = option("", "further arguments of the server's program, in one text")
    play_adapter: str = option(
        "",
        "arguments by which the program of play_command serves an adapter on its base, which is "
        "then {model}: '--enable-lora --lora-modules {name}={adapter}'. Empty: the adapter is "
        "merged into a folder of its own first. `transformers serve` needs neither",
    )
    keep_servers: bool = option(
        False,
        "keep the servers from stage to stage, also while a model is trained: give them gpus that "
        "training does not use. `transformers serve` takes each stage's model. Servers of "
        "play_command take its adapter, as vLLM does with --enable-lora in play_arguments; whole "
        "models start them anew",
    )
    play_hook: str = option(
        "",
        "command that has the servers of endpoint:... take new weights, before a stage plays: "
        "'./load.sh {model} {name}' gets the model's folder and the stage's name. It must not end "
        "before the old weights are gone",
    )
    play_model: str = option(
        "",
        "name by which the servers of endpoint:... are asked for the model; empty: the folder of "
        "its weights, as vLLM calls it by itself",
    )
    servers: int = option(0, "servers, each with the model; 0: one, or one for each entry of gpus")
    gpus: str = option(
        "",
        "GPUs of the servers in turn: '0 1' for two servers, '0,1 2,3' for two on two each; empty: "
        "those of this process",
    )
    play_ahead: bool = option(
        False,
        "play the next exploration while a model is trained, by the model that is being trained as "
        "it was before: from the second round on every exploration is one training behind, which "
        "its episodes record. For play serve, with gpus that training does not use, and endpoint",
    )
    play_timeout: float = option(
        900.0, "seconds until the servers must answer, and that the hook may take"
    )
    launcher: str = option(
        "local",
        "where episodes are played: local, on this machine; ray, by `workers` actors of the Ray "
        "cluster in RAY_ADDRESS, which must see the run folder; ray:N, where N more of its actors "
        "hold the model. Training stays with the processes of the run",
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        kind = self.play_kind
        if kind == "endpoint" and self.play_command:
            raise SettingsError(
                "play_command starts servers, and play names some that others run: give one of them"
            )
        for name in (*_OF_SERVERS, *_OF_ENDPOINTS):
            wanted = "serve" if name in _OF_SERVERS else "endpoint"
            if getattr(self, name) and kind != wanted:
                form = "endpoint:URL" if wanted == "endpoint" else "serve, or play_command"
                raise SettingsError(f"{name} is for play {form}; play is {self.play!r}")
        if self.servers < 0 or not self.play_timeout > 0:
            raise SettingsError(
                "expected servers >= 0 and play_timeout > 0, got "
                f"{self.servers} and {self.play_timeout:g}"
            )
        check_launcher(self.launcher)
        if self.launcher != "local" and kind == "serve":
            raise SettingsError(
                "servers of a run answer on its own machine only, and with launcher "
                f"{self.launcher!r} others play: start servers yourself and give play "
                "endpoint:URL,..., or leave play local"
            )
        try:
            self._check_texts(kind)
        except SettingsError:
            raise
        except EtoGymError as err:
            raise SettingsError(str(err)) from err

    @property
    def play_kind(self) -> str:
        """Whether models play "local", behind a "serve" of this run, or behind an "endpoint".

        Raises:
            UnknownNameError: `play` is none of its forms.
        """
        if self.play.startswith(_ENDPOINT):
            return "endpoint"
        if self.play not in ("local", "serve"):
            raise unknown_name("play", self.play, ["local", "serve", "endpoint:URL,URL"])
        return "serve" if self.play_command else self.play

    @property
    def play_urls(self) -> list[str]:
        """Base URLs of the servers that others run."""
        return [address.url for address in read_addresses(self.play.removeprefix(_ENDPOINT))]

    def _check_texts(self, kind: str) -> None:
        if kind == "endpoint":
            addresses = read_addresses(self.play.removeprefix(_ENDPOINT))
            if any(address.user is not None for address in addresses):
                raise SettingsError(
                    "play is recorded in the run folder: expected URLs without user and password. "
                    "A key is read from the environment variable OPENAI_API_KEY"
                )
            if self.play_model and not self.play_hook:
                raise SettingsError(
                    f"the servers go by the name {self.play_model!r} whatever they hold: expected "
                    "a play_hook, which has them take the weights of each stage"
                )
        if self.play_command:
            split_server_command(self.play_command)
        if self.keep_servers and self.play_adapter:
            raise SettingsError(
                "keep_servers loads adapters into servers that run, and play_adapter serves them "
                "from the start: give one of them. Servers that take new weights by other means "
                "are play endpoint:URL, and play_hook tells them"
            )
        if self.play_adapter:
            if not self.play_command:
                raise SettingsError(
                    "play_adapter is for play_command: `transformers serve` takes adapters as "
                    "they are"
                )
            split_command(self.play_adapter, ADAPTER_PLACEHOLDERS, example=ADAPTER_EXAMPLE)
        if self.play_arguments:
            split_command(self.play_arguments, (), example="--dtype float32")
        if self.play_hook:
            split_command(self.play_hook, HOOK_PLACEHOLDERS, example=HOOK_EXAMPLE)
