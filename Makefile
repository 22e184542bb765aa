# On a fresh machine with only python3 (3.10 or newer), pip and make:
#
#     make test           ruff, mypy and the whole test suite
#     make bench          the quick benchmark and training on real data
#     make bench-peers    the whole benchmark beside PyTorch, JAX, scikit-learn and SciPy: hours
#
# Both first install the package and what they need into .venv, and do so again only when pyproject.toml changes.
# Options: PYTHON=python3.13 (which Python makes .venv), VENV=elsewhere, ARGS="-k threads" (passed on to pytest; or to
# the benchmark of bench-peers: ARGS="--limit 5" takes half an hour, without logits of more than 5 MB).

VENV ?= .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif
PY := "$(BIN)/python"

.PHONY: test test-gpu test-rest slow lint format bench bench-peers install browser clean

# The interpreter of the GPU's kernels needs one core, and beside it the other tests need no more than theirs. Kernels of
# the CPU are compiled in one half alone: it takes minutes. (5: all tests that ARGS leave may be in the other half.)
test: lint browser
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-gpu test-rest

test-gpu: lint
	@NUMBA_CACHE_DIR="$${NUMBA_CACHE_DIR:-$(CURDIR)/.numba_cache}_gpu" $(PY) -m pytest tests/gpu -m "not slow and not cpu" $(ARGS) || { [ $$? = 5 ] && [ -n "$(ARGS)" ]; }

test-rest: lint browser
	@$(PY) -m pytest --ignore=tests/gpu $(ARGS) || { [ $$? = 5 ] && [ -n "$(ARGS)" ]; }
	@$(PY) -m pytest tests/gpu -m "cpu and not slow" $(ARGS) || { [ $$? = 5 ] && [ -n "$(ARGS)" ]; }

slow: install
	$(PY) -m pytest -m slow $(ARGS)

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: install
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/installed-bench
	$(PY) -m fastce bench --quick
	$(PY) -m fastce.bench.train_digits

# On Linux, pip's PyTorch may bring CUDA along; it is not used. Who wants the CPU wheel puts it into .venv first.
bench-peers: $(VENV)/installed-peers
	$(PY) -m fastce bench --full --json bench/results/peers.json --html bench/results/peers.html $(ARGS)

install: $(VENV)/installed-dev

$(VENV)/installed-%: pyproject.toml | $(VENV)/made
	@echo "==> Installing fastce[$*] into $(VENV)"
	$(PY) -m pip install --editable ".[$*]"
	@touch "$@"

# The benchmark's page is tested in Chromium. Without a browser, and no way to install one, that test is skipped.
browser:
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name > /dev/null && exit 0; done; \
	{ command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ] && \
	    apt-get update -qq && apt-get install -qq --no-install-recommends chromium > /dev/null; } \
	|| echo "==> No browser to test the benchmark's page in"

# Debian and Ubuntu split ensurepip off into python3-venv; without it, the machine's own pip puts a pip there.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 10) and "fastce needs Python 3.10 or newer; $(PYTHON) is %s. Name another: make PYTHON=/path/to/python3.10" % v)'
	@echo "==> Making a virtual environment in $(VENV)"
	@if $(PYTHON) -c 'import ensurepip; ensurepip.version()' 2> /dev/null; then $(PYTHON) -m venv "$(VENV)"; else \
	    $(PYTHON) -m venv --without-pip "$(VENV)" && \
	    $(PYTHON) -m pip install --target "$$($(PY) -c 'import sys; print([p for p in sys.path if p.endswith("site-packages")][-1])')" pip; fi
	$(PY) -m pip install --upgrade "pip>=23.1"
	@touch "$@"

clean:
	rm -rf "$(VENV)" build dist *.egg-info .benchmarks .hypothesis .mypy_cache .numba_cache .numba_cache_gpu .pytest_cache .ruff_cache
