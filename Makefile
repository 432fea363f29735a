# Farrier's commands. The work is done by the small package in lab/, which needs Python 3.11 and nothing else.
PYTHON ?= python3
LAB = @PYTHONPATH=. PYTHONUNBUFFERED=1 $(PYTHON) -m lab

.DEFAULT_GOAL := help
.PHONY: help up down deploy ssh test unit lint format tools engine pins completions figures bench-overhead bench-installers bench-deploys bench-sizing bench-matrix clean

help: ## what there is
	@echo "make COMMAND, where COMMAND is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

up: ## a real host of 512 MB and 1 CPU in a container, with a real app deployed to it over SSH
	$(LAB) up

down: ## take all of that away; what was downloaded stays
	$(LAB) down

deploy: ## run the playbook on the running host again, with Ansible's own output
	$(LAB) deploy

ssh: ## a shell on the running host
	$(LAB) ssh

test: ## every test: the package, real systemd, real Docker, the role on 512 MB and on 256 MB
	$(LAB) test

unit: tools ## only the tests that need neither Docker nor systemd
	@.venv/bin/pytest tests/unit

lint: ## ruff, mypy, yamllint, ansible-lint, and what no linter looks for
	$(LAB) lint

format: tools ## let ruff lay the code out
	@.venv/bin/ruff check --fix-only --quiet . && .venv/bin/ruff format .

tools: ## .venv with the tools at their pinned versions
	$(LAB) tools

engine: ## find a Docker engine, or install and start one
	$(LAB) engine

pins: tools ## write requirements/dev.txt anew from requirements/dev.in
	@.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --custom-compile-command "make pins" \
	  requirements/dev.in --output-file requirements/dev.txt

completions: tools ## farrier/cli/completions anew, after a change of the command line
	@for shell in bash zsh fish; do \
	  .venv/bin/python -m shtab --shell $$shell farrier.cli.main.build_parser > farrier/cli/completions/farrier.$$shell; done

figures: ## every benchmark's figures as one table
	@$(PYTHON) benchmarks/summary.py

bench-overhead: tools ## what farrier costs: CPU of a plan, memory of the arbiter
	@.venv/bin/python benchmarks/overhead/run.py

bench-installers: tools ## uv against pip on small hosts: time, memory, and which completes
	@.venv/bin/python benchmarks/installers/run.py

bench-deploys: tools engine ## requests that fail in a deploy, ours and today's; QUICK=1: a few cells in 4 minutes
	@.venv/bin/python benchmarks/deploys/run.py

bench-sizing: tools engine ## the plan beside the best there is and beside every rule; QUICK=1: two cells in 4 minutes
	@.venv/bin/python benchmarks/sizing/run.py

bench-matrix: tools engine ## 256 MB to 8 GB, farrier and Gunicorn as it is usually run, in two hours; QUICK=1: 3 minutes
	@.venv/bin/python benchmarks/matrix/run.py

clean: ## down, and the caches, base images and .venv as well
	$(LAB) clean
