// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of pages that cannot be moved because they are referred to, locked, or in a pipe. Such
 * a page delays a planned removal of its device, and a planned link-down of its device, until
 * the time of the request is over. It delays nothing else: no other device, no link that comes
 * up, no device that joins, and no device that is lost.
 *
 * devmem_held_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_held_all runs.
 */
#define _GNU_SOURCE
#include "devmem_pages.h"
#include "devmem_task.h"

/* --- removal of the device whose page is held --- */

/* A planned removal gives up in time, and the device works as before. */
static void held_for_ever(struct __test_metadata *_metadata, struct world *w,
			  struct dm_area *area, enum grip_kind kind)
{
	int kmsg = log_open(_metadata);
	struct devmem_op_stats stats;
	struct grip grip;

	grip_take(_metadata, &grip, kind, w->dev[1].fd, dm_block(area, 3), LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, 0, BOUND_MS, &stats));
	EXPECT_TRUE(grip_holds(&grip));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(0, stats.peers_moved);
	EXPECT_TRUE(log_names_page(kmsg, "evacuate"));

	/* The device uses its own pages and others, in place and after a migration. */
	EXPECT_EQ(0, area_fill(w, area, HALF, w->dev[0].fd));
	area_put(_metadata, area, 6, HALF - 6, &w->dev[0]);
	EXPECT_TRUE(area_seen(area, 4, area->nr - 4, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, 4, area->nr - 4, w->dev[1].fd));
	grip_drop(_metadata, &grip);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));

	dev_del(_metadata, w, 0, 0, NULL);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

TEST_F(pages, referred_to_for_ever)
{
	held_for_ever(_metadata, &self->w, &self->area, GRIP_REFERENCE);
}

TEST_F(pages, locked_for_ever)
{
	held_for_ever(_metadata, &self->w, &self->area, GRIP_LOCK);
}

/* A forced removal saves all pages except for the page that is held, which is lost. */
TEST_F(pages, referred_to_and_forced)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	unsigned long lost;
	struct grip grip;
	size_t b;

	grip_take(_metadata, &grip, GRIP_REFERENCE, w->dev[1].fd, dm_block(area, 3), LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, DEVMEM_FORCE, self->enough_ms, &stats));
	EXPECT_TRUE(grip_holds(&grip));
	/* A large folio is lost as a whole. */
	lost = stats.pages_poisoned;
	EXPECT_EQ(self->huge && !coherent() ? HALF_PAGES : 1, lost);
	EXPECT_EQ(HALF_PAGES, lost + stats.pages_evacuated);
	EXPECT_EQ(BUS_MCEERR_AR, poke(dm_block(area, 3)));
	for (b = 0; b < HALF && !self->huge; b++) {
		if (b != 3)
			EXPECT_EQ(0, dm_block_wrong(area, b));
	}
	EXPECT_EQ(0, dm_area_wrong(area, HALF, HALF));
	grip_drop(_metadata, &grip);

	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_FORCE, LONG_MS, &stats));
}

/* A page that is locked is not poisoned before its lock is released. */
TEST_F(pages, locked_and_forced)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	unsigned long out;
	struct grip grip;

	grip_take(_metadata, &grip, GRIP_LOCK, w->dev[1].fd, dm_block(area, 3), LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, DEVMEM_FORCE, self->enough_ms, &stats));
	EXPECT_TRUE(grip_holds(&grip));
	out = stats.pages_evacuated;
	EXPECT_EQ(self->huge && !coherent() ? 0 : HALF_PAGES - 1, out);
	EXPECT_EQ(0, stats.pages_poisoned);
	grip_drop(_metadata, &grip);

	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_FORCE, LONG_MS, &stats));
	EXPECT_EQ(HALF_PAGES, out + stats.pages_evacuated);
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Pages that are let go in time delay a removal, but no byte is lost. */
TEST_F(pages, let_go_in_time)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct grip grip[2];

	grip_take(_metadata, &grip[0], GRIP_REFERENCE, w->dev[1].fd, dm_block(area, 3),
		  BOUND_MS / 2);
	grip_take(_metadata, &grip[1], GRIP_LOCK, w->dev[1].fd, dm_block(area, 5),
		  BOUND_MS / 2);
	EXPECT_EQ(0, destroy_within(w, 0, 0, LONG_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(HALF_PAGES, stats.pages_evacuated);
	grip_wait(_metadata, &grip[0]);
	grip_wait(_metadata, &grip[1]);
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
	struct grip grip;
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

/* How long a removal takes does not depend on the number of chunks. */
TEST_F(chunks, held_for_ever)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	grip_take(_metadata, &self->grip, GRIP_REFERENCE, w->dev[1].fd, dm_block(area, 3),
		  LONG_MS);
	EXPECT_EQ(-EBUSY, destroy_within(w, 0, 0, BOUND_MS, &stats));
	/* With BOUND_MS for each chunk, the kernel would have let go of the page before. */
	EXPECT_TRUE(grip_holds(&self->grip));
	EXPECT_EQ(0, stats.pages_poisoned);
	grip_drop(_metadata, &self->grip);
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Nor does the time for which a removal waits for a page depend on it. */
TEST_F(chunks, let_go_in_time_forced)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	grip_take(_metadata, &self->grip, GRIP_REFERENCE, w->dev[1].fd, dm_block(area, 3),
		  BOUND_MS);
	EXPECT_EQ(0, destroy_within(w, 0, DEVMEM_FORCE, CHUNKS_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(area->len / DM_PAGE, stats.pages_evacuated);
	grip_wait(_metadata, &self->grip);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* How long a change of links takes does not depend on the number of chunks either. */
TEST_F(chunks, link_held_for_ever)
{
	const size_t first = DM_HUGE / BLOCK;
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	/* Device 1 holds more, so the device with many chunks leaves the cluster. */
	area_put(_metadata, area, first, area->nr - first, &w->dev[1]);
	grip_take(_metadata, &self->grip, GRIP_REFERENCE, w->dev[1].fd, dm_block(area, 3),
		  LONG_MS);
	EXPECT_EQ(0, set_links_within(w, 1, 2, false, 0, BOUND_MS, &stats));
	EXPECT_TRUE(grip_holds(&self->grip));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(split_moves(1, 1) + private(), stats.peers_moved);
	EXPECT_TRUE(area_seen(area, 0, first, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, first, area->nr - first, w->dev[1].fd));
	grip_drop(_metadata, &self->grip);
	EXPECT_TRUE(dm_soon(!dm_pages_left(w->ctl)));
	EXPECT_TRUE(area_seen(area, 0, first, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* --- requests on other devices --- */

#define HELD_DEVS	5

/*
 * Devices 0 and 1 are linked, and so are 2 and 3. Each has a part of the memory. Devices 0
 * and 4 hold a block more than the others. A page of device 1 is held.
 */
FIXTURE(held)
{
	struct world w;
	struct dm_area area;
	/* Blocks of each device's part. */
	size_t part;
	/* What holds the page, and the number of pages that it keeps in place. */
	struct grip grip;
	__u64 nr;
	/* The request that waits for the page, and its arguments. */
	struct request request;
	struct devmem_link link;
	struct devmem_set_links split;
	struct devmem_destroy removal;
	/* A timeout that suffices to move a part, in milliseconds. */
	unsigned int enough_ms;
	/* Before any request. */
	struct devmem_topology_entry topo[MAX_DEVS];
	struct devmem_stats before[MAX_DEVS];
};

FIXTURE_VARIANT(held)
{
	enum grip_kind kind;
	bool huge;
};

FIXTURE_VARIANT_ADD(held, reference) { .kind = GRIP_REFERENCE, };
FIXTURE_VARIANT_ADD(held, lock) { .kind = GRIP_LOCK, };
FIXTURE_VARIANT_ADD(held, huge) { .kind = GRIP_REFERENCE, .huge = true, };
FIXTURE_VARIANT_ADD(held, pipe) { .kind = GRIP_PIPE, };

/* Pages of a part. */
static __u64 part_pages(const struct _test_data_held *self)
{
	return self->part * BLOCK / DM_PAGE;
}

/* Does device @d read what is in the part of device @of? */
static bool part_seen(struct _test_data_held *self, unsigned int of, unsigned int d)
{
	return area_seen(&self->area, of * self->part, self->part, self->w.dev[d].fd);
}

static void held_fill(struct __test_metadata *_metadata, struct _test_data_held *self, bool huge)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	unsigned int i, start;

	self->part = huge ? DM_HUGE / BLOCK : 8;
	self->nr = huge ? DM_HUGE / DM_PAGE : 1;
	area_init(_metadata, area, (HELD_DEVS * self->part + 2) * BLOCK, BLOCK, huge);
	area_write(w, area, 0, area->nr);
	start = microseconds();
	for (i = 0; i < HELD_DEVS; i++)
		area_put(_metadata, area, i * self->part, self->part, &w->dev[i]);
	self->enough_ms = enough_ms_since(start);
	area_put(_metadata, area, area->nr - 2, 1, &w->dev[0]);
	area_put(_metadata, area, area->nr - 1, 1, &w->dev[4]);
}

FIXTURE_SETUP(held)
{
	struct world *w = &self->w;

	w->ctl = -1;
	if (variant->huge && (no_huge_pages() || coherent()))
		SKIP(return, "memory of devices has no huge pages");
	if (variant->kind == GRIP_PIPE && !coherent())
		SKIP(return, "a page that goes into a pipe leaves private memory");
	world_init(_metadata, w, HELD_DEVS, CHUNK_SIZE);
	ASSERT_EQ(0, set_links(w, 1U << 0, 1U << 1, true, 0, NULL));
	ASSERT_EQ(0, set_links(w, 1U << 2, 1U << 3, true, 0, NULL));
	held_fill(_metadata, self, variant->huge);

	grip_take(_metadata, &self->grip, variant->kind, w->dev[4].fd,
		  dm_block(&self->area, self->part + 3), LONG_MS);
	ASSERT_EQ(part_pages(self),
		  area_on(_metadata, &self->area, w->dev[4].fd, &w->dev[1]));
	topology(_metadata, w, self->topo);
	all_stats(_metadata, w, self->before);
}

FIXTURE_TEARDOWN(held)
{
	if (self->grip.taken)
		grip_drop(_metadata, &self->grip);
	if (self->request.task.pid)
		task_kill(&self->request.task);
	if (self->area.mem)
		dm_area_fini(&self->area);
	world_fini(_metadata, &self->w);
}

/* The link between devices 0 and 1 goes down. */
static int held_split(struct _test_data_held *self, __u32 flags, struct devmem_op_stats *stats)
{
	return set_links_within(&self->w, 1U << 0, 1U << 1, false, flags, self->enough_ms, stats);
}

/*
 * The link between devices 0 and 1 has gone down, and pages remain under their old owner. So
 * both have new owners, and no page has moved. Other devices have noticed nothing.
 */
static void held_apart(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	struct devmem_topology_entry now[MAX_DEVS];
	struct world *w = &self->w;
	unsigned int i;

	topology(_metadata, w, now);
	EXPECT_FALSE(now[0].links & 1ULL << w->dev[1].id);
	EXPECT_NE(now[0].owner_id, now[1].owner_id);
	for (i = 0; i < HELD_DEVS; i++) {
		EXPECT_EQ(i > 1, self->topo[i].owner_id == now[i].owner_id);
		EXPECT_TRUE(part_seen(self, i, i));
	}
	nothing_migrated(_metadata, w, self->before);
}

/* The page is let go. Leftovers vanish, nothing is copied, and all contents are right. */
static void held_end(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	struct dm_area *area = &self->area;
	unsigned int i;

	grip_drop(_metadata, &self->grip);
	all_rehomed(_metadata, &self->w);
	for (i = 0; i < HELD_DEVS; i++)
		EXPECT_TRUE(part_seen(self, i, i));
	nothing_migrated(_metadata, &self->w, self->before);
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* A planned link-down moves what it can, and succeeds when its time is over. */
TEST_F(held, link_down)
{
	int kmsg = log_open(_metadata);
	struct devmem_op_stats stats;

	EXPECT_EQ(0, held_split(self, 0, &stats));
	EXPECT_TRUE(grip_holds(&self->grip));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(rehomes(self->nr), stats.pages_left);
	EXPECT_EQ(rehomes(part_pages(self) - self->nr), stats.pages_rehomed);
	EXPECT_EQ(2, stats.peers_moved);
	EXPECT_EQ(rehomes(self->nr), left_on(_metadata, &self->w, 1));
	EXPECT_EQ(private(), log_names_page(kmsg, "rehome"));
	held_apart(_metadata, self);
	EXPECT_TRUE(grip_holds(&self->grip));
	held_end(_metadata, self);
}

/* A forced link-down moves no page before it returns. */
TEST_F(held, forced_link_down)
{
	struct devmem_op_stats stats;

	EXPECT_EQ(0, held_split(self, DEVMEM_FORCE, &stats));
	EXPECT_TRUE(grip_holds(&self->grip));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(0, stats.pages_rehomed);
	EXPECT_EQ(2, stats.peers_moved);
	held_apart(_metadata, self);
	/* The core moves all other pages in the background. */
	EXPECT_TRUE(dm_soon(left_on(_metadata, &self->w, 1) == rehomes(self->nr)));
	held_apart(_metadata, self);
	EXPECT_TRUE(grip_holds(&self->grip));
	held_end(_metadata, self);
}

/* A link-up does not wait for a leftover, and both devices use the leftover at once. */
TEST_F(held, link_up)
{
	struct devmem_topology_entry now[MAX_DEVS];
	struct devmem_stats before[MAX_DEVS], after[MAX_DEVS];
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	EXPECT_EQ(0, held_split(self, 0, NULL));
	all_stats(_metadata, w, before);
	EXPECT_EQ(0, set_links(w, 1U << 0, 1U << 1, true, 0, &stats));
	EXPECT_TRUE(grip_holds(&self->grip));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(1, stats.peers_moved);
	topology(_metadata, w, now);
	EXPECT_EQ(now[0].owner_id, now[1].owner_id);
	EXPECT_TRUE(part_seen(self, 1, 0));
	EXPECT_TRUE(part_seen(self, 0, 1));
	all_stats(_metadata, w, after);
	EXPECT_LE(before[0].mapped_peer + part_pages(self), after[0].mapped_peer);
	EXPECT_TRUE(grip_holds(&self->grip));
	held_end(_metadata, self);
}

/*
 * A device outside the cluster does not map the page. Its fault waits until the page is let
 * go, and then brings it to system memory.
 */
TEST_F(held, is_not_mapped)
{
	const size_t b = self->part + 3;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_CHECKSUM,
		.src = (unsigned long)dm_block(&self->area, b),
		.len = DM_PAGE,
	};
	struct devmem_stats before, now;
	struct world *w = &self->w;
	struct dm_where where;
	int fd = w->dev[0].fd;

	EXPECT_EQ(0, held_split(self, 0, NULL));
	ASSERT_EQ(0, dm_stats(fd, &before));
	ASSERT_TRUE(request_start(&self->request, fd, DRM_IOCTL_DEVMEM_EXEC, &exec));
	ASSERT_TRUE(dm_soon(!dm_stats(fd, &now) && now.device_faults > before.device_faults));
	EXPECT_FALSE(task_done(&self->request.task));
	grip_drop(_metadata, &self->grip);

	/* On a slow machine the fault can give up before the page is let go. */
	EXPECT_TRUE(task_wait(&self->request.task));
	EXPECT_TRUE(!self->request.task.err || self->request.task.err == -EBUSY);
	EXPECT_TRUE(area_seen(&self->area, b, 1, fd));
	ASSERT_EQ(0, dm_stats(fd, &now));
	EXPECT_EQ(before.mapped_peer, now.mapped_peer);
	EXPECT_EQ(0, now.violations);
	ASSERT_EQ(0, dm_where(fd, dm_block(&self->area, b), BLOCK, &where));
	EXPECT_EQ(BLOCK / DM_PAGE, where.system);
	EXPECT_EQ(0, dm_area_wrong(&self->area, 0, self->area.nr));
}

/* --- while a request waits for the page --- */

/* Start a planned link-down that has a minute to move the page. */
static void start_split(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	struct world *w = &self->w;

	links_between(w, 1U << 0, 1U << 1, false, &self->link);
	self->split = (struct devmem_set_links){
		.links = (unsigned long)&self->link,
		.nr = 1,
		.timeout_ms = LONG_MS,
	};
	ASSERT_TRUE(request_start(&self->request, w->ctl, DEVMEM_IOC_LINK, &self->split));
	/* Only the pages that are held have not moved. */
	ASSERT_TRUE(dm_soon(left_on(_metadata, w, 1) == self->nr));
}

/* Start a planned removal of device 1 that has a minute to move the page. */
static void start_removal(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	struct world *w = &self->w;

	self->removal = (struct devmem_destroy){
		.id = w->dev[1].id,
		.timeout_ms = LONG_MS,
	};
	ASSERT_TRUE(request_start(&self->request, w->ctl, DEVMEM_IOC_DESTROY, &self->removal));
	ASSERT_TRUE(dm_soon(task_sleeps(&self->request.task) &&
			    area_on(_metadata, &self->area, w->dev[4].fd,
				    &w->dev[1]) == self->nr));
}

/* Something was done, and the request still waits for the page. */
static void still_waits(struct __test_metadata *_metadata, struct _test_data_held *self,
			const char *done)
{
	EXPECT_FALSE(task_done(&self->request.task)) {
		TH_LOG("%s: not before the request had returned", done);
	}
	EXPECT_TRUE(grip_holds(&self->grip));
}

/* The links between two other devices change. */
static void others_change_links(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	const __u32 flags[] = { 0, DEVMEM_FORCE };
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, set_links(w, 1U << 2, 1U << 3, false, flags[i], &stats));
		copied_nothing(_metadata, &stats);
		still_waits(_metadata, self, "another link goes down");
		EXPECT_TRUE(part_seen(self, 2, 2));
		EXPECT_EQ(0, set_links(w, 1U << 2, 1U << 3, true, 0, &stats));
		copied_nothing(_metadata, &stats);
		still_waits(_metadata, self, "another link comes up");
		EXPECT_TRUE(part_seen(self, 2, 3));
		EXPECT_TRUE(part_seen(self, 3, 2));
	}
}

/* A device is added, is linked, uses memory of others in place, and is removed. */
static void other_joins(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	struct devmem_stats before, after;
	struct world *w = &self->w;

	dev_add(_metadata, w, HELD_DEVS, CHUNK_SIZE);
	w->nr = HELD_DEVS + 1;
	still_waits(_metadata, self, "a device joins");
	EXPECT_EQ(0, set_links(w, 1U << HELD_DEVS, 1U << 2 | 1U << 3, true, 0, NULL));
	still_waits(_metadata, self, "a device is linked");
	ASSERT_EQ(0, dm_stats(w->dev[2].fd, &before));
	EXPECT_TRUE(part_seen(self, 2, HELD_DEVS));
	ASSERT_EQ(0, dm_stats(w->dev[2].fd, &after));
	EXPECT_EQ(before.migrated_out, after.migrated_out);
	dev_del(_metadata, w, HELD_DEVS, 0, NULL);
	still_waits(_metadata, self, "a device that has joined leaves");
}

/* One device is lost, and another one leaves. */
static void others_leave(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	EXPECT_EQ(0, destroy_within(w, 2, DEVMEM_LOST, LONG_MS, &stats));
	still_waits(_metadata, self, "another device is lost");
	EXPECT_EQ(part_pages(self), stats.pages_poisoned);
	EXPECT_TRUE(is_lost(area, 2 * self->part, self->part, 13));
	EXPECT_EQ(0, destroy_within(w, 3, 0, LONG_MS, &stats));
	still_waits(_metadata, self, "another device leaves");
	EXPECT_EQ(part_pages(self), stats.pages_evacuated);
	EXPECT_EQ(0, dm_area_wrong(area, 3 * self->part, self->part));
}

/* Nothing waits for the request that waits for the page. */
static void others_go_on(struct __test_metadata *_metadata, struct _test_data_held *self)
{
	EXPECT_TRUE(part_seen(self, 0, 0));
	EXPECT_TRUE(part_seen(self, 1, 1));
	still_waits(_metadata, self, "the devices of the cluster use their memory");
	others_change_links(_metadata, self);
	other_joins(_metadata, self);
	others_leave(_metadata, self);
}

TEST_F(held, others_during_a_split)
{
	struct dm_area *area = &self->area;

	if (coherent())
		SKIP(return, "a change of links does not wait for coherent memory");
	start_split(_metadata, self);
	others_go_on(_metadata, self);

	grip_drop(_metadata, &self->grip);
	EXPECT_TRUE(task_wait(&self->request.task));
	EXPECT_EQ(0, self->request.task.err);
	copied_nothing(_metadata, &self->split.stats);
	EXPECT_EQ(0, self->split.stats.pages_left);
	EXPECT_EQ(part_pages(self), self->split.stats.pages_rehomed);
	EXPECT_EQ(1, self->split.stats.peers_moved);
	EXPECT_TRUE(part_seen(self, 0, 0));
	EXPECT_TRUE(part_seen(self, 1, 1));
	EXPECT_EQ(0, dm_area_wrong(area, 0, 2 * self->part));
	EXPECT_EQ(0, dm_area_wrong(area, 3 * self->part, 2 * self->part + 2));
}

TEST_F(held, others_during_a_removal)
{
	struct dm_area *area = &self->area;

	start_removal(_metadata, self);
	others_go_on(_metadata, self);

	grip_drop(_metadata, &self->grip);
	EXPECT_TRUE(task_wait(&self->request.task));
	ASSERT_EQ(0, self->request.task.err);
	dev_gone(&self->w, 1);
	EXPECT_EQ(part_pages(self), self->removal.stats.pages_evacuated);
	EXPECT_EQ(0, self->removal.stats.pages_poisoned);
	EXPECT_TRUE(part_seen(self, 1, 0));
	EXPECT_EQ(0, dm_area_wrong(area, 0, 2 * self->part));
	EXPECT_EQ(0, dm_area_wrong(area, 3 * self->part, 2 * self->part + 2));
}

/*
 * Another link of the very device comes up while its planned link-down waits for the page. It
 * does not wait for the page, or for the link-down.
 */
TEST_F(held, its_links_during_a_split)
{
	struct devmem_topology_entry now[MAX_DEVS];
	struct devmem_op_stats stats;
	struct world *w = &self->w;

	if (coherent())
		SKIP(return, "a change of links does not wait for coherent memory");
	start_split(_metadata, self);
	/* Device 4 holds more, so device 1 gets its owner. */
	EXPECT_EQ(0, set_links(w, 1U << 1, 1U << 4, true, 0, &stats));
	EXPECT_TRUE(grip_holds(&self->grip));
	copied_nothing(_metadata, &stats);
	topology(_metadata, w, now);
	EXPECT_EQ(now[4].owner_id, now[1].owner_id);
	EXPECT_NE(now[0].owner_id, now[1].owner_id);
	EXPECT_TRUE(part_seen(self, 1, 4));
	EXPECT_TRUE(part_seen(self, 4, 1));

	held_end(_metadata, self);
	EXPECT_TRUE(task_wait(&self->request.task));
	EXPECT_EQ(0, self->request.task.err);
	copied_nothing(_metadata, &self->split.stats);
	topology(_metadata, w, now);
	EXPECT_FALSE(now[0].links & 1ULL << w->dev[1].id);
	EXPECT_EQ(now[4].owner_id, now[1].owner_id);
}

/* A signal ends the wait for the page. The link is down. */
TEST_F(held, split_is_killable)
{
	if (coherent())
		SKIP(return, "a change of links does not wait for coherent memory");
	start_split(_metadata, self);
	EXPECT_TRUE(task_kill(&self->request.task));
	EXPECT_TRUE(grip_holds(&self->grip));
	held_apart(_metadata, self);
	held_end(_metadata, self);
}

/* A signal ends the wait for the page. The device works as before. */
TEST_F(held, removal_is_killable)
{
	const size_t b = self->part + 4;
	struct dm_area *area = &self->area;
	struct world *w = &self->w;

	start_removal(_metadata, self);
	EXPECT_TRUE(task_kill(&self->request.task));
	EXPECT_TRUE(grip_holds(&self->grip));
	EXPECT_TRUE(part_seen(self, 1, 1));
	EXPECT_TRUE(part_seen(self, 1, 0));
	area_put(_metadata, area, b, 2 * self->part - b, &w->dev[1]);
	EXPECT_TRUE(part_seen(self, 1, 0));
	grip_drop(_metadata, &self->grip);
	EXPECT_EQ(0, destroy_within(w, 1, 0, LONG_MS, NULL));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Only devmem_held_all runs these: they repeat what other variants show. */
static const struct dm_left left_to_all[] = {
	/* The size of pages makes no difference here. */
	{ "pages.huge.let_go_in_time" },
	{ "held.huge.[!l]*" },
	/* What holds the page makes no difference here. */
	{ "held.lock.*_killable" },
	{ "held.lock.its_links_during_a_split" },
	{ "held.lock.others_*", coherent },
	/* A pipe holds coherent pages only, and a change of links does not wait for those. */
	{ "held.pipe.others_during_a_split", .never = true },
	{ "held.pipe.its_links_during_a_split", .never = true },
	{ "held.pipe.split_is_killable", .never = true },
	/* Private memory shows the same. */
	{ "chunks.link_held_for_ever", coherent },
	/* Coherent memory has no huge pages. */
	{ "pages.huge.*", coherent },
	{ }
};

int main(int argc, char **argv)
{
	return world_main(argc, argv, left_to_all);
}
