# make demo | make test | make lint | make docs; a virtual environment is made in .venv at the first call.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install demo test test-slow test-promises lint format docs

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Resumes where it was stopped; remove demo/ to begin again.
demo: install
	$(BIN)/python run_pretrain.py --method simclr --preset quick --epochs 4 --output demo/encoder.pt --run-dir demo/pretraining
	$(BIN)/python -m experiments.compare --inits random demo/encoder.pt --seeds 0 1 --rounds 10 --output demo/comparison
	@echo
	@echo "page:    demo/comparison/index.html"
	@echo "picture: demo/comparison/curves.png"

test: install
	$(BIN)/python -m pytest -n auto

test-slow: install
	$(BIN)/python -m pytest -n auto -m slow

# Slow tests that guard promises: several processes train as one, kills and resume, requeueing, deployment with TLS.
PROMISES = tests/fps_pretrain/training tests/federated/server/test_resume.py tests/federated/engines

test-promises: install
	timeout 1500 $(BIN)/python -m pytest -n auto -m slow $(PROMISES)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/ as a site in site/; a link or an anchor that leads nowhere is an error.
docs: install
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict
