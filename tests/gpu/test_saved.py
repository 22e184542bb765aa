"""Machine code of kernels on disk."""

import itertools

import pytest
from conftest import FLOAT_TYPES

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.files import Files
from fastce.kernels.gpu import kernels, layout, saved, sums

from . import standin


@pytest.fixture
def compilations(monkeypatch):
    """For which capabilities something was compiled."""
    found, to_ptx = [], saved.to_ptx

    def counted(function, signature, capability, *bounds):
        found.append(capability)
        return to_ptx(function, signature, capability, *bounds)

    monkeypatch.setattr(saved, "to_ptx", counted)
    return found


def test_what_is_on_disk_is_not_compiled_again(monkeypatch, tmp_path, compilations):
    kernel = sums.kernel("nll", "float32")
    monkeypatch.setattr(saved, "_files", lambda: Files(tmp_path, "kernel", "these sources"))
    code = saved.code_of(kernel, (8, 0))
    assert code.machine[:4] == b"\x7fELF"
    assert code.entry.encode() in code.machine
    assert saved.code_of(kernel, (8, 0)) == code
    assert compilations == [(8, 0)]
    saved.code_of(kernel, (9, 0))
    assert compilations == [(8, 0), (9, 0)]
    monkeypatch.setattr(saved, "_files", lambda: Files(tmp_path, "kernel", "other sources"))
    saved.code_of(kernel, (8, 0))
    assert compilations == [(8, 0), (9, 0), (8, 0)]


def test_without_a_folder(monkeypatch, compilations):
    monkeypatch.setattr(saved, "_files", lambda: None)
    kernel = layout.kernel()
    for times in (1, 2):
        assert saved.code_of(kernel, (8, 0)).machine[:4] == b"\x7fELF"
        assert len(compilations) == times


def test_files_are_where_those_for_the_cpu_are(monkeypatch, tmp_path):
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    saved._files.cache_clear()
    try:
        files = saved._files()
        assert tmp_path in files.folder.parents
        assert files.folder.is_dir()
    finally:
        saved._files.cache_clear()


def test_no_two_kernels_have_a_name():
    with standin.installed():
        from fastce.kernels.gpu import scale
    rows = itertools.product(kernels.NAMES, FLOAT_TYPES, (True, False), (True, False))
    every = [kernels.kernel(*of) for of in rows] + [
        sums.kernel(*of) for of in itertools.product(sums.NAMES, FLOAT_TYPES)
    ]
    every += [layout.kernel(), *(scale.kernel(*of) for of in itertools.product(FLOAT_TYPES, (True, False)))]
    assert len({kernel.name for kernel in every}) == len(every)
