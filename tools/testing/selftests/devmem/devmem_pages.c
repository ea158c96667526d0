// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of what a process does to memory that is on devices: munmap, mremap, mprotect, KSM,
 * and page faults that race with them.
 *
 * devmem_pages_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_pages_all runs.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "devmem_pages.h"

/* Move the mapping to @to, and use it there. */
static void use_moved(struct __test_metadata *_metadata, struct world *w, struct dm_area *area,
		      void *to, unsigned int round)
{
	void *old = area->mem;
	unsigned int d;
	__u64 sum;

	ASSERT_EQ(to, mremap(area->mem, area->len, area->len, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	area->mem = to;
	for (d = 0; d < 2; d++)
		EXPECT_EQ(HALF_PAGES, area_on(_metadata, area, w->dev[0].fd, &w->dev[d]));
	EXPECT_EQ(-EFAULT, dm_checksum(w->dev[0].fd, old, DM_PAGE, &sum));
	for (d = 0; d < 2; d++)
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[d].fd));
	EXPECT_EQ(0, area_fill(w, area, HALF + round, w->dev[0].fd));
	EXPECT_EQ(0, area_add(w, area, HALF + 2, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
}

TEST_F(pages, mremap)
{
	struct dm_area *area = &self->area;
	size_t room = area->len + 2 * DM_HUGE;
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	unsigned char *target, *to;
	unsigned int round;

	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	all_stats(_metadata, w, before);

	/* First to an address where huge pages stay whole, then to one where they do not. */
	for (round = 0; round < 2; round++) {
		target = mmap(NULL, room, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		ASSERT_NE(MAP_FAILED, target);
		to = target + -(unsigned long)target % DM_HUGE;
		if (round)
			to += 5 * DM_PAGE;
		use_moved(_metadata, w, area, to, round);

		pages_split(_metadata, w, HALF_PAGES);
		pages_merge(_metadata, w, HALF_PAGES);
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
		/* The rest of the reservation, on both sides. */
		munmap(target, to - target);
		munmap(to + area->len, target + room - to - area->len);
	}
	nothing_migrated(_metadata, w, before);

	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Blocks of each half that are unmapped. */
#define HOLE_FIRST	2UL
#define HOLE_NR		3UL

/* What is around the hole is used in place. */
static void use_around_hole(struct __test_metadata *_metadata, struct world *w,
			    struct dm_area *area)
{
	const size_t after = HOLE_FIRST + HOLE_NR;
	unsigned int d;
	size_t b;

	for (b = 0; b < area->nr; b += HALF) {
		for (d = 0; d < 2; d++) {
			EXPECT_EQ(0, area_fill(w, area, b + HOLE_FIRST - 1, w->dev[d].fd));
			EXPECT_EQ(0, area_add(w, area, b + after, w->dev[d].fd));
			EXPECT_TRUE(area_seen(area, b, HOLE_FIRST, w->dev[1 - d].fd));
			EXPECT_TRUE(area_seen(area, b + after, HALF - after,
					      w->dev[1 - d].fd));
		}
	}
}

/* A process unmaps pages in the middle of what each device holds. */
TEST_F(pages, partial_munmap)
{
	const size_t after = HOLE_FIRST + HOLE_NR, hole = HOLE_NR * BLOCK;
	struct dm_area *area = &self->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_CHECKSUM,
		.src = (__u64)(unsigned long)area->mem,
		.len = area->len,
	};
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	struct dm_where where;
	unsigned int d;
	size_t b;

	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	all_stats(_metadata, w, before);
	for (b = 0; b < area->nr; b += HALF)
		ASSERT_EQ(0, munmap(dm_block(area, b + HOLE_FIRST), hole));

	ASSERT_EQ(0, dm_where(w->dev[0].fd, area->mem, area->len, &where));
	EXPECT_EQ(2 * hole / DM_PAGE, where.none);
	for (d = 0; d < 2; d++) {
		EXPECT_EQ((HALF_LEN - hole) / DM_PAGE, where.device[w->dev[d].id]);
		EXPECT_EQ(-EFAULT, dm_exec(w->dev[d].fd, &exec));
		EXPECT_EQ(HOLE_FIRST * BLOCK, exec.done);
		EXPECT_EQ(-EFAULT, area_fill(w, area, HOLE_FIRST, w->dev[d].fd));
	}
	use_around_hole(_metadata, w, area);
	nothing_migrated(_metadata, w, before);

	/* The other pages can still be rehomed and evacuated. */
	pages_relink(_metadata, w);
	nothing_migrated(_metadata, w, before);
	dev_del(_metadata, w, 1, 0, NULL);

	for (b = 0; b < area->nr; b += HALF) {
		EXPECT_EQ(0, dm_area_wrong(area, b, HOLE_FIRST));
		EXPECT_EQ(0, dm_area_wrong(area, b + after, HALF - after));
	}
}

TEST_F(pages, mprotect)
{
	struct dm_area *area = &self->area;
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	__u64 value = 1, sum;
	unsigned int d;

	for (d = 0; d < 2; d++) {
		ASSERT_EQ(0, area_add(w, area, 0, w->dev[d].fd));
		ASSERT_EQ(0, area_add(w, area, HALF, w->dev[d].fd));
	}
	all_stats(_metadata, w, before);

	/* Part of a huge page, then all of it. */
	ASSERT_EQ(0, mprotect(area->mem, BLOCK, PROT_READ));
	ASSERT_EQ(0, mprotect(dm_block(area, HALF), HALF_LEN, PROT_READ));
	for (d = 0; d < 2; d++) {
		EXPECT_EQ(-EFAULT, area_fill(w, area, 0, w->dev[d].fd));
		EXPECT_EQ(-EFAULT, area_add(w, area, HALF, w->dev[d].fd));
		EXPECT_EQ(-EFAULT, dm_copy(w->dev[d].fd, dm_block(area, HALF),
					   dm_block(area, 1), BLOCK));
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[d].fd));
	}
	nothing_migrated(_metadata, w, before);

	ASSERT_EQ(0, mprotect(dm_block(area, HALF), HALF_LEN, PROT_NONE));
	for (d = 0; d < 2; d++) {
		EXPECT_EQ(-EFAULT, dm_checksum(w->dev[d].fd, dm_block(area, HALF),
					       BLOCK, &sum));
		EXPECT_EQ(-EFAULT, dm_fill(w->dev[d].fd, dm_block(area, HALF),
					   BLOCK, value));
		EXPECT_TRUE(area_seen(area, 0, HALF, w->dev[d].fd));
	}
	EXPECT_EQ(-EFAULT, dm_migrate(w->dev[0].fd, dm_block(area, HALF), BLOCK,
				      DEVMEM_MIGRATE_TO_SYSTEM));

	ASSERT_EQ(0, mprotect(area->mem, area->len, PROT_READ | PROT_WRITE));
	for (d = 0; d < 2; d++) {
		EXPECT_EQ(0, area_fill(w, area, 0, w->dev[d].fd));
		EXPECT_EQ(0, area_add(w, area, HALF, w->dev[d].fd));
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[d].fd));
	}
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* More memory moves to the device than it has. */
TEST_F(pages, eviction)
{
	struct world *w = &self->w;
	struct devmem_stats stats;
	struct devmem_info info;
	struct dm_area area;
	struct dm_where where;
	size_t b, step = DM_HUGE / BLOCK, more = 4 * DM_HUGE;
	unsigned int round;

	area_init(_metadata, &area, MEM_SIZE + more, BLOCK, self->huge);
	area_write(w, &area, 0, area.nr);
	for (round = 0; round < 2; round++) {
		for (b = 0; b < area.nr; b += step) {
			ASSERT_EQ((long)(DM_HUGE / DM_PAGE),
				  dm_migrate(w->dev[0].fd, dm_block(&area, b),
					     DM_HUGE, DEVMEM_MIGRATE_TO_DEVICE));
			EXPECT_EQ(0, area_add(w, &area, b + round, w->dev[0].fd));
		}
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[0].fd));
	}

	ASSERT_EQ(0, dm_stats(w->dev[0].fd, &stats));
	/* The first round alone evicts these. */
	EXPECT_GE(stats.evictions, more / DM_HUGE);
	EXPECT_GE(stats.migrated_out, more / DM_PAGE);
	ASSERT_EQ(0, dm_info(w->dev[0].fd, &info));
	EXPECT_LE(info.mem_free, MEM_SIZE);
	ASSERT_EQ(0, dm_where(w->dev[0].fd, area.mem, area.len, &where));
	EXPECT_EQ(0, where.none);
	EXPECT_LE(where.device[w->dev[0].id], MEM_SIZE / DM_PAGE);
	EXPECT_GE(where.device[w->dev[0].id], MEM_SIZE / DM_PAGE / 2);

	/* The memory that was on the device before was evicted, too. */
	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	EXPECT_EQ(0, dm_area_wrong(&self->area, 0, self->area.nr));
	dm_area_fini(&area);
}

/* --- memory is cleared --- */

/* No process sees what another process had on the device, or failed to move there. */
static void is_cleared(struct __test_metadata *_metadata, struct world *w,
		       struct dm_area *own, bool huge, bool fail)
{
	size_t len = MEM_SIZE - DM_HUGE;
	struct dm_area area;
	struct child child;
	long moved;

	pages_drop(_metadata, w, own);
	if (child_fork(_metadata, &child)) {
		int fds[MAX_DEVS];

		child_open(w, fds);
		CHILD_CHECK(!dm_area_init(&area, len, BLOCK, huge));
		area_write(w, &area, 0, area.nr);
		if (fail)
			CHILD_CHECK(faults_on("fail_devmem", 100));
		moved = dm_migrate(fds[0], area.mem, len,
				   DEVMEM_MIGRATE_TO_DEVICE);
		if (fail)
			CHILD_CHECK(faults_on("fail_devmem", 0) && moved == -EIO);
		else
			CHILD_CHECK(moved == (long)(len / DM_PAGE) &&
				    !dm_fill(fds[0], area.mem, len, ~0ULL << 32));
		if (fail)
			CHILD_CHECK(!dm_area_wrong(&area, 0, area.nr));
		_exit(0);
	}
	ASSERT_TRUE(child_good(&child));
	child_fini(&child);
	all_free(_metadata, &w->dev[0]);
	comes_clean(_metadata, w, len, huge);
}

TEST_F(pages, memory_is_cleared)
{
	is_cleared(_metadata, &self->w, &self->area, self->huge, false);
}

TEST_F(pages, memory_of_a_failed_copy_is_cleared)
{
	if (!faults_on("fail_devmem", 0))
		SKIP(return, "the kernel has no fault injection");
	is_cleared(_metadata, &self->w, &self->area, self->huge, true);
}

/* --- races with page faults --- */

/* The CPU accesses a page of a large folio that is no longer mapped as a whole. */
TEST_F(pages, fault_in_part_of_huge)
{
	struct dm_area *area = &self->area;
	unsigned char *hole = area->mem + 100 * DM_PAGE;
	size_t b = (hole - area->mem) / BLOCK;

	ASSERT_EQ(0, madvise(hole, DM_PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, dm_block_wrong(area, 0));
	EXPECT_TRUE(is_zero(hole, DM_PAGE));
	EXPECT_EQ(0, dm_area_wrong(area, 0, b));
	EXPECT_EQ(0, dm_area_wrong(area, b + 1, area->nr - b - 1));
}

/* Rounds in which the page is dropped before the fault, and as many in which it is not. */
#define ZAP_EACH	(DM_ALL ? 40U : 15U)
#define ZAP_ROUNDS	(20 * ZAP_EACH)

struct zap {
	unsigned char *page;
	__u64 random;
	/* Duration of the last fault. */
	unsigned int fault_us;
	/* Rounds that have begun, and those in which the page has been dropped. */
	unsigned int begun, done;
	bool stop, failed;
};

/* In each round, drop the page at some time during the fault, or soon after it. */
static void *zap_main(void *arg)
{
	struct zap *zap = arg;
	unsigned int round, end;

	for (round = 1;; round++) {
		while (__atomic_load_n(&zap->begun, __ATOMIC_ACQUIRE) < round)
			if (__atomic_load_n(&zap->stop, __ATOMIC_ACQUIRE))
				return NULL;
		/* usleep() can take longer than the whole fault. */
		end = microseconds() + dm_rnd(&zap->random) % (2 * zap->fault_us + 1);
		while ((int)(microseconds() - end) < 0)
			;
		if (madvise(zap->page, DM_PAGE, MADV_DONTNEED))
			zap->failed = true;
		__atomic_store_n(&zap->done, round, __ATOMIC_RELEASE);
	}
}

/* Splitting a large folio does not lose the page that the fault is for. */
TEST_F(pages, zap_against_fault_in_part)
{
	struct dm_area *area = &self->area;
	struct zap zap = { .page = area->mem + DM_PAGE, .fault_us = 1000 };
	__u64 *word = (__u64 *)zap.page, was = area->base[0] + DM_PAGE / DM_WORD;
	unsigned int round, start, dropped = 0, kept = 0;
	pthread_t thread;

	if (coherent())
		SKIP(return, "the CPU takes no faults on coherent memory");
	ASSERT_EQ(0, pthread_create(&thread, NULL, zap_main, &zap));
	for (round = 1; round <= ZAP_ROUNDS && (dropped < ZAP_EACH || kept < ZAP_EACH);
	     round++) {
		__u64 seen;

		/* The folio is large still, and mapped by small pages. */
		ASSERT_EQ(0, madvise(area->mem + 100 * DM_PAGE, DM_PAGE, MADV_DONTNEED));
		__atomic_store_n(&zap.begun, round, __ATOMIC_RELEASE);
		start = microseconds();
		seen = __atomic_load_n(word, __ATOMIC_RELAXED);
		start = microseconds() - start;
		EXPECT_TRUE(seen == was || !seen);
		if (seen)
			kept++;
		else
			dropped++;

		while (__atomic_load_n(&zap.done, __ATOMIC_ACQUIRE) < round)
			sched_yield();
		zap.fault_us = start;
		ASSERT_EQ(0, madvise(area->mem, HALF_LEN, MADV_DONTNEED));
		area_write(&self->w, area, 0, HALF);
		was = area->base[0] + DM_PAGE / DM_WORD;
		area_put(_metadata, area, 0, HALF, &self->w.dev[0]);
	}
	__atomic_store_n(&zap.stop, true, __ATOMIC_RELEASE);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	TH_LOG("dropped %u times before the fault, %u times after it", dropped, kept);
	EXPECT_FALSE(zap.failed);
	EXPECT_LT(0, dropped);
	EXPECT_LT(0, kept);
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
}

struct remap {
	struct dm_area *area;
	unsigned int nr;
	bool stop, failed;
};

/* Unmap one block after the other, and map it again. */
static void *remap_main(void *arg)
{
	struct remap *remap = arg;
	struct dm_area *area = remap->area;
	size_t b;

	for (b = 0; !__atomic_load_n(&remap->stop, __ATOMIC_RELAXED);
	     b = (b + 1) % area->nr) {
		void *mem = dm_block(area, b);

		munmap(mem, area->block);
		if (mmap(mem, area->block, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != mem) {
			__atomic_store_n(&remap->failed, true, __ATOMIC_RELAXED);
			break;
		}
		__atomic_fetch_add(&remap->nr, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* The test ends after so many blocks were mapped again, and so many commands were run. */
#define REMAPS		(DM_ALL ? 400U : 40U)
#define REMAP_FILLS	(DM_ALL ? 200U : 20U)
#define REMAP_LEN	4

/* A device uses memory while it is unmapped: the command succeeds, or fails with EFAULT. */
TEST_F(pages, munmap_during_exec)
{
	struct dm_area *area = &self->area;
	struct remap remap = { .area = area };
	struct world *w = &self->w;
	unsigned int i, failed = 0;
	pthread_t thread;
	int err;

	ASSERT_EQ(0, pthread_create(&thread, NULL, remap_main, &remap));
	for (i = 0; i < REMAP_FILLS ||
	     (__atomic_load_n(&remap.nr, __ATOMIC_RELAXED) < REMAPS &&
	      !__atomic_load_n(&remap.failed, __ATOMIC_RELAXED)); i++) {
		err = dm_fill(w->dev[i & 1].fd,
			      dm_block(area, i * 5 % (area->nr - REMAP_LEN)),
			      REMAP_LEN * BLOCK, i);
		EXPECT_TRUE(!err || err == -EFAULT) {
			TH_LOG("%d", err);
		}
		failed += !!err;
	}
	__atomic_store_n(&remap.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_FALSE(remap.failed);
	TH_LOG("%u commands, %u of them failed; %u blocks mapped again", i, failed, remap.nr);

	/* The memory works as before. */
	area_write(w, area, 0, area->nr);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
}

/* --- coherent memory --- */

/* The kernel reads a page on behalf of a process. */
static void kernel_reads(struct __test_metadata *_metadata, const void *mem)
{
	char buf[DM_PAGE];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ((ssize_t)DM_PAGE, write(pipes[1], mem, DM_PAGE));
	ASSERT_EQ((ssize_t)DM_PAGE, read(pipes[0], buf, DM_PAGE));
	EXPECT_EQ(0, memcmp(buf, mem, DM_PAGE));
	close(pipes[0]);
	close(pipes[1]);
}

/* The CPU and devices use coherent memory at the same time, where it is. */
TEST_F(pages, coherent_stays)
{
	struct dm_area *area = &self->area;
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	struct dm_where where;

	if (!coherent())
		SKIP(return, "memory of devices is private");
	all_stats(_metadata, w, before);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
	area_write(w, area, 0, area->nr);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_EQ(0, area_fill(w, area, 1, w->dev[1].fd));
	EXPECT_EQ(0, area_add(w, area, HALF, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
	kernel_reads(_metadata, dm_block(area, 2));

	ASSERT_EQ(0, dm_where(w->dev[0].fd, area->mem, area->len, &where));
	EXPECT_EQ(HALF_PAGES, where.device[w->dev[0].id]);
	EXPECT_EQ(HALF_PAGES, where.device[w->dev[1].id]);
	nothing_migrated(_metadata, w, before);
}

/*
 * A change of links copies nothing, for either kind of memory: it succeeds with devices that
 * fail to copy. Coherent pages stay where they are, and after a split a device brings a
 * foreign one home instead of mapping it.
 */
TEST_F(pages, links_copy_nothing)
{
	struct devmem_stats before[MAX_DEVS], after[MAX_DEVS];
	struct dm_area *area = &self->area;
	struct world *w = &self->w;

	if (!faults_on("fail_devmem", 100))
		SKIP(return, "the kernel has no fault injection");
	all_stats(_metadata, w, before);
	pages_split(_metadata, w, HALF_PAGES);
	EXPECT_TRUE(area_seen(area, 0, HALF, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	pages_merge(_metadata, w, HALF_PAGES);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	pages_split(_metadata, w, HALF_PAGES);
	nothing_migrated(_metadata, w, before);
	ASSERT_TRUE(faults_on("fail_devmem", 0));

	all_stats(_metadata, w, before);
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[0].fd));
	all_stats(_metadata, w, after);
	EXPECT_EQ(before[0].mapped_peer, after[0].mapped_peer);
	EXPECT_EQ(before[1].migrated_out + HALF_PAGES, after[1].migrated_out);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* --- KSM --- */

#define KSM	"/sys/kernel/mm/ksm/"

/* Pages that KSM has merged stay where they are, and do not delay a removal. */
TEST_F(pages, merged_pages_stay)
{
	const size_t nr = 64, len = nr * DM_PAGE;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct dm_where where;
	char *mem;
	size_t p;

	if (access(KSM "run", W_OK) || dm_file_get(KSM "run", NULL))
		SKIP(return, "the kernel has no KSM, or it is in use");
	mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		   -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	memset(mem, 'k', len);
	ASSERT_EQ(0, madvise(mem, len, MADV_MERGEABLE));
	ASSERT_TRUE(dm_file_change(KSM "sleep_millisecs", "10"));
	ASSERT_TRUE(dm_file_change(KSM "pages_to_scan", "1000"));
	ASSERT_TRUE(dm_file_change(KSM "run", "1"));
	/* Not pages_sharing, which also counts pages of processes that have exited. */
	ASSERT_TRUE(dm_soon(dm_file_get("/proc/self/ksm_merging_pages", NULL) >= (long)nr));
	ASSERT_TRUE(dm_file_put(KSM "run", "0"));

	dm_migrate(w->dev[0].fd, mem, len, DEVMEM_MIGRATE_TO_DEVICE);
	ASSERT_EQ(0, dm_where(w->dev[0].fd, mem, len, &where));
	EXPECT_EQ(nr, where.system);
	EXPECT_EQ(0, destroy_within(w, 0, 0, LONG_MS, &stats));
	for (p = 0; p < len; p++)
		ASSERT_EQ('k', mem[p]);
	munmap(mem, len);
}

/* Only devmem_pages_all runs these: they repeat what other variants show. */
static const struct dm_left left_to_all[] = {
	/* The size of pages makes no difference here. */
	{ "pages.huge.eviction" },
	{ "pages.huge.memory_of_a_failed_copy_is_cleared" },
	{ "pages.huge.coherent_*" },
	{ "pages.huge.merged_pages_stay" },
	/* Only huge pages are split. */
	{ "pages.small.zap_against_fault_in_part" },
	{ "pages.small.fault_in_part_of_huge" },
	/* Coherent memory has no huge pages. */
	{ "pages.huge.*", coherent },
	{ }
};

int main(int argc, char **argv)
{
	return world_main(argc, argv, left_to_all);
}
