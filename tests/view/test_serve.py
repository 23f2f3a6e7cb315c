"""The viewer as a site: on this machine only, and it follows its files."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from eto_gym.cli.main import main
from eto_gym.errors import DataError, EtoGymError
from eto_gym.view.serve import LivePage, make_server
from tests.view.conftest import Reader
from tests.view.test_view import episode, unpacked, write


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    write(tmp_path / "t.jsonl", episode(0))
    with make_server([tmp_path]) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(server: ThreadingHTTPServer, path: str, host: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    headers = {"Host": host} if host else {}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_it_listens_on_the_loopback_interface_only(server: ThreadingHTTPServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_foreign_name_that_leads_here_is_refused(server: ThreadingHTTPServer) -> None:
    assert get(server, "/", host="evil.example")[0] == 403
    assert get(server, "/version", host="evil.example")[0] == 403
    assert get(server, "/")[0] == 200


def test_only_the_page_is_served(server: ThreadingHTTPServer) -> None:
    assert get(server, "/../../etc/passwd")[0] == 404
    assert get(server, "/t.jsonl")[0] == 404


def test_the_page_follows_the_files(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    before = get(server, "/")[1]
    assert "connect-src 'self'" in before.replace("&#x27;", "'")
    assert len(unpacked(before, "index")["episodes"]["columns"]["task"]) == 1
    write(tmp_path / "t.jsonl", episode(1))
    for _ in range(200):
        after = get(server, "/")[1]
        if len(unpacked(after, "index")["episodes"]["columns"]["task"]) == 2:
            return
    raise AssertionError("the page does not change")


def test_a_folder_that_went_away_and_a_reader_who_did_are_no_tracebacks(
    server: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path)
    assert get(server, "/version")[0] in (200, 503)
    assert 503 in (get(server, "/")[0] for _ in range(200)), "files are looked at now and then"
    assert capsys.readouterr().err == ""


def test_a_page_that_is_costly_to_make_is_made_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))  # ten seconds pass between two looks at the clock
    write(tmp_path / "t.jsonl", episode(0))
    live = LivePage([tmp_path])
    monkeypatch.setattr("eto_gym.view.serve.time.monotonic", lambda: float(next(clock)))
    live.page()
    first = live.version()
    write(tmp_path / "t.jsonl", episode(1))
    assert live.version() == first
    for _ in range(20):
        live.version()
    assert live.version() != first


def test_a_taken_port_gets_one_line(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(EtoGymError, match=f"cannot listen on 127.0.0.1:{server.server_port}"):
        make_server([tmp_path], port=server.server_port)


def test_nothing_to_serve_is_said_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="nothing to show"):
        make_server([tmp_path])
    assert main(["view", str(tmp_path), "--serve", "--out", "x.html"]) == 2
    assert "--serve writes no file" in capsys.readouterr().err


@pytest.mark.browser
def test_an_open_page_reloads_and_stays_where_it_was(
    server: ThreadingHTTPServer, tmp_path: Path, reader: Reader
) -> None:
    reader.open(f"http://127.0.0.1:{server.server_port}/", "#/episodes?type=coin")
    reader.see("1 of 1 episodes", "#count")
    write(tmp_path / "t.jsonl", episode(1), episode(2))
    reader.see("3 of 3 episodes", "#count")
    assert reader.driver.current_url.endswith("#/episodes?type=coin")
    reader.complaints()  # the icon that browsers ask for
