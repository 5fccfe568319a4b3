# Developer commands. BIN is the bin folder of a virtual environment that has pimc[test].
BIN ?= .venv/bin

.PHONY: check lint test browser benchmark docs

check: ## lint, types, layers and tests: what must hold before a change is proposed
	@.ci/check $(BIN)

lint:
	@.ci/check --lint $(BIN)

test:
	@$(BIN)/pytest -q -n auto

browser: ## looks at pages in a browser; needs pimc[browser] and Chromium
	@$(BIN)/pytest -q -m browser

benchmark:
	@$(BIN)/pytest -q -m benchmark --benchmark-enable

docs: ## the pages as HTML in docs/_build; needs pimc[docs]
	@$(BIN)/sphinx-build -q -W --keep-going -n -b html docs docs/_build
