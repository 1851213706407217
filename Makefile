# What people call. The work is done by cargo and by the set-up commands in
# `xtask`, which are quick when there is nothing to do.

CARGO ?= cargo
XTASK = $(CARGO) run --quiet --locked --manifest-path xtask/Cargo.toml --target-dir target/xtask --

.PHONY: build mlx demo run test lint

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

# Everything, then a server with the demo models.
run: build
	@$(XTASK) run

test: demo
	$(CARGO) test --locked
	$(CARGO) test --locked --manifest-path xtask/Cargo.toml --target-dir target/xtask

lint: mlx
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path xtask/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	$(CARGO) clippy --locked --all-targets --manifest-path xtask/Cargo.toml --target-dir target/xtask -- -D warnings
