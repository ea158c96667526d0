/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared owners for device memory: clusters of devices that use each other's
 * ZONE_DEVICE pages in place.
 *
 * The DOC sections in mm/hmm_owner.c explain how the parts work together.
 */
#ifndef _LINUX_PGMAP_OWNER_H
#define _LINUX_PGMAP_OWNER_H

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/hmm.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

struct device;
struct pgmap_peer;
struct pgmap_region;
struct resource;

/*
 * An owner is a number in the form of a pointer. It is compared, never
 * dereferenced, and no two owners since boot are equal.
 */
struct pgmap_owner;

/* The most peers of one fabric. */
#define PGMAP_MAX_PEERS	4096

/**
 * struct pgmap_stats - what one operation on a fabric did
 * @pages_rehomed: pages that moved to another window, without a copy
 * @pages_evacuated: pages that were copied to system memory
 * @pages_poisoned: pages that were lost and whose page table entries were
 *	replaced by poison markers
 * @pages_left: pages of peers that left a cluster and that could not be moved in
 *	time; a work item moves them later
 * @bytes_copied: bytes that the drivers were asked to copy
 * @peers_moved: peers whose owner changed
 *
 * Pages are of PAGE_SIZE. Each operation adds to what the structure holds.
 */
struct pgmap_stats {
	u64 pages_rehomed;
	u64 pages_evacuated;
	u64 pages_poisoned;
	u64 pages_left;
	u64 bytes_copied;
	unsigned int peers_moved;
};

/**
 * struct pgmap_fabric_ops - what a driver family tells about its interconnect
 */
struct pgmap_fabric_ops {
	/**
	 * @linked: Optional. Can @from use the memory of @to in place?
	 *
	 * When a peer joins, the core asks for each pair, in both directions.
	 * Two peers are linked if both answers are yes. For PCI devices,
	 * pgmap_peer_reaches_pci() answers. Without this callback, a peer joins
	 * without links, and pgmap_fabric_set_links() sets them.
	 *
	 * Context: May sleep. &pgmap_fabric.lock is held.
	 */
	bool (*linked)(struct pgmap_peer *from, struct pgmap_peer *to);
};

/**
 * struct pgmap_fabric - the peers and links of one driver family
 *
 * A cluster is part of one fabric, so a driver may use the type of its own
 * structures for pages that it finds under the owner of its peer.
 */
struct pgmap_fabric {
	/** @name: For messages and resource names. Immutable. */
	const char *name;
	/** @ops: Immutable. */
	const struct pgmap_fabric_ops *ops;
	/**
	 * @lock: Protects links, clusters and owners, and the choice of current
	 * windows. No page, RCU grace period or memory hotplug is waited for
	 * with this lock held.
	 */
	struct mutex lock;
	/** @peers: By &pgmap_peer.index. Protected by @lock. */
	struct xarray peers;
	/** @changes: Planned changes under way. Protected by @lock. */
	struct list_head changes;
	/**
	 * @wait: Woken when a change no longer uses a peer, and when the owner
	 * of regions has been changed.
	 */
	wait_queue_head_t wait;
};

void pgmap_fabric_init(struct pgmap_fabric *fabric, const char *name,
		       const struct pgmap_fabric_ops *ops);

/**
 * struct pgmap_peer_ops - what the core needs from the driver of a device
 *
 * A callback must not fault on memory of the fabric, start a migration into it,
 * or call a function of the fabric.
 */
struct pgmap_peer_ops {
	/**
	 * @unmap_foreign: Drop every device mapping of other peers' pages.
	 *
	 * Required for a peer that maps pages that hmm_range_fault() found. The
	 * driver takes the lock under which it calls pgmap_walk_retry() and
	 * unmaps. It may drop more than the foreign mappings. When the callback
	 * returns, the device no longer uses any foreign mapping that was made
	 * before the call. It cannot fail. For a lost device, which uses
	 * nothing, the driver only updates its own state.
	 *
	 * Context: May sleep. &pgmap_fabric.lock is held; mmap_lock, folio
	 * locks and notifiers are not. Must not wait for a device fault.
	 */
	void (*unmap_foreign)(struct pgmap_peer *peer);

	/**
	 * @copy_to_ram: Copy device pages to system memory.
	 *
	 * @src holds migrate pfns of locked pages of @region, @dst of locked
	 * system pages, both @npages long, at most 512. Copy to every page in
	 * @dst: each has the order of its folio, HPAGE_PMD_ORDER or 0. The source
	 * of entry i is in @src[i], except that a large source has an entry at
	 * its first page only, even if its destinations are small: then the
	 * source of entry i is a later page of the preceding folio. When the
	 * callback returns 0, the data is visible to the CPU, and the device was
	 * present until the last byte was read. Only the driver can tell data
	 * from what a device returns after it has disappeared, so it must check
	 * after the copy. Required for a peer that registers memory. Not called
	 * for a peer that is known to be lost.
	 *
	 * Context: May sleep. &pgmap_peer.lock and the folio locks are held.
	 *
	 * Return: 0, or a negative errno if any page was not copied; then all of
	 * them stay where they are.
	 */
	int (*copy_to_ram)(struct pgmap_region *region, const unsigned long *src,
			   const unsigned long *dst, unsigned long npages);

	/**
	 * @rehome: The slot behind @old is now behind @new.
	 *
	 * Move what the driver keeps in zone_device_data. The slot is in use, and
	 * stays in use when folio_free() is called for @old. Called once for each
	 * folio, after the folio can no longer fail to move and before any page
	 * table refers to @new. Required for a peer that registers private
	 * memory. It cannot fail.
	 *
	 * Context: Both folios are locked. &pgmap_peer.lock is held.
	 */
	void (*rehome)(struct pgmap_region *region, struct folio *old,
		       struct folio *new);
};

/**
 * struct pgmap_peer - a device that takes part in a fabric
 *
 * Embedded in the driver's structure of the device. The driver zeroes it before
 * the first pgmap_peer_join(). A device is one peer, however many address spaces
 * and regions it has. A peer outlives its regions and its walks.
 */
struct pgmap_peer {
	/** @name: For messages. Set by the driver, immutable while joined. */
	const char *name;
	/** @ops: Set by the driver, immutable while joined. */
	const struct pgmap_peer_ops *ops;
	/** @nid: NUMA node for the memmap of windows, or NUMA_NO_NODE. */
	int nid;
	/** @dev: The device, for pgmap_peer_reaches_pci(). May be NULL. Immutable. */
	struct device *dev;
	/**
	 * @mem: The peer's memory in the CPU's address space if the memory is
	 * coherent, else NULL. Cacheable; the core places regions in it. Set by
	 * the driver, immutable while the peer has regions.
	 */
	struct resource *mem;

	/* private: */
	struct pgmap_fabric *fabric;
	unsigned int index;
	/*
	 * The cluster that the peer belongs to, and the owner under which it
	 * looks up pages. They differ while a planned change moves pages of the
	 * peer. NULL if not joined. Written under &pgmap_fabric.lock, read
	 * without a lock by walks.
	 */
	struct pgmap_owner *cluster, *owner;
	/* Changes whenever the peer loses access to another one. Same rules. */
	unsigned long seq;
	/* Set by pgmap_peer_set_lost(), cleared when the peer has left. */
	bool lost;
	/* All below, up to @lock: protected by &pgmap_fabric.lock. */
	bool joined;
	/* The ring of all peers of the cluster. */
	struct list_head mates;
	/* By &pgmap_peer.index; symmetric. */
	DECLARE_BITMAP(links, PGMAP_MAX_PEERS);
	/* Pages in use, for the change under way. */
	unsigned long weight;
	/* A list of struct pgmap_change, and a peer of the cluster that is left. */
	struct list_head moving;
	struct pgmap_peer *keeper;
	/* Operations that use the peer without a lock: it must stay. */
	unsigned int users;

	/* Serialises what registers windows of the peer, and what moves pages. */
	struct mutex lock;
	/* Operations that wait for @lock, and those of them that are forced. */
	atomic_t waiting, forcing;
	/* &pgmap_region.entry. Protected by both locks. */
	struct list_head regions;
	/* Set up by join, so that no later operation allocates it. @lock. */
	struct pgmap_scratch *scratch;
	/* Moves pages that an operation has left in closed windows. */
	struct delayed_work work;
	unsigned long delay;
};

/* Do not wait for pages that cannot be moved now; poison those of a leaving peer. */
#define PGMAP_FORCE	BIT(0)

int pgmap_peer_join(struct pgmap_fabric *fabric, struct pgmap_peer *peer,
		    struct pgmap_stats *stats);
int pgmap_peer_leave(struct pgmap_peer *peer, unsigned int flags,
		     unsigned long timeout, struct pgmap_stats *stats);
void pgmap_peer_set_lost(struct pgmap_peer *peer);

/**
 * pgmap_peer_is_lost() - is the device lost?
 * @peer: a peer
 *
 * Context: Any.
 * Return: true after pgmap_peer_set_lost(), until pgmap_peer_leave() returns 0.
 */
static inline bool pgmap_peer_is_lost(const struct pgmap_peer *peer)
{
	return READ_ONCE(peer->lost);
}

/**
 * pgmap_peer_was_lost() - was the device lost before a copy ended?
 * @peer: a peer whose memory the caller has copied from or to
 *
 * Context: Any.
 * Return: false if the copy is valid.
 */
static inline bool pgmap_peer_was_lost(const struct pgmap_peer *peer)
{
	/* Pairs with the wmb() in pgmap_peer_set_lost(), see there. */
	rmb();
	return pgmap_peer_is_lost(peer);
}

/**
 * struct pgmap_link - one change of a fabric's links
 * @a: one end
 * @b: the other end
 * @up: whether the two peers can use each other's memory from now on
 */
struct pgmap_link {
	struct pgmap_peer *a, *b;
	bool up;
};

int pgmap_fabric_set_links(struct pgmap_fabric *fabric,
			   const struct pgmap_link *links, unsigned int nr,
			   unsigned int flags, unsigned long timeout,
			   struct pgmap_stats *stats);
bool pgmap_peer_reaches_pci(struct pgmap_peer *from, struct pgmap_peer *to);
bool pgmap_peers_share(struct pgmap_peer *a, struct pgmap_peer *b);
u64 pgmap_peer_owner_id(struct pgmap_peer *peer);
unsigned long pgmap_peer_pages_left(struct pgmap_peer *peer);

/**
 * struct pgmap_window - one registration of a region's slots
 *
 * From registration to unregistration: one dev_pagemap, one owner. Made by the
 * core.
 */
struct pgmap_window {
	/** @pagemap: &page_pgmap() of the window's pages. */
	struct dev_pagemap pagemap;
	/** @region: The region whose slots these are. Immutable while in use. */
	struct pgmap_region *region;

	/* private: */
	/* The driver's, with folio_free() replaced by ours. */
	struct dev_pagemap_ops ops;
	/* Pages in use. */
	atomic_long_t pages;
	struct resource *res;
	/* &pgmap_region.windows, or the list of an operation. */
	struct list_head entry;
};

/**
 * struct pgmap_region - a run of a peer's slots that moves as one
 *
 * A slot is the driver's unit of device memory behind one page. It survives a
 * change of window: the page behind it changes, the slot does not. Embedded in
 * the driver's structure, zeroed. To change the owner of a region takes the
 * memmap of one more region, so a peer with much memory has many regions.
 */
struct pgmap_region {
	/** @peer: Whose memory this is. Immutable while registered. */
	struct pgmap_peer *peer;
	/** @nr_slots: Size in pages. Immutable while registered. */
	unsigned long nr_slots;

	/* private: */
	const struct dev_pagemap_ops *pgmap_ops;
	/*
	 * Where new pages come from, or NULL. Written under
	 * &pgmap_fabric.lock, read under RCU.
	 */
	struct pgmap_window __rcu *window;
	/*
	 * The window that was current and becomes so again if the operation
	 * under way fails. Protected by &pgmap_peer.lock and &pgmap_fabric.lock.
	 */
	struct pgmap_window *closed;
	/* Its owner is being changed. Written under &pgmap_fabric.lock. */
	bool renewing;
	/* All registered windows of the region. Protected by both locks. */
	struct list_head windows;
	struct list_head entry;
};

int pgmap_region_register(struct pgmap_peer *peer, struct pgmap_region *region,
			  unsigned long nr_slots,
			  const struct dev_pagemap_ops *pgmap_ops);
int pgmap_region_unregister(struct pgmap_region *region, unsigned int flags,
			    unsigned long timeout, struct pgmap_stats *stats);

struct pgmap_window *pgmap_window_get(struct pgmap_region *region);
void pgmap_window_put(struct pgmap_window *window);
struct folio *pgmap_window_folio(struct pgmap_window *window, unsigned long slot,
				 unsigned int order);

/**
 * pgmap_window_pfn() - the pfn of a slot in a window
 * @window: the window
 * @slot: slot number within the region
 *
 * Context: Any.
 * Return: The page frame number.
 */
static inline unsigned long pgmap_window_pfn(const struct pgmap_window *window,
					     unsigned long slot)
{
	return PHYS_PFN(window->pagemap.range.start) + slot;
}

/**
 * pgmap_page_window() - the window that a page belongs to
 * @page: a page of a region: in use, or free and accessed by its driver only
 *
 * Context: The caller holds the page, or otherwise keeps the window registered.
 * Return: The window.
 */
static inline struct pgmap_window *pgmap_page_window(const struct page *page)
{
	return container_of(page_pgmap(page), struct pgmap_window, pagemap);
}

/**
 * pgmap_page_ops() - the driver's callbacks for a page
 * @page: any page that the caller holds
 *
 * Context: Any.
 * Return: What its region was registered with; NULL if it is not a page of a region.
 */
static inline const struct dev_pagemap_ops *pgmap_page_ops(const struct page *page)
{
	return is_zone_device_page(page) && page_pgmap(page)->flags & PGMAP_WINDOW ?
	       pgmap_page_window(page)->region->pgmap_ops : NULL;
}

/**
 * pgmap_page_slot() - the slot behind a page
 * @page: as in pgmap_page_window()
 *
 * Context: As in pgmap_page_window().
 * Return: The slot's number within &pgmap_window.region.
 */
static inline unsigned long pgmap_page_slot(const struct page *page)
{
	return page_to_pfn(page) -
	       PHYS_PFN(page_pgmap(page)->range.start);
}

/**
 * struct pgmap_walk - one lookup of pages on behalf of a peer
 *
 * On the stack of the driver's fault handler. Nothing has to be released.
 */
struct pgmap_walk {
	/** @peer: The peer, or NULL if device pages are to be brought home. */
	struct pgmap_peer *peer;
	/** @owner: For &hmm_range.dev_private_owner. */
	struct pgmap_owner *owner;
	/* private: */
	struct pgmap_owner *cluster;
	unsigned long seq;
};

#if IS_ENABLED(CONFIG_PGMAP_OWNER)
int pgmap_walk_begin(struct pgmap_peer *peer, struct pgmap_walk *walk);
int pgmap_walk_fault(const struct pgmap_walk *walk, struct hmm_range *range,
		     unsigned long timeout);
void pgmap_walk_hide(const struct pgmap_walk *walk, struct hmm_range *range);
bool pgmap_walk_retry(const struct pgmap_walk *walk);
int pgmap_range_fault(struct pgmap_peer *peer, struct pgmap_walk *walk,
		      struct hmm_range *range, unsigned long timeout);
bool pgmap_walk_reaches(const struct pgmap_walk *walk,
			const struct dev_pagemap *pagemap);
#else
static inline int pgmap_walk_begin(struct pgmap_peer *peer,
				   struct pgmap_walk *walk)
{
	walk->peer = NULL;
	walk->owner = NULL;
	return 0;
}

static inline int pgmap_walk_fault(const struct pgmap_walk *walk,
				   struct hmm_range *range,
				   unsigned long timeout)
{
	range->dev_private_owner = NULL;
	return hmm_range_fault_unlocked_timeout(range, timeout);
}

static inline void pgmap_walk_hide(const struct pgmap_walk *walk,
				   struct hmm_range *range)
{
}

static inline bool pgmap_walk_retry(const struct pgmap_walk *walk)
{
	return false;
}

static inline int pgmap_range_fault(struct pgmap_peer *peer,
				    struct pgmap_walk *walk,
				    struct hmm_range *range,
				    unsigned long timeout)
{
	pgmap_walk_begin(NULL, walk);
	return pgmap_walk_fault(walk, range, timeout);
}

static inline bool pgmap_walk_reaches(const struct pgmap_walk *walk,
				      const struct dev_pagemap *pagemap)
{
	return false;
}
#endif

/**
 * pgmap_range_retry() - must the result of pgmap_range_fault() be thrown away?
 * @walk: as given to pgmap_range_fault()
 * @range: as given to pgmap_range_fault()
 *
 * The two checks of a fault handler: mmu_interval_read_retry() for pages that
 * moved, pgmap_walk_retry() for a peer that lost access to another one.
 *
 * Context: The driver's page table lock is held: the lock that its notifier and
 *	    &pgmap_peer_ops.unmap_foreign take.
 * Return: true if the caller must start again. If false, the caller can map the
 *	   pages before it drops the lock.
 */
static inline bool pgmap_range_retry(const struct pgmap_walk *walk,
				     const struct hmm_range *range)
{
	return mmu_interval_read_retry(range->notifier, range->notifier_seq) ||
	       pgmap_walk_retry(walk);
}

#endif /* _LINUX_PGMAP_OWNER_H */
