# Two commands, from nothing but python3 (3.10 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test
demo: .venv/installed  ## train on synthetic faces and score the reloaded checkpoint
	$(BIN)/python esr_ferplus.py --demo

test: .venv/installed-dev  ## lint and test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 PYTHONWARNDEFAULTENCODING=1 \
	    $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal  # a core per test

.venv/installed: requirements.txt
.venv/installed-dev: requirements.txt requirements-video.txt requirements-dev.txt
.venv/installed .venv/installed-dev:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements$(subst .venv/installed,,$@).txt
	touch $@
