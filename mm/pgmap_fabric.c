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
	struct pgmap_scratch *scratch;
	struct pgmap_change change;
	int err;

	if (WARN_ON_ONCE(!peer->ops || !peer->name))
		return -EINVAL;
	if (pgmap_peer_is_lost(peer))
		return -ENODEV;

	scratch = kvzalloc_obj(*scratch);
	if (!scratch)
		return -ENOMEM;

	pgmap_change_init(&change, fabric, stats ?: &unused);
	pgmap_peer_init(fabric, peer);
	mutex_lock(&peer->lock);
	if (peer->scratch) {
		mutex_unlock(&peer->lock);
		kvfree(scratch);
		return -EBUSY;
	}
	peer->fabric = fabric;
	mutex_lock(&fabric->lock);
	err = pgmap_peer_add(peer);
	if (!err) {
		peer->scratch = scratch;
		pgmap_change_grow(&change, peer);
		if (!peer->owner)
			pgmap_peer_publish(peer, false);
	}
	/*
	 * Before pgmap_change_end(), which takes the locks of other peers. The fabric's lock
	 * is held until the movers are on &pgmap_fabric.changes, where others find them.
	 */
	mutex_unlock(&peer->lock);
	if (!err)
		pgmap_change_end(&change, true);
	mutex_unlock(&fabric->lock);
	if (err)
		kvfree(scratch);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_peer_join);

/* The peer has left, and has no windows: nothing uses it from now on. */
static void pgmap_peer_finish(struct pgmap_peer *peer)
{
	struct pgmap_fabric *fabric = peer->fabric;

	lockdep_assert_held(&peer->lock);

	cancel_delayed_work_sync(&peer->work);
	/* A change that uses the peer finds that it has left, and ends soon. */
	wait_event(fabric->wait, !READ_ONCE(peer->users));
	/* The thread that has dropped the last use has left the critical section. */
	mutex_lock(&fabric->lock);
	mutex_unlock(&fabric->lock);
	kvfree(peer->scratch);
	peer->scratch = NULL;
	WRITE_ONCE(peer->lost, false);
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
 *	   pages stayed in use, or if a forced call waits; -EINTR for a fatal signal;
 *	   -ENOMEM if there was no memory for the pages; or an error of
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

	err = pgmap_peer_lock(peer, flags & PGMAP_FORCE || pgmap_peer_is_lost(peer));
	if (err)
		return err;
	if (!peer->scratch) {
		mutex_unlock(&peer->lock);
		return -ENODEV;
	}
	stats = stats ?: &unused;
	pgmap_peer_close(peer);
	err = pgmap_empty(peer, NULL, flags, deadline, stats);
	if (err && !(flags & PGMAP_FORCE) && !pgmap_peer_is_lost(peer)) {
		pgmap_peer_reopen(peer);
		mutex_unlock(&peer->lock);
		return err;
	}
	pgmap_peer_remove(peer, stats);
	if (!err) {
		pgmap_peer_unregister_regions(peer);
		pgmap_peer_finish(peer);
	}
	mutex_unlock(&peer->lock);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_peer_leave);

/**
 * pgmap_peer_set_lost() - a device is lost, and its memory with it
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
