# Everything runs in .venv, which is made on first use. Needs Python >= 3.10 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: test test-long test-matrix lint demo demo-s3 scrapy-suite chaos chaos-redis chaos-requests bench bench-requests bench-spool bench-frontier bench-units bench-pending clean

test: $(STAMP)
	$(BIN)/python -m pytest

# More whole crawls: platforms, commands, Redis, units, and cases beside the ones that `make test` has
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

# Scrapy 2.15 to the newest, Python 3.10 and the newest: make test-matrix ARGS='--scrapy 2.15 --python 3.10 -- -n 2'
test-matrix:
	$(PYTHON) tests/campaigns/matrix.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(STAMP)
	$(BIN)/python sample_project/demo.py

demo-s3: $(STAMP)
	$(BIN)/python sample_project/demo.py --s3

# Scrapy's own tests of whole crawls, plain and with the add-on and a state feed, compared: about 6 minutes
scrapy-suite: $(STAMP)
	$(BIN)/python tests/campaigns/scrapy_suite.py

# CPU with checkpoints beside Scrapy's own exporter, as ratios: make bench ARGS='--pairs 15 --part requests', ARGS=--instructions
bench: $(STAMP)
	$(BIN)/python benchmarks/cpu.py $(ARGS)

# Requests to find where to start, among 100 to 1,000,000 checkpoints
bench-requests: $(STAMP)
	$(BIN)/python benchmarks/resolver.py $(ARGS)

# Disk and memory while the store is slower than the crawl, 10 GB: make bench-spool ARGS='--size 1GB'
bench-spool: $(STAMP)
	$(BIN)/python benchmarks/spool.py $(ARGS)

# CPU with units beside the same crawl without
bench-units: $(STAMP)
	$(BIN)/python benchmarks/units.py $(ARGS)

# Memory, blocking and start-up with 1,000,000 pending requests: make bench-pending ARGS='--size 20000'
bench-pending: $(STAMP)
	$(BIN)/python benchmarks/pending.py $(ARGS)

# Kills random crawls at random moments for a while: make chaos ARGS='--minutes 30 --seed 7'
chaos: $(STAMP)
	PYTHONPATH=tests/support $(BIN)/python tests/campaigns/chaos.py $(or $(ARGS),--minutes 10)

# Kills workers of crawls whose frontier is in Redis; needs redis-server
chaos-redis: $(STAMP)
	PYTHONPATH=tests/support $(BIN)/python tests/campaigns/chaos_redis.py $(or $(ARGS),--kills 20)

# Kills crawls of spiders of any shape: make chaos-requests ARGS='--minutes 10 --seed 7 --shapes crawl,listings --swift'
chaos-requests: $(STAMP)
	PYTHONPATH=tests/support:tests/campaigns $(BIN)/python tests/campaigns/chaos_requests.py $(or $(ARGS),--minutes 10)

# Pages per second with the frontier in Redis beside Scrapy's own schedulers, and scrapy-redis where that is installed
bench-frontier: $(STAMP)
	$(BIN)/python benchmarks/frontier.py $(ARGS)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .matrix build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
