"""What is installed, what an import costs, and what the project's files say."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import fastce

ROOT = Path(__file__).parent.parent
LINKED = ("kernels", "bench")  # top-level folders that are packages of fastce
SOURCE = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(ROOT / "kernels").rglob("*.py"),
        *(ROOT / "bench").glob("*.py"),
        *(ROOT / "bench" / "assets").iterdir(),
    )
)


def run_python(code: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def answer(code: str) -> Any:
    """What `code` prints as JSON in a fresh interpreter."""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- wheel and sdist ---------------------------------------------------------------------------------------------------


def build(kind: str, source: Path, out: Path) -> Path:
    """Build with the setuptools of the test environment, so that no network is needed."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    """Files of a wheel, without RECORD, which lists them, and WHEEL."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith(("/RECORD", "/WHEEL"))}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of what the build reads: a build leaves files beside its source."""
    copy = tmp_path_factory.mktemp("checkout") / "fastce"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("fastce", "kernels", "tests", "bench"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_fastce_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    info = f"fastce-{fastce.__version__}.dist-info/"
    assert {name.split("/")[0] + "/" for name in names} == {"fastce/", info}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastce").glob("**/*.py")}
    assert {n for n in names if n.startswith("fastce/")} == {
        *code,
        *(f"fastce/{name}" for name in SOURCE),
        "fastce/py.typed",
    }
    assert f"{info}licenses/LICENSE" in names


# What the kernels on disk were asked for in vain, and found there.
USED = """
import fastce, fastce.bench.page
import fastce.bench as bench, fastce.kernels.cpu as cpu
from fastce import sysinfo
fastce.warmup(["float32", "float64"], functions="logsumexp", processes=2)
kernels = set(sysinfo.cached_kernels())
print(sum(sum(k.stats.cache_misses.values()) for k in kernels), sum(sum(k.stats.cache_hits.values()) for k in kernels))
print(fastce.logsumexp([[0.0]]))
print(fastce.__file__, cpu.__file__, bench.__file__, sep="\\n")
"""


def test_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """What other processes compile at once is all on disk then: here nothing is, nor in a later process."""
    site, cache = tmp_path / "site", tmp_path / "cache"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for _ in ("first use", "second use"):
        done = run_python(USED, cwd=tmp_path, PYTHONPATH=str(site), NUMBA_CACHE_DIR=str(cache), NUMBA_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        used, result, *files = done.stdout.splitlines()
        misses, hits = map(int, used.split())
        assert misses == 0
        assert hits >= 2
        assert result == "[0.]"
        assert [Path(file).parent for file in files] == [
            site / "fastce" / folder for folder in (".", "kernels/cpu", "bench")
        ]
    assert not list(cache.rglob("*.tmp"))


def test_sdist_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = lambda member, _: member  # the only spelling every Python from 3.10 on takes
        archive.extractall(tmp_path / "source")
    again = build("wheel", tmp_path / "source" / f"fastce-{fastce.__version__}", tmp_path / "wheel")
    assert contents(again) == contents(wheel)


def test_checkout_without_symlinks_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    plain = tmp_path / "checkout"
    shutil.copytree(checkout, plain, symlinks=True, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    for name in LINKED:
        (plain / "fastce" / name).unlink()
        (plain / "fastce" / name).write_text(f"../{name}")  # what git leaves where it cannot make a symlink
    assert contents(build("wheel", plain, tmp_path / "wheel")) == contents(wheel)


def test_metadata(wheel: Path) -> None:
    metadata = importlib.metadata.PathDistribution(
        zipfile.Path(wheel, f"fastce-{fastce.__version__}.dist-info/")
    ).metadata
    assert metadata["Name"] == "fastce"
    assert metadata["Version"] == fastce.__version__ == "0.1.0"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.10"
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(re.split(r"[^a-z]", line)[0] for line in needed) == ["numba", "numpy"]


def test_oldest_versions_tested_are_the_lower_bounds() -> None:
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci" / "oldest.txt").read_text(), re.MULTILINE))
    assert set(oldest) == {"numba", "numpy", "ml_dtypes"}
    for name, version in oldest.items():
        assert version.startswith(bounds[name] + "."), name


# -- import ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINKED)
def test_packages_cannot_be_imported_by_names_of_others(name: str) -> None:
    done = run_python(f"import {name}")
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"fastce.{name}" in done.stderr


def test_import_brings_in_no_optional_package() -> None:
    code = """
import json, sys
import fastce
optional = {"torch", "jax", "cupy", "dask", "sklearn", "xgboost", "lightgbm", "ml_dtypes", "scipy", "matplotlib"}
optional.add("fastce.bench")
print(json.dumps([name for name in sys.modules if name in optional or name.startswith("numba.cuda")]))
"""
    # Numba itself looks for SciPy.
    of_numba = answer(code.replace("import fastce", "import numba"))
    assert set(answer(code)) <= set(of_numba)
    assert not set(of_numba) - {"scipy"}


def test_import_costs_little_more_than_numba() -> None:
    """No kernel is compiled, no thread started, and next to nothing imported beyond Numba and NumPy."""
    code = """
import json, sys
import numba.core.event
before = set(sys.modules)
with numba.core.event.install_recorder("numba:compile") as recorder:
    import fastce
compiled = len(recorder.buffer)
try:
    layer = numba.threading_layer()
except ValueError:
    layer = None
others = {name for name in set(sys.modules) - before if name.split(".")[0] not in ("fastce", "numba", "numpy")}
print(json.dumps([compiled, layer, sorted(others)]))
"""
    compiled, layer, others = answer(code)
    assert compiled == 0
    assert layer is None
    assert len(others) <= 5, others


# -- public names ------------------------------------------------------------------------------------------------------


def test_public_names_are_listed_once_and_documented() -> None:
    assert len(fastce.__all__) == len(set(fastce.__all__))
    for name in fastce.__all__:
        thing = getattr(fastce, name)
        if callable(thing):
            assert inspect.getdoc(thing), name
    public = {name for name, thing in vars(fastce).items() if not name.startswith("_") and not inspect.ismodule(thing)}
    assert public - {"annotations"} <= set(fastce.__all__)


@pytest.mark.parametrize("name", [n for n in fastce.__all__ if inspect.isfunction(getattr(fastce, n))])
def test_public_functions_have_a_numpy_style_docstring_with_an_example(name: str) -> None:
    function = getattr(fastce, name)
    text = inspect.getdoc(function) or ""
    for section in ("Parameters", "Returns", "Examples"):
        assert re.search(rf"^{section}\n-+$", text, re.MULTILINE), f"{name}: no section {section}"
    assert ">>> " in text
    for other in re.findall(r"As in `(\w+)`", text):  # options are described once
        text += inspect.getdoc(getattr(fastce, other)) or ""
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", text), f"{name}: {parameter} is not described"


# -- files -------------------------------------------------------------------------------------------------------------


def text_files() -> list[Path]:
    """Text files of the project, caches and environments left out."""
    folders = ("fastce", "kernels", "bench", "tests", "docs", ".ci", ".github")
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # a file in a worktree
    found += [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    suffixes = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".json", ".svg", ".html", ".css", ".js", ""}
    return [path for path in found if path.suffix in suffixes and "__pycache__" not in path.parts]


def test_no_file_mentions_the_machine_it_was_written_on() -> None:
    files = text_files()
    assert ROOT / "pyproject.toml" in files
    assert ROOT / "kernels" / "reference.py" in files
    absolute = re.compile(r"/(?:home|root|Users|work|tmp)/[A-Za-z]|[.][.]/shared\b")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files
        for match in absolute.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative(name: str) -> None:
    link = ROOT / "fastce" / name
    target = os.readlink(link) if link.is_symlink() else link.read_text().strip()
    assert Path(target).as_posix() == f"../{name}"
