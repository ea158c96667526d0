/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared owners for device memory: clusters of devices that use each other's
 * ZONE_DEVICE pages in place.
 *
 * See the DOC sections in mm/hmm_owner.c for how the pieces fit together.
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

struct device;
struct pgmap_owner;
struct pgmap_peer;
struct pgmap_region;
struct resource;

/* Most peers that one fabric can hold; a partition is computed on bit masks. */
#define PGMAP_FABRIC_MAX_PEERS	64

/**
 * struct pgmap_stats - what one operation on a fabric did
 * @pages_rehomed: pages that moved to another window: no byte was copied, save
 *	for coherent memory
 * @pages_evacuated: pages that were copied to system memory
 * @pages_poisoned: pages that were lost: whoever mapped them faults there
 * @bytes_copied: bytes that the drivers were asked to copy
 * @peers_moved: peers whose owner changed
 * @stall_ns: longest time, in nanoseconds, that a peer's faults were held up
 *
 * All counts are in units of PAGE_SIZE pages unless the name says otherwise.
 * The numbers are added to what the structure already holds, except for
 * @stall_ns, which is a maximum.
 */
struct pgmap_stats {
	u64 pages_rehomed;
	u64 pages_evacuated;
	u64 pages_poisoned;
	u64 bytes_copied;
	u64 stall_ns;
	unsigned int peers_moved;
};

/**
 * struct pgmap_fabric_ops - what a driver family tells about its interconnect
 */
struct pgmap_fabric_ops {
	/**
	 * @linked: Optional. Can @from use the memory of @to in place?
	 *
	 * Asked in both directions for every pair when a peer joins; two peers
	 * are linked if both answers are yes. pgmap_peer_reaches_pci() is one for
	 * PCI devices. Without this callback peers join without any link, and
	 * links come from pgmap_fabric_set_links().
	 *
	 * Context: May sleep. &pgmap_fabric.lock is held.
	 */
	bool (*linked)(struct pgmap_peer *from, struct pgmap_peer *to);
};

/**
 * struct pgmap_fabric - the peers and links of one driver family
 *
 * Clusters do not reach across fabrics: a driver may read the pages that it
 * finds under its owner as its own type.
 *
 * Locking order: &pgmap_fabric.lock, then folio lock, then what an mmu notifier
 * may take, then the drivers' page table locks. &pgmap_fabric.lock is taken
 * with neither of the others held, nor mmap_lock, nor in reclaim.
 */
struct pgmap_fabric {
	/** @name: For messages and resource names. Immutable. */
	const char *name;
	/** @ops: Immutable. */
	const struct pgmap_fabric_ops *ops;
	/** @lock: Serialises everything that changes owners, windows or links. */
	struct mutex lock;
	/** @peers: By &pgmap_peer.index. Protected by @lock. */
	struct pgmap_peer *peers[PGMAP_FABRIC_MAX_PEERS];
	/**
	 * @links: Bit j of links[i] is set if peers i and j are linked;
	 * symmetric. Protected by @lock.
	 */
	u64 links[PGMAP_FABRIC_MAX_PEERS];
	/**
	 * @wait: Woken when the pages of peers have been moved, and when the
	 * last walk of a peer that is to move ends.
	 */
	wait_queue_head_t wait;
};

void pgmap_fabric_init(struct pgmap_fabric *fabric, const char *name,
		       const struct pgmap_fabric_ops *ops);

/**
 * struct pgmap_peer_ops - what the core needs from the driver of a device
 *
 * No callback may fault on memory of the fabric, start a migration into it, or
 * call back into the fabric.
 */
struct pgmap_peer_ops {
	/**
	 * @unmap_foreign: Drop every device mapping of other peers' pages.
	 *
	 * Required for a peer that maps pages found by hmm_range_fault(). The
	 * driver takes the lock under which it calls pgmap_walk_retry() and
	 * unmaps; dropping more than the foreign mappings is allowed. When it
	 * returns, the device no longer uses any mapping that was made before
	 * the call. It can not fail. If the device is lost, it uses nothing,
	 * and the driver only forgets.
	 *
	 * Context: May sleep. &pgmap_fabric.lock is held; mmap_lock, folio
	 * locks and notifiers are not. Must not wait for a fault that may be
	 * held up in pgmap_walk_begin().
	 */
	void (*unmap_foreign)(struct pgmap_peer *peer);

	/**
	 * @copy_to_ram: Copy device pages to system memory.
	 *
	 * @src holds migrate pfns of locked pages of @region, @dst of locked
	 * system pages, both @npages long. Copy to every page in @dst: one of
	 * the order of its folio, HPAGE_PMD_ORDER or 0. The source of entry i is
	 * in @src[i], except that a large source has an entry at its first page
	 * only, also where its destinations are small: then the source of entry
	 * i is a later page of the last folio before. When it returns 0 the
	 * data is visible to the CPU, and the device was there until the last
	 * byte was read: a driver whose reads give invented data once the device
	 * is gone has to look for that afterwards. Required for a peer that
	 * registers memory. Not called when the peer is known to be lost.
	 *
	 * Context: May sleep. &pgmap_fabric.lock and the folio locks are held.
	 *
	 * Return: 0, or a negative errno if any of the pages was not copied;
	 * then all of them stay where they are.
	 */
	int (*copy_to_ram)(struct pgmap_region *region, const unsigned long *src,
			   const unsigned long *dst, unsigned long npages);

	/**
	 * @copy: Copy pages of coherent memory to other pages of it.
	 *
	 * As @copy_to_ram, but @dst are pages of another window of @region, each
	 * single as its source is, and have no zone_device_data yet. Required
	 * for a peer with &pgmap_peer.mem. The core could copy these itself, but
	 * not find out whether the device was there all the time.
	 *
	 * Context: As for @copy_to_ram.
	 *
	 * Return: As for @copy_to_ram.
	 */
	int (*copy)(struct pgmap_region *region, const unsigned long *src,
		    const unsigned long *dst, unsigned long npages);

	/**
	 * @rehome: The slot behind @old is now behind @new.
	 *
	 * Move what the driver keeps in zone_device_data. The slot is live, and
	 * stays live when folio_free() is called for @old. In coherent memory,
	 * what it holds is where @new is. Called once a folio,
	 * after it has been decided that the folio moves and before anybody can
	 * see @new. Required for a peer that registers memory. It can not fail.
	 *
	 * Context: Both folios are locked. &pgmap_fabric.lock is held.
	 */
	void (*rehome)(struct pgmap_region *region, struct folio *old,
		       struct folio *new);
};

/**
 * struct pgmap_peer - a device that takes part in a fabric
 *
 * Embedded in the driver's structure of the device; zeroed by the driver before
 * the first pgmap_peer_join(). A device is one peer, however many address
 * spaces and regions of memory it has. The peer outlives its regions, and walks.
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
	 * @mem: Where the CPU sees the peer's memory, if that is coherent; else
	 * NULL. Cacheable, and nothing else is registered as its child. It has
	 * room for the regions, which are of one size, and for one more. Without,
	 * a change of cluster fails, or goes by way of system memory if it is
	 * forced; so it can with regions of different sizes, when free memory
	 * is in pieces. Set by the driver, stays as long as the peer has regions.
	 */
	struct resource *mem;

	/* private: */
	struct pgmap_fabric *fabric;
	unsigned int index;
	/*
	 * Written under &pgmap_fabric.lock; read under RCU, or compared under
	 * the driver's lock in pgmap_walk_retry(). NULL if not joined.
	 */
	struct pgmap_owner __rcu *owner;
	/*
	 * Odd while the peer's pages are on the move: then its faults are held
	 * up. Written under &pgmap_fabric.lock.
	 */
	unsigned int moves;
	/* Set by pgmap_peer_set_lost(), cleared when the peer has left. */
	bool lost;
	/* Walks between pgmap_walk_begin() and pgmap_walk_end(). */
	atomic_t walks;
	/* &pgmap_region.entry. Protected by &pgmap_fabric.lock. */
	struct list_head regions;
	/* Set up by join, so that revoke allocates nothing. Same lock. */
	struct pgmap_scratch *scratch;
};

/* Go on where pages can't be moved in time: poison them. */
#define PGMAP_FORCE	BIT(0)

int pgmap_peer_join(struct pgmap_fabric *fabric, struct pgmap_peer *peer,
		    unsigned long timeout, struct pgmap_stats *stats);
int pgmap_peer_leave(struct pgmap_peer *peer, unsigned int flags,
		     unsigned long timeout, struct pgmap_stats *stats);
void pgmap_peer_set_lost(struct pgmap_peer *peer);

/**
 * pgmap_peer_is_lost() - has the device gone?
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
 * pgmap_peer_was_lost() - the same, for who has copied from or to its memory
 * @peer: a peer
 *
 * Context: Any.
 * Return: false if what was copied before is what was there.
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
 * @up: whether they can use each other's memory from now on
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

/**
 * struct pgmap_window - one registration of a region's slots
 *
 * From register to unregister: one dev_pagemap, one owner. Made by the core.
 */
struct pgmap_window {
	/** @pagemap: &page_pgmap() of the window's pages. */
	struct dev_pagemap pagemap;
	/** @region: Whose slots these are. Does not change while in use. */
	struct pgmap_region *region;

	/* private: */
	struct pgmap_owner *owner;
	struct resource *res;
	struct list_head entry;
};

/**
 * struct pgmap_region - a run of a peer's slots that moves as one
 *
 * A slot is the driver's unit of device memory behind one page. It survives a
 * change of window: the page behind it changes, the slot does not. Embedded in
 * the driver's structure. A topology change needs the memmap of one region
 * more than the peer has, so a peer with much memory has many regions.
 *
 * If the memory is coherent, a slot does not stand for a piece of memory, but for
 * its contents: those are where the page is that is in front of it, and move with a
 * change of window.
 */
struct pgmap_region {
	/** @peer: Whose memory this is. Immutable while registered. */
	struct pgmap_peer *peer;
	/** @nr_slots: Size in pages. Immutable while registered. */
	unsigned long nr_slots;

	/* private: */
	const struct dev_pagemap_ops *pgmap_ops;
	/*
	 * Where new pages come from; NULL if there is no device memory to have.
	 * Written under &pgmap_fabric.lock, read under RCU.
	 */
	struct pgmap_window __rcu *window;
	/* The one that was current until it was closed. &pgmap_fabric.lock. */
	struct pgmap_window *closed;
	/*
	 * Every registered window of the region, the current one included.
	 * Those that are not current are closed. &pgmap_fabric.lock.
	 */
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

/**
 * pgmap_window_pfn() - the pfn of a slot in a window
 * @window: the window
 * @slot: slot number within the region
 *
 * The page may only be initialised with &pgmap_window.pagemap of the same
 * window, and zone_device_page_init() refuses if the window has been closed
 * since.
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
 * @page: a page of a region: live, or free and only looked at by its driver
 *
 * Context: The caller holds the page, or otherwise keeps the window registered.
 * Return: The window.
 */
static inline struct pgmap_window *pgmap_page_window(const struct page *page)
{
	return container_of(page_pgmap(page), struct pgmap_window, pagemap);
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
 * @peer: who looks
 * @owner: under which owner
 *
 * On the stack of the driver's fault handler, from pgmap_walk_begin() to
 * pgmap_walk_end().
 */
struct pgmap_walk {
	struct pgmap_peer *peer;
	struct pgmap_owner *owner;
};

#if IS_ENABLED(CONFIG_PGMAP_OWNER)
int pgmap_walk_begin(struct pgmap_peer *peer, struct pgmap_walk *walk);
int pgmap_walk_fault(const struct pgmap_walk *walk, struct hmm_range *range,
		     unsigned long timeout);
void pgmap_walk_hide(const struct pgmap_walk *walk, struct hmm_range *range);
bool pgmap_walk_retry(const struct pgmap_walk *walk);
void pgmap_walk_end(struct pgmap_walk *walk);
int pgmap_range_fault(struct pgmap_peer *peer, struct pgmap_walk *walk,
		      struct hmm_range *range, unsigned long timeout);
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

static inline void pgmap_walk_end(struct pgmap_walk *walk)
{
}

static inline int pgmap_range_fault(struct pgmap_peer *peer,
				    struct pgmap_walk *walk,
				    struct hmm_range *range,
				    unsigned long timeout)
{
	pgmap_walk_begin(NULL, walk);
	return pgmap_walk_fault(walk, range, timeout);
}
#endif

/**
 * pgmap_range_retry() - must the result of pgmap_range_fault() be thrown away?
 * @walk: as given to pgmap_range_fault()
 * @range: as given to pgmap_range_fault()
 *
 * Both checks that a fault handler owes: mmu_interval_read_retry() for pages
 * that moved, pgmap_walk_retry() for a peer that changed cluster.
 *
 * Context: The driver's page table lock is held: the one that its notifier and
 *	    &pgmap_peer_ops.unmap_foreign take.
 * Return: true if the caller has to begin again. If false, the pages can be
 *	   mapped before the lock is dropped.
 */
static inline bool pgmap_range_retry(const struct pgmap_walk *walk,
				     const struct hmm_range *range)
{
	return mmu_interval_read_retry(range->notifier, range->notifier_seq) ||
	       pgmap_walk_retry(walk);
}

#endif /* _LINUX_PGMAP_OWNER_H */
