PYTHON ?= python3.11
VENV ?= .venv
COCA = $(VENV)/bin/coca

.PHONY: demo test test-full lint completions examples clean

demo: $(VENV)/installed ## install everything and caption the example clips
	@echo '$$ coca caption examples/'
	@$(COCA) caption examples/ --quiet --model shapes
	@echo
	@echo '$$ coca caption examples/ --frames multi'
	@$(COCA) caption examples/ --frames multi --quiet --model shapes

test: $(VENV)/installed ## install everything and run the tests
	$(VENV)/bin/python -m pytest

test-full: $(VENV)/installed ## checks at full model size with random weights: minutes and gigabytes
	$(VENV)/bin/python -m pytest -m full_size

lint: $(VENV)/installed ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

completions: $(VENV)/installed ## write completions/ anew
	$(VENV)/bin/python -m cococli.cli.completion

examples: $(VENV)/installed ## draw the example clips anew
	$(VENV)/bin/python examples/draw.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
