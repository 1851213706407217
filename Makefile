# What people call. The work is done by cargo and by the set-up commands in
# `xtask`, which are quick when there is nothing to do.

CARGO ?= cargo
# Its own compilation is shown the first time only.
XTASK = $(CARGO) run $(if $(wildcard target/xtask/debug/xtask),--quiet) --locked --manifest-path xtask/Cargo.toml --target-dir target/xtask --
# The pool's gate under a model checker, a package of its own: seconds.
LOOM = $(CARGO) test --locked --manifest-path loom/Cargo.toml --target-dir target/loom

.PHONY: build mlx demo run clients engines templates test test-router test-long parity soak simulate coverage bench-engine bench-swap bench-proxy bench-streams bench-pool bench-names editor-picture bench-cache fuzz lint supply-chain secrets sbom

# target/release/roundhouse
build: mlx
	$(CARGO) build --release --locked

# On Linux: the MLX library, mlx-c and their bindings. ROUNDHOUSE_MLX=cuda12 or
# cuda13 takes the libraries for NVIDIA cards instead of those for the CPU.
mlx:
	@$(XTASK) mlx

# The demo models; the last line is the folder of their cache.
demo: build
	@$(XTASK) demo

# Everything, then a server with the demo models. ARGS go to `roundhouse serve`.
run: build
	@$(XTASK) run $(ARGS)

# Official client libraries, for the tests, into target/python.
clients: target/python/.installed
target/python/.installed: tests/clients/requirements.txt
	@echo "installing the client libraries"
	@rm -rf target/python
	@python3 -m pip install --quiet --disable-pip-version-check --target target/python -r $<
	@touch $@

# Engines that are not ours, for the tests, into target/python-engines; half a gigabyte.
engines: target/python-engines/.installed
target/python-engines/.installed: tests/engines/requirements.txt
	@echo "installing the engines"
	@rm -rf target/python-engines
	@python3 -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
		--target target/python-engines -r $<
	@touch $@

# The chat templates of widely used models, for the tests, into data/templates; 77 MB are
# fetched for 0.6 MB.
templates:
	@$(XTASK) templates

# Everything: the demo models and the client libraries take part. The models are
# imported by the program that is tested, which is built sooner than the optimised one.
test: mlx clients engines templates
	$(CARGO) build --locked
	@$(XTASK) demo --debug
	$(CARGO) test --locked
	$(CARGO) test --locked --manifest-path xtask/Cargo.toml --target-dir target/xtask
	$(LOOM)

# The same without the embedded engine: router, pool, scripted engine. ARGS go to
# `cargo test`.
test-router: clients engines
	$(CARGO) test --locked --no-default-features --features tls $(ARGS)
	$(LOOM)

# What is too large for every run, at its whole size: the properties of the pool
# over a hundred thousand sequences of events, the cases that name large numbers. The
# last of them swap between engines with the embedded one among them, and have it at
# work on real models for a length of time: one after the other, since memory is looked at.
test-long: mlx clients engines
	PROPTEST_CASES=100000 $(CARGO) test --locked --no-default-features --features tls --release --lib pool::state
	ROUNDHOUSE_LONG=1 $(CARGO) test --locked --no-default-features --features tls --release --lib access:: -- --nocapture
	ROUNDHOUSE_LONG=1 $(CARGO) test --locked --no-default-features --features tls --release --test it -- --nocapture
	$(CARGO) build --locked
	@$(XTASK) demo --debug
	ROUNDHOUSE_LONG=1 $(CARGO) test --locked --test it -- --nocapture --test-threads=1 engines::real endurance

# Every architecture beside mlx-lm on small models: the table of docs/PARITY.md anew.
parity: mlx engines
	ROUNDHOUSE_PARITY=write $(CARGO) test --locked --lib every_architecture_answers_as_with_mlx_lm -- --nocapture

# Many streams, kills, unloads and edits at once, for MINUTES (ten).
MINUTES ?= 10
soak:
	ROUNDHOUSE_SOAK_MINUTES=$(MINUTES) $(CARGO) test --locked --no-default-features --features tls --release --test it soak -- --nocapture

# The traces of benches/traces, each played to the pool, to FIFO-LRU and to
# llama-swap's rule. ARGS go to `roundhouse simulate`.
simulate:
	$(CARGO) build --release --locked --no-default-features --features tls
	@for trace in benches/traces/*.jsonl; do \
		echo; echo "$$trace"; target/release/roundhouse simulate $$trace $(ARGS) || exit 1; \
	done

# The share of lines that the whole suite runs. ARGS="--write" renews the figures
# in docs/EVIDENCE.md, ARGS="--last" tells those of the last run.
coverage: demo clients engines templates
	@$(XTASK) coverage $(ARGS)

# The engine beside mlx-lm and llama.cpp on one core; wants a quiet machine and half an hour.
# ARGS="--write docs/BENCHMARKS.md" renews the figures there.
bench-engine: demo
	$(CARGO) build --release --locked --example product
	python3 benches/engine/peer.py $(ARGS)

# The first token through a swap of the demo models, by part, beside the least it
# could be. ARGS="--write docs/BENCHMARKS.md" renews the figures there.
bench-swap: demo
	python3 benches/engine/swap.py $(ARGS)

# One after the other: built together, the program would have what tests ask of libraries.
PROXY_PARTS = for part in "--bin roundhouse" "--example proxy"; do \
	$(CARGO) build --release --locked --no-default-features --features tls $$part || exit 1; done

# What the router adds to a request, beside nginx, Envoy and others, each on a core of
# its own; wants a quiet machine. ARGS="--write docs/BENCHMARKS.md" renews the figures there.
bench-proxy:
	@$(PROXY_PARTS)
	python3 benches/proxy/peer.py $(ARGS)

# As many open streams as descriptors allow: what is lost, how late events are, what
# memory a stream takes; wants a quiet machine. ARGS="--write docs/BENCHMARKS.md"
# renews the figures there.
bench-streams:
	@$(PROXY_PARTS)
	python3 benches/proxy/streams.py $(ARGS)

# What a lease and a decision of the pool cost; see docs/BENCHMARKS.md.
bench-pool:
	$(CARGO) bench --locked --no-default-features --features tls --bench pool

# What a file of 1,000 models costs, and a name in it; see docs/BENCHMARKS.md.
bench-names:
	$(CARGO) bench --locked --no-default-features --features tls --bench names

# What a YAML editor says and offers while somebody edits models.yaml, as
# docs/editor.png: a language server from npm with the schema, shown in Chromium.
editor-picture:
	@mkdir -p target/editor
	@cp docs/editor/package.json docs/editor/package-lock.json target/editor/
	@cd target/editor && npm ci --no-audit --no-fund --silent
	@node docs/editor/make.mjs target/editor/node_modules docs/models.schema.json docs/editor.png

# What indexing a cache of 10,000 snapshots takes; see docs/BENCHMARKS.md.
bench-cache:
	$(CARGO) bench --locked --no-default-features --features tls --bench cache

# libFuzzer on one of fuzz/targets.rs for MINUTES (ten) or SECONDS, with the compiler
# that builds everything else; on several of them, one after the other, if TARGET names
# several. What is found new is kept in target/fuzz/corpus, a crash is a file in
# target/fuzz/TARGET-crash-*. ARGS go to libFuzzer.
TARGET ?= config
SECONDS ?= $(shell expr $(MINUTES) '*' 60)
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_COVERAGE = -Cpasses=sancov-module \
	-Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
# With --target the build scripts are left without what only the targets link.
fuzz:
	RUSTFLAGS="--cfg fuzzing $(FUZZ_COVERAGE)" $(CARGO) build --release --locked --manifest-path fuzz/Cargo.toml \
		--target-dir target/fuzz --target $(FUZZ_HOST) $(addprefix --bin ,$(TARGET))
	@for target in $(TARGET); do \
		mkdir -p target/fuzz/corpus/$$target; \
		dictionary=fuzz/dictionaries/$$target; \
		test -f $$dictionary && dictionary=-dict=$$dictionary || dictionary=; \
		echo "fuzzing $$target for $(SECONDS) seconds"; \
		target/fuzz/$(FUZZ_HOST)/release/$$target -max_total_time=$(SECONDS) -timeout=10 -max_len=16384 \
			-artifact_prefix=target/fuzz/$$target- -print_final_stats=1 \
			$$dictionary $(ARGS) target/fuzz/corpus/$$target fuzz/seeds/$$target || exit 1; \
	done

lint: mlx
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path xtask/Cargo.toml
	$(CARGO) fmt --check --manifest-path loom/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	$(CARGO) clippy --locked --all-targets --manifest-path xtask/Cargo.toml --target-dir target/xtask -- -D warnings
	$(CARGO) clippy --locked --all-targets --manifest-path loom/Cargo.toml --target-dir target/loom -- -D warnings

# Licences, sources and versions of the crates (deny.toml), and what advisories say
# of them. ADVISORIES=folder takes in a newer checkout of the RustSec database.
supply-chain:
	@$(XTASK) supply-chain $(ADVISORIES)

# Texts in the shape of keys, in the tree and in every commit.
secrets:
	@$(XTASK) secrets

# The bill of materials, CycloneDX, into target/roundhouse.cdx.json.
sbom:
	@$(XTASK) sbom
