// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for the partition of peers into clusters, mm/pgmap_partition.c.
 *
 * The peers are structures without a device. Their memory is one window each, of which
 * only the number of pages in use counts.
 */
#include <kunit/test.h>
#include <linux/list.h>
#include <linux/prandom.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/xarray.h>

#include "../pgmap_internal.h"

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

struct node {
	struct pgmap_peer peer;
	struct pgmap_region region;
	struct pgmap_window window;
};

struct graph {
	struct pgmap_fabric fabric;
	struct node *nodes;
	unsigned int nr;
};

static struct pgmap_peer *peer_of(struct graph *graph, unsigned int i)
{
	return &graph->nodes[i].peer;
}

static bool together(struct graph *graph, unsigned int i, unsigned int j)
{
	return peer_of(graph, i)->cluster == peer_of(graph, j)->cluster;
}

static void set_pages(struct graph *graph, unsigned int i, long pages)
{
	atomic_long_set(&graph->nodes[i].window.pages, pages);
}

static void set_link(struct graph *graph, unsigned int i, unsigned int j, bool up)
{
	__assign_bit(j, peer_of(graph, i)->links, up);
	__assign_bit(i, peer_of(graph, j)->links, up);
}

static bool linked(struct graph *graph, unsigned int i, unsigned int j)
{
	return test_bit(j, peer_of(graph, i)->links);
}

/* @nr peers, none of them linked, each with an owner of its own. */
static struct graph *graph_new(struct kunit *test, unsigned int nr)
{
	struct graph *graph = kunit_kzalloc(test, sizeof(*graph), GFP_KERNEL);
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, graph);
	graph->nr = nr;
	graph->nodes = vzalloc(array_size(nr, sizeof(*graph->nodes)));
	KUNIT_ASSERT_NOT_NULL(test, graph->nodes);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, (kunit_action_t *)vfree,
							graph->nodes), 0);
	xa_init(&graph->fabric.peers);
	for (i = 0; i < nr; i++) {
		struct node *node = &graph->nodes[i];
		struct pgmap_peer *peer = &node->peer;

		peer->fabric = &graph->fabric;
		peer->index = i;
		peer->cluster = pgmap_owner_new();
		peer->owner = peer->cluster;
		INIT_LIST_HEAD(&peer->mates);
		INIT_LIST_HEAD(&peer->moving);
		INIT_LIST_HEAD(&peer->regions);
		INIT_LIST_HEAD(&node->region.windows);
		list_add(&node->region.entry, &peer->regions);
		list_add(&node->window.entry, &node->region.windows);
		KUNIT_ASSERT_EQ(test, xa_err(xa_store(&graph->fabric.peers, i, peer,
						      GFP_KERNEL)), 0);
	}
	return graph;
}

static void graph_end(struct graph *graph)
{
	xa_destroy(&graph->fabric.peers);
}

static void graph_link_all(struct graph *graph, unsigned int from, unsigned int to)
{
	unsigned int i, j;

	for (i = from; i < to; i++)
		for (j = i + 1; j < to; j++)
			set_link(graph, i, j, true);
}

/* What a change does with owners, and how many pages it moves. */
static unsigned long graph_publish(struct list_head *movers)
{
	struct pgmap_peer *peer, *next;
	unsigned long moved = 0;

	list_for_each_entry_safe(peer, next, movers, moving) {
		peer->owner = peer->cluster;
		list_del_init(&peer->moving);
		moved += pgmap_peer_pages(peer);
	}
	return moved;
}

static unsigned long graph_change(struct graph *graph)
{
	struct pgmap_peer *other;
	unsigned long moved = 0;
	LIST_HEAD(movers);
	unsigned int i, j;

	for (i = 0; i < graph->nr; i++)
		for (j = 0; j < i; j++)
			if (together(graph, i, j) && !linked(graph, i, j))
				pgmap_cluster_split(peer_of(graph, i), &movers);
	moved += graph_publish(&movers);
	for (i = 0; i < graph->nr; i++) {
		while ((other = pgmap_cluster_candidate(peer_of(graph, i)))) {
			pgmap_cluster_merge(peer_of(graph, i), other, &movers);
			moved += graph_publish(&movers);
		}
	}
	return moved;
}

/* Clusters are cliques, no two of them could be one, and rings have all their members. */
static void graph_check(struct kunit *test, struct graph *graph)
{
	unsigned int i, j;

	for (i = 0; i < graph->nr; i++) {
		struct pgmap_peer *mate, *peer = peer_of(graph, i);
		unsigned int in_ring = 0, members = 0;

		for (mate = peer; mate; mate = pgmap_next_mate(mate, peer)) {
			in_ring++;
			KUNIT_EXPECT_PTR_EQ(test, mate->cluster, peer->cluster);
		}
		for (j = 0; j < graph->nr; j++) {
			members += together(graph, i, j);
			if (i != j && together(graph, i, j))
				KUNIT_EXPECT_TRUE(test, linked(graph, i, j));
		}
		KUNIT_EXPECT_EQ(test, in_ring, members);
		KUNIT_EXPECT_NULL(test, pgmap_cluster_candidate(peer));
		KUNIT_EXPECT_PTR_EQ(test, peer->owner, peer->cluster);
	}
}

static void owner_is_unique(struct kunit *test)
{
	struct pgmap_owner *one = pgmap_owner_new(), *two = pgmap_owner_new();

	KUNIT_EXPECT_PTR_NE(test, one, two);
	KUNIT_EXPECT_NOT_NULL(test, one);
	/* No object of a driver has such an address. */
	KUNIT_EXPECT_TRUE(test, (unsigned long)one & 1);
}

static void linked_peers_share(struct kunit *test)
{
	struct graph *graph = graph_new(test, 3);

	set_link(graph, 0, 1, true);
	graph_change(graph);
	KUNIT_EXPECT_TRUE(test, together(graph, 0, 1));
	KUNIT_EXPECT_FALSE(test, together(graph, 0, 2));
	graph_check(test, graph);

	/* Linked with one of two is not enough. */
	set_link(graph, 1, 2, true);
	graph_change(graph);
	KUNIT_EXPECT_FALSE(test, together(graph, 1, 2));
	set_link(graph, 0, 2, true);
	graph_change(graph);
	KUNIT_EXPECT_TRUE(test, together(graph, 0, 2));
	graph_check(test, graph);
	graph_end(graph);
}

static void most_pages_stay(struct kunit *test)
{
	struct graph *graph = graph_new(test, 3);
	struct pgmap_owner *owner;

	/* Merge: the owner of the peer with more pages. */
	set_pages(graph, 0, 1);
	set_pages(graph, 1, 5);
	set_pages(graph, 2, 3);
	owner = peer_of(graph, 1)->owner;
	graph_link_all(graph, 0, 3);
	KUNIT_EXPECT_EQ(test, graph_change(graph), 4UL);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 0)->owner, owner);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 2)->owner, owner);

	/* Split: the peer with fewer pages moves, and the third stays with the other. */
	set_link(graph, 0, 1, false);
	KUNIT_EXPECT_EQ(test, graph_change(graph), 1UL);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 1)->owner, owner);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 2)->owner, owner);
	KUNIT_EXPECT_PTR_NE(test, peer_of(graph, 0)->owner, owner);
	graph_check(test, graph);
	graph_end(graph);
}

static void ties_go_to_the_first(struct kunit *test)
{
	struct graph *graph = graph_new(test, 4);
	struct pgmap_owner *owner = peer_of(graph, 0)->owner;

	graph_link_all(graph, 0, 4);
	graph_change(graph);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 3)->owner, owner);
	set_link(graph, 1, 2, false);
	graph_change(graph);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 1)->owner, owner);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 3)->owner, owner);
	KUNIT_EXPECT_PTR_NE(test, peer_of(graph, 2)->owner, owner);
	graph_end(graph);
}

static void hives_part_and_meet(struct kunit *test)
{
	struct graph *graph = graph_new(test, 8);
	unsigned int i, j;

	for (i = 0; i < 8; i++)
		set_pages(graph, i, 10 + i);
	graph_link_all(graph, 0, 8);
	graph_change(graph);
	KUNIT_EXPECT_TRUE(test, together(graph, 0, 7));

	/* All links between the two at once: the lighter one moves, as one. */
	for (i = 0; i < 4; i++)
		for (j = 4; j < 8; j++)
			set_link(graph, i, j, false);
	KUNIT_EXPECT_EQ(test, graph_change(graph), 10UL + 11 + 12 + 13);
	KUNIT_EXPECT_TRUE(test, together(graph, 0, 3));
	KUNIT_EXPECT_TRUE(test, together(graph, 4, 7));
	KUNIT_EXPECT_FALSE(test, together(graph, 3, 4));
	graph_check(test, graph);

	graph_link_all(graph, 0, 8);
	KUNIT_EXPECT_EQ(test, graph_change(graph), 10UL + 11 + 12 + 13);
	KUNIT_EXPECT_TRUE(test, together(graph, 0, 7));
	graph_check(test, graph);
	graph_end(graph);
}

static void others_are_left_alone(struct kunit *test)
{
	struct graph *graph = graph_new(test, 6);
	struct pgmap_owner *before[6];
	unsigned int i;

	graph_link_all(graph, 0, 3);
	graph_link_all(graph, 3, 6);
	graph_change(graph);
	for (i = 0; i < 6; i++)
		before[i] = peer_of(graph, i)->owner;
	set_link(graph, 0, 1, false);
	graph_change(graph);
	for (i = 3; i < 6; i++)
		KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, i)->owner, before[i]);
	/* A link that makes no cluster larger changes nothing. */
	for (i = 0; i < 6; i++)
		before[i] = peer_of(graph, i)->owner;
	set_link(graph, 2, 3, true);
	KUNIT_EXPECT_EQ(test, graph_change(graph), 0UL);
	for (i = 0; i < 6; i++)
		KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, i)->owner, before[i]);
	graph_end(graph);
}

/* Where one link goes down in a hive, to move the lighter of its ends is the optimum. */
static void one_link_down_is_optimal(struct kunit *test)
{
	struct rnd_state rnd;
	unsigned int n, i, j;

	prandom_seed_state(&rnd, 1);
	for (n = 2; n <= 16; n++) {
		struct graph *graph = graph_new(test, n);

		for (i = 0; i < n; i++)
			set_pages(graph, i, prandom_u32_state(&rnd) % 100);
		graph_link_all(graph, 0, n);
		graph_change(graph);
		i = prandom_u32_state(&rnd) % n;
		j = (i + 1 + prandom_u32_state(&rnd) % (n - 1)) % n;
		set_link(graph, i, j, false);
		KUNIT_EXPECT_EQ(test, graph_change(graph),
				min(pgmap_peer_pages(peer_of(graph, i)),
				    pgmap_peer_pages(peer_of(graph, j))));
		graph_check(test, graph);
		graph_end(graph);
	}
}

static void random_changes(struct kunit *test)
{
	struct rnd_state rnd;
	unsigned int round, i, j;
	struct graph *graph;

	prandom_seed_state(&rnd, 2);
	graph = graph_new(test, 24);
	for (round = 0; round < 300; round++) {
		set_pages(graph, prandom_u32_state(&rnd) % 24,
			  prandom_u32_state(&rnd) % 1000);
		i = prandom_u32_state(&rnd) % 24;
		j = (i + 1 + prandom_u32_state(&rnd) % 23) % 24;
		set_link(graph, i, j, prandom_u32_state(&rnd) % 4);
		graph_change(graph);
		graph_check(test, graph);
	}
	graph_end(graph);
}

/* As many as SR-IOV functions of a large machine. */
static void a_thousand_peers(struct kunit *test)
{
	struct graph *graph = graph_new(test, 1024);
	struct pgmap_owner *owner;
	unsigned int i, j;

	set_pages(graph, 1000, 1);
	owner = peer_of(graph, 1000)->owner;
	/* They join one after another. */
	for (i = 1; i < 1024; i++) {
		LIST_HEAD(movers);

		for (j = 0; j < i; j++)
			set_link(graph, i, j, true);
		pgmap_cluster_merge(peer_of(graph, i),
				    pgmap_cluster_candidate(peer_of(graph, i)), &movers);
		graph_publish(&movers);
	}
	KUNIT_EXPECT_TRUE(test, together(graph, 0, 1023));
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 7)->owner, owner);
	set_link(graph, 5, 1000, false);
	graph_change(graph);
	KUNIT_EXPECT_PTR_EQ(test, peer_of(graph, 1023)->owner, owner);
	KUNIT_EXPECT_FALSE(test, together(graph, 5, 1000));
	graph_end(graph);
}

static struct kunit_case partition_cases[] = {
	KUNIT_CASE(owner_is_unique),
	KUNIT_CASE(linked_peers_share),
	KUNIT_CASE(most_pages_stay),
	KUNIT_CASE(ties_go_to_the_first),
	KUNIT_CASE(hives_part_and_meet),
	KUNIT_CASE(others_are_left_alone),
	KUNIT_CASE(one_link_down_is_optimal),
	KUNIT_CASE(random_changes),
	KUNIT_CASE_SLOW(a_thousand_peers),
	{}
};

static struct kunit_suite partition_suite = {
	.name = "pgmap_partition",
	.test_cases = partition_cases,
};

kunit_test_suite(partition_suite);

MODULE_DESCRIPTION("KUnit tests for the partition of device memory peers");
MODULE_LICENSE("GPL");
