// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of links that go up and down: clusters split and merge, in a planned and in a forced
 * way, while the devices are idle and under load. The devices begin without links.
 *
 * devmem_links_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_links_all runs.
 */
#define _GNU_SOURCE
#include "devmem_load.h"

#define RANDOM_ROUNDS	4

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

/* --- no links --- */

/* Device @j, of another cluster, uses the first half of what device @i holds. */
static void use_foreign(struct __test_metadata *_metadata, struct world *w,
			struct dm_area *area, unsigned int i, unsigned int j)
{
	size_t pages = area->len / DM_PAGE, b;
	struct devmem_stats before[MAX_DEVS], after[MAX_DEVS];
	struct dm_where where;

	all_stats(_metadata, w, before);
	/*
	 * The first half comes to system memory. More may come, as a device can fault in more
	 * than the command uses.
	 */
	if (i & 1)
		EXPECT_TRUE(area_seen(area, 0, area->nr / 2, w->dev[j].fd));
	for (b = 0; b < area->nr / 2 && !(i & 1); b++)
		EXPECT_EQ(0, area_fill(w, area, b, w->dev[j].fd));
	ASSERT_EQ(0, dm_where(w->dev[i].fd, area->mem, area->len / 2, &where));
	EXPECT_EQ(pages / 2, where.system);
	ASSERT_EQ(0, dm_where(w->dev[i].fd, area->mem, area->len, &where));
	EXPECT_EQ(pages, where.system + where.device[w->dev[i].id]);
	all_stats(_metadata, w, after);
	EXPECT_EQ(where.system, after[i].migrated_out - before[i].migrated_out);
	EXPECT_EQ(before[j].mapped_peer, after[j].mapped_peer);
	EXPECT_EQ(before[j].migrated_in, after[j].migrated_in);
	EXPECT_GE(after[j].mapped_system, before[j].mapped_system + pages / 2);
}

/* A device of another cluster does not use the memory in place. */
TEST_F(links, separate_clusters)
{
	struct devmem_topology_entry topo[MAX_DEVS];
	struct world *w = &self->w;
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
		area_put(_metadata, &area, 0, area.nr, &w->dev[i]);
		ASSERT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
		use_foreign(_metadata, w, &area, i, (i + 1) % w->nr);
		/* Each device and the CPU see what another device wrote. */
		EXPECT_TRUE(area_seen(&area, 0, area.nr, w->dev[i].fd));
		EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	}
	dm_area_fini(&area);
}

/* --- two halves --- */

/**
 * struct halves - a cluster that splits into two halves, and merges again
 * @w: the devices
 * @half: number of devices of a half
 * @set: the halves, as masks of device indices
 * @area: the memory, with @per_share blocks for each device
 * @before: statistics before the changes
 */
struct halves {
	struct world *w;
	unsigned int half, set[2];
	struct dm_area area;
	size_t per_share;
	struct devmem_stats before[MAX_DEVS];
};

static void halves_init(struct __test_metadata *_metadata, struct halves *h, struct world *w,
			size_t share)
{
	h->w = w;
	h->half = w->nr / 2;
	h->set[0] = (1U << h->half) - 1;
	h->set[1] = all_of(w) & ~h->set[0];
	h->per_share = share / BLOCK;
	area_init(_metadata, &h->area, w->nr * share, BLOCK, false);
	area_write(w, &h->area, 0, h->area.nr);
}

/* Put a whole share on each device in @heavy, and half a share on the others. */
static void halves_put(struct __test_metadata *_metadata, struct halves *h, unsigned int heavy)
{
	struct world *w = h->w;
	unsigned int i;

	dm_migrate(w->dev[0].fd, h->area.mem, h->area.len, DEVMEM_MIGRATE_TO_SYSTEM);
	for (i = 0; i < w->nr; i++)
		area_put(_metadata, &h->area, i * h->per_share,
			 heavy & 1U << i ? h->per_share : h->per_share / 2, &w->dev[i]);
	for (i = 0; i < w->nr; i++)
		ASSERT_TRUE(area_seen(&h->area, 0, h->area.nr, w->dev[i].fd));
	all_stats(_metadata, w, h->before);
}

/* After a split each device uses the memory of its half in place, and no page has moved. */
static void halves_apart(struct __test_metadata *_metadata, struct halves *h)
{
	struct devmem_topology_entry topo[MAX_DEVS];
	struct world *w = h->w;
	unsigned int i, j;

	topology(_metadata, w, topo);
	for (i = 0; i < w->nr; i++) {
		for (j = 0; j < w->nr; j++) {
			bool same = i / h->half == j / h->half;

			EXPECT_EQ(same, topo[i].owner_id == topo[j].owner_id);
			if (same)
				EXPECT_TRUE(area_seen(&h->area, j * h->per_share,
						      h->per_share, w->dev[i].fd));
		}
	}
	nothing_migrated(_metadata, w, h->before);
}

/* After a merge each device uses all memory in place, and no page has moved. */
static void halves_together(struct __test_metadata *_metadata, struct halves *h)
{
	struct devmem_topology_entry topo[MAX_DEVS];
	struct world *w = h->w;
	unsigned int i;

	topology(_metadata, w, topo);
	for (i = 0; i < w->nr; i++) {
		EXPECT_EQ(topo[0].owner_id, topo[i].owner_id);
		EXPECT_TRUE(area_seen(&h->area, 0, h->area.nr, w->dev[i].fd));
	}
	nothing_migrated(_metadata, w, h->before);
}

/* The links between the halves go down. The half that holds less gets a new owner. */
static void halves_split(struct __test_metadata *_metadata, struct halves *h,
			 unsigned int heavy, __u64 light_pages)
{
	struct devmem_topology_entry merged[MAX_DEVS], split[MAX_DEVS];
	struct devmem_op_stats stats;
	struct world *w = h->w;
	unsigned int i;

	all_rehomed(_metadata, w);
	topology(_metadata, w, merged);
	ASSERT_EQ(0, set_links(w, h->set[0], h->set[1], false, 0, &stats));
	topology(_metadata, w, split);
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(0, stats.pages_left);
	EXPECT_EQ(rehomes(light_pages), stats.pages_rehomed);
	EXPECT_EQ(split_moves(h->half, h->half), stats.peers_moved);
	for (i = 0; i < w->nr; i++)
		EXPECT_EQ(!coherent() && h->set[heavy] & 1U << i,
			  split[i].owner_id == merged[i].owner_id);
}

/* The links come up again, and setting them once more changes nothing. */
static void halves_merge(struct __test_metadata *_metadata, struct halves *h,
			 __u64 light_pages)
{
	struct devmem_op_stats stats;
	struct world *w = h->w;

	ASSERT_EQ(0, set_links(w, h->set[0], h->set[1], true, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_GE(rehomes(light_pages), stats.pages_rehomed);
	EXPECT_EQ(h->half, stats.peers_moved);

	ASSERT_EQ(0, set_links(w, h->set[0], h->set[1], true, 0, &stats));
	EXPECT_EQ(0, stats.peers_moved);
	EXPECT_EQ(0, stats.pages_rehomed);
}

/*
 * All links between two halves go down at once, and come up again. Each half is once the one
 * that holds more.
 */
TEST_F(links, split_and_merge)
{
	struct world *w = &self->w;
	struct dm_where where;
	unsigned int heavy;
	struct halves h;

	link_all(_metadata, w);
	halves_init(_metadata, &h, w, 2 * SHARE_SMALL);
	for (heavy = 0; heavy < 2; heavy++) {
		__u64 light_pages = h.half * SHARE_SMALL / DM_PAGE;

		halves_put(_metadata, &h, h.set[heavy]);
		halves_split(_metadata, &h, heavy, light_pages);
		halves_apart(_metadata, &h);
		halves_merge(_metadata, &h, light_pages);
		halves_together(_metadata, &h);
		all_rehomed(_metadata, w);
		halves_together(_metadata, &h);
	}

	/* Now a page has to move: a device of the other half uses it. */
	ASSERT_EQ(0, set_links(w, h.set[0], h.set[1], false, 0, NULL));
	EXPECT_TRUE(area_seen(&h.area, 0, 1, w->dev[h.half].fd));
	ASSERT_EQ(0, dm_where(w->dev[0].fd, h.area.mem, BLOCK, &where));
	EXPECT_EQ(BLOCK / DM_PAGE, where.system);

	EXPECT_EQ(0, dm_area_wrong(&h.area, 0, h.area.nr));
	dm_area_fini(&h.area);
}

/*
 * The links are dead, so the kernel moves no page before the request returns. All devices of
 * the cluster get new owners. When the links come up again before the pages have been
 * rehomed, all devices use all pages in place at once.
 */
TEST_F(links, forced_split_and_merge)
{
	struct devmem_topology_entry merged[MAX_DEVS], split[MAX_DEVS];
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct halves h;
	unsigned int i;

	link_all(_metadata, w);
	halves_init(_metadata, &h, w, SHARE_SMALL);
	halves_put(_metadata, &h, all_of(w));
	all_rehomed(_metadata, w);
	topology(_metadata, w, merged);
	ASSERT_EQ(0, set_links(w, h.set[0], h.set[1], false, DEVMEM_FORCE, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(0, stats.pages_rehomed);
	EXPECT_EQ(w->nr, stats.peers_moved);
	topology(_metadata, w, split);
	for (i = 0; i < w->nr; i++)
		EXPECT_NE(merged[i].owner_id, split[i].owner_id);
	halves_apart(_metadata, &h);

	halves_merge(_metadata, &h, h.area.len / DM_PAGE);
	halves_together(_metadata, &h);
	all_rehomed(_metadata, w);
	halves_together(_metadata, &h);

	/* Left alone after the split, the pages are rehomed on their side. */
	ASSERT_EQ(0, set_links(w, h.set[0], h.set[1], false, DEVMEM_FORCE, &stats));
	all_rehomed(_metadata, w);
	halves_apart(_metadata, &h);
	all_stats(_metadata, w, h.before);
	for (i = 0; i < w->nr; i++)
		EXPECT_EQ(0, h.before[i].link_errors);

	EXPECT_EQ(0, dm_area_wrong(&h.area, 0, h.area.nr));
	dm_area_fini(&h.area);
}

/*
 * A device no longer uses what it has mapped of the other half, neither if its own pages were
 * rehomed, nor if the other device's pages were.
 */
static void nothing_stays_mapped(struct __test_metadata *_metadata, struct world *w,
				 __u32 flags)
{
	struct devmem_stats stats;
	unsigned int heavy, i, j;
	struct halves h;

	halves_init(_metadata, &h, w, SHARE_SMALL);
	for (heavy = 0; heavy < 2; heavy++) {
		link_all(_metadata, w);
		/* One device of the heavy half holds more than the others. */
		halves_put(_metadata, &h, 1U << heavy * h.half);
		for (i = 0; i < w->nr; i++)
			for (j = 0; j < w->nr; j++)
				ASSERT_EQ(0, area_fill(w, &h.area, j * h.per_share + 1,
						       w->dev[i].fd));

		ASSERT_EQ(0, set_links(w, h.set[0], h.set[1], false, flags, NULL));
		/*
		 * First what was mapped for writing: a fault brings the neighbourhood to
		 * system memory.
		 */
		for (i = 0; i < w->nr; i++) {
			j = (i + h.half) % w->nr;
			EXPECT_EQ(0, area_fill(w, &h.area, j * h.per_share + 1,
					       w->dev[i].fd));
			EXPECT_TRUE(area_seen(&h.area, j * h.per_share, h.per_share,
					      w->dev[i].fd));
			ASSERT_EQ(0, dm_stats(w->dev[i].fd, &stats));
			EXPECT_EQ(0, stats.violations);
			EXPECT_EQ(0, stats.link_errors);
		}
		for (i = 0; i < w->nr; i++)
			EXPECT_TRUE(area_seen(&h.area, 0, h.area.nr, w->dev[i].fd));
		EXPECT_EQ(0, dm_area_wrong(&h.area, 0, h.area.nr));
	}
	dm_area_fini(&h.area);
}

TEST_F(links, nothing_stays_mapped)
{
	nothing_stays_mapped(_metadata, &self->w, 0);
}

TEST_F(links, nothing_stays_mapped_forced)
{
	nothing_stays_mapped(_metadata, &self->w, DEVMEM_FORCE);
}

/* --- any links --- */

/* Is every device of the cluster of i linked to every device of the cluster of j? */
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

/* What must hold for any links. Device i holds some blocks behind block 4 * i. */
static void links_hold(struct __test_metadata *_metadata, struct world *w,
		       const struct dm_area *area, const struct devmem_link *links,
		       unsigned int nr)
{
	struct devmem_topology_entry topo[MAX_DEVS];
	unsigned int i, j, k = 0;

	topology(_metadata, w, topo);
	for (i = 0; i < w->nr; i++) {
		for (j = i + 1; j < w->nr; j++, k++) {
			bool same = topo[i].owner_id == topo[j].owner_id;

			/* The links are as requested. */
			EXPECT_EQ(links[k].up, !!(topo[i].links & 1ULL << w->dev[j].id));
			EXPECT_EQ(links[k].up, !!(topo[j].links & 1ULL << w->dev[i].id));
			/* Devices without a link are not in one cluster ... */
			EXPECT_TRUE(!same || links[k].up);
			/* ... and no two clusters could be merged. */
			EXPECT_TRUE(same || !could_merge(w, topo, links, nr, i, j));
		}
		for (j = 0; j < w->nr; j++)
			if (topo[i].owner_id == topo[j].owner_id)
				EXPECT_TRUE(area_seen(area, j * 4, 1 + j * 4 / w->nr,
						      w->dev[i].fd));
	}
}

/* Several random links change at once. */
TEST_F(links, several_at_once)
{
	struct devmem_link links[MAX_DEVS * MAX_DEVS];
	struct devmem_stats before[MAX_DEVS];
	struct world *w = &self->w;
	__u64 random = dm_mix(seed());
	unsigned int round, i, nr;
	struct dm_area area;

	TH_LOG("seed %#llx", seed());
	area_init(_metadata, &area, w->nr * 4 * BLOCK, BLOCK, false);
	area_write(w, &area, 0, area.nr);
	/* Device i holds less than device i + 1. */
	for (i = 0; i < w->nr; i++)
		area_put(_metadata, &area, i * 4, 1 + i * 4 / w->nr, &w->dev[i]);
	all_stats(_metadata, w, before);

	for (round = 0; round < RANDOM_ROUNDS; round++) {
		nr = links_between(w, all_of(w), all_of(w), true, links);
		for (i = 0; i < nr; i++)
			links[i].up = !!(dm_rnd(&random) % 3);
		change_links(_metadata, w, links, nr);
		links_hold(_metadata, w, &area, links, nr);
		nothing_migrated(_metadata, w, before);
	}

	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/* --- under load --- */

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
		bool up = round & 1;

		if (!load_progress(&load))
			break;
		EXPECT_EQ(0, set_links(w, half, all_of(w) & ~half, up, 0, &stats));
		copied_nothing(_metadata, &stats);
		/* If pages remain after a split, all devices get new owners. */
		EXPECT_TRUE(stats.peers_moved == w->nr / 2 ||
			    (!up && stats.peers_moved == w->nr));
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
	w->dead = flags;
	load_start(_metadata, &load, w, allowed);
	for (round = 0; round < 2 * LOAD_ROUNDS; round++) {
		struct devmem_link links[MAX_DEVS * MAX_DEVS];

		if (!load_progress(&load))
			break;
		nr = links_between(w, all_of(w), all_of(w), true, links);
		for (i = 0; i < nr; i++)
			links[i].up = round & 1 || dm_rnd(&random) & 1;
		EXPECT_EQ(0, dm_links(w->ctl, links, nr, flags, &stats));
		copied_nothing(_metadata, &stats);
		EXPECT_TRUE(!flags || !stats.pages_rehomed);
	}
	EXPECT_TRUE(load_progress(&load));
	load_end(_metadata, &load, w);
}

/* Many links change at once while threads use all devices. */
TEST_F(links, load_several_at_once)
{
	load_random_links(_metadata, &self->w, 0, 0);
}

/* Links die before the kernel is told. */
TEST_F(links, load_forced)
{
	load_random_links(_metadata, &self->w, LOAD_LINKS_DIE, DEVMEM_FORCE);
}

/* Only devmem_links_all runs these: they repeat what other variants show. */
static const struct dm_left left_to_all[] = {
	{ "links.of_8.*" },
	/* More than two devices make no difference here. */
	{ "links.of_4.separate_clusters" },
	{ "links.of_4.nothing_stays_mapped*" },
	{ "links.of_4.load_split_and_merge" },
	{ "links.of_4.load_forced" },
	/* Private memory shows the same. */
	{ "links.of_4.load_several_at_once", coherent },
	/* Two devices have only one link. */
	{ "links.of_2.*several_at_once" },
	/* The cluster of four shows the same; with coherent memory, that of two. */
	{ "links.of_2.split_and_merge", private },
	{ "links.of_2.forced_split_and_merge", private },
	{ "links.of_4.split_and_merge", coherent },
	{ "links.of_4.forced_split_and_merge", coherent },
	{ }
};

int main(int argc, char **argv)
{
	return world_main(argc, argv, left_to_all);
}
