# make demo | test | lint | docs | setup. PYTHON picks the interpreter of a new .venv, RUN the demo's folder.
PYTHON ?= python3
RUN ?= runs/demo_nuclei
BIN := .venv/bin

.PHONY: demo test lint docs setup format

setup: .venv/.stamp

# uv where there is one, else venv and pip; repeated when the requirements change
.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "resdet needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "give another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
	  set -ex; \
	  test -x $(BIN)/python || uv venv --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv; \
	  uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
	  set -ex; \
	  test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

# Trains on datasets/nuclei, evaluates, and draws the held-out images into $(RUN)/drawn. A run that
# was interrupted resumes; one that is finished is evaluated and drawn again.
demo: setup
	@if [ -e $(RUN)/last.pt ]; then \
	  echo "$(RUN) has a checkpoint: resuming it (for another run: make demo RUN=runs/NAME)"; \
	  $(BIN)/python tools/train_det.py --resume --run-dir $(RUN); \
	elif [ -e $(RUN) ]; then \
	  echo "$(RUN) exists and has no checkpoint: remove it, or make demo RUN=runs/NAME" >&2; exit 1; \
	else \
	  $(BIN)/python tools/train_det.py configs/demo_nuclei.yaml --run-dir $(RUN); \
	fi
	$(BIN)/python tools/eval_coco.py $(RUN)
	$(BIN)/python -c "import json; [print('datasets/nuclei/images/' + image['file_name']) \
	  for image in json.load(open('datasets/nuclei/annotations/val.json'))['images']]" \
	  | xargs $(BIN)/python tools/predict.py $(RUN) --out $(RUN)/drawn
	@echo "what the model gets right and wrong: open $(RUN)/report.html in a browser"

# Two processes, each with whole files, whose fixtures are then made once. A process has one thread.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/check_prose.py

# The site of docs/ into site/, whose index.html opens from disk. Variable: no notice about the successor.
docs: setup
	$(BIN)/python docs/make_notebook.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
