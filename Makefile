# make help       print these lines
# make smoke      create the environment and run every stage of the ETO loop once, in two minutes
# make run        create the environment and run the ETO loop on the built-in ALFWorld games
# make test       create the environment with the test tools and run the tests
# make lint       check style and format (ruff); make typecheck checks the types (mypy)
# make docs       build the documentation into build/site, and check its links
# make test-slow  run the tests that make test leaves out because they take long
# make browser    test the shop in Chromium (installs Debian's chromium and chromium-driver)
# make parity     compare with the original engines (installs them: 450 MB)
# make deepspeed  train under DeepSpeed on two CPU processes, in an environment of its own
# make interop    test with OpenEnv, verifiers and Inspect, in environments of their own (1 GB)
# make test-oldest, make test-newest  test with the oldest and with the newest libraries that
#                 pyproject.toml allows, in environments of their own (1.5 GB each)
# make bench      measure ALFWorld's steps and a local policy's replies
# make clean      remove all of these environments, and what was built
# ARGS="..." adds options to what smoke, run and the tests call. Everything else is installed into
# .venv; versions are pinned in constraints*.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=

.PHONY: help smoke run test test-slow test-oldest test-newest browser docs parity deepspeed interop lint typecheck \
	bench install install-dev install-oldest install-newest clean

install: $(VENV)/.installed-run
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed-run: pyproject.toml setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable ".[train]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-run
	$(PIP) install --quiet --constraint constraints.txt --editable ".[train,qlora,gguf,openai,serve,scienceworld,webshop,fast,bench,sb3,ray,completion,openenv,mcp,dev,docs]"
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-dev
	$(PIP) install --quiet --constraint constraints.txt --editable ".[train,qlora,gguf,openai,serve,scienceworld,webshop,fast,bench,sb3,ray,completion,openenv,mcp,dev,docs,alfworld]"
	touch $@

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

smoke: install
	$(BIN)/eto-gym train eto --env ETO/ALFWorld-v0 --preset smoke $(ARGS)

run: install
	$(BIN)/eto-gym train eto --env ETO/ALFWorld-v0 --preset quickstart $(ARGS)

# Two processes, each with the whole of its files, and one thread in each: the models of the tests are
# tiny, and threads that wait for each other are slow. What needs more than a checkout, a browser, an
# original engine or recorded transcripts, is tested by `make browser` and `make parity`. In the order of
# the files the last ones are quick; by number of tests, single long tests come last, one process idle.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install-dev
	$(PYTEST) -m "not browser and not shared and not official and not slow" $(ARGS)

test-slow: install-dev
	$(PYTEST) -m slow $(ARGS)

# The shop for people is tested in a real browser; without one those tests are skipped.
browser: install-dev
	command -v chromium chromedriver >/dev/null || { apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium chromium-driver; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser $(ARGS)

# Strict: a warning, a broken link or an undocumented argument is an error.
docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The comparisons with the original engines, which are large to install.
parity: $(VENV)/.installed-parity
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "official or shared" $(ARGS)

# DeepSpeed has no wheels: it is built, without any of its compiled parts, in an environment of its own
# on top of the other, where nothing else notices it.
DEEPSPEED := .venv-deepspeed

$(DEEPSPEED)/.installed: $(VENV)/.installed-dev
	test -x $(DEEPSPEED)/bin/python || $(BIN)/python -m venv --without-pip $(DEEPSPEED)
	$(BIN)/python -c "import sysconfig as s; print('import site; site.addsitedir(%r)' % s.get_path('purelib'))" \
		> $$($(DEEPSPEED)/bin/python -c "import sysconfig as s; print(s.get_path('purelib'))")/eto-gym.pth
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(PIP) --python $(DEEPSPEED)/bin/python install --quiet \
		--no-build-isolation --constraint constraints.txt deepspeed==0.19.8 einops==0.8.2 \
		hjson==3.1.0 ninja==1.13.2 py-cpuinfo==9.0.0
	touch $@

deepspeed: $(DEEPSPEED)/.installed
	OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu $(DEEPSPEED)/bin/python -m pytest -m deepspeed tests/trainers/run $(ARGS)

# OpenEnv wants an MCP below 2 and verifiers 2.0.0, verifiers an openai below 3 and Inspect one from 3.4
# on, and all bring much that nothing here needs: two environments on top of the other.
# What they bring is pinned as all else is, so that a release of theirs changes nothing here unasked.
INTEROP := .venv-interop
OPENENV := .venv-openenv

define overlay
	test -x $(1)/bin/python || $(BIN)/python -m venv --without-pip $(1)
	$(BIN)/python -c "import sysconfig as s; print('import site; site.addsitedir(%r)' % s.get_path('purelib'))" \
		> $$($(1)/bin/python -c "import sysconfig as s; print(s.get_path('purelib'))")/eto-gym.pth
	$(PIP) --python $(1)/bin/python install --quiet $(2)
	touch $(1)/.installed
endef

$(INTEROP)/.installed: $(VENV)/.installed-dev constraints-interop.txt
	$(call overlay,$(INTEROP),--constraint constraints-interop.txt verifiers)

$(OPENENV)/.installed: $(VENV)/.installed-dev constraints-openenv.txt
	$(call overlay,$(OPENENV),--constraint constraints-openenv.txt openenv inspect-ai)

interop: $(INTEROP)/.installed $(OPENENV)/.installed
	OMP_NUM_THREADS=1 $(INTEROP)/bin/python -m pytest -m interop tests/adapters $(ARGS)
	OMP_NUM_THREADS=1 $(OPENENV)/bin/python -m pytest -m interop tests/adapters tests/env_server tests/export $(ARGS)

# What touches the libraries whose versions differ: local models and training (transformers, TRL, peft,
# accelerate, datasets), endpoints (openai), environments and vectors (gymnasium), and Stable-Baselines3.
# The engines, the shop, the command line beyond its options, and what starts processes of its own do not.
# Both are in one checkout at the same time where `PROCESSES=1 make --jobs=2 test-oldest test-newest`
# runs them, so that each keeps to itself what pytest remembers. Not so `install-oldest install-newest`:
# pip builds in the checkout.
OLDEST := .venv-oldest
NEWEST := .venv-newest
VERSION_TESTS := tests/test_versions.py tests/test_contract.py tests/vector tests/agents/endpoint \
	tests/agents/models tests/agents/sb3 tests/trainers/methods tests/trainers/model \
	tests/trainers/sb3 tests/cli/test_options.py

PROCESSES ?= 2

install-oldest install-newest: install-%: .venv-%/.installed

$(OLDEST)/.installed $(NEWEST)/.installed: .venv-%/.installed: pyproject.toml setup.cfg constraints-%.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints-$*.txt \
		--editable ".[train,openai,sb3,scienceworld]" pytest pytest-timeout pytest-xdist hypothesis
	touch $@

test-oldest test-newest: test-%: .venv-%/.installed
	OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest --numprocesses $(PROCESSES) --dist loadfile \
		--no-loadscope-reorder -o cache_dir=.venv-$*/.pytest_cache \
		-m "not browser and not shared and not slow" $(VERSION_TESTS) $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: install-dev
	$(BIN)/mypy

bench: install-dev
	$(BIN)/python -m eto_gym.benchmarks.alfworld
	$(BIN)/python -m eto_gym.benchmarks.policy

clean:
	rm -rf $(VENV) $(DEEPSPEED) $(INTEROP) $(OPENENV) $(OLDEST) $(NEWEST) build dist *.egg-info
