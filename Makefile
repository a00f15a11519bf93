PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
INSTALLED := .venv/requirements.lock

.PHONY: repro crossval test soak unit lint ui tensorboard clean

repro: $(INSTALLED)  ## run the pipeline: what is not up to date, and nothing else
	dvc repro
	python -m lunaops metrics

crossval: $(INSTALLED)  ## train and test the folds of split.folds, pool their predictions: crossval/metrics.json
	python -m lunaops crossval

test: $(INSTALLED) lint  ## everything that CI checks
	pytest -n 2 --dist loadgroup

unit: $(INSTALLED)  ## the quick tests
	pytest -n 2 -m "not slow and not long"

soak: $(INSTALLED)  ## what takes too long for every change: kills at random moments, whole pipelines
	pytest -n 2 --dist loadgroup -m long

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy

ui: $(INSTALLED)  ## MLflow: compare runs
	mlflow server --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db} --port 5000

tensorboard: $(INSTALLED)  ## TensorBoard: watch a run
	tensorboard --logdir runs

clean:  ## what git ignores of what repro and test made; the crop cache, DVC's cache and the tracked runs stay
	git clean -fdXq .venv data models reports crossval .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lunaops needs Python 3.11 or newer: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --requirement requirements.lock
	cp requirements.lock $@
