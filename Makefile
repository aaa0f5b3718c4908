# fieldmark: `make demo` shows what it does, `make test` proves it. Everything lives in .venv.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo
STAMP := .venv/.installed

.PHONY: install demo test check bench clean

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
	$(BIN)/python -m pytest --quiet

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
