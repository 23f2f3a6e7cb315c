"""`eto-gym data` for WebShop: the download against a local server, and the build."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from eto_gym.cli.main import main
from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.download import ADDRESS, FULL, SMALL, download
from eto_gym.errors import DataError
from tests.envs.webshop.support import record


class Drive(ThreadingTCPServer):
    """Stands in for Google Drive: answers by file id, and notes what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        goal = {
            "instruction": "a red mug",
            "instruction_attributes": ["red"],
            "instruction_options": [],
        }
        self.contents = {
            SMALL.products.drive_id: json.dumps([record("A1"), record("A2", "Blue Cup")]).encode(),
            SMALL.attributes.drive_id: b"\xef\xbb\xbf {}",
            SMALL.goals.drive_id: json.dumps({"A1": [goal]}).encode(),
        }
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """The official address, with this server in place of Google's."""
        parts = urlsplit(ADDRESS)
        return ADDRESS.replace(
            f"{parts.scheme}://{parts.netloc}", f"http://127.0.0.1:{self.server_address[1]}"
        )


class _Handler(BaseHTTPRequestHandler):
    server: Drive

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        assert query["confirm"] == ["t"]
        (file_id,) = query["id"]
        self.server.asked.append(file_id)
        content = self.server.contents.get(file_id)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def drive() -> Iterator[Drive]:
    server = Drive()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_fetches_once_and_verifies_later(drive: Drive, tmp_path: Path) -> None:
    files = download(tmp_path, small=True, address=drive.address, progress=False)
    assert drive.asked == [file.drive_id for file in SMALL]
    assert [path.name for path in files] == [file.name for file in SMALL]
    assert files.products.read_bytes() == drive.contents[SMALL.products.drive_id]
    assert download(tmp_path, small=True, address=drive.address, progress=False) == files
    assert len(drive.asked) == 3
    files.goals.write_bytes(b"{} ")
    with pytest.raises(DataError, match="checksum"):
        download(tmp_path, small=True, address=drive.address, progress=False)


def test_a_page_in_place_of_a_file_is_not_kept(drive: Drive, tmp_path: Path) -> None:
    good = drive.contents[SMALL.attributes.drive_id]
    drive.contents[SMALL.attributes.drive_id] = b"<!DOCTYPE html><title>Quota exceeded</title>"
    with pytest.raises(DataError, match=f"file/d/{SMALL.attributes.drive_id}/view"):
        download(tmp_path, small=True, address=drive.address, progress=False)
    assert not any(path.name.startswith(SMALL.attributes.name) for path in tmp_path.iterdir())
    drive.contents[SMALL.attributes.drive_id] = good
    files = download(tmp_path, small=True, address=drive.address, progress=False)
    assert files.attributes.read_bytes() == good


def test_a_file_of_the_user_is_not_thrown_away(drive: Drive, tmp_path: Path) -> None:
    kept = tmp_path / SMALL[0].name
    kept.write_text("<html>saved by hand</html>")
    with pytest.raises(DataError, match="was there before and is no JSON"):
        download(tmp_path, small=True, address=drive.address, progress=False)
    assert kept.read_text() == "<html>saved by hand</html>"


def test_a_file_that_is_not_there(drive: Drive, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        download(tmp_path, address=drive.address, progress=False)
    assert drive.asked == [FULL.products.drive_id]


def test_the_commands(drive: Drive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "download",
        "webshop",
        "--small",
        "--out",
        str(tmp_path),
        "--mirror",
        drive.address,
    ]
    assert main(["data", *arguments]) == 0
    printed = capsys.readouterr().out
    command = printed.split("eto-gym ")[1].split()
    index = tmp_path / "index"
    command[-1] = str(index)
    assert main([*command, "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert "2 products, 1 human and 0 synthetic goals, nouns by rules" in captured.out
    assert "items_shuffle_1000.json" in captured.err
    catalog = Catalog.open(index)
    assert catalog.card()["seed"] == 3
    assert catalog.search("cup") == [1]

    assert main([*command]) == 2
    assert "exists already" in capsys.readouterr().err
    command[-1] = str(tmp_path / "other")
    assert main([*command, "--limit", "1", "--no-synthetic"]) == 0
    assert len(Catalog.open(tmp_path / "other")) == 1
    command[-1] = str(tmp_path / "third")
    assert main([*command, "--tagger", "nothing"]) == 2
    assert "expected tagger" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()
