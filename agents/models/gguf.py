"""GGUF files: told apart from model folders, checked, and converted once into such a folder.

A folder of safetensors is what training, adapters, servers and hashes of a model work with, and a
GGUF file is not: so a file is converted at its first use, into the folder for downloaded data, and
from then on its folder stands for it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from eto_gym.downloads import data_home
from eto_gym.errors import DataError, require

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
_LARGE = 1_000_000_000
"""Parameters from which a converted model is kept in bf16: half as large, and of a size for GPUs.
Smaller ones are kept in float32: exactly what the file holds, and fastest on most CPUs."""


def gguf_of(model: str | Path) -> Path | None:
    """Return the GGUF file that `model` names: itself, or the one in its folder; else None.

    A folder with a `config.json` is a model of transformers, whatever else lies in it.

    Raises:
        DataError: The folder holds several such files, or a path ends in .gguf and is not there.
    """
    path = Path(model)
    if path.suffix == SUFFIX:
        if path.is_file():
            return path
        if not path.is_dir():
            raise DataError(f"there is no file {path}")
    if not path.is_dir() or any(
        (path / name).exists() for name in ("config.json", "adapter_config.json")
    ):
        return None
    files = sorted(each for each in path.iterdir() if each.suffix == SUFFIX)
    if len(files) > 1:
        names = ", ".join(each.name for each in files)
        raise DataError(f"{path} holds several GGUF files ({names}): name one of them")
    return files[0] if files else None


def folder_of(path: Path) -> Path:
    """Return the model folder that stands for a GGUF file, or will.

    It lies in the folder for downloaded data (`$ETO_GYM_DATA`); its name tells the file by name,
    size and time of change.
    """
    path = path.resolve()
    about = path.stat()
    key = hashlib.sha256(f"{path}\0{about.st_size}\0{about.st_mtime_ns}".encode()).hexdigest()
    return data_home() / "models" / f"{path.stem}-{key[:12]}"


def converted(path: Path) -> Path:
    """Return the model folder that stands for a GGUF file, and make it where it is not there yet.

    Raises:
        DataError: The file is damaged, or holds no causal language model that transformers knows.
        MissingDependencyError: A package is not installed.
    """
    folder = folder_of(path)
    if not folder.is_dir():
        logger.info("converting %s, once, into %s", path, folder)
        convert(path.resolve(), folder)
    return folder


def convert(path: Path, folder: Path) -> None:
    """Write the model in a GGUF file as a folder: safetensors, tokenizer, chat template, settings.

    The folder appears whole or not at all. Where another process has made it in the meantime, that
    one stays.

    Raises:
        DataError: The file is damaged, or holds no causal language model that transformers knows;
            or the folder cannot be written.
        MissingDependencyError: A package is not installed.
    """
    from eto_gym.agents.models.quiet import without_progress_bars

    check(path)
    model, tokenizer = _load(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as err:
        raise DataError(f"cannot write {folder}: {err.strerror or err}") from err
    try:
        with without_progress_bars():
            model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for each in staging.iterdir():
            each.chmod(0o644)
        staging.chmod(0o755)
        with suppress(FileExistsError):
            staging.rename(folder)
    except OSError as err:
        if not folder.is_dir():
            raise DataError(f"cannot write {folder}: {err.strerror or err}") from err
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check(path: Path) -> None:
    """Read a file's header and table of tensors, which tells damaged files at once.

    Raises:
        DataError: The file is no GGUF file, or is cut off.
        MissingDependencyError: The package gguf is not installed.
    """
    gguf: Any = require("gguf", feature=f"the GGUF file {path}", extra="gguf")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic and magic != b"GGUF"[: len(magic)]:
            raise DataError(f"{path} is no GGUF file: it starts with {magic!r}")
        gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as err:
        raise DataError(
            f"{path} is cut off or damaged ({path.stat().st_size:,} bytes): get it again"
        ) from err
    except OSError as err:
        raise DataError(f"cannot read {path}: {err.strerror or err}") from err


def _load(path: Path) -> tuple[Any, Any]:
    """Return the model, its weights unpacked, and the tokenizer."""
    transformers: Any = require("transformers", feature="a local language model", extra="train")
    import torch

    from eto_gym.agents.models.quiet import without_gguf_bar, without_progress_bars

    where = {"gguf_file": path.name}
    try:
        with without_progress_bars(), without_gguf_bar():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent,
                trust_remote_code=False,
                dtype=torch.float32,
                quantization_config=transformers.GgufConfig(dequantize=True),
                **where,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                path.parent, trust_remote_code=False, **where
            )
    except (ValueError, KeyError, NotImplementedError, RuntimeError, OSError) as err:
        reason = str(err).strip().split("\n")[0]
        raise DataError(f"{path} cannot be read as a causal language model: {reason}") from err
    # What the file was packed with is no property of the unpacked weights.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if sum(p.numel() for p in model.parameters()) > _LARGE:
        model = model.to(torch.bfloat16)
    return model, tokenizer
