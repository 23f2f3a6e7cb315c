"""`eto-gym shop` as a process."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from eto_gym.cli.main import main

TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}  # as browsers say it
ROOT = Path(__file__).resolve().parents[3]

pytest.importorskip("flask")


def test_it_serves_on_loopback_until_interrupted() -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "eto_gym.cli.main", "shop", "--port", "0", "--max-steps", "7"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell starts with the signal ignored, and its children do too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found
            with urlopen(Request(found.group(), headers=TYPED), timeout=60) as answer:
                page = answer.read().decode("utf-8")
            assert "Step 0 of 7" in page
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, "that is how one closes the shop"
        finally:
            process.kill()


def test_what_cannot_be_served_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["shop", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["shop", "--port", "99999"]) == 2
    assert main(["shop", "--catalog", "/nowhere"]) == 2
    assert main(["shop", "--max-steps", "0"]) == 2
