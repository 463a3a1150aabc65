# Each target makes the virtual environment itself when it is missing or older than what it is made from.
#   make demo           the main job on the embedded model: unsteered and steered answers over HTTP, bounds verified
#   make serve          the server on http://127.0.0.1:8000
#   make check          format, lint, types, imports, fast tests
#   make test           check, and everything slow; the pages in Chromium too, where it is or can be installed
#   make test-browser  the report and the pages in Chromium, which is installed when missing (Debian's package)
#   make probes         train the shipped probes again (needs DATA)
#   make bench-quality  the first table of docs/effect.md again (needs DATA)
#   make bench-controllers  the second: every controller and its placebo (needs DATA)
# On Linux, `make TORCH_INDEX=https://download.pytorch.org/whl/cpu ...` takes the small CPU build of PyTorch.

PYTHON ?= python3
DATA ?= ../shared/data
TORCH_INDEX ?=
VENV := .venv
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PRETRAINED := probes/pretrained/smollm2-135m-instruct

export TOKENIZERS_PARALLELISM := false

.PHONY: help demo serve check test format test-browser probes bench-quality bench-controllers clean
help:
	@sed -n 's/^#   //p' Makefile

$(READY): pyproject.toml constraints.txt tests/second-opinions.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[probes,eval,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/second-opinions.txt
	@touch $(READY)

demo: $(READY)
	$(BIN)/tiller demo

serve: $(READY)
	$(BIN)/tiller serve

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

HAS_CHROMIUM = { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
GET_CHROMIUM = sh -c 'apt-get install --yes --no-install-recommends chromium \
	|| { apt-get update && apt-get install --yes --no-install-recommends chromium; }'

LINT = $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

check: $(READY)
	$(LINT)
	$(BIN)/pytest -m "not slow"

# Asks for nothing: as root, or where sudo needs no password. Whether there is a Chromium in the end, pytest will say.
test: $(READY)
	$(LINT)
	@$(HAS_CHROMIUM) || $(ROOT:sudo=sudo -n) $(GET_CHROMIUM) || echo "no Chromium: what needs a browser will be skipped"
	$(BIN)/pytest

test-browser: $(READY)
	@$(HAS_CHROMIUM) || $(ROOT) $(GET_CHROMIUM) \
		|| { echo "no Chromium, and apt-get could not install it; put chromium on the PATH"; exit 1; }
	$(BIN)/pytest tests/service/playground tests/service/jobs/test_reports_page.py tests/eval/report/test_in_browser.py

probes: $(READY)
	$(BIN)/python -m probes.pretrain --data $(DATA)

bench-quality: $(READY)
	$(BIN)/python -m eval quality --data $(DATA) --probe $(PRETRAINED)/toxicity/1 \
		--readme docs/effect.md --figure docs/quality.png

bench-controllers: $(READY)
	$(BIN)/python -m eval controllers --data $(DATA) --probe $(PRETRAINED)/toxicity/1 \
		--readme docs/effect.md --figure docs/controllers.png

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
