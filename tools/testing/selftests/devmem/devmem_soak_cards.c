// SPDX-License-Identifier: GPL-2.0
/*
 * Soak test: the controller that plugs cards, removes them and tears them out.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <time.h>

#include "devmem_soak.h"
#include "devmem_card.h"

/* Pause between two rounds, in microseconds. */
#define PACE		10000

#define NR_CARDS	3

static struct card cards[NR_CARDS] = {
	{ .port = "p0", .name = "c0", .mib = 64, .dev.fd = -1 },
	{ .port = "p1", .name = "c1", .mib = 32, .dev.fd = -1 },
	{ .port = "p2", .name = "c2", .mib = 16, .dev.fd = -1 },
};

/*
 * Read what the driver logs about the last @cards removals, and wait for it. No message is
 * above KERN_INFO, except for those about a process that got SIGBUS.
 */
static void cards_log(unsigned int cards, unsigned long *saved, unsigned long *lost)
{
	static struct pollfd log = { .fd = -1, .events = POLLIN };
	unsigned long s, l;
	char text[8192], *at;
	ssize_t n;

	*saved = *lost = 0;
	if (log.fd < 0) {
		log.fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (log.fd < 0)
			fail("/dev/kmsg: %s", strerror(errno));
		lseek(log.fd, 0, SEEK_END);
		return;
	}
	for (;;) {
		n = read(log.fd, text, sizeof(text) - 1);
		/* The kernel has overwritten messages. */
		if (n < 0 && errno == EPIPE)
			continue;
		if (n <= 0) {
			if (!cards || poll(&log, 1, PATIENCE * 1000) != 1)
				break;
			continue;
		}
		text[n] = 0;
		if ((atoi(text) & 7) < 6 && !strstr(text, "MCE: Killing"))
			fail("the kernel says: %s", text);
		at = strstr(text, ": ");
		at = at ? strstr(text, "went to system memory") : NULL;
		if (!at)
			continue;
		at = strrchr(strtok(text, "\n"), ':');
		if (sscanf(at, ": %lu pages went to system memory, %lu are lost", &s, &l) != 2)
			fail("unknown message: %s", at);
		*saved += s;
		*lost += l;
		cards--;
	}
	if (cards)
		fail("%d removals are missing in the log: is it too small?", cards);
}

static void card_there(struct control *c, unsigned int s)
{
	count(&shared->joins, 1);
	card_close(&cards[s]);
	store(&shared->slots[s].deaths, load(&shared->deaths.ended));
	store(&shared->slots[s].device, ++c->serial << 32 | cards[s].dev.minor);
}

/* A card goes, and comes back. */
static void card_cycle(struct control *c, bool lossy)
{
	static const enum way ways[2][4] = {
		{ UNBIND, REMOVE, POWER, BUTTON }, { TEAR, TEAR, TEAR, DIE },
	};
	unsigned int s = chance(c, NR_CARDS), how = chance(c, 4);
	enum way way = ways[lossy][how];
	unsigned long saved, lost;

	usleep(chance(c, 1000000));
	count(&shared->slots[s].leaves.begun, 1);
	count(&shared->losses.begun, lossy);
	count(&shared->deaths.begun, lossy);
	if (!card_go(&cards[s], way))
		fail("card %u does not go, way %d", s, way);
	if (!card_wait(&cards[s], false))
		fail("card %u stays, way %d", s, way);
	store(&shared->slots[s].device, 0);
	count(&shared->losses.ended, lossy);
	count(&shared->deaths.ended, lossy);
	count(&shared->slots[s].leaves.ended, 1);
	cards_log(1, &saved, &lost);
	count(&shared->evacuated, saved);
	count(&shared->poisoned, lost);
	if (!lossy && lost)
		fail("%lu pages were lost by an orderly removal, way %d", lost, way);
	count(lossy ? &shared->lost_devices : &shared->leaves, 1);

	usleep(chance(c, 200000));
	if (!card_back(&cards[s], way))
		fail("card %u does not come back, way %d", s, way);
	card_there(c, s);
}

void cards_main(struct control *c)
{
	unsigned long saved, lost;
	unsigned int s;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	shared->actors[0].pid = getpid();
	c->random = dm_mix(~shared->seed);
	cards_log(0, &saved, &lost);
	for (s = 0; s < NR_CARDS; s++) {
		if (!(card_find(&cards[s]) ? card_use(&cards[s]) : card_plug(&cards[s], "")))
			fail("card %u cannot be plugged", s);
		card_there(c, s);
	}
	while (!load(&shared->quiet)) {
		if (!load(&shared->stop)) {
			card_cycle(c, false);
			card_cycle(c, c->lossy);
			count(&shared->changes, 1);
		}
		shared->actors[0].steps++;
		usleep(PACE);
	}
	for (s = 0; s < NR_CARDS; s++)
		if (!card_go(&cards[s], UNBIND))
			fail("card %u cannot be removed", s);
	cards_log(NR_CARDS, &saved, &lost);
	if (saved || lost)
		fail("%lu pages of cards are not free, but no process uses them", saved + lost);
	_exit(0);
}
