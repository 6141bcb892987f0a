PYTHON ?= $(firstword $(shell which python3.11 python3.12 python3.13 2>/dev/null) python3)
VENV ?= .venv
COCA = $(VENV)/bin/coca

.PHONY: demo test test-full test-card fuzz lint docs bench faults completions release bundled examples picture clean

demo: $(VENV)/installed ## install everything and caption the example clips
	@$(COCA) demo

test: $(VENV)/installed ## install everything and run the tests, in two processes
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

test-full: $(VENV)/installed ## checks at full model size with random weights: minutes and gigabytes
	$(VENV)/bin/python -m pytest -m "full_size or slow"

test-card: $(VENV)/installed ## tests that need an NVIDIA GPU; they are skipped elsewhere
	$(VENV)/bin/python -m pytest -rs tests/engines/test_cuda.py

fuzz: $(VENV)/installed ## mutated inputs of every kind, then the parsers under a coverage-guided fuzzer: two hours
	$(VENV)/bin/python benchmarks/fuzz.py
	$(VENV)/bin/python benchmarks/fuzz_parsers.py

lint: $(VENV)/installed ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --platform win32 # finds calls that only POSIX has
	$(VENV)/bin/mypy --platform darwin

docs: $(VENV)/installed ## build the website in build/site; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

bench: $(VENV)/installed ## measure the figures of the documentation and write them into it, 25 minutes; ONLY=search,help: some
	$(VENV)/bin/python benchmarks/bench.py --only '$(ONLY)'

faults: $(VENV)/installed ## kill and disturb commands at random moments and write the results into the docs, 90 minutes
	$(VENV)/bin/python benchmarks/faults.py --write

completions: $(VENV)/installed ## write completions/ and the man page anew
	$(VENV)/bin/python -m cococli.cli.completion
	$(VENV)/bin/python -m cococli.cli.manual

release: ## build the wheel and the source distribution in dist/, and check them
	rm -rf dist
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check build twine
	build/tools/bin/python -m build
	build/tools/bin/python -m twine check --strict dist/*

bundled: $(VENV)/installed ## train the bundled model anew: 21 minutes on two quiet cores that compute in bf16
	$(VENV)/bin/python examples/shapes.py build/shapes --train 20000 --val 200 --clips 200
	COCA_HOME=build/home $(COCA) finetune --data build/shapes --from-scratch --config cococli/assets/models/shapes/shapes.json \
		--name shapes --steps 3500 --batch-size 64 --lr 1e-3 --warmup 100 --val-frequency 500 --seed 0 \
		--precision bf16 --ema 0.995
	COCA_HOME=build/home $(VENV)/bin/python tests/checkpoints/pack_shapes.py run:shapes cococli/assets/models/shapes

examples: $(VENV)/installed ## draw the example clips anew
	$(VENV)/bin/python examples/draw.py

picture: $(VENV)/installed ## draw the pictures of the README anew
	$(VENV)/bin/python docs/picture.py
	$(VENV)/bin/python docs/page_picture.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt \
		--config-settings editable_mode=compat # else each command first imports setuptools' finder
	@touch $@
