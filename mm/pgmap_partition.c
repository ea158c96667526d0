// SPDX-License-Identifier: GPL-2.0
/*
 * The partition of a fabric's peers into clusters.
 *
 * In a cluster each peer is linked to each other one. What is valid stays: a cluster
 * changes when one of its links goes down, and then only that cluster is divided; or
 * when all peers of two clusters are linked, and then these two become one. The part
 * with the most pages in use keeps the owner.
 *
 * To divide peers into the fewest clusters, or such that the fewest pages change their
 * owner, is NP-hard. This is greedy: the peer with the most pages comes first, and each
 * further one joins it if it is linked to all that have. Ties go to the peer that has
 * joined the fabric earlier, so the result depends on nothing but links, pages and
 * clusters.
 *
 * All of this is called with &pgmap_fabric.lock held.
 */
#include <kunit/visibility.h>
#include <linux/bitops.h>
#include <linux/export.h>
#include <linux/list.h>
#include <linux/xarray.h>

#include "pgmap_internal.h"

static bool pgmap_peers_linked(const struct pgmap_peer *a, const struct pgmap_peer *b)
{
	return a == b || test_bit(b->index, a->links);
}

static void pgmap_cluster_weigh(struct pgmap_peer *peer)
{
	struct pgmap_peer *mate;

	for (mate = peer; mate; mate = pgmap_next_mate(mate, peer))
		mate->weight = pgmap_peer_pages(mate);
}

/* Does @a come before @b when it is about the most pages? */
static bool pgmap_peer_heavier(const struct pgmap_peer *a, const struct pgmap_peer *b)
{
	return a->weight > b->weight ||
	       (a->weight == b->weight && a->index < b->index);
}

static struct pgmap_peer *pgmap_heaviest(struct list_head *peers)
{
	struct pgmap_peer *peer, *best = NULL;

	list_for_each_entry(peer, peers, mates)
		if (!best || pgmap_peer_heavier(peer, best))
			best = peer;
	return best;
}

static unsigned long pgmap_cluster_weight(struct pgmap_peer *peer)
{
	struct pgmap_peer *mate;
	unsigned long weight = 0;

	for (mate = peer; mate; mate = pgmap_next_mate(mate, peer))
		weight += mate->weight;
	return weight;
}

static unsigned int pgmap_cluster_size(struct pgmap_peer *peer)
{
	return list_count_nodes(&peer->mates) + 1;
}

/* Is the cluster of @a to keep its owner rather than that of @b? */
static bool pgmap_cluster_keeps(struct pgmap_peer *a, struct pgmap_peer *b)
{
	unsigned long weight_a = pgmap_cluster_weight(a);
	unsigned long weight_b = pgmap_cluster_weight(b);
	unsigned int size_a = pgmap_cluster_size(a);
	unsigned int size_b = pgmap_cluster_size(b);

	if (weight_a != weight_b)
		return weight_a > weight_b;
	if (size_a != size_b)
		return size_a > size_b;
	return a->index < b->index;
}

/* Take a clique out of @rest, and leave the others there. Its members form a ring. */
static struct pgmap_peer *pgmap_take_clique(struct list_head *rest)
{
	struct pgmap_peer *first = NULL, *best, *peer, *next;
	LIST_HEAD(candidates);

	list_splice_init(rest, &candidates);
	while ((best = pgmap_heaviest(&candidates))) {
		list_del_init(&best->mates);
		if (first)
			list_add_tail(&best->mates, &first->mates);
		else
			first = best;
		list_for_each_entry_safe(peer, next, &candidates, mates)
			if (!pgmap_peers_linked(peer, best))
				list_move_tail(&peer->mates, rest);
	}
	return first;
}

/* The members of a part that does not keep the owner: they move. */
static void pgmap_part_moves(struct pgmap_peer *part, struct list_head *movers)
{
	struct pgmap_owner *owner = pgmap_owner_new();
	struct pgmap_peer *peer;

	for (peer = part; peer; peer = pgmap_next_mate(peer, part)) {
		WRITE_ONCE(peer->cluster, owner);
		list_add_tail(&peer->moving, movers);
	}
}

/*
 * Divide the cluster of @peer, whose members are not all linked. Those that get another
 * owner are added to @movers. Return: a member of the part that keeps the owner.
 */
VISIBLE_IF_KUNIT struct pgmap_peer *
pgmap_cluster_split(struct pgmap_peer *peer, struct list_head *movers)
{
	struct pgmap_peer *keeper, *part, *mover;
	LIST_HEAD(rest);

	pgmap_cluster_weigh(peer);
	/* A list of all members, from the ring that has no head. */
	list_add_tail(&rest, &peer->mates);
	keeper = pgmap_take_clique(&rest);
	while (!list_empty(&rest)) {
		part = pgmap_take_clique(&rest);
		if (pgmap_cluster_keeps(part, keeper))
			swap(part, keeper);
		pgmap_part_moves(part, movers);
	}
	list_for_each_entry(mover, movers, moving)
		if (mover->owner == keeper->owner)
			mover->keeper = keeper;
	return keeper;
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_cluster_split);

/* Is each peer of the one cluster linked to each of the other one? */
static bool pgmap_clusters_linked(struct pgmap_peer *a, struct pgmap_peer *b)
{
	struct pgmap_peer *i, *j;

	for (i = a; i; i = pgmap_next_mate(i, a))
		for (j = b; j; j = pgmap_next_mate(j, b))
			if (!pgmap_peers_linked(i, j))
				return false;
	return true;
}

/* A member of the cluster with the most pages that can be merged with @peer's; or NULL. */
VISIBLE_IF_KUNIT struct pgmap_peer *pgmap_cluster_candidate(struct pgmap_peer *peer)
{
	struct pgmap_peer *other, *best = NULL;
	struct pgmap_owner *last = peer->cluster;
	unsigned int i;

	for_each_set_bit(i, peer->links, PGMAP_MAX_PEERS) {
		other = xa_load(&peer->fabric->peers, i);
		/* Neighbours mostly are of one cluster: look at it once. */
		if (other->cluster == peer->cluster || other->cluster == last)
			continue;
		last = other->cluster;
		if (!pgmap_clusters_linked(peer, other))
			continue;
		pgmap_cluster_weigh(other);
		if (!best || pgmap_cluster_keeps(other, best))
			best = other;
	}
	return best;
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_cluster_candidate);

/* Make two clusters one. Members that get another owner are added to @movers. */
VISIBLE_IF_KUNIT void pgmap_cluster_merge(struct pgmap_peer *peer,
					  struct pgmap_peer *other,
					  struct list_head *movers)
{
	struct pgmap_peer *mate;
	LIST_HEAD(ring);

	pgmap_cluster_weigh(peer);
	pgmap_cluster_weigh(other);
	if (pgmap_cluster_keeps(other, peer))
		swap(peer, other);
	for (mate = other; mate; mate = pgmap_next_mate(mate, other)) {
		WRITE_ONCE(mate->cluster, peer->cluster);
		if (list_empty(&mate->moving))
			list_add_tail(&mate->moving, movers);
	}
	/* Two rings become one. */
	list_add_tail(&ring, &other->mates);
	list_splice_tail(&ring, &peer->mates);
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_cluster_merge);
