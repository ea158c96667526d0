// SPDX-License-Identifier: GPL-2.0
/*
 * Partition of peers and links into clusters.
 *
 * Pure computation: no device, no lock, no allocation, and no state but the
 * structure of the caller, so that it can be tested anywhere.
 *
 * All members of a cluster share one pgmap owner, which says to
 * hmm_range_fault() that each reaches the memory of each. Therefore:
 *
 * 1. Every cluster is a clique of the link graph.
 * 2. No two clusters together are a clique, else links would go unused.
 *
 * A peer whose owner changes has to have all its resident pages rehomed. An
 * owner can live on in one cluster at most, and a cluster has one owner. So
 * among all partitions that satisfy 1 and 2, and all ways to give old owners to
 * clusters, the best one is that with
 *
 * 3. the fewest pages on peers whose owner changes; then
 * 4. the fewest peers whose owner changes; then
 * 5. the fewest clusters; then
 * 6. the lexicographically smallest sequence of cluster numbers, to make the
 *    result a function of the input alone.
 *
 * It follows that a partition that still satisfies 1 and 2 is left alone, and that
 * points 3 to 5 never depend on how the peers are numbered.
 *
 * This contains minimum clique cover, which is NP-hard. The graphs at hand are
 * small and close to a union of cliques, and there branch and bound ends after
 * hardly more than one node per peer. A budget bounds the time on graphs made
 * to be difficult; the best partition met until then, at least as good as a
 * greedy one, satisfies 1 and 2 as well. Should it end when only point 6 is
 * open, then that is left to chance, though still a function of the input.
 *
 * Terms: "value" of a peer is what is gained if it keeps its owner, points 3 and
 * 4 in one number. A "set" is a cluster in the making, "cand" of a set are the
 * peers linked to all its members (the members included). An old owner is
 * denoted by the lowest peer that has it. "comp" is a connected component of the
 * link graph. An "island" is a union of components closed under "has the same
 * old owner": islands do not influence each other, and each is solved alone.
 */
#include <kunit/visibility.h>
#include <linux/bitops.h>
#include <linux/export.h>
#include <linux/minmax.h>
#include <linux/string.h>
#include <linux/types.h>

#include "pgmap_partition.h"

#define for_each_peer(p, mask) \
	for (u64 __rest = (mask); __rest && ((p) = __ffs64(__rest), true); __rest &= __rest - 1)

static bool all_linked(struct pgmap_partition *pp, u64 mask)
{
	unsigned int p;

	pp->steps += hweight64(mask);
	for_each_peer(p, mask) {
		if (mask & ~pp->adj[p])
			return false;
	}
	return true;
}

static u64 sum_values(struct pgmap_partition *pp, u64 mask)
{
	u64 sum = 0;
	unsigned int p;

	for_each_peer(p, mask)
		sum += pp->value[p];
	pp->steps += hweight64(mask);
	return sum;
}

/*
 * At least the value of the most valuable clique within @mask. A clique lies in
 * one component, and has at most one member in each of the independent sets into
 * which the component is cut up here.
 */
static u64 clique_bound(struct pgmap_partition *pp, u64 mask)
{
	u64 best = 0;

	while (mask) {
		u64 comp = mask & pp->comp[__ffs64(mask)];
		u64 sum = 0;

		mask &= ~comp;
		while (comp) {
			u64 open = comp, top = 0;

			while (open) {
				unsigned int p = __ffs64(open);

				top = max(top, pp->value[p]);
				open &= ~pp->adj[p];
				comp &= ~BIT_ULL(p);
				pp->steps++;
			}
			sum += top;
		}
		best = max(best, sum);
	}
	return best;
}

/* A clique within @mask, a valuable one: each next member leaves most to choose from */
static u64 find_clique(struct pgmap_partition *pp, u64 mask)
{
	u64 clique = 0;
	unsigned int p;

	while (mask) {
		unsigned int next = 0;
		u64 top = 0;

		for_each_peer(p, mask) {
			u64 sum = sum_values(pp, mask & pp->adj[p]);

			if (sum > top) {
				next = p;
				top = sum;
			}
		}
		clique |= BIT_ULL(next);
		mask &= pp->adj[next] & ~BIT_ULL(next);
	}
	return clique;
}

static void add_edge(struct pgmap_partition *pp, unsigned int owner, unsigned int to, u64 gain)
{
	pp->edge[pp->nr_edges].owner = owner;
	pp->edge[pp->nr_edges].to = to;
	pp->edge[pp->nr_edges++].gain = gain;
}

/* match_owners() for the usual case that no two owners want the same */
static bool match_first_choice(struct pgmap_partition *pp, unsigned int max_keep)
{
	unsigned int e, nr = 0;

	for (e = 0; e < pp->nr_edges; e++) {
		int has = pp->by_owner[pp->edge[e].owner];

		nr += has < 0;
		if (has < 0 || pp->edge[e].gain > pp->edge[has].gain)
			pp->by_owner[pp->edge[e].owner] = e;
	}
	pp->steps += pp->nr_edges;
	if (nr > max_keep)
		return false;

	for (e = 0; e < pp->nr_edges; e++) {
		if (pp->by_owner[pp->edge[e].owner] != e)
			continue;
		if (pp->by_target[pp->edge[e].to] >= 0)
			return false;
		pp->by_target[pp->edge[e].to] = e;
	}
	return true;
}

/*
 * Match owners with that which keeps them, at most @max_keep of them and each at
 * most once, for maximum gain: returns it, and sets by_owner[] to the edge or -1.
 *
 * The best augmenting path, found as by Bellman and Ford, leads from the best
 * matching of n owners to the best of n + 1. Gains are positive, so the more, the
 * better.
 */
static s64 match_owners(struct pgmap_partition *pp, unsigned int max_keep)
{
	unsigned int e, nr;
	s64 total = 0;

	memset(pp->by_owner, -1, sizeof(pp->by_owner));
	memset(pp->by_target, -1, sizeof(pp->by_target));
	if (match_first_choice(pp, max_keep)) {
		for (e = 0; e < pp->nr_edges; e++) {
			if (pp->by_owner[pp->edge[e].owner] == e)
				total += pp->edge[e].gain;
		}
		return total;
	}
	memset(pp->by_owner, -1, sizeof(pp->by_owner));
	memset(pp->by_target, -1, sizeof(pp->by_target));

	for (nr = 0; nr < max_keep; nr++) {
		s64 best_gain = 0;
		int best = -1;
		bool again;

		/* dist[]: gain of the best path from an unmatched owner to a target */
		memset(pp->dist, 0, sizeof(pp->dist));
		do {
			again = false;
			for (e = 0; e < pp->nr_edges; e++) {
				unsigned int to = pp->edge[e].to;
				s64 gain = pp->edge[e].gain;
				int has = pp->by_owner[pp->edge[e].owner];

				if (has == e)
					continue;
				if (has >= 0) {
					if (!pp->dist[pp->edge[has].to])
						continue;
					gain += pp->dist[pp->edge[has].to] - pp->edge[has].gain;
				}
				if (gain > pp->dist[to]) {
					pp->dist[to] = gain;
					pp->via[to] = e;
					again = true;
				}
			}
			pp->steps += pp->nr_edges;
		} while (again);

		for (e = 0; e < pp->nr_edges; e++) {
			unsigned int to = pp->edge[e].to;

			if (pp->by_target[to] < 0 && pp->dist[to] > best_gain) {
				best_gain = pp->dist[to];
				best = to;
			}
		}
		if (best < 0)
			break;

		total += best_gain;
		while (best >= 0) {
			int has;

			e = pp->via[best];
			has = pp->by_owner[pp->edge[e].owner];
			pp->by_owner[pp->edge[e].owner] = e;
			pp->by_target[best] = e;
			best = has < 0 ? -1 : pp->edge[has].to;
		}
	}
	return total;
}

/*
 * At least the value that @island can keep, whichever way the peers in @left join
 * the @nr sets or new ones. Exact if none is left; by_owner[] then tells how.
 *
 * An owner either stays with one of the sets that hold peers of it, where owners
 * compete; or it moves on to a set without, where competition is ignored but for
 * the number of sets that there can be.
 */
static u64 keep_bound(struct pgmap_partition *pp, u64 island, u64 left, unsigned int nr)
{
	unsigned int o, c;

	pp->nr_edges = 0;
	for_each_peer(o, pp->owners & island) {
		u64 alone = clique_bound(pp, pp->owned[o] & left);

		if (alone)
			add_edge(pp, o, PGMAP_MAX_PEERS + o, alone);
		for (c = 0; c < nr; c++) {
			u64 gain;

			if (!(pp->set[c] & pp->owned[o]))
				continue;
			gain = sum_values(pp, pp->set[c] & pp->owned[o]) +
			       clique_bound(pp, pp->owned[o] & left & pp->cand[c]);
			if (gain > alone)
				add_edge(pp, o, c, gain);
		}
		pp->steps += nr;
	}
	nr += hweight64(left & pp->openers);
	return match_owners(pp, min(nr, pp->max_keep));
}

/* Will two of the @nr sets be one clique, whichever way the peers in @left join? */
static bool must_merge(struct pgmap_partition *pp, u64 left, unsigned int nr)
{
	unsigned int a, b;

	for (a = 0; a < nr; a++) {
		u64 join = pp->cand[a] & left;

		pp->steps += a + 1;
		for (b = 0; b < a; b++) {
			if (!(pp->set[a] & ~pp->cand[b]) && join == (pp->cand[b] & left) &&
			    all_linked(pp, join))
				return true;
		}
	}
	return false;
}

/* At least this many clusters will there be: peers that neither fit in nor pair up */
static unsigned int nr_bound(struct pgmap_partition *pp, u64 left, unsigned int nr)
{
	unsigned int c;

	for (c = 0; c < nr; c++)
		left &= ~pp->cand[c];
	while (left) {
		left &= ~pp->adj[__ffs64(left)];
		nr++;
		pp->steps++;
	}
	return nr;
}

static bool worth_a_look(struct pgmap_partition *pp, u64 island, u64 left,
			 unsigned int nr, bool ties)
{
	u64 kept;

	if (must_merge(pp, left, nr))
		return false;
	kept = keep_bound(pp, island, left, nr);
	if (kept != pp->best_kept)
		return kept > pp->best_kept;
	nr = nr_bound(pp, left, nr);
	return ties ? nr <= pp->best_nr : nr < pp->best_nr;
}

static void take_best(struct pgmap_partition *pp, u64 island, unsigned int nr)
{
	memcpy(pp->best, pp->set, sizeof(pp->best));
	pp->best_nr = nr;
	pp->best_kept = keep_bound(pp, island, 0, nr);
}

/*
 * A partition to start from: each old owner keeps a valuable clique, all others
 * are alone; then what can be merged is merged, that which loses least first.
 */
static void greedy(struct pgmap_partition *pp, u64 island)
{
	unsigned int o, p, a, b, nr = 0;
	u64 alone = island;

	for_each_peer(o, pp->owners & island) {
		pp->set[nr] = find_clique(pp, pp->owned[o]);
		pp->claim[nr] = sum_values(pp, pp->set[nr]);
		alone &= ~pp->set[nr++];
	}
	for_each_peer(p, alone) {
		pp->set[nr] = BIT_ULL(p);
		pp->claim[nr++] = 0;
	}
	for (a = 0; a < nr; a++) {
		pp->cand[a] = ~0ULL;
		for_each_peer(p, pp->set[a])
			pp->cand[a] &= pp->adj[p];
	}

	for (;;) {
		unsigned int into = 0, from = 0, size = 0;
		u64 loss = 0;

		for (a = 0; a < nr; a++) {
			for (b = a + 1; b < nr; b++) {
				unsigned int both = hweight64(pp->set[a] | pp->set[b]);
				u64 less = min(pp->claim[a], pp->claim[b]);

				if (pp->set[b] & ~pp->cand[a])
					continue;
				if (from && (less > loss || (less == loss && both <= size)))
					continue;
				into = a;
				from = b;
				loss = less;
				size = both;
			}
		}
		if (!from)
			break;
		pp->set[into] |= pp->set[from];
		pp->cand[into] &= pp->cand[from];
		pp->claim[into] = max(pp->claim[into], pp->claim[from]);
		nr--;
		pp->set[from] = pp->set[nr];
		pp->cand[from] = pp->cand[nr];
		pp->claim[from] = pp->claim[nr];
	}
	take_best(pp, island, nr);
}

/*
 * How many clusters can component @comp have at most? Between any two of them is a
 * pair of peers that are not linked.
 */
static unsigned int max_clusters(struct pgmap_partition *pp, u64 comp)
{
	unsigned int p, not_linked = 0, nr = 1;

	for_each_peer(p, comp)
		not_linked += hweight64(comp & ~pp->adj[p]);
	while (nr * (nr + 1) <= not_linked)
		nr++;
	return nr;
}

/*
 * Put one peer after the other into each set in turn and then into a new one. First
 * find a best partition, if there is better than that from greedy(): peers with few
 * links are put first, because what they permit decides most. Then, for @ties, find
 * the lexicographically smallest of those as good: with the lowest peer first it is
 * the first one met. Returns false if the budget ended before the search did.
 */
static bool search(struct pgmap_partition *pp, u64 island, bool ties)
{
	unsigned int p, nr_peers = 0, nr = 0, depth = 0;
	u64 left;

	for (left = island; left; left &= ~BIT_ULL(pp->order[nr_peers++])) {
		pp->order[nr_peers] = __ffs64(left);
		for_each_peer(p, ties ? 0 : left) {
			if (hweight64(pp->adj[p]) < hweight64(pp->adj[pp->order[nr_peers]]))
				pp->order[nr_peers] = p;
		}
	}

	left = island;
	pp->choice[0] = 0;
	for (;;) {
		unsigned int c = pp->choice[depth];
		bool good = false;

		p = pp->order[depth];
		if (pp->steps >= pp->budget)
			return false;

		while (c < nr && !(pp->cand[c] & BIT_ULL(p)))
			c++;
		pp->choice[depth] = c;
		if (c <= nr) {
			if (c == nr) {
				pp->set[nr] = 0;
				pp->cand[nr++] = ~0ULL;
			}
			pp->undo[depth] = pp->cand[c];
			pp->set[c] |= BIT_ULL(p);
			pp->cand[c] &= pp->adj[p];
			left &= ~BIT_ULL(p);

			good = worth_a_look(pp, island, left, nr, ties);
			if (good && depth + 1 < nr_peers) {
				pp->choice[++depth] = 0;
				continue;
			}
		} else {
			/* This peer has been everywhere: take back the one before. */
			if (!depth)
				return true;
			p = pp->order[--depth];
			c = pp->choice[depth];
		}

		if (good) {
			take_best(pp, island, nr);
			if (ties)
				return true;
		}
		left |= BIT_ULL(p);
		pp->set[c] &= ~BIT_ULL(p);
		pp->cand[c] = pp->undo[depth];
		if (!pp->set[c])
			nr--;
		pp->choice[depth]++;
	}
}

/* Components, owners and values of the peers in pp->present */
static void prepare(struct pgmap_partition *pp)
{
	unsigned int p, q, o;

	pp->owners = 0;
	pp->openers = 0;
	for_each_peer(p, pp->present) {
		pp->adj[p] = BIT_ULL(p);
		pp->owned[p] = 0;
		pp->value[p] = 0;
		for_each_peer(q, pp->present & pp->link[p]) {
			if (pp->link[q] & BIT_ULL(p))
				pp->adj[p] |= BIT_ULL(q);
		}
		if (pp->old[p] < 0)
			continue;

		/* One page more outweighs all peers. */
		pp->value[p] = min(pp->weight[p], PGMAP_MAX_WEIGHT) * (2 * PGMAP_MAX_PEERS) + 1;
		o = p;
		for_each_peer(q, pp->owners) {
			if (pp->old[q] == pp->old[p])
				o = q;
		}
		pp->owners |= BIT_ULL(o);
		pp->owned[o] |= BIT_ULL(p);
	}

	for_each_peer(p, pp->present) {
		u64 comp = BIT_ULL(p), todo = comp;

		while (todo) {
			q = __ffs64(todo);
			todo = (todo & (todo - 1)) | (pp->adj[q] & ~comp);
			comp |= pp->adj[q];
		}
		pp->comp[p] = comp;

		/* All clusters have one of these, as others can be merged with any. */
		if (pp->adj[p] != comp || p == __ffs64(comp))
			pp->openers |= BIT_ULL(p);
	}
}

/* The smallest union of components around peer @p that shares no owner with others */
static u64 find_island(struct pgmap_partition *pp, unsigned int p)
{
	u64 island = pp->comp[p], before;
	unsigned int o;

	do {
		before = island;
		for_each_peer(o, pp->owners) {
			if (pp->owned[o] & island)
				island |= pp->owned[o];
		}
		for_each_peer(p, before ^ island)
			island |= pp->comp[p];
	} while (island != before);
	return island;
}

/**
 * pgmap_partition_solve() - partition peers and links into clusters
 * @pp: the input, and where the result goes
 *
 * Computes the best partition as defined at the top of this file. The result
 * depends on the input alone. This includes that from a search that was cut
 * short because it took too many steps: @pp->exact is then false, and while all
 * clusters are maximal cliques, fewer pages could possibly be moved.
 *
 * @pp is some 10 KiB: do not put it on the stack.
 *
 * Context: Any; takes no lock. May take some milliseconds if links are many and
 *	irregular, else some microseconds.
 */
void pgmap_partition_solve(struct pgmap_partition *pp)
{
	u64 todo = pp->present;
	unsigned int p, q, c;

	pp->nr_clusters = 0;
	pp->moved = 0;
	pp->exact = true;
	pp->steps = 0;
	for (p = 0; p < PGMAP_MAX_PEERS; p++) {
		pp->cluster[p] = -1;
		pp->keep[p] = -1;
	}
	prepare(pp);

	while (todo) {
		u64 island = find_island(pp, __ffs64(todo));
		u32 steps = PGMAP_PARTITION_STEPS - min(pp->steps, PGMAP_PARTITION_STEPS);

		/* A share of what is left: hardly any island needs all of its own. */
		pp->budget = pp->steps + steps / hweight64(todo) * hweight64(island);
		todo &= ~island;
		pp->max_keep = 0;
		for_each_peer(p, island) {
			if (p == __ffs64(pp->comp[p]))
				pp->max_keep += max_clusters(pp, pp->comp[p]);
		}
		greedy(pp, island);
		if (!search(pp, island, false))
			pp->exact = false;
		else
			search(pp, island, true);

		/* For now number the clusters by their lowest members. */
		memcpy(pp->set, pp->best, sizeof(pp->set));
		keep_bound(pp, island, 0, pp->best_nr);
		for (c = 0; c < pp->best_nr; c++) {
			for_each_peer(p, pp->set[c])
				pp->cluster[p] = __ffs64(pp->set[c]);
		}
		for_each_peer(p, pp->owners & island) {
			if (pp->by_owner[p] >= 0) {
				c = pp->edge[pp->by_owner[p]].to;
				pp->keep[__ffs64(pp->set[c])] = pp->old[p];
			}
		}
	}

	for_each_peer(p, pp->present) {
		if (pp->cluster[p] != p)
			continue;
		c = pp->nr_clusters++;
		swap(pp->keep[c], pp->keep[p]);
		for_each_peer(q, pp->present) {
			if (q >= p && pp->cluster[q] == p)
				pp->cluster[q] = c;
		}
	}
	for_each_peer(p, pp->present) {
		if (pp->old[p] < 0 || pp->keep[pp->cluster[p]] != pp->old[p])
			pp->moved += pp->weight[p];
	}
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_partition_solve);
