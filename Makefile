# Every target works on a fresh machine: the first one that needs Python builds .venv.

PYTHON := .venv/bin/python
READY := .venv/.ready
PYTEST := -m pytest -q -n 2 --dist loadfile

# The first of some Pythons that runs, on the PATH or of pyenv: on the PATH, a name may lead to none. No first release
# such as 3.13.0, of which torch warns.
PYTHONS := 3.13 3.12 3.11 3
first_python = $(shell \
	for version in $(1); do \
		for python in python$$version "$$(pyenv root 2>/dev/null)"/versions/$$version.*/bin/python; do \
			"$$python" -c "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11) or not sys.version_info[2])" 2>/dev/null && echo "$$python" && exit; \
		done; \
	done; \
	echo 'echo "no Python of these was found, with venv: $(1)" >&2; false')

.PHONY: demo space test test-lowest test-newest lint slow docs dist bench rivals bench-gpu results pretrained clean

# Environment, data, training, evaluation and relaxation of a vacancy.
demo: $(READY)
	rm -rf runs/demo
	$(PYTHON) examples/demo.py

# The page on which a defect is relaxed in the browser, in a small environment of its own; Ctrl-C ends it.
space: .venv-space/.ready
	.venv-space/bin/python space/app.py

# What a change must pass: style, types, imports and the fast tests, without the network.
test: lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PYTHON) $(PYTEST)

# The same tests with the lowest versions that pyproject.toml allows, and with the newest that there are.
test-lowest test-newest: test-%: .venv-%/.ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-$*/bin/python $(PYTEST)

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

# The tests that take minutes.
slow: $(READY)
	HF_HUB_OFFLINE=1 $(PYTHON) -m pytest -q -m slow

# The pages of docs/ with a reference of the library, as a site in build/site; any warning is an error.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build

# What goes to a package index: dist/ gets the source and the wheel that is built from it.
dist: $(READY)
	rm -rf dist
	$(PYTHON) -c 'import setuptools.build_meta as backend; backend.build_sdist("dist")'
	$(PYTHON) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

# Times of forces and of training beside the published layer stack, MACE, SevenNet-0 and CHGNet, in one table.
bench: $(READY) rivals
	$(PYTHON) benchmarks/compare.py

# What a GPU makes of it, in at most eight minutes.
bench-gpu: $(READY)
	$(PYTHON) benchmarks/gpu.py

# All experiments and docs/results.md: says first how long it will take, and goes on where it was. DFT=DATASET adds real data.
results: $(READY)
	HF_HUB_OFFLINE=1 $(PYTHON) -m experiments all --output results --page docs/results.md \
		$(if $(DFT),--dft $(DFT))

# The model in the box, from the DFT data in the folder DATA to its card: 35 minutes of one core.
BOX := pretrained/adapt-si
pretrained: $(READY)
	$(PYTHON) data_scripts/build_dataset.py configuration/datasets/silicon-dft.yaml datasets/silicon-dft --root $(DATA)
	OMP_NUM_THREADS=1 $(PYTHON) train.py configuration/recipes/si-dft-pairwise.yaml --dataset datasets/silicon-dft --output_dir runs/adapt-si
	OMP_NUM_THREADS=1 $(PYTHON) evaluate.py runs/adapt-si datasets/silicon-dft --split validation --calibrate --widen 2.9 --answers silicon --output runs/adapt-si/evaluation
	rm -rf $(BOX)
	$(PYTHON) hub_upload.py runs/adapt-si org/adapt-si --evaluation runs/adapt-si/evaluation --license mit --save $(BOX)
	rm $(BOX)/*_adapt.py  # the package has them

# What the table of `bench` holds beside ours, each in an environment of its own; the weights come in the packages.
rivals: .venv-chgnet/.ready .venv-sevenn/.ready .venv-mace-torch/.ready

# Removes caches and build products; the environments, data sets and runs stay.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -not -path "./.venv*" -prune -exec rm -rf {} +

# In each environment torch first and alone, so that a local CPU build satisfies what follows.
$(READY): pyproject.toml constraints.txt
	$(call first_python,$(PYTHONS)) -m venv --clear .venv
	$(PYTHON) -m pip install --quiet --constraint constraints.txt torch
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Reads the sources alone, so that nothing of the library is installed.
DOCS := import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")

.venv-docs/.ready: pyproject.toml
	$(call first_python,$(PYTHONS)) -m venv --clear .venv-docs
	.venv-docs/bin/python -c '$(DOCS)' > .venv-docs/docs.txt
	.venv-docs/bin/python -m pip install --quiet --requirement .venv-docs/docs.txt
	touch $@

.venv-chgnet/.ready: PACKAGE := chgnet==0.4.2
.venv-sevenn/.ready: PACKAGE := sevenn==0.13.0
.venv-mace-torch/.ready: PACKAGE := mace-torch==0.3.16
.venv-chgnet/.ready .venv-sevenn/.ready .venv-mace-torch/.ready:
	$(call first_python,$(PYTHONS)) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(@D)/bin/python -m pip install --quiet $(PACKAGE)
	touch $@

.venv-space/.ready: pyproject.toml constraints.txt
	$(call first_python,$(PYTHONS)) -m venv --clear .venv-space
	.venv-space/bin/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	.venv-space/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[space]"
	touch $@

LOWEST := import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")

.venv-lowest/.ready: pyproject.toml
	$(call first_python,3.11) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -c '$(LOWEST)' | sed "s/>=/==/; s/,.*//" > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt torch
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable ".[test]"
	touch $@

.venv-newest/.ready: pyproject.toml
	$(call first_python,$(PYTHONS)) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet torch
	.venv-newest/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@
