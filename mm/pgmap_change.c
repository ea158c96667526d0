// SPDX-License-Identifier: GPL-2.0
/*
 * A change of the topology: the steps that mm/hmm_owner.c lists.
 */
#include <linux/bitops.h>
#include <linux/export.h>
#include <linux/jiffies.h>
#include <linux/sched/signal.h>
#include <linux/xarray.h>

#include "pgmap_internal.h"

void pgmap_change_init(struct pgmap_change *change, struct pgmap_fabric *fabric,
		       struct pgmap_stats *stats)
{
	*change = (struct pgmap_change){ .fabric = fabric, .stats = stats };
	INIT_LIST_HEAD(&change->movers);
	INIT_LIST_HEAD(&change->entry);
}

/*
 * Give a peer the owner of its cluster. If it loses access to other peers, walks under way
 * have to begin again.
 */
void pgmap_peer_publish(struct pgmap_peer *peer, bool loses)
{
	WRITE_ONCE(peer->owner, peer->cluster);
	if (loses) {
		/* Pairs with the acquire in pgmap_walk_begin(), see there. */
		smp_store_release(&peer->seq, peer->seq + 1);
	}
	if (peer->cluster) {
		WRITE_ONCE(peer->delay, PGMAP_DELAY);
		mod_delayed_work(system_unbound_wq, &peer->work, PGMAP_DELAY);
	}
}

static void pgmap_peer_unmap_foreign(struct pgmap_peer *peer)
{
	if (peer->ops->unmap_foreign)
		peer->ops->unmap_foreign(peer);
}

/*
 * Memory of a peer that has left the cluster can still be found under the cluster's owner.
 * Give those that stay another one, and take away what they have mapped.
 */
static void pgmap_cluster_retire(struct pgmap_peer *keeper, struct pgmap_stats *stats)
{
	struct pgmap_owner *owner = pgmap_owner_new();
	struct pgmap_peer *peer;

	for (peer = keeper; peer; peer = pgmap_next_mate(peer, keeper)) {
		WRITE_ONCE(peer->cluster, owner);
		pgmap_peer_publish(peer, true);
		stats->peers_moved++;
	}
	for (peer = keeper; peer; peer = pgmap_next_mate(peer, keeper))
		pgmap_peer_unmap_foreign(peer);
}

/*
 * Steps 3 and 4 of a change, for the movers that leave a cluster. Afterwards no peer maps
 * memory of a peer outside its cluster, or can get it from a walk. Movers that were merged
 * have their owner already, and are only taken off the list.
 */
static void pgmap_change_settle(struct pgmap_change *change)
{
	struct pgmap_peer *peer, *next;

	lockdep_assert_held(&change->fabric->lock);

	/* Before the owner changes that says which cluster they leave. */
	list_for_each_entry(peer, &change->movers, moving) {
		if (peer->keeper && peer->keeper->cluster == peer->owner &&
		    pgmap_peer_exposed(peer))
			pgmap_cluster_retire(peer->keeper, change->stats);
	}
	list_for_each_entry(peer, &change->movers, moving) {
		if (!peer->keeper)
			continue;
		change->stats->pages_left += pgmap_peer_leftovers(peer);
		pgmap_peer_publish(peer, true);
		change->stats->peers_moved++;
	}
	list_for_each_entry_safe(peer, next, &change->movers, moving) {
		if (peer->keeper)
			pgmap_peer_unmap_foreign(peer);
		peer->keeper = NULL;
		list_del_init(&peer->moving);
	}
	list_del_init(&change->entry);
}

/*
 * Planned changes under way, of other callers, that move peers from or to the cluster of
 * @peer: end them before it changes again.
 */
static void pgmap_settle_others(struct pgmap_peer *peer)
{
	struct pgmap_change *change, *next;
	struct pgmap_peer *mover;

	list_for_each_entry_safe(change, next, &peer->fabric->changes, entry) {
		list_for_each_entry(mover, &change->movers, moving) {
			if (mover->owner == peer->cluster ||
			    mover->cluster == peer->cluster) {
				pgmap_change_settle(change);
				break;
			}
		}
	}
}

/* The peer must not be freed: pgmap_peer_leave() waits for pgmap_peer_unuse(). */
static void pgmap_peer_use(struct pgmap_peer *peer)
{
	lockdep_assert_held(&peer->fabric->lock);
	peer->users++;
}

static void pgmap_peer_unuse(struct pgmap_peer *peer)
{
	lockdep_assert_held(&peer->fabric->lock);
	if (!--peer->users)
		wake_up_all(&peer->fabric->wait);
}

/*
 * Rehome the peers that a change moves, each once, without &pgmap_fabric.lock. A peer that
 * another operation is busy with is left out.
 *
 * Return: whether nothing is left to do.
 */
static bool pgmap_change_rehome_once(struct pgmap_change *change, unsigned long deadline)
{
	unsigned int nr = list_count_nodes(&change->movers);
	struct pgmap_fabric *fabric = change->fabric;
	struct pgmap_peer *peer;
	bool done = true;

	while (nr-- && !list_empty(&change->movers)) {
		peer = list_first_entry(&change->movers, struct pgmap_peer, moving);
		list_move_tail(&peer->moving, &change->movers);
		pgmap_peer_use(peer);
		mutex_unlock(&fabric->lock);
		if (mutex_trylock(&peer->lock)) {
			if (!pgmap_peer_rehome(peer, deadline, change->stats))
				done = false;
			mutex_unlock(&peer->lock);
		} else {
			done = false;
		}
		mutex_lock(&fabric->lock);
		pgmap_peer_unuse(peer);
	}
	return done;
}

/* Name a page that a change has not moved in time. */
static void pgmap_change_complain(struct pgmap_change *change)
{
	struct pgmap_peer *peer;

	list_for_each_entry(peer, &change->movers, moving)
		if (pgmap_peer_leftovers(peer))
			return pgmap_complain(peer, NULL, "rehome", -EBUSY);
}

/*
 * Step 2 of a change: rehome the movers until nothing is left or the time is up. Another
 * change that needs one of them settles this one meanwhile, and then the list is empty; a
 * work item does what is left. No lock is held across a wait for a page.
 */
static void pgmap_change_rehome(struct pgmap_change *change)
{
	struct pgmap_fabric *fabric = change->fabric;
	unsigned long wait = 1;

	lockdep_assert_held(&fabric->lock);

	while (!pgmap_change_rehome_once(change, change->deadline) &&
	       !list_empty(&change->movers)) {
		if (!time_before(jiffies, change->deadline) ||
		    fatal_signal_pending(current)) {
			pgmap_change_complain(change);
			return;
		}
		mutex_unlock(&fabric->lock);
		schedule_timeout_killable(min(wait, change->deadline - jiffies));
		wait = min(2 * wait, PGMAP_MAX_WAIT);
		mutex_lock(&fabric->lock);
	}
}

/* Step 1 of a change: divide the clusters whose members are not all linked any more. */
static void pgmap_change_split(struct pgmap_change *change,
			       const struct pgmap_link *links, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct pgmap_peer *a = links[i].a, *b = links[i].b;

		/* A change under way may be about to part them. */
		if (a->owner == b->owner || a->cluster == b->cluster)
			pgmap_settle_others(a);
		if (a->cluster == b->cluster && !test_bit(b->index, a->links))
			pgmap_cluster_split(a, &change->movers);
	}
	if (!list_empty(&change->movers))
		list_add(&change->entry, &change->fabric->changes);
}

/* Step 5 of a change: merge the cluster of a peer with others while that can be done. */
void pgmap_change_grow(struct pgmap_change *change, struct pgmap_peer *peer)
{
	struct pgmap_peer *other, *mover;

	while ((other = pgmap_cluster_candidate(peer))) {
		pgmap_settle_others(peer);
		pgmap_settle_others(other);
		pgmap_cluster_merge(peer, other, &change->movers);
		list_for_each_entry(mover, &change->movers, moving) {
			if (mover->owner == mover->cluster)
				continue;
			/* A peer that joins has none yet. */
			change->stats->peers_moved += !!mover->owner;
			pgmap_peer_publish(mover, false);
		}
	}
}

/* The last step that the caller waits for: rehome those that were merged, but wait for no page. */
void pgmap_change_end(struct pgmap_change *change, bool rehome)
{
	if (rehome && !list_empty(&change->movers)) {
		list_add(&change->entry, &change->fabric->changes);
		pgmap_change_rehome_once(change, jiffies + MAX_JIFFY_OFFSET);
		list_del_init(&change->entry);
	}
	while (!list_empty(&change->movers))
		list_del_init(change->movers.next);
}

/* Take the peer out of the fabric. It loses access to all others, and they to it. */
void pgmap_peer_remove(struct pgmap_peer *peer, struct pgmap_stats *stats)
{
	struct pgmap_fabric *fabric = peer->fabric;
	struct pgmap_peer *other, *keeper = NULL;
	struct pgmap_change change;
	unsigned int i;

	guard(mutex)(&fabric->lock);
	if (!peer->joined)
		return;

	pgmap_settle_others(peer);
	if (!list_empty(&peer->mates))
		keeper = list_next_entry(peer, mates);
	list_del_init(&peer->mates);
	for_each_set_bit(i, peer->links, PGMAP_MAX_PEERS) {
		other = xa_load(&fabric->peers, i);
		__clear_bit(peer->index, other->links);
	}
	bitmap_zero(peer->links, PGMAP_MAX_PEERS);
	xa_erase(&fabric->peers, peer->index);
	peer->joined = false;

	WRITE_ONCE(peer->cluster, NULL);
	pgmap_peer_publish(peer, true);
	pgmap_peer_unmap_foreign(peer);
	if (!keeper)
		return;
	if (pgmap_peer_exposed(peer))
		pgmap_cluster_retire(keeper, stats);
	pgmap_change_init(&change, fabric, stats);
	pgmap_change_grow(&change, keeper);
	pgmap_change_end(&change, false);
}

static bool pgmap_peer_is_member(struct pgmap_fabric *fabric, struct pgmap_peer *peer)
{
	return peer->fabric == fabric && peer->joined;
}

static bool pgmap_link_valid(struct pgmap_fabric *fabric, const struct pgmap_link *link)
{
	return link->a != link->b && pgmap_peer_is_member(fabric, link->a) &&
	       pgmap_peer_is_member(fabric, link->b);
}

static void pgmap_link_set(const struct pgmap_link *link)
{
	__assign_bit(link->b->index, link->a->links, link->up);
	__assign_bit(link->a->index, link->b->links, link->up);
}

/**
 * pgmap_fabric_set_links() - links come up, go down, or both
 * @fabric: the fabric
 * @links: what changes; if a pair is named more than once, the last entry counts
 * @nr: number of entries
 * @flags: 0, or %PGMAP_FORCE if links that go down are dead already
 * @timeout: how long to move pages, in jiffies; what is left is moved later
 * @stats: what was done is added here; may be NULL
 *
 * When it returns 0, no peer maps memory of a peer outside its cluster, or gets it from a
 * walk that began before, unless another call has set the same link since. Links that go
 * down must work until then, except with %PGMAP_FORCE. Links that come up must work when
 * it is called. The caller keeps the peers from being freed; they may leave meanwhile.
 *
 * A page that cannot be moved in time is no error: peers of its cluster use it as before,
 * and the others have lost it. A fatal signal ends the wait for pages.
 *
 * Context: May sleep. For the order of locks see mm/pgmap_internal.h.
 * Return: 0; -EINVAL for unknown flags, an empty change, a pair that is not one, or a
 *	   peer that is not a member of @fabric. Then nothing has changed.
 */
int pgmap_fabric_set_links(struct pgmap_fabric *fabric,
			   const struct pgmap_link *links, unsigned int nr,
			   unsigned int flags, unsigned long timeout,
			   struct pgmap_stats *stats)
{
	struct pgmap_stats unused = {};
	struct pgmap_change change;
	unsigned int i;

	if (flags & ~PGMAP_FORCE || !nr)
		return -EINVAL;

	pgmap_change_init(&change, fabric, stats ?: &unused);
	change.deadline = jiffies + timeout;

	guard(mutex)(&fabric->lock);
	for (i = 0; i < nr; i++)
		if (!pgmap_link_valid(fabric, &links[i]))
			return -EINVAL;
	for (i = 0; i < nr; i++)
		pgmap_link_set(&links[i]);

	pgmap_change_split(&change, links, nr);
	if (!(flags & PGMAP_FORCE))
		pgmap_change_rehome(&change);
	pgmap_change_settle(&change);
	for (i = 0; i < nr; i++) {
		/* They may have left meanwhile. */
		if (pgmap_peer_is_member(fabric, links[i].a))
			pgmap_change_grow(&change, links[i].a);
		if (pgmap_peer_is_member(fabric, links[i].b))
			pgmap_change_grow(&change, links[i].b);
	}
	pgmap_change_end(&change, !(flags & PGMAP_FORCE));
	return 0;
}
EXPORT_SYMBOL_GPL(pgmap_fabric_set_links);
