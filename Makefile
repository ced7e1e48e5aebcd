# What there is to do here. Everything needs a Rust toolchain (rustup.rs); .ci/run installs the rest on Debian.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo

# .cargo/config.toml names the target, so that is where cargo builds.
TARGET := $(shell rustc --print host-tuple)
RELEASE := target/$(TARGET)/release
PODRUN := $(CURDIR)/$(RELEASE)/podrun

# How long the long runs take, in seconds, each.
FUZZ_TIME ?= 600

.PHONY: build demo test test-vm stress fuzz mutants bench install uninstall help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

build: ## podrun, as it is installed
	$(CARGO) build --release --workspace

demo: build ## show what a pod is, in half a minute (root)
	@PODRUN_BIN=$(PODRUN) bundles/demo

test: ## everything that must hold before a change is good (root, 40 minutes)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) build --release --workspace
	bundles/make all
	PODRUN_BIN=$(PODRUN) $(CARGO) test --workspace
	PODRUN_BIN=$(PODRUN) tests/vm/run --if-possible

test-vm: build ## system tests in an emulated machine: cgroup v2 alone, systemd, Linux 6.1 (root, 15 minutes; qemu)
	PODRUN_BIN=$(PODRUN) tests/vm/run

stress: build ## the long runs whose short forms are in `make test` (root)
	PODRUN_BIN=$(PODRUN) PODRUN_STRESS=full $(CARGO) test --package podrun-tests --test crowd --test crash --test exec --test logs \
	    --test survive --test networks --test guards --test network -- --nocapture --test-threads=1
	PODRUN_STRESS=full $(CARGO) test --package podrun --test pump --test fuzz -- --nocapture --test-threads=1

fuzz: ## each fuzz target for FUZZ_TIME seconds; needs cargo-fuzz
	@for target in $$(ls podrun/fuzz/targets | sed 's/\.rs$$//'); do \
	    echo "fuzz: $$target"; \
	    RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir podrun/fuzz $$target -- -max_total_time=$(FUZZ_TIME) || exit 1; \
	done

# Paths, parsers, descriptors, rights: where a mistake lets somebody out or in. The order of init's last steps is a line of
# system calls; what holds it is the system test bundle::a_profile_may_forbid_whatever_init_does_before_the_program.
GUARDS := caps container/alone container/attributes container/resctrl id logs/name names/answer net/cidr net/cni/conflist \
    net/cni/result net/definition net/elements net/files net/nfnetlink net/pasta net/ports oci oci/dialect oci/schema \
    rootfs rootfs/devices rootfs/mounts roots seccomp seccomp/assembler seccomp/partition seccomp/rules signal \
    spec/network spec/port spec/service sys/fd text user

mutants: ## which changes of the guards no unit test notices; needs cargo-mutants, takes two hours
	.ci/mutants $(GUARDS)

bench: build ## podrun beside crun, runc, conmon and podman, and beside bare system calls (root)
	@PODRUN_BIN=$(PODRUN) $(RELEASE)/bench

install: ## into $(DESTDIR)$(PREFIX)/bin; as a user: make build, then sudo make install
	@[ -x $(PODRUN) ] || { echo "there is no $(RELEASE)/podrun yet: make build"; exit 1; }
	install -D -m 0755 $(PODRUN) $(DESTDIR)$(PREFIX)/bin/podrun
	@if [ -x $(RELEASE)/podrun-cri ]; then install -D -m 0755 $(RELEASE)/podrun-cri $(DESTDIR)$(PREFIX)/bin/podrun-cri; fi

uninstall: ## the programs only; `podrun prune` first takes what pods have left
	rm -f $(DESTDIR)$(PREFIX)/bin/podrun $(DESTDIR)$(PREFIX)/bin/podrun-cri
