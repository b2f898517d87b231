# Every target works on a fresh machine: the first one that needs Python builds .venv.

PYTHON := .venv/bin/python
READY := .venv/.ready

.PHONY: demo test lint slow bench results clean

# Environment, data, training, evaluation and relaxation of a vacancy.
demo: $(READY)
	rm -rf runs/demo
	$(PYTHON) examples/demo.py

# What a change must pass: style, types and the fast tests, without the network.
test: lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n 2 --dist loadfile

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# The tests that take minutes.
slow: $(READY)
	HF_HUB_OFFLINE=1 $(PYTHON) -m pytest -q -m slow

# Times of training and of forces beside the published layer stack; wants an otherwise idle machine.
bench: $(READY)
	$(PYTHON) benchmarks/training.py
	$(PYTHON) benchmarks/inference.py

# All experiments and docs/results.md: says first how long it will take, and goes on where it was. DFT=DATASET adds real data.
results: $(READY)
	HF_HUB_OFFLINE=1 $(PYTHON) -m experiments all --output results --page docs/results.md \
		$(if $(DFT),--dft $(DFT))

# Removes caches and build products; the environment, data sets and runs stay.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

# torch first and alone, so that a local CPU build satisfies what follows.
$(READY): pyproject.toml constraints.txt
	$$(command -v python3.11 || command -v python3) -m venv .venv
	$(PYTHON) -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
