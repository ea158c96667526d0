/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_PGMAP_PARTITION_H
#define _MM_PGMAP_PARTITION_H

#include <linux/bits.h>
#include <linux/types.h>

#define PGMAP_MAX_PEERS		64

/* 2^48 pages is 1 EiB: leaves room to add up and to scale all weights. */
#define PGMAP_MAX_WEIGHT	BIT_ULL(48)

/*
 * About how many steps the search may take. A step is one round of an inner loop, a
 * few nanoseconds. The last node looked at may go beyond the limit.
 */
#define PGMAP_PARTITION_STEPS	1000000U

/**
 * struct pgmap_partition - peers and links, and their partition into clusters
 * @present: bit i is set if peer i takes part; all else about others is ignored
 * @link: bit j of @link[i] is set if peer i can use the memory of peer j; two
 *	peers are linked if both directions are there, and each is to itself
 * @weight: pages resident on each peer, at most PGMAP_MAX_WEIGHT (more counts
 *	as that much when partitions are compared)
 * @old: a number for the owner that each peer has now, negative for none; peers
 *	with the same number have the same owner
 * @nr_clusters: result: number of clusters
 * @cluster: result: cluster of each peer, -1 if it is not present; numbered from
 *	0 in the order of the lowest member
 * @keep: result: for each cluster the number, as in @old, of the owner that it
 *	keeps, or -1 if it needs a new one
 * @moved: result: sum of the weights of all peers that do not keep their owner
 * @exact: result: no partition moves fewer pages, or as many with fewer peers or
 *	in fewer clusters; if false, the search was cut short before that was known
 * @steps: result: what the search cost, see pgmap_partition_solve()
 *
 * Input, result and scratch space in one, because together they are too large
 * for the stack. Only the fields not marked as result need to be set up.
 */
struct pgmap_partition {
	u64 present;
	u64 link[PGMAP_MAX_PEERS];
	u64 weight[PGMAP_MAX_PEERS];
	int old[PGMAP_MAX_PEERS];

	unsigned int nr_clusters;
	int cluster[PGMAP_MAX_PEERS];
	int keep[PGMAP_MAX_PEERS];
	u64 moved;
	bool exact;
	unsigned int steps;

	/* private: scratch space of pgmap_partition_solve() */
	u64 adj[PGMAP_MAX_PEERS];
	u64 comp[PGMAP_MAX_PEERS];
	u64 owned[PGMAP_MAX_PEERS];
	u64 value[PGMAP_MAX_PEERS];
	u64 owners;
	u64 openers;

	u64 set[PGMAP_MAX_PEERS];
	u64 cand[PGMAP_MAX_PEERS];
	u64 undo[PGMAP_MAX_PEERS];
	u64 best[PGMAP_MAX_PEERS];
	u64 best_kept;
	unsigned int best_nr;
	unsigned int max_keep;
	unsigned int budget;
	u8 order[PGMAP_MAX_PEERS];
	u8 choice[PGMAP_MAX_PEERS];

	struct {
		s64 gain;
		u8 owner;
		u8 to;
	} edge[2 * PGMAP_MAX_PEERS];
	unsigned int nr_edges;
	s64 dist[2 * PGMAP_MAX_PEERS];
	s16 via[2 * PGMAP_MAX_PEERS];
	s16 by_target[2 * PGMAP_MAX_PEERS];
	s16 by_owner[PGMAP_MAX_PEERS];
	u64 claim[PGMAP_MAX_PEERS];
};

void pgmap_partition_solve(struct pgmap_partition *pp);

#endif /* _MM_PGMAP_PARTITION_H */
