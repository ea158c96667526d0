/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of the core share: mm/hmm_owner.c has the overview.
 *
 * Locking order: &pgmap_peer.lock, &pgmap_fabric.lock, mmap_lock, reclaim, mmu
 * notifiers, the drivers' page table locks. Folio locks come after
 * &pgmap_peer.lock and are never held together with &pgmap_fabric.lock. The
 * locks of two peers, or of two fabrics, are never held together.
 */
#ifndef _MM_PGMAP_INTERNAL_H
#define _MM_PGMAP_INTERNAL_H

#include <linux/fault-inject.h>
#include <linux/pgmap_owner.h>

/* As many pages as the largest folio that can be migrated has. */
#define PGMAP_BATCH	(1UL << (PMD_SHIFT - PAGE_SHIFT))

/*
 * How long to wait for the reference of a closed window without pages: until an RCU
 * callback has run, unless pgmap_window_get() holds one.
 */
#define PGMAP_IDLE_TIMEOUT	(HZ / 10UL + 1)

/* Migrate pfns of the batch at hand. Protected by &pgmap_peer.lock. */
struct pgmap_scratch {
	unsigned long src[PGMAP_BATCH];
	unsigned long dst[PGMAP_BATCH];
};

/* --- hmm_owner.c --- */

struct pgmap_owner *pgmap_owner_new(void);

/* --- pgmap_window.c --- */

struct pgmap_window *pgmap_window_register(struct pgmap_region *region,
					   struct pgmap_owner *owner);
void pgmap_window_unregister(struct pgmap_window *window);
void pgmap_window_renew(struct pgmap_window *window, struct pgmap_region *region,
			struct pgmap_owner *owner);

static inline struct pgmap_owner *pgmap_window_owner(const struct pgmap_window *window)
{
	return window->pagemap.owner;
}

static inline bool pgmap_window_idle(struct pgmap_window *window)
{
	return dev_pagemap_wait_idle(&window->pagemap, 0);
}

/* --- pgmap_drain.c --- */

/**
 * struct pgmap_drain - how to get pages out of windows
 * @to: window to rehome them to, or NULL to evacuate them
 * @deadline: when to give up, in jiffies
 * @force: pages that stay are lost: try each once, however late it is, and again
 *	after the driver failed to copy
 * @stats: what was done is added here
 * @moved: number of pages that were moved
 * @err: why pages were not moved, if not for being in use
 */
struct pgmap_drain {
	struct pgmap_window *to;
	unsigned long deadline;
	bool force;
	struct pgmap_stats *stats;
	unsigned long moved;
	int err;
};

void pgmap_window_sweep(struct pgmap_window *window, struct pgmap_drain *drain);
int pgmap_window_drain(struct pgmap_window *window, struct pgmap_drain *drain);
void pgmap_window_poison(struct pgmap_window *window, struct pgmap_stats *stats);
void pgmap_window_complain(struct pgmap_window *window, const char *what, int err);
struct folio *pgmap_folio_alloc(unsigned int order);

/* --- pgmap_region.c --- */

/* Under one of the two locks that protect it. */
static inline struct pgmap_window *pgmap_region_window(struct pgmap_region *region)
{
	struct pgmap_peer *peer = region->peer;

	return rcu_dereference_protected(region->window,
					 lockdep_is_held(&peer->lock) ||
					 lockdep_is_held(&peer->fabric->lock));
}

/* Coherent memory has no use for the owner of its windows. */
static inline bool pgmap_window_outdated(const struct pgmap_window *window)
{
	const struct pgmap_peer *peer = window->region->peer;

	return !peer->mem && pgmap_window_owner(window) != READ_ONCE(peer->cluster);
}

/* Has the region closed windows with pages that belong into the current one? */
static inline bool pgmap_region_has_leftovers(const struct pgmap_region *region)
{
	return !list_is_singular(&region->windows);
}

void pgmap_region_set_window(struct pgmap_region *region, struct pgmap_window *window);
void pgmap_region_close_begin(struct pgmap_region *region);
void pgmap_region_reopen_end(struct pgmap_region *region);
void pgmap_peer_close(struct pgmap_peer *peer);
void pgmap_peer_reopen(struct pgmap_peer *peer);
int pgmap_peer_empty(struct pgmap_peer *peer, unsigned int flags,
		     unsigned long deadline, struct pgmap_stats *stats);
void pgmap_peer_unregister_regions(struct pgmap_peer *peer);
bool pgmap_peer_exposed(struct pgmap_peer *peer);

/* --- pgmap_rehome.c --- */

bool pgmap_peer_rehome(struct pgmap_peer *peer, bool once, unsigned long deadline,
		       struct pgmap_stats *stats);

/* --- pgmap_coherent.c --- */

struct resource *pgmap_coherent_request(struct pgmap_region *region);
void pgmap_coherent_release(struct resource *res);
int pgmap_coherent_fault(const struct pgmap_walk *walk, struct hmm_range *range,
			 unsigned long timeout);

/* --- pgmap_partition.c --- */

/* Pages of a peer's memory that are in use. &pgmap_fabric.lock is held. */
static inline unsigned long pgmap_peer_pages(struct pgmap_peer *peer)
{
	struct pgmap_window *window;
	struct pgmap_region *region;
	unsigned long pages = 0;

	list_for_each_entry(region, &peer->regions, entry)
		list_for_each_entry(window, &region->windows, entry)
			pages += atomic_long_read(&window->pages);
	return pages;
}

struct pgmap_peer *pgmap_cluster_split(struct pgmap_peer *peer,
				       struct list_head *movers);
struct pgmap_peer *pgmap_cluster_candidate(struct pgmap_peer *peer);
void pgmap_cluster_merge(struct pgmap_peer *peer, struct pgmap_peer *other,
			 struct list_head *movers);

/* All peers of the cluster of @peer, itself included. */
#define pgmap_for_each_mate(mate, peer)					\
	for (bool __first = ((mate) = (peer), true);			\
	     __first || (mate) != (peer);				\
	     __first = false, (mate) = list_next_entry(mate, mates))

#endif /* _MM_PGMAP_INTERNAL_H */
