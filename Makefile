# `make demo` and `make test` each do all of their own set-up on a machine that has nothing but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A new folder each time: a run never overwrites another.
DEMO := results/runs/demo-$(shell date +%Y%m%d-%H%M%S)

GPU := results/runs/gpu-$(shell date +%Y%m%d-%H%M%S)

CONTRACT ?= contract

.PHONY: demo test test-slow faults examine contract gpu lint types clean

# The environment is made again only when pyproject.toml changes.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("stillsight needs Python 3.11 or newer, and this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing stillsight and what it needs into $(VENV) (PyTorch is the large one) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/installed
	@echo "This takes about five minutes on two cores: an agent is trained, evaluated beside random play, and filmed."
	@$(BIN)/stillsight rl --env stillsight/Orchard-v0 --algo ppo --encoder retina --mode frozen --steps 160_000 --compress 64 --eval-every 32_000 --out $(DEMO)
	@$(BIN)/stillsight evaluate $(DEMO) --episodes 50 --random-episodes 50
	@$(BIN)/stillsight record $(DEMO)
	@echo "Everything is in $(DEMO): summary.json, eval.jsonl, checkpoints/, videos/. More: $(BIN)/stillsight --help"

# A process for each of two cores; a file stays in one, with what its tests share.
test: lint types
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(PYTEST_FLAGS)

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow $(PYTEST_FLAGS)

# Kills, refuses, damages and soaks: hours, in which it can be stopped and goes on where it was. What it finds is
# published by `make faults FAULTS_FLAGS="--publish results/published"`; tests/faults/README.md names further flags.
faults: $(VENV)/installed
	$(BIN)/python tests/faults/run.py $(FAULTS_FLAGS)

# Every promise of every row, of every classification model of torchvision and of models of most of timm's families, with
# random weights, and engines by the way, onnx among them: hours and up to 20 GB of memory. A line of JSON for each comes into results/published/encoders/.
examine: $(VENV)/installed
	mkdir -p results/published/encoders && rm -f results/published/encoders/examined.jsonl
	STILLSIGHT_EXAMINED=results/published/encoders/examined.jsonl $(BIN)/python -m pytest tests/encoders/zoo/test_rows.py -k "keeps" $(PYTEST_FLAGS)

# Every promise of every row of every suite whose package is here, `pip install -e ".[suites]"` for most of them: half
# an hour on one core, without a display. A line of JSON for each comes into results/published/envs/. Meta-World goes into an
# environment of its own: make contract CONTRACT=contract-metaworld PYTEST_FLAGS="-k metaworld".
contract: $(VENV)/installed
	mkdir -p results/published/envs
	STILLSIGHT_CONTRACT=results/published/envs/$(CONTRACT).jsonl $(BIN)/python -m pytest tests/envs/suites/test_contract.py $(PYTEST_FLAGS)

# All that only a CUDA GPU can show, within nine minutes and into one folder: by $(PYTHON) as it is, with nothing
# installed and no network. The folders are shown to it under the name by which they are imported.
NEEDED := torch torchvision gymnasium stable_baselines3 numpy cv2 PIL safetensors sklearn fsspec rich msgspec filelock packaging pytest

gpu:
	@$(PYTHON) -c 'import importlib.util as u, sys; gone = [name for name in sys.argv[1:] if u.find_spec(name) is None]; sys.exit(f"{sys.executable} has no {chr(44).join(gone)}, and make gpu installs nothing. Put their wheels into a folder on PYTHONPATH, or type: make gpu PYTHON=ANOTHER" if gone else 0)' $(NEEDED)
	@tree=$$(mktemp -d) && trap 'rm -rf "$$tree"' EXIT INT TERM && mkdir "$$tree/stillsight" && \
	for folder in agents envs encoders agents/stillsight/__main__.py; do ln -s "$(CURDIR)/$$folder" "$$tree/stillsight/"; done && \
	PYTHONPATH="$$tree$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m stillsight gpu --out $(GPU) $(GPU_FLAGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow the mapping of folders to stillsight.*, so it is shown the folders under that name.
types: $(VENV)/installed
	@mkdir -p $(VENV)/typed/stillsight
	@for folder in agents envs encoders; do ln -sfn "$(CURDIR)/$$folder" $(VENV)/typed/stillsight/$$folder; done
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p stillsight

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
