// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of devices that are torn out, and of copies that fail: what was on the device is
 * lost, and any access to it fails, but nothing else is lost.
 *
 * devmem_lost_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_lost_all runs.
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/stat.h>

#include "devmem_pages.h"
#include "devmem_task.h"

/* The first half of the area is lost, for all that map it; the second half is intact. */
static void first_half_lost(struct __test_metadata *_metadata, struct world *w,
			    const struct dm_area *area)
{
	__u64 sum;
	int fd;

	EXPECT_TRUE(is_lost(area, 0, HALF, 1));
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	EXPECT_EQ(-EFAULT, dm_checksum(w->dev[1].fd, area->mem, BLOCK, &sum));
	EXPECT_EQ(-EFAULT, dm_fill(w->dev[1].fd, area->mem, BLOCK, 1));

	/* The kernel does not read it on behalf of other processes either. */
	fd = open("/proc/self/mem", O_RDONLY);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-1, pread(fd, &sum, sizeof(sum), (off_t)area->mem));
	EXPECT_EQ(EIO, errno);
	close(fd);
}

/* Lost memory is inherited, moved, protected and unmapped like any other memory. */
static void use_lost(struct __test_metadata *_metadata, struct world *w, struct dm_area *area)
{
	struct child child;
	char *mem;

	if (child_fork(_metadata, &child)) {
		CHILD_CHECK(is_lost(area, 0, HALF, 13));
		_exit(0);
	}
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	mem = mmap(NULL, BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_EQ(mem, mremap(area->mem, BLOCK, BLOCK,
			      MREMAP_MAYMOVE | MREMAP_FIXED, mem));
	EXPECT_EQ(BUS_MCEERR_AR, poke(mem));
	EXPECT_EQ(0, mprotect(mem, BLOCK, PROT_READ));
	EXPECT_EQ(BUS_MCEERR_AR, poke(mem));
	EXPECT_EQ(0, madvise(mem, BLOCK, MADV_DONTNEED));
	EXPECT_EQ(0, poke(mem));
	EXPECT_TRUE(is_zero((unsigned char *)mem, BLOCK));
	EXPECT_EQ(0, munmap(mem, BLOCK));
	EXPECT_EQ(0, madvise(dm_block(area, 1), BLOCK, MADV_DONTNEED));
	area_write(w, area, 1, 1);
	EXPECT_EQ(0, munmap(dm_block(area, 2), BLOCK));
}

/* What was on the device is lost, in all processes that map it. Nothing else is lost. */
TEST_F(pages, lost)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct child child;
	__u64 sum;
	int fd;

	/* Both devices have mapped all of it, and a child has inherited it. */
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	if (child_fork(_metadata, &child)) {
		child_step(&child);
		CHILD_CHECK(is_lost(area, 0, HALF, 13));
		CHILD_CHECK(!dm_area_wrong(area, HALF, HALF));
		CHILD_CHECK(!munmap(area->mem, HALF_LEN));
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));

	fd = dup(w->dev[0].fd);
	ASSERT_EQ(0, destroy_within(w, 0, DEVMEM_LOST, 0, &stats));
	EXPECT_EQ(HALF_PAGES, stats.pages_poisoned);
	EXPECT_EQ(0, stats.pages_evacuated);
	EXPECT_EQ(0, stats.bytes_copied);
	EXPECT_EQ(-ENODEV, dm_checksum(fd, area->mem, BLOCK, &sum));
	close(fd);

	first_half_lost(_metadata, w, area);
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	use_lost(_metadata, w, area);

	/* A new device takes its place. What is intact can move there. */
	dev_add(_metadata, w, 0, CHUNK_SIZE);
	link_all(_metadata, w);
	comes_clean(_metadata, w, MEM_SIZE - 2 * DM_HUGE, self->huge);
	area_put(_metadata, area, 1, 1, &w->dev[0]);
	area_put(_metadata, area, HALF, HALF, &w->dev[0]);
	EXPECT_TRUE(area_seen(area, 1, 1, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
	EXPECT_EQ(BUS_MCEERR_AR, poke(dm_block(area, 3)));
}

/* The core dump has the second half of the area, word for word, and nothing of the first. */
static void dump_check(struct __test_metadata *_metadata, const char *core,
		       const struct dm_area *area)
{
	struct stat stat;
	size_t i, n = 0;
	char *dump;
	int fd;

	fd = open(core, O_RDONLY);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, fstat(fd, &stat));
	dump = mmap(NULL, stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, dump);
	for (i = 0; i + area->block <= (size_t)stat.st_size; i += DM_PAGE) {
		__u64 word;

		memcpy(&word, dump + i, sizeof(word));
		n += word == area->base[HALF];
		EXPECT_NE(area->base[0], word);
	}
	EXPECT_EQ(1, n);
	munmap(dump, stat.st_size);
	close(fd);
}

/* The core dump of a process that died of lost memory has holes in place of that memory. */
TEST_F(pages, lost_in_core_dump)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct rlimit limit;
	struct child child;
	char core[64];
	int status;

	snprintf(core, sizeof(core), "/tmp/devmem-core.%d", getpid());
	ASSERT_TRUE(dm_file_change("/proc/sys/kernel/core_pattern", core));
	unlink(core);

	if (child_fork(_metadata, &child)) {
		CHILD_CHECK(!getrlimit(RLIMIT_CORE, &limit));
		limit.rlim_cur = limit.rlim_max;
		CHILD_CHECK(!setrlimit(RLIMIT_CORE, &limit));
		CHILD_CHECK(!prctl(PR_SET_DUMPABLE, 1));
		child_step(&child);
		__atomic_load_n((char *)area->mem, __ATOMIC_RELAXED);
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	ASSERT_EQ(0, destroy_within(w, 0, DEVMEM_LOST, 0, NULL));
	ASSERT_TRUE(child_go(&child));
	ASSERT_EQ(child.pid, waitpid(child.pid, &status, 0));
	child_fini(&child);
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGBUS, WTERMSIG(status));
	ASSERT_TRUE(WCOREDUMP(status));

	dump_check(_metadata, core, area);
	unlink(core);
}

/* If some pages of a process are lost, its pages in swap still come back. */
TEST_F(pages, lost_and_swapoff)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	unsigned char resident[HALF_PAGES];
	unsigned long i, out = 0;
	size_t len = HALF_LEN;
	int ret;

	ASSERT_EQ((long)(len / DM_PAGE),
		  dm_migrate(w->dev[1].fd, dm_block(area, HALF), len,
			     DEVMEM_MIGRATE_TO_SYSTEM));
	ret = dm_swap_on(4 * DM_MIB);
	if (ret == -ENOENT || ret == -ENXIO || ret == -EBUSY)
		SKIP(return, "no swap on %s: is CONFIG_BLK_DEV_RAM on, is it empty?", DM_SWAP);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, madvise(dm_block(area, HALF), len, MADV_PAGEOUT));
	ASSERT_EQ(0, mincore(dm_block(area, HALF), len, resident));
	for (i = 0; i < len / DM_PAGE; i++)
		out += !(resident[i] & 1);
	EXPECT_GT(out, 0);

	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_LOST, 0, NULL));
	EXPECT_EQ(0, dm_swap_off());
	EXPECT_TRUE(is_lost(area, 0, HALF, 13));
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
}

/*
 * Device 0 is lost while a page of it is held. All pages are poisoned at once, except for one
 * that is locked. The memmap has to stay, so the request fails until the page is let go. The
 * other device gets a new owner, as it shared its owner with pages that are still there.
 */
static void held_and_lost(struct __test_metadata *_metadata, struct world *w,
			  struct dm_area *area, enum grip_kind kind, __u64 held)
{
	struct devmem_info before, after;
	struct devmem_op_stats stats;
	struct grip grip;
	__u64 locked = kind == GRIP_LOCK ? held : 0;

	ASSERT_EQ(0, dm_info(w->dev[1].fd, &before));
	grip_take(_metadata, &grip, kind, w->dev[1].fd, dm_block(area, 3), LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, DEVMEM_LOST, BOUND_MS, &stats));
	EXPECT_TRUE(grip_holds(&grip));
	EXPECT_EQ(HALF_PAGES - locked, stats.pages_poisoned);
	EXPECT_EQ(0, stats.pages_evacuated);
	EXPECT_EQ(1, stats.peers_moved);
	if (!locked)
		EXPECT_EQ(BUS_MCEERR_AR, poke(dm_block(area, 3)));
	if (locked < HALF_PAGES)
		EXPECT_TRUE(is_lost(area, 0, 3, 13));

	/* The other device works. */
	ASSERT_EQ(0, dm_info(w->dev[1].fd, &after));
	EXPECT_NE(before.owner_id, after.owner_id);
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
	area_put(_metadata, area, HALF, HALF, &w->dev[1]);

	grip_drop(_metadata, &grip);
	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_LOST, LONG_MS, &stats));
	EXPECT_EQ(locked, stats.pages_poisoned);
	EXPECT_TRUE(is_lost(area, 0, HALF, 13));
}

TEST_F(pages, referred_to_and_lost)
{
	held_and_lost(_metadata, &self->w, &self->area, GRIP_REFERENCE, 1);
}

TEST_F(pages, locked_and_lost)
{
	held_and_lost(_metadata, &self->w, &self->area, GRIP_LOCK,
		      self->huge && !coherent() ? HALF_PAGES : 1);
}

/*
 * Device 1 is lost while a planned change of its link waits for one of its pages. Neither
 * request waits for the page, or for the other request.
 */
TEST_F(pages, lost_during_link_down)
{
	struct devmem_link link = { .a = self->w.dev[0].id, .b = self->w.dev[1].id };
	struct devmem_set_links args = {
		.links = (unsigned long)&link,
		.nr = 1,
		.timeout_ms = LONG_MS,
	};
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct request change;
	struct dm_area ballast;
	struct grip grip;

	/* Device 0 holds more, so device 1 leaves the cluster. */
	area_init(_metadata, &ballast, BLOCK, BLOCK, false);
	area_put(_metadata, &ballast, 0, 1, &w->dev[0]);
	grip_take(_metadata, &grip, GRIP_REFERENCE, w->dev[0].fd, dm_block(area, HALF + 3),
		  LONG_MS);
	ASSERT_TRUE(request_start(&change, w->ctl, DEVMEM_IOC_LINK, &args));
	/* The change is under way; with coherent memory it is over, as it waits for no page. */
	ASSERT_TRUE(dm_soon(coherent() ? task_done(&change.task) : !!left_on(_metadata, w, 1)));

	EXPECT_EQ(-EBUSY, destroy_within(w, 1, DEVMEM_LOST, BOUND_MS, &stats));
	EXPECT_EQ(HALF_PAGES, stats.pages_poisoned);
	EXPECT_TRUE(task_wait(&change.task));
	EXPECT_EQ(0, change.task.err);
	copied_nothing(_metadata, &args.stats);
	EXPECT_TRUE(grip_holds(&grip));
	EXPECT_TRUE(is_lost(area, HALF, HALF, 13));
	EXPECT_TRUE(area_seen(area, 0, HALF, w->dev[0].fd));

	grip_drop(_metadata, &grip);
	EXPECT_EQ(0, destroy_within(w, 1, DEVMEM_LOST, LONG_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(0, dm_area_wrong(area, 0, HALF));
	dm_area_fini(&ballast);
}

/* If a device fails to copy, its removal fails. Nothing has changed, and no data is lost. */
TEST_F(pages, copy_fails)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	if (!faults_on("fail_devmem", 100))
		SKIP(return, "the kernel has no fault injection");
	EXPECT_EQ(-EIO, destroy_within(w, 0, 0, 0, &stats));
	EXPECT_EQ(0, stats.pages_evacuated);
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(0, stats.bytes_copied);
	ASSERT_TRUE(faults_on("fail_devmem", 0));

	EXPECT_EQ(HALF_PAGES,
		  area_on(_metadata, area, w->dev[1].fd, &w->dev[0]));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Only devmem_lost_all runs these: they repeat what other variants show. */
static const struct dm_left left_to_all[] = {
	/* The size of pages makes no difference here. */
	{ "pages.huge.lost_in_core_dump" },
	{ "pages.huge.lost_during_link_down" },
	/* Coherent memory has no huge pages. */
	{ "pages.huge.*", coherent },
	{ }
};

int main(int argc, char **argv)
{
	return world_main(argc, argv, left_to_all);
}
