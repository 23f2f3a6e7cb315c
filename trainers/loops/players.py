"""Where the model of a stage plays: in this process, behind servers of this run, or of others.

What is played is the same: the episodes, their records and the names of the stages do not tell
where. Servers start when a stage has something to play, and are gone when it has played, unless
they are kept for the next one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eto_gym.agents.models.adapters import base_of, is_adapter
from eto_gym.agents.models.model_names import folder_of_model, resolve_model
from eto_gym.agents.models.sizes import adapter_rows
from eto_gym.agents.models.template import reads_clock, template_of
from eto_gym.agents.policies import endpoint_policy, local_policy
from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.command_lines import fill
from eto_gym.errors import EtoGymError
from eto_gym.trainers.loops.hook import run_hook
from eto_gym.trainers.run.process_group import ProcessGroup
from eto_gym.trainers.settings.playing import PlayerSettings
from eto_gym.trajectories import Trajectory

if TYPE_CHECKING:
    from eto_gym.agents.serving import ModelServers
    from eto_gym.agents.serving.kept import KeptServers
    from eto_gym.agents.serving.kept_models import KeptModels

logger = logging.getLogger(__name__)

_LOST = 0.1
"""Share of a stage's episodes that servers may fail at before the stage counts as not played."""

_NO_REPLY = ("policy", "timeout", "format")
"""Kinds of errors of what should reply; "context" is a failure of the model, and counts as one."""


@dataclass(frozen=True)
class StagePolicy:
    """The model of a stage as what plays; building it loads the model into this process.

    Attributes:
        model: Folder or name.
        name: Recorded with every trajectory.
        temperature: Of sampling; 0 is greedy.
        max_new_tokens: Longest reply in tokens.
        context: Longest conversation in tokens.
        device: Where a local policy puts the model.
        template_kwargs: Variables of the chat template.
        chat_template: Replaces the model's own template; "" for none.
        dtype: Precision of a local policy's weights; "auto": as they were saved.
        date: For templates that read the clock; "" for that of the process that builds the policy.
        compile: Whether a local policy compiles its decoding step.
    """

    model: str
    name: str
    temperature: float
    max_new_tokens: int
    context: int
    device: str
    template_kwargs: Mapping[str, Any]
    chat_template: str = ""
    dtype: str = "auto"
    date: str = ""
    compile: bool = False

    def __call__(self) -> Policy:
        """Build the local policy."""
        return local_policy(
            self.model,
            device=self.device,
            dtype=self.dtype,
            date=self.date,
            compile=self.compile,
            **self._options(),
            **({"template_kwargs": self.template_kwargs} if self.template_kwargs else {}),
            **({"chat_template": self.chat_template} if self.chat_template else {}),
        )

    def behind(self, served: Served, *, concurrency: int) -> functools.partial[Policy]:
        """Return what builds the policy that asks servers for the replies."""
        body = {"chat_template_kwargs": dict(self.template_kwargs)}
        return functools.partial(
            endpoint_policy,
            served.urls,
            served.model,
            concurrency=concurrency,
            **self._options(),
            **({} if served.settled or not self.template_kwargs else {"extra_body": body}),
        )

    def _options(self) -> dict[str, Any]:
        names = ("name", "temperature", "max_new_tokens", "context")
        return {name: getattr(self, name) for name in names}


class Served(NamedTuple):
    """A model behind servers.

    Attributes:
        urls: Their base URLs.
        model: Name by which they are asked for it.
        settled: Whether its chat template holds its variables and its date, as a local one does.
    """

    urls: list[str]
    model: str
    settled: bool


class Players:
    """Brings the model of a stage to where it plays, as the settings say."""

    def __init__(
        self,
        settings: PlayerSettings,
        folder: Path,
        processes: ProcessGroup,
        served: Served | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            settings: Where models play.
            folder: The run folder, in which servers may be given a folder of their own to load.
            processes: Those that play; the first starts the servers, for all of them.
            served: What another process has made ready for all that plays here; None: nothing.

        Raises:
            EtoGymError: They are on several machines, which cannot reach each other's servers.
        """
        self._settings = settings
        self._kind = settings.play_kind
        self._processes = processes
        self._ready = served
        self._scratch = folder / "served"
        self._told = ""  # what the hook was told last
        self._warned = False
        self._kept: KeptServers | None = None
        self._kept_models: KeptModels | None = None
        here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.count))
        if self._kind == "serve" and here < processes.count:
            raise EtoGymError(
                "servers of a run answer on their own machine only, and the processes of this one "
                "are on several: start servers yourself and give play endpoint:URL,..."
            )

    @contextlib.contextmanager
    def playing(self, spec: RolloutSpec) -> Iterator[RolloutSpec]:
        """Have servers ready for what a specification plays with; all processes must call this.

        Yields:
            The specification with a policy that asks them. It is the given one where models play
            in this process, or where no model plays.

        Raises:
            EtoGymError: They do not come up, or serve something else.
        """
        policy = spec.make_policy
        if self._kind == "local" or not isinstance(policy, StagePolicy):
            yield spec
            return
        with self.serving(policy) as served:
            concurrency = max(1, spec.slots // spec.workers)
            yield replace(spec, make_policy=policy.behind(served, concurrency=concurrency))

    @contextlib.contextmanager
    def serving(self, policy: StagePolicy) -> Iterator[Served]:
        """Have servers ready for a policy; all processes must call this.

        Raises:
            EtoGymError: They do not come up, or serve something else.
        """
        if self._ready is not None:
            yield self._ready
            return
        with contextlib.ExitStack() as stack:
            _free_accelerator()
            if self._kind != "serve":
                open_servers = self._follow
            elif not self._settings.keep_servers:
                open_servers = self._start
            elif self._settings.play_command:
                open_servers = self._keep
            else:
                open_servers = self._keep_transformers
            served = self._processes.first(lambda: open_servers(policy, stack))
            logger.info("%s plays behind %s", policy.name, ", ".join(served.urls))
            yield served

    def check(self, played: Sequence[Trajectory], label: str) -> None:
        """Refuse what servers have mostly failed at: a stage of it would be learnt from.

        Raises:
            EtoGymError: More than a tenth of the episodes had no reply, or, of a model that plays
                in this process, all of them.
        """
        lost = sum(t.error in _NO_REPLY for t in played)
        then = "it plays these anew and keeps the others"
        self._check_lost(lost, len(played), label, "in {} of {} episodes", then)

    def check_replies(self, errors: Mapping[str, int], asked: int, label: str) -> None:
        """Refuse single replies that were mostly not given, as `check` does episodes.

        Args:
            errors: Kind of error -> replies that were not given because of it.
            asked: Replies that were asked for.
            label: Name of what was played.

        Raises:
            EtoGymError: More than a tenth were not given, or, of a model that plays in this
                process, all of them.
        """
        lost = sum(errors.get(kind, 0) for kind in _NO_REPLY)
        self._check_lost(lost, asked, label, "to {} of {} questions", "it plays the stage anew")

    def _check_lost(self, lost: int, asked: int, label: str, where: str, then: str) -> None:
        served = self._kind != "local"
        if lost > _LOST * asked if served else lost == asked > 0:
            raise EtoGymError(
                f"{label}: {'the servers' if served else 'the model'} gave no reply "
                f"{where.format(lost, asked)}. When the cause is removed, start the same command "
                f"again: {then}"
            )

    def clear(self) -> None:
        """Remove what servers were given to load, also by a run that was killed."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def close(self) -> None:
        """Stop the servers that were kept from stage to stage."""
        for kept in (self._kept, self._kept_models):
            if kept is not None:
                kept.close()

    # --- servers of this run ----------------------------------------------------------------------

    def _start(self, policy: StagePolicy, stack: contextlib.ExitStack) -> Served:
        """Start servers for one stage."""
        self.clear()
        stack.callback(self.clear)
        weights = resolve_model(policy.model)
        whole, more, name = self._whole(weights, policy.name)
        template = _template(whole, weights, policy)
        servers = stack.enter_context(
            self._servers(whole, template, policy.template_kwargs, more=more)
        )
        return Served(servers.base_urls, name or servers.model, settled=True)

    def _keep(self, policy: StagePolicy, stack: contextlib.ExitStack) -> Served:
        """Have servers that run take the adapter of a stage; start them where none have its base.

        Raises:
            EtoGymError: The adapter has an embedding of its own, which no server loads as it runs.
        """
        from eto_gym.agents.serving.kept import KeptServers
        from eto_gym.agents.serving.running_adapters import ALLOW

        weights = _taken_while_running(policy.model)
        adapter = is_adapter(weights)
        whole = base_of(weights) if adapter else weights
        if self._kept is None:
            self._kept = KeptServers(self._settings.play_timeout)
        template = _template(whole, weights, policy)
        servers = self._kept.serving(
            (str(Path(whole).resolve()), template),
            lambda: self._servers(whole, template, policy.template_kwargs, environment=ALLOW),
        )
        if not adapter:
            return Served(servers.base_urls, servers.model, settled=True)
        self._kept.take(policy.name, str(Path(weights).resolve()))
        return Served(servers.base_urls, policy.name, settled=True)

    def _keep_transformers(self, policy: StagePolicy, stack: contextlib.ExitStack) -> Served:
        """Have `transformers serve` processes that run take the model of a stage.

        Raises:
            EtoGymError: It is an adapter with an embedding of its own.
        """
        from eto_gym.agents.serving.kept_models import KeptModels
        from eto_gym.agents.serving.templated import settled

        weights = _taken_while_running(policy.model)
        template: str | None = _template(weights, weights, policy) or None
        if template or policy.template_kwargs:
            template = settled(weights, template or "", policy.template_kwargs)
        if self._kept_models is None:
            make = functools.partial(self._servers, None)
            self._kept_models = KeptModels(make, self._settings.play_timeout)
        urls, name = self._kept_models.hold(weights, template)
        return Served(urls, name, settled=True)

    def _servers(
        self,
        whole: str | None,
        template: str = "",
        variables: Mapping[str, Any] | None = None,
        more: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> ModelServers:
        """Return servers that are not started yet.

        Args:
            whole: What they load; None: nothing yet.
            template: A chat template in place of its own; "" for its own.
            variables: What is set in the template.
            more: Further arguments of their program.
            environment: Further variables of their environment.
        """
        from eto_gym.agents.serving.servers import ModelServers

        s = self._settings
        gpus = s.gpus.split() or None
        return ModelServers(
            whole,
            workers=s.servers or len(gpus or ("",)),
            command=s.play_command or None,
            arguments=[*shlex.split(s.play_arguments), *more],
            gpus=gpus,
            environment=environment,
            startup_timeout=s.play_timeout,
            chat_template=template,
            template_kwargs=variables,
        )

    def _whole(self, model: str, stage: str) -> tuple[str, list[str], str]:
        """Return what to serve, further arguments, and the name to ask for ("": the served one)."""
        s = self._settings
        if not is_adapter(model):
            return model, [], ""
        own_rows = adapter_rows(model) is not None
        if not own_rows and s.play_adapter:
            values = {"{adapter}": str(Path(model).resolve()), "{name}": stage}
            return base_of(model), fill(shlex.split(s.play_adapter), values), stage
        if not own_rows and not s.play_command:
            return model, [], ""
        from eto_gym.trainers.model.models import merge_adapter, quiet_libraries

        merged = self._scratch / "merged"
        with quiet_libraries():
            merge_adapter(model, merged)
        return str(merged), [], ""

    # --- servers of others ------------------------------------------------------------------------

    def _follow(self, policy: StagePolicy, stack: contextlib.ExitStack) -> Served:
        from eto_gym.agents.endpoint.waiting import await_model

        s = self._settings
        model = resolve_model(policy.model)
        if Path(model).exists():
            model = str(Path(model).resolve())
        if s.play_hook and self._told != model:
            run_hook(s.play_hook, {"{model}": model, "{name}": policy.name}, s.play_timeout)
            self._told = model
        if policy.chat_template or reads_clock(template_of(folder_of_model(model))):
            logger.warning(
                "%s: the servers must be given the run's chat template, and its date, themselves",
                policy.name,
            )
        name = s.play_model or model
        remedy = (
            ": a play_hook has the servers take the weights of each stage, and play_model says by "
            "which name they are asked for them"
        )
        lists = await_model(s.play_urls, name, timeout=s.play_timeout, remedy=remedy)
        if lists and not s.play_hook and not self._warned:
            self._warned = True
            logger.warning(
                "no play_hook tells the servers of new weights: the run ends after a training, "
                "until you have them serve what it made and start the same command again"
            )
        return Served(s.play_urls, name, settled=False)


def _taken_while_running(model: str) -> str:
    """Return the folder or name of a model that servers are to take while they run.

    Raises:
        EtoGymError: It is an adapter that none takes so.
    """
    weights = resolve_model(model)
    if is_adapter(weights) and adapter_rows(weights) is not None:
        raise EtoGymError(
            f"the adapter in {weights} brings an embedding of its own, which no server takes while "
            "it runs: drop keep_servers"
        )
    return weights


def _template(served: str, weights: str, policy: StagePolicy) -> str:
    """Return the template that servers must be given to read as a local policy does; "" for none.

    Args:
        served: What they are to load.
        weights: What a local policy would load; the template of an adapter may not be its base's.
        policy: The local policy.
    """
    own = template_of(folder_of_model(served))
    template = policy.chat_template or template_of(folder_of_model(weights)) or own
    return template if template != own or reads_clock(template) else ""


def _free_accelerator() -> None:
    """Give back what training has kept of a GPU's memory, for servers to take."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
