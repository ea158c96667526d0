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

#include <linux/pgmap_owner.h>

/* As many pages as the largest folio that can be migrated has. */
#define PGMAP_BATCH	(1UL << (PMD_SHIFT - PAGE_SHIFT))

/*
 * How long to wait for the reference of a closed window without pages: until an RCU
 * callback has run, unless pgmap_window_get() holds one.
 */
#define PGMAP_IDLE_TIMEOUT	(HZ / 10UL + 1)

/* The longest time between two attempts to move a page that an operation waits for. */
#define PGMAP_MAX_WAIT		(HZ / 10UL + 1)

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

/* --- pgmap_drain.c --- */

/**
 * struct pgmap_drain - how to get pages out of windows
 * @to: window to rehome them to, or NULL to evacuate them
 * @deadline: when to stop, in jiffies
 * @all: try each page, however late it is
 * @poison: do not move pages: replace their page table entries
 * @stats: what was done is added here
 * @err: why pages were not moved, if not for being in use
 */
struct pgmap_drain {
	struct pgmap_window *to;
	unsigned long deadline;
	bool all;
	bool poison;
	struct pgmap_stats *stats;
	int err;
};

int pgmap_window_drain(struct pgmap_window *window, struct pgmap_drain *drain);
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
int pgmap_empty(struct pgmap_peer *peer, struct pgmap_region *only, unsigned int flags,
		unsigned long deadline, struct pgmap_stats *stats);
void pgmap_peer_unregister_regions(struct pgmap_peer *peer);
void pgmap_complain(struct pgmap_peer *peer, struct pgmap_region *only,
		    const char *what, int err);
unsigned long pgmap_peer_leftovers(struct pgmap_peer *peer);
bool pgmap_peer_exposed(struct pgmap_peer *peer);
int pgmap_peer_lock(struct pgmap_peer *peer, bool force);

/* --- pgmap_rehome.c --- */

/* The time until the work item of a peer first runs. */
#define PGMAP_DELAY	(HZ / 10)

void pgmap_peer_work(struct work_struct *work);
bool pgmap_peer_rehome(struct pgmap_peer *peer, unsigned long deadline,
		       struct pgmap_stats *stats);

/* --- pgmap_change.c --- */

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

void pgmap_change_init(struct pgmap_change *change, struct pgmap_fabric *fabric,
		       struct pgmap_stats *stats);
void pgmap_peer_publish(struct pgmap_peer *peer, bool loses);
void pgmap_change_grow(struct pgmap_change *change, struct pgmap_peer *peer);
void pgmap_change_end(struct pgmap_change *change, bool rehome);
void pgmap_peer_remove(struct pgmap_peer *peer, struct pgmap_stats *stats);

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

/* The peers of a cluster form a ring: the one after @mate, or NULL if that is @first. */
static inline struct pgmap_peer *pgmap_next_mate(struct pgmap_peer *mate,
						 struct pgmap_peer *first)
{
	mate = list_next_entry(mate, mates);
	return mate != first ? mate : NULL;
}

#endif /* _MM_PGMAP_INTERNAL_H */
