"""Fetches files over HTTP so that what is in place is whole and verified, and unpacks archives.

A download goes to `<target>.part`, survives broken connections and killed processes by resuming
where it stopped, is checked, and only then takes its name. The checksum of a finished file is kept
beside it (`<target>.sha256`), so that later calls can verify without asking the network.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm.auto import tqdm

from eto_gym.errors import DataError
from eto_gym.files import expanded, write_text

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18
_PERMANENT = frozenset({400, 401, 403, 404, 405, 410, 451})
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LENGTH = re.compile(r"[0-9]{1,19}")
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    IndexError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is in place.

    Attributes:
        path: Where it is.
        sha256: Its checksum, in lower-case hexadecimal.
        downloaded: Bytes that this call fetched; 0 where the file was there already.
    """

    path: Path
    sha256: str
    downloaded: int


def data_home() -> Path:
    """Return the folder for downloaded data: `$ETO_GYM_DATA`, or `eto-gym` in the user's cache.

    Raises:
        DataError: It lies in a home folder that there is not.
    """
    if chosen := os.environ.get("ETO_GYM_DATA"):
        return expanded(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else expanded("~/.cache")) / "eto-gym"


def fetch(
    url: str,
    target: Path | str,
    *,
    sha256: str | None,
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
    progress: bool = True,
) -> Fetched:
    """Download `url` to `target` unless the verified file is there already.

    Args:
        url: An http or https address.
        target: The file to write; missing folders are made.
        sha256: The checksum that the file must have. None accepts what comes the first time,
            records its checksum beside it, and verifies against the record from then on.
        attempts: How often to connect before giving up; each resumes where the last one stopped.
        timeout: Seconds of silence after which a connection counts as broken.
        pause: Seconds to wait before the second attempt; doubled before each further one.
        progress: Show a progress bar on standard error.

    Raises:
        DataError: The file cannot be fetched, or is not the one that was asked for.
    """
    target = Path(target)
    url = _checked(url)
    wanted = _recorded(target) if sha256 is None else checked_sha256(sha256)
    if target.is_dir():
        raise DataError(f"{target} is a folder; expected the name of a file to write")
    if target.exists():
        try:
            found = file_sha256(target)
        except OSError as err:
            raise DataError(f"cannot read {target}: {err}") from err
        if wanted is None or found == wanted:
            with suppress(OSError):  # A read-only folder is no reason to refuse a good file.
                _write_atomically(_record_of(target), f"{found}  {target.name}\n")
            return Fetched(target, found, 0)
        raise DataError(
            f"{target} has the checksum {found}, expected {wanted}: it is damaged or another "
            "version. Remove it to download it again"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        with _only_one(part):
            verified = wanted is not None
            downloaded = _download(url, part, attempts, timeout, pause, progress, verified=verified)
            found = file_sha256(part)
            if wanted is not None and found != wanted:
                part.unlink()
                raise DataError(
                    f"{url} has the checksum {found}, expected {wanted}: nothing was kept. The "
                    "file behind the address changed, or something between altered it"
                )
            part.replace(target)
            _origin_of(part).unlink(missing_ok=True)
            _write_atomically(_record_of(target), f"{found}  {target.name}\n")
    except OSError as err:
        raise DataError(f"cannot write {target}: {err}") from err
    return Fetched(target, found, downloaded)


def checked_sha256(text: str) -> str:
    """Return a checksum in lower case.

    Raises:
        DataError: It is none.
    """
    if not _SHA256.fullmatch(text):
        raise DataError(f"expected a SHA-256 (64 hexadecimal digits), got {text!r:.80}")
    return text.lower()


def filled(address: str, name: str, value: str) -> str:
    """Return an address with `{name}` replaced.

    Raises:
        DataError: It does not hold that.

    Example:
        >>> filled("https://example.org/data/{name}", "name", "a.json")
        'https://example.org/data/a.json'
    """
    place = f"{{{name}}}"
    if place not in address:
        raise DataError(f"expected an address with {place} in it, got {address!r}")
    return address.replace(place, value)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract_zip(
    archive: Path,
    folder: Path,
    *,
    keep: Callable[[str], bool] | None = None,
    max_bytes: int = 20 << 30,
    progress: bool = True,
) -> int:
    """Unpack a zip archive into `folder` and return how many files it holds there now.

    Every file appears whole or not at all, and files that are there already with the right contents
    are left alone, so that a killed call can simply be repeated.

    Args:
        archive: The archive.
        folder: Where its files go; made if missing.
        keep: Selects members by their name in the archive; None keeps all.
        max_bytes: Refuse archives that unpack to more than this (20 GiB by default).
        progress: Show a progress bar on standard error.

    Raises:
        DataError: The archive is damaged, too large, or has a member that would land outside of
            `folder` or is not a plain file. Nothing was unpacked in the last two cases.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = [
                (member, _safe_target(member, folder, archive))
                for member in content.infolist()
                if not member.filename.endswith("/") and (keep is None or keep(member.filename))
            ]
            size = sum(member.file_size for member, _ in members)
            if size > max_bytes:
                raise DataError(f"{archive} unpacks to {size:,} bytes, more than {max_bytes:,}")
            for member, target in tqdm(
                members, desc=f"unpack {archive.name}", unit="file", disable=not progress
            ):
                if not _is_extracted(member, target):
                    _extract_member(content, member, target)
            return len(members)
    except _ZIP_ERRORS as err:
        raise DataError(f"{archive} is not a readable zip archive: {err}") from err
    except OSError as err:
        raise DataError(f"cannot unpack {archive} into {folder}: {err}") from err


# --- downloading ---------------------------------------------------------------------------------


def _download(
    url: str,
    part: Path,
    attempts: int,
    timeout: float,
    pause: float,
    progress: bool,
    *,
    verified: bool,
) -> int:
    """Complete the partial file, over several connections if need be; return the bytes fetched."""
    fetched = 0
    with tqdm(
        desc=part.name.removesuffix(".part"),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not progress,
    ) as bar:
        for attempt in range(1, attempts + 1):
            problem: Exception
            try:
                for count in _stream(url, part, timeout, bar, verified=verified):
                    fetched += count
                return fetched
            except urllib.error.HTTPError as err:
                if err.code in _PERMANENT:
                    raise DataError(f"{url} answered {err.code} {err.reason}") from err
                problem = err
            except (urllib.error.URLError, http.client.HTTPException, OSError) as err:
                if isinstance(err, OSError) and _is_local(err):
                    raise
                problem = err
            if attempt < attempts:
                logger.warning("%s: %s; trying again", url, problem)
                time.sleep(pause * 2 ** (attempt - 1))
        raise DataError(
            f"cannot download {url}: {problem} (after {attempts} attempts). Whatever has come so "
            f"far is in {part.parent}, and the next call goes on from there"
        ) from problem


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows a server to no other place than one on the web."""

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> Any:
        """Refuse other schemes; urllib knows files and FTP too."""
        try:
            place = _checked(newurl)
        except DataError as err:
            raise DataError(f"{req.full_url} leads elsewhere: {err}") from err
        return super().redirect_request(req, fp, code, msg, headers, place)


def _stream(
    url: str, part: Path, timeout: float, bar: tqdm[None], *, verified: bool
) -> Iterator[int]:
    """Fetch what is missing of the partial file over one connection."""
    if part.is_symlink():  # somebody else put it there, to have another file written
        part.unlink()
    have = part.stat().st_size if part.exists() else 0
    origin = _read_origin(part)
    headers = {"User-Agent": "eto-gym", "Accept-Encoding": "identity"}
    if have and origin.get("url") == url and origin.get("version"):
        # Resume only the very file that the first bytes came from; else the server sends all of it.
        headers |= {"Range": f"bytes={have}-", "If-Range": origin["version"]}
    try:
        # The scheme was checked by `fetch`, and is at each place that the server sends us on to.
        response = urllib.request.build_opener(_WebOnly).open(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as err:
        if err.code == 416:
            if err.headers.get("Content-Range") == f"bytes */{have}":
                return  # Nothing was missing: an earlier call was killed just before its end.
            part.unlink(missing_ok=True)
            raise ConnectionError("the server refused to resume") from err
        raise
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server resumed at the wrong place")
        if not resumed:
            have = 0
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if version.startswith("W/"):
            version = ""  # A weak tag does not promise equal bytes.
        _write_atomically(_origin_of(part), json.dumps({"url": url, "version": version}))
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and _LENGTH.fullmatch(length) else None
        if total is None and not response.chunked and not verified:
            raise DataError(
                f"{url} does not say how long its file is, and no checksum is known: it could not "
                "be told whether it came as a whole"
            )
        bar.total = total
        bar.n = have
        bar.refresh()
        with _open_plain(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
                yield len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have != total:
            raise ConnectionError(f"the connection ended after {have:,} of {total:,} bytes")


def _checked(url: str) -> str:
    """Return an address as it can be asked for: in ASCII, with a host.

    Raises:
        DataError: It is no http or https address.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = parts.port
    except ValueError as err:
        raise DataError(f"expected an http or https address, got {url!r}: {err}") from err
    if parts.scheme not in {"http", "https"} or not host:
        raise DataError(f"expected an http or https address, got {url!r}")
    if parts.username is not None:
        raise DataError("expected an address without a user's name in it")
    place = f"[{host}]" if ":" in host else host
    path, query = (urllib.parse.quote(text, safe="/%:@!$&'()*+,;=?~") for text in parts[2:4])
    place += "" if port is None else f":{port}"
    return urllib.parse.urlunsplit((parts.scheme, place, path, query, ""))


def _open_plain(path: Path, mode: str) -> IO[Any]:
    """Open a file to write, and follow no link that somebody put in its place."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, mode, opener=opener)


def _is_local(err: OSError) -> bool:
    """Tell a full or forbidden disk, which no new connection cures, from a network failure."""
    return err.filename is not None or err.errno in {28, 30, 122}


@contextmanager
def _only_one(part: Path) -> Iterator[None]:
    """Keep two processes from writing one partial file; a killed process leaves no lock behind."""
    lock = part.with_name(part.name + ".lock")
    with _open_plain(lock, "w") as file:
        try:
            import fcntl
        except ImportError:  # not a POSIX system: no lock to be had
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise DataError(f"another process is downloading to {part}; wait for it") from err
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _origin_of(part: Path) -> Path:
    return part.with_name(part.name + ".origin")


def _read_origin(part: Path) -> dict[str, str]:
    try:
        origin = json.loads(_origin_of(part).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(origin, dict) and all(isinstance(text, str) for text in origin.values())
    # What is not as it was written here is no reason to resume.
    return origin if whole and origin.get("version", "").isprintable() else {}


def _record_of(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _recorded(target: Path) -> str | None:
    """Return the checksum that is recorded beside a file; None where there is no record.

    Raises:
        DataError: The record holds no checksum, so that the file cannot be told from a damaged one.
    """
    record = _record_of(target)
    try:
        words = record.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"cannot read {record}: {err}. Remove it to trust {target}") from err
    if not words or not _SHA256.fullmatch(words[0]):
        raise DataError(
            f"{record} holds no SHA-256 (64 hexadecimal digits). Remove it and {target} to "
            "download again, or it alone to trust the file"
        )
    return words[0].lower()


def _write_atomically(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    write_text(path, text)


# --- unpacking -----------------------------------------------------------------------------------


def _safe_target(member: zipfile.ZipInfo, folder: Path, archive: Path) -> Path:
    """Return where a member goes, or refuse the archive."""
    name = member.filename
    path = PurePosixPath(name)
    kind = stat.S_IFMT(member.external_attr >> 16)
    inside = path.parts and not path.is_absolute() and ".." not in path.parts
    if not inside or set(name) & set("\\:\0") or kind not in {0, stat.S_IFREG}:
        raise DataError(f"{archive} holds {name!r}, which is not a plain file inside its folder")
    target = folder.joinpath(*path.parts)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{archive} holds {name!r}, which leads outside of {folder}")
    return target


def _is_extracted(member: zipfile.ZipInfo, target: Path) -> bool:
    if not target.is_file() or target.stat().st_size != member.file_size:
        return False
    return zlib.crc32(target.read_bytes()) == member.CRC


def _extract_member(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file, content.open(member) as source:
            shutil.copyfileobj(source, file)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
