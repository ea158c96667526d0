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

/*
 * Take &pgmap_peer.lock. A pass that rehomes pages ends early for any caller, and a planned
 * operation for a forced one. Return: 0, or -EINTR for a fatal signal, unless forced.
 */
int pgmap_peer_lock(struct pgmap_peer *peer, bool force)
{
	int err = 0;

	atomic_inc(&peer->waiting);
	if (force) {
		atomic_inc(&peer->forcing);
		mutex_lock(&peer->lock);
		atomic_dec(&peer->forcing);
	} else {
		err = mutex_lock_killable(&peer->lock);
	}
	atomic_dec(&peer->waiting);
	return err;
}

/**
 * pgmap_peer_exposed() - can memory of a peer be found under an owner it has lost?
 * @peer: a peer whose cluster has changed
 *
 *	pgmap_window_folio()			pgmap_region_switch(), and then this
 *	--------------------			------------------------------------
 *	count the page				close the old window
 *	smp_mb__after_atomic()			smp_mb()
 *	zone_device_folio_init():		are there pages in the old window?
 *	  is the window closed?
 *
 * Either the page is seen here, or it does not come into use.
 *
 * Context: &pgmap_fabric.lock is held.
 * Return: true if a peer that has not changed its owner may map pages of @peer, or get
 *	   them from hmm_range_fault(), now or later.
 */
bool pgmap_peer_exposed(struct pgmap_peer *peer)
{
	struct pgmap_window *window;
	struct pgmap_region *region;

	lockdep_assert_held(&peer->fabric->lock);

	smp_mb();	/* See above. */
	list_for_each_entry(region, &peer->regions, entry) {
		list_for_each_entry(window, &region->windows, entry) {
			if (!peer->mem && !pgmap_window_outdated(window))
				continue;
			if (atomic_long_read(&window->pages))
				return true;
			/* New pages may come, or it may be opened again. */
			if (!peer->mem && peer->cluster &&
			    window == (pgmap_region_window(region) ?: region->closed))
				return true;
		}
	}
	return false;
}

/* Pages in windows under an outdated owner. &pgmap_fabric.lock is held. */
unsigned long pgmap_peer_leftovers(struct pgmap_peer *peer)
{
	struct pgmap_window *window;
	struct pgmap_region *region;
	unsigned long pages = 0;

	lockdep_assert_held(&peer->fabric->lock);

	list_for_each_entry(region, &peer->regions, entry)
		list_for_each_entry(window, &region->windows, entry)
			if (pgmap_window_outdated(window))
				pages += atomic_long_read(&window->pages);
	return pages;
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
	if (!peer->fabric)
		return 0;

	guard(mutex)(&peer->fabric->lock);
	return pgmap_peer_leftovers(peer);
}
EXPORT_SYMBOL_GPL(pgmap_peer_pages_left);

/* Name a page that an operation could not get out in time. Under one of the two locks. */
void pgmap_complain(struct pgmap_peer *peer, struct pgmap_region *only,
		    const char *what, int err)
{
	struct pgmap_region *region;
	struct pgmap_window *window;

	list_for_each_entry(region, &peer->regions, entry) {
		if (only && region != only)
			continue;
		list_for_each_entry(window, &region->windows, entry) {
			if (window == pgmap_region_window(region) ||
			    dev_pagemap_wait_idle(&window->pagemap, 0))
				continue;
			pgmap_window_complain(window, what, err);
			return;
		}
	}
}

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
	bool any = false;

	list_for_each_entry(region, &peer->regions, entry) {
		if (region->closed) {
			dev_pagemap_reopen_begin(&region->closed->pagemap);
			any = true;
		}
	}
	if (!any)
		return;
	synchronize_rcu();
	list_for_each_entry(region, &peer->regions, entry)
		pgmap_region_reopen_end(region);
}

/* --- taking memory back --- */

/* The region stays closed. */
static void pgmap_region_forget(struct pgmap_region *region)
{
	guard(mutex)(&region->peer->fabric->lock);
	region->closed = NULL;
}

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

/*
 * Try each page once, so that a page that is held takes no time from others.
 *
 * Return: 0 if none is in use, otherwise -EBUSY, or why a page could not be moved.
 */
static int pgmap_empty_once(struct pgmap_peer *peer, struct pgmap_region *only,
			    struct pgmap_drain *drain)
{
	struct pgmap_region *region;
	struct pgmap_window *window;
	int err, ret = 0;

	list_for_each_entry(region, &peer->regions, entry) {
		if (only && region != only)
			continue;
		list_for_each_entry(window, &region->windows, entry) {
			/* A driver that cannot copy is asked again once, not for each page. */
			if (ret && ret != -EBUSY && ret != -ENOMEM && !drain->all)
				return ret;
			err = pgmap_window_drain(window, drain);
			ret = err ?: ret;
		}
	}
	return ret;
}

/*
 * Get all pages of closed regions out. Pages of a lost peer are poisoned at once; if forced,
 * each page has been tried before, and the others are poisoned when the time is up. A call
 * that is not forced ends early for a fatal signal, and for a forced one that waits.
 *
 * Return: 0 if no page is in use; otherwise -EBUSY, or why a page could not be moved.
 */
int pgmap_empty(struct pgmap_peer *peer, struct pgmap_region *only, unsigned int flags,
		unsigned long deadline, struct pgmap_stats *stats)
{
	bool force = flags & PGMAP_FORCE;
	struct pgmap_drain drain = {
		.deadline = deadline,
		.all = force,
		.stats = stats,
	};
	unsigned int failures = 0;
	unsigned long wait = 1;
	int err;

	lockdep_assert_held(&peer->lock);

	/* Leave some of the time for poisoning. */
	if (force && time_before(jiffies, deadline))
		drain.deadline -= min((deadline - jiffies) / 2, HZ / 10UL);
	drain.poison = pgmap_peer_is_lost(peer);
	while ((err = pgmap_empty_once(peer, only, &drain))) {
		if (!drain.poison && (pgmap_peer_is_lost(peer) ||
				      (force && !time_before(jiffies, drain.deadline)))) {
			drain.poison = true;
			continue;
		}
		if (!time_before(jiffies, deadline))
			break;
		if (!drain.poison && !force &&
		    ((err != -EBUSY && err != -ENOMEM && failures++) ||
		     fatal_signal_pending(current) || atomic_read(&peer->forcing)))
			break;
		schedule_timeout_uninterruptible(min(wait, deadline - jiffies));
		wait = min(2 * wait, PGMAP_MAX_WAIT);
		/* A round that begins too late would forget why. */
		if (!drain.poison && !force && !time_before(jiffies, deadline))
			break;
	}
	if (err)
		pgmap_complain(peer, only, drain.poison ? "free" : "evacuate", err);
	return err;
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

static int pgmap_region_add(struct pgmap_peer *peer, struct pgmap_region *region,
			    unsigned long nr_slots,
			    const struct dev_pagemap_ops *pgmap_ops)
{
	struct pgmap_window *window;

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
	int err;

	if (!peer->fabric)
		return -ENODEV;

	err = pgmap_peer_lock(peer, false);
	if (err)
		return err;
	err = pgmap_region_check(peer, region, nr_slots, pgmap_ops) ?:
	      pgmap_region_add(peer, region, nr_slots, pgmap_ops);
	mutex_unlock(&peer->lock);
	return err;
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

	err = pgmap_peer_lock(peer, flags & PGMAP_FORCE || pgmap_peer_is_lost(peer));
	if (err)
		return err;
	if (!list_empty(&region->windows)) {
		pgmap_region_close_begin(region);
		synchronize_rcu();
		err = pgmap_empty(peer, region, flags, deadline, stats ?: &unused);
		if (!err)
			pgmap_region_unregister_windows(region);
		else if (flags & PGMAP_FORCE || pgmap_peer_is_lost(peer))
			pgmap_region_forget(region);
		else
			pgmap_peer_reopen(peer);
	}
	mutex_unlock(&peer->lock);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_region_unregister);
