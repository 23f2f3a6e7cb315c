# make run    create the environment and run the ETO loop on the built-in ALFWorld games
# make test   create the environment with the test tools and run the tests
# make browser  test the shop in Chromium (installs Debian's chromium and chromium-driver)
# make parity compare with the original engines (installs them: 450 MB)
# Everything is installed into .venv; versions are pinned in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=

.PHONY: run test browser parity lint typecheck bench install install-dev clean

install: $(VENV)/.installed-run
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed-run: pyproject.toml setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable ".[train]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-run
	$(PIP) install --quiet --constraint constraints.txt --editable ".[train,qlora,openai,serve,scienceworld,webshop,fast,dev]"
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-dev
	$(PIP) install --quiet --constraint constraints.txt --editable ".[train,qlora,openai,serve,scienceworld,webshop,fast,dev,alfworld]"
	touch $@

run: install
	$(BIN)/eto-gym train eto --env ETO/ALFWorld-v0 --preset quickstart $(ARGS)

# One thread: the models of the tests are tiny, and threads that wait for each other are slow.
test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

# The shop for people is tested in a real browser; without one those tests are skipped.
browser: install-dev
	command -v chromium chromedriver >/dev/null || { apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium chromium-driver; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser $(ARGS)

# The comparisons with the original engines, which are large to install.
parity: $(VENV)/.installed-parity
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "official or shared" $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: install-dev
	$(BIN)/mypy

bench: install-dev
	$(BIN)/python -m eto_gym.benchmarks.alfworld
	$(BIN)/python -m eto_gym.benchmarks.policy

clean:
	rm -rf $(VENV) build dist *.egg-info
