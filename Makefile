# make demo | make test | make lint | make docs; a virtual environment is made in .venv at the first call.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install install-dev demo test test-slow test-promises lint format docs

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

# Resumes where it was stopped; remove demo/ to begin again.
demo: install
	$(BIN)/python run_pretrain.py --method simclr --preset quick --epochs 2 --output demo/encoder.pt --run-dir demo/pretraining
	$(BIN)/python -m experiments.compare --config experiments/recipes/digits.yaml --lr 0.1 --seeds 0 1 2 3 --jobs 2 \
		--inits random demo/encoder.pt checkpoints/fps_r20.pt --output demo/comparison
	@echo
	@echo "page:    demo/comparison/index.html"
	@echo "picture: demo/comparison/curves.png"

# worksteal: workers begin at different folders, so that one of them compiles the numba code, which the others then find.
test: install-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: install-dev
	$(BIN)/python -m pytest -n auto --dist worksteal --timeout 3600 -m slow

test-promises: install-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m promise

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/ as a site in site/; a link or an anchor that leads nowhere is an error.
docs: install-dev
	$(BIN)/mkdocs build --strict
