/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Cards of drm_devmem that come and go. A host outside of the machine plugs them:
 * $DEVMEM_HOST is a terminal to that host. The test writes a line "@verb arguments", and
 * the host answers "ok" when it is done. The verbs:
 *
 *	plug PORT CARD MIB [edu [BITS]]	a card into a slot, with a DMA engine
 *	unplug CARD			press the attention button
 *	tear PORT			tear the card in the slot out
 *	die PORT			the same, but the slot does not notice
 *	error PORT			the port has a fatal error
 *	forget CARD			wait until it is gone, with its memory
 */
#ifndef _DEVMEM_CARD_H_
#define _DEVMEM_CARD_H_

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>

#include "devmem_util.h"

#define SYS_PCI		"/sys/bus/pci/"
#define DRIVER		SYS_PCI "drivers/drm_devmem/"

/* Limit for waits, in seconds. It only ends a test that hangs; an attention button takes 5. */
#define PATIENCE	120

/**
 * struct card - a card that is in its slot or not
 * @port: the host's name of its slot
 * @name: the host's name of the card
 * @mib: size of the memory, by which the card is recognised
 * @bdf: its address, when it was last seen
 * @dev: the device
 */
struct card {
	const char *port, *name;
	unsigned int mib;
	char bdf[32];
	struct dm_dev dev;
};

/* --- the host --- */

static inline bool host_do(const char *format, ...)
{
	static int fd = -1;
	char text[256];
	size_t n = 0;
	va_list args;

	if (fd < 0) {
		struct termios tty;

		fd = open(getenv("DEVMEM_HOST") ?: "", O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (fd < 0 || tcgetattr(fd, &tty))
			return false;
		tty.c_lflag &= ~(ICANON | ECHO);
		tcsetattr(fd, TCSANOW, &tty);
	}
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	/* Discard an answer that a process did not read before it was killed. */
	tcflush(fd, TCIFLUSH);
	dprintf(fd, "@%s\n", text);
	while (n < sizeof(text) - 1 && read(fd, &text[n], 1) == 1 && text[n] != '\n')
		n++;
	text[n] = 0;
	if (!strcmp(text, "ok"))
		return true;
	ksft_print_msg("host: %s\n", text);
	dm_say_stacks();
	return false;
}

/* --- cards --- */

/* Size of BAR 2, which is the memory of a card; 0 if the render node is not that of a card. */
static inline __u64 card_size(__u32 minor)
{
	unsigned long long start = 0, end = 0;
	char path[64];
	FILE *file;
	int bar;

	snprintf(path, sizeof(path), "/sys/class/drm/renderD%u/device/resource", minor);
	file = fopen(path, "r");
	if (!file)
		return 0;
	for (bar = 0; bar <= 2; bar++) {
		if (fscanf(file, "%llx %llx %*x", &start, &end) != 2) {
			start = 0;
			end = 0;
		}
	}
	fclose(file);
	return end > start ? end - start + 1 : 0;
}

/* Find the card by the size of its memory. False if it is not there. */
static inline bool card_find(struct card *c)
{
	struct devmem_topology_entry topo[DEVMEM_MAX_DEVICES];
	int ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC), i, n;
	char path[64], link[256] = "";
	bool found = false;

	if (ctl < 0)
		return false;
	n = dm_topology(ctl, topo, DEVMEM_MAX_DEVICES);
	close(ctl);
	for (i = 0; i < n && !found; i++) {
		if (card_size(topo[i].render_minor) != c->mib * DM_MIB)
			continue;
		c->dev.id = topo[i].id;
		c->dev.minor = topo[i].render_minor;
		snprintf(path, sizeof(path), "/sys/class/drm/renderD%u/device", c->dev.minor);
		found = readlink(path, link, sizeof(link) - 1) > 0;
	}
	if (found)
		snprintf(c->bdf, sizeof(c->bdf), "%s", strrchr(link, '/') + 1);
	return found;
}

static inline bool card_wait(struct card *c, bool there)
{
	time_t end = time(NULL) + PATIENCE;

	while (card_find(c) != there) {
		if (time(NULL) > end)
			return false;
		usleep(20000);
	}
	return true;
}

/* Wait until the open device is gone; the card may be a new device already. */
static inline bool card_gone(struct card *c)
{
	time_t end = time(NULL) + PATIENCE;
	struct devmem_info info;

	while (dm_info(c->dev.fd, &info) != -ENODEV) {
		if (time(NULL) > end)
			return false;
		usleep(20000);
	}
	return true;
}

static inline void card_close(struct card *c)
{
	if (c->dev.fd >= 0)
		close(c->dev.fd);
	c->dev.fd = -1;
}

/* Wait until the card is there, and open its device. */
static inline bool card_use(struct card *c)
{
	card_close(c);
	if (!card_wait(c, true))
		return false;
	c->dev.fd = dm_open(c->dev.minor);
	return c->dev.fd >= 0;
}

static inline bool card_plug(struct card *c, const char *how)
{
	return host_do("plug %s %s %u %s", c->port, c->name, c->mib, how) && card_use(c);
}

/* Are two cards in one cluster? */
static inline bool same_owner(const struct card *a, const struct card *b)
{
	struct devmem_info x, y;

	return !dm_info(a->dev.fd, &x) && !dm_info(b->dev.fd, &y) && x.owner_id == y.owner_id;
}

/* Switch the slot off by sysfs, where its address is that of the card without function. */
static inline bool slot_off(const struct card *c)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd),
		 "for s in %sslots/*; do [ $(cat $s/address) = %.*s ] || continue; "
		 "echo 0 >$s/power && exit 0; done; exit 1",
		 SYS_PCI,
		 (int)(strrchr(c->bdf, '.') - c->bdf), c->bdf);
	return !system(cmd);
}

static inline bool card_sysfs(const struct card *c, const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), SYS_PCI "devices/%s/%s", c->bdf, file);
	return dm_file_put(path, "1");
}

/* --- ways to go, and to come back --- */

enum way { UNBIND, REMOVE, POWER, BUTTON, RESET, TEAR, DIE, ERROR };

/* Is there a card afterwards, which is a new device for the driver? */
static inline bool way_is_back(enum way way)
{
	return way == RESET || way == ERROR;
}

static inline bool card_go(struct card *c, enum way way)
{
	switch (way) {
	case UNBIND:
		return dm_file_put(DRIVER "unbind", c->bdf);
	case REMOVE:
		return card_sysfs(c, "remove");
	case POWER:
		return slot_off(c) && host_do("forget %s", c->name);
	case BUTTON:
		return host_do("unplug %s", c->name) && host_do("forget %s", c->name);
	case RESET:
		return card_sysfs(c, "reset") && card_gone(c);
	case TEAR:
		return host_do("tear %s", c->port) && host_do("forget %s", c->name);
	case DIE:
		return host_do("die %s", c->port);
	case ERROR:
		return host_do("error %s", c->port) && card_gone(c);
	}
	return false;
}

static inline bool card_back(struct card *c, enum way way)
{
	switch (way) {
	case UNBIND:
		return dm_file_put(DRIVER "bind", c->bdf) && card_use(c);
	case REMOVE:
		return dm_file_put(SYS_PCI "rescan", "1") && card_use(c);
	case POWER:
		/* QEMU removes a card from a slot that has no power. */
	case BUTTON:
	case TEAR:
		return card_plug(c, "");
	case DIE:
		/* For the kernel the card is still in its slot, which is off. */
		return card_sysfs(c, "remove") && host_do("forget %s", c->name) &&
		       card_plug(c, "");
	case RESET:
	case ERROR:
		return card_use(c);
	}
	return false;
}

/* --- memory that is used --- */

#define BLOCK		(64 * 1024UL)

static sigjmp_buf bus_jump;
static unsigned long bus_from, bus_to;
static int bus_code;

static inline void page_error(int sig, siginfo_t *info, void *context)
{
	unsigned long addr = (unsigned long)info->si_addr;

	(void)sig;
	(void)context;
	if (addr < bus_from || addr >= bus_to)
		_exit(99);
	bus_code = info->si_code;
	siglongjmp(bus_jump, 1);
}

static inline int page_read(const struct dm_area *area, size_t page)
{
	const __u64 *words = (__u64 *)(area->mem + page * DM_PAGE);
	size_t b = page * DM_PAGE / area->block, i;
	size_t first = (page * DM_PAGE % area->block) / DM_WORD;

	for (i = 0; i < DM_PAGE / DM_WORD; i++)
		if (words[i] != area->base[b] + first + i)
			return -1;
	return 0;
}

/* The CPU reads a page. Returns 0 if it is right, 1 for a memory error, otherwise -1. */
static inline int page_look(const struct dm_area *area, size_t page)
{
	int ret;

	bus_from = (unsigned long)area->mem + page * DM_PAGE;
	bus_to = bus_from + DM_PAGE;
	if (sigsetjmp(bus_jump, 1))
		ret = bus_code == BUS_MCEERR_AR ? 1 : -1;
	else
		ret = page_read(area, page);
	/* Not before the page has been read. */
	__atomic_store_n(&bus_to, 0, __ATOMIC_RELEASE);
	return ret;
}

/* Returns how many pages of a range are lost, or -1 if a page is wrong. */
static inline long pages_lost(const struct dm_area *area, size_t block, size_t nr)
{
	size_t page = block * area->block / DM_PAGE;
	size_t end = page + nr * area->block / DM_PAGE;
	long lost = 0;

	for (; page < end; page++) {
		int ret = page_look(area, page);

		if (ret < 0)
			return ret;
		lost += ret;
	}
	return lost;
}

static inline bool area_fill(struct dm_area *area, int fd, size_t block, size_t nr, __u64 stripe)
{
	size_t b;

	for (b = block; b < block + nr; b++) {
		area->base[b] = dm_fresh(b, stripe, area->base[b]);
		if (fd < 0)
			dm_block_write(area, b, area->base[b]);
		else if (dm_fill(fd, dm_block(area, b), area->block, area->base[b]))
			return false;
	}
	return true;
}

static inline bool area_move(struct dm_area *area, int fd, size_t block, size_t nr)
{
	return dm_migrate(fd, dm_block(area, block), nr * area->block,
			  DEVMEM_MIGRATE_TO_DEVICE) == (long)(nr * area->block / DM_PAGE);
}

static inline bool area_sum_right(const struct dm_area *area, int fd, size_t block, size_t nr)
{
	__u64 sum;

	return !dm_checksum(fd, dm_block(area, block), nr * area->block, &sum) &&
	       sum == dm_area_sum(area, block, nr);
}

static inline void bus_watch(void)
{
	const struct sigaction action = {
		.sa_sigaction = page_error,
		.sa_flags = SA_SIGINFO,
	};

	sigaction(SIGBUS, &action, NULL);
}

#endif /* _DEVMEM_CARD_H_ */
