# fieldmark: `make demo` shows what it does, `make test` proves it. Everything lives in .venv.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo
STAMP := .venv/.installed

.PHONY: install demo test test-slow check docs coverage mutation vulnerabilities bench clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fieldmark needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  echo "python3-venv is missing: apt-get install python3-venv" >&2; rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/fieldmark demo --out $(OUT)

test: install
	$(BIN)/python -m pytest --quiet --numprocesses 2

# What takes many seconds each: workers of Ray, hosts of torchrun, kills, the notebook.
test-slow: install
	$(BIN)/python -m pytest --quiet -m slow --run-slow --numprocesses 0

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every page, link and example of the site; a warning fails.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

# core/ and metrics/ by their own tests and the examples in them.
coverage: install
	$(BIN)/python -m pytest --quiet --cov=fieldmark.core --cov=fieldmark.metrics --cov-report=term \
	  --cov-fail-under=95 src/fieldmark/core src/fieldmark/metrics tests/core tests/metrics

# Changes metrics/ in some thousand ways, one at a time; its tests must notice at least 85 %.
mutation: install
	$(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut export-cicd-stats

# Asks the index for known holes in what is installed; cannot be done offline, and then fails.
vulnerabilities: install
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > .audited.txt
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --requirement .audited.txt

# These ask for something and cannot run by themselves.
ASKING := $(patsubst %,benchmarks/%.py,covar_material photographs scale_estimate)

bench: install
	for script in $(filter-out $(ASKING),$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis site mutants
