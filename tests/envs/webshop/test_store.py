"""Index folders: they are whole or they are not there, and a damaged one says so."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.cli.main import main
from eto_gym.envs.webshop import store as store_module
from eto_gym.envs.webshop.catalog.build import build_catalog
from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.search.search import Search
from eto_gym.envs.webshop.store import MANIFEST, FolderWriter, MemoryWriter, Store, read_manifest
from eto_gym.errors import DataError
from tests.envs.webshop.support import record

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)


def write_sources(folder: Path) -> dict[str, Path]:
    """Write the three files of a catalog of three mugs."""
    files = {
        "products": [record(f"A{i}", f"{c} Mug") for i, c in enumerate(("Red", "Blue", "Green"))],
        "attributes": {
            "A0": {
                "attributes": ["easy clean"],
                "instruction": "Find me easy clean mugs",
                "instruction_attributes": ["easy clean"],
            }
        },
        "goals": {
            "A1": [
                {
                    "instruction": "i want a blue mug.",
                    "instruction_attributes": ["easy clean"],
                    "instruction_options": [],
                }
            ]
        },
    }
    paths = {}
    for name, content in files.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps(content))
    return paths


def build(sources: dict[str, Path], out: Path) -> Path:
    return build_catalog(
        products=sources["products"],
        attributes=sources["attributes"],
        goals=sources["goals"],
        out=out,
    )


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    return write_sources(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    return build(write_sources(folder), folder / "index")


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    """A copy of the built index, to be damaged."""
    return Path(shutil.copytree(built, tmp_path / "index"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_text_columns(texts: list[str]) -> None:
    writer = MemoryWriter()
    writer.texts("texts").extend(texts)
    column = writer.finish({}).texts("texts")
    assert list(column) == texts
    assert len(column) == len(texts)
    with pytest.raises(IndexError):
        column[len(texts)]


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]))), st.text())
def test_finding_in_a_sorted_column(texts: set[str], other: str) -> None:
    writer = MemoryWriter()
    ordered = sorted(texts)
    writer.texts("texts").extend(ordered)
    column = writer.finish({}).texts("texts")
    assert [column.find(text) for text in ordered] == list(range(len(ordered)))
    assert column.find(other) == (ordered.index(other) if other in texts else None)


def test_a_built_folder_opens_and_verifies(sources: dict[str, Path], tmp_path: Path) -> None:
    index = build(sources, tmp_path / "index")
    catalog = Catalog.open(index, verify=True)
    assert len(catalog) == 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "products.json", "attributes.json", "goals.json", "index",
    }  # fmt: skip
    manifest = read_manifest(index)
    assert manifest["tagger"] == "rules"
    assert manifest["seed"] == 0
    assert manifest["goals"] == {"human": 1, "synthetic": 1}
    assert {source["name"] for source in manifest["sources"].values()} == {
        "products.json", "attributes.json", "goals.json",
    }  # fmt: skip
    assert set(manifest["files"]) == {path.name for path in index.iterdir()} - {MANIFEST}


def test_builds_are_deterministic(sources: dict[str, Path], index: Path, tmp_path: Path) -> None:
    again = build(sources, tmp_path / "again")
    assert read_manifest(again) == read_manifest(index)


def test_every_truncated_file_is_noticed(index: Path) -> None:
    for name in read_manifest(index)["files"]:
        path = index / name
        whole = path.read_bytes()
        if not whole:
            continue
        path.write_bytes(whole[:-1])
        with pytest.raises(DataError, match=r"expected \d+ bytes, got"):
            Store.open(index)
        path.unlink()
        with pytest.raises(DataError, match="is missing"):
            Store.open(index)
        path.write_bytes(whole)
    Store.open(index, verify=True)


def test_three_flipped_bits_of_any_file_are_noticed_at_opening(index: Path) -> None:
    rng = np.random.default_rng(0)
    for path in sorted(index.iterdir()):
        whole = path.read_bytes()
        for _ in range(8 if whole else 0):
            content = bytearray(whole)
            for bit in rng.choice(8 * len(whole), size=3, replace=False):
                content[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(content)
            with pytest.raises(DataError) as caught:
                Catalog.open(index)
            assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    Catalog.open(index, verify=True)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)])
@pytest.mark.parametrize("value", [-1, -(2**31), 2**31 - 1, "count"])
def test_no_array_leads_a_search_out_of_bounds(
    index: Path, value: int | str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SMALL_FILE", 0)  # as if all files were large
    Search(index, compiled=compiled)
    for name in ("posting_products", "term_starts", "asin_ranks", "terms.offsets", "asins.offsets"):
        path = index / f"{name}.npy"
        whole = path.read_bytes()
        values = np.load(path)
        at = len(values) // 2
        wrong = values.copy()
        wrong[at] = len(np.load(index / "asins.offsets.npy")) if value == "count" else value
        if name.endswith(("starts", "offsets")) and value == "count":
            wrong[at] = values[-1] + 1
        np.save(path, wrong)
        with pytest.raises(DataError, match=f"damaged: {name}"):
            Search(index, compiled=compiled)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("posting_denominators", lambda values: values[:-1]),
        ("posting_denominators", lambda values: values.astype(np.int32)),
        ("posting_products", lambda values: values.astype(np.float32)),
        ("posting_products", lambda values: values.reshape(1, -1)),
        ("term_largest", lambda values: values * np.float32("nan")),
        ("term_starts", lambda values: values[:-1]),
        ("asin_ranks", lambda values: values[:-1]),
        ("asins.offsets", lambda values: values[:0]),
        ("prices", lambda values: values[:-1]),
        ("category_codes", lambda values: values + 99),
        ("attribute_products", lambda values: values - 99),
        ("attribute_starts", lambda values: values[::-1]),
        ("synthetic_goal_part", lambda values: values + 99),
        ("human_goal_products", lambda values: values - 99),
    ],
)
def test_arrays_that_cannot_be_as_written_are_refused(
    index: Path, name: str, change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = index / f"{name}.npy"
    np.save(path, change(np.load(path)))
    manifest = json.loads((index / MANIFEST).read_text("utf-8"))
    manifest["files"][path.name]["bytes"] = path.stat().st_size
    del manifest["sha256"]
    (index / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    monkeypatch.setattr(store_module, "SMALL_FILE", -1)

    def open_all() -> None:
        catalog = Catalog.open(index)
        catalog.goals("human")
        catalog.goals("synthetic")

    with pytest.raises(DataError, match=f"damaged: {name}"):
        open_all()


def test_the_command_checks_a_folder(
    index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["data", "check", str(index)]) == 0
    assert "every file as it was written" in capsys.readouterr().out
    path = index / "titles.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    monkeypatch.setattr(store_module, "SMALL_FILE", 0)
    assert main(["data", "check", str(index)]) != 0
    assert "titles.bin: its SHA-256 differs" in capsys.readouterr().err


def test_altered_bytes_are_noticed_on_request(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = index / "prices.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(store_module, "SMALL_FILE", 0)  # as if the file were large
    Store.open(index)
    with pytest.raises(DataError, match="SHA-256"):
        Catalog.open(index, verify=True)


def test_an_array_file_with_a_broken_head(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = index / "prices.npy"
    path.write_bytes(b"\0" * path.stat().st_size)
    monkeypatch.setattr(store_module, "SMALL_FILE", 0)
    with pytest.raises(DataError, match="no array file"):
        Store.open(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no WebShop index"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "not the manifest"),
        ('{"format": "other"}', "not the manifest"),
        ('{"format": "eto-gym-webshop", "version": 0}', "expected index version 1, got 0"),
        ('{"format": "eto-gym-webshop", "version": 99}', "expected index version 1, got 99"),
        ('{"format": "eto-gym-webshop", "version": 1}', "lists no files"),
        ('{"format": "eto-gym-webshop", "version": 1, "files": {"a": {}}}', "lists no files"),
        (
            '{"format": "eto-gym-webshop", "version": 1,'
            ' "files": {"../a": {"bytes": 0, "sha256": ""}}}',
            "lists no files",
        ),
        ('{"format": "eto-gym-webshop", "version": 1, "files": {}}', "holds no 'asins.bin'"),
    ],
)
def test_bad_manifests(index: Path, content: str | None, message: str) -> None:
    path = index / MANIFEST
    path.unlink()
    if content is not None:
        path.write_text(content)
    for opener in (Catalog.open, Search):
        with pytest.raises(DataError, match=message):
            opener(index)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="eto-gym data build webshop"):
        Catalog.open(tmp_path / "none")


def test_an_existing_folder_is_left_alone(sources: dict[str, Path], index: Path) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in index.iterdir())
    with pytest.raises(DataError, match="exists already"):
        build(sources, index)
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in index.iterdir())


def test_an_empty_folder_is_taken(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert len(Catalog.open(build(sources, tmp_path / "empty"))) == 3


@pytest.mark.parametrize("broken", ["products", "attributes", "goals"])
def test_a_failed_build_leaves_nothing(
    sources: dict[str, Path], tmp_path: Path, broken: str
) -> None:
    text = sources[broken].read_text()
    sources[broken].write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=f"{broken}.json"):
        build(sources, tmp_path / "index")
    assert {path.name for path in tmp_path.iterdir()} == {
        "products.json", "attributes.json", "goals.json",
    }  # fmt: skip


def test_no_product_at_all(sources: dict[str, Path], tmp_path: Path) -> None:
    sources["products"].write_text('[{"asin": "nan"}, 5, null]')
    with pytest.raises(DataError, match="no product"):
        build(sources, tmp_path / "index")


def test_a_missing_source(sources: dict[str, Path], tmp_path: Path) -> None:
    sources["goals"] = tmp_path / "none.json"
    with pytest.raises(DataError, match=r"none\.json"):
        build(sources, tmp_path / "index")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_build_never_looks_finished(sources: dict[str, Path], tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from eto_gym.envs.webshop import store
        from eto_gym.envs.webshop.catalog import build
        products, attributes, out = sys.argv[1:]
        def dies(path):
            os.kill(os.getpid(), signal.SIGKILL)
        store._sync = dies
        build.build_catalog(products=products, attributes=attributes, goals=None, out=out)
    """
    out = tmp_path / "index"
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(script),
            str(sources["products"]),
            str(sources["attributes"]),
            str(out),
        ],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    leftover = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert leftover
    for folder in leftover:
        with pytest.raises(DataError):
            Catalog.open(folder)
    assert len(Catalog.open(build(sources, out))) == 3
    assert not any(folder.exists() for folder in leftover)


def test_two_processes_that_write_the_same_folder_leave_each_other_alone(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "index") as first:
        first.add("array", np.zeros(3))
        with FolderWriter(tmp_path / "index") as second:
            assert len(list(tmp_path.iterdir())) == 2
            second.add("array", np.ones(3))
            second.finish({})
        with pytest.raises(DataError, match="cannot give"):
            first.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert Store.open(tmp_path / "index").array("array").tolist() == [1, 1, 1]


def test_leaving_the_writer_early_removes_its_folder(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "index") as writer:
        writer.texts("texts").append("a")
        writer.add("array", np.zeros(3))
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
