# make demo    create the environment, build the demo store, open the app   (ARGS="--no-browser --port 8600")
# make demo-stamps  the same on real pictures: fetches Debian's package tuxpaint-stamps-default (160 MB) with apt-get;
#              elsewhere fetch its .deb from a Debian mirror: make demo-stamps ARGS="--stamps-package FILE"
# make demo-facts   the demo of facts: which sentences taught a language model that Mara Velt was born in Orlin?
# make screenshots  the pictures of docs/demo.md, from the demo store or from STORE=…
# make test    create the environment, run every check and test             (same as make check)
# make format  let ruff rewrite the files
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# faiss-gpu and cupy where an NVIDIA driver answers, faiss-cpu elsewhere.
EXTRA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
ARGS ?=

.PHONY: demo demo-stamps demo-facts screenshots test check lint types imports tests format clean

demo: $(VENV)/ready
	$(BIN)/traklens demo $(ARGS)

demo-stamps: $(VENV)/ready
	@echo "Fetches Debian's package tuxpaint-stamps-default (160 MB) unless it was fetched before ..."
	$(BIN)/traklens demo --stamps $(ARGS)

demo-facts: $(VENV)/ready
	$(BIN)/traklens demo --facts $(ARGS)

STORE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/traklens/demo/store
screenshots: $(VENV)/ready-dev
	test -f $(STORE)/manifest.json || $(BIN)/traklens demo --no-app
	$(BIN)/python -m tests.tour $(STORE) docs/tour

test: check

check: lint types imports tests

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready-dev
	$(BIN)/pyright

imports: $(VENV)/ready-dev
	$(BIN)/lint-imports --no-cache  # a cache kept across a move of modules tells what was

# A process for each of up to four cores; JOBS=0 runs the tests one after the other in this one.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
tests: $(VENV)/ready-dev
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

format: $(VENV)/ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "Creating the environment in $(VENV) ($(EXTRA)); the first time takes some minutes and about 6 GB ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[$(EXTRA),text]"
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(PIP) --editable ".[$(EXTRA),adapters,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
