# Everything runs in .venv, which is set up on first use and again when pyproject.toml or requirements.lock change.
# To use another Python: make run PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
SAMPLE ?=
LIBRARY := $(shell find flare_lib -type f -not -path '*/__pycache__/*')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: run test check types unit book links pages lab lint mutants clean help FORCE

run: out/labels.nii.gz ## fetch a real CT, segment it, execute the notebooks; results in out/
	@$(BIN)/flare notebooks notebooks --out out/notebooks
	@printf '\nout/sample/ct.nii.gz\n'
	@cat out/segmentation.txt
	@printf '\nWhat to open next:\n'
	@printf '  %-28s%s\n' \
	  out/overlay.png 'the CT with its organs, in three planes' \
	  out/notebooks/index.html 'the notebooks, executed: start with 00_start_here' \
	  out/labels.nii.gz 'the labels, for ITK-SNAP, 3D Slicer or any other viewer' \
	  'make lab' 'JupyterLab, to read the notebooks and change them'

# Two processes side by side take one file after another, those that take longest first (tests/conftest.py), so that what
# a module sets up is set up once and a notebook's cells stay together. Each has one thread: two processes with two
# threads each wait for one another, and training notebooks take several times as long.
test: $(INSTALLED) ## run the tests, and every notebook against its committed outputs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout 1200 notebooks tests

# Compiled modules are kept even where the environment says no: the tests start some sixty processes that read them.
test unit: export PYTHONDONTWRITEBYTECODE =

# What may change files comes first; then types and tests side by side, for mypy has one core alone.
check: $(INSTALLED) ## lint, types and the tests that are not marked slow: run this while working
	@SKIP=mypy $(BIN)/pre-commit run --all-files
	@$(MAKE) --no-print-directory -j 2 types unit

types: $(INSTALLED)
	$(BIN)/mypy

# Without notebooks, tests are shared out one by one, and nbval is left out: loading it takes two seconds in each process.
unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -p no:nbval -m "not slow" tests

book: pages ## build the course as a site, in out/book
	@$(BIN)/sphinx-build -q -W --keep-going -b html -d build/book/doctrees build/book/docs out/book
	@echo 'wrote out/book/index.html'

links: pages ## check the site's external links (needs the internet)
	@$(BIN)/sphinx-build -q -b linkcheck -d build/book/doctrees build/book/docs out/links

pages: $(INSTALLED)
	@rm -rf build/book && mkdir -p build/book out
	@cp -r docs build/book/docs && cp -r notebooks build/book/docs/notebooks && cp data/README.md build/book/docs/data.md
	@cp -r assets build/book/docs/assets
	@sed -i.bak 's#\.\./data/README\.md#../data.md#' build/book/docs/notebooks/*.ipynb
	@sed -i.bak 's#\.\./data/README\.md#data.md#; s#\.\./notebooks/#notebooks/#; s#\.\./assets/#assets/#' build/book/docs/*.md

lab: $(INSTALLED) ## open the course in JupyterLab, at the first notebook
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

lint: $(INSTALLED) ## format, lint and check all files known to git, as before every commit
	$(BIN)/pre-commit run --all-files

mutants: $(INSTALLED) ## change the library in 240 small ways, drawn at random: which changes does no test notice?
	@$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock mutmut==3.8.1
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py $(SAMPLE)

clean: ## remove results and caches (fetched data and .venv stay)
	rm -rf out build dist mutants .pytest_cache .ruff_cache .hypothesis
	find flare_lib tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s%s\n", $$1, $$2 }' Makefile

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || \
	  { echo "Python 3.11 or newer is needed, got $$({ $(PYTHON) --version || echo 'no $(PYTHON)'; } 2>&1 | tail -n 1);" \
	    'name another: make PYTHON=python3.12'; exit 1; }
	@echo 'Setting up .venv, once (it takes minutes, most of it PyTorch) ...'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[notebooks,test,dev]'
	@touch $@

# Fetched on every run, which is quick if it is in the cache: the file changes only when its content does.
out/sample/ct.nii.gz: $(INSTALLED) FORCE
	@$(BIN)/flare fetch --to out/sample

out/labels.nii.gz: out/sample/ct.nii.gz $(LIBRARY)
	@echo 'Segmenting out/sample/ct.nii.gz ...'
	@$(BIN)/flare segment $< -o $@ --reference out/sample/reference.nii.gz --figure out/overlay.png > out/segmentation.txt

FORCE:
