"""Server processes: that they start, serve what a local policy says, and never outlive us."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import endpoint_policy
from eto_gym.agents.policy import Conversation
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.agents.serving import servers as serving
from eto_gym.agents.serving.servers import ModelServers
from eto_gym.errors import DataError, EtoGymError
from eto_gym.prompt import Message
from tests.toy import CORRIDOR

SMALL = Path(__file__).with_name("small_server.py")


def command(manner: str = "") -> str:
    words = [sys.executable, "-S", str(SMALL)]
    return f"{shlex.join(words)} {{model}} {{host}} {{port}} {manner}"


def pids_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False
    return state != "Z"


def until(true: Callable[[], bool], *, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def health(url: str) -> int:
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as answer:
            return int(answer.status)
    except OSError:
        return 0


# --- any server ----------------------------------------------------------------------------------


def test_servers_live_as_long_as_the_context_and_are_started_anew(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with ModelServers(str(model), workers=2, command=command("stubborn")) as servers:
        assert len(set(servers.base_urls)) == 2
        assert [health(url) for url in servers.base_urls] == [200, 200]
        assert all(url.startswith("http://127.0.0.1:") for url in servers.base_urls)
        pids = pids_in(model)
        assert len(pids) == 4
        assert all(map(alive, pids))
        os.kill(pids[0], signal.SIGKILL)
        assert until(lambda: len(pids_in(model)) == 6)
        assert until(lambda: all(health(url) == 200 for url in servers.base_urls))
        assert not alive(pids[1]), "what a dead server started is left behind"
        assert servers.failure is not None
        assert "status 137" in servers.failure
    assert not any(map(alive, pids_in(model)))


def test_servers_end_while_a_forked_child_holds_their_pipes(tmp_path: Path) -> None:
    """As the children of `multiprocessing` by fork do, whatever they are for."""
    model = tmp_path / "model"
    with ModelServers(str(model), command=command()) as servers:
        assert health(servers.base_urls[0]) == 200
        pids = pids_in(model)
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        try:
            began = time.monotonic()
            servers._stop()
            assert time.monotonic() - began < 30
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert not any(map(alive, pids))


def test_a_server_that_dies_at_once_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(EtoGymError, match=r"ended with status 1: .*\n.*\nno such weights"),
        ModelServers(str(tmp_path / "m"), workers=2, command=command("die")),
    ):
        pass
    with (
        pytest.raises(EtoGymError, match="status 127"),
        ModelServers("m", command="/no/such/program {model} {host} {port}"),
    ):
        pass


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    model = tmp_path / "m"
    with (
        pytest.raises(EtoGymError, match="within 1 s"),
        ModelServers(str(model), command=command("mute"), startup_timeout=1.0),
    ):
        pass
    assert not any(map(alive, pids_in(model) if model.exists() else []))


def test_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(tmp_path / "m")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with (
            pytest.raises(EtoGymError, match=f"cannot listen on port {port} .*already in use"),
            ModelServers(model, command=command(), port=port),
        ):
            pass
        # Another's server that answers there is not taken for ours, on the second port neither.
        taken.listen()
        with (
            pytest.raises(EtoGymError, match=f"cannot listen on port {port} "),
            ModelServers(model, command=command(), port=port - 1, workers=2),
        ):
            pass
        # A port that was free when it was chosen may be taken when it is used.
        choices = iter([[port], serving._free_ports("127.0.0.1", 1)])
        monkeypatch.setattr(serving, "_free_ports", lambda host, count: next(choices))
        with ModelServers(model, command=command(), log_folder=tmp_path / "logs") as servers:
            assert not servers.base_urls[0].endswith(f":{port}/v1")
            assert health(servers.base_urls[0]) == 200
    assert "already in use" in (tmp_path / "logs/server-0.log").read_text()


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    for wrong, words in (
        ({"workers": 0}, "workers"),
        ({"port": 65536}, "ports"),
        ({"gpus": []}, "gpus"),
        ({"command": "vllm serve {model} --port {port}"}, r"expected \{host\} in"),
        ({"command": "vllm 'serve"}, "cannot read"),
        ({"arguments": ["--trust-remote-code"]}, "never run"),
    ):
        with pytest.raises(EtoGymError, match=words):
            ModelServers("m", **wrong)
    folder = tmp_path / "run@3"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    pytest.importorskip("transformers")
    with pytest.raises(EtoGymError, match="rename"):
        ModelServers(str(folder))


def serve_command(model: Path, manner: str) -> subprocess.Popen[str]:
    words = ["serve", str(model), "--workers", "2", "--command", command(), "--", manner]
    return subprocess.Popen(
        [sys.executable, "-m", "eto_gym.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # A job in the background inherits to ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_the_command_leaves_no_process(tmp_path: Path, number: int, status: int) -> None:
    model = tmp_path / "m"
    with serve_command(model, "" if number != signal.SIGKILL else "stubborn") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0] == f"model: {model}\n"
        for line in lines[1:]:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1\n", line)
            assert health(line.strip()) == 200
        process.send_signal(number)
        assert process.wait(timeout=60) == status
    pids = pids_in(model)
    assert len(pids) >= 2
    assert until(lambda: not any(map(alive, pids)), seconds=30)


@pytest.mark.parametrize("ended", [True, False])
def test_streams_end_with_the_line_that_strict_clients_wait_for(ended: bool) -> None:
    """It is added where it is missing, once, and to nothing else."""
    from eto_gym.agents.serving.transformers_server import EndStreams

    pieces = [b"data: {}\n\n", b"data: [DO", b"NE]\n\n", b""] if ended else [b"data: {}\n\n", b""]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kind = b"text/event-stream; charset=utf-8" if scope["stream"] else b"application/json"
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces, start=1):
            more = number < len(pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    def body(path: str, *, stream: bool) -> bytes:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "stream": stream}
        asyncio.run(EndStreams(app)(scope, None, send))  # type: ignore[arg-type]
        return b"".join(message.get("body", b"") for message in sent)

    assert body("/v1/chat/completions", stream=True) == b"data: {}\n\ndata: [DONE]\n\n"
    assert body("/v1/chat/completions", stream=False) == b"".join(pieces)
    assert body("/v1/responses", stream=True) == b"".join(pieces)


# --- transformers serve --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base whose replies end by themselves, some sooner than others, and an adapter over it."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from eto_gym.agents.models.tiny import save_tiny
    from tests.agents.models.small_models import CODEC, TOKENIZER, make_model

    made = make_model("llama")
    specials = sorted(CODEC.tokenizer.added_tokens_decoder)
    with torch.no_grad():
        made.get_input_embeddings().weight[specials] *= 2  # also the output's: said more often
    made.generation_config.eos_token_id = [i for i in specials if i != 0]
    folder = tmp_path_factory.mktemp("served")
    base = save_tiny(made, TOKENIZER, folder / "base")
    torch.manual_seed(4)
    config = peft.LoraConfig(
        r=2, lora_alpha=1, target_modules="all-linear", init_lora_weights=False
    )
    adapted = peft.get_peft_model(made, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder / "adapter@1")
    TOKENIZER.save_pretrained(folder / "adapter@1")
    return base, folder / "adapter@1"


@pytest.fixture(scope="module")
def model(folders: tuple[Path, Path]) -> Any:
    """What the servers serve, in this process."""
    from eto_gym.agents.models.loading import load_model

    return load_model(str(folders[1]), device="cpu")


@pytest.fixture(scope="module")
def served(folders: tuple[Path, Path]) -> Iterator[ModelServers]:
    for package in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    with ModelServers(str(folders[1]), workers=2, arguments=["--device", "cpu"]) as servers:
        yield servers
    assert not Path(servers.model).exists()


@pytest.fixture
def connect(served: ModelServers) -> Iterator[Callable[..., Any]]:
    from eto_gym.agents.endpoint.policy import EndpointPolicy

    made = []

    def make(**options: Any) -> EndpointPolicy:
        options = {"max_new_tokens": 12, "timeout": 120.0, **options}
        made.append(EndpointPolicy(served.base_urls, options.pop("model", served.model), **options))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


def test_says_what_the_local_policy_says(model: Any, connect: Any) -> None:
    from tests.agents.models.small_models import play, policy

    episodes = list(range(6))
    behind = connect()
    talks = play(behind, episodes, turns=3)
    assert talks == play(policy(model), episodes, turns=3)
    assert len({m.content for talk in talks.values() for m in talk if m.train}) > 8
    batch = [Conversation(str(i), talk[:-1]) for i, talk in talks.items()]
    remote = behind.act(batch)
    local = policy(model, keep_cache=False).act(batch)
    assert [reply.text for reply in remote] == [reply.text for reply in local]
    counts = [{**reply.usage, "requests": 1} for reply in local]
    assert [reply.usage for reply in remote] == counts
    assert len({usage["decoded_tokens"] for usage in counts}) > 1


def test_transformers_ends_its_streams(served: ModelServers) -> None:
    body = {
        "model": served.model,
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 2,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{served.base_urls[0]}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        events = answer.read()
    assert events.endswith(b"data: [DONE]\n\n")
    assert events.count(b"[DONE]") == 1
    assert b'"finish_reason"' in events


def test_an_adapter_is_served_on_its_base_without_a_copy(
    folders: tuple[Path, Path], model: Any, served: ModelServers
) -> None:
    from eto_gym.agents.models.loading import load_model
    from tests.agents.models.small_models import play, policy

    base, adapter = folders
    links = Path(served.model)
    assert all(path.is_symlink() for path in links.iterdir())
    assert (links / "model.safetensors").resolve() == (base / "model.safetensors").resolve()
    assert (links / "adapter_model.safetensors").resolve().parent == adapter.resolve()
    bare = policy(load_model(str(base), device="cpu"))
    assert play(bare, [0, 1, 2], turns=2) != play(policy(model), [0, 1, 2], turns=2)


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    for package in ("peft", "torch", "openai", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    from eto_gym.agents.policies import local_policy

    config = tmp_path / "adapter" / "adapter_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    for use in (ModelServers, local_policy):
        with pytest.raises(DataError, match="gone, which is not there any more"):
            use(str(config.parent))
    config.write_text("{}")
    with pytest.raises(DataError, match="does not tell what the adapter belongs to"):
        ModelServers(str(config.parent))
    (tmp_path / "gone").mkdir()
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with (
        pytest.raises(DataError, match="expected the base's weights as safetensors"),
        ModelServers(str(config.parent)),
    ):
        pass


def test_stop_strings_and_limits_are_the_local_policys(model: Any, connect: Any) -> None:
    from tests.agents.models.small_models import hello, policy

    talks = [[Message("user", "The rules."), *hello(i)] for i in range(9)]
    batch = [Conversation(str(i), talk) for i, talk in enumerate(talks)]
    for options in ({"max_new_tokens": 3}, {"stop": ["e", "\ufffd"]}):
        replies = [reply.text for reply in connect(**options).act(batch)]
        assert replies == [reply.text for reply in policy(model, **options).act(batch)]
        assert replies != [reply.text for reply in policy(model).act(batch)]


def test_a_full_context_is_an_error_as_for_the_local_policy(model: Any, connect: Any) -> None:
    from tests.agents.models.small_models import CODEC, policy

    # The server itself would go on past the model's 512 positions without a word.
    talks = [[Message("user", "x" * length)] for length in range(490, 513)]
    sizes = [len(CODEC.generation_prompt(talk)) for talk in talks]
    assert min(sizes) < 500
    assert max(sizes) > 512
    batch = [Conversation(str(i), talk) for i, talk in enumerate(talks)]
    remote = [(reply.text, reply.error) for reply in connect().act(batch)]
    assert remote == [(reply.text, reply.error) for reply in policy(model).act(batch)]
    assert {error for _, error in remote} == {None, "context"}


def test_sampled_replies_depend_on_seeds_alone(connect: Any) -> None:
    from tests.agents.models.small_models import hello

    talks = [[Message("user", "The rules."), *hello(i)] for i in range(3)]
    batch = [Conversation(f"{i} {s}", talks[i], seed=s) for s in range(4) for i in range(3)]
    sampled = [reply.text for reply in connect(temperature=1.0).act(batch)]
    again = connect(temperature=1.0, concurrency=3).act(batch[::-1])
    assert sampled == [reply.text for reply in again][::-1]
    assert len(set(sampled)) > 9  # greedy has three
    greedy = [reply.text for reply in connect().act(batch)]
    nucleus = [reply.text for reply in connect(temperature=1.0, top_p=1e-6).act(batch)]
    assert nucleus == greedy


def test_a_wrong_name_is_told(connect: Any) -> None:
    with pytest.raises(EtoGymError, match="does not tell what it serves"):
        connect(model=None)
    batch = [Conversation(str(i), [Message("user", "a")]) for i in range(3)]
    with pytest.raises(EtoGymError, match="pinned to"):
        connect(model="other").act(batch)


def test_a_rollout_outlasts_the_death_of_a_server(served: ModelServers) -> None:
    episodes = plan_episodes([f"door-{i % 4}/{i}" for i in range(8)], seed=1)
    make = functools.partial(
        endpoint_policy, served.base_urls, served.model, max_new_tokens=12, temperature=1.0
    )
    short = {"max_episode_steps": 3}  # the model fills its context with malformed replies
    spec = RolloutSpec(CORRIDOR, make, short, prompt_style="none", slots=8)
    before = collect(spec, episodes)
    assert [t.error for t in before] == [None] * len(episodes)
    watcher = served._workers[0]._process
    assert watcher is not None
    children = Path(f"/proc/{watcher.pid}/task/{watcher.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    after = collect(spec, episodes)
    assert [t.messages for t in after] == [t.messages for t in before]
    assert [t.error for t in after] == [None] * len(episodes)
