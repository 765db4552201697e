# What runs before installation, and short names for `.venv/bin/nightshift`. PYTHON=python3.12 make install
PYTHON ?= python3
BIN := .venv/bin
UV := 0.13.9
TORCH := 2.13.0
GRPC_TOOLS := 1.80.0
.DEFAULT_GOAL := help
.PHONY: help install night up down status env up-team down-team test test-all check lock proto clean
# Byte code is compiled once, at installation: without it each start is 2.5 times as dear.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV

help: ## these lines
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

install: .venv/.installed ## .venv with the locked packages

# A killed installation starts over, with what was downloaded: half of a package cannot be told from all of it.
.venv/.installed: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) nightshift/preflight.py --quiet
	@if [ -e .venv/.installing ] || [ ! -x $(BIN)/python ]; then rm -rf .venv; fi
	@[ -d .venv ] || $(PYTHON) -m venv .venv
	@rm -f .venv/.installed; touch .venv/.installing
	@echo "installing $$(grep -c '^[a-z]' requirements.lock) locked packages, then torch $(TORCH), into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python $(if $(PIP_INDEX_URL),--default-index $(PIP_INDEX_URL)) \
		--no-deps --require-hashes --compile-bytecode -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q nightshift pipelines dags plugins
	@mkdir -p $$(sed -n 's/^  path: //p' data.dvc)  # an empty snapshot has its folders, so that `dvc repro` can say what to type
	@mv .venv/.installing .venv/.installed
	@touch .venv/.installed

night: ## the next night: installs, starts the stack, lands, trains, proves, serves
	@$(PYTHON) nightshift/preflight.py
	@$(MAKE) --no-print-directory install
	@$(BIN)/nightshift night

up: install ## start the stack, or bring back what is missing
	@$(BIN)/nightshift up

down: ## stop this checkout's stack
	@if [ -x $(BIN)/nightshift ]; then $(BIN)/nightshift down; else echo "nothing is installed here"; fi

status: install ## what runs and what serves
	@$(BIN)/nightshift status

env: ## for a team: random secrets and what docker-compose.yml reads beside itself (docs/compose.md)
	@$(PYTHON) -m nightshift.stack.compose

up-team: env ## build and start docker-compose.yml, until everything is healthy
	@docker compose up --detach --build --wait
	@sed -n 's/^NIGHTSHIFT_AIRFLOW_URL=/Airflow: /p' .env
	@echo "user admin; password: see NIGHTSHIFT_AIRFLOW_PASSWORD in .nightshift/team/init.env"

down-team: ## stop docker-compose.yml; volumes stay
	@docker compose --profile gpu --profile watch down

test: install check ## lint, types, contracts and the tests but for the long ones
	$(BIN)/python -m pytest

test-all: install check ## the long tests too: whole nights, kills, bad input through Airflow
	$(BIN)/python -m pytest -m "long or not long"

check: install ## lint, format, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# torch brings its own companions, which differ from machine to machine: they follow its wheel, not this file.
lock: ## resolve the lock file for setup.cfg as it is now (UPGRADE=1: with the newest versions)
	@[ -x $(BIN)/uv ] || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv==$(UV); }
	@$(if $(UPGRADE),,cp requirements.lock requirements.lock.tmp)
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip compile --quiet setup.cfg --all-extras --universal \
		--python-version 3.11 --generate-hashes --no-emit-package torch --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --output-file requirements.lock.tmp
	@awk '/^[^ ]/ {keep = /^nvidia-ml-py==/ || !/^(nvidia-|cuda-|triton==)/} keep' requirements.lock.tmp > requirements.lock
	@rm requirements.lock.tmp

# In a venv of its own: the generator pins what the lock has newer. A pool of our own: another library's copy of the
# protocol in the same process (tritonclient's) would otherwise be refused, or refuse ours. Of protobuf's line before the
# newest: modules load in their own line and the next one, and tritonclient has no newer one yet.
proto: ## write the gRPC modules from their .proto files
	@cd nightshift/serving && $(abspath $(BIN))/uvx --quiet --from grpcio-tools==$(GRPC_TOOLS) python-grpc-tools-protoc \
		-I . --python_out=. inference.proto health.proto
	@sed -i.bak 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' nightshift/serving/*_pb2.py
	@rm nightshift/serving/*_pb2.py.bak

clean: ## remove all that was made here: .nightshift, data, .venv
	@if [ -x $(BIN)/nightshift ]; then $(BIN)/nightshift reset --yes; else rm -rf .nightshift data artifacts; fi
	@echo "$$(du -smc .venv 2>/dev/null | tail -1 | cut -f1) MB in .venv"
	@rm -rf .venv build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
