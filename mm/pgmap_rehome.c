// SPDX-License-Identifier: GPL-2.0
/*
 * Rehoming: moving a peer's memory to windows under its owner.
 *
 * Nothing waits for this but the caller. Until it is done, walks meet pages under an
 * outdated owner, and find out by pgmap_walk_reaches() whether they can use them.
 */
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/range.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>

#include "pgmap_internal.h"

/* How many regions with pages change their owner behind one grace period. */
#define PGMAP_SPARES	3

/* The longest time between two attempts of the work item. */
#define PGMAP_MAX_DELAY	(30 * HZ)

/* A pass over the regions of a peer. */
struct pgmap_pass {
	struct pgmap_peer *peer;
	/* Closed windows without a page, for the regions that come next. */
	struct list_head spares;
	unsigned long deadline;
	struct pgmap_stats *stats;
};

/* Move leftovers to the current window. Closed windows without a page become spares. */
static void pgmap_region_drain_leftovers(struct pgmap_region *region,
					 struct pgmap_pass *pass)
{
	struct pgmap_drain drain = {
		.to = pgmap_region_window(region),
		.deadline = pass->deadline,
		.stats = pass->stats,
	};
	struct pgmap_window *window, *next;

	list_for_each_entry_safe(window, next, &region->windows, entry) {
		if (window == drain.to || pgmap_window_drain(window, &drain))
			continue;
		mutex_lock(&region->peer->fabric->lock);
		list_move(&window->entry, &pass->spares);
		mutex_unlock(&region->peer->fabric->lock);
	}
}

/* Has the region to change its owner, and is there no leftover in the way? */
static bool pgmap_region_must_switch(struct pgmap_region *region)
{
	struct pgmap_window *window = pgmap_region_window(region) ?: region->closed;

	return window && pgmap_window_outdated(window) &&
	       !pgmap_region_has_leftovers(region);
}

/*
 * Change the owner of regions without pages in place. The memmap stays, and all of them
 * together take two grace periods. A region that gets a page meanwhile stays closed, for
 * pgmap_pass_switch().
 */
static void pgmap_pass_renew(struct pgmap_pass *pass)
{
	struct pgmap_peer *peer = pass->peer;
	struct pgmap_region *region;
	bool any = false;

	list_for_each_entry(region, &peer->regions, entry) {
		struct pgmap_window *window = pgmap_region_window(region);

		if (!window || !pgmap_region_must_switch(region) ||
		    atomic_long_read(&window->pages))
			continue;
		WRITE_ONCE(region->renewing, true);
		pgmap_region_close_begin(region);
		any = true;
	}
	if (!any)
		return;

	/* Then no page can appear, and no walker remembers one that was freed. */
	synchronize_rcu();
	synchronize_rcu();
	list_for_each_entry(region, &peer->regions, entry) {
		struct pgmap_window *window = region->closed;

		/* The reference goes some time after the grace period. */
		if (!window || !dev_pagemap_wait_idle(&window->pagemap, PGMAP_IDLE_TIMEOUT))
			continue;
		mutex_lock(&peer->fabric->lock);
		pgmap_window_renew(window, region, peer->cluster);
		pgmap_region_set_window(region, window);
		mutex_unlock(&peer->fabric->lock);
	}
}

/* Take a closed window that a region can be moved to, or register one. */
static struct pgmap_window *pgmap_pass_spare(struct pgmap_pass *pass,
					     struct pgmap_region *region)
{
	struct pgmap_window *window;

	list_for_each_entry(window, &pass->spares, entry) {
		if (range_len(&window->pagemap.range) >> PAGE_SHIFT == region->nr_slots) {
			list_del_init(&window->entry);
			return window;
		}
	}
	window = pgmap_window_register(region, pgmap_owner_new());
	if (!IS_ERR(window))
		dev_pagemap_close_begin(&window->pagemap);
	return window;
}

/* Make a closed, idle window the current one of a region. */
static void pgmap_region_switch(struct pgmap_region *region, struct pgmap_window *new)
{
	struct pgmap_window *old = pgmap_region_window(region);
	struct pgmap_peer *peer = region->peer;

	guard(mutex)(&peer->fabric->lock);
	pgmap_window_renew(new, region, peer->cluster);
	list_add(&new->entry, &region->windows);
	pgmap_region_set_window(region, new);
	if (old)
		dev_pagemap_close_begin(&old->pagemap);
}

/*
 * Rehome some regions to spare windows; their old windows become spares. Pages that cannot
 * be moved stay in the old window, closed.
 *
 * Return: whether there was one to do.
 */
static bool pgmap_pass_switch(struct pgmap_pass *pass)
{
	struct pgmap_region *region, *some[PGMAP_SPARES];
	struct pgmap_window *spare[PGMAP_SPARES];
	unsigned int i, nr = 0;

	list_for_each_entry(region, &pass->peer->regions, entry) {
		if (!pgmap_region_must_switch(region))
			continue;
		spare[nr] = pgmap_pass_spare(pass, region);
		if (IS_ERR(spare[nr]))
			break;
		some[nr] = region;
		if (++nr == PGMAP_SPARES)
			break;
	}
	if (!nr)
		return false;

	/* For walkers that remember pages of the spares. */
	synchronize_rcu();
	for (i = 0; i < nr; i++) {
		/* A matter of RCU until the reference is gone. */
		dev_pagemap_wait_idle(&spare[i]->pagemap, MAX_SCHEDULE_TIMEOUT);
		pgmap_region_switch(some[i], spare[i]);
	}
	/* The old windows are closed after this. */
	synchronize_rcu();
	for (i = 0; i < nr; i++)
		pgmap_region_drain_leftovers(some[i], pass);
	return true;
}

/* Is it time to end the pass? */
static bool pgmap_pass_over(struct pgmap_pass *pass)
{
	return time_after(jiffies, pass->deadline) || fatal_signal_pending(current) ||
	       atomic_read(&pass->peer->waiting);
}

/* The pass is over. Regions that lacked a spare window are opened again as they were. */
static bool pgmap_pass_end(struct pgmap_pass *pass)
{
	struct pgmap_window *window, *next;
	struct pgmap_region *region;
	bool done = true;

	list_for_each_entry_safe(window, next, &pass->spares, entry) {
		list_del(&window->entry);
		pgmap_window_unregister(window);
	}
	pgmap_peer_reopen(pass->peer);
	list_for_each_entry(region, &pass->peer->regions, entry) {
		window = pgmap_region_window(region);
		if (window && (pgmap_window_outdated(window) ||
			       pgmap_region_has_leftovers(region)))
			done = false;
	}
	return done;
}

/*
 * Move a peer's memory to windows under its owner: try each page once. Those that are left
 * stay in closed windows under an outdated owner. Return: whether nothing is left to do.
 */
bool pgmap_peer_rehome(struct pgmap_peer *peer, unsigned long deadline,
		       struct pgmap_stats *stats)
{
	struct pgmap_pass pass = {
		.peer = peer,
		.spares = LIST_HEAD_INIT(pass.spares),
		.deadline = deadline,
		.stats = stats,
	};
	struct pgmap_region *region;

	lockdep_assert_held(&peer->lock);

	/* It can only leave with the lock held that we have. */
	if (peer->mem || !READ_ONCE(peer->cluster) || pgmap_peer_is_lost(peer))
		return true;

	list_for_each_entry(region, &peer->regions, entry) {
		if (!pgmap_pass_over(&pass) && pgmap_region_window(region) &&
		    pgmap_region_has_leftovers(region))
			pgmap_region_drain_leftovers(region, &pass);
	}
	if (!pgmap_pass_over(&pass))
		pgmap_pass_renew(&pass);
	while (!pgmap_pass_over(&pass) && pgmap_pass_switch(&pass))
		;
	return pgmap_pass_end(&pass);
}

/* Moves what operations leave behind. */
void pgmap_peer_work(struct work_struct *work)
{
	struct pgmap_peer *peer = container_of(to_delayed_work(work),
					       struct pgmap_peer, work);
	unsigned long delay = READ_ONCE(peer->delay);
	struct pgmap_stats unused = {};
	bool done = false;

	/* Not to be waited for: pgmap_peer_finish() waits for this with the lock held. */
	if (mutex_trylock(&peer->lock)) {
		done = pgmap_peer_rehome(peer, jiffies + MAX_JIFFY_OFFSET, &unused);
		mutex_unlock(&peer->lock);
	}
	if (done)
		return;
	WRITE_ONCE(peer->delay, min(2 * delay, PGMAP_MAX_DELAY));
	queue_delayed_work(system_unbound_wq, &peer->work, delay);
}
