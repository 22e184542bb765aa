"""Kernels on disk: found again, whole, and made from the source that is there."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

import fastce
from fastce.kernels.cpu import NotOnDisk, cache, only_from_disk, targets
from fastce.kernels.files import Files, digest_of_sources

warmup = sys.modules["fastce.warmup"]  # the module: fastce.warmup is the function


def test_what_was_saved_is_found_by_its_key(tmp_path: Path) -> None:
    files = Files(tmp_path, "kernel", "source")
    assert files.load(("a", 1)) is None
    files.save(("a", 1), "first")
    files.save(("a", 2), "second")
    later = Files(tmp_path, "kernel", "source")
    assert (later.load(("a", 1)), later.load(("a", 2)), later.load(("b", 1))) == ("first", "second", None)
    files.save(("a", 1), "third")
    assert later.load(("a", 1)) == "third"
    files.flush()
    assert later.load(("a", 1)) is None
    assert not list(tmp_path.iterdir())


def test_kernels_of_another_source_are_not_found_and_go(tmp_path: Path) -> None:
    old, new, other = (
        Files(tmp_path, base, stamp) for base, stamp in (("kernel", "old"), ("kernel", "new"), ("kern", "old"))
    )
    old.save("key", "old")
    other.save("key", "other")
    assert new.load("key") is None
    new.save("another key", "new")
    assert old.load("key") is None
    assert other.load("key") == "other"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_damaged_files_count_as_none(tmp_path: Path, damage) -> None:
    files = Files(tmp_path, "kernel", "source")
    files.save("key", list(range(1000)))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert files.load("key") is None
    files.save("key", "again")
    assert files.load("key") == "again"


def test_a_folder_that_has_gone_is_no_error(tmp_path: Path) -> None:
    files = Files(tmp_path / "gone", "kernel", "source")
    files.save("key", "value")
    assert files.load("key") is None


def test_many_threads_save_and_load_at_once(tmp_path: Path) -> None:
    wrong: list[object] = []

    def work(i: int) -> None:
        files = Files(tmp_path, "kernel", "source")
        for k in range(50):
            files.save(k % 5, [k % 5] * 1000)
            files.save((i, k), (i, k))
            wrong.extend(key for key in range(5) if files.load(key) not in (None, [key] * 1000))
        wrong.extend(k for k in range(50) if files.load((i, k)) != (i, k))

    workers = [threading.Thread(target=work, args=[i]) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert not list(tmp_path.glob("*.tmp"))


def test_an_edit_of_any_file_of_the_kernels_counts(tmp_path: Path) -> None:
    sources, folder = digest_of_sources.__wrapped__, tmp_path / "cpu"
    folder.mkdir()
    shared = [tmp_path / name for name in ("formats.py", "operators.py", "task.py")]
    edited = [folder / "cache.py", folder / "maths.py", *shared]
    for path in edited:
        path.write_text("x = 1\n")
    found = [sources(folder), sources(folder)]
    assert len(set(found)) == 1
    for path in edited:
        path.write_text("x = 2\n")
        found.append(sources(folder))
    assert len(set(found)) == 1 + len(edited)


def test_kernels_are_kept_in_these_files() -> None:
    assert isinstance(targets.sum_rows._cache, cache.KernelCache)
    assert isinstance(targets.sum_rows._cache._cache_file, Files)


def test_only_from_disk_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.sum_rows._cache, "_cache_file", Files(tmp_path, "kernel", "source"))
    signature = "float64(int64[:])"
    with only_from_disk(), pytest.raises(NotOnDisk):
        targets.sum_rows.compile(signature)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("executable", ["false", "no such program", ""])
def test_what_other_processes_do_not_compile_is_compiled_here(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(warmup, "_on_disk", lambda call, steps: False)
    steps: list[tuple[int, int, str]] = []
    seconds = fastce.warmup(["float32", "float64"], functions="logsumexp", progress=lambda *step: steps.append(step))
    assert seconds > 0
    calls = 2 * len(warmup.SHAPES)
    here = calls if executable else 0
    assert [step[:2] for step in steps] == [(i + here, calls + here) for i in range(calls + 1)]
    assert steps[-1][2] == "done"


def test_progress_of_other_processes_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "_on_disk", lambda call, steps: False)
    steps: list[tuple[int, int, str]] = []
    fastce.warmup(["float32", "float64"], functions="logsumexp", progress=lambda *step: steps.append(step))
    calls = 4 * len(warmup.SHAPES)
    assert [step[:2] for step in steps] == [(i, calls) for i in range(calls + 1)]
    assert sum("float64" in step[2] for step in steps) == calls // 2


def test_only_this_thread_is_kept_from_compiling() -> None:
    with only_from_disk():
        assert cache._asked.only_from_disk
        other: list[bool] = []
        thread = threading.Thread(target=lambda: other.append(getattr(cache._asked, "only_from_disk", False)))
        thread.start()
        thread.join()
        assert other == [False]
    assert not cache._asked.only_from_disk
