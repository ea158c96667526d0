#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Install what the harness needs; say nothing and do nothing where all of it is there.
set -eu
PACKAGES="bc bison build-essential busybox-static debian-archive-keyring e2fsprogs flex
	gcc-aarch64-linux-gnu git kmod libcap-dev libelf-dev libnuma-dev libssl-dev
	liburing-dev perl python3 qemu-system-x86 sparse spin xz-utils"
missing=
for package in $PACKAGES; do
	dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
		missing="$missing $package"
done
fail() { echo "error: $*" >&2; exit 1; }
if [ -n "$missing" ] && ! command -v apt-get >/dev/null; then
	fail "this needs Debian's apt-get, or the equivalents of:$missing"
fi
# The base comes from the machine's own mirror, which apt knows after an update.
mirror=yes
if [ -z "${LINUX:-}" ] && [ ! -d "${DEVMEM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/devmem-series}/src/linux-source-7.3" ]; then
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -1)
fi
[ -z "$missing" ] && [ -n "$mirror" ] && exit 0
if [ "$(id -u)" = 0 ]; then
	sudo=
elif command -v sudo >/dev/null; then
	sudo="sudo"
	[ -t 0 ] || sudo -n true 2>/dev/null || fail "sudo wants a password; run 'make setup' in a terminal"
else
	[ -n "$missing" ] && fail "these packages are needed and you are not root:$missing"
	fail "apt-get update is needed, to find the base, and you are not root"
fi
echo "== running ${sudo:+sudo }apt-get update"
$sudo apt-get -q update >/dev/null || fail "apt-get update failed; check the network"
[ -n "$missing" ] || exit 0
echo "== running ${sudo:+sudo }apt-get install$missing"
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-remove --no-install-recommends $missing ||
	fail "these packages could not be installed without removing others:$missing"
