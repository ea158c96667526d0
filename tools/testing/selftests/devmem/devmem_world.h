/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests on virtual GPUs share: devices, their links, memory with known contents,
 * and children that run in step with a test. devmem_test.h describes the devices.
 *
 * Each test makes the devices that it needs and removes them at the end. Each device must
 * report then that its engine never used a link that was down.
 *
 * DEVMEM_SEED repeats the random choices of another run.
 *
 * If the module parameter coherent_ram is set, the devices have coherent memory. A change of
 * links never moves coherent memory, devices use it in single pages, and a CPU access does
 * not bring it back to system memory. Everything else is the same for both kinds of memory.
 */
#ifndef _DEVMEM_WORLD_H_
#define _DEVMEM_WORLD_H_

#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "devmem_harness.h"

/* The sizes suit an emulated machine with two CPUs. */
#define SEED		20260101ULL
#define MEM_SIZE	(16 * DM_MIB)
/* Several regions for each device, so that a change uses windows again. */
#define CHUNK_SIZE	(8 * DM_MIB)
#define MAX_DEVS	8
#define BLOCK		(64 * 1024UL)
/* What a device holds in most tests. */
#define SHARE_SMALL	(512 * 1024UL)
#define SHARE_HUGE	DM_HUGE

/* Timeout of a request that is expected to time out, in milliseconds. */
#define BOUND_MS	1000
/* The longest timeout that the driver accepts, and the longest time that it holds a page. */
#define LONG_MS		60000

/* Ids of the devices that this program has to remove, in memory that all tests share. */
static __u64 *live;

static __attribute__((constructor)) void live_init(void)
{
	live = mmap(NULL, sizeof(*live), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static inline bool coherent(void)
{
	return dm_coherent("coherent_ram");
}

static inline bool private(void)
{
	return !coherent();
}

static inline __u64 seed(void)
{
	const char *env = getenv("DEVMEM_SEED");

	return env ? strtoull(env, NULL, 0) : SEED;
}

/* --- devices --- */

/**
 * struct world - the devices of a test
 * @ctl: the misc device
 * @nr: number of entries in @dev that were made
 * @dev: the devices; @fd is -1 after a device was removed
 * @dead: the test has forced a link down or has torn a device out
 * @generation: makes the contents of each write unique
 */
struct world {
	int ctl;
	unsigned int nr;
	struct dm_dev dev[MAX_DEVS];
	bool dead;
	__u64 generation;
};

/* The device's engine has used no link that was down or dead. */
static inline void no_violations(struct __test_metadata *_metadata, const struct world *w,
				 struct dm_dev *dev)
{
	struct devmem_stats stats;

	ASSERT_EQ(0, dm_stats(dev->fd, &stats));
	EXPECT_EQ(0, stats.violations) {
		TH_LOG("device %u", dev->id);
	}
	EXPECT_TRUE(w->dead || !stats.link_errors) {
		TH_LOG("device %u: %llu link errors", dev->id, stats.link_errors);
	}
}

static inline void dev_add(struct __test_metadata *_metadata, struct world *w,
			   unsigned int i, __u64 chunk_size)
{
	ASSERT_EQ(0, dm_create(w->ctl, MEM_SIZE, chunk_size, &w->dev[i]));
	*live |= 1ULL << w->dev[i].id;
}

/* The device has been removed. */
static inline void dev_gone(struct world *w, unsigned int i)
{
	*live &= ~(1ULL << w->dev[i].id);
	close(w->dev[i].fd);
	w->dev[i].fd = -1;
}

/* Remove a device, but leave its file open. */
static inline int dev_leave(struct __test_metadata *_metadata, struct world *w,
			    unsigned int i, __u32 flags, struct devmem_op_stats *stats)
{
	int err;

	no_violations(_metadata, w, &w->dev[i]);
	err = dm_destroy(w->ctl, w->dev[i].id, flags, stats);
	if (!err)
		*live &= ~(1ULL << w->dev[i].id);
	return err;
}

static inline void dev_del(struct __test_metadata *_metadata, struct world *w,
			   unsigned int i, __u32 flags, struct devmem_op_stats *stats)
{
	ASSERT_EQ(0, dev_leave(_metadata, w, i, flags, stats));
	dev_gone(w, i);
}

/* Try to remove a device until @ms are over; 0: as long as a request takes by default. */
static inline int destroy_within(struct world *w, unsigned int i, __u32 flags, __u32 ms,
				 struct devmem_op_stats *stats)
{
	int err;

	w->dead |= !!(flags & DEVMEM_LOST);
	err = dm_destroy_within(w->ctl, w->dev[i].id, flags, ms, stats);
	if (!err)
		dev_gone(w, i);
	return err;
}

static inline void ctl_open(struct __test_metadata *_metadata, struct world *w)
{
	unsigned int i;

	w->nr = 0;
	w->dead = false;
	for (i = 0; i < MAX_DEVS; i++)
		w->dev[i].fd = -1;

	w->ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	ASSERT_GE(w->ctl, 0);

	/* Remove the devices of a test that was killed. */
	for (i = 0; i < DEVMEM_MAX_DEVICES; i++)
		if (*live & 1ULL << i)
			dm_destroy(w->ctl, i, DEVMEM_FORCE, NULL);
	*live = 0;
}

static inline void world_init(struct __test_metadata *_metadata, struct world *w,
			      unsigned int nr, __u64 chunk_size)
{
	ctl_open(_metadata, w);
	for (w->nr = 0; w->nr < nr; w->nr++)
		dev_add(_metadata, w, w->nr, chunk_size);
}

static inline void world_fini(struct __test_metadata *_metadata, struct world *w)
{
	unsigned int i;

	if (w->ctl < 0)
		return;
	for (i = 0; i < w->nr; i++) {
		if (w->dev[i].fd < 0)
			continue;
		no_violations(_metadata, w, &w->dev[i]);
		EXPECT_EQ(0, dm_destroy(w->ctl, w->dev[i].id, 0, NULL));
		dev_gone(w, i);
	}
	close(w->ctl);
	w->ctl = -1;
}

/* --- topology --- */

/* Links between two sets of devices, as masks of indices, that may overlap. */
static inline unsigned int links_between(struct world *w, unsigned int set_a,
					 unsigned int set_b, bool up,
					 struct devmem_link *links)
{
	unsigned int a, b, nr = 0;

	for (a = 0; a < w->nr; a++) {
		for (b = 0; b < w->nr; b++) {
			if (a == b || !(set_a & 1U << a) || !(set_b & 1U << b))
				continue;
			/* Only once, if both devices are in both sets. */
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

static inline int set_links_within(struct world *w, unsigned int set_a, unsigned int set_b,
				   bool up, __u32 flags, __u32 ms,
				   struct devmem_op_stats *stats)
{
	struct devmem_link links[MAX_DEVS * MAX_DEVS];
	unsigned int nr = links_between(w, set_a, set_b, up, links);

	w->dead |= !!(flags & DEVMEM_FORCE);
	return dm_links_within(w->ctl, links, nr, flags, ms, stats);
}

static inline int set_links(struct world *w, unsigned int set_a, unsigned int set_b,
			    bool up, __u32 flags, struct devmem_op_stats *stats)
{
	return set_links_within(w, set_a, set_b, up, flags, 0, stats);
}

static inline unsigned int all_of(const struct world *w)
{
	return (1U << w->nr) - 1;
}

/* Entries by device index; those of removed devices do not change. */
static inline void topology(struct __test_metadata *_metadata, struct world *w,
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

static inline void link_all(struct __test_metadata *_metadata, struct world *w)
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

/* Leftovers of one device. */
static inline __u64 left_on(struct __test_metadata *_metadata, struct world *w, unsigned int i)
{
	struct devmem_topology_entry topo[MAX_DEVS];

	topology(_metadata, w, topo);
	return topo[i].left_pages;
}

/* The core moves leftovers in the background: wait until none are left. */
static inline void all_rehomed(struct __test_metadata *_metadata, struct world *w)
{
	EXPECT_TRUE(dm_soon(!dm_pages_left(w->ctl))) {
		TH_LOG("%ld pages are left over", dm_pages_left(w->ctl));
	}
}

/* What each change of links does, whatever its flags. */
static inline void copied_nothing(struct __test_metadata *_metadata,
				  const struct devmem_op_stats *stats)
{
	EXPECT_EQ(0, stats->bytes_copied);
	EXPECT_EQ(0, stats->pages_evacuated);
	EXPECT_EQ(0, stats->pages_poisoned);
	EXPECT_EQ(0, stats->stall_ns);
}

/* Pages that a planned change rehomes, of devices that hold @pages and leave a cluster. */
static inline __u64 rehomes(__u64 pages)
{
	return coherent() ? 0 : pages;
}

/*
 * Devices that get a new owner when @leave of them leave a cluster and @stay remain. Coherent
 * pages stay under the old owner, so the devices that remain get a new one, too.
 */
static inline __u64 split_moves(unsigned int leave, unsigned int stay)
{
	return coherent() ? leave + stay : leave;
}

/*
 * A planned change of links between devices that are idle. Devices that keep their owner pay
 * nothing. The others pay at most twice for what they hold: once when they leave a cluster,
 * and once when they join another.
 */
static inline void change_links(struct __test_metadata *_metadata, struct world *w,
				const struct devmem_link *links, unsigned int nr)
{
	struct devmem_topology_entry before[MAX_DEVS], after[MAX_DEVS];
	__u64 peers_moved = 0, resident = 0;
	struct devmem_op_stats stats;
	unsigned int i;

	all_rehomed(_metadata, w);
	topology(_metadata, w, before);
	ASSERT_EQ(0, dm_links(w->ctl, links, nr, 0, &stats));
	topology(_metadata, w, after);

	for (i = 0; i < w->nr; i++) {
		EXPECT_EQ(before[i].resident_pages, after[i].resident_pages);
		if (before[i].owner_id == after[i].owner_id)
			continue;
		peers_moved++;
		resident += before[i].resident_pages;
	}
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(0, stats.pages_left);
	/* A device counts more than once if it leaves a cluster and joins another. */
	EXPECT_LE(peers_moved, stats.peers_moved);
	EXPECT_EQ(!peers_moved, !stats.peers_moved);
	EXPECT_GE(2 * rehomes(resident), stats.pages_rehomed);
}

/* --- memory --- */

static inline void area_init(struct __test_metadata *_metadata, struct dm_area *area,
			     size_t len, size_t block, bool huge)
{
	ASSERT_EQ(0, dm_area_init(area, len, block, huge));
}

/* The CPU writes new contents to @nr blocks. */
static inline void area_write(struct world *w, struct dm_area *area, size_t b, size_t nr)
{
	__u64 generation = ++w->generation;

	for (; nr; nr--, b++)
		dm_block_write(area, b, dm_fresh(b, 0, generation));
}

/* A device writes new contents to one block. */
static inline int area_fill(struct world *w, struct dm_area *area, size_t b, int fd)
{
	__u64 base = dm_fresh(b, 1, ++w->generation);
	int err = dm_fill(fd, dm_block(area, b), area->block, base);

	if (!err)
		area->base[b] = base;
	return err;
}

/* A device adds something to one block. */
static inline int area_add(struct world *w, struct dm_area *area, size_t b, int fd)
{
	__u64 value = dm_fresh(b, 2, ++w->generation);
	int err = dm_add(fd, dm_block(area, b), area->block, value);

	if (!err)
		area->base[b] += value;
	return err;
}

/* Does a device read the right contents? */
static inline bool area_seen(const struct dm_area *area, size_t b, size_t nr, int fd)
{
	__u64 sum;

	return !dm_checksum(fd, dm_block(area, b), nr * area->block, &sum) &&
	       sum == dm_area_sum(area, b, nr);
}

/* Move @nr blocks to a device. */
static inline void area_put(struct __test_metadata *_metadata, struct dm_area *area,
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
static inline unsigned long area_on(struct __test_metadata *_metadata,
				    const struct dm_area *area, int fd, struct dm_dev *dev)
{
	struct dm_where where;

	ASSERT_EQ(0, dm_where(fd, area->mem, area->len, &where));
	return where.device[dev->id];
}

static inline void all_stats(struct __test_metadata *_metadata, struct world *w,
			     struct devmem_stats *stats)
{
	unsigned int i;

	for (i = 0; i < w->nr; i++)
		if (w->dev[i].fd >= 0)
			ASSERT_EQ(0, dm_stats(w->dev[i].fd, &stats[i]));
}

/* No page has come to or left the memory of any device. */
static inline void nothing_migrated(struct __test_metadata *_metadata, struct world *w,
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
		EXPECT_EQ(before[i].bytes_copied, after[i].bytes_copied);
	}
}

static inline bool is_all_free(struct dm_dev *dev)
{
	struct devmem_info info;

	return !dm_info(dev->fd, &info) && info.mem_free == info.mem_size;
}

/* A work item frees device memory, so wait for it. */
static inline void all_free(struct __test_metadata *_metadata, struct dm_dev *dev)
{
	EXPECT_TRUE(dm_soon(is_all_free(dev))) {
		TH_LOG("device %u does not get all of its memory back", dev->id);
	}
}

static inline bool is_zero(const unsigned char *mem, size_t len)
{
	return !*mem && !memcmp(mem, mem + 1, len - 1);
}

static inline bool no_huge_pages(void)
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
static inline unsigned int microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000U + now.tv_nsec / 1000;
}

/* A timeout that suffices for work that takes as long as the time since @start. */
static inline unsigned int enough_ms_since(unsigned int start)
{
	unsigned int ms = BOUND_MS + (microseconds() - start) / 1000 * 4;

	return ms < LONG_MS / 2 ? ms : LONG_MS / 2;
}

/* --- injected faults --- */

/* A limit that no test reaches. */
#define FAULTS		"1000000"

/* Inject @what from now on, in @percent of all cases; false if the kernel cannot. */
static inline bool faults_on(const char *what, int percent)
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

/* --- children --- */

/**
 * struct child - a process that runs in step with the test
 * @pid: the process
 * @go: the test writes to it: go on
 * @done: the test reads from it: the child has come this far
 */
struct child {
	pid_t pid;
	int go[2];
	int done[2];
};

/* For the child. */
#define CHILD_CHECK(cond) do {						\
	if (!(cond)) {							\
		fprintf(stderr, "# %s:%d: child: not %s (errno %d)\n",	\
			__func__, __LINE__, #cond, errno);		\
		_exit(1);						\
	}								\
} while (0)

/* True in the child. */
static inline bool child_fork(struct __test_metadata *_metadata, struct child *child)
{
	ASSERT_EQ(0, pipe(child->go));
	ASSERT_EQ(0, pipe(child->done));
	child->pid = fork();
	ASSERT_GE(child->pid, 0);
	if (!child->pid) {
		/* The child ends with a test that fails. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(child->go[1]);
		close(child->done[0]);
		return true;
	}
	close(child->go[0]);
	close(child->done[1]);
	return false;
}

static inline void child_fini(struct child *child)
{
	close(child->go[1]);
	close(child->done[0]);
}

/* In the child: tell the test, and wait for it. */
static inline void child_step(struct child *child)
{
	char c = 0;

	CHILD_CHECK(write(child->done[1], &c, 1) == 1);
	CHILD_CHECK(read(child->go[0], &c, 1) == 1);
}

/* In the test: the child has come to its next child_step(), or to its end. */
static inline bool child_waits(struct child *child)
{
	char c;

	return read(child->done[0], &c, 1) == 1;
}

static inline bool child_go(struct child *child)
{
	char c = 0;

	return write(child->go[1], &c, 1) == 1;
}

static inline bool child_good(struct child *child)
{
	int status;

	return waitpid(child->pid, &status, 0) == child->pid &&
	       WIFEXITED(status) && !WEXITSTATUS(status);
}

/* The child of a fork opens a file of its own on each device. */
static inline void child_open(struct world *w, int *fds)
{
	unsigned int i;

	for (i = 0; i < w->nr; i++) {
		fds[i] = dm_open(w->dev[i].minor);
		CHILD_CHECK(fds[i] >= 0);
	}
}

/* The child gets memory of its own, on the device @on. */
static inline void child_area(struct world *w, int *fds, struct dm_area *area, size_t len,
			      bool huge, unsigned int on)
{
	child_open(w, fds);
	CHILD_CHECK(!dm_area_init(area, len, BLOCK, huge));
	area_write(w, area, 0, area->nr);
	CHILD_CHECK(dm_migrate(fds[on], area->mem, len, DEVMEM_MIGRATE_TO_DEVICE) ==
		    (long)(len / DM_PAGE));
}

/* --- programs --- */

static inline void world_machine(void)
{
	ksft_print_msg("memory of devices: %s; huge pages: %s; CPUs: %ld\n",
		       coherent() ? "coherent" : "private", no_huge_pages() ? "no" : "yes",
		       sysconf(_SC_NPROCESSORS_ONLN));
}

/* The main() of a program; @left: see struct dm_left. */
static inline int world_main(int argc, char **argv, const struct dm_left *left)
{
	const struct dm_program program = {
		.machine = world_machine,
		.left = left,
	};

	return dm_main(argc, argv, &program);
}

#endif /* _DEVMEM_WORLD_H_ */
