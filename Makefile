# SPDX-License-Identifier: GPL-2.0
# The commands of this repository; harness/ does the work. LINUX=path names a tree
# to use in place of the Debian package.
export LINUX MINUTES CHANGES CYCLES SEED PART
PY := python3 -B harness

help:		## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 16
	@echo "LINUX=path works with all of them, and only apply changes it; the cache is \$$DEVMEM_CACHE or ~/.cache/devmem-series"

setup:		## install what the other commands need (apt, as root or through sudo)
	@sh harness/setup.sh
demo: setup	## build a kernel with the series, boot it in QEMU, run the demo
	@$(PY)/vm.py demo
check: setup	## every test; the last line is "N passed, N failed"
	@$(PY)/check.py check
check-all: setup	## make check, then every variant, in hours; PART=name for one part
	@$(PY)/check.py check-all
regress: setup	## upstream's mm selftests and KUnit suites: no result differs from stock
	@$(PY)/check.py regress
lint:		## static checks, a minute
	@$(PY)/check.py lint
series:		## write the series to out/, ready for git am
	@$(PY)/series.py export
apply:		## apply the series to the tree LINUX=path
	@test -n "$(LINUX)" || { echo "error: say which tree: make apply LINUX=path" >&2; exit 2; }
	@$(PY)/series.py apply --base "$(LINUX)"
shell: setup	## boot the kernel and get a prompt with virtual GPUs
	@$(PY)/vm.py shell
base-tests: setup	## each test of a base fix fails on stock, and passes with the base fixes alone
	@$(PY)/check.py base-tests
soak: setup	## all at random: MINUTES=n on the debug kernel, CHANGES=n on the plain one; SEED=s
	@$(PY)/check.py soak
hotplug: setup	## CYCLES=n times an orderly and a surprise removal of cards in use; SEED=s
	@$(PY)/check.py hotplug
mutants: setup	## break the protocol at one place after another: a test notices each (an hour)
	@$(PY)/check.py mutants
litmus:		## the litmus tests of harness/model, with herd7 (which Debian 12 does not have)
	@$(PY)/check.py litmus
off-check: setup	## switched off, the series leaves alone the objects whose source no fix changes
	@$(PY)/check.py off-check
modules-check: setup	## xe, nouveau and amdgpu as modules build without new warnings
	@$(PY)/check.py modules-check

.PHONY: help setup demo check check-all regress lint series apply shell base-tests soak hotplug mutants litmus off-check modules-check
