# SPDX-License-Identifier: MIT
# make run    build, and show a small image at work        make test   build, and run every test
# make build  out/qcow2fuse, one file without dependencies  make help   the rest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

CONFIGURATION ?= Release
PREFIX ?= /usr/local
DESTDIR ?=
RID := $(if $(filter aarch64,$(shell uname -m)),linux-arm64,linux-x64)
DOTNET ?= dotnet
# 0: the form that needs no linker, ReadyToRun; slower to start, and larger.
NATIVE ?= 1
PROGRAM := out/qcow2fuse

export NATIVE
export DOTNET_CLI_TELEMETRY_OPTOUT := 1
export DOTNET_NOLOGO := 1
export DOTNET_SKIP_FIRST_TIME_EXPERIENCE := 1
export DOTNET_CLI_UI_LANGUAGE := en
# dotnet refuses to work without a home directory, and service managers have none.
export DOTNET_CLI_HOME ?= $(if $(HOME),$(HOME),$(CURDIR)/out/home)

SOURCES := $(shell find src -name obj -prune -o -name bin -prune -o \( -name '*.cs' -o -name '*.c' -o -name '*.csproj' -o -name '*.props' \) -print) \
	Directory.Build.props Directory.Packages.props global.json

.PHONY: build pack run test quick shake test-boot check bench crash soak install uninstall clean deps test-deps help

build: $(PROGRAM)

$(PROGRAM): $(SOURCES)
	packaging/scripts/need-sdk
	DOTNET='$(DOTNET)' NATIVE='$(NATIVE)' packaging/scripts/build-program $(CONFIGURATION) $(RID) $@

# What the program needs beside itself. Nothing is asked of apt when all of it is there.
deps:
	packaging/scripts/install-deps run

test-deps:
	packaging/scripts/install-deps test

run: build deps
	packaging/scripts/demo $(PROGRAM) "$(IMAGE)" "$(DIR)"

test: build test-deps
	packaging/scripts/run-tests

# After each edit: builds, and runs the tests that need little time, at most 90 s on two processors.
quick: test-deps
	packaging/scripts/need-sdk
	packaging/scripts/run-tests quick

# Every project ROUNDS times (20) on a machine kept busy, at most two hours; out/shake holds what is done, and an
# interrupted run goes on there. ONLY=Block,Fuse: some of the projects.
shake: build test-deps
	ROUNDS=$(ROUNDS) MINUTES=$(MINUTES) ONLY=$(ONLY) packaging/scripts/shake-tests

# The libraries as packages: docs/library.md.
pack:
	packaging/scripts/need-sdk
	$(DOTNET) pack Qcow2Fuse.sln -c Release -o out/packages -v q --nologo

# A virtual machine with a mounted image as its disk; downloads QEMU and a kernel, more than 100 MB.
test-boot: build test-deps
	packaging/scripts/test-boot

check:
	packaging/scripts/need-sdk
	$(DOTNET) format Qcow2Fuse.sln --verify-no-changes --severity warn
	$(DOTNET) test tests/Qcow2Fuse.EndToEnd.Tests --filter 'FullyQualifiedName~.Tidy.' -v q --nologo

# All subjects side by side: JOBS=rr1,rw32 some of the jobs (growth: images of growing size), ROUNDS=3, SECONDS_EACH=4,
# SIZE_MIB=512, URING=1, QSD=another qemu-storage-daemon, AGAINST=another build of
# the program, to compare with that alone, BENCH_DIR=/var/tmp on the disk to measure, OPTIONS=mount options
# to try.
bench: build test-deps
	packaging/scripts/install-deps bench
	$(DOTNET) build tests/Qcow2Fuse.Bench -c Release -v q --nologo
	$(DOTNET) tests/Qcow2Fuse.Bench/bin/Release/net10.0/Qcow2Fuse.Bench.dll $(PROGRAM) --output out/bench \
		--work $(or $(BENCH_DIR),/var/tmp) --rounds $(or $(ROUNDS),3) --seconds $(or $(SECONDS_EACH),4) \
		--size-mib $(or $(SIZE_MIB),512) $(if $(JOBS),--only $(JOBS)) $(if $(QSD),--qsd $(QSD)) $(if $(AGAINST),--against $(AGAINST)) \
		$(if $(OPTIONS),--own-options $(OPTIONS)) $(if $(URING),--uring)

# Crash states of random runs of the engine with every feature, ten times as many as in make test: RUNS=N, STATES=N.
crash: build test-deps
	QCOW2FUSE_CRASH_RUNS=$(or $(RUNS),20000) QCOW2FUSE_CRASH_STATES=$(or $(STATES),4000000) \
		$(DOTNET) test tests/Qcow2Fuse.Qcow2.Tests -c Release --filter 'FullyQualifiedName~CrashTests|FullyQualifiedName~CrashFeatureTests' \
		--logger 'console;verbosity=normal' --nologo

# Random operations against a plain array, for SOAK_SECONDS; SEED sees an earlier run again. Then the same through mounts,
# and ROUNDS mounts in a row.
soak: build test-deps
	QCOW2FUSE_MODEL_SECONDS=$(or $(SOAK_SECONDS),600) QCOW2FUSE_MODEL_SEED=$(or $(SEED),$$(date +%s)) \
		$(DOTNET) test tests/Qcow2Fuse.Qcow2.Tests -c Release --filter 'FullyQualifiedName~Random_operations_do' \
		--logger 'console;verbosity=normal' --nologo
	QCOW2FUSE_EXERCISE_SECONDS=$$(($(or $(SOAK_SECONDS),600) / 5)) QCOW2FUSE_MOUNT_ROUNDS=$(or $(ROUNDS),1000) \
		QCOW2FUSE_EXERCISE_SEED=$(or $(SEED),$$(date +%s)) $(DOTNET) test tests/Qcow2Fuse.EndToEnd.Tests -c Release \
		--filter 'FullyQualifiedName~ExerciserTests|FullyQualifiedName~Mounts_in_a_row' \
		--logger 'console;verbosity=normal' --nologo

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)/etc/qcow2fuse
	install -m 0755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/qcow2fuse
	ln -sf ../bin/qcow2fuse $(DESTDIR)$(PREFIX)/sbin/mount.qcow2fuse
	install -m 0644 packaging/man/qcow2fuse.1 $(DESTDIR)$(PREFIX)/share/man/man1/qcow2fuse.1
	for unit in qcow2fuse.service qcow2fuse@.service qcow2fuse-clean.service qcow2fuse-clean@.service; do \
		sed 's,/usr/bin/qcow2fuse,$(PREFIX)/bin/qcow2fuse,' $$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; done
	@# mount(8) looks for its helpers in /sbin only.
	if [ '$(PREFIX)' != /usr ]; then \
		install -d $(DESTDIR)/sbin; ln -sf $(PREFIX)/bin/qcow2fuse $(DESTDIR)/sbin/mount.qcow2fuse; fi

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/qcow2fuse $(DESTDIR)$(PREFIX)/sbin/mount.qcow2fuse
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/qcow2fuse.1 $(DESTDIR)$(PREFIX)/lib/systemd/system/qcow2fuse.service \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/qcow2fuse@.service \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/qcow2fuse-clean.service \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/qcow2fuse-clean@.service
	if [ "$$(readlink $(DESTDIR)/sbin/mount.qcow2fuse)" = '$(PREFIX)/bin/qcow2fuse' ]; then \
		rm -f $(DESTDIR)/sbin/mount.qcow2fuse; fi
	rmdir --ignore-fail-on-non-empty $(DESTDIR)/etc/qcow2fuse

clean:
	rm -rf out TestResults
	find src tests -type d \( -name bin -o -name obj -o -name TestResults \) -prune -exec rm -rf {} +

help:
	@echo 'build      out/qcow2fuse, native; NATIVE=0 makes the form that needs no C compiler'
	@echo 'run        demonstration; IMAGE=file DIR=directory mounts your own image instead'
	@echo 'test       all tests, with a summary in the last line'
	@echo 'quick      the tests that need little time, for after each edit'
	@echo 'shake      every test project 20 times on a busy machine: ROUNDS=20'
	@echo 'check      formatting and the rules of the source tree'
	@echo 'bench      the mount beside its peers and a plain file: table and chart in out/bench'
	@echo 'crash      more crash states: RUNS=20000'
	@echo 'test-boot  a virtual machine boots from a mounted image'
	@echo 'soak       random operations on images of every kind: SOAK_SECONDS=600'
	@echo 'pack       the libraries as packages: out/packages'
	@echo 'install    to PREFIX=/usr/local, below DESTDIR; uninstall takes it away'
	@echo 'deps       install what the program needs; test-deps: what the tests need'
	@echo 'clean      remove everything that was built'
