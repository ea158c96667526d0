// SPDX-License-Identifier: GPL-2.0
/*
 * Fabrics: peers that join and leave, links that go up and down.
 */
#include <linux/export.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pci-p2pdma.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "pgmap_internal.h"

/* The first and the longest time between two attempts to move leftovers. */
#define PGMAP_DELAY	(HZ / 10)
#define PGMAP_MAX_DELAY	(30 * HZ)

/*
 * A change of the topology on its way through the steps. On the stack; on
 * &pgmap_fabric.changes while it has movers.
 */
struct pgmap_change {
	struct pgmap_fabric *fabric;
	/*
	 * &pgmap_peer.moving, of peers whose cluster is a new one, and whose owner is
	 * still that of &pgmap_peer.keeper. Protected by &pgmap_fabric.lock.
	 */
	struct list_head movers;
	struct list_head entry;
	unsigned long deadline;
	struct pgmap_stats *stats;
};

#define PGMAP_CHANGE(name, fab, timeout, st)				\
	struct pgmap_change name = {					\
		.fabric = (fab),					\
		.movers = LIST_HEAD_INIT((name).movers),		\
		.entry = LIST_HEAD_INIT((name).entry),			\
		.deadline = jiffies + (timeout),			\
		.stats = (st),						\
	}

/* --- publishing owners --- */

/*
 * Give a peer the owner of its cluster. If it loses access to other peers, walks under way
 * have to begin again.
 */
static void pgmap_peer_publish(struct pgmap_peer *peer, bool loses)
{
	WRITE_ONCE(peer->owner, peer->cluster);
	/* Pairs with the acquire in pgmap_walk_begin(), see there. */
	if (loses)
		smp_store_release(&peer->seq, peer->seq + 1);
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

	pgmap_for_each_mate(peer, keeper) {
		WRITE_ONCE(peer->cluster, owner);
		pgmap_peer_publish(peer, true);
		stats->peers_moved++;
	}
	pgmap_for_each_mate(peer, keeper)
		pgmap_peer_unmap_foreign(peer);
}

/*
 * Steps 3 and 4 of a change. Afterwards no peer maps memory of a peer that it is not in
 * one cluster with, or can get it from a walk.
 */
static void pgmap_change_settle(struct pgmap_change *change)
{
	struct pgmap_peer *peer, *next;

	lockdep_assert_held(&change->fabric->lock);

	/* Before the owner changes that says which cluster they leave. */
	list_for_each_entry(peer, &change->movers, moving) {
		if (peer->keeper->cluster == peer->owner && pgmap_peer_exposed(peer))
			pgmap_cluster_retire(peer->keeper, change->stats);
	}
	list_for_each_entry(peer, &change->movers, moving) {
		pgmap_peer_publish(peer, true);
		change->stats->peers_moved++;
	}
	list_for_each_entry_safe(peer, next, &change->movers, moving) {
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

/* --- moving pages --- */

static void pgmap_peer_work(struct work_struct *work)
{
	struct pgmap_peer *peer = container_of(to_delayed_work(work),
					       struct pgmap_peer, work);
	unsigned long delay = READ_ONCE(peer->delay);
	struct pgmap_stats unused = {};

	guard(mutex)(&peer->lock);
	if (pgmap_peer_rehome(peer, true, 0, &unused))
		return;
	WRITE_ONCE(peer->delay, min(2 * delay, PGMAP_MAX_DELAY));
	queue_delayed_work(system_unbound_wq, &peer->work, delay);
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
 * Rehome the peers that a change moves, one after another, without &pgmap_fabric.lock.
 * Another change that needs one of them settles this one meanwhile, and then the list is
 * empty; a work item does what is left.
 */
static void pgmap_change_rehome(struct pgmap_change *change, bool once)
{
	struct pgmap_fabric *fabric = change->fabric;
	unsigned int nr = list_count_nodes(&change->movers);
	struct pgmap_peer *peer;

	lockdep_assert_held(&fabric->lock);

	while (nr-- && !list_empty(&change->movers)) {
		peer = list_first_entry(&change->movers, struct pgmap_peer, moving);
		list_move_tail(&peer->moving, &change->movers);
		pgmap_peer_use(peer);
		mutex_unlock(&fabric->lock);
		if (!mutex_lock_killable(&peer->lock)) {
			pgmap_peer_rehome(peer, once, change->deadline, change->stats);
			mutex_unlock(&peer->lock);
		}
		mutex_lock(&fabric->lock);
		pgmap_peer_unuse(peer);
	}
}

/* Step 5 of a change: merge the cluster of a peer with others while that can be done. */
static void pgmap_change_grow(struct pgmap_change *change, struct pgmap_peer *peer)
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
static void pgmap_change_end(struct pgmap_change *change, bool rehome)
{
	if (rehome && !list_empty(&change->movers)) {
		list_add(&change->entry, &change->fabric->changes);
		pgmap_change_rehome(change, true);
		list_del_init(&change->entry);
	}
	while (!list_empty(&change->movers))
		list_del_init(change->movers.next);
}

/* --- for drivers --- */

/**
 * pgmap_fabric_init() - set up a fabric at run time
 * @fabric: zeroed by the caller
 * @name: for messages and resource names; must stay
 * @ops: callbacks, or NULL
 *
 * Nothing has to be undone after the last peer has left.
 *
 * Context: Any.
 */
void pgmap_fabric_init(struct pgmap_fabric *fabric, const char *name,
		       const struct pgmap_fabric_ops *ops)
{
	fabric->name = name;
	fabric->ops = ops;
	mutex_init(&fabric->lock);
	xa_init_flags(&fabric->peers, XA_FLAGS_ALLOC);
	INIT_LIST_HEAD(&fabric->changes);
	init_waitqueue_head(&fabric->wait);
}
EXPORT_SYMBOL_GPL(pgmap_fabric_init);

static void pgmap_peer_init(struct pgmap_fabric *fabric, struct pgmap_peer *peer)
{
	if (peer->fabric)
		return;
	mutex_init(&peer->lock);
	INIT_LIST_HEAD(&peer->mates);
	INIT_LIST_HEAD(&peer->moving);
	INIT_LIST_HEAD(&peer->regions);
	INIT_DELAYED_WORK(&peer->work, pgmap_peer_work);
	peer->fabric = fabric;
}

/* Make the peer a member of the fabric, in a cluster of its own. */
static int pgmap_peer_add(struct pgmap_peer *peer)
{
	struct pgmap_fabric *fabric = peer->fabric;
	struct pgmap_peer *other;
	unsigned long i;
	int err;

	lockdep_assert_held(&fabric->lock);

	err = xa_alloc(&fabric->peers, &peer->index, peer,
		       XA_LIMIT(0, PGMAP_MAX_PEERS - 1), GFP_KERNEL);
	if (err)
		return err == -EBUSY ? -ENOSPC : err;

	xa_for_each(&fabric->peers, i, other) {
		if (other == peer || !fabric->ops || !fabric->ops->linked ||
		    !fabric->ops->linked(peer, other) ||
		    !fabric->ops->linked(other, peer))
			continue;
		__set_bit(i, peer->links);
		__set_bit(peer->index, other->links);
	}
	peer->joined = true;
	WRITE_ONCE(peer->cluster, pgmap_owner_new());
	return 0;
}

/**
 * pgmap_peer_join() - become a member of a fabric
 * @fabric: the fabric
 * @peer: the peer: zeroed before the first time, or one that has left; name, ops and
 *	nid set
 * @stats: what was done is added here; may be NULL
 *
 * Finds out the links of the peer, if the fabric can tell, and gives it an owner: that of
 * the cluster that it belongs to now. Waits for no page.
 *
 * Context: May sleep. For the order of locks see mm/pgmap_internal.h.
 * Return: 0; -EINVAL if name or ops are missing; -EBUSY if the peer is a member of a
 *	   fabric; -ENODEV if it is lost; -ENOSPC if the fabric is full; -ENOMEM. On error
 *	   nothing has changed.
 */
int pgmap_peer_join(struct pgmap_fabric *fabric, struct pgmap_peer *peer,
		    struct pgmap_stats *stats)
{
	struct pgmap_stats unused = {};
	PGMAP_CHANGE(change, fabric, 0, stats ?: &unused);
	struct pgmap_scratch *scratch;
	int err;

	if (WARN_ON_ONCE(!peer->ops || !peer->name))
		return -EINVAL;
	if (pgmap_peer_is_lost(peer))
		return -ENODEV;

	scratch = kvzalloc_obj(*scratch);
	if (!scratch)
		return -ENOMEM;

	pgmap_peer_init(fabric, peer);
	mutex_lock(&peer->lock);
	err = peer->scratch ? -EBUSY : 0;
	if (!err) {
		peer->fabric = fabric;
		mutex_lock(&fabric->lock);
		err = pgmap_peer_add(peer);
		if (!err) {
			peer->scratch = scratch;
			pgmap_change_grow(&change, peer);
			if (!peer->owner)
				pgmap_peer_publish(peer, false);
		}
		mutex_unlock(&fabric->lock);
	}
	mutex_unlock(&peer->lock);
	if (err) {
		kvfree(scratch);
		return err;
	}

	mutex_lock(&fabric->lock);
	pgmap_change_end(&change, true);
	mutex_unlock(&fabric->lock);
	return 0;
}
EXPORT_SYMBOL_GPL(pgmap_peer_join);

/* Take the peer out of the fabric. It loses access to all others, and they to it. */
static void pgmap_peer_remove(struct pgmap_peer *peer, struct pgmap_stats *stats)
{
	struct pgmap_fabric *fabric = peer->fabric;
	PGMAP_CHANGE(change, fabric, 0, stats);
	struct pgmap_peer *other, *keeper = NULL;
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
	pgmap_change_grow(&change, keeper);
	pgmap_change_end(&change, false);
}

/* The peer has left, and has no windows: nothing uses it from now on. */
static void pgmap_peer_finish(struct pgmap_peer *peer)
{
	struct pgmap_fabric *fabric = peer->fabric;

	cancel_delayed_work_sync(&peer->work);
	/* A change that uses the peer finds that it has left, and ends soon. */
	wait_event(fabric->wait, !READ_ONCE(peer->users));
	/* Whoever has dropped the last use has left the critical section. */
	mutex_lock(&peer->lock);
	mutex_lock(&fabric->lock);
	mutex_unlock(&fabric->lock);
	kvfree(peer->scratch);
	peer->scratch = NULL;
	WRITE_ONCE(peer->lost, false);
	mutex_unlock(&peer->lock);
}

/**
 * pgmap_peer_leave() - leave a fabric
 * @peer: the peer
 * @flags: 0, or %PGMAP_FORCE if the peer leaves in any case
 * @timeout: when to give up, in jiffies from now
 * @stats: what was done is added here; may be NULL
 *
 * Moves all pages of the peer to system memory, which the device has to copy, and
 * unregisters them. When it returns 0, no page table, no other peer and no walker of core
 * mm refers to the peer's memory, the peer has dropped its mappings of foreign memory, no
 * callback runs or will run for it, and its regions need not be unregistered any more.
 *
 * If pages could not be moved in time, the peer stays a member, and its memory works as
 * before, though some of its pages may be in system memory now.
 *
 * With %PGMAP_FORCE, or if the peer is lost, it is no member any more in any case. It gives
 * out no pages, has no owner and no foreign mappings, and no peer can use its pages. Those
 * that could not be moved are poisoned, at once if the peer is lost. If an error is
 * returned, pages are still locked or referred to; repeat the call until it returns 0
 * before the peer and its regions are freed.
 *
 * Call it before drm_dev_unplug(), with the device at work and without force first.
 *
 * Context: May sleep. For the order of locks see mm/pgmap_internal.h.
 * Return: 0; -ENODEV if the peer is not a member; -EINVAL for unknown flags; -EBUSY if
 *	   pages stayed in use; -ENOMEM if there was no memory for them; or an error of
 *	   &pgmap_peer_ops.copy_to_ram. When forced, -EBUSY only.
 */
int pgmap_peer_leave(struct pgmap_peer *peer, unsigned int flags,
		     unsigned long timeout, struct pgmap_stats *stats)
{
	unsigned long deadline = jiffies + timeout;
	struct pgmap_stats unused = {};
	int err;

	if (flags & ~PGMAP_FORCE)
		return -EINVAL;
	if (!peer->fabric)
		return -ENODEV;

	mutex_lock(&peer->lock);
	if (!peer->scratch) {
		mutex_unlock(&peer->lock);
		return -ENODEV;
	}
	stats = stats ?: &unused;
	pgmap_peer_close(peer);
	err = pgmap_peer_empty(peer, flags, deadline, stats);
	/* Lost while it tried? Then there is nothing to return to. */
	if (err && !(flags & PGMAP_FORCE) && pgmap_peer_is_lost(peer))
		err = pgmap_peer_empty(peer, flags, deadline, stats);
	if (err && !(flags & PGMAP_FORCE) && !pgmap_peer_is_lost(peer)) {
		pgmap_peer_reopen(peer);
		mutex_unlock(&peer->lock);
		return err;
	}
	pgmap_peer_remove(peer, stats);
	if (!err)
		pgmap_peer_unregister_regions(peer);
	mutex_unlock(&peer->lock);
	if (!err)
		pgmap_peer_finish(peer);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_peer_leave);

/**
 * pgmap_peer_set_lost() - the device is gone, and its memory with it
 * @peer: a member of a fabric
 *
 * From now on, what is copied from or to the peer is thrown away. A copy may still begin,
 * by a caller that has just checked: until pgmap_peer_leave() has returned, the driver
 * keeps what its callbacks access, or keeps them from it, for example by drm_dev_enter().
 * The peer's walks fail with -ENODEV. What is mapped stays so until pgmap_peer_leave(),
 * which must follow and poisons it. Until then the driver's migrate_to_ram() returns
 * VM_FAULT_HWPOISON if pgmap_peer_is_lost().
 *
 * Must not be called after pgmap_peer_leave() has returned 0.
 *
 * Context: Any. Takes no lock, so that an operation under way can learn of it.
 */
void pgmap_peer_set_lost(struct pgmap_peer *peer)
{
	WRITE_ONCE(peer->lost, true);
	/*
	 * Before the caller makes the device forget what it held, as by a reset. Pairs
	 * with the rmb() in pgmap_peer_was_lost():
	 *
	 *	copying				the driver
	 *	-------				----------
	 *	read the memory			lost = true
	 *	rmb()				wmb()
	 *	lost?				reset the device
	 *
	 * A copy that has read what the reset left behind finds the device lost.
	 */
	wmb();
}
EXPORT_SYMBOL_GPL(pgmap_peer_set_lost);

static bool pgmap_link_valid(struct pgmap_fabric *fabric, const struct pgmap_link *link)
{
	return link->a != link->b &&
	       link->a->fabric == fabric && link->a->joined &&
	       link->b->fabric == fabric && link->b->joined;
}

static void pgmap_link_set(const struct pgmap_link *link)
{
	__assign_bit(link->b->index, link->a->links, link->up);
	__assign_bit(link->a->index, link->b->links, link->up);
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
 * walk that began before. Links that go down must work until then, except with
 * %PGMAP_FORCE. Links that come up must work when it is called.
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
	PGMAP_CHANGE(change, fabric, timeout, stats ?: &unused);
	unsigned int i;

	if (flags & ~PGMAP_FORCE || !nr)
		return -EINVAL;

	guard(mutex)(&fabric->lock);
	for (i = 0; i < nr; i++)
		if (!pgmap_link_valid(fabric, &links[i]))
			return -EINVAL;
	for (i = 0; i < nr; i++)
		pgmap_link_set(&links[i]);

	pgmap_change_split(&change, links, nr);
	if (!(flags & PGMAP_FORCE))
		pgmap_change_rehome(&change, false);
	pgmap_change_settle(&change);
	for (i = 0; i < nr; i++) {
		/* They may have left meanwhile. */
		if (links[i].a->joined)
			pgmap_change_grow(&change, links[i].a);
		if (links[i].b->joined)
			pgmap_change_grow(&change, links[i].b);
	}
	pgmap_change_end(&change, !(flags & PGMAP_FORCE));
	return 0;
}
EXPORT_SYMBOL_GPL(pgmap_fabric_set_links);

/**
 * pgmap_peer_reaches_pci() - can a peer use another one's memory by PCI peer-to-peer?
 * @from: the peer that accesses
 * @to: the peer whose memory it is: all of its BARs are the same in this
 *
 * A &pgmap_fabric_ops.linked for devices that have no other interconnect. Two devices
 * under one switch reach each other, unless ACS sends all traffic upstream; beyond that
 * it depends on the CPU and the host bridge. One direction can work where the other one
 * does not.
 *
 * Context: May sleep. &pgmap_peer.dev of both is set, and stays while this runs.
 * Return: true if accesses of @from arrive at @to. False if one of them is no PCI
 *	   device, or without CONFIG_PCI_P2PDMA.
 */
bool pgmap_peer_reaches_pci(struct pgmap_peer *from, struct pgmap_peer *to)
{
	if (WARN_ON_ONCE(!from->dev || !to->dev) ||
	    !dev_is_pci(from->dev) || !dev_is_pci(to->dev))
		return false;

	return pci_p2pdma_distance(to_pci_dev(to->dev), from->dev, false) >= 0;
}
EXPORT_SYMBOL_GPL(pgmap_peer_reaches_pci);

#ifdef CONFIG_LOCKDEP
/*
 * Teach lockdep the order of locks before anybody gets it wrong. What drivers take
 * in their notifiers they teach it themselves, below fs_reclaim.
 */
static int __init pgmap_lockdep_init(void)
{
	static struct pgmap_fabric fabric __initdata;
	static struct pgmap_peer peer __initdata;
	struct mm_struct *mm = mm_alloc();

	if (!mm)
		return -ENOMEM;

	pgmap_fabric_init(&fabric, "lockdep", NULL);
	pgmap_peer_init(&fabric, &peer);
	mutex_lock(&peer.lock);
	mutex_lock(&fabric.lock);
	mmap_read_lock(mm);
	fs_reclaim_acquire(GFP_KERNEL);
	lock_map_acquire(&__mmu_notifier_invalidate_range_start_map);
	lock_map_release(&__mmu_notifier_invalidate_range_start_map);
	fs_reclaim_release(GFP_KERNEL);
	mmap_read_unlock(mm);
	mutex_unlock(&fabric.lock);
	mutex_unlock(&peer.lock);

	mmput(mm);
	return 0;
}
late_initcall(pgmap_lockdep_init);
#endif
