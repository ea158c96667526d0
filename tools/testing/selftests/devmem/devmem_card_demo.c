// SPDX-License-Identifier: GPL-2.0
/*
 * A demonstration of device memory that is plugged and unplugged: two cards of drm_devmem in
 * slots with hot-plug, and a host that plugs them (see devmem_card.h).
 *
 *	(1) the cards come, one is filled, and the other uses that memory in place
 *	(2) the attention button is pressed while the memory is written to
 *	(3) the card comes back, gets its memory back, and is torn out
 *
 * The exit status is 0 if everything was right, 1 if not, 4 if no host plugs cards.
 */
#include <pthread.h>

#include "../kselftest.h"
#include "devmem_card.h"

/* Half of the memory will be on card 0, the rest on card 1 and in system memory. */
#define NR_HUGE		16

static struct card cards[2] = {
	{ .port = "p0", .name = "c0", .mib = 64, .dev.fd = -1 },
	{ .port = "p1", .name = "c1", .mib = 32, .dev.fd = -1 },
};

static struct dm_area area;
static bool stop;
static unsigned long written;
static unsigned int problems;

static bool expect(bool good, const char *what)
{
	if (!good) {
		printf("  WRONG: %s\n", what);
		problems++;
	}
	return good;
}

/* End the demonstration if a step fails. */
static void need(bool good, const char *what)
{
	if (!expect(good, what))
		exit(1);
}

static void print_where(void)
{
	struct dm_where where;
	int i;

	need(!dm_where(cards[1].dev.fd, area.mem, area.len, &where), "QUERY");
	printf("  MiB:");
	for (i = 0; i < 2; i++) {
		if (cards[i].dev.fd < 0)
			continue;
		printf(" card %d %lu,", i,
		       where.device[cards[i].dev.id] * DM_PAGE / DM_MIB);
	}
	printf(" system %lu\n", where.system * DM_PAGE / DM_MIB);
}

/* The CPU verifies every byte. */
static void verify(size_t lost)
{
	long half = area.nr / 2, there, rest;

	there = pages_lost(&area, 0, half);
	rest = pages_lost(&area, half, half);
	printf("  the CPU reads all: %zu bytes, %ld pages end in SIGBUS, %s wrong\n",
	       area.len, there > 0 ? there : 0, there < 0 || rest < 0 ? "some" : "0 bytes");
	expect(there == (long)lost, "the wrong pages are lost");
	expect(!rest, "memory that was not on the card is not intact");
}

static void *write_on(void *arg)
{
	size_t b;

	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		/* In turn, card 1 and the CPU write to memory of card 0. */
		for (b = 0; b < area.nr / 2; b += 16) {
			__u64 base = dm_fresh(b, 9, area.base[b]);

			if (b % 32)
				dm_block_write(&area, b, base);
			else if (dm_fill(cards[1].dev.fd, dm_block(&area, b), BLOCK, base))
				return (void *)1;
			area.base[b] = base;
			__atomic_fetch_add(&written, 1, __ATOMIC_RELEASE);
		}
	}
	return NULL;
}

static void fill_card(void)
{
	size_t half = area.nr / 2, b;

	for (b = 0; b < half; b += DM_HUGE / BLOCK)
		need(area_move(&area, cards[0].dev.fd, b, DM_HUGE / BLOCK), "MIGRATE to card 0");
	print_where();
}

static void step_in_place(void)
{
	struct devmem_stats before, after;
	size_t half, b;

	printf("card step 1: two cards are plugged in; card 1 uses what card 0 has, in place\n");
	need(card_plug(&cards[0], "") && card_plug(&cards[1], ""), "no cards");
	printf("  card 0 is %s, card 1 is %s: %s cluster by PCI topology\n", cards[0].bdf,
	       cards[1].bdf, same_owner(&cards[0], &cards[1]) ? "one" : "no");
	expect(same_owner(&cards[0], &cards[1]), "the cards are apart");

	need(!dm_area_init(&area, NR_HUGE * DM_HUGE, BLOCK, true), "no memory");
	need(area_fill(&area, -1, 0, area.nr, 1), "fill");
	half = area.nr / 2;
	for (b = half; b < half + half / 2; b += DM_HUGE / BLOCK)
		need(area_move(&area, cards[1].dev.fd, b, DM_HUGE / BLOCK), "MIGRATE to card 1");
	fill_card();

	need(!dm_stats(cards[1].dev.fd, &before), "STATS");
	expect(area_sum_right(&area, cards[1].dev.fd, 0, half), "card 1 reads something else");
	need(!dm_stats(cards[1].dev.fd, &after), "STATS");
	printf("  card 1 read %zu MiB: %llu pages mapped by PCI, %llu migrated\n",
	       half * BLOCK / DM_MIB, after.mapped_peer - before.mapped_peer,
	       after.migrated_in - before.migrated_in);
	expect(after.mapped_peer - before.mapped_peer == half * BLOCK / DM_PAGE, "not in place");
	verify(0);
}

static void step_orderly(void)
{
	pthread_t writer;
	void *failed;

	printf("card step 2: card 0 is removed (attention button) while it is written to\n");
	need(!pthread_create(&writer, NULL, write_on, NULL), "thread");
	while (__atomic_load_n(&written, __ATOMIC_ACQUIRE) < 32)
		usleep(1000);
	need(card_go(&cards[0], BUTTON), "card 0 cannot be removed");
	expect(card_wait(&cards[0], false), "card 0 stays");
	card_close(&cards[0]);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(writer, &failed);
	expect(!failed, "card 1 could not write");
	printf("  %lu blocks of 64 KiB were written meanwhile\n", written);
	print_where();
	verify(0);
}

static void step_surprise(void)
{
	printf("card step 3: the card comes back, gets its memory back, and is torn out\n");
	need(card_back(&cards[0], BUTTON), "card 0 does not come back");
	fill_card();
	need(card_go(&cards[0], TEAR), "card 0 cannot be torn out");
	expect(card_wait(&cards[0], false), "card 0 stays");
	card_close(&cards[0]);
	verify(area.nr / 2 * BLOCK / DM_PAGE);
	expect(area_sum_right(&area, cards[1].dev.fd, area.nr / 2, area.nr / 2),
	       "card 1 reads something else");

	/* Lost memory stays lost. The memory that replaces it is like any other. */
	need(!madvise(area.mem, area.len / 2, MADV_DONTNEED), "MADV_DONTNEED");
	need(area_fill(&area, cards[1].dev.fd, 0, area.nr / 4, 3) &&
	     area_fill(&area, -1, area.nr / 4, area.nr / 4, 3), "fill");
	verify(0);
}

int main(void)
{
	if (!getenv("DEVMEM_HOST")) {
		fprintf(stderr, "no host that plugs cards: $DEVMEM_HOST is not set\n");
		return KSFT_SKIP;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	bus_watch();

	step_in_place();
	step_orderly();
	step_surprise();

	expect(card_go(&cards[1], UNBIND), "card 1 cannot be removed");
	printf("card demo: 3 steps, %s\n",
	       problems ? "FAILED" : "nothing lost but what was torn out");
	return problems;
}
