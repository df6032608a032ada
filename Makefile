# Everything runs in .venv, which is made on first use. Needs Python >= 3.10 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: test test-long test-matrix lint demo demo-s3 scrapy-suite chaos chaos-redis chaos-requests bench bench-requests bench-spool bench-frontier bench-units bench-pending bench-delta soak bench-year redis-server ceph docs simulate bench-cpu test-servers test-campaigns faults clean

test: $(STAMP) redis-server
	$(BIN)/python -m pytest

# More whole crawls: platforms, commands, Redis, units, and cases beside the ones that `make test` has
test-long: $(STAMP) redis-server
	$(BIN)/python -m pytest -m 'long and not campaign'

# The contract, kills and two writers on real S3 servers, Swift and Ceph RGW, over http and https. They are installed on first use
test-servers: $(STAMP) ceph
	SERVERS_REQUIRED=1 $(BIN)/python -m pytest -n 2 -m '' -k 'swift or rgw' tests/stores/test_contract.py tests/stores/test_server*.py

# Power failures, and every error at every call: about half an hour
faults: $(STAMP)
	FAULTS_EVERY_ERROR=1 $(BIN)/python -m pytest -m '' tests/faults

# The tests that take longest: every call that fails, once; power failures of all shapes; the simulation of all shapes, and a week
test-campaigns: $(STAMP)
	$(BIN)/python -m pytest -m campaign

# Scrapy 2.15 to the newest, Python 3.10 and the newest: make test-matrix ARGS='--scrapy 2.15 --python 3.10 -- -n 2'
test-matrix:
	$(PYTHON) tests/campaigns/matrix.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in docs/_build/html; a warning is an error
docs: $(VENV)/.docs-installed
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going docs docs/_build/html

demo: $(STAMP)
	$(BIN)/python sample_project/demo.py

demo-s3: $(STAMP)
	$(BIN)/python sample_project/demo.py --s3

# Scrapy's own tests of whole crawls, plain and with the add-on and a state feed, compared: about 6 minutes
scrapy-suite: $(STAMP)
	$(BIN)/python tests/campaigns/scrapy_suite.py

# One table: a crawl with this package, and with what one would use instead: make bench ARGS='--pairs 5 --write docs'
bench: $(STAMP)
	$(BIN)/python benchmarks/table.py $(ARGS)

# CPU with checkpoints beside Scrapy's own exporter: make bench-cpu ARGS='--pairs 15 --part requests', ARGS=--instructions
bench-cpu: $(STAMP)
	$(BIN)/python benchmarks/cpu.py $(ARGS)

# Requests to find where to start, among 100 to 1,000,000 checkpoints
bench-requests: $(STAMP)
	$(BIN)/python benchmarks/resolver.py $(ARGS)

# Disk and memory while the store is slower than the crawl, 10 GB: make bench-spool ARGS='--size 1GB'
bench-spool: $(STAMP)
	$(BIN)/python benchmarks/spool.py $(ARGS)

# A start, log, report, verify and prune with 500,000 checkpoints: make bench-year ARGS='--checkpoints 20000 --stores s3'
bench-year: $(STAMP)
	$(BIN)/python benchmarks/year.py $(ARGS)

# CPU with units beside the same crawl without
bench-units: $(STAMP)
	$(BIN)/python benchmarks/units.py $(ARGS)

# Memory, blocking and start-up with 1,000,000 pending requests: make bench-pending ARGS='--size 20000'
bench-pending: $(STAMP)
	$(BIN)/python benchmarks/pending.py $(ARGS)

# Memory, start-up and lookups with the pages of earlier crawls, 10,000,000 of them: make bench-delta ARGS='--keys 200000'
bench-delta: $(STAMP)
	$(BIN)/python benchmarks/delta.py $(ARGS)

# Kills random crawls at random moments for a while: make chaos ARGS='--minutes 30 --seed 7'
chaos: $(STAMP)
	PYTHONPATH=tests/support $(BIN)/python tests/campaigns/chaos.py $(or $(ARGS),--minutes 10)

# Kills workers of crawls whose frontier is in Redis; needs redis-server
chaos-redis: $(STAMP)
	PYTHONPATH=tests/support $(BIN)/python tests/campaigns/chaos_redis.py $(or $(ARGS),--kills 20)

# Kills crawls of spiders of any shape: make chaos-requests ARGS='--minutes 10 --seed 7 --shapes crawl,listings --stores s3,swift,rgw'
chaos-requests: $(STAMP)
	PYTHONPATH=tests/support:tests/campaigns $(BIN)/python tests/campaigns/chaos_requests.py $(or $(ARGS),--minutes 10)

# A long crawl while the store misbehaves: nothing grows, nothing is lost: make soak ARGS='--minutes 60 --seed 7'
soak: $(STAMP)
	PYTHONPATH=tests/support:tests/campaigns $(BIN)/python tests/campaigns/soak.py $(ARGS)

# Whole crawls in virtual time, killed at every crash point: make simulate ARGS='--seeds 100 --shapes state_items,listings'
simulate: $(STAMP)
	PYTHONPATH=tests:tests/support:tests/campaigns $(BIN)/python tests/campaigns/simulate.py $(ARGS)

# Pages per second with the frontier in Redis beside Scrapy's own schedulers, and scrapy-redis where that is installed
bench-frontier: $(STAMP)
	$(BIN)/python benchmarks/frontier.py $(ARGS)

# With apt-get, where that takes no password. Without it the tests that need it are skipped, and a line counts them.
redis-server:
	@tests/support/get_redis_server.sh

# The same, for the tests of RGW
ceph:
	@tests/support/get_ceph.sh

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

$(VENV)/.docs-installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .matrix .bench build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
