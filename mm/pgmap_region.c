// SPDX-License-Identifier: GPL-2.0
/*
 * Regions: opening, closing and emptying the windows of a peer's memory.
 *
 * A window becomes the current one of a region under &pgmap_fabric.lock, and only if
 * its owner is the cluster of the peer at that time. Clusters change under this lock,
 * so new pages never appear under an owner that the peer has lost.
 */
#include <linux/export.h>
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>

#include "pgmap_internal.h"

/**
 * pgmap_peer_exposed() - can memory of a peer be found under an owner it has lost?
 * @peer: a peer whose cluster has changed
 *
 * Context: &pgmap_fabric.lock is held.
 * Return: true if a peer that has not changed its owner may map pages of @peer, or get
 *	   them from hmm_range_fault(), now or later.
 */
bool pgmap_peer_exposed(struct pgmap_peer *peer)
{
	struct pgmap_window *window, *current_window;
	struct pgmap_region *region;

	lockdep_assert_held(&peer->fabric->lock);

	list_for_each_entry(region, &peer->regions, entry) {
		current_window = pgmap_region_window(region) ?: region->closed;
		/* New pages may come, or the window may be opened again. */
		if (current_window && pgmap_window_outdated(current_window) &&
		    peer->cluster)
			return true;
		list_for_each_entry(window, &region->windows, entry)
			if ((window != current_window || peer->mem || !peer->cluster) &&
			    atomic_long_read(&window->pages))
				return true;
	}
	return false;
}

/**
 * pgmap_peer_pages_left() - pages that wait to be moved to a window under the peer's owner
 * @peer: the peer
 *
 * Context: May sleep. Takes &pgmap_fabric.lock. Can be stale when it is used.
 * Return: Their number.
 */
unsigned long pgmap_peer_pages_left(struct pgmap_peer *peer)
{
	struct pgmap_window *window;
	struct pgmap_region *region;
	unsigned long pages = 0;

	if (!peer->fabric || peer->mem)
		return 0;

	guard(mutex)(&peer->fabric->lock);
	list_for_each_entry(region, &peer->regions, entry)
		list_for_each_entry(window, &region->windows, entry)
			if (pgmap_window_outdated(window))
				pages += atomic_long_read(&window->pages);
	return pages;
}
EXPORT_SYMBOL_GPL(pgmap_peer_pages_left);

/* --- closing and opening --- */

/* Make a window the current one. Its owner is that of the cluster, or see the callers. */
void pgmap_region_set_window(struct pgmap_region *region, struct pgmap_window *window)
{
	lockdep_assert_held(&region->peer->fabric->lock);

	rcu_assign_pointer(region->window, window);
	region->closed = NULL;
	/* Pairs with pgmap_window_get(): after the window. */
	smp_store_release(&region->renewing, false);
	wake_up_all(&region->peer->fabric->wait);
}

/* The region gives out no pages from the next grace period on. */
void pgmap_region_close_begin(struct pgmap_region *region)
{
	struct pgmap_fabric *fabric = region->peer->fabric;
	struct pgmap_window *window = pgmap_region_window(region);

	if (!window)
		return;
	mutex_lock(&fabric->lock);
	RCU_INIT_POINTER(region->window, NULL);
	region->closed = window;
	mutex_unlock(&fabric->lock);
	dev_pagemap_close_begin(&window->pagemap);
}

/* Let the regions of a peer give out no pages. One grace period for all of them. */
void pgmap_peer_close(struct pgmap_peer *peer)
{
	struct pgmap_region *region;

	list_for_each_entry(region, &peer->regions, entry)
		pgmap_region_close_begin(region);
	synchronize_rcu();
}

/* Undo pgmap_region_close_begin(), a grace period after dev_pagemap_reopen_begin(). */
void pgmap_region_reopen_end(struct pgmap_region *region)
{
	struct pgmap_fabric *fabric = region->peer->fabric;

	if (!region->closed)
		return;
	dev_pagemap_reopen_end(&region->closed->pagemap);
	mutex_lock(&fabric->lock);
	/* If the owner is outdated, the peer has counted as exposed. */
	pgmap_region_set_window(region, region->closed);
	mutex_unlock(&fabric->lock);
}

/* Undo pgmap_peer_close(). */
void pgmap_peer_reopen(struct pgmap_peer *peer)
{
	struct pgmap_region *region;

	list_for_each_entry(region, &peer->regions, entry)
		if (region->closed)
			dev_pagemap_reopen_begin(&region->closed->pagemap);
	synchronize_rcu();
	list_for_each_entry(region, &peer->regions, entry)
		pgmap_region_reopen_end(region);
}

/* --- taking memory back --- */

/* The windows of a region are drained. */
static void pgmap_region_unregister_windows(struct pgmap_region *region)
{
	struct pgmap_fabric *fabric = region->peer->fabric;
	struct pgmap_window *window, *next;
	LIST_HEAD(windows);

	mutex_lock(&fabric->lock);
	region->closed = NULL;
	list_splice_init(&region->windows, &windows);
	list_del_init(&region->entry);
	mutex_unlock(&fabric->lock);
	list_for_each_entry_safe(window, next, &windows, entry)
		pgmap_window_unregister(window);
}

/* All windows of the peer are drained: give them back. */
void pgmap_peer_unregister_regions(struct pgmap_peer *peer)
{
	struct pgmap_region *region, *next;

	list_for_each_entry_safe(region, next, &peer->regions, entry)
		pgmap_region_unregister_windows(region);
}

/* Evacuate the windows of a closed region, each page once at least if forced. */
static int pgmap_region_evacuate(struct pgmap_region *region, bool once,
				 unsigned int flags, unsigned long deadline,
				 struct pgmap_stats *stats)
{
	struct pgmap_drain drain = {
		.deadline = deadline,
		.force = flags & PGMAP_FORCE,
		.stats = stats,
	};
	struct pgmap_window *window;
	int err, ret = 0;

	list_for_each_entry(window, &region->windows, entry) {
		if (once) {
			pgmap_window_sweep(window, &drain);
			ret = drain.err ?: ret;
			continue;
		}
		err = pgmap_window_drain(window, &drain);
		if (err)
			pgmap_window_complain(window, "evacuate", err);
		ret = err ?: ret;
	}
	return ret;
}

/* Poison what is left in a closed region. Return whether pages are in use still. */
static bool pgmap_region_poison(struct pgmap_region *region, struct pgmap_stats *stats)
{
	struct pgmap_window *window;
	bool busy = false;

	list_for_each_entry(window, &region->windows, entry) {
		pgmap_window_poison(window, stats);
		busy |= !pgmap_window_idle(window);
	}
	return busy;
}

static bool pgmap_region_busy(struct pgmap_region *region)
{
	struct pgmap_window *window;

	list_for_each_entry(window, &region->windows, entry)
		if (!pgmap_window_idle(window))
			return true;
	return false;
}

/* The regions that an operation takes back: one, or all of a peer. */
static struct pgmap_region *pgmap_first(struct pgmap_peer *peer,
					struct pgmap_region *only)
{
	return only ?: list_first_entry_or_null(&peer->regions,
						struct pgmap_region, entry);
}

static struct pgmap_region *pgmap_next(struct pgmap_peer *peer,
				       struct pgmap_region *only,
				       struct pgmap_region *region)
{
	return only || list_is_last(&region->entry, &peer->regions) ?
	       NULL : list_next_entry(region, entry);
}

#define pgmap_for_each_region(region, peer, only)			\
	for ((region) = pgmap_first(peer, only); (region);		\
	     (region) = pgmap_next(peer, only, region))

/* The time that a region has, of the time that is left for @nr of them. */
static unsigned long pgmap_share(unsigned long deadline, unsigned int nr)
{
	unsigned long now = jiffies;

	return !nr || !time_before(now, deadline) ? deadline :
	       now + (deadline - now) / nr;
}

/*
 * Evacuate closed regions. First each page once, before one is waited for: a page that
 * is held takes no time from others. Planned, one failure is enough. Forced, each
 * region has its share of the time.
 */
static int pgmap_evacuate(struct pgmap_peer *peer, struct pgmap_region *only,
			  unsigned int flags, unsigned long deadline,
			  struct pgmap_stats *stats)
{
	bool force = flags & PGMAP_FORCE;
	struct pgmap_region *region;
	unsigned int nr = 0;
	int err, ret = 0;

	pgmap_for_each_region(region, peer, only) {
		err = pgmap_region_evacuate(region, true, flags, deadline, stats);
		if (!force && ((err && err != -ENOMEM) || time_after(jiffies, deadline)))
			break;
	}
	pgmap_for_each_region(region, peer, only)
		nr += pgmap_region_busy(region);
	pgmap_for_each_region(region, peer, only) {
		if (!pgmap_region_busy(region))
			continue;
		err = pgmap_region_evacuate(region, false, flags,
					    force ? pgmap_share(deadline, nr) : deadline,
					    stats);
		nr -= !!nr;
		ret = err ?: ret;
		if ((err && !force) || pgmap_peer_is_lost(peer))
			break;
	}
	return ret;
}

/* Poison closed regions, until no page is in use or it is time. */
static int pgmap_poison(struct pgmap_peer *peer, struct pgmap_region *only,
			unsigned long deadline, struct pgmap_stats *stats)
{
	struct pgmap_region *region;
	struct pgmap_window *window;
	bool busy;

	for (;;) {
		busy = false;
		pgmap_for_each_region(region, peer, only)
			busy |= pgmap_region_poison(region, stats);
		if (!busy)
			return 0;
		if (!time_before(jiffies, deadline))
			break;
		schedule_timeout_uninterruptible(1);
	}
	pgmap_for_each_region(region, peer, only)
		list_for_each_entry(window, &region->windows, entry)
			if (!pgmap_window_idle(window))
				pgmap_window_complain(window, "free", -EBUSY);
	return -EBUSY;
}

/* As pgmap_peer_empty(), for the whole peer or one region of it. */
static int pgmap_empty(struct pgmap_peer *peer, struct pgmap_region *only,
		       unsigned int flags, unsigned long deadline,
		       struct pgmap_stats *stats)
{
	unsigned long evacuate = deadline;
	int err = -EIO;

	/* Leave some of the time for poisoning. */
	if (flags & PGMAP_FORCE && time_before(jiffies, deadline))
		evacuate -= min((deadline - jiffies) / 2, HZ / 10UL);
	if (!pgmap_peer_is_lost(peer))
		err = pgmap_evacuate(peer, only, flags, evacuate, stats);
	if (!err || !(flags & PGMAP_FORCE || pgmap_peer_is_lost(peer)))
		return err;
	return pgmap_poison(peer, only, deadline, stats);
}

/**
 * pgmap_peer_empty() - get all pages of a closed peer out
 * @peer: after pgmap_peer_close()
 * @flags: %PGMAP_FORCE to poison what cannot be moved in time
 * @deadline: when to give up, in jiffies
 * @stats: what was done is added here
 *
 * Pages of a lost peer are poisoned at once.
 *
 * Context: &pgmap_peer.lock is held.
 * Return: 0 if no page is in use; otherwise -EBUSY, or why a page could not be moved.
 */
int pgmap_peer_empty(struct pgmap_peer *peer, unsigned int flags,
		     unsigned long deadline, struct pgmap_stats *stats)
{
	lockdep_assert_held(&peer->lock);

	return pgmap_empty(peer, NULL, flags, deadline, stats);
}

/* --- for drivers --- */

static int pgmap_region_check(struct pgmap_peer *peer, struct pgmap_region *region,
			      unsigned long nr_slots,
			      const struct dev_pagemap_ops *pgmap_ops)
{
	if (!nr_slots || !IS_ALIGNED(nr_slots, PAGES_PER_SUBSECTION) ||
	    nr_slots > ULONG_MAX >> PAGE_SHIFT || !peer->ops->copy_to_ram ||
	    !pgmap_ops->folio_free || !pgmap_ops->migrate_to_ram ||
	    (!peer->mem && !peer->ops->rehome))
		return -EINVAL;
	if (!READ_ONCE(peer->cluster) || pgmap_peer_is_lost(peer))
		return -ENODEV;
	/* A region that has lost its memory is still on its peer's list. */
	if (region->peer && (!list_empty(&region->windows) || !list_empty(&region->entry)))
		return -EBUSY;
	return 0;
}

/* Make the first window of a region the current one. False if its owner is outdated. */
static bool pgmap_region_publish(struct pgmap_region *region, struct pgmap_window *window)
{
	struct pgmap_peer *peer = region->peer;

	guard(mutex)(&peer->fabric->lock);
	if (pgmap_window_outdated(window))
		return false;
	list_add(&window->entry, &region->windows);
	list_add_tail(&region->entry, &peer->regions);
	pgmap_region_set_window(region, window);
	return true;
}

/**
 * pgmap_region_register() - offer a run of slots as device pages
 * @peer: whose they are; a member of a fabric
 * @region: zeroed, or unregistered
 * @nr_slots: size in pages; whole 2 MiB subsections
 * @pgmap_ops: the driver's dev_pagemap callbacks: folio_free() and migrate_to_ram() at
 *	least. folio_free() is also called for pages that never held anything; their
 *	zone_device_data is NULL.
 *
 * When it returns 0, pgmap_window_get() gives pages under the peer's owner. They are
 * private, or coherent if the peer has &pgmap_peer.mem: then the driver must use them
 * singly, and folio_free() may be called in an interrupt.
 *
 * Context: May sleep. Takes &pgmap_peer.lock; for the order of locks see
 *	    mm/pgmap_internal.h. Not under mmap_lock.
 * Return: 0; -EINVAL for a bad size or if a callback is missing; -ENODEV if the peer
 *	   is not a member, or lost; -EBUSY if the region is registered; -ENOSPC if
 *	   &pgmap_peer.mem has no room; or an error of memremap_pages().
 */
int pgmap_region_register(struct pgmap_peer *peer, struct pgmap_region *region,
			  unsigned long nr_slots,
			  const struct dev_pagemap_ops *pgmap_ops)
{
	struct pgmap_window *window;
	int err;

	if (!peer->fabric)
		return -ENODEV;

	guard(mutex)(&peer->lock);
	err = pgmap_region_check(peer, region, nr_slots, pgmap_ops);
	if (err)
		return err;

	INIT_LIST_HEAD(&region->windows);
	INIT_LIST_HEAD(&region->entry);
	region->peer = peer;
	region->nr_slots = nr_slots;
	region->pgmap_ops = pgmap_ops;
	window = pgmap_window_register(region, READ_ONCE(peer->cluster));
	if (IS_ERR(window))
		return PTR_ERR(window);
	/* A change of the topology may come in between. */
	while (!pgmap_region_publish(region, window)) {
		dev_pagemap_close(&window->pagemap);
		dev_pagemap_wait_idle(&window->pagemap, MAX_SCHEDULE_TIMEOUT);
		pgmap_window_renew(window, region, READ_ONCE(peer->cluster));
	}
	return 0;
}
EXPORT_SYMBOL_GPL(pgmap_region_register);

/**
 * pgmap_region_unregister() - take a run of slots back
 * @region: the region
 * @flags: 0, or %PGMAP_FORCE if the region must not be used again in any case
 * @timeout: when to give up, in jiffies from now
 * @stats: what was done is added here; may be NULL
 *
 * Moves all pages of the region to system memory and unregisters its windows. When it
 * returns 0, nothing refers to the pages, and the region can be freed. With
 * %PGMAP_FORCE, or if the peer is lost, pages that cannot be moved in time are poisoned.
 * If an error is returned nevertheless, pages are still locked or referred to; repeat
 * the call until it returns 0 before the region is freed.
 *
 * Context: May sleep. Takes &pgmap_peer.lock.
 * Return: 0, also if the region is not registered; -EINVAL for unknown flags; -EBUSY if
 *	   pages stayed in use; -ENOMEM if there was no memory for them; or an error of
 *	   &pgmap_peer_ops.copy_to_ram. On error without force, the region works as
 *	   before.
 */
int pgmap_region_unregister(struct pgmap_region *region, unsigned int flags,
			    unsigned long timeout, struct pgmap_stats *stats)
{
	struct pgmap_peer *peer = region->peer;
	unsigned long deadline = jiffies + timeout;
	struct pgmap_stats unused = {};
	int err;

	if (flags & ~PGMAP_FORCE)
		return -EINVAL;
	if (!peer)
		return 0;

	guard(mutex)(&peer->lock);
	if (list_empty(&region->windows))
		return 0;

	pgmap_region_close_begin(region);
	synchronize_rcu();
	err = pgmap_empty(peer, region, flags, deadline, stats ?: &unused);
	if (!err) {
		pgmap_region_unregister_windows(region);
	} else if (flags & PGMAP_FORCE || pgmap_peer_is_lost(peer)) {
		mutex_lock(&peer->fabric->lock);
		region->closed = NULL;
		mutex_unlock(&peer->fabric->lock);
	} else if (region->closed) {
		dev_pagemap_reopen_begin(&region->closed->pagemap);
		synchronize_rcu();
		pgmap_region_reopen_end(region);
	}
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_region_unregister);
