// SPDX-License-Identifier: GPL-2.0
/*
 * Requests without memory. Each request is repeated: its first allocation fails, then its
 * second, and so on, until the request gets by without a failure. A request that fails must
 * leave everything as it was: devices, links, clusters, where each page is, and what the
 * page contains.
 *
 * Needs CONFIG_FAULT_INJECTION_DEBUG_FS, CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <sys/syscall.h>

#include "devmem_harness.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define DEVICES		3
#define MEM_SIZE	(16 * DM_MIB)
#define CHUNK_SIZE	(8 * DM_MIB)
#define BLOCK		(64 * 1024UL)
/* On device 0 are one huge page and a few small ones, as few on device 1. */
#define FIRST		(DM_HUGE + BLOCK)
#define LEN		(FIRST + BLOCK)
/* More allocations than any request has: then it does not end. */
#define MAX_FAULTS	100000
/* Allocations at the start of a request that devmem_faults does not skip. */
#define EACH_FAULT	8

struct rig {
	int ctl, nth;
	struct dm_dev dev[DEVICES];
	struct dm_area area;
	/* Memory before this address is not on any device. */
	unsigned char *from;
	size_t first;
};

FIXTURE(faults)
{
	struct rig rig;
};

/* Let allocations that may sleep fail, too, and quietly. */
static bool quiet_faults(void)
{
	static const char * const attrs[] = { "failslab", "fail_page_alloc", "fail_devmem" };
	char path[128];
	unsigned int i;

	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/verbose", attrs[i]);
		if (!dm_file_change(path, "0"))
			return false;
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/ignore-gfp-wait",
			 attrs[i]);
		if (i < 2 && !dm_file_change(path, "N"))
			return false;
	}
	return dm_file_change("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N") &&
	       dm_file_change("/sys/kernel/debug/fail_page_alloc/min-order", "0");
}

/* A sweep begins with all pages on their devices, and with the huge page in one piece. */
static void to_devices(struct __test_metadata *_metadata, struct rig *rig)
{
	/* Private pages are in system memory after the CPU has checked them. */
	if (dm_coherent("coherent_ram")) {
		ASSERT_LE(0, dm_migrate(rig->dev[2].fd, rig->from,
					rig->first + LEN - FIRST,
					DEVMEM_MIGRATE_TO_SYSTEM));
	} else {
		ASSERT_EQ(0, madvise(rig->area.mem, DM_HUGE, MADV_COLLAPSE));
	}
	ASSERT_EQ((long)(rig->first / DM_PAGE),
		  dm_migrate(rig->dev[0].fd, rig->from, rig->first,
			     DEVMEM_MIGRATE_TO_DEVICE));
	ASSERT_EQ((long)((LEN - FIRST) / DM_PAGE),
		  dm_migrate(rig->dev[1].fd, rig->area.mem + FIRST,
			     LEN - FIRST, DEVMEM_MIGRATE_TO_DEVICE));
}

FIXTURE_SETUP(faults)
{
	struct rig *rig = &self->rig;
	char path[64];
	unsigned int i;

	rig->ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	ASSERT_GE(rig->ctl, 0);
	snprintf(path, sizeof(path), "/proc/self/task/%ld/fail-nth",
		 syscall(SYS_gettid));
	rig->nth = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(rig->nth, 0);

	for (i = 0; i < DEVICES; i++)
		ASSERT_EQ(0, dm_create(rig->ctl, MEM_SIZE, CHUNK_SIZE,
				       &rig->dev[i]));
	ASSERT_EQ(0, dm_area_init(&rig->area, LEN, BLOCK, true));
	ASSERT_EQ(0, madvise(rig->area.mem + DM_HUGE, LEN - DM_HUGE,
			     MADV_NOHUGEPAGE));
	for (i = 0; i < rig->area.nr; i++)
		dm_block_write(&rig->area, i, dm_fresh(i, 0, 1));
	/* Coherent memory has no huge pages: 512 small ones would be 512 faults to sweep. */
	rig->first = dm_coherent("coherent_ram") ? 2 * BLOCK : FIRST;
	rig->from = rig->area.mem + FIRST - rig->first;
	to_devices(_metadata, rig);
}

FIXTURE_TEARDOWN(faults)
{
	struct rig *rig = &self->rig;
	struct devmem_stats stats;
	unsigned int i;

	EXPECT_EQ(0, dm_area_wrong(&rig->area, 0, rig->area.nr));
	dm_area_fini(&rig->area);
	EXPECT_TRUE(dm_soon(!dm_pages_left(rig->ctl)));
	for (i = 0; i < DEVICES; i++) {
		if (rig->dev[i].fd < 0)
			continue;
		EXPECT_EQ(0, dm_stats(rig->dev[i].fd, &stats));
		EXPECT_EQ(0, stats.violations);
		EXPECT_EQ(0, dm_destroy(rig->ctl, rig->dev[i].id, 0, NULL));
		close(rig->dev[i].fd);
	}
	close(rig->nth);
	close(rig->ctl);
}

/* All that user space can see. */
struct state {
	struct devmem_topology_entry topo[DEVMEM_MAX_DEVICES];
	int nr;
	__u32 pages[LEN / DM_PAGE];
};

/* Work items move leftovers and free pages that are not in use. Have they finished? */
static bool settled(const struct state *state)
{
	int i;

	for (i = 0; i < state->nr; i++) {
		__u64 seen = 0;
		size_t p;

		if (state->topo[i].left_pages)
			return false;
		for (p = 0; p < LEN / DM_PAGE; p++)
			seen += (state->pages[p] & 0xffff) ==
				(DEVMEM_PAGE_DEVICE | state->topo[i].id << 8);
		if (seen != state->topo[i].resident_pages)
			return false;
	}
	return true;
}

static void look(struct __test_metadata *_metadata, struct rig *rig,
		 struct state *state)
{
	struct devmem_query query = {
		.addr = (unsigned long)rig->area.mem,
		.len = rig->area.len,
		.pages = (unsigned long)state->pages,
	};

	memset(state, 0, sizeof(*state));
	state->nr = dm_topology(rig->ctl, state->topo, DEVMEM_MAX_DEVICES);
	ASSERT_GE(state->nr, 0);
	ASSERT_EQ(0, dm_ioctl(rig->dev[2].fd, DRM_IOCTL_DEVMEM_QUERY, &query));
}

/* Issues the request to sweep, or undoes it. */
typedef int (*request_t)(struct rig *rig, bool undo);

/* Where pages may be after a request has failed, apart from where they were before. */
enum moves {
	NOTHING,	/* the request does not touch them */
	NOWHERE,
	SYSTEM,
	SYSTEM_OR_2,	/* or on device 2 */
};

static bool same(struct rig *rig, const struct state *a, const struct state *b,
		 enum moves moves)
{
	__u32 page;
	size_t i;

	if (a->nr != b->nr)
		return false;
	for (i = 0; i < (size_t)a->nr; i++) {
		if (a->topo[i].id != b->topo[i].id ||
		    a->topo[i].owner_id != b->topo[i].owner_id ||
		    a->topo[i].links != b->topo[i].links ||
		    (moves <= NOWHERE &&
		     a->topo[i].resident_pages != b->topo[i].resident_pages))
			return false;
	}
	for (i = 0; i < LEN / DM_PAGE; i++) {
		/* Whether a huge page is in one piece does not count. */
		page = b->pages[i] & 0xffff;
		if (page == (a->pages[i] & 0xffff) ||
		    (moves > NOWHERE && page == DEVMEM_PAGE_SYSTEM) ||
		    (moves == SYSTEM_OR_2 &&
		     page == (DEVMEM_PAGE_DEVICE | rig->dev[2].id << 8)))
			continue;
		return false;
	}
	return true;
}

/* Look at everything. False while a work item still has pages to move or to free. */
static bool look_settled(struct __test_metadata *_metadata, struct rig *rig,
			 struct state *state)
{
	look(_metadata, rig, state);
	return settled(state);
}

/* Look again: is everything as before, except for pages that may move? */
static bool look_same(struct __test_metadata *_metadata, struct rig *rig,
		      const struct state *before, struct state *after, enum moves moves)
{
	look(_metadata, rig, after);
	return same(rig, before, after, moves);
}

static bool becomes_settled(struct __test_metadata *_metadata, struct rig *rig,
			    struct state *state)
{
	return dm_soon(look_settled(_metadata, rig, state));
}

static bool becomes_same(struct __test_metadata *_metadata, struct rig *rig,
			 const struct state *before, struct state *after,
			 enum moves moves)
{
	return dm_soon(look_same(_metadata, rig, before, after, moves));
}

/*
 * The next allocation to fail. Most of a request's allocations repeat for each page or each
 * chunk, so devmem_faults fails only some of the later ones; devmem_faults_all fails all.
 */
static unsigned int next_fault(unsigned int n)
{
	return n + 1 + (DM_ALL ? 0 : n / EACH_FAULT);
}

static void sweep(struct __test_metadata *_metadata, struct rig *rig,
		  request_t request, enum moves moves, bool may_fail)
{
	static struct state before, after;
	unsigned int n, faults = 0, failed = 0;
	char text[16];
	int err;

	for (n = 1; n < MAX_FAULTS; n = next_fault(n)) {
		ssize_t len;

		ASSERT_TRUE(becomes_settled(_metadata, rig, &before)) {
			TH_LOG("fault %u: a device keeps unused pages, or leftovers", n);
		}
		len = snprintf(text, sizeof(text), "%u", n);
		ASSERT_EQ(len, pwrite(rig->nth, text, len, 0));
		err = request(rig, false);
		memset(text, 0, sizeof(text));
		ASSERT_GT(pread(rig->nth, text, sizeof(text) - 1, 0), 0);
		ASSERT_EQ(1, pwrite(rig->nth, "0", 1, 0));

		if (err) {
			failed++;
			EXPECT_TRUE(becomes_same(_metadata, rig, &before, &after, moves)) {
				TH_LOG("fault %u: error %d changed something", n, err);
			}
		} else {
			ASSERT_EQ(0, request(rig, true));
		}
		if (moves != NOTHING) {
			ASSERT_EQ(0, dm_area_wrong(&rig->area, 0, rig->area.nr)) {
				TH_LOG("fault %u: error %d cost something", n, err);
			}
			to_devices(_metadata, rig);
		}
		/* The request has fewer allocations than this: the end. */
		if (atoi(text))
			break;
		faults++;
	}
	ASSERT_LT(n, MAX_FAULTS);
	EXPECT_EQ(0, err);
	/* A request that may fail did fail, and the others did without the memory. */
	EXPECT_EQ(may_fail, failed > 0);
	TH_LOG("%u faults among %u allocations, %u made it fail", faults, n - 1, failed);
}

static int do_create(struct rig *rig, bool undo)
{
	static struct dm_dev dev;
	struct devmem_create args = { .mem_size = MEM_SIZE, .chunk_size = CHUNK_SIZE };
	int err;

	if (undo)
		return dm_destroy(rig->ctl, dev.id, 0, NULL);
	err = dm_ioctl(rig->ctl, DEVMEM_IOC_CREATE, &args);
	dev.id = args.id;
	return err;
}

TEST_F(faults, create)
{
	sweep(_metadata, &self->rig, do_create, NOTHING, true);
}

/*
 * Change a link. The kernel may lack memory for the request itself. For lack of memory for
 * pages or windows the request does not fail, and nothing is copied or lost.
 */
static int set_link(struct rig *rig, bool up, __u32 flags)
{
	struct devmem_link link = {
		.a = rig->dev[0].id,
		.b = rig->dev[1].id,
		.up = up,
	};
	struct devmem_op_stats stats;
	int err = dm_links(rig->ctl, &link, 1, flags, &stats);

	if ((err && err != -ENOMEM) || stats.bytes_copied || stats.pages_evacuated ||
	    stats.pages_poisoned)
		return -EPROTO;
	return err;
}

static int do_link(struct rig *rig, bool undo)
{
	return set_link(rig, !undo, 0);
}

TEST_F(faults, link_up)
{
	sweep(_metadata, &self->rig, do_link, NOWHERE, true);
}

static int do_unlink(struct rig *rig, bool undo)
{
	return do_link(rig, !undo);
}

TEST_F(faults, link_down)
{
	ASSERT_EQ(0, do_link(&self->rig, false));
	sweep(_metadata, &self->rig, do_unlink, NOWHERE, true);
}

static int do_forced_unlink(struct rig *rig, bool undo)
{
	return undo ? set_link(rig, true, 0) : set_link(rig, false, DEVMEM_FORCE);
}

TEST_F(faults, forced_link_down)
{
	ASSERT_EQ(0, do_link(&self->rig, false));
	sweep(_metadata, &self->rig, do_forced_unlink, NOWHERE, true);
}

static int leave(struct rig *rig, bool undo, __u32 flags)
{
	if (undo) {
		close(rig->dev[0].fd);
		return dm_create(rig->ctl, MEM_SIZE, CHUNK_SIZE, &rig->dev[0]);
	}
	return dm_destroy(rig->ctl, rig->dev[0].id, flags, NULL);
}

static int do_leave(struct rig *rig, bool undo)
{
	return leave(rig, undo, 0);
}

TEST_F(faults, leave)
{
	sweep(_metadata, &self->rig, do_leave, SYSTEM, false);
}

/* As above the kernel tries again: no byte is lost because an allocation fails. */
static int do_forced_leave(struct rig *rig, bool undo)
{
	return leave(rig, undo, DEVMEM_FORCE);
}

TEST_F(faults, forced_leave)
{
	sweep(_metadata, &self->rig, do_forced_leave, SYSTEM, false);
}

static int do_lose(struct rig *rig, bool undo)
{
	size_t i;

	if (undo) {
		/* All of the memory is lost. */
		if (mmap(rig->area.mem, FIRST, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
		    madvise(rig->area.mem, DM_HUGE, MADV_HUGEPAGE))
			return -errno;
		for (i = 0; i < FIRST / BLOCK; i++)
			dm_block_write(&rig->area, i, dm_fresh(i, 0, 1));
	}
	return leave(rig, undo, DEVMEM_LOST);
}

TEST_F(faults, loss)
{
	sweep(_metadata, &self->rig, do_lose, SYSTEM, false);
}

static int do_migrate(struct rig *rig, bool undo)
{
	long nr = dm_migrate(rig->dev[undo ? 0 : 2].fd, rig->from, rig->first,
			     DEVMEM_MIGRATE_TO_DEVICE);

	/* Without memory, some pages do not move. */
	return nr == (long)(rig->first / DM_PAGE) ? 0 : nr < 0 ? nr : -EBUSY;
}

TEST_F(faults, migrate_to_device)
{
	struct rig *rig = &self->rig;
	struct devmem_link link = {
		.a = rig->dev[0].id,
		.b = rig->dev[2].id,
		.up = 1,
	};

	/* The pages can only move between devices that are linked. */
	ASSERT_EQ(0, dm_links(rig->ctl, &link, 1, 0, NULL));
	sweep(_metadata, rig, do_migrate, SYSTEM_OR_2, true);
}

static int do_bring_back(struct rig *rig, bool undo)
{
	long nr = dm_migrate(rig->dev[0].fd, rig->from, rig->first,
			     undo ? DEVMEM_MIGRATE_TO_DEVICE : DEVMEM_MIGRATE_TO_SYSTEM);

	return nr < 0 ? nr : 0;
}

TEST_F(faults, migrate_to_system)
{
	sweep(_metadata, &self->rig, do_bring_back, SYSTEM, true);
}

static int do_exec(struct rig *rig, bool undo)
{
	/* A new file has new page tables, which take memory. */
	int fd = undo ? -1 : dm_open(rig->dev[2].minor), err;
	__u64 sum;

	if (undo)
		return 0;
	if (fd < 0)
		return fd;
	err = dm_checksum(fd, rig->from, BLOCK, &sum);
	close(fd);
	return err;
}

TEST_F(faults, exec)
{
	sweep(_metadata, &self->rig, do_exec, NOTHING, true);
}

static int do_fill(struct rig *rig, bool undo)
{
	return undo ? 0 : dm_fill(rig->dev[2].fd, rig->area.mem + DM_HUGE,
				  LEN - DM_HUGE, DM_HUGE / DM_WORD);
}

TEST_F(faults, fill)
{
	struct rig *rig = &self->rig;
	size_t i;

	/* A command that writes what is there already may end halfway. */
	for (i = 0; i < rig->area.nr; i++)
		dm_block_write(&rig->area, i, i * (BLOCK / DM_WORD));
	to_devices(_metadata, rig);
	sweep(_metadata, rig, do_fill, SYSTEM, true);
}

static int do_hold(struct rig *rig, bool undo)
{
	struct devmem_hold args = { .addr = (unsigned long)rig->from, .ms = 1 };

	return undo ? 0 : dm_ioctl(rig->dev[2].fd, DRM_IOCTL_DEVMEM_HOLD, &args);
}

TEST_F(faults, hold)
{
	sweep(_metadata, &self->rig, do_hold, NOTHING, true);
}

static int do_topology(struct rig *rig, bool undo)
{
	static struct devmem_topology_entry topo[DEVMEM_MAX_DEVICES];
	int nr = undo ? 0 : dm_topology(rig->ctl, topo, DEVMEM_MAX_DEVICES);

	return nr < 0 ? nr : 0;
}

TEST_F(faults, topology)
{
	sweep(_metadata, &self->rig, do_topology, NOTHING, false);
}

static int do_query(struct rig *rig, bool undo)
{
	struct dm_where where;

	return undo ? 0 : dm_where(rig->dev[2].fd, rig->area.mem, rig->area.len,
				   &where);
}

TEST_F(faults, query)
{
	sweep(_metadata, &self->rig, do_query, NOTHING, false);
}

static bool coherent(void)
{
	return dm_coherent("coherent_ram");
}

/* Only devmem_faults_all runs these. */
static const struct dm_left left_to_all[] = {
	/* These allocate the same for both kinds of memory. */
	{ "faults.create", coherent },
	{ "faults.fill", coherent },
	{ }
};

static const char *unsuitable(void)
{
	/* dm_unusable() tells users without permission what they lack. */
	if (geteuid() || quiet_faults())
		return NULL;
	return "the kernel has no fault injection, or no debugfs";
}

static void machine(void)
{
	ksft_print_msg("memory of devices: %s\n", coherent() ? "coherent" : "private");
}

int main(int argc, char **argv)
{
	const struct dm_program program = {
		.unsuitable = unsuitable,
		.machine = machine,
		.left = left_to_all,
	};

	return dm_main(argc, argv, &program);
}
