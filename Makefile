# make demo: environment, then the APS pipeline on real handwritten digits, to a table and figures.
# make check-demo: compares that table with the kept one; EXACT=1: byte for byte. SEEDS=1, for both: one seed of three.
# make test: environment, then the whole test suite on both of two cores. make lint: format, lint and types.
# make lessons: runs the lessons on digits. make docs: the site, in site/, with the output of lessons that were run.
# make dist: wheel and sdist, in dist/, built twice and compared. make try-install: the wheel in empty environments.
# make check-pages: tests the board in a headless Chromium, which must be installed; installs its driver.
# make interop: the examples with Lightning, Hugging Face and segmentation-models-pytorch, which it installs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := core pipelines stillpoint/__init__.py stillpoint/__main__.py tests tests_interop tests_pages examples benchmarks scripts lessons setup.py hubconf.py

.PHONY: demo check-demo test lessons docs dist try-install check-pages interop lint format lock clean

demo: $(STAMP)
	$(BIN)/stillpoint run aps $(if $(SEEDS),--seeds $(SEEDS))

check-demo: $(STAMP)
	$(BIN)/python -m tests.demo $(if $(SEEDS),--seeds $(SEEDS)) $(if $(EXACT),--exact)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

lessons: $(VENV)/.docs
	$(BIN)/python scripts/run_lessons.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(STAMP)
	$(BIN)/python scripts/build_release.py

try-install: dist
	scripts/try_install.sh dist/*.whl 2.6 locked

check-pages: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[pages]"
	$(BIN)/python -m pytest tests_pages

interop: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[interop]"
	$(BIN)/python -m pytest tests_interop

lint: $(STAMP)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# the lock states versions, not addresses; torch comes in the build that torchvision needs
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

lock:
	uv pip compile pyproject.toml --extra pipelines --extra dev --no-header --no-annotate --no-emit-index-url -o requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
