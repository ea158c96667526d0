/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fixture of several programs: two linked devices, each of which holds half of the
 * memory of the test, in pages of 4 KiB or of 2 MiB.
 */
#ifndef _DEVMEM_PAGES_H_
#define _DEVMEM_PAGES_H_

#include <setjmp.h>
#include <signal.h>
#include <sys/uio.h>

#include "devmem_world.h"

#define CGROUP	"/sys/fs/cgroup/devmem-test"

/* Blocks that each device holds at first: a huge page, or fewer small pages. */
static size_t half = DM_HUGE / BLOCK;

#define HALF		half
#define HALF_LEN	(HALF * BLOCK)
#define HALF_PAGES	(HALF_LEN / DM_PAGE)

FIXTURE(pages)
{
	struct world w;
	struct dm_area area;
	bool huge;
	/* A timeout that suffices to move what a device holds, in milliseconds. */
	unsigned int enough_ms;
};

FIXTURE_VARIANT(pages)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(pages, small) { .huge = false, };
FIXTURE_VARIANT_ADD(pages, huge) { .huge = true, };

FIXTURE_SETUP(pages)
{
	struct world *w = &self->w;
	struct dm_where where;
	unsigned int start;

	self->huge = variant->huge;
	if (!self->huge)
		half = 8;
	w->ctl = -1;
	if (self->huge && no_huge_pages())
		SKIP(return, "transparent huge pages are off");
	world_init(_metadata, w, 2, CHUNK_SIZE);
	link_all(_metadata, w);
	area_init(_metadata, &self->area, 2 * HALF_LEN, BLOCK, self->huge);
	area_write(w, &self->area, 0, self->area.nr);
	start = microseconds();
	area_put(_metadata, &self->area, 0, HALF, &w->dev[0]);
	area_put(_metadata, &self->area, HALF, HALF, &w->dev[1]);
	self->enough_ms = enough_ms_since(start);
	ASSERT_EQ(0, dm_where(w->dev[0].fd, self->area.mem, self->area.len,
			      &where));
	ASSERT_EQ(self->huge && !coherent() ? self->area.len / DM_PAGE : 0, where.huge);
}

FIXTURE_TEARDOWN(pages)
{
	dm_files_restore();
	dm_swap_off();
	rmdir(CGROUP);
	if (self->area.mem)
		dm_area_fini(&self->area);
	if (self->w.ctl >= 0)
		for (unsigned int i = 0; i < self->w.nr; i++)
			if (self->w.dev[i].fd >= 0)
				all_free(_metadata, &self->w.dev[i]);
	world_fini(_metadata, &self->w);
}

/* The test does not use the memory of the fixture: the devices are empty. */
static inline void pages_drop(struct __test_metadata *_metadata, struct world *w,
			      struct dm_area *area)
{
	unsigned int i;

	dm_area_fini(area);
	area->mem = NULL;
	for (i = 0; i < w->nr; i++)
		all_free(_metadata, &w->dev[i]);
}

/* The link goes down. One of the devices, which both hold @pages, gets a new owner. */
static inline void pages_split(struct __test_metadata *_metadata, struct world *w, __u64 pages)
{
	struct devmem_op_stats stats;

	all_rehomed(_metadata, w);
	ASSERT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(0, stats.pages_left);
	EXPECT_EQ(rehomes(pages), stats.pages_rehomed);
	EXPECT_EQ(split_moves(1, 1), stats.peers_moved);
}

/* The link comes up. */
static inline void pages_merge(struct __test_metadata *_metadata, struct world *w, __u64 pages)
{
	struct devmem_op_stats stats;

	ASSERT_EQ(0, set_links(w, 1, 2, true, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_GE(rehomes(pages), stats.pages_rehomed);
	EXPECT_EQ(1, stats.peers_moved);
}

/* The link goes down and comes up again, with any number of pages on the devices. */
static inline void pages_relink(struct __test_metadata *_metadata, struct world *w)
{
	struct devmem_op_stats stats;

	ASSERT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(0, stats.pages_left);
	ASSERT_EQ(0, set_links(w, 1, 2, true, 0, &stats));
	copied_nothing(_metadata, &stats);
	all_rehomed(_metadata, w);
}

/* --- poison --- */

static __thread sigjmp_buf poke_env;
static __thread int poke_code;
static __thread void *poke_addr;

static inline void poke_handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	poke_code = info->si_code;
	poke_addr = info->si_addr;
	siglongjmp(poke_env, 1);
}

/*
 * Read a byte. Returns 0, or the code of the SIGBUS that the access raised, or -1 if SIGBUS
 * came with a wrong address.
 */
static inline int poke(const void *mem)
{
	struct sigaction action = {
		.sa_sigaction = poke_handler,
		.sa_flags = SA_SIGINFO,
	}, old;

	poke_code = 0;
	sigaction(SIGBUS, &action, &old);
	if (!sigsetjmp(poke_env, 1))
		__atomic_load_n((const char *)mem, __ATOMIC_RELAXED);
	sigaction(SIGBUS, &old, NULL);

	if (poke_code && (unsigned long)poke_addr / DM_PAGE !=
			 (unsigned long)mem / DM_PAGE)
		return -1;
	return poke_code;
}

/* Is each @step-th page of these blocks lost, for the CPU and for the kernel? */
static inline bool is_lost(const struct dm_area *area, size_t b, size_t nr, size_t step)
{
	char *mem = dm_block(area, b), *end = mem + nr * area->block;
	char buf[8];

	for (; mem < end; mem += step * DM_PAGE) {
		struct iovec to = { buf, sizeof(buf) }, from = { mem, sizeof(buf) };

		if (poke(mem) != BUS_MCEERR_AR)
			return false;
		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != -1 ||
		    errno != EFAULT)
			return false;
	}
	return true;
}

/* Memory that was never written is zero on the device too, next to pages that were. */
static inline void comes_clean(struct __test_metadata *_metadata, struct world *w,
			       size_t len, bool huge)
{
	/* Some pages of this range are written. */
	const size_t per = BLOCK / DM_PAGE, from = DM_MIB / DM_PAGE, to = from + 2 * per;
	const bool mixed = !huge;
	struct dm_area area;
	unsigned int d;
	size_t p, nr;
	__u64 sum;

	area_init(_metadata, &area, len, DM_PAGE, huge);
	for (p = from; p < to && mixed; p += 3)
		area_write(w, &area, p, 1);
	area_put(_metadata, &area, 0, area.nr, &w->dev[0]);

	/* The devices look at all of it, the CPU at one page of each block. */
	for (p = 0; p < area.nr; p += nr) {
		unsigned char *page = dm_block(&area, p);

		nr = mixed && p >= from && p < to ? 1 : per;
		if (area.base[p]) {
			EXPECT_TRUE(area_seen(&area, p, 1, w->dev[1].fd));
			EXPECT_EQ(0, dm_block_wrong(&area, p));
			continue;
		}
		d = p / nr & 1;
		if (dm_checksum(w->dev[d].fd, page, nr * DM_PAGE, &sum) || sum) {
			TH_LOG("page %zu is not zero for device %u", p, d);
			EXPECT_EQ(0, sum);
			break;
		}
	}
	for (p = 0; p < area.nr; p += nr) {
		nr = DM_ALL || (mixed && p >= from && p < to) ? 1 : per;
		if (area.base[p] || is_zero(dm_block(&area, p), DM_PAGE))
			continue;
		TH_LOG("page %zu is not zero for the CPU", p);
		EXPECT_EQ(0, 1);
		break;
	}
	dm_area_fini(&area);
}

#endif /* _DEVMEM_PAGES_H_ */
