"""Reading of the official product, attribute and goal files.

The files are large (the full product file has 1.18 million records) and were scraped: fields are
missing, null, or of another type than their neighbours. `iter_array` and `iter_object` stream them
with the standard library's own decoder, which accepts exactly what the original accepted (bare NaN
and lone surrogates among it) and parses each record once. `parse_product` turns one record into
a `ProductRecord` and never raises because of a field's content.
"""

from __future__ import annotations

import json
import lzma
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from eto_gym.errors import DataError

CHUNK = 1 << 20
"""Characters read from a file at a time."""

MAX_VALUE = 1 << 26
"""Characters that one member of a file may take; a longer one is taken for a missing quote."""

_LONGEST_ATOM = 16
"""More than the characters of the longest escape sequence or word (`-Infinity`) of JSON."""

NO_ATTRIBUTES = ("DUMMY_ATTR",)
"""Attributes of a product that the attribute file does not list, as in the original."""

DEFAULT_PRICE = 100.0
"""Price in dollars of a product without one."""

MAX_ASIN = 10
"""Products with a longer id are skipped, as in the original."""

Progress = Callable[[int], object]
"""Called with the number of compressed or plain bytes read since the last call."""


@dataclass(frozen=True, slots=True)
class ProductRecord:
    """One product of the file, cleaned.

    Attributes:
        asin: Product id, 1 to 10 characters.
        title: Name.
        description: Long text, or "".
        bullets: Feature lines.
        prices: One price, or the two ends of a range in the file's order.
        options: Option name -> its values.
        category: Department.
        query: Query that the product was collected with, lower case.
        product_category: Category path.
        image: URL of the first image, or "".
        option_images: Option value -> URL.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    prices: tuple[float, ...]
    options: dict[str, tuple[str, ...]]
    category: str
    query: str
    product_category: str
    image: str
    option_images: dict[str, str]

    @property
    def price_text(self) -> str:
        """The price as the pages show it."""
        return " to ".join(f"${price}" for price in self.prices)

    @property
    def search_text(self) -> str:
        """The text that the search engine indexes."""
        options = ", and ".join(f"{name}: {', '.join(v)}" for name, v in self.options.items())
        first = self.bullets[0] if self.bullets else ""
        return f"{self.title} {self.description} {first} {options}".lower()


def parse_product(raw: Mapping[str, Any]) -> ProductRecord | None:
    """Clean one record of the product file; None for one that the shop does not list."""
    asin = text_of(raw.get("asin"))
    if not asin or asin == "nan" or len(asin) > MAX_ASIN or "\0" in asin:
        return None
    bullets = raw.get("small_description")
    if not isinstance(bullets, list):
        bullets = [] if bullets is None else [bullets]
    images = raw.get("images")
    image = images[0] if isinstance(images, list) and images else images
    options, option_images = _options(raw.get("customization_options"))
    return ProductRecord(
        asin=asin,
        title=text_of(raw.get("name")),
        description=text_of(raw.get("full_description")),
        bullets=tuple(map(text_of, bullets)),
        prices=parse_prices(raw.get("pricing")),
        options=options,
        category=text_of(raw.get("category")),
        query=text_of(raw.get("query")).lower().strip(),
        product_category=text_of(raw.get("product_category")),
        image=text_of(image) if isinstance(image, str) else "",
        option_images=option_images,
    )


def parse_prices(pricing: object) -> tuple[float, ...]:
    """Return the price, or the two ends of a price range.

    Every part after a dollar sign is a price, of which the first two count. Without a dollar sign
    the whole text is tried. A part without a finite number is left out; when none is left the price
    is `DEFAULT_PRICE`.
    """
    if isinstance(pricing, bool) or not pricing:
        return (DEFAULT_PRICE,)
    text = str(pricing)
    parts = text.split("$")[1:] if "$" in text else [text]
    found = [price for part in parts if (price := _number(part)) is not None]
    return tuple(found[:2]) or (DEFAULT_PRICE,)


def _number(text: str) -> float | None:
    digits = re.sub(r"[^\d.]", "", text)
    try:
        value = float(Decimal(digits))
    except InvalidOperation:
        return None
    return value if math.isfinite(value) else None


def _options(raw: object) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Clean the options; names that differ in case only are one, whose last list counts."""
    options: dict[str, tuple[str, ...]] = {}
    images: dict[str, str] = {}
    if not isinstance(raw, Mapping):
        return options, images
    for name, contents in raw.items():
        if not isinstance(contents, list):
            continue
        values = []
        for content in contents:
            item = content if isinstance(content, Mapping) else {"value": content}
            if item.get("value") is None:
                continue
            value = text_of(item["value"]).strip().replace("/", " | ").lower()
            values.append(value)
            image = item.get("image")
            images.pop(value, None)
            if isinstance(image, str) and image:
                images[value] = text_of(image)
        options[text_of(name).lower()] = tuple(values)
    return options, images


def text_of(value: object) -> str:
    """Return `value` as text that can be encoded: "" for null, U+FFFD for a lone surrogate."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def texts_of(value: object) -> tuple[str, ...]:
    """Return a list's members as texts; a lone text is a list of one, null is an empty list."""
    if isinstance(value, list | tuple):
        return tuple(text_of(item) for item in value if item is not None)
    return () if value is None else (text_of(value),)


# --- streaming ----------------------------------------------------------------------------------


def iter_array(path: Path, *, progress: Progress | None = None) -> Iterator[Any]:
    """Yield the members of the JSON array in a file (`.json`, or `.json.xz`).

    Raises:
        DataError: The file is missing, is no JSON array, or ends too early.
    """
    with _Reader(path, progress) as reader:
        for _ in reader.members("[", "]"):
            yield reader.value()


def iter_object(path: Path, *, progress: Progress | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the (name, value) pairs of the JSON object in a file (`.json`, or `.json.xz`).

    Raises:
        DataError: The file is missing, is no JSON object, or ends too early.
    """
    with _Reader(path, progress) as reader:
        for _ in reader.members("{", "}"):
            name = reader.value()
            if not isinstance(name, str):
                raise reader.error("expected a name")
            reader.expect(":")
            yield name, reader.value()


class _Reader:
    """A window that slides over a JSON text."""

    _DECODE = json.JSONDecoder().raw_decode
    _SPACE = re.compile(r"[ \t\n\r]*")

    def __init__(self, path: Path, progress: Progress | None) -> None:
        self._path = path
        self._progress = progress
        self._window = ""
        self._at = 0
        self._before = 0
        self._reported = 0
        self._ended = False
        try:
            self._raw: IO[bytes] = path.open("rb")
        except OSError as err:
            raise DataError(f"cannot read {path}: {err.strerror or err}") from err
        plain = lzma.LZMAFile(self._raw) if path.suffix == ".xz" else self._raw  # noqa: SIM115
        self._text = TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogatepass")

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._raw.close()

    def error(self, what: str) -> DataError:
        return DataError(f"{self._path}: {what} at character {self._before + self._at}")

    def members(self, opening: str, closing: str) -> Iterator[None]:
        """Stop before each member of the outermost array or object in turn."""
        self.expect(opening)
        if self._peek() == closing:
            self._at += 1
        else:
            while True:
                yield
                if self._peek() == closing:
                    self._at += 1
                    break
                self.expect(",")
        if self._peek():
            raise self.error("expected the end of the file")

    def expect(self, character: str) -> None:
        if self._peek() != character:
            raise self.error(f"expected {character!r}, got {self._peek() or 'the end'!r}")
        self._at += 1

    def value(self) -> Any:
        """Decode the value that starts here, reading on until it is whole."""
        self._peek()
        while True:
            try:
                value, end = self._DECODE(self._window, self._at)
            except RecursionError as err:
                raise self.error("nested too deeply") from err
            except json.JSONDecodeError as err:
                if not self._may_be_cut(err) or not self._read_on():
                    raise self.error(f"malformed or cut short ({err.msg})") from err
                continue
            except ValueError as err:  # Python converts no number of thousands of digits
                raise self.error(f"malformed ({str(err).partition(';')[0]})") from err
            # A number near the window's end may go on behind it: "-1", "." or "e+" come first.
            if len(self._window) - end <= 2 and self._read_on():
                continue
            self._at = end
            return value

    def _may_be_cut(self, err: json.JSONDecodeError) -> bool:
        """Tell whether reading on can cure the error, lest a bad file be read to its end."""
        if len(self._window) - self._at > MAX_VALUE:
            return False
        return err.msg.startswith("Unterminated") or len(self._window) - err.pos < _LONGEST_ATOM

    def _peek(self) -> str:
        while True:
            match = self._SPACE.match(self._window, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Drop what was consumed and append more; False, and no change, at the file's end."""
        if self._ended:
            return False
        # Doubling keeps the decoding of one value longer than a chunk linear.
        size = max(CHUNK, len(self._window) - self._at)
        try:
            more = self._text.read(size)
        except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as err:
            raise DataError(f"{self._path}: cannot be read on: {err}") from err
        if self._progress:
            position = self._raw.tell()
            self._progress(position - self._reported)
            self._reported = position
        if not more:
            self._ended = True
            return False
        self._before += self._at
        self._window = self._window[self._at :] + more
        self._at = 0
        return True
