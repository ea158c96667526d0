// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of device memory in clusters of devices, with the virtual GPUs of
 * drm_devmem: see drivers/gpu/drm/devmem/devmem_test.h for what those can do.
 *
 * Each test makes the devices that it needs and removes them at the end. After
 * each test every device must say that its engine never used a link that was
 * down.
 *
 * Set DEVMEM_SEED to repeat the random choices of another run.
 *
 * If the module parameter coherent_ram is set, the devices have coherent memory. It
 * is copied when it gets another window, used in single pages, and a CPU access does not
 * bring it back to system memory. Everything else is the same for both kinds of memory.
 *
 * devmem_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_all runs.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "devmem_harness.h"

/* Sizes are for an emulated machine with two CPUs. */
#define SEED		20260101ULL
#define MEM_SIZE	(16 * DM_MIB)
/* Several regions a device, so that windows are used again in a move. */
#define CHUNK_SIZE	(8 * DM_MIB)
#define MAX_DEVS	8
#define BLOCK		(64 * 1024UL)
/* What a device holds in most tests. */
#define SHARE_SMALL	(512 * 1024UL)
#define SHARE_HUGE	DM_HUGE

/* Load: threads, each with a stripe of the memory. */
#define LOAD_THREADS	4
#define LOAD_STRIPE	(DM_ALL ? DM_MIB : DM_MIB / 2)
#define LOAD_BLOCK	(16 * 1024UL)
/* Blocks at the start of a stripe that are used more often. */
#define LOAD_HOT	4
#define LOAD_ROUNDS	(DM_ALL ? 4 : 2)
/* Steps of the load before the next change of the topology. */
#define LOAD_STEPS	(DM_ALL ? 40U : 12U)

#define RANDOM_ROUNDS	4

/* Timeout of a change that is expected to time out, in milliseconds. */
#define BOUND_MS	1000
/* The longest timeout that the driver takes, and the longest time that it holds a page. */
#define LONG_MS		60000

#define ATOMIC_WORDS	(2 * DM_PAGE / DM_WORD)
#define ATOMIC_ROUNDS	8
#define ATOMIC_CPU	16

/* Device ids that this program has to remove, in memory shared by all tests. */
static __u64 *live;

static __attribute__((constructor)) void live_init(void)
{
	live = mmap(NULL, sizeof(*live), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static bool coherent(void)
{
	return dm_coherent("coherent_ram");
}

static __u64 seed(void)
{
	const char *env = getenv("DEVMEM_SEED");

	return env ? strtoull(env, NULL, 0) : SEED;
}

/* --- devices --- */

/**
 * struct world - the devices of a test
 * @ctl: the misc device
 * @nr: number of entries in @dev that were made
 * @dev: the devices; @fd is -1 when one has been removed
 * @generation: so that no block ever gets the same contents again
 */
struct world {
	int ctl;
	unsigned int nr;
	struct dm_dev dev[MAX_DEVS];
	__u64 generation;
};

/* Nothing a device ever did was over a link that was down. */
static void no_violations(struct __test_metadata *_metadata, struct dm_dev *dev)
{
	struct devmem_stats stats;

	ASSERT_EQ(0, dm_stats(dev->fd, &stats));
	EXPECT_EQ(0, stats.violations) {
		TH_LOG("device %u", dev->id);
	}
}

static void dev_add(struct __test_metadata *_metadata, struct world *w,
		    unsigned int i, __u64 chunk_size)
{
	ASSERT_EQ(0, dm_create(w->ctl, MEM_SIZE, chunk_size, &w->dev[i]));
	*live |= 1ULL << w->dev[i].id;
}

/* Remove a device, but leave its file open. */
static int dev_leave(struct __test_metadata *_metadata, struct world *w,
		     unsigned int i, __u32 flags, struct devmem_op_stats *stats)
{
	int err;

	no_violations(_metadata, &w->dev[i]);
	err = dm_destroy(w->ctl, w->dev[i].id, flags, stats);
	if (!err)
		*live &= ~(1ULL << w->dev[i].id);
	return err;
}

static void dev_del(struct __test_metadata *_metadata, struct world *w,
		    unsigned int i, __u32 flags, struct devmem_op_stats *stats)
{
	ASSERT_EQ(0, dev_leave(_metadata, w, i, flags, stats));
	close(w->dev[i].fd);
	w->dev[i].fd = -1;
}

static void ctl_open(struct __test_metadata *_metadata, struct world *w)
{
	unsigned int i;

	w->nr = 0;
	for (i = 0; i < MAX_DEVS; i++)
		w->dev[i].fd = -1;

	w->ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	ASSERT_GE(w->ctl, 0);

	/* What a test that was killed has left behind. */
	for (i = 0; i < DEVMEM_MAX_DEVICES; i++)
		if (*live & 1ULL << i)
			dm_destroy(w->ctl, i, DEVMEM_FORCE, NULL);
	*live = 0;
}

static void world_init(struct __test_metadata *_metadata, struct world *w,
		       unsigned int nr, __u64 chunk_size)
{
	ctl_open(_metadata, w);
	for (w->nr = 0; w->nr < nr; w->nr++)
		dev_add(_metadata, w, w->nr, chunk_size);
}

static void world_fini(struct __test_metadata *_metadata, struct world *w)
{
	unsigned int i;

	if (w->ctl < 0)
		return;
	for (i = 0; i < w->nr; i++) {
		if (w->dev[i].fd < 0)
			continue;
		no_violations(_metadata, &w->dev[i]);
		EXPECT_EQ(0, dm_destroy(w->ctl, w->dev[i].id, 0, NULL));
		*live &= ~(1ULL << w->dev[i].id);
		close(w->dev[i].fd);
		w->dev[i].fd = -1;
	}
	close(w->ctl);
	w->ctl = -1;
}

/* --- topology --- */

/* Links between two sets of devices, as masks of indices, that may overlap. */
static unsigned int links_between(struct world *w, unsigned int set_a,
				  unsigned int set_b, bool up,
				  struct devmem_link *links)
{
	unsigned int a, b, nr = 0;

	for (a = 0; a < w->nr; a++) {
		for (b = 0; b < w->nr; b++) {
			if (a == b || !(set_a & 1U << a) || !(set_b & 1U << b))
				continue;
			/* Once, if both are in both. */
			if (b < a && (set_b & 1U << a) && (set_a & 1U << b))
				continue;
			links[nr].a = w->dev[a].id;
			links[nr].b = w->dev[b].id;
			links[nr].up = up;
			links[nr].pad = 0;
			nr++;
		}
	}
	return nr;
}

static int set_links(struct world *w, unsigned int set_a, unsigned int set_b,
		     bool up, __u32 flags, struct devmem_op_stats *stats)
{
	struct devmem_link links[MAX_DEVS * MAX_DEVS];
	unsigned int nr = links_between(w, set_a, set_b, up, links);

	return dm_links(w->ctl, links, nr, flags, stats);
}

static unsigned int all_of(struct world *w)
{
	return (1U << w->nr) - 1;
}

/* Entries by device index; those of removed devices are left alone. */
static void topology(struct __test_metadata *_metadata, struct world *w,
		     struct devmem_topology_entry *by_index)
{
	struct devmem_topology_entry entries[DEVMEM_MAX_DEVICES];
	int nr, i;
	unsigned int d;

	nr = dm_topology(w->ctl, entries, DEVMEM_MAX_DEVICES);
	ASSERT_GE(nr, 0);
	ASSERT_LE(nr, DEVMEM_MAX_DEVICES);
	for (i = 1; i < nr; i++)
		EXPECT_LT(entries[i - 1].id, entries[i].id);

	for (d = 0; d < w->nr; d++) {
		if (w->dev[d].fd < 0)
			continue;
		for (i = 0; i < nr; i++)
			if (entries[i].id == w->dev[d].id)
				break;
		ASSERT_LT(i, nr);
		by_index[d] = entries[i];
		EXPECT_NE(0, entries[i].owner_id);
		EXPECT_EQ(w->dev[d].minor, entries[i].render_minor);
		EXPECT_EQ(MEM_SIZE, entries[i].mem_size);
	}
}

static void link_all(struct __test_metadata *_metadata, struct world *w)
{
	struct devmem_topology_entry topo[MAX_DEVS];
	unsigned int i;

	if (w->nr < 2)
		return;
	ASSERT_EQ(0, set_links(w, all_of(w), all_of(w), true, 0, NULL));
	topology(_metadata, w, topo);
	for (i = 1; i < w->nr; i++)
		ASSERT_EQ(topo[0].owner_id, topo[i].owner_id);
}

/* Private memory is not copied for another window. */
static bool rehome_copied(const struct devmem_op_stats *stats)
{
	return coherent() ? stats->bytes_copied >= stats->pages_rehomed * DM_PAGE :
			    !stats->bytes_copied;
}

/*
 * A change of links between live devices while nobody uses them: it evacuates
 * nothing, and those whose owner changed, and no others, pay for it with what
 * they hold.
 */
static void change_links(struct __test_metadata *_metadata, struct world *w,
			 const struct devmem_link *links, unsigned int nr)
{
	struct devmem_topology_entry before[MAX_DEVS], after[MAX_DEVS];
	__u64 peers_moved = 0, pages_rehomed = 0;
	struct devmem_op_stats stats;
	unsigned int i;

	topology(_metadata, w, before);
	ASSERT_EQ(0, dm_links(w->ctl, links, nr, 0, &stats));
	topology(_metadata, w, after);

	for (i = 0; i < w->nr; i++) {
		EXPECT_EQ(before[i].resident_pages, after[i].resident_pages);
		if (before[i].owner_id == after[i].owner_id)
			continue;
		peers_moved++;
		pages_rehomed += before[i].resident_pages;
	}
	EXPECT_TRUE(rehome_copied(&stats));
	EXPECT_EQ(0, stats.pages_evacuated);
	EXPECT_EQ(peers_moved, stats.peers_moved);
	EXPECT_EQ(pages_rehomed, stats.pages_rehomed);
}

/* --- memory --- */

static void area_init(struct __test_metadata *_metadata, struct dm_area *area,
		      size_t len, size_t block, bool huge)
{
	ASSERT_EQ(0, dm_area_init(area, len, block, huge));
}

/* Fresh contents for @nr blocks, by the CPU. */
static void area_write(struct world *w, struct dm_area *area, size_t b,
		       size_t nr)
{
	__u64 generation = ++w->generation;

	for (; nr; nr--, b++)
		dm_block_write(area, b, dm_fresh(b, 0, generation));
}

/* Fresh contents for one block, by a device. */
static int area_fill(struct world *w, struct dm_area *area, size_t b, int fd)
{
	__u64 base = dm_fresh(b, 1, ++w->generation);
	int err = dm_fill(fd, dm_block(area, b), area->block, base);

	if (!err)
		area->base[b] = base;
	return err;
}

/* Something is added to one block by a device. */
static int area_add(struct world *w, struct dm_area *area, size_t b, int fd)
{
	__u64 value = dm_fresh(b, 2, ++w->generation);
	int err = dm_add(fd, dm_block(area, b), area->block, value);

	if (!err)
		area->base[b] += value;
	return err;
}

/* Does a device see what it should? */
static bool area_seen(struct dm_area *area, size_t b, size_t nr, int fd)
{
	__u64 sum;

	return !dm_checksum(fd, dm_block(area, b), nr * area->block, &sum) &&
	       sum == dm_area_sum(area, b, nr);
}

/* Bring @nr blocks to a device, and see that they are there. */
static void area_put(struct __test_metadata *_metadata, struct dm_area *area,
		     size_t b, size_t nr, struct dm_dev *dev)
{
	size_t len = nr * area->block;
	struct dm_where where;

	ASSERT_EQ((long)(len / DM_PAGE),
		  dm_migrate(dev->fd, dm_block(area, b), len,
			     DEVMEM_MIGRATE_TO_DEVICE));
	ASSERT_EQ(0, dm_where(dev->fd, dm_block(area, b), len, &where));
	ASSERT_EQ(len / DM_PAGE, where.device[dev->id]);
}

/* Pages of the whole area on a device. */
static unsigned long area_on(struct __test_metadata *_metadata,
			     struct dm_area *area, int fd, struct dm_dev *dev)
{
	struct dm_where where;

	ASSERT_EQ(0, dm_where(fd, area->mem, area->len, &where));
	return where.device[dev->id];
}

static void all_stats(struct __test_metadata *_metadata, struct world *w,
		      struct devmem_stats *stats)
{
	unsigned int i;

	for (i = 0; i < w->nr; i++)
		if (w->dev[i].fd >= 0)
			ASSERT_EQ(0, dm_stats(w->dev[i].fd, &stats[i]));
}

/* Nothing came to any device's memory and nothing left it; but see rehome_copied(). */
static void nothing_migrated(struct __test_metadata *_metadata, struct world *w,
			     const struct devmem_stats *before)
{
	struct devmem_stats after[MAX_DEVS];
	unsigned int i;

	all_stats(_metadata, w, after);
	for (i = 0; i < w->nr; i++) {
		if (w->dev[i].fd < 0)
			continue;
		EXPECT_EQ(before[i].migrated_in, after[i].migrated_in);
		EXPECT_EQ(before[i].migrated_out, after[i].migrated_out);
		EXPECT_EQ(before[i].evictions, after[i].evictions);
		if (!coherent())
			EXPECT_EQ(before[i].bytes_copied, after[i].bytes_copied);
	}
}

static bool is_all_free(struct dm_dev *dev)
{
	struct devmem_info info;

	return !dm_info(dev->fd, &info) && info.mem_free == info.mem_size;
}

/* Memory is given back by a worker, so this may take a moment. */
static void all_free(struct __test_metadata *_metadata, struct dm_dev *dev)
{
	EXPECT_TRUE(dm_soon(is_all_free(dev))) {
		TH_LOG("device %u does not get all of its memory back", dev->id);
	}
}

static bool no_huge_pages(void)
{
	char buf[64] = "";
	int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY);

	if (fd >= 0) {
		if (read(fd, buf, sizeof(buf) - 1) < 0)
			buf[0] = 0;
		close(fd);
	}
	return !buf[0] || strstr(buf, "[never]");
}

/* Wraps around; only differences count. */
static unsigned int microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000U + now.tv_nsec / 1000;
}

/* --- children --- */

/**
 * struct child - a process that runs in step with the test
 * @pid: the process
 * @go: written to by the test: go on
 * @done: read by the test: this far
 */
struct child {
	pid_t pid;
	int go[2];
	int done[2];
};

/* In the child. */
#define CHILD_CHECK(cond) do {						\
	if (!(cond)) {							\
		fprintf(stderr, "# %s:%d: child: not %s (errno %d)\n",	\
			__func__, __LINE__, #cond, errno);		\
		_exit(1);						\
	}								\
} while (0)

/* True in the child. */
static bool child_fork(struct __test_metadata *_metadata, struct child *child)
{
	ASSERT_EQ(0, pipe(child->go));
	ASSERT_EQ(0, pipe(child->done));
	child->pid = fork();
	ASSERT_GE(child->pid, 0);
	if (!child->pid) {
		/* Do not outlive a test that fails. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(child->go[1]);
		close(child->done[0]);
		return true;
	}
	close(child->go[0]);
	close(child->done[1]);
	return false;
}

static void child_fini(struct child *child)
{
	close(child->go[1]);
	close(child->done[0]);
}

/* In the child: tell the test, and wait for it. */
static void child_step(struct child *child)
{
	char c = 0;

	CHILD_CHECK(write(child->done[1], &c, 1) == 1);
	CHILD_CHECK(read(child->go[0], &c, 1) == 1);
}

/* In the test: the child has come to its next child_step(), or to its end. */
static bool child_waits(struct child *child)
{
	char c;

	return read(child->done[0], &c, 1) == 1;
}

static bool child_go(struct child *child)
{
	char c = 0;

	return write(child->go[1], &c, 1) == 1;
}

static bool child_good(struct child *child)
{
	int status;

	return waitpid(child->pid, &status, 0) == child->pid &&
	       WIFEXITED(status) && !WEXITSTATUS(status);
}

/* ========================================================================= */
/* Devices that are all linked: one cluster.                                  */

FIXTURE(cluster)
{
	struct world w;
};

FIXTURE_VARIANT(cluster)
{
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(cluster, of_1) { .nr = 1, };
FIXTURE_VARIANT_ADD(cluster, of_2) { .nr = 2, };
FIXTURE_VARIANT_ADD(cluster, of_4) { .nr = 4, };
FIXTURE_VARIANT_ADD(cluster, of_8) { .nr = 8, };

FIXTURE_SETUP(cluster)
{
	world_init(_metadata, &self->w, variant->nr, CHUNK_SIZE);
	link_all(_metadata, &self->w);
}

FIXTURE_TEARDOWN(cluster)
{
	world_fini(_metadata, &self->w);
}

/*
 * Each device holds a share of the memory, and each device reads and writes all
 * of it: no page moves.
 */
static void in_place(struct __test_metadata *_metadata, struct world *w,
		     size_t share, bool huge)
{
	struct devmem_stats before[MAX_DEVS], after[MAX_DEVS];
	size_t per_share = share / BLOCK, pages = share / DM_PAGE;
	__u32 *where_before, *where_after;
	struct dm_area area;
	unsigned int i, d;
	size_t p, total;

	area_init(_metadata, &area, w->nr * share, BLOCK, huge);
	total = area.len / DM_PAGE;
	area_write(w, &area, 0, area.nr);
	for (d = 0; d < w->nr; d++)
		area_put(_metadata, &area, d * per_share, per_share, &w->dev[d]);

	where_before = calloc(total, sizeof(__u32));
	where_after = calloc(total, sizeof(__u32));
	ASSERT_NE(NULL, where_before);
	ASSERT_NE(NULL, where_after);
	ASSERT_EQ(0, dm_query(w->dev[0].fd, area.mem, area.len, where_before));
	for (p = 0; p < total; p++) {
		d = p / pages;
		ASSERT_EQ(DEVMEM_PAGE_DEVICE | w->dev[d].id << 8 |
			  (huge && !coherent() ? DEVMEM_PAGE_HUGE : 0),
			  where_before[p]);
	}
	all_stats(_metadata, w, before);

	for (i = 0; i < w->nr; i++) {
		for (d = 0; d < w->nr; d++) {
			EXPECT_TRUE(area_seen(&area, d * per_share, per_share,
					      w->dev[i].fd)) {
				TH_LOG("device %u reads memory of %u", i, d);
			}
		}
	}

	/* Each with two blocks of each, and another one looks. */
	for (i = 0; i < w->nr; i++) {
		for (d = 0; d < w->nr; d++) {
			size_t b = d * per_share + (2 * i) % per_share;

			EXPECT_EQ(0, area_fill(w, &area, b, w->dev[i].fd));
			EXPECT_EQ(0, area_add(w, &area, b + 1, w->dev[i].fd));
			EXPECT_TRUE(area_seen(&area, b, 2,
					      w->dev[(i + 1) % w->nr].fd)) {
				TH_LOG("device %u wrote memory of %u", i, d);
			}
		}
	}
	/* In the end each device reads what all have written to another device's memory. */
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, i * per_share, per_share,
				      w->dev[(i + 1) % w->nr].fd));

	nothing_migrated(_metadata, w, before);
	all_stats(_metadata, w, after);
	for (i = 0; i < w->nr; i++) {
		EXPECT_GE(after[i].mapped_local - before[i].mapped_local, pages);
		EXPECT_GE(after[i].mapped_peer - before[i].mapped_peer,
			  (w->nr - 1) * pages);
		EXPECT_EQ(after[i].mapped_system, before[i].mapped_system);
		EXPECT_EQ(0, after[i].link_errors);
	}
	ASSERT_EQ(0, dm_query(w->dev[0].fd, area.mem, area.len, where_after));
	EXPECT_EQ(0, memcmp(where_before, where_after, total * sizeof(__u32)));

	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	free(where_before);
	free(where_after);
	dm_area_fini(&area);
}

TEST_F(cluster, in_place_small)
{
	in_place(_metadata, &self->w, SHARE_SMALL, false);
}

TEST_F(cluster, in_place_huge)
{
	if (no_huge_pages())
		SKIP(return, "transparent huge pages are off");
	in_place(_metadata, &self->w, SHARE_HUGE, true);
}

/*
 * A range that starts inside of a 2 MiB folio. The device's range of 64 KiB is
 * made while the neighbourhood is mixed, and stays when a folio of 2 MiB takes
 * its place.
 */
TEST_F(cluster, in_place_part_of_huge)
{
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	struct dm_area area;
	struct dm_where where;
	size_t b = 5;
	unsigned int i;

	if (no_huge_pages())
		SKIP(return, "transparent huge pages are off");
	if (coherent())
		SKIP(return, "coherent memory has no huge pages");

	area_init(_metadata, &area, DM_HUGE, BLOCK, true);
	area_write(w, &area, 0, area.nr);
	area_put(_metadata, &area, 0, 1, &w->dev[0]);
	for (i = 0; i < w->nr; i++)
		ASSERT_TRUE(area_seen(&area, b, 1, w->dev[i].fd));

	ASSERT_EQ(0, madvise(area.mem, area.len, MADV_DONTNEED));
	area_write(w, &area, 0, area.nr);
	area_put(_metadata, &area, 0, area.nr, &w->dev[0]);
	ASSERT_EQ(0, dm_where(w->dev[0].fd, area.mem, area.len, &where));
	ASSERT_EQ(DM_HUGE / DM_PAGE, where.huge);

	all_stats(_metadata, w, before);
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, b, 1, w->dev[i].fd));
	for (i = 0; i < w->nr; i++)
		EXPECT_EQ(0, area_fill(w, &area, b, w->dev[i].fd));
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
	nothing_migrated(_metadata, w, before);

	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/* One command over a range whose pages are on all devices in turn. */
TEST_F(cluster, range_across_devices)
{
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	struct dm_area area;
	unsigned int i;
	size_t b;
	__u64 base;

	area_init(_metadata, &area, 64 * DM_PAGE, DM_PAGE, false);
	area_write(w, &area, 0, area.nr);
	for (b = 0; b < area.nr; b++)
		area_put(_metadata, &area, b, 1, &w->dev[b % w->nr]);

	all_stats(_metadata, w, before);
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
	for (i = 0; i < w->nr; i++) {
		base = dm_fresh(i, 3, ++w->generation);
		ASSERT_EQ(0, dm_fill(w->dev[i].fd, area.mem, area.len, base));
		for (b = 0; b < area.nr; b++)
			area.base[b] = base + b * (DM_PAGE / DM_WORD);
		EXPECT_TRUE(area_seen(&area, 0, area.nr,
				      w->dev[(i + 1) % w->nr].fd));
	}
	/* A word of one device's memory next to one of another's. */
	base = area.base[0] + DM_PAGE / DM_WORD - 1;
	ASSERT_EQ(0, dm_add(w->dev[0].fd, area.mem + DM_PAGE - DM_WORD,
			    2 * DM_WORD, 1));
	nothing_migrated(_metadata, w, before);
	for (i = 0; i < w->nr; i++)
		EXPECT_EQ(area.nr / w->nr, area_on(_metadata, &area, w->dev[0].fd,
						   &w->dev[i]));

	EXPECT_EQ(base + 1, *(__u64 *)(area.mem + DM_PAGE - DM_WORD));
	EXPECT_EQ(base + 2, *(__u64 *)(area.mem + DM_PAGE));
	EXPECT_EQ(0, dm_area_wrong(&area, 2, area.nr - 2));
	dm_area_fini(&area);
}

/* --- atomics --- */

struct atomic_thread {
	pthread_t thread;
	int fd;
	__u64 *words;
	__u64 value;
	int err;
};

static void *atomic_device(void *arg)
{
	struct atomic_thread *t = arg;
	unsigned int i;

	for (i = 0; i < ATOMIC_ROUNDS && !t->err; i++)
		t->err = dm_add(t->fd, t->words, ATOMIC_WORDS * DM_WORD, t->value);
	return NULL;
}

static void *atomic_cpu(void *arg)
{
	struct atomic_thread *t = arg;
	unsigned int i, j;

	for (i = 0; i < ATOMIC_CPU; i++)
		for (j = 0; j < ATOMIC_WORDS; j++)
			__atomic_fetch_add(&t->words[j], t->value,
					   __ATOMIC_SEQ_CST);
	return NULL;
}

/* Additions of all devices and a CPU to the same words: none gets lost. */
TEST_F(cluster, atomics)
{
	struct atomic_thread threads[MAX_DEVS + 1] = {};
	struct world *w = &self->w;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_ATOMIC_ADD,
		.len = 2 * DM_WORD,
		.value = 5,
	};
	struct dm_area area;
	unsigned int i, wrong = 0;
	__u64 sum = 0;

	area_init(_metadata, &area, ATOMIC_WORDS * DM_WORD, DM_PAGE, false);
	area_write(w, &area, 0, area.nr);
	area_put(_metadata, &area, 0, 1, &w->dev[0]);
	area_put(_metadata, &area, 1, 1, &w->dev[w->nr - 1]);

	for (i = 0; i <= w->nr; i++) {
		threads[i].fd = i < w->nr ? w->dev[i].fd : -1;
		threads[i].words = (__u64 *)area.mem;
		threads[i].value = (1ULL << 32) + 2 * i + 1;
		sum += threads[i].value * (i < w->nr ? ATOMIC_ROUNDS : ATOMIC_CPU);
		ASSERT_EQ(0, pthread_create(&threads[i].thread, NULL,
					    i < w->nr ? atomic_device : atomic_cpu,
					    &threads[i]));
	}
	for (i = 0; i <= w->nr; i++) {
		ASSERT_EQ(0, pthread_join(threads[i].thread, NULL));
		EXPECT_EQ(0, threads[i].err);
	}
	for (i = 0; i < area.nr; i++) {
		area.base[i] += sum;
		wrong += dm_block_wrong(&area, i);
	}
	EXPECT_EQ(0, wrong);

	/* The result is what the last word was before. */
	exec.dst = (__u64)(unsigned long)area.mem;
	EXPECT_EQ(0, dm_exec(w->dev[0].fd, &exec));
	EXPECT_EQ(area.base[0] + 1, exec.result);
	EXPECT_EQ(exec.len, exec.done);
	EXPECT_EQ(area.base[0] + 6, *(__u64 *)(area.mem + DM_WORD));
	dm_area_fini(&area);
}

/* --- life --- */

/* A process ends, one way or the other, with pages on all devices. */
TEST_F(cluster, exit_with_pages)
{
	struct world *w = &self->w;
	unsigned int i, kill_it;

	for (kill_it = 0; kill_it < 2; kill_it++) {
		struct child child;

		if (child_fork(_metadata, &child)) {
			size_t share = 2 * DM_HUGE;
			struct dm_area area;
			unsigned int d;

			CHILD_CHECK(!dm_area_init(&area, w->nr * share, BLOCK, true));
			area_write(w, &area, 0, area.nr);
			for (d = 0; d < w->nr; d++) {
				size_t b = d * (share / BLOCK);
				int fd = dm_open(w->dev[d].minor);

				CHILD_CHECK(fd >= 0);
				CHILD_CHECK(dm_migrate(fd, dm_block(&area, b), share,
						       DEVMEM_MIGRATE_TO_DEVICE) ==
					    (long)(share / DM_PAGE));
				CHILD_CHECK(area_seen(&area, b, share / BLOCK, fd));
			}
			child_step(&child);
			_exit(0);
		}
		ASSERT_TRUE(child_waits(&child));
		for (i = 0; i < w->nr; i++) {
			struct devmem_info info;

			ASSERT_EQ(0, dm_info(w->dev[i].fd, &info));
			EXPECT_EQ(info.mem_size - 2 * DM_HUGE, info.mem_free);
		}
		if (kill_it) {
			int status;

			ASSERT_EQ(0, kill(child.pid, SIGKILL));
			ASSERT_EQ(child.pid, waitpid(child.pid, &status, 0));
			EXPECT_TRUE(WIFSIGNALED(status));
		} else {
			ASSERT_TRUE(child_go(&child));
			EXPECT_TRUE(child_good(&child));
		}
		child_fini(&child);
		for (i = 0; i < w->nr; i++)
			all_free(_metadata, &w->dev[i]);
	}
}

/* A device leaves with what it holds; another one takes its place. */
TEST_F(cluster, leave_and_join)
{
	size_t share = SHARE_SMALL, per_share = share / BLOCK;
	struct devmem_topology_entry topo[MAX_DEVS];
	struct devmem_stats before[MAX_DEVS];
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	unsigned int last = w->nr - 1, i;
	struct dm_where where;
	struct dm_area area;

	area_init(_metadata, &area, w->nr * share, BLOCK, false);
	area_write(w, &area, 0, area.nr);
	for (i = 0; i < w->nr; i++)
		area_put(_metadata, &area, i * per_share, per_share, &w->dev[i]);
	/* All map all of it. */
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));

	dev_del(_metadata, w, last, 0, &stats);
	EXPECT_EQ(share / DM_PAGE, stats.pages_evacuated);
	EXPECT_EQ(share, stats.bytes_copied);
	EXPECT_EQ(0, stats.pages_rehomed);
	EXPECT_EQ(0, stats.peers_moved);
	EXPECT_EQ(-ENOENT, dm_destroy(w->ctl, w->dev[last].id, 0, NULL));

	all_stats(_metadata, w, before);
	for (i = 0; i < last; i++) {
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
		EXPECT_EQ(share / DM_PAGE,
			  area_on(_metadata, &area, w->dev[0].fd, &w->dev[i]));
	}
	nothing_migrated(_metadata, w, before);
	if (last) {
		ASSERT_EQ(0, dm_where(w->dev[0].fd, area.mem, area.len, &where));
		EXPECT_EQ(share / DM_PAGE, where.system);
	} else {
		EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	}

	dev_add(_metadata, w, last, CHUNK_SIZE);
	if (last) {
		ASSERT_EQ(0, set_links(w, 1U << last, all_of(w), true, 0, &stats));
		EXPECT_TRUE(rehome_copied(&stats));
		EXPECT_EQ(0, stats.pages_evacuated);
		EXPECT_EQ(0, stats.pages_rehomed);
		EXPECT_EQ(1, stats.peers_moved);
	}
	topology(_metadata, w, topo);
	for (i = 0; i < w->nr; i++)
		EXPECT_EQ(topo[0].owner_id, topo[i].owner_id);

	area_put(_metadata, &area, last * per_share, per_share, &w->dev[last]);
	all_stats(_metadata, w, before);
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
	nothing_migrated(_metadata, w, before);

	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/* ========================================================================= */
/* Load: threads that write and check while the topology changes.             */

/* What may happen to commands of the load. */
#define LOAD_DEVICES_LEAVE	1	/* ENODEV, and not placed */
#define LOAD_LINKS_DIE		2	/* EIO */

/**
 * struct load - threads at work
 * @area: the memory; each thread has a stripe of it
 * @minors: render minors of the devices that can be used, or -1
 * @allowed: LOAD_*
 * @stop: set at the end
 * @failed: a thread has failed
 * @steps: posted for each step of a thread
 * @threads: the threads
 */
struct load {
	struct dm_area area;
	int minors[MAX_DEVS];
	unsigned int allowed;
	bool stop, failed;
	sem_t steps;
	struct load_thread {
		pthread_t thread;
		struct load *load;
		unsigned int index;
		__u64 random;
		__u64 generation;
		/* Own files, hence own address spaces of the devices. */
		int minors[MAX_DEVS];
		int fds[MAX_DEVS];
		/* For people. */
		unsigned long nr_steps, nr_device, nr_gone, nr_dead, nr_busy;
		/* What went wrong, or empty. */
		char error[160];
	} threads[LOAD_THREADS];
};

static __printf(2, 3) bool load_fail(struct load_thread *t, const char *format,
				     ...)
{
	va_list args;

	if (!t->error[0]) {
		va_start(args, format);
		vsnprintf(t->error, sizeof(t->error), format, args);
		va_end(args);
	}
	return false;
}

/* A file of any device that is there, or -1. */
static int load_device(struct load_thread *t)
{
	unsigned int first = dm_rnd(&t->random) % MAX_DEVS, i, d;

	for (i = 0; i < MAX_DEVS; i++) {
		int minor;

		d = (first + i) % MAX_DEVS;
		minor = __atomic_load_n(&t->load->minors[d], __ATOMIC_ACQUIRE);
		if (minor != t->minors[d] && t->fds[d] >= 0) {
			close(t->fds[d]);
			t->fds[d] = -1;
		}
		t->minors[d] = minor;
		if (minor < 0)
			continue;
		if (t->fds[d] < 0)
			t->fds[d] = dm_open(minor);
		if (t->fds[d] >= 0)
			return t->fds[d];
		if (!(t->load->allowed & LOAD_DEVICES_LEAVE))
			load_fail(t, "can't open renderD%d: %s", minor,
				  strerror(-t->fds[d]));
		t->fds[d] = -1;
	}
	return -1;
}

/*
 * Run a command on some device, and if that goes away or its link dies, the rest
 * of it on another. 1: there is no device. -1: it failed.
 */
static int load_exec(struct load_thread *t, struct devmem_exec *exec)
{
	struct devmem_exec part = *exec;
	unsigned int busy = 0;

	for (;;) {
		int fd = load_device(t), err;

		if (fd < 0)
			return t->error[0] ? -1 : 1;

		part.done = 0;
		err = dm_exec(fd, &part);
		if (!err) {
			exec->result = part.result;
			t->nr_device++;
			return 0;
		}

		if (err == -ENODEV && t->load->allowed & LOAD_DEVICES_LEAVE) {
			t->nr_gone++;
		} else if (err == -EIO && t->load->allowed & LOAD_LINKS_DIE) {
			t->nr_dead++;
		} else if (err == -EBUSY && busy++ < 3) {
			t->nr_busy++;
		} else {
			load_fail(t, "EXEC %u of %#llx: %s after %llu bytes",
				  part.op, part.op == DEVMEM_OP_CHECKSUM ?
				  part.src : part.dst, strerror(-err), part.done);
			return -1;
		}

		/* Whoever changes the topology needs the CPU, too. */
		sched_yield();
		/* A sum can not be continued. */
		if (part.op == DEVMEM_OP_CHECKSUM)
			continue;
		if (part.done >= part.len) {
			load_fail(t, "EXEC %u: %s, but all was done", part.op,
				  strerror(-err));
			return -1;
		}
		part.dst += part.done;
		if (part.op == DEVMEM_OP_COPY)
			part.src += part.done;
		if (part.op == DEVMEM_OP_FILL)
			part.value += part.done / DM_WORD;
		part.len -= part.done;
	}
}

static int load_fill(struct load_thread *t, size_t b, __u64 base)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_FILL,
		.flags = DEVMEM_EXEC_COUNT,
		.dst = (__u64)(unsigned long)dm_block(area, b),
		.len = area->block,
		.value = base,
	};
	int ret = load_exec(t, &exec);

	if (!ret)
		area->base[b] = base;
	return ret;
}

static int load_add(struct load_thread *t, size_t b, __u64 value)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_ATOMIC_ADD,
		.dst = (__u64)(unsigned long)dm_block(area, b),
		.len = area->block,
		.value = value,
	};
	int ret = load_exec(t, &exec);

	if (!ret)
		area->base[b] += value;
	return ret;
}

static int load_copy(struct load_thread *t, size_t to, size_t from)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_COPY,
		.dst = (__u64)(unsigned long)dm_block(area, to),
		.src = (__u64)(unsigned long)dm_block(area, from),
		.len = area->block,
	};
	int ret = load_exec(t, &exec);

	if (!ret)
		area->base[to] = area->base[from];
	return ret;
}

static int load_sum(struct load_thread *t, size_t b)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_CHECKSUM,
		.src = (__u64)(unsigned long)dm_block(area, b),
		.len = area->block,
	};
	int ret = load_exec(t, &exec);

	if (!ret && exec.result != dm_area_sum(area, b, 1)) {
		load_fail(t, "block %zu: a device reads something else", b);
		return -1;
	}
	return ret;
}

/* To some device, or to system memory. */
static int load_migrate(struct load_thread *t, void *addr, size_t len, __u32 flags)
{
	int fd = load_device(t);
	long pages;

	if (fd < 0)
		return t->error[0] ? -1 : 1;
	pages = dm_migrate(fd, addr, len, flags);
	if (pages >= 0)
		return 0;
	if (t->load->allowed & LOAD_DEVICES_LEAVE &&
	    (pages == -ENODEV || pages == -ENOSPC)) {
		t->nr_gone++;
		return 0;
	}
	/* After a forced change there may be no device memory. */
	if (t->load->allowed & LOAD_LINKS_DIE &&
	    (pages == -EIO || pages == -ENOSPC)) {
		t->nr_dead++;
		return 0;
	}
	/* Others use the pages. */
	if (flags == DEVMEM_MIGRATE_TO_SYSTEM && pages == -EBUSY) {
		t->nr_busy++;
		return 0;
	}
	load_fail(t, "MIGRATE to %s: %s", flags == DEVMEM_MIGRATE_TO_DEVICE ?
		  "device" : "system", strerror(-pages));
	return -1;
}

static bool load_check_cpu(struct load_thread *t, size_t b)
{
	size_t wrong = dm_block_wrong(&t->load->area, b);

	if (wrong)
		load_fail(t, "block %zu: CPU reads %zu wrong bytes", b, wrong);
	return !wrong;
}

static size_t load_block(struct load_thread *t)
{
	size_t per = LOAD_STRIPE / LOAD_BLOCK;

	if (dm_rnd(&t->random) % 4)
		per = LOAD_HOT;
	return t->index * (LOAD_STRIPE / LOAD_BLOCK) + dm_rnd(&t->random) % per;
}

/* One thing at random with one block of the thread's stripe. */
static bool load_step(struct load_thread *t)
{
	struct dm_area *area = &t->load->area;
	size_t b = load_block(t), other = load_block(t);
	__u64 fresh = dm_fresh(b, t->index, ++t->generation);
	int ret = 0;

	switch (dm_rnd(&t->random) % 32) {
	case 0 ... 1:
		dm_block_write(area, b, fresh);
		break;
	case 2:
		return load_check_cpu(t, b);
	case 3 ... 9:
		ret = load_fill(t, b, fresh);
		break;
	case 10 ... 15:
		ret = load_add(t, b, fresh);
		break;
	case 16 ... 23:
		ret = load_sum(t, b);
		break;
	case 24 ... 25:
		if (other == b)
			break;
		ret = load_copy(t, other, b);
		/* No two blocks are the same. */
		if (!ret)
			ret = load_add(t, other, fresh);
		if (ret == 1)
			dm_block_write(area, other, ~fresh);
		break;
	case 26 ... 29:
		ret = load_migrate(t, dm_block(area, b), area->block,
				   DEVMEM_MIGRATE_TO_DEVICE);
		break;
	case 30:
		/* A whole huge page: others' stripes, too. */
		ret = load_migrate(t, area->mem + b * area->block / DM_HUGE * DM_HUGE,
				   DM_HUGE, DEVMEM_MIGRATE_TO_DEVICE);
		break;
	case 31:
		ret = load_migrate(t, dm_block(area, b), area->block,
				   DEVMEM_MIGRATE_TO_SYSTEM);
		break;
	}
	/* Without any device, it is up to the CPU. */
	if (ret == 1)
		dm_block_write(area, b, fresh);
	return ret >= 0;
}

static void *load_main(void *arg)
{
	struct load_thread *t = arg;
	size_t per = LOAD_STRIPE / LOAD_BLOCK, b;
	unsigned int d;

	while (!__atomic_load_n(&t->load->stop, __ATOMIC_ACQUIRE) && load_step(t)) {
		t->nr_steps++;
		sem_post(&t->load->steps);
	}
	if (t->error[0])
		__atomic_store_n(&t->load->failed, true, __ATOMIC_RELEASE);

	for (b = t->index * per; b < (t->index + 1) * per && !t->error[0]; b++)
		if (load_sum(t, b) >= 0)
			load_check_cpu(t, b);
	for (d = 0; d < MAX_DEVS; d++)
		if (t->fds[d] >= 0)
			close(t->fds[d]);
	return NULL;
}

static void load_publish(struct load *load, struct world *w, unsigned int d,
			 bool there)
{
	__atomic_store_n(&load->minors[d], there ? (int)w->dev[d].minor : -1,
			 __ATOMIC_RELEASE);
}

static void load_start(struct __test_metadata *_metadata, struct load *load,
		       struct world *w, unsigned int allowed)
{
	unsigned int i, d;
	size_t b, per;

	TH_LOG("seed %#llx", seed());
	memset(load, 0, sizeof(*load));
	load->allowed = allowed;
	ASSERT_EQ(0, sem_init(&load->steps, 0, 0));
	area_init(_metadata, &load->area, LOAD_THREADS * LOAD_STRIPE, LOAD_BLOCK,
		  true);
	area_write(w, &load->area, 0, load->area.nr);
	/* One huge page of it to every other device. */
	per = DM_HUGE / LOAD_BLOCK;
	for (b = 0; b < load->area.nr; b += per)
		area_put(_metadata, &load->area, b, per,
			 &w->dev[b / per * 2 % w->nr]);

	for (d = 0; d < MAX_DEVS; d++)
		load_publish(load, w, d, d < w->nr && w->dev[d].fd >= 0);
	for (i = 0; i < LOAD_THREADS; i++) {
		struct load_thread *t = &load->threads[i];

		t->load = load;
		t->index = i;
		t->random = dm_mix(seed() + i);
		for (d = 0; d < MAX_DEVS; d++) {
			t->minors[d] = -1;
			t->fds[d] = -1;
		}
		ASSERT_EQ(0, pthread_create(&t->thread, NULL, load_main, t));
	}
}

/* Wait for LOAD_STEPS steps of the threads; false if a thread has failed. */
static bool load_progress(struct load *load)
{
	struct timespec end;
	unsigned int i = 0;

	while (!sem_trywait(&load->steps))
		;
	while (i < LOAD_STEPS) {
		/* Look for a failure now and then. There is no limit but that of the test. */
		clock_gettime(CLOCK_REALTIME, &end);
		end.tv_sec++;
		if (!sem_timedwait(&load->steps, &end))
			i++;
		else if (__atomic_load_n(&load->failed, __ATOMIC_ACQUIRE))
			return false;
	}
	return true;
}

static void load_end(struct __test_metadata *_metadata, struct load *load,
		     struct world *w)
{
	unsigned long steps = 0, device = 0, gone = 0, dead = 0, busy = 0;
	unsigned int i;

	__atomic_store_n(&load->stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < LOAD_THREADS; i++) {
		struct load_thread *t = &load->threads[i];

		ASSERT_EQ(0, pthread_join(t->thread, NULL));
		EXPECT_STREQ("", t->error);
		steps += t->nr_steps;
		device += t->nr_device;
		gone += t->nr_gone;
		dead += t->nr_dead;
		busy += t->nr_busy;
	}
	TH_LOG("%lu steps, %lu commands; device gone %lu, link dead %lu, busy %lu",
	       steps, device, gone, dead, busy);

	/* The threads have checked all of it; each device checks a part. */
	for (i = 0; i < w->nr; i++) {
		size_t nr = load->area.nr / w->nr;

		if (w->dev[i].fd >= 0)
			EXPECT_TRUE(area_seen(&load->area, i * nr, nr, w->dev[i].fd));
	}
	EXPECT_EQ(0, dm_area_wrong(&load->area, 0, load->area.nr));
	dm_area_fini(&load->area);
	sem_destroy(&load->steps);
}

/* Devices leave and others join while threads use them. */
TEST_F(cluster, load_leave_and_join)
{
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct load load;
	unsigned int round;

	load_start(_metadata, &load, w, LOAD_DEVICES_LEAVE);
	for (round = 0; round < LOAD_ROUNDS; round++) {
		unsigned int d = round % w->nr;

		if (!load_progress(&load))
			break;
		dev_del(_metadata, w, d, 0, &stats);
		/* More, if a page is copied and then in use, so that it stays. */
		EXPECT_LE(stats.pages_evacuated * DM_PAGE, stats.bytes_copied);
		EXPECT_EQ(0, stats.pages_rehomed);
		EXPECT_EQ(0, stats.peers_moved);
		load_publish(&load, w, d, false);

		if (!load_progress(&load))
			break;
		dev_add(_metadata, w, d, CHUNK_SIZE);
		load_publish(&load, w, d, true);
		if (w->nr > 1)
			EXPECT_EQ(0, set_links(w, 1U << d, all_of(w), true, 0,
					       NULL));
	}
	EXPECT_TRUE(load_progress(&load));
	load_end(_metadata, &load, w);
}

/* The same, but they do not ask. */
TEST_F(cluster, load_forced_leave)
{
	struct world *w = &self->w;
	struct load load;

	load_start(_metadata, &load, w, LOAD_DEVICES_LEAVE);
	EXPECT_TRUE(load_progress(&load));
	dev_del(_metadata, w, 0, DEVMEM_FORCE, NULL);
	load_publish(&load, w, 0, false);
	EXPECT_TRUE(load_progress(&load));
	load_end(_metadata, &load, w);
}

/* ========================================================================= */
/* Links that change. The devices begin without any.                          */

FIXTURE(links)
{
	struct world w;
};

FIXTURE_VARIANT(links)
{
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(links, of_2) { .nr = 2, };
FIXTURE_VARIANT_ADD(links, of_4) { .nr = 4, };
FIXTURE_VARIANT_ADD(links, of_8) { .nr = 8, };

FIXTURE_SETUP(links)
{
	world_init(_metadata, &self->w, variant->nr, CHUNK_SIZE);
}

FIXTURE_TEARDOWN(links)
{
	world_fini(_metadata, &self->w);
}

/* A device of another cluster does not use it in place. */
TEST_F(links, separate_clusters)
{
	size_t per_share = SHARE_SMALL / BLOCK, pages = SHARE_SMALL / DM_PAGE;
	struct devmem_topology_entry topo[MAX_DEVS];
	struct devmem_stats before[MAX_DEVS], after[MAX_DEVS];
	struct world *w = &self->w;
	struct dm_where where;
	struct dm_area area;
	unsigned int i, j;

	topology(_metadata, w, topo);
	for (i = 0; i < w->nr; i++) {
		EXPECT_EQ(0, topo[i].links);
		for (j = 0; j < i; j++)
			EXPECT_NE(topo[i].owner_id, topo[j].owner_id);
	}

	area_init(_metadata, &area, SHARE_SMALL, BLOCK, false);
	area_write(w, &area, 0, area.nr);
	for (i = 0; i < w->nr; i++) {
		j = (i + 1) % w->nr;
		area_put(_metadata, &area, 0, per_share, &w->dev[i]);
		ASSERT_TRUE(area_seen(&area, 0, per_share, w->dev[i].fd));
		all_stats(_metadata, w, before);

		/*
		 * The first half comes to system memory; as for the rest, a
		 * device may fault in more than it was told to use.
		 */
		if (i & 1) {
			EXPECT_TRUE(area_seen(&area, 0, per_share / 2,
					      w->dev[j].fd));
		} else {
			for (size_t b = 0; b < per_share / 2; b++)
				EXPECT_EQ(0, area_fill(w, &area, b, w->dev[j].fd));
		}
		ASSERT_EQ(0, dm_where(w->dev[i].fd, area.mem, area.len / 2,
				      &where));
		EXPECT_EQ(pages / 2, where.system);
		ASSERT_EQ(0, dm_where(w->dev[i].fd, area.mem, area.len, &where));
		EXPECT_EQ(pages, where.system + where.device[w->dev[i].id]);
		all_stats(_metadata, w, after);
		EXPECT_EQ(where.system,
			  after[i].migrated_out - before[i].migrated_out);
		EXPECT_EQ(before[j].mapped_peer, after[j].mapped_peer);
		EXPECT_EQ(before[j].migrated_in, after[j].migrated_in);
		EXPECT_GE(after[j].mapped_system, before[j].mapped_system + pages / 2);

		/* What one device wrote, the other sees. */
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
		EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	}
	dm_area_fini(&area);
}

/*
 * All links between two halves go down at once, and come up again. The half that
 * holds less pays, once it is the one and once the other.
 */
TEST_F(links, split_and_merge)
{
	size_t per_share = 2 * SHARE_SMALL / BLOCK;
	struct devmem_topology_entry merged[MAX_DEVS], split[MAX_DEVS];
	struct world *w = &self->w;
	unsigned int half = w->nr / 2, set[2], heavy, i, j;
	struct devmem_stats before[MAX_DEVS];
	struct devmem_op_stats stats;
	struct dm_where where;
	struct dm_area area;

	set[0] = (1U << half) - 1;
	set[1] = all_of(w) & ~set[0];
	link_all(_metadata, w);
	area_init(_metadata, &area, w->nr * 2 * SHARE_SMALL, BLOCK, false);
	area_write(w, &area, 0, area.nr);

	for (heavy = 0; heavy < 2; heavy++) {
		__u64 light_pages = half * SHARE_SMALL / DM_PAGE;

		/* The devices of the heavy half hold twice as much. */
		dm_migrate(w->dev[0].fd, area.mem, area.len,
			   DEVMEM_MIGRATE_TO_SYSTEM);
		for (i = 0; i < w->nr; i++)
			area_put(_metadata, &area, i * per_share,
				 set[heavy] & 1U << i ? per_share : per_share / 2,
				 &w->dev[i]);
		for (i = 0; i < w->nr; i++)
			ASSERT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
		all_stats(_metadata, w, before);

		topology(_metadata, w, merged);
		ASSERT_EQ(0, set_links(w, set[0], set[1], false, 0, &stats));
		topology(_metadata, w, split);
		EXPECT_TRUE(rehome_copied(&stats));
		EXPECT_EQ(0, stats.pages_evacuated);
		EXPECT_EQ(light_pages, stats.pages_rehomed);
		EXPECT_EQ(half, stats.peers_moved);
		EXPECT_GT(stats.stall_ns, 0);
		for (i = 0; i < w->nr; i++) {
			bool stays = set[heavy] & 1U << i;

			EXPECT_EQ(stays, split[i].owner_id == merged[i].owner_id);
			for (j = 0; j < w->nr; j++)
				EXPECT_EQ(i / half == j / half,
					  split[i].owner_id == split[j].owner_id);
		}
		/* In place on its side of the gap. */
		for (i = 0; i < w->nr; i++)
			for (j = i / half * half; j < (i / half + 1) * half; j++)
				EXPECT_TRUE(area_seen(&area, j * per_share,
						      per_share, w->dev[i].fd));
		nothing_migrated(_metadata, w, before);

		ASSERT_EQ(0, set_links(w, set[0], set[1], true, 0, &stats));
		EXPECT_TRUE(rehome_copied(&stats));
		EXPECT_EQ(0, stats.pages_evacuated);
		EXPECT_EQ(light_pages, stats.pages_rehomed);
		EXPECT_EQ(half, stats.peers_moved);
		topology(_metadata, w, merged);
		for (i = 0; i < w->nr; i++) {
			EXPECT_EQ(merged[0].owner_id, merged[i].owner_id);
			EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
		}
		nothing_migrated(_metadata, w, before);

		/* What it is already, it does not become. */
		ASSERT_EQ(0, set_links(w, set[0], set[1], true, 0, &stats));
		EXPECT_EQ(0, stats.peers_moved);
		EXPECT_EQ(0, stats.pages_rehomed);
	}

	/* And now a page does have to come over. */
	ASSERT_EQ(0, set_links(w, set[0], set[1], false, 0, &stats));
	EXPECT_TRUE(area_seen(&area, 0, 1, w->dev[half].fd));
	ASSERT_EQ(0, dm_where(w->dev[0].fd, area.mem, BLOCK, &where));
	EXPECT_EQ(BLOCK / DM_PAGE, where.system);

	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/*
 * What a device has mapped is of no use to it any more when it has been cut off:
 * neither if its own pages got another window, nor if the other one's did.
 */
TEST_F(links, nothing_stays_mapped)
{
	size_t per_share = SHARE_SMALL / BLOCK;
	struct world *w = &self->w;
	unsigned int half = w->nr / 2, set, heavy, i, j;
	struct devmem_stats stats;
	struct dm_area area;

	set = (1U << half) - 1;
	area_init(_metadata, &area, w->nr * SHARE_SMALL, BLOCK, false);
	area_write(w, &area, 0, area.nr);
	for (heavy = 0; heavy < 2; heavy++) {
		link_all(_metadata, w);
		/* The first of the heavy half holds more than the others. */
		dm_migrate(w->dev[0].fd, area.mem, area.len,
			   DEVMEM_MIGRATE_TO_SYSTEM);
		for (i = 0; i < w->nr; i++)
			area_put(_metadata, &area, i * per_share,
				 i == heavy * half ? per_share : per_share / 2,
				 &w->dev[i]);
		for (i = 0; i < w->nr; i++) {
			ASSERT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
			for (j = 0; j < w->nr; j++)
				ASSERT_EQ(0, area_fill(w, &area, j * per_share + 1,
						       w->dev[i].fd));
		}

		ASSERT_EQ(0, set_links(w, set, all_of(w) & ~set, false, 0, NULL));
		/*
		 * Across the gap, and first where it was mapped for writing: a
		 * fault would bring the neighbourhood to system memory.
		 */
		for (i = 0; i < w->nr; i++) {
			j = (i + half) % w->nr;
			EXPECT_EQ(0, area_fill(w, &area, j * per_share + 1,
					       w->dev[i].fd));
			EXPECT_TRUE(area_seen(&area, j * per_share, per_share,
					      w->dev[i].fd));
			ASSERT_EQ(0, dm_stats(w->dev[i].fd, &stats));
			EXPECT_EQ(0, stats.violations);
		}
		for (i = 0; i < w->nr; i++)
			EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
		EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	}
	dm_area_fini(&area);
}

/* Is every device of i's cluster linked to every one of j's, another one? */
static bool could_merge(struct world *w, struct devmem_topology_entry *topo,
			const struct devmem_link *links, unsigned int nr,
			unsigned int i, unsigned int j)
{
	const __u64 x = topo[i].owner_id, y = topo[j].owner_id;
	unsigned int a, b, n;

	for (n = 0; n < nr; n++) {
		for (a = 0; w->dev[a].id != links[n].a; a++)
			;
		for (b = 0; w->dev[b].id != links[n].b; b++)
			;
		if (links[n].up)
			continue;
		if ((topo[a].owner_id == x && topo[b].owner_id == y) ||
		    (topo[a].owner_id == y && topo[b].owner_id == x))
			return false;
	}
	return true;
}

/* Any links at random, several at once: what must hold of any of them. */
TEST_F(links, several_at_once)
{
	size_t per_share = 4;
	struct devmem_topology_entry topo[MAX_DEVS];
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	__u64 random = dm_mix(seed());
	unsigned int round, i, j, k;
	struct dm_area area;

	TH_LOG("seed %#llx", seed());
	area_init(_metadata, &area, w->nr * per_share * BLOCK, BLOCK, false);
	area_write(w, &area, 0, area.nr);
	/* Device i holds less than device i + 1. */
	for (i = 0; i < w->nr; i++)
		area_put(_metadata, &area, i * per_share, 1 + i * per_share / w->nr,
			 &w->dev[i]);
	all_stats(_metadata, w, before);

	for (round = 0; round < RANDOM_ROUNDS; round++) {
		struct devmem_link links[MAX_DEVS * MAX_DEVS];
		bool linked[MAX_DEVS][MAX_DEVS] = {};
		unsigned int nr;

		nr = links_between(w, all_of(w), all_of(w), true, links);
		k = 0;
		for (i = 0; i < w->nr; i++) {
			linked[i][i] = true;
			for (j = i + 1; j < w->nr; j++, k++) {
				linked[i][j] = dm_rnd(&random) % 3;
				linked[j][i] = linked[i][j];
				links[k].up = linked[i][j];
			}
		}
		ASSERT_EQ(k, nr);
		change_links(_metadata, w, links, nr);

		topology(_metadata, w, topo);
		for (i = 0; i < w->nr; i++) {
			for (j = 0; j < w->nr; j++) {
				bool same = topo[i].owner_id == topo[j].owner_id;

				/* The links are those asked for. */
				EXPECT_EQ(i != j && linked[i][j],
					  !!(topo[i].links & 1ULL << w->dev[j].id));
				/* Nobody reaches what is not linked ... */
				EXPECT_TRUE(!same || linked[i][j]);
				/* ... and no two clusters could be one. */
				EXPECT_TRUE(same || !could_merge(w, topo, links, nr,
								 i, j));

				if (same)
					EXPECT_TRUE(area_seen(&area, j * per_share,
							      1 + j * per_share / w->nr,
							      w->dev[i].fd));
			}
		}
		nothing_migrated(_metadata, w, before);
	}

	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/* A cluster splits and merges again while threads use all devices. */
TEST_F(links, load_split_and_merge)
{
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	unsigned int half = (1U << w->nr / 2) - 1, round;
	struct load load;

	link_all(_metadata, w);
	load_start(_metadata, &load, w, 0);
	for (round = 0; round < 2 * LOAD_ROUNDS; round++) {
		if (!load_progress(&load))
			break;
		EXPECT_EQ(0, set_links(w, half, all_of(w) & ~half, round & 1, 0,
				       &stats));
		EXPECT_TRUE(rehome_copied(&stats));
		EXPECT_EQ(0, stats.pages_evacuated);
		EXPECT_EQ(w->nr / 2, stats.peers_moved);
	}
	EXPECT_TRUE(load_progress(&load));
	load_end(_metadata, &load, w);
}

static void load_random_links(struct __test_metadata *_metadata, struct world *w,
			      unsigned int allowed, __u32 flags)
{
	__u64 random = dm_mix(seed());
	struct devmem_op_stats stats;
	struct load load;
	unsigned int round, i, nr;

	link_all(_metadata, w);
	load_start(_metadata, &load, w, allowed);
	for (round = 0; round < 2 * LOAD_ROUNDS; round++) {
		struct devmem_link links[MAX_DEVS * MAX_DEVS];

		if (!load_progress(&load))
			break;
		nr = links_between(w, all_of(w), all_of(w), true, links);
		for (i = 0; i < nr; i++)
			links[i].up = round & 1 || dm_rnd(&random) & 1;
		EXPECT_EQ(0, dm_links(w->ctl, links, nr, flags, &stats));
		if (!flags) {
			EXPECT_TRUE(rehome_copied(&stats));
			EXPECT_EQ(0, stats.pages_evacuated);
		}
	}
	EXPECT_TRUE(load_progress(&load));
	load_end(_metadata, &load, w);
}

/* Many links at once while threads use all devices. */
TEST_F(links, load_several_at_once)
{
	load_random_links(_metadata, &self->w, 0, 0);
}

/* Links that are dead before anybody is told. */
TEST_F(links, load_forced)
{
	load_random_links(_metadata, &self->w, LOAD_LINKS_DIE, DEVMEM_FORCE);
}

/* ========================================================================= */
/* What a process does to its memory, with pages of 4 KiB and of 2 MiB.       */

#define CGROUP	"/sys/fs/cgroup/devmem-test"

/* Blocks that each device holds at first: a huge page, or fewer small pages. */
static size_t half = DM_HUGE / BLOCK;

#define HALF		half
#define HALF_LEN	(HALF * BLOCK)
#define HALF_PAGES	(HALF_LEN / DM_PAGE)

/* A limit that no test reaches. What is left of it tells how often a fault was injected. */
#define FAULTS		"1000000"

/* Inject @what from now on, in @percent of all cases; false if the kernel cannot. */
static bool faults_on(const char *what, int percent)
{
	static const char * const quiet[][2] = { { "verbose", "0" }, { "times", FAULTS } };
	char path[128], text[16];
	unsigned int i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", what,
			 quiet[i][0]);
		if (!dm_file_change(path, quiet[i][1]))
			return false;
	}
	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/probability", what);
	snprintf(text, sizeof(text), "%d", percent);
	return dm_file_change(path, text);
}

FIXTURE(pages)
{
	struct world w;
	struct dm_area area;
	bool huge;
	/* Several times as long as it takes to move what a device holds, in milliseconds. */
	unsigned int enough_ms;
};

FIXTURE_VARIANT(pages)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(pages, small) { .huge = false, };
FIXTURE_VARIANT_ADD(pages, huge) { .huge = true, };

/* Two linked devices, each with half of the memory. */
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
	self->enough_ms = 1000 + (microseconds() - start) / 1000 * 4;
	if (self->enough_ms > LONG_MS / 2)
		self->enough_ms = LONG_MS / 2;
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

/* The child of a fork: a file of its own on each device. */
static void child_open(struct world *w, int *fds)
{
	unsigned int i;

	for (i = 0; i < w->nr; i++) {
		fds[i] = dm_open(w->dev[i].minor);
		CHILD_CHECK(fds[i] >= 0);
	}
}

/* And memory of its own, that the device @on has. */
static void child_area(struct world *w, int *fds, struct dm_area *area, size_t len,
		       bool huge, unsigned int on)
{
	child_open(w, fds);
	CHILD_CHECK(!dm_area_init(area, len, BLOCK, huge));
	area_write(w, area, 0, area->nr);
	CHILD_CHECK(dm_migrate(fds[on], area->mem, len, DEVMEM_MIGRATE_TO_DEVICE) ==
		    (long)(len / DM_PAGE));
}

/* The child writes, in several ways; the parent sees nothing of it. */
TEST_F(pages, fork_and_cow)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct child child;
	size_t b;

	/* Both have it mapped. */
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));

	if (child_fork(_metadata, &child)) {
		int fds[MAX_DEVS];

		child_open(w, fds);
		w->generation += 1000;
		CHILD_CHECK(area_seen(area, 0, area->nr, fds[1]));
		for (b = 0; b < area->nr; b += 8) {
			area_write(w, area, b, 1);
			CHILD_CHECK(!area_fill(w, area, b + 1, fds[0]));
			CHILD_CHECK(!area_add(w, area, b + 2, fds[1]));
			CHILD_CHECK(!dm_block_wrong(area, b + 3));
		}
		CHILD_CHECK(area_seen(area, 0, area->nr, fds[0]));
		child_step(&child);

		/* The parent has written meanwhile. */
		CHILD_CHECK(area_seen(area, 0, area->nr, fds[1]));
		CHILD_CHECK(!dm_area_wrong(area, 0, area->nr));
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	for (b = 0; b < area->nr; b += 4) {
		area_write(w, area, b, 1);
		EXPECT_EQ(0, area_fill(w, area, b + 1, w->dev[1].fd));
		EXPECT_EQ(0, area_add(w, area, b + 2, w->dev[0].fd));
	}
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);

	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Pages that a child has inherited get another window, and then leave. */
TEST_F(pages, fork_rehome_and_leave)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct dm_area ballast;
	struct child child;

	/* Device 1 shall be the one that pays. */
	area_init(_metadata, &ballast, BLOCK, BLOCK, false);
	area_put(_metadata, &ballast, 0, 1, &w->dev[0]);

	if (child_fork(_metadata, &child)) {
		int fds[MAX_DEVS];

		child_open(w, fds);
		CHILD_CHECK(area_seen(area, 0, area->nr, fds[0]));
		child_step(&child);

		/* The link is down. */
		CHILD_CHECK(area_seen(area, 0, HALF, fds[0]));
		CHILD_CHECK(area_seen(area, HALF, HALF, fds[1]));
		area_write(w, area, HALF + 3, 1);
		child_step(&child);

		/* Device 1 has left. */
		CHILD_CHECK(area_seen(area, 0, area->nr, fds[0]));
		CHILD_CHECK(!dm_area_wrong(area, 0, area->nr));
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));

	ASSERT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
	EXPECT_TRUE(rehome_copied(&stats));
	EXPECT_EQ(0, stats.pages_evacuated);
	EXPECT_EQ(1, stats.peers_moved);
	EXPECT_EQ(HALF_PAGES, stats.pages_rehomed);
	EXPECT_EQ(HALF_PAGES,
		  area_on(_metadata, area, w->dev[0].fd, &w->dev[0]));
	EXPECT_TRUE(area_seen(area, 0, HALF, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	ASSERT_TRUE(child_go(&child));
	ASSERT_TRUE(child_waits(&child));

	dev_del(_metadata, w, 1, 0, &stats);
	EXPECT_EQ(stats.pages_evacuated * DM_PAGE, stats.bytes_copied);
	EXPECT_EQ(0, area_on(_metadata, area, w->dev[0].fd, &w->dev[1]));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);

	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
	dm_area_fini(&ballast);
}

/* The same when the process that the pages were first of is dead. */
TEST_F(pages, orphan_rehome_and_leave)
{
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct child child;
	char good = 0;

	/* Nothing else is on the devices. */
	dm_area_fini(&self->area);
	self->area.mem = NULL;
	all_free(_metadata, &w->dev[0]);
	all_free(_metadata, &w->dev[1]);

	if (child_fork(_metadata, &child)) {
		struct dm_area area;
		int fds[MAX_DEVS];
		unsigned int i;
		pid_t pid;

		CHILD_CHECK(!dm_area_init(&area, 2 * HALF_LEN, BLOCK, self->huge));
		area_write(w, &area, 0, area.nr);
		child_open(w, fds);
		for (i = 0; i < 2; i++)
			CHILD_CHECK(dm_migrate(fds[i], dm_block(&area, i * HALF),
					       HALF_LEN, DEVMEM_MIGRATE_TO_DEVICE) ==
				    (long)(HALF_PAGES));
		for (i = 0; i < 2; i++)
			CHILD_CHECK(area_seen(&area, 0, area.nr, fds[i]));

		pid = fork();
		CHILD_CHECK(pid >= 0);
		if (pid)
			_exit(0);

		for (i = 0; i < 2; i++)
			close(fds[i]);
		/* One has left. */
		child_step(&child);
		good = !dm_area_wrong(&area, 0, area.nr);
		CHILD_CHECK(write(child.done[1], &good, 1) == 1);
		_exit(0);
	}
	EXPECT_TRUE(child_good(&child));
	ASSERT_TRUE(child_waits(&child));

	ASSERT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
	EXPECT_TRUE(rehome_copied(&stats));
	EXPECT_EQ(HALF_PAGES, stats.pages_rehomed);
	ASSERT_EQ(0, set_links(w, 1, 2, true, 0, &stats));
	EXPECT_TRUE(rehome_copied(&stats));
	EXPECT_EQ(HALF_PAGES, stats.pages_rehomed);
	dev_del(_metadata, w, 0, 0, &stats);
	EXPECT_EQ(HALF_PAGES, stats.pages_evacuated);

	ASSERT_TRUE(child_go(&child));
	ASSERT_EQ(1, read(child.done[0], &good, 1));
	EXPECT_EQ(1, good);
	child_fini(&child);
}

TEST_F(pages, mremap)
{
	struct dm_area *area = &self->area;
	size_t room = area->len + 2 * DM_HUGE;
	struct devmem_stats before[MAX_DEVS];
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	unsigned char *target, *to;
	unsigned int round;
	__u64 sum;

	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	all_stats(_metadata, w, before);

	/* First to a place where huge pages stay whole, then to one where not. */
	for (round = 0; round < 2; round++) {
		void *old = area->mem;

		target = mmap(NULL, room, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		ASSERT_NE(MAP_FAILED, target);
		to = target + -(unsigned long)target % DM_HUGE;
		if (round)
			to += 5 * DM_PAGE;
		ASSERT_EQ(to, mremap(area->mem, area->len, area->len,
				     MREMAP_MAYMOVE | MREMAP_FIXED, to));
		area->mem = to;

		EXPECT_EQ(HALF_PAGES,
			  area_on(_metadata, area, w->dev[0].fd, &w->dev[0]));
		EXPECT_EQ(HALF_PAGES,
			  area_on(_metadata, area, w->dev[0].fd, &w->dev[1]));
		EXPECT_EQ(-EFAULT, dm_checksum(w->dev[0].fd, old, DM_PAGE, &sum));
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
		EXPECT_EQ(0, area_fill(w, area, HALF + round, w->dev[0].fd));
		EXPECT_EQ(0, area_add(w, area, HALF + 2, w->dev[0].fd));
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));

		ASSERT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
		EXPECT_EQ(HALF_PAGES, stats.pages_rehomed);
		ASSERT_EQ(0, set_links(w, 1, 2, true, 0, &stats));
		EXPECT_EQ(HALF_PAGES, stats.pages_rehomed);
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
		/* What is left of the reservation, at both sides. */
		munmap(target, to - target);
		munmap(to + area->len, target + room - to - area->len);
	}
	nothing_migrated(_metadata, w, before);

	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Pages go from the middle of what each device holds. */
TEST_F(pages, partial_munmap)
{
	size_t first = 2, nr = 3;	/* blocks of each half */
	struct dm_area *area = &self->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_CHECKSUM,
		.src = (__u64)(unsigned long)area->mem,
		.len = area->len,
	};
	struct devmem_stats before[MAX_DEVS];
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct dm_where where;
	unsigned int d;
	size_t b;

	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	all_stats(_metadata, w, before);
	for (b = 0; b < area->nr; b += HALF)
		ASSERT_EQ(0, munmap(dm_block(area, b + first), nr * BLOCK));

	ASSERT_EQ(0, dm_where(w->dev[0].fd, area->mem, area->len, &where));
	EXPECT_EQ(2 * nr * BLOCK / DM_PAGE, where.none);
	for (d = 0; d < 2; d++) {
		EXPECT_EQ((HALF_LEN - nr * BLOCK) / DM_PAGE,
			  where.device[w->dev[d].id]);
		EXPECT_EQ(-EFAULT, dm_exec(w->dev[d].fd, &exec));
		EXPECT_EQ(first * BLOCK, exec.done);
		EXPECT_EQ(-EFAULT, area_fill(w, area, first, w->dev[d].fd));
	}

	for (b = 0; b < area->nr; b += HALF) {
		for (d = 0; d < 2; d++) {
			EXPECT_EQ(0, area_fill(w, area, b + first - 1, w->dev[d].fd));
			EXPECT_EQ(0, area_add(w, area, b + first + nr, w->dev[d].fd));
			EXPECT_TRUE(area_seen(area, b, first, w->dev[1 - d].fd));
			EXPECT_TRUE(area_seen(area, b + first + nr,
					      HALF - first - nr, w->dev[1 - d].fd));
		}
	}
	nothing_migrated(_metadata, w, before);

	/* What is left can still be rehomed and evacuated. */
	ASSERT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
	EXPECT_TRUE(rehome_copied(&stats));
	ASSERT_EQ(0, set_links(w, 1, 2, true, 0, &stats));
	EXPECT_TRUE(rehome_copied(&stats));
	dev_del(_metadata, w, 1, 0, &stats);

	for (b = 0; b < area->nr; b += HALF) {
		EXPECT_EQ(0, dm_area_wrong(area, b, first));
		EXPECT_EQ(0, dm_area_wrong(area, b + first + nr,
					   HALF - first - nr));
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

/* More memory than the device has. */
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

	/* And somebody else's, who was there before. */
	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	EXPECT_EQ(0, dm_area_wrong(&self->area, 0, self->area.nr));
	dm_area_fini(&area);
}

static bool is_zero(const unsigned char *mem, size_t len)
{
	return !*mem && !memcmp(mem, mem + 1, len - 1);
}

/* Memory that nobody has written, but for some pages, is so on the device too. */
static void comes_clean(struct __test_metadata *_metadata, struct world *w,
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
	ASSERT_EQ((long)(len / DM_PAGE),
		  dm_migrate(w->dev[0].fd, area.mem, len,
			     DEVMEM_MIGRATE_TO_DEVICE));
	ASSERT_EQ(len / DM_PAGE,
		  area_on(_metadata, &area, w->dev[0].fd, &w->dev[0]));

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

/* Nobody sees what another process had on the device, or was about to have. */
static void nothing_is_left(struct __test_metadata *_metadata, struct world *w,
			    struct dm_area *own, bool huge, bool fail)
{
	size_t len = MEM_SIZE - DM_HUGE;
	struct dm_area area;
	struct child child;
	long moved;

	dm_area_fini(own);
	own->mem = NULL;
	all_free(_metadata, &w->dev[0]);

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
	nothing_is_left(_metadata, &self->w, &self->area, self->huge, false);
}

TEST_F(pages, memory_of_a_failed_copy_is_cleared)
{
	if (!faults_on("fail_devmem", 0))
		SKIP(return, "the kernel has no fault injection");
	nothing_is_left(_metadata, &self->w, &self->area, self->huge, true);
}

struct looker {
	struct dm_area *area;
	int fd;
	bool seen, done;
};

static void *look_main(void *arg)
{
	struct looker *looker = arg;

	looker->seen = area_seen(looker->area, HALF, 1, looker->fd);
	__atomic_store_n(&looker->done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* How many walks have been slow since faults_on()? */
static long slow_walks(void)
{
	return atol(FAULTS) - dm_file_get("/sys/kernel/debug/slow_pgmap/times", NULL);
}

/* A device has found a page, and is about to map it, when it can't be reached. */
TEST_F(pages, fault_against_link_down)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct looker looker = { .area = area, .seen = true };
	bool overtaken = false;
	struct devmem_stats stats;
	unsigned int tries;
	pthread_t thread;

	/* The device with less memory in use is the one that moves. */
	ASSERT_EQ((long)(HALF_PAGES),
		  dm_migrate(w->dev[0].fd, area->mem, HALF_LEN,
			     DEVMEM_MIGRATE_TO_SYSTEM));
	if (!faults_on("slow_pgmap", 0))
		SKIP(return, "the kernel has no fault injection");

	/* On a busy machine the change may come too late: then try again. */
	for (tries = 0; tries < 20 && !overtaken && looker.seen; tries++) {
		ASSERT_EQ(0, set_links(w, 1, 2, true, 0, NULL));
		area_put(_metadata, area, HALF, HALF, &w->dev[1]);
		looker.done = false;
		looker.fd = dm_open(w->dev[0].minor);
		ASSERT_GE(looker.fd, 0);
		ASSERT_TRUE(faults_on("slow_pgmap", 100));
		ASSERT_EQ(0, pthread_create(&thread, NULL, look_main, &looker));
		/* It looks twice, for a second each: for what range, and for the pages. */
		ASSERT_TRUE(dm_soon(slow_walks() >= 2));
		EXPECT_EQ(0, set_links(w, 1, 2, false, 0, NULL));
		overtaken = !__atomic_load_n(&looker.done, __ATOMIC_SEQ_CST);
		/* The fault notices, and looks once more. */
		ASSERT_TRUE(dm_soon(slow_walks() >= 3 ||
				    __atomic_load_n(&looker.done, __ATOMIC_SEQ_CST)));
		overtaken = overtaken && slow_walks() >= 3;
		ASSERT_TRUE(faults_on("slow_pgmap", 0));
		ASSERT_EQ(0, pthread_join(thread, NULL));
		EXPECT_TRUE(looker.seen);
		close(looker.fd);
	}
	EXPECT_TRUE(overtaken);
	ASSERT_EQ(0, dm_stats(w->dev[0].fd, &stats));
	EXPECT_EQ(0, stats.violations);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* The CPU wants a page of a large one that is no longer mapped as a whole. */
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

/* In each round, drops the page at some time during the fault, or soon after it. */
static void *zap_main(void *arg)
{
	struct zap *zap = arg;
	unsigned int round, end;

	for (round = 1;; round++) {
		while (__atomic_load_n(&zap->begun, __ATOMIC_ACQUIRE) < round)
			if (__atomic_load_n(&zap->stop, __ATOMIC_ACQUIRE))
				return NULL;
		/* usleep() may take longer than the whole fault. */
		end = microseconds() + dm_rnd(&zap->random) % (2 * zap->fault_us + 1);
		while ((int)(microseconds() - end) < 0)
			;
		if (madvise(zap->page, DM_PAGE, MADV_DONTNEED))
			zap->failed = true;
		__atomic_store_n(&zap->done, round, __ATOMIC_RELEASE);
	}
}

/* Splitting a large page does not make it lose the page that is wanted of it. */
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

		/* Mapped by small pages, and large still. */
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

/* Unmaps and maps again one block after the other. */
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

/* The device uses memory while it is unmapped: it has it, or not. */
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

	/* And all is as if nothing had been. */
	area_write(w, area, 0, area->nr);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
}

/* The device goes, its files stay. */
TEST_F(pages, open_files_of_a_removed_device)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct devmem_topology_entry entries[2] = {};
	struct devmem_stats stats;
	struct devmem_info info;
	struct devmem_link link = { .up = 1 };
	struct dm_where where;
	__u64 sum;
	__u32 id;
	int fd;

	link.a = w->dev[0].id;
	link.b = w->dev[1].id;
	fd = dm_open(w->dev[1].minor);
	ASSERT_GE(fd, 0);
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	ASSERT_EQ(0, dev_leave(_metadata, w, 1, 0, NULL));

	for (int i = 0; i < 2; i++) {
		/* One that was in use, one that never was. */
		int gone = i ? fd : w->dev[1].fd;

		EXPECT_EQ(-ENODEV, dm_info(gone, &info));
		EXPECT_EQ(-ENODEV, dm_stats(gone, &stats));
		EXPECT_EQ(-ENODEV, dm_checksum(gone, area->mem, BLOCK, &sum));
		EXPECT_EQ(-ENODEV, dm_fill(gone, area->mem, BLOCK, 1));
		EXPECT_EQ(-ENODEV, dm_migrate(gone, area->mem, BLOCK,
					      DEVMEM_MIGRATE_TO_DEVICE));
		EXPECT_EQ(-ENODEV, dm_migrate(gone, area->mem, BLOCK,
					      DEVMEM_MIGRATE_TO_SYSTEM));
		EXPECT_EQ(-ENODEV, dm_where(gone, area->mem, BLOCK, &where));
	}
	EXPECT_LT(dm_open(w->dev[1].minor), 0);
	EXPECT_EQ(-ENOENT, dm_destroy(w->ctl, w->dev[1].id, 0, NULL));
	EXPECT_EQ(-ENOENT, dm_destroy(w->ctl, w->dev[1].id, DEVMEM_FORCE, NULL));
	EXPECT_EQ(-ENOENT, dm_links(w->ctl, &link, 1, 0, NULL));
	EXPECT_GE(dm_topology(w->ctl, entries, 2), 1);
	for (int i = 0; i < 2; i++)
		EXPECT_NE(w->dev[1].minor, entries[i].render_minor);

	/* Another one with the same id is no home for the old files. */
	close(fd);
	fd = w->dev[1].fd;
	id = w->dev[1].id;
	dev_add(_metadata, w, 1, 0);
	EXPECT_EQ(id, w->dev[1].id);
	EXPECT_EQ(-ENODEV, dm_info(fd, &info));
	close(fd);

	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* --- devices that are torn out --- */

static __thread sigjmp_buf poke_env;
static __thread int poke_code;
static __thread void *poke_addr;

static void poke_handler(int sig, siginfo_t *info, void *context)
{
	poke_code = info->si_code;
	poke_addr = info->si_addr;
	siglongjmp(poke_env, 1);
}

/* Read a byte: 0, or the code of the SIGBUS that it gave, -1 if that lies. */
static int poke(const void *mem)
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
static bool is_lost(struct dm_area *area, size_t b, size_t nr, size_t step)
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

/* What was on the device is lost, for whoever has it mapped; no more than that. */
TEST_F(pages, lost)
{
	unsigned long lost = HALF_PAGES;
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct child child;
	__u64 sum;
	char *mem;
	int fd;

	/* Both devices have all of it mapped, and a child has inherited it. */
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

	ASSERT_EQ(0, dm_destroy(w->ctl, w->dev[0].id, DEVMEM_LOST, &stats));
	*live &= ~(1ULL << w->dev[0].id);
	EXPECT_EQ(lost, stats.pages_poisoned);
	EXPECT_EQ(0, stats.pages_evacuated);
	EXPECT_EQ(0, stats.bytes_copied);
	EXPECT_EQ(-ENODEV, dm_checksum(w->dev[0].fd, area->mem, BLOCK, &sum));
	close(w->dev[0].fd);
	w->dev[0].fd = -1;

	EXPECT_TRUE(is_lost(area, 0, HALF, 1));
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	EXPECT_EQ(-EFAULT, dm_checksum(w->dev[1].fd, area->mem, BLOCK, &sum));
	EXPECT_EQ(-EFAULT, dm_fill(w->dev[1].fd, area->mem, BLOCK, 1));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);

	/* Nor does the kernel read it on behalf of others. */
	fd = open("/proc/self/mem", O_RDONLY);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-1, pread(fd, &sum, sizeof(sum), (off_t)area->mem));
	EXPECT_EQ(EIO, errno);
	close(fd);

	/* It is inherited, moved, protected and unmapped like any other memory. */
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

	/* A new device comes in its place; what is left goes there. */
	dev_add(_metadata, w, 0, CHUNK_SIZE);
	link_all(_metadata, w);
	comes_clean(_metadata, w, MEM_SIZE - 2 * DM_HUGE, self->huge);
	area_put(_metadata, area, 1, 1, &w->dev[0]);
	area_put(_metadata, area, HALF, HALF, &w->dev[0]);
	EXPECT_TRUE(area_seen(area, 1, 1, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
	EXPECT_EQ(BUS_MCEERR_AR, poke(dm_block(area, 3)));
}

/* A process that dies of it leaves a core that has holes, but nothing invented. */
TEST_F(pages, lost_in_core_dump)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct rlimit limit;
	char core[64], *dump;
	struct child child;
	struct stat stat;
	int fd, status;
	size_t i, n;

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
	ASSERT_EQ(0, dm_destroy(w->ctl, w->dev[0].id, DEVMEM_LOST, NULL));
	*live &= ~(1ULL << w->dev[0].id);
	close(w->dev[0].fd);
	w->dev[0].fd = -1;
	ASSERT_TRUE(child_go(&child));
	ASSERT_EQ(child.pid, waitpid(child.pid, &status, 0));
	child_fini(&child);
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGBUS, WTERMSIG(status));
	ASSERT_TRUE(WCOREDUMP(status));

	fd = open(core, O_RDONLY);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, fstat(fd, &stat));
	dump = mmap(NULL, stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, dump);
	/* The second half is in it, word for word; of the first there is nothing. */
	for (i = n = 0; i + area->block <= (size_t)stat.st_size; i += DM_PAGE) {
		__u64 word;

		memcpy(&word, dump + i, sizeof(word));
		n += word == area->base[HALF];
		EXPECT_NE(area->base[0], word);
	}
	EXPECT_EQ(1, n);
	munmap(dump, stat.st_size);
	close(fd);
	unlink(core);
}

/* Where some pages of a process are lost, those in swap come back. */
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

	EXPECT_EQ(0, dm_destroy(w->ctl, w->dev[0].id, DEVMEM_LOST, NULL));
	*live &= ~(1ULL << w->dev[0].id);
	close(w->dev[0].fd);
	w->dev[0].fd = -1;
	EXPECT_EQ(0, dm_swap_off());
	EXPECT_TRUE(is_lost(area, 0, HALF, 13));
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
}

/* A device that can't copy stays as it is, and nobody sees what it did instead. */
TEST_F(pages, copy_fails)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	if (!faults_on("fail_pgmap", 100))
		SKIP(return, "the kernel has no fault injection");
	EXPECT_EQ(-EIO, dm_destroy(w->ctl, w->dev[0].id, 0, &stats));
	EXPECT_EQ(0, stats.pages_evacuated);
	EXPECT_EQ(0, stats.bytes_copied);
	ASSERT_TRUE(faults_on("fail_pgmap", 0));

	EXPECT_EQ(HALF_PAGES,
		  area_on(_metadata, area, w->dev[1].fd, &w->dev[0]));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* The CPU and devices use coherent memory at once, where it is. */
TEST_F(pages, coherent_stays)
{
	struct dm_area *area = &self->area;
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	struct dm_where where;
	int pipes[2];
	char *buf;

	if (!coherent())
		SKIP(return, "memory of devices is private");
	all_stats(_metadata, w, before);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
	area_write(w, area, 0, area->nr);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_EQ(0, area_fill(w, area, 1, w->dev[1].fd));
	EXPECT_EQ(0, area_add(w, area, HALF, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));

	/* And so does the kernel. */
	buf = malloc(BLOCK);
	ASSERT_NE(NULL, buf);
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ((ssize_t)DM_PAGE, write(pipes[1], dm_block(area, 2), DM_PAGE));
	ASSERT_EQ((ssize_t)DM_PAGE, read(pipes[0], buf, DM_PAGE));
	EXPECT_EQ(0, memcmp(buf, dm_block(area, 2), DM_PAGE));
	close(pipes[0]);
	close(pipes[1]);
	free(buf);

	ASSERT_EQ(0, dm_where(w->dev[0].fd, area->mem, area->len, &where));
	EXPECT_EQ(HALF_PAGES, where.device[w->dev[0].id]);
	EXPECT_EQ(HALF_PAGES, where.device[w->dev[1].id]);
	nothing_migrated(_metadata, w, before);
}

/* A change of links finds the device unable to copy: it goes back, or has to lose. */
TEST_F(pages, coherent_rehome_fails)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	if (!coherent())
		SKIP(return, "memory of devices is private");
	if (!faults_on("fail_devmem", 100))
		SKIP(return, "the kernel has no fault injection");
	EXPECT_EQ(-EIO, set_links(w, 1, 2, false, 0, &stats));
	EXPECT_EQ(0, stats.pages_rehomed);
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(0, stats.bytes_copied);
	ASSERT_TRUE(faults_on("fail_devmem", 0));

	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	EXPECT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
	EXPECT_EQ(HALF_PAGES, stats.pages_rehomed);
	EXPECT_EQ(HALF_LEN, stats.bytes_copied);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* --- pages that do not go --- */

/*
 * A process that holds a page in the kernel. It shares memory and files with the test, and
 * ends when the test kills it.
 */
struct holder {
	pid_t pid;
	int fd;
	struct devmem_hold args;
	int err;
	bool done;
	unsigned char stack[32 * 1024];
};

static int hold_main(void *arg)
{
	struct holder *holder = arg;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	holder->err = ioctl(holder->fd, DRM_IOCTL_DEVMEM_HOLD, &holder->args);
	__atomic_store_n(&holder->done, true, __ATOMIC_RELEASE);
	return 0;
}

/* Does it sleep in the ioctl? */
static bool is_holding(const struct holder *holder)
{
	static const char where[] = "devmem_ioctl_hold";
	char path[64], text[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/wchan", holder->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return !strncmp(text, where, strlen(where));
}

/*
 * Start a process that holds one page of the area for @ms. Returns when it has the page, or
 * has had it.
 */
static void hold(struct __test_metadata *_metadata, struct holder *holder, int fd,
		 void *addr, __u32 flags, __u32 ms)
{
	unsigned long top = (unsigned long)holder->stack + sizeof(holder->stack);

	holder->fd = fd;
	holder->err = 0;
	holder->done = false;
	holder->args = (struct devmem_hold){
		.addr = (unsigned long)addr,
		.flags = flags,
		.ms = ms,
	};
	holder->pid = clone(hold_main, (void *)(top & ~15UL),
			    CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, holder);
	ASSERT_GT(holder->pid, 0);
	ASSERT_TRUE(dm_soon(is_holding(holder) ||
			    __atomic_load_n(&holder->done, __ATOMIC_ACQUIRE))) {
		TH_LOG("the kernel does not say that it holds the page: is CONFIG_KALLSYMS on?");
	}
	ASSERT_EQ(0, holder->err);
}

/* Wait until the holder lets go of the page by itself. */
static void hold_wait(struct __test_metadata *_metadata, struct holder *holder)
{
	ASSERT_EQ(holder->pid, waitpid(holder->pid, NULL, 0));
	EXPECT_EQ(0, holder->err);
}

/* The holder still has the page. Make it let go. */
static void hold_end(struct __test_metadata *_metadata, struct holder *holder)
{
	int status;

	EXPECT_TRUE(is_holding(holder));
	ASSERT_EQ(0, kill(holder->pid, SIGKILL));
	ASSERT_EQ(holder->pid, waitpid(holder->pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
}

/* Remove a device within some time. */
static int destroy_within(struct world *w, unsigned int i, __u32 flags, __u32 ms,
			  struct devmem_op_stats *stats)
{
	int err = dm_destroy_within(w->ctl, w->dev[i].id, flags, ms, stats);

	if (err)
		return err;
	*live &= ~(1ULL << w->dev[i].id);
	close(w->dev[i].fd);
	w->dev[i].fd = -1;
	return 0;
}

/* Has the kernel said why since @kmsg was opened, naming the page? */
static bool said_why(int kmsg)
{
	unsigned long pfn;
	char line[1024];
	const char *at;
	ssize_t n;

	while ((n = read(kmsg, line, sizeof(line) - 1)) > 0) {
		line[n] = 0;
		at = strstr(line, "can't evacuate: pfn ");
		if (at && sscanf(at, "can't evacuate: pfn %lx has ", &pfn) == 1 && pfn)
			return true;
	}
	return false;
}

/* A planned removal gives up in time, and the device works as if nothing was. */
static void held_for_ever(struct __test_metadata *_metadata, struct world *w,
			  struct dm_area *area, __u32 flags)
{
	int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	struct devmem_op_stats stats;
	struct holder holder;

	ASSERT_GE(kmsg, 0);
	lseek(kmsg, 0, SEEK_END);
	hold(_metadata, &holder, w->dev[1].fd, dm_block(area, 3), flags, LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, 0, BOUND_MS, &stats));
	EXPECT_TRUE(is_holding(&holder));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_TRUE(said_why(kmsg));
	close(kmsg);

	/* With pages of its own and of others, in place and moved. */
	EXPECT_EQ(0, area_fill(w, area, HALF, w->dev[0].fd));
	area_put(_metadata, area, 6, HALF - 6, &w->dev[0]);
	EXPECT_TRUE(area_seen(area, 4, area->nr - 4, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 4, area->nr - 4, w->dev[1].fd));
	hold_end(_metadata, &holder);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));

	dev_del(_metadata, w, 0, 0, NULL);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

TEST_F(pages, referred_to_for_ever)
{
	held_for_ever(_metadata, &self->w, &self->area, 0);
}

TEST_F(pages, locked_for_ever)
{
	held_for_ever(_metadata, &self->w, &self->area, DEVMEM_HOLD_LOCK);
}

/* A forced one saves all but that page, which is lost. */
TEST_F(pages, referred_to_and_forced)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct holder holder;
	unsigned long lost;
	size_t b;

	hold(_metadata, &holder, w->dev[1].fd, dm_block(area, 3), 0, LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, DEVMEM_FORCE, self->enough_ms, &stats));
	EXPECT_TRUE(is_holding(&holder));
	/* It was one folio, and may be so still. */
	lost = stats.pages_poisoned;
	EXPECT_EQ(self->huge && !coherent() ? HALF_PAGES : 1, lost);
	EXPECT_EQ(HALF_PAGES, lost + stats.pages_evacuated);
	EXPECT_EQ(BUS_MCEERR_AR, poke(dm_block(area, 3)));
	for (b = 0; b < HALF && !self->huge; b++) {
		if (b != 3)
			EXPECT_EQ(0, dm_block_wrong(area, b));
	}
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
	hold_end(_metadata, &holder);

	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_FORCE, LONG_MS, &stats));
}

/* A process that is stopped can't hold a device back. */
static void stopped_process(struct __test_metadata *_metadata, struct world *w,
			    struct dm_area *own, bool huge, __u32 flags)
{
	struct devmem_op_stats stats;
	struct child child;
	int status;

	if (child_fork(_metadata, &child)) {
		struct dm_area area;
		int fds[MAX_DEVS];
		__u64 sum;

		child_area(w, fds, &area, HALF_LEN, huge, 1);
		CHILD_CHECK(area_seen(&area, 0, area.nr, fds[0]));
		CHILD_CHECK(area_seen(&area, 0, area.nr, fds[1]));
		raise(SIGSTOP);
		CHILD_CHECK(dm_checksum(fds[1], area.mem, area.len, &sum) ==
			    -ENODEV);
		CHILD_CHECK(area_seen(&area, 0, area.nr, fds[0]));
		CHILD_CHECK(!dm_area_wrong(&area, 0, area.nr));
		_exit(0);
	}
	ASSERT_EQ(child.pid, waitpid(child.pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));

	ASSERT_EQ(0, set_links(w, 1, 2, false, 0, &stats));
	EXPECT_TRUE(rehome_copied(&stats));
	ASSERT_EQ(0, set_links(w, 1, 2, true, 0, &stats));
	EXPECT_TRUE(rehome_copied(&stats));
	/* The process stays stopped until the device is removed. */
	EXPECT_EQ(0, destroy_within(w, 1, flags, LONG_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(2 * HALF_PAGES, stats.pages_evacuated);

	ASSERT_EQ(0, kill(child.pid, SIGCONT));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	EXPECT_EQ(0, dm_area_wrong(own, 0, own->nr));
}

TEST_F(pages, stopped_process)
{
	stopped_process(_metadata, &self->w, &self->area, self->huge, 0);
}

TEST_F(pages, stopped_process_forced)
{
	stopped_process(_metadata, &self->w, &self->area, self->huge, DEVMEM_FORCE);
}

/* A removal that nothing holds up: nothing is lost. */
static void del_loses_nothing(struct __test_metadata *_metadata, struct world *w,
			      __u32 flags)
{
	struct devmem_op_stats stats;

	EXPECT_EQ(0, destroy_within(w, 0, flags, LONG_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
}

/* A process that is killed while it uses the device takes its pages with it. */
static void killed_process(struct __test_metadata *_metadata, struct world *w,
			   struct dm_area *own, bool huge, __u32 flags)
{
	struct devmem_stats before, now;
	struct child child;
	int status;

	if (child_fork(_metadata, &child)) {
		struct dm_area area;
		int fds[MAX_DEVS];

		child_area(w, fds, &area, 2 * HALF_LEN, huge, 0);
		child_step(&child);
		for (;;)
			dm_fill(fds[0], area.mem, area.len, 1);
	}
	ASSERT_TRUE(child_waits(&child));
	ASSERT_EQ(0, dm_stats(w->dev[0].fd, &before));
	ASSERT_TRUE(child_go(&child));
	/* The process uses the device by now. */
	ASSERT_TRUE(dm_soon(!dm_stats(w->dev[0].fd, &now) &&
			    now.device_faults > before.device_faults));
	ASSERT_EQ(0, kill(child.pid, SIGKILL));
	/* It may be about to exit, or gone, and nobody has asked for it. */
	del_loses_nothing(_metadata, w, flags);
	ASSERT_EQ(child.pid, waitpid(child.pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	child_fini(&child);
	EXPECT_EQ(0, dm_area_wrong(own, 0, own->nr));
}

TEST_F(pages, killed_process)
{
	killed_process(_metadata, &self->w, &self->area, self->huge, 0);
}

TEST_F(pages, killed_process_forced)
{
	killed_process(_metadata, &self->w, &self->area, self->huge, DEVMEM_FORCE);
}

/* A process that may have no more memory than it has is not killed for a removal. */
static void full_memcg(struct __test_metadata *_metadata, struct world *w,
		       struct dm_area *own, bool huge, __u32 flags)
{
	struct child child;
	char text[32];

	dm_file_put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup v2 at /sys/fs/cgroup");
	if (access(CGROUP "/memory.max", W_OK))
		SKIP(return, "no memory controller");

	if (child_fork(_metadata, &child)) {
		struct dm_area area;
		int fds[MAX_DEVS];

		CHILD_CHECK(dm_file_put(CGROUP "/cgroup.procs", "0"));
		child_area(w, fds, &area, HALF_LEN, huge, 0);
		child_step(&child);
		CHILD_CHECK(!dm_area_wrong(&area, 0, area.nr));
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	snprintf(text, sizeof(text), "%ld", dm_file_get(CGROUP "/memory.current", NULL));
	ASSERT_TRUE(dm_file_put(CGROUP "/memory.max", text));

	del_loses_nothing(_metadata, w, flags);
	EXPECT_EQ(0, dm_file_get(CGROUP "/memory.events", "oom_kill "));
	ASSERT_TRUE(dm_file_put(CGROUP "/memory.max", "max"));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	EXPECT_EQ(0, dm_area_wrong(own, 0, own->nr));
	EXPECT_EQ(0, rmdir(CGROUP));
}

TEST_F(pages, full_memcg)
{
	full_memcg(_metadata, &self->w, &self->area, self->huge, 0);
}

TEST_F(pages, full_memcg_forced)
{
	full_memcg(_metadata, &self->w, &self->area, self->huge, DEVMEM_FORCE);
}

#define KSM	"/sys/kernel/mm/ksm/"

/* What is shared by merging stays where it is, and does not hold a device up. */
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
	/* Not pages_sharing: that counts pages of processes that are gone, too. */
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

/* Who has it locked has it to himself: it is not even poisoned before he is done. */
TEST_F(pages, locked_and_forced)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct holder holder;
	unsigned long out;
	int err;

	hold(_metadata, &holder, w->dev[1].fd, dm_block(area, 3), DEVMEM_HOLD_LOCK,
	     LONG_MS);
	err = destroy_within(w, 0, DEVMEM_FORCE, self->enough_ms, &stats);
	EXPECT_EQ(-EBUSY, err);
	EXPECT_TRUE(is_holding(&holder));
	out = stats.pages_evacuated;
	EXPECT_EQ(self->huge && !coherent() ? 0 : HALF_PAGES - 1, out);
	EXPECT_EQ(0, stats.pages_poisoned);
	hold_end(_metadata, &holder);

	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_FORCE, LONG_MS, &stats));
	EXPECT_EQ(HALF_PAGES, out + stats.pages_evacuated);
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* What goes away late does not hold up, nor cost a byte. */
TEST_F(pages, let_go_in_time)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct holder holder[2];

	hold(_metadata, &holder[0], w->dev[1].fd, dm_block(area, 3), 0,
	     BOUND_MS / 2);
	hold(_metadata, &holder[1], w->dev[1].fd, dm_block(area, 5),
	     DEVMEM_HOLD_LOCK, BOUND_MS / 2);
	EXPECT_EQ(0, destroy_within(w, 0, 0, LONG_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(HALF_PAGES, stats.pages_evacuated);
	hold_wait(_metadata, &holder[0]);
	hold_wait(_metadata, &holder[1]);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* --- many chunks, of which few have pages --- */

#define CHUNKS		64
#define CHUNKS_USED	4
/* A share of it for each chunk with pages is longer than BOUND_MS; for each chunk it is not. */
#define CHUNKS_MS	(20 * BOUND_MS)

FIXTURE(chunks)
{
	struct world w;
	struct dm_area area;
	struct holder holder;
};

FIXTURE_SETUP(chunks)
{
	struct world *w = &self->w;

	w->ctl = -1;
	if (no_huge_pages())
		SKIP(return, "transparent huge pages are off");
	world_init(_metadata, w, 2, CHUNK_SIZE);
	dev_del(_metadata, w, 0, 0, NULL);
	ASSERT_EQ(0, dm_create(w->ctl, CHUNKS * DM_HUGE, DM_HUGE, &w->dev[0]));
	*live |= 1ULL << w->dev[0].id;
	ASSERT_EQ(0, set_links(w, 1, 2, true, 0, NULL));
	/* Huge pages, each of which takes a chunk. */
	area_init(_metadata, &self->area, CHUNKS_USED * DM_HUGE, BLOCK, true);
	area_write(w, &self->area, 0, self->area.nr);
	area_put(_metadata, &self->area, 0, self->area.nr, &w->dev[0]);
}

FIXTURE_TEARDOWN(chunks)
{
	if (self->area.mem)
		dm_area_fini(&self->area);
	world_fini(_metadata, &self->w);
}

/* How long a request takes does not depend on how many chunks there are. */
TEST_F(chunks, held_for_ever)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	hold(_metadata, &self->holder, w->dev[1].fd, dm_block(area, 3), 0, LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, 0, BOUND_MS, &stats));
	/* With BOUND_MS for each chunk, the hold would have ended first. */
	EXPECT_TRUE(is_holding(&self->holder));
	EXPECT_EQ(0, stats.pages_poisoned);
	hold_end(_metadata, &self->holder);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Nor does the time that a page has to be let go, until it is taken. */
TEST_F(chunks, let_go_in_time_forced)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	hold(_metadata, &self->holder, w->dev[1].fd, dm_block(area, 3), 0, BOUND_MS);
	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_FORCE, CHUNKS_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(area->len / DM_PAGE, stats.pages_evacuated);
	hold_wait(_metadata, &self->holder);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

TEST_F(chunks, link_let_go_in_time_forced)
{
	struct devmem_link link = { .a = self->w.dev[0].id, .b = self->w.dev[1].id };
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	/* Whoever has more stays as it is: so the one with many chunks has to move. */
	area_put(_metadata, area, DM_HUGE / BLOCK, area->nr - DM_HUGE / BLOCK, &w->dev[1]);
	hold(_metadata, &self->holder, w->dev[1].fd, dm_block(area, 3), 0, BOUND_MS);
	EXPECT_EQ(0, dm_links_within(w->ctl, &link, 1, DEVMEM_FORCE, CHUNKS_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	hold_wait(_metadata, &self->holder);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* ========================================================================= */
/* Requests that are wrong, and those that have no business here.             */

FIXTURE(hostile)
{
	struct world w;
	struct dm_area area;
	/* Pages that are not what one would wish for. */
	void *hole, *read_only, *no_access;
	int fd;
};

FIXTURE_SETUP(hostile)
{
	struct world *w = &self->w;
	unsigned char *mem;

	world_init(_metadata, w, 2, 0);
	self->fd = w->dev[0].fd;
	area_init(_metadata, &self->area, 4 * BLOCK, BLOCK, false);
	area_write(w, &self->area, 0, self->area.nr);
	area_put(_metadata, &self->area, 0, 2, &w->dev[0]);

	mem = mmap(NULL, 3 * BLOCK, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	memset(mem, 1, 3 * BLOCK);
	self->hole = mem;
	self->read_only = mem + BLOCK;
	self->no_access = mem + 2 * BLOCK;
	ASSERT_EQ(0, munmap(self->hole, BLOCK));
	ASSERT_EQ(0, mprotect(self->read_only, BLOCK, PROT_READ));
	ASSERT_EQ(0, mprotect(self->no_access, BLOCK, PROT_NONE));
}

/* None of all this has changed anything. */
FIXTURE_TEARDOWN(hostile)
{
	struct world *w = &self->w;
	struct devmem_topology_entry topo[MAX_DEVS];
	struct dm_where where;

	if (w->ctl < 0)
		return;
	if (w->dev[0].fd >= 0) {
		topology(_metadata, w, topo);
		EXPECT_EQ(0, topo[0].links);
		ASSERT_EQ(0, dm_where(self->fd, self->area.mem, self->area.len,
				      &where));
		EXPECT_EQ(2 * BLOCK / DM_PAGE, where.device[w->dev[0].id]);
		EXPECT_EQ(2 * BLOCK / DM_PAGE, where.system);
		EXPECT_EQ(0, dm_area_wrong(&self->area, 0, self->area.nr));
	}
	world_fini(_metadata, w);
}

#define KERNEL_ADDR	(~0ULL << 20)
#define ADDR(p)		((__u64)(unsigned long)(p))

static unsigned int nr_devices(struct __test_metadata *_metadata, struct world *w)
{
	int nr = dm_topology(w->ctl, NULL, 0);

	ASSERT_GE(nr, 0);
	return nr;
}

TEST_F(hostile, create)
{
	static const struct {
		const char *what;
		struct devmem_create args;
	} cases[] = {
		{ "no memory", { .mem_size = 0 } },
		{ "less than 16 MiB", { .mem_size = 14 * DM_MIB } },
		{ "not whole huge pages", { .mem_size = MEM_SIZE + DM_MIB } },
		{ "no page", { .mem_size = MEM_SIZE + 1 } },
		{ "more than 64 GiB", { .mem_size = (64ULL << 30) + DM_HUGE } },
		{ "far more", { .mem_size = 1ULL << 63 } },
		{ "as much as can be", { .mem_size = -DM_HUGE } },
		{ "large chunk", { .mem_size = MEM_SIZE,
				   .chunk_size = MEM_SIZE + DM_HUGE } },
		{ "huge chunk", { .mem_size = MEM_SIZE, .chunk_size = -DM_HUGE } },
		{ "odd chunk", { .mem_size = MEM_SIZE, .chunk_size = DM_MIB } },
		{ "tiny chunk", { .mem_size = MEM_SIZE, .chunk_size = 1 } },
		{ "flag", { .mem_size = MEM_SIZE, .flags = 1 } },
		{ "high flag", { .mem_size = MEM_SIZE, .flags = 1U << 31 } },
	};
	struct devmem_create args;
	struct world *w = &self->w;
	unsigned int nr = nr_devices(_metadata, w), i;
	struct sysinfo info;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		EXPECT_EQ(-EINVAL, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, &args)) {
			TH_LOG("%s", cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE,
				    (void *)KERNEL_ADDR));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, self->hole));
	EXPECT_EQ(nr, nr_devices(_metadata, w));

	/* A good request, but no way to tell the result: no device. */
	args = (struct devmem_create) { .mem_size = MEM_SIZE };
	ASSERT_EQ(0, mprotect(self->read_only, BLOCK, PROT_READ | PROT_WRITE));
	memcpy(self->read_only, &args, sizeof(args));
	ASSERT_EQ(0, mprotect(self->read_only, BLOCK, PROT_READ));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, self->read_only));
	EXPECT_EQ(nr, nr_devices(_metadata, w));

	/* More than there is. */
	ASSERT_EQ(0, sysinfo(&info));
	if ((__u64)info.totalram * info.mem_unit < 64ULL << 30) {
		args = (struct devmem_create) { .mem_size = 64ULL << 30 };
		EXPECT_EQ(-ENOMEM, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, &args));
		EXPECT_EQ(nr, nr_devices(_metadata, w));
	}
}

TEST_F(hostile, destroy)
{
	struct world *w = &self->w;
	const struct {
		const char *what;
		int want;
		struct devmem_destroy args;
	} cases[] = {
		{ "flag", -EINVAL, { .id = w->dev[0].id, .flags = 4 } },
		{ "high flag", -EINVAL, { .id = w->dev[0].id, .flags = 1U << 31 } },
		{ "pad", -EINVAL, { .id = w->dev[0].id, .pad = 1 } },
		{ "timeout", -EINVAL, { .id = w->dev[0].id, .timeout_ms = 60001 } },
		{ "long timeout", -EINVAL, { .id = w->dev[0].id, .timeout_ms = ~0U } },
		{ "last id", -ENOENT, { .id = DEVMEM_MAX_DEVICES - 1 } },
		{ "id", -ENOENT, { .id = DEVMEM_MAX_DEVICES } },
		{ "large id", -ENOENT, { .id = ~0U } },
		{ "id by force", -ENOENT, { .id = ~0U, .flags = DEVMEM_FORCE } },
		{ "id that is lost", -ENOENT, { .id = ~0U, .flags = DEVMEM_LOST } },
	};
	struct devmem_destroy args;
	unsigned int nr = nr_devices(_metadata, w), i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		EXPECT_EQ(cases[i].want,
			  dm_ioctl(w->ctl, DEVMEM_IOC_DESTROY, &args)) {
			TH_LOG("%s", cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_DESTROY, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_DESTROY,
				    (void *)KERNEL_ADDR));
	EXPECT_EQ(nr, nr_devices(_metadata, w));
}

TEST_F(hostile, link)
{
	struct world *w = &self->w;
	const __u32 a = w->dev[0].id, b = w->dev[1].id;
	struct devmem_link good = { .a = a, .b = b, .up = 1 };
	const struct {
		const char *what;
		int want;
		struct devmem_link link;
	} cases[] = {
		{ "itself", -EINVAL, { .a = a, .b = a, .up = 1 } },
		{ "itself, down", -EINVAL, { .a = b, .b = b } },
		{ "nobody itself", -EINVAL, { .a = ~0U, .b = ~0U } },
		{ "up", -EINVAL, { .a = a, .b = b, .up = 2 } },
		{ "far up", -EINVAL, { .a = a, .b = b, .up = ~0U } },
		{ "pad", -EINVAL, { .a = a, .b = b, .up = 1, .pad = 1 } },
		{ "last id", -ENOENT, { .a = a, .b = DEVMEM_MAX_DEVICES - 1 } },
		{ "id", -ENOENT, { .a = a, .b = DEVMEM_MAX_DEVICES, .up = 1 } },
		{ "large id", -ENOENT, { .a = ~0U, .b = b, .up = 1 } },
	};
	const struct {
		const char *what;
		int want;
		struct devmem_set_links args;
	} calls[] = {
		{ "none", -EINVAL, { .links = ADDR(&good) } },
		{ "too many", -EINVAL, { .links = ADDR(&good),
					 .nr = DEVMEM_MAX_LINKS + 1 } },
		{ "far too many", -EINVAL, { .links = ADDR(&good), .nr = ~0U } },
		{ "flag", -EINVAL, { .links = ADDR(&good), .nr = 1, .flags = 2 } },
		{ "pad", -EINVAL, { .links = ADDR(&good), .nr = 1, .pad = 1 } },
		{ "timeout", -EINVAL, { .links = ADDR(&good), .nr = 1,
					.timeout_ms = 60001 } },
		{ "no pointer", -EFAULT, { .nr = 1 } },
		{ "hole", -EFAULT, { .links = ADDR(self->hole), .nr = 1 } },
		{ "runs into nothing", -EFAULT,
		  { .links = ADDR(self->no_access) - sizeof(good), .nr = 2 } },
		{ "kernel", -EFAULT, { .links = KERNEL_ADDR, .nr = 1 } },
		{ "end", -EFAULT, { .links = -sizeof(good), .nr = 1 } },
	};
	struct devmem_set_links args;
	struct devmem_link links[2];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		/* Also behind one that is good, which then does not count. */
		links[0] = good;
		links[1] = cases[i].link;
		EXPECT_EQ(cases[i].want, dm_links(w->ctl, &links[1], 1, 0, NULL)) {
			TH_LOG("%s", cases[i].what);
		}
		EXPECT_EQ(cases[i].want, dm_links(w->ctl, links, 2, 0, NULL)) {
			TH_LOG("%s, second", cases[i].what);
		}
		EXPECT_EQ(cases[i].want,
			  dm_links(w->ctl, links, 2, DEVMEM_FORCE, NULL)) {
			TH_LOG("%s, second, by force", cases[i].what);
		}
	}
	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		args = calls[i].args;
		EXPECT_EQ(calls[i].want,
			  dm_ioctl(w->ctl, DEVMEM_IOC_LINK, &args)) {
			TH_LOG("%s", calls[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_LINK, NULL));

	/* Up and down again, in one go: nothing. */
	links[0] = good;
	links[1] = good;
	links[1].up = 0;
	EXPECT_EQ(0, dm_links(w->ctl, links, 2, 0, NULL));
}

TEST_F(hostile, topology_of_devices)
{
	struct devmem_topology_entry entries[DEVMEM_MAX_DEVICES];
	struct world *w = &self->w;
	const struct {
		const char *what;
		int want;
		struct devmem_topology args;
	} cases[] = {
		{ "flag", -EINVAL, { .entries = ADDR(entries), .nr = 1, .flags = 1 } },
		{ "no pointer", -EFAULT, { .nr = 1 } },
		{ "hole", -EFAULT, { .entries = ADDR(self->hole), .nr = 1 } },
		{ "read only", -EFAULT, { .entries = ADDR(self->read_only),
					  .nr = 1 } },
		{ "kernel", -EFAULT, { .entries = KERNEL_ADDR, .nr = ~0U } },
	};
	struct devmem_topology args;
	unsigned int i;
	int nr;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		EXPECT_EQ(cases[i].want,
			  dm_ioctl(w->ctl, DEVMEM_IOC_TOPOLOGY, &args)) {
			TH_LOG("%s", cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_TOPOLOGY, NULL));

	/* Room is not overrun, and the number is true all the same. */
	memset(entries, 0xee, sizeof(entries));
	nr = dm_topology(w->ctl, entries, 1);
	EXPECT_GE(nr, 2);
	EXPECT_EQ(0xeeeeeeee, entries[1].id);
	EXPECT_EQ(nr, dm_topology(w->ctl, NULL, 0));
	EXPECT_EQ(nr, dm_topology(w->ctl, entries, DEVMEM_MAX_DEVICES));
}

TEST_F(hostile, hold)
{
	const __u64 a = ADDR(dm_block(&self->area, 0));
	const struct {
		const char *what;
		int want;
		struct devmem_hold args;
	} cases[] = {
		{ "flag", -EINVAL, { a, 2, 1 } },
		{ "high flag", -EINVAL, { a, 1U << 31, 1 } },
		{ "no time", -EINVAL, { a, 0, 0 } },
		{ "too long", -EINVAL, { a, 0, 60001 } },
		{ "addr", -EINVAL, { a + 1, 0, 1 } },
		{ "wraps", -EINVAL, { -DM_PAGE, 0, 1 } },
		{ "kernel", -EFAULT, { KERNEL_ADDR, 0, 1 } },
		{ "hole", -ENOENT, { ADDR(self->hole), 0, 1 } },
		{ "system", -ENOENT, { ADDR(dm_block(&self->area, 2)), 0, 1 } },
		{ "good", 0, { a, 0, 1 } },
		{ "good and locked", 0, { a, DEVMEM_HOLD_LOCK, 1 } },
	};
	unsigned int i, dev;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		for (dev = 0; dev < 2; dev++) {
			struct devmem_hold args = cases[i].args;

			EXPECT_EQ(cases[i].want,
				  dm_ioctl(self->w.dev[dev].fd,
					   DRM_IOCTL_DEVMEM_HOLD, &args)) {
				TH_LOG("%s", cases[i].what);
			}
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_HOLD, NULL));
}

TEST_F(hostile, unknown_requests)
{
	char buf[256] = {};
	struct world *w = &self->w;

	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, _IO(0xDE, 0x7f), NULL));
	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, 0, buf));
	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, _IOWR(0xDE, 0x00, __u32), buf));
	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, DRM_IOCTL_DEVMEM_INFO, buf));
	EXPECT_EQ(-EINVAL, dm_ioctl(self->fd, DEVMEM_DRM_IOWR(6, buf), buf));
	EXPECT_EQ(-EINVAL, dm_ioctl(self->fd, DEVMEM_DRM_IOWR(0x5f, buf), buf));
}

TEST_F(hostile, exec)
{
	void *a = dm_block(&self->area, 0), *b = dm_block(&self->area, 2);
	enum { FILL, COPY, SUM, ADD };
	static_assert(FILL == DEVMEM_OP_FILL && COPY == DEVMEM_OP_COPY &&
		      SUM == DEVMEM_OP_CHECKSUM && ADD == DEVMEM_OP_ATOMIC_ADD, "names of ops");
	const __u64 end = ADDR(self->area.mem) + self->area.len;
	const struct {
		const char *what;
		int want;
		struct devmem_exec args;
	} cases[] = {
		{ "op", -EINVAL, { .op = 4, .dst = ADDR(a), .len = 8 } },
		{ "last op", -EINVAL, { .op = ~0U, .dst = ADDR(a), .len = 8 } },
		{ "flag", -EINVAL, { FILL, 2, .dst = ADDR(a), .len = 8 } },
		{ "count copy", -EINVAL, { COPY, DEVMEM_EXEC_COUNT, ADDR(b),
					   ADDR(a), 8 } },
		{ "count sum", -EINVAL, { SUM, DEVMEM_EXEC_COUNT, .src = ADDR(a),
					  .len = 8 } },
		{ "count add", -EINVAL, { ADD, DEVMEM_EXEC_COUNT, .dst = ADDR(a),
					  .len = 8 } },
		{ "fill from", -EINVAL, { FILL, 0, ADDR(a), ADDR(b), 8 } },
		{ "add from", -EINVAL, { ADD, 0, ADDR(a), ADDR(b), 8 } },
		{ "sum to", -EINVAL, { SUM, 0, ADDR(a), ADDR(b), 8 } },
		{ "copy a value", -EINVAL, { COPY, 0, ADDR(b), ADDR(a), 8, 1 } },
		{ "sum a value", -EINVAL, { SUM, 0, 0, ADDR(a), 8, 1 } },
		{ "nothing", -EINVAL, { FILL, .dst = ADDR(a) } },
		{ "no copy", -EINVAL, { COPY, 0, ADDR(b), ADDR(a), 0 } },
		{ "no sum", -EINVAL, { SUM, 0, 0, ADDR(a), 0 } },
		{ "odd dst", -EINVAL, { FILL, .dst = ADDR(a) + 4, .len = 8 } },
		{ "odd src", -EINVAL, { SUM, .src = ADDR(a) + 1, .len = 8 } },
		{ "odd copy", -EINVAL, { COPY, 0, ADDR(b), ADDR(a) + 4, 8 } },
		{ "odd len", -EINVAL, { ADD, .dst = ADDR(a), .len = 12 } },
		{ "wraps", -EINVAL, { FILL, .dst = -8ULL, .len = 16 } },
		{ "wraps to 0", -EINVAL, { FILL, .dst = -8ULL, .len = 8 } },
		{ "endless", -EINVAL, { SUM, .src = ADDR(a), .len = -8ULL } },
		{ "src wraps", -EINVAL, { COPY, 0, ADDR(b), -16ULL, 32 } },
		{ "itself", -EINVAL, { COPY, 0, ADDR(a), ADDR(a), 8 } },
		{ "up", -EINVAL, { COPY, 0, ADDR(a) + 8, ADDR(a), 16 } },
		{ "down", -EINVAL, { COPY, 0, ADDR(a), ADDR(a) + BLOCK - 8, BLOCK } },

		{ "kernel dst", -EFAULT, { FILL, .dst = KERNEL_ADDR, .len = 8 } },
		{ "kernel src", -EFAULT, { SUM, .src = KERNEL_ADDR, .len = 8 } },
		{ "kernel copy", -EFAULT, { COPY, 0, ADDR(b), KERNEL_ADDR, 8 } },
		{ "into kernel", -EFAULT, { SUM, .src = ADDR(a), .len = 1ULL << 62 } },
		{ "half", -EFAULT, { ADD, .dst = 1ULL << 63, .len = 8 } },
		{ "null", -EFAULT, { FILL, .len = 8 } },
		{ "null src", -EFAULT, { SUM, .len = 8 } },
		{ "hole", -EFAULT, { FILL, .dst = ADDR(self->hole), .len = 8 } },
		{ "hole src", -EFAULT, { SUM, .src = ADDR(self->hole), .len = 8 } },
		{ "read only", -EFAULT, { FILL, .dst = ADDR(self->read_only),
					  .len = 8 } },
		{ "read only add", -EFAULT, { ADD, .dst = ADDR(self->read_only),
					      .len = 8 } },
		{ "read only copy", -EFAULT, { COPY, 0, ADDR(self->read_only),
					       ADDR(a), 8 } },
		{ "no access", -EFAULT, { SUM, .src = ADDR(self->no_access),
					  .len = 8 } },
		{ "no access dst", -EFAULT, { FILL, .dst = ADDR(self->no_access),
					      .len = 8 } },

		{ "first word", 0, { SUM, .src = ADDR(a), .len = 8 } },
		{ "last word", 0, { SUM, .src = end - 8, .len = 8 } },
		{ "read only src", 0, { SUM, .src = ADDR(self->read_only),
					.len = BLOCK } },
	};
	struct devmem_exec args;
	unsigned int i;
	__u64 sum;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		args.result = 42;
		args.done = 42;
		EXPECT_EQ(cases[i].want, dm_exec(self->fd, &args)) {
			TH_LOG("%s", cases[i].what);
		}
		if (!cases[i].want)
			args.done -= args.len;
		EXPECT_EQ(0, args.done);
	}
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, NULL));
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, (void *)KERNEL_ADDR));
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, self->hole));

	/* Ranges that only touch do not overlap. */
	EXPECT_EQ(0, dm_copy(self->fd, (char *)a + 8, a, 8));
	EXPECT_EQ(0, dm_copy(self->fd, a, (char *)b - BLOCK, BLOCK));
	self->area.base[0] = self->area.base[1];

	/* As far as it goes: to the end of what can be written. */
	args = (struct devmem_exec) {
		.op = DEVMEM_OP_COPY,
		.dst = ADDR(a),
		.src = ADDR(self->no_access) - 2 * DM_PAGE,
		.len = 3 * DM_PAGE,
	};
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, &args));
	EXPECT_EQ(2 * DM_PAGE, args.done);
	EXPECT_EQ(0, dm_checksum(self->fd, a, 2 * DM_PAGE, &sum));
	EXPECT_EQ(0x0101010101010101ULL * (2 * DM_PAGE / DM_WORD) *
		  (2 * DM_PAGE / DM_WORD), sum);
	EXPECT_EQ(0, dm_fill(self->fd, a, BLOCK, self->area.base[0]));
}

TEST_F(hostile, migrate)
{
	const __u32 to_dev = DEVMEM_MIGRATE_TO_DEVICE;
	const __u32 to_sys = DEVMEM_MIGRATE_TO_SYSTEM;
	const __u64 a = ADDR(dm_block(&self->area, 0));
	const struct {
		const char *what;
		int want;
		struct devmem_migrate args;
	} cases[] = {
		{ "nowhere", -EINVAL, { a, DM_PAGE, 0 } },
		{ "both", -EINVAL, { a, DM_PAGE, to_dev | to_sys } },
		{ "flag", -EINVAL, { a, DM_PAGE, to_dev | 4 } },
		{ "high flag", -EINVAL, { a, DM_PAGE, 1U << 31 } },
		{ "pad", -EINVAL, { a, DM_PAGE, to_dev, 1 } },
		{ "addr", -EINVAL, { a + 8, DM_PAGE, to_dev } },
		{ "len", -EINVAL, { a, DM_PAGE + 8, to_sys } },
		{ "nothing", -EINVAL, { a, 0, to_dev } },
		{ "nothing to system", -EINVAL, { a, 0, to_sys } },
		{ "wraps", -EINVAL, { -DM_PAGE, 2 * DM_PAGE, to_dev } },
		{ "wraps to 0", -EINVAL, { -DM_PAGE, DM_PAGE, to_sys } },
		{ "endless", -EINVAL, { a, -DM_PAGE, to_dev } },
		{ "kernel", -EFAULT, { KERNEL_ADDR, DM_PAGE, to_dev } },
		{ "kernel to system", -EFAULT, { KERNEL_ADDR, DM_PAGE, to_sys } },
		{ "into kernel", -EFAULT, { a, 1ULL << 62, to_dev } },
		{ "null", -EFAULT, { 0, DM_PAGE, to_dev } },
		{ "hole", -EFAULT, { ADDR(self->hole), DM_PAGE, to_dev } },
		{ "hole to system", -EFAULT, { ADDR(self->hole), DM_PAGE, to_sys } },
		{ "no access", -EFAULT, { ADDR(self->no_access), DM_PAGE, to_sys } },
	};
	struct devmem_migrate args;
	unsigned char *file;
	unsigned int i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		args.pages = 42;
		EXPECT_EQ(cases[i].want, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_MIGRATE,
						  &args)) {
			TH_LOG("%s", cases[i].what);
		}
		EXPECT_EQ(0, args.pages);
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_MIGRATE, NULL));

	/* What is not anonymous stays where it is. */
	fd = syscall(__NR_memfd_create, "devmem", 0);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ftruncate(fd, BLOCK));
	file = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, file);
	memset(file, 2, BLOCK);
	EXPECT_EQ(0, dm_migrate(self->fd, file, BLOCK, to_dev));
	EXPECT_EQ((long)(BLOCK / DM_PAGE), dm_migrate(self->fd, file, BLOCK, to_sys));
	EXPECT_EQ(0, dm_fill(self->fd, file, BLOCK, 7));
	EXPECT_EQ(7 + BLOCK / DM_WORD - 1, ((__u64 *)file)[BLOCK / DM_WORD - 1]);
	munmap(file, BLOCK);
	close(fd);
}

TEST_F(hostile, query)
{
	__u32 pages[4 * BLOCK / DM_PAGE];
	const __u64 a = ADDR(dm_block(&self->area, 0)), to = ADDR(pages);
	const struct {
		const char *what;
		int want;
		struct devmem_query args;
	} cases[] = {
		{ "flag", -EINVAL, { a, DM_PAGE, to, 1 } },
		{ "pad", -EINVAL, { a, DM_PAGE, to, 0, 1 } },
		{ "addr", -EINVAL, { a + 1, DM_PAGE, to } },
		{ "len", -EINVAL, { a, 1, to } },
		{ "nothing", -EINVAL, { a, 0, to } },
		{ "wraps", -EINVAL, { -DM_PAGE, 2 * DM_PAGE, to } },
		{ "wraps to 0", -EINVAL, { -DM_PAGE, DM_PAGE, to } },
		{ "kernel", -EFAULT, { KERNEL_ADDR, DM_PAGE, to } },
		{ "into kernel", -EFAULT, { a, 1ULL << 62, to } },
		{ "no pointer", -EFAULT, { a, DM_PAGE, 0 } },
		{ "read only", -EFAULT, { a, DM_PAGE, ADDR(self->read_only) } },
		{ "kernel pointer", -EFAULT, { a, DM_PAGE, KERNEL_ADDR } },
		{ "runs into nothing", -EFAULT,
		  { a, 2 * DM_PAGE, ADDR(self->no_access) - 4 } },
		{ "hole", 0, { ADDR(self->hole), DM_PAGE, to } },
		{ "null", 0, { 0, DM_PAGE, to } },
		{ "no access", 0, { ADDR(self->no_access), DM_PAGE, to } },
	};
	struct devmem_query args;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		EXPECT_EQ(cases[i].want, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_QUERY,
						  &args)) {
			TH_LOG("%s", cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_QUERY, NULL));

	/* Nothing is there, and asking does not change that. */
	memset(pages, 0xee, sizeof(pages));
	EXPECT_EQ(0, dm_query(self->fd, self->hole, DM_PAGE, pages));
	EXPECT_EQ(DEVMEM_PAGE_NONE, pages[0]);
	EXPECT_EQ(0xeeeeeeee, pages[1]);
	/* Any device can be asked. */
	EXPECT_EQ(0, dm_query(self->w.dev[1].fd, (void *)a, self->area.len, pages));
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		EXPECT_EQ(i < ARRAY_SIZE(pages) / 2 ?
			  DEVMEM_PAGE_DEVICE | self->w.dev[0].id << 8 :
			  DEVMEM_PAGE_SYSTEM, pages[i]);
}

TEST_F(hostile, info_and_stats)
{
	struct devmem_info info = { .flags = 1 };
	struct devmem_stats stats = { .flags = 1 };
	int fd = self->fd;

	EXPECT_EQ(-EINVAL, dm_ioctl(fd, DRM_IOCTL_DEVMEM_INFO, &info));
	EXPECT_EQ(-EINVAL, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS, &stats));
	stats.flags = 0;
	stats.pad = 1;
	EXPECT_EQ(-EINVAL, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS, &stats));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_INFO, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_INFO, self->no_access));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS,
				    (void *)KERNEL_ADDR));

	EXPECT_EQ(0, dm_info(fd, &info));
	EXPECT_EQ(self->w.dev[0].id, info.id);
	EXPECT_EQ(MEM_SIZE, info.mem_size);
	EXPECT_EQ(MEM_SIZE, info.chunk_size);
	EXPECT_EQ(MEM_SIZE - 2 * BLOCK, info.mem_free);
	EXPECT_EQ(0, dm_stats(fd, &stats));
	EXPECT_EQ(2 * BLOCK / DM_PAGE, stats.migrated_in);
	EXPECT_EQ(2 * BLOCK, stats.bytes_copied);
	EXPECT_EQ(0, stats.migrated_out);
}

/* An open file belongs to the process that first had a use for it. */
TEST_F(hostile, file_of_another_process)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct child child;
	__u64 sum;
	int fd;

	fd = dm_open(w->dev[1].minor);
	ASSERT_GE(fd, 0);
	if (child_fork(_metadata, &child)) {
		struct devmem_stats stats;
		struct devmem_info info;
		struct dm_where where;

		CHILD_CHECK(dm_checksum(self->fd, area->mem, BLOCK, &sum) ==
			    -EINVAL);
		CHILD_CHECK(dm_migrate(self->fd, area->mem, BLOCK,
				       DEVMEM_MIGRATE_TO_SYSTEM) == -EINVAL);
		CHILD_CHECK(dm_migrate(self->fd, area->mem, BLOCK,
				       DEVMEM_MIGRATE_TO_DEVICE) == -EINVAL);
		CHILD_CHECK(!dm_info(self->fd, &info));
		CHILD_CHECK(!dm_stats(self->fd, &stats));
		CHILD_CHECK(!dm_where(self->fd, area->mem, area->len, &where));
		CHILD_CHECK(where.device[w->dev[0].id] == 2 * BLOCK / DM_PAGE);
		/* This one was nobody's: only asked, which does not count. */
		CHILD_CHECK(!dm_checksum(fd, dm_block(area, 2), BLOCK, &sum));
		CHILD_CHECK(sum == dm_area_sum(area, 2, 1));
		child_step(&child);
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	EXPECT_EQ(-EINVAL, dm_checksum(fd, area->mem, BLOCK, &sum));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	/* Also when that process is gone. */
	EXPECT_EQ(-EINVAL, dm_checksum(fd, area->mem, BLOCK, &sum));
	close(fd);
	EXPECT_TRUE(area_seen(area, 0, 1, self->fd));
}

TEST_F(hostile, control_takes_cap_sys_admin)
{
	struct child child;

	if (child_fork(_metadata, &child)) {
		struct __user_cap_header_struct header = {
			.version = _LINUX_CAPABILITY_VERSION_3,
		};
		struct __user_cap_data_struct data[2];

		CHILD_CHECK(!syscall(__NR_capget, &header, data));
		data[0].effective &= ~(1U << CAP_SYS_ADMIN);
		CHILD_CHECK(!syscall(__NR_capset, &header, data));
		CHILD_CHECK(open(DEVMEM_CTL_PATH, O_RDWR) < 0 && errno == EPERM);
		_exit(0);
	}
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
}

/* ========================================================================= */
/* As many devices as there can be.                                           */

FIXTURE(full)
{
	struct world w;
	struct dm_dev dev[DEVMEM_MAX_DEVICES];
	unsigned int nr;
};

FIXTURE_SETUP(full)
{
	unsigned int i;

	ctl_open(_metadata, &self->w);
	for (i = nr_devices(_metadata, &self->w); i < DEVMEM_MAX_DEVICES; i++) {
		ASSERT_EQ(0, dm_create(self->w.ctl, MEM_SIZE, 0,
				       &self->dev[self->nr]));
		*live |= 1ULL << self->dev[self->nr++].id;
	}
}

FIXTURE_TEARDOWN(full)
{
	unsigned int i;

	for (i = 0; i < self->nr; i++) {
		no_violations(_metadata, &self->dev[i]);
		EXPECT_EQ(0, dm_destroy(self->w.ctl, self->dev[i].id, 0, NULL));
		*live &= ~(1ULL << self->dev[i].id);
		close(self->dev[i].fd);
	}
}

/* There is no room for one more; and all of them make one cluster. */
TEST_F(full, one_cluster_of_all)
{
	static struct devmem_link links[DEVMEM_MAX_LINKS];
	struct devmem_topology_entry entries[DEVMEM_MAX_DEVICES];
	struct world *w = &self->w;
	struct devmem_op_stats stats;
	struct dm_where where;
	struct dm_area area;
	struct dm_dev more;
	unsigned int i, j, nr = 0;

	EXPECT_EQ(-ENOSPC, dm_create(w->ctl, MEM_SIZE, 0, &more));

	area_init(_metadata, &area, self->nr * DM_PAGE, DM_PAGE, false);
	area_write(w, &area, 0, area.nr);
	for (i = 0; i < self->nr; i++)
		area_put(_metadata, &area, i, 1, &self->dev[i]);

	for (i = 0; i < self->nr; i++) {
		for (j = i + 1; j < self->nr; j++, nr++) {
			links[nr].a = self->dev[i].id;
			links[nr].b = self->dev[j].id;
			links[nr].up = 1;
		}
	}
	ASSERT_EQ(0, dm_links(w->ctl, links, nr, 0, &stats));
	EXPECT_EQ(self->nr - 1, stats.peers_moved);
	EXPECT_EQ(self->nr - 1, stats.pages_rehomed);
	EXPECT_TRUE(rehome_copied(&stats));

	ASSERT_EQ(DEVMEM_MAX_DEVICES,
		  dm_topology(w->ctl, entries, DEVMEM_MAX_DEVICES));
	for (i = 0; i < self->nr; i++) {
		/* The first and the last device see all pages, the others see two. */
		bool whole = DM_ALL || !i || i == self->nr - 1;

		EXPECT_EQ(entries[self->dev[0].id].owner_id,
			  entries[self->dev[i].id].owner_id);
		EXPECT_TRUE(area_seen(&area, whole ? 0 : i, whole ? area.nr : 2,
				      self->dev[i].fd));
	}
	ASSERT_EQ(0, dm_where(self->dev[0].fd, area.mem, area.len, &where));
	for (i = 0; i < self->nr; i++)
		EXPECT_EQ(1, where.device[self->dev[i].id]);
	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/* ========================================================================= */

static bool private(void)
{
	return !coherent();
}

/* Only devmem_all runs these: they repeat what other variants show. */
static const struct dm_left left_to_all[] = {
	/* Clusters of other sizes. */
	{ "cluster.of_[18].*" },
	{ "links.of_8.*" },
	/* More than two devices make no difference here. */
	{ "cluster.of_4.in_place_*huge" },
	{ "cluster.of_4.atomics" },
	{ "cluster.of_4.exit_with_pages" },
	{ "cluster.of_4.load_forced_leave" },
	{ "links.of_4.separate_clusters" },
	{ "links.of_4.nothing_stays_mapped" },
	{ "links.of_4.load_split_and_merge" },
	{ "links.of_4.load_forced" },
	/* Private memory shows the same. */
	{ "links.of_4.load_several_at_once", coherent },
	{ "chunks.link_let_go_in_time_forced", coherent },
	/* Two devices have only one link. */
	{ "links.of_2.*several_at_once" },
	/* The cluster of four shows the same; with coherent memory, that of two. */
	{ "cluster.of_2.in_place_small", private },
	{ "cluster.of_2.range_across_devices", private },
	{ "cluster.of_2.leave_and_join", private },
	{ "cluster.of_2.load_leave_and_join", private },
	{ "links.of_2.split_and_merge", private },
	{ "cluster.of_4.*", coherent },
	{ "links.of_4.split_and_merge", coherent },
	/* The size of pages makes no difference here. */
	{ "pages.huge.eviction" },
	{ "pages.huge.memory_of_a_failed_copy_is_cleared" },
	{ "pages.huge.fault_against_link_down" },
	{ "pages.huge.open_files_of_a_removed_device" },
	{ "pages.huge.lost_in_core_dump" },
	{ "pages.huge.coherent_*" },
	{ "pages.huge.let_go_in_time" },
	{ "pages.huge.stopped_process*" },
	{ "pages.huge.killed_process*" },
	{ "pages.huge.full_memcg*" },
	{ "pages.huge.merged_pages_stay" },
	/* Only huge pages are split. */
	{ "pages.small.zap_against_fault_in_part" },
	{ "pages.small.fault_in_part_of_huge" },
	/* The kind of memory makes no difference here. */
	{ "cluster.*.exit_with_pages", coherent },
	{ "hostile.*", coherent },
	{ "full.*", coherent },
	/* Coherent memory has no huge pages. */
	{ "pages.huge.*", coherent },
	{ }
};

static void machine(void)
{
	ksft_print_msg("memory of devices: %s; huge pages: %s; CPUs: %ld\n",
		       coherent() ? "coherent" : "private", no_huge_pages() ? "no" : "yes",
		       sysconf(_SC_NPROCESSORS_ONLN));
}

int main(int argc, char **argv)
{
	const struct dm_program program = {
		.machine = machine,
		.left = left_to_all,
	};

	return dm_main(argc, argv, &program);
}
