"""Pack what a machine with Python and torch lacks into one archive, for a network-less GPU machine.

    benchmarks/gpu.sh bundle --python 3.12 --cuda 13.0

Downloads the wheels that `constraints.txt` pins, for the machine's Python and not for this one's,
and leaves out of them what the measurements never load: bitsandbytes' libraries for other versions
of CUDA, pyarrow's for servers and object stores, tests, and headers. The archive is compressed
with xz, since the same wheels as they are would not fit beside the checkout. Nothing of torch, and
nothing that torch itself requires, is in it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = "gpu-bundle.tar.xz"
LIMIT = 64 * 2**20
"""Bytes that may be carried: the archive and the files of the checkout."""

PACKAGES = (
    # The environments and the trajectories.
    *("gymnasium", "cloudpickle", "farama-notifications", "numpy", "rapidfuzz", "tqdm"),
    # Models.
    *("transformers", "tokenizers", "safetensors", "huggingface-hub", "regex", "packaging"),
    *("pyyaml", "httpx2", "httpcore2", "anyio", "idna", "h11", "truststore", "click"),
    # Training, and TRL beside it, which imports datasets.
    *("accelerate", "psutil", "peft", "bitsandbytes", "trl", "datasets", "pyarrow", "pandas"),
    *("python-dateutil", "dill", "multiprocess", "xxhash"),
    # The tests.
    *("pytest", "pluggy", "iniconfig", "pygments", "pytest-timeout", "hypothesis"),
    "sortedcontainers",
)
"""What is packed, in the versions of `constraints.txt`; none of it requires more to be imported."""

UNUSED = (
    r".*/(tests|testing/tests|include|_pyinstaller)/.*",
    r".*\.(pyi|pxd|pyx|pxi|a|h|hpp|cpp)$",
    r"bin/.*",
    r"bitsandbytes/libbitsandbytes_(?!cpu|cuda).*",
    r"pyarrow/(libarrow_(flight|s3).*|_(flight|s3fs|gcsfs|azurefs|hdfs).*)",
    r"pyarrow/lib(arrow_python|arrow_python_parquet_encryption)\.so(\.\d+\.\d+\.\d+)?",
    r"pyarrow/src/.*",
)
"""Files of the packages that are left out, as patterns of their paths."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the archive, and print its size beside the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="version on the machine")
    parser.add_argument("--cuda", default="13.0", help="version that the machine's torch is for")
    parser.add_argument("--glibc", type=int, default=28, help="newest manylinux_2_N it can run")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=PACKAGES,
        metavar="PACKAGE",
        help="what the machine has itself, in a version that fits",
    )
    parser.add_argument("--out", type=Path, default=ROOT / ARCHIVE)
    args = parser.parse_args(argv)
    if not re.fullmatch(r"\d+\.\d+", args.python) or not re.fullmatch(r"\d+\.\d+", args.cuda):
        parser.error("expected --python and --cuda as two numbers, such as 3.12 and 13.0")
    wanted = [name for name in PACKAGES if name not in args.without]
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        download(site, wanted, python=args.python, glibc=args.glibc)
        prune(site, cuda=args.cuda)
        pack(site, args.out)
    size, checkout = args.out.stat().st_size, checkout_size()
    print(f"{args.out}: {size / 2**20:.1f} MiB, the checkout {checkout / 2**20:.1f} MiB")
    if size + checkout > LIMIT:
        sys.exit(
            f"more than {LIMIT / 2**20:.0f} MiB in all: leave out what the machine has itself, by "
            "--without numpy pandas pyarrow, say"
        )


def pins(names: Sequence[str], constraints: str) -> list[str]:
    """Return the requirement of every name, as the text of a constraints file pins it.

    Raises:
        SystemExit: A name is not pinned.
    """
    found = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0].strip()).lower(): line.split(";")[0].strip()
        for line in constraints.splitlines()
        if "==" in line and not line.startswith("#")
    }
    if missing := [name for name in names if name not in found]:
        sys.exit(f"constraints.txt pins no version of {', '.join(missing)}")
    return [found[name].partition("+")[0] for name in names]


def download(site: Path, names: Sequence[str], *, python: str, glibc: int) -> None:
    """Install wheels for another machine's Python into the folder `site`."""
    older = (*range(glibc, 16, -1), 12, 5)
    tags = [f"manylinux_2_{minor}_x86_64" for minor in older]
    tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-deps", "--no-compile", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--target", str(site)]
    for tag in tags:
        command += ["--platform", tag]
    wanted = pins(names, (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    if subprocess.run([*command, *wanted], check=False).returncode:
        sys.exit("pip could not fetch the wheels; what it said stands above")


def prune(site: Path, *, cuda: str) -> None:
    """Remove from installed packages what the measurements never load.

    Raises:
        SystemExit: bitsandbytes has no library for this version of CUDA.
    """
    unused = re.compile("|".join(f"(?:{pattern})" for pattern in UNUSED))
    number = cuda.replace(".", "")
    kept = site / "bitsandbytes" / f"libbitsandbytes_cuda{number}.so"
    libraries = sorted(site.glob("bitsandbytes/libbitsandbytes_cuda*.so"))
    if libraries and not kept.exists():
        known = ", ".join(path.stem.removeprefix("libbitsandbytes_cuda") for path in libraries)
        sys.exit(f"bitsandbytes has no library for CUDA {cuda}: expected one of {known}")
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site).as_posix()
        if path.is_file() and (unused.fullmatch(name) or (path in libraries and path != kept)):
            path.unlink()


def pack(site: Path, out: Path) -> None:
    """Write the folder as an archive, in one move."""
    partial = out.with_name(out.name + ".partial")
    try:
        with tarfile.open(partial, "w:xz", preset=6) as archive:
            archive.add(site, arcname="site", filter=_plain)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the entry without owner and time, so that the same wheels make the same archive."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def checkout_size() -> int:
    """Return the bytes of the files that git tracks here; 0 where there is no git."""
    if shutil.which("git") is None:
        return 0
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False
    )
    paths = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    return sum(path.lstat().st_size for path in paths if path.exists())


if __name__ == "__main__":
    main()
