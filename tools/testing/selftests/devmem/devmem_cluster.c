// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of devices that are all linked and form one cluster: each device uses the memory of
 * all others in place, and devices leave and join while processes use them.
 *
 * devmem_cluster_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_cluster_all runs.
 */
#define _GNU_SOURCE
#include "devmem_load.h"

#define ATOMIC_WORDS	(2 * DM_PAGE / DM_WORD)
#define ATOMIC_ROUNDS	8
#define ATOMIC_CPU	16

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

/* --- in place --- */

/* Each device reads all shares, writes two blocks of each, and another device checks them. */
static void use_all(struct __test_metadata *_metadata, struct world *w, struct dm_area *area,
		    size_t per_share)
{
	unsigned int i, d;

	for (i = 0; i < w->nr; i++) {
		for (d = 0; d < w->nr; d++) {
			EXPECT_TRUE(area_seen(area, d * per_share, per_share, w->dev[i].fd)) {
				TH_LOG("device %u reads memory of %u", i, d);
			}
		}
	}
	for (i = 0; i < w->nr; i++) {
		for (d = 0; d < w->nr; d++) {
			size_t b = d * per_share + (2 * i) % per_share;

			EXPECT_EQ(0, area_fill(w, area, b, w->dev[i].fd));
			EXPECT_EQ(0, area_add(w, area, b + 1, w->dev[i].fd));
			EXPECT_TRUE(area_seen(area, b, 2, w->dev[(i + 1) % w->nr].fd)) {
				TH_LOG("device %u wrote memory of %u", i, d);
			}
		}
	}
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(area, i * per_share, per_share,
				      w->dev[(i + 1) % w->nr].fd));
}

/* Where is each page of the area? The caller frees the result. */
static __u32 *where_all(struct __test_metadata *_metadata, struct world *w,
			const struct dm_area *area)
{
	__u32 *pages = calloc(area->len / DM_PAGE, sizeof(*pages));

	ASSERT_NE(NULL, pages);
	ASSERT_EQ(0, dm_query(w->dev[0].fd, area->mem, area->len, pages));
	return pages;
}

/*
 * Each device holds a share of the memory, and each device reads and writes all
 * of it: no page moves.
 */
static void in_place(struct __test_metadata *_metadata, struct world *w,
		     size_t share, bool huge)
{
	size_t per_share = share / BLOCK, pages = share / DM_PAGE, p, total;
	struct devmem_stats before[MAX_DEVS], after[MAX_DEVS];
	__u32 *where_before, *where_after;
	struct dm_area area;
	unsigned int d;

	area_init(_metadata, &area, w->nr * share, BLOCK, huge);
	total = area.len / DM_PAGE;
	area_write(w, &area, 0, area.nr);
	for (d = 0; d < w->nr; d++)
		area_put(_metadata, &area, d * per_share, per_share, &w->dev[d]);
	where_before = where_all(_metadata, w, &area);
	for (p = 0; p < total; p++)
		ASSERT_EQ(DEVMEM_PAGE_DEVICE | w->dev[p / pages].id << 8 |
			  (huge && !coherent() ? DEVMEM_PAGE_HUGE : 0), where_before[p]);

	all_stats(_metadata, w, before);
	use_all(_metadata, w, &area, per_share);
	nothing_migrated(_metadata, w, before);
	all_stats(_metadata, w, after);
	for (d = 0; d < w->nr; d++) {
		EXPECT_GE(after[d].mapped_local - before[d].mapped_local, pages);
		EXPECT_GE(after[d].mapped_peer - before[d].mapped_peer,
			  (w->nr - 1) * pages);
		EXPECT_EQ(after[d].mapped_system, before[d].mapped_system);
		EXPECT_EQ(0, after[d].link_errors);
	}
	where_after = where_all(_metadata, w, &area);
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
 * A range that starts inside a 2 MiB folio. The device's range of 64 KiB is made while the
 * neighbourhood is mixed, and remains when a folio of 2 MiB takes its place.
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
	/* A word of one device's memory next to a word of another's. */
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

/* All devices and a CPU add to the same words: no addition gets lost. */
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

	/* The result is the old value of the last word. */
	exec.dst = (__u64)(unsigned long)area.mem;
	EXPECT_EQ(0, dm_exec(w->dev[0].fd, &exec));
	EXPECT_EQ(area.base[0] + 1, exec.result);
	EXPECT_EQ(exec.len, exec.done);
	EXPECT_EQ(area.base[0] + 6, *(__u64 *)(area.mem + DM_WORD));
	dm_area_fini(&area);
}

/* --- life --- */

/* The child has pages on all devices. */
static void exit_child(struct world *w, struct child *child)
{
	size_t share = 2 * DM_HUGE, b;
	struct dm_area area;
	unsigned int d;

	CHILD_CHECK(!dm_area_init(&area, w->nr * share, BLOCK, true));
	area_write(w, &area, 0, area.nr);
	for (d = 0; d < w->nr; d++) {
		int fd = dm_open(w->dev[d].minor);

		b = d * (share / BLOCK);
		CHILD_CHECK(fd >= 0);
		CHILD_CHECK(dm_migrate(fd, dm_block(&area, b), share,
				       DEVMEM_MIGRATE_TO_DEVICE) == (long)(share / DM_PAGE));
		CHILD_CHECK(area_seen(&area, b, share / BLOCK, fd));
	}
	child_step(child);
	_exit(0);
}

/* A process exits or is killed while it has pages on all devices. */
TEST_F(cluster, exit_with_pages)
{
	struct world *w = &self->w;
	unsigned int i, kill_it;

	for (kill_it = 0; kill_it < 2; kill_it++) {
		struct devmem_info info;
		struct child child;
		int status;

		if (child_fork(_metadata, &child))
			exit_child(w, &child);
		ASSERT_TRUE(child_waits(&child));
		for (i = 0; i < w->nr; i++) {
			ASSERT_EQ(0, dm_info(w->dev[i].fd, &info));
			EXPECT_EQ(info.mem_size - 2 * DM_HUGE, info.mem_free);
		}
		if (kill_it) {
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

/* The last device leaves with what it holds. The others use what they hold as before. */
static void last_leaves(struct __test_metadata *_metadata, struct world *w,
			struct dm_area *area, size_t share)
{
	struct devmem_stats before[MAX_DEVS];
	struct devmem_op_stats stats;
	unsigned int last = w->nr - 1, i;
	struct dm_where where;

	dev_del(_metadata, w, last, 0, &stats);
	EXPECT_EQ(share / DM_PAGE, stats.pages_evacuated);
	EXPECT_EQ(share, stats.bytes_copied);
	EXPECT_EQ(0, stats.pages_rehomed);
	EXPECT_EQ(0, stats.peers_moved);
	EXPECT_EQ(-ENOENT, dm_destroy(w->ctl, w->dev[last].id, 0, NULL));

	all_stats(_metadata, w, before);
	for (i = 0; i < last; i++) {
		EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[i].fd));
		EXPECT_EQ(share / DM_PAGE,
			  area_on(_metadata, area, w->dev[0].fd, &w->dev[i]));
	}
	nothing_migrated(_metadata, w, before);
	if (last) {
		ASSERT_EQ(0, dm_where(w->dev[0].fd, area->mem, area->len, &where));
		EXPECT_EQ(share / DM_PAGE, where.system);
	} else {
		EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
	}
}

/* A device joins in its place. No other device gets a new owner. */
static void last_joins(struct __test_metadata *_metadata, struct world *w)
{
	struct devmem_topology_entry topo[MAX_DEVS];
	struct devmem_op_stats stats;
	unsigned int last = w->nr - 1, i;

	dev_add(_metadata, w, last, CHUNK_SIZE);
	if (last) {
		ASSERT_EQ(0, set_links(w, 1U << last, all_of(w), true, 0, &stats));
		copied_nothing(_metadata, &stats);
		EXPECT_EQ(0, stats.pages_rehomed);
		EXPECT_EQ(1, stats.peers_moved);
	}
	topology(_metadata, w, topo);
	for (i = 0; i < w->nr; i++)
		EXPECT_EQ(topo[0].owner_id, topo[i].owner_id);
}

TEST_F(cluster, leave_and_join)
{
	size_t share = SHARE_SMALL, per_share = share / BLOCK;
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	unsigned int last = w->nr - 1, i;
	struct dm_area area;

	area_init(_metadata, &area, w->nr * share, BLOCK, false);
	area_write(w, &area, 0, area.nr);
	for (i = 0; i < w->nr; i++)
		area_put(_metadata, &area, i * per_share, per_share, &w->dev[i]);
	/* All devices map all of it. */
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));

	last_leaves(_metadata, w, &area, share);
	last_joins(_metadata, w);

	area_put(_metadata, &area, last * per_share, per_share, &w->dev[last]);
	all_stats(_metadata, w, before);
	for (i = 0; i < w->nr; i++)
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
	nothing_migrated(_metadata, w, before);

	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/* --- under load --- */

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
		/* The bytes include pages that were copied, but then stayed as they were used. */
		EXPECT_LE(stats.pages_evacuated * DM_PAGE, stats.bytes_copied);
		EXPECT_EQ(0, stats.pages_rehomed);
		EXPECT_EQ(0, stats.pages_poisoned);
		EXPECT_EQ(0, stats.peers_moved);
		load_publish(&load, w, d, false);

		if (!load_progress(&load))
			break;
		dev_add(_metadata, w, d, CHUNK_SIZE);
		load_publish(&load, w, d, true);
		if (w->nr > 1) {
			EXPECT_EQ(0, set_links(w, 1U << d, all_of(w), true, 0, &stats));
			copied_nothing(_metadata, &stats);
		}
	}
	EXPECT_TRUE(load_progress(&load));
	load_end(_metadata, &load, w);
}

/* The same with a forced removal. */
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

/* Only devmem_cluster_all runs these: they repeat what other variants show. */
static const struct dm_left left_to_all[] = {
	/* Clusters of other sizes. */
	{ "cluster.of_[18].*" },
	/* More than two devices make no difference here. */
	{ "cluster.of_4.in_place_*huge" },
	{ "cluster.of_4.atomics" },
	{ "cluster.of_4.exit_with_pages" },
	{ "cluster.of_4.load_forced_leave" },
	/* The cluster of four shows the same; with coherent memory, that of two. */
	{ "cluster.of_2.in_place_small", private },
	{ "cluster.of_2.range_across_devices", private },
	{ "cluster.of_2.leave_and_join", private },
	{ "cluster.of_2.load_leave_and_join", private },
	{ "cluster.of_4.*", coherent },
	/* The kind of memory makes no difference here. */
	{ "cluster.*.exit_with_pages", coherent },
	{ }
};

int main(int argc, char **argv)
{
	return world_main(argc, argv, left_to_all);
}
