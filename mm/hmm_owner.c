// SPDX-License-Identifier: GPL-2.0
/*
 * Shared owners for device memory.
 *
 * Devices on one interconnect form a cluster and share one owner, so that
 * hmm_range_fault() lets them use each other's ZONE_DEVICE pages in place.
 */
#define pr_fmt(fmt) "pgmap_owner: " fmt

#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/delay.h>
#include <linux/export.h>
#include <linux/fault-inject.h>
#include <linux/hmm.h>
#include <linux/ioport.h>
#include <linux/jiffies.h>
#include <linux/kref.h>
#include <linux/ktime.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/memory_hotplug.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/pci-p2pdma.h>
#include <linux/pgmap_owner.h>
#include <linux/percpu-refcount.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "hmm_owner.h"
#include "pgmap_partition.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pgmap_owner.h>

/**
 * DOC: Overview
 *
 * &struct dev_pagemap.owner answers one question: can the asking device reach
 * this memory? The answer changes when a link of the interconnect goes up or
 * down and when a device comes or goes, but the owner of a live dev_pagemap
 * never does. Instead the dev_pagemap is torn down and registered again.
 *
 * A *peer* is a device that takes part: it uses memory, offers memory, or both.
 * A *fabric* holds the peers of one driver family and the links between them.
 * The fabric's peers are divided into *clusters*; any two peers of a cluster are
 * linked. The members of a cluster have the same *owner*, a refcounted object
 * of which only the address matters.
 *
 * A peer's memory consists of *slots*, one behind each page, and is registered
 * in *regions*. Each region has one current *window*: a dev_pagemap under the
 * peer's owner. Private pfns are not physical addresses, so a second window can
 * cover the same slots under another owner. A peer changes cluster by *rehoming*
 * its pages from the old window of a region to a new one: page tables are changed
 * to refer to the new pages, and no byte is copied, for the slots stay.
 *
 * A topology change goes like this:
 *
 * 1. compute the partition; the part of a cluster that holds the most resident
 *    pages keeps the owner, so that only the others pay;
 * 2. register for each peer that moves one window more than it has, or one for each
 *    size that its regions have;
 * 3. publish the new owners;
 * 4. have the drivers of those peers drop their mappings of foreign pages;
 * 5. region by region: close the old window to new pages, rehome its pages,
 *    drain it, wait for a grace period, and use it as the next region's new one;
 * 6. unregister the window that is left over and drop the old owners.
 *
 * What can fail is done in the first two steps, before anything has changed. If a
 * later step can't finish in time, the same steps are taken backwards.
 *
 * The extra memory is one region's memmap for each peer that moves, whatever the
 * size of the device, provided that the driver divides the memory into regions.
 *
 * *Coherent memory*, which the CPU can access, has pfns that are physical addresses:
 * no two windows cover the same memory. A second window then is other memory of the
 * device, one region's worth of which lies idle for that, and to rehome is to copy.
 * All else is the same: while the pages are locked and unmapped they are copied from
 * window to window, and a region's slots are behind the pages of the new one. Where
 * they are for the device follows from the page. If the copy fails a page stays, as
 * one does that can't be copied to system memory. Such memory is used in single
 * pages: core mm can't split a large folio of it.
 */

/**
 * DOC: Why nobody maps what it can no longer reach
 *
 * *Pages that move* are covered by mmu notifiers. Rehoming and evacuation unmap
 * them through the reverse map, in every mm, which tells every mapper.
 *
 * *A peer that changes cluster* is not covered. P leaves {A, P}. The pages of A do
 * not move, so no notifier fires for them, and a hmm_range_fault() of P under way
 * matches them by the old owner and passes mmu_interval_read_retry(). Therefore
 * the owner is checked again where the sequence number is, see pgmap_walk_retry().
 *
 * *Coherent pages* are present in page tables, and hmm_range_fault() shows them to
 * everybody. pgmap_walk_fault() looks for those that the peer can't reach, and brings
 * them to system memory, as a fault on a private page does; see there. Until a peer
 * that is lost has left, the CPU sees of them what the bus gives for a device that is
 * not there: no page fault comes in between that could tell.
 *
 * *Walkers of core mm* look at a page's dev_pagemap under RCU or a page table
 * lock. A window is given away or unregistered a grace period after its last page
 * was freed, when no page table has referred to it any more.
 */

/**
 * DOC: When it can not finish
 *
 * What holds up is a page that somebody else has locked or refers to, and what the
 * operation then does is a matter of %PGMAP_FORCE. The timeout that the caller gives
 * bounds the operation, from when it is its turn: those of a fabric are done one after
 * another. A planned change of links that is not done by then puts everything back,
 * which takes about as long as it took to get there, and a second more at most, and
 * returns -EBUSY; so does one that takes memory away, which has nothing to put back. A
 * message and the tracepoint pgmap_stuck name the page.
 *
 * A forced one tries to save each page once, however long that takes. What is left when
 * the time is up, and what was on a peer that is lost, is replaced by poison: the data
 * is gone, and who touches the address gets SIGBUS. No reference or pin prevents that;
 * only a page that stays locked does. The memmap can't go before the last reference, so the
 * call returns -EBUSY as long as there is one, and is repeated.
 *
 * What was being copied from or to a peer when it became known to be lost is thrown
 * away.
 *
 * On the way back from a planned change a page can be stuck in either window. It is
 * left in a closed one. Its data is safe, and comes back to system memory when it is
 * used by a peer that does not have the window's owner, or by the CPU, if it can't
 * access the page. Until then a
 * peer that does have that owner can map the page, even through a link that is down or
 * has never been there; the device has to take it for an error if such an access does
 * not arrive. The next change of the topology tries again to get the page out, and
 * does not begin before that has worked; a forced one poisons it.
 *
 * The window that such a page is left in can be the one that the peer's next region
 * needs. If there is no memory for another one on the way back, the region's pages go
 * by way of system memory; if that does not work, it goes without device memory until
 * it is unregistered and registered again. When all pages of a device that leaves are
 * out, it takes the time that it takes to unregister its windows.
 */

struct pgmap_owner {
	struct kref ref;
	struct rcu_head rcu;
	/* For people; the address may be used again, this is not. */
	u64 id;
};

/* As many pages as the largest folio that can be migrated has. */
#define PGMAP_BATCH	(1UL << (PMD_SHIFT - PAGE_SHIFT))

/* How long a change waits for the walks of its peers before it moves their pages. */
#define PGMAP_WALKS_TIMEOUT	(HZ / 10)

/* Going back takes as long as it took to get there; this for a start. */
#define PGMAP_UNDO_TIMEOUT	HZ

/* What is left for poisoning of the time that a forced operation has, if it can be. */
#define PGMAP_POISON_TIMEOUT	(HZ / 10)

/*
 * What changing the topology needs. One for each peer, so that no change that
 * begins with that peer has to allocate it. Protected by &pgmap_fabric.lock.
 */
struct pgmap_scratch {
	/* Migrate pfns of the batch at hand. */
	unsigned long src[PGMAP_BATCH];
	unsigned long dst[PGMAP_BATCH];
	/* Windows of this peer, registered but not in use by a region. */
	struct list_head spares;
	/* Owner before and after the change under way; both are references. */
	struct pgmap_owner *from, *to;
	/* In stock, for a change that gives this peer's cluster a new owner. */
	struct pgmap_owner *reserve;
	/* When the peer's faults began to be held up. */
	ktime_t since;

	/* The change under way, if it was begun on behalf of this peer. */
	struct pgmap_partition partition;
	u64 links[PGMAP_FABRIC_MAX_PEERS];
};

static_assert(PGMAP_FABRIC_MAX_PEERS == PGMAP_MAX_PEERS);

/* --- owners --- */

VISIBLE_IF_KUNIT struct pgmap_owner *pgmap_owner_alloc(gfp_t gfp)
{
	static atomic64_t last_id;
	struct pgmap_owner *owner;

	KUNIT_STATIC_STUB_REDIRECT(pgmap_owner_alloc, gfp);

	owner = kzalloc_obj(*owner, gfp);
	if (!owner)
		return NULL;

	kref_init(&owner->ref);
	owner->id = atomic64_inc_return(&last_id);
	return owner;
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_owner_alloc);

static struct pgmap_owner *pgmap_owner_get(struct pgmap_owner *owner)
{
	kref_get(&owner->ref);
	return owner;
}

static void pgmap_owner_release(struct kref *ref)
{
	struct pgmap_owner *owner = container_of(ref, struct pgmap_owner, ref);

	/* pgmap_walk_begin() may be about to look at the count. */
	kfree_rcu(owner, rcu);
}

static void pgmap_owner_put(struct pgmap_owner *owner)
{
	if (owner)
		kref_put(&owner->ref, pgmap_owner_release);
}

/* Is the peer one that the fabric counts, or has it left or begun to leave? */
static bool pgmap_peer_joined(struct pgmap_peer *peer)
{
	lockdep_assert_held(&peer->fabric->lock);

	return peer->scratch && peer->fabric->peers[peer->index] == peer;
}

static struct pgmap_owner *pgmap_peer_owner(struct pgmap_peer *peer)
{
	return rcu_dereference_protected(peer->owner,
					 lockdep_is_held(&peer->fabric->lock));
}

/* --- windows --- */

/**
 * pgmap_window_get() - where new pages of a region come from
 * @region: the region
 *
 * Until pgmap_window_put() the window stays registered for @region, under the
 * owner that it has. It may be closed at any time: zone_device_page_init() returns
 * -ENODEV from then on, and the caller gives up or starts over.
 *
 * A window that is in use can not be emptied, so a topology change waits for the
 * reference as it waits for pages. It belongs to one migration, and must not be
 * held over a call of pgmap_walk_begin() or of something that takes
 * &pgmap_fabric.lock.
 *
 * Context: Any.
 * Return: The current window, or NULL if the region has no device memory to
 *	   give: not registered, being evacuated, or lost in a forced change or on
 *	   the way back from a planned one.
 */
struct pgmap_window *pgmap_window_get(struct pgmap_region *region)
{
	struct pgmap_window *window;

	guard(rcu)();
	/*
	 * If it has been closed, another one, or none, had taken its place
	 * before. It does not come to stand for another region while we look:
	 * dev_pagemap_close() waits for us.
	 */
	do {
		window = rcu_dereference(region->window);
	} while (window && !percpu_ref_tryget_live_rcu(&window->pagemap.ref));

	return window;
}
EXPORT_SYMBOL_GPL(pgmap_window_get);

/**
 * pgmap_window_put() - drop a reference from pgmap_window_get()
 * @window: the window
 *
 * Context: Any.
 */
void pgmap_window_put(struct pgmap_window *window)
{
	put_dev_pagemap(&window->pagemap);
}
EXPORT_SYMBOL_GPL(pgmap_window_put);

static struct pgmap_window *pgmap_region_window(struct pgmap_region *region)
{
	return rcu_dereference_protected(region->window,
				lockdep_is_held(&region->peer->fabric->lock));
}

/* Windows of coherent memory, whose pages hmm_range_fault() takes for system memory. */
static atomic_t pgmap_nr_coherent = ATOMIC_INIT(0);

/* Pfns that are free: of memory that the CPU can see, or of none. */
static struct resource *pgmap_pfns_request(struct pgmap_region *region)
{
	resource_size_t size = (resource_size_t)region->nr_slots << PAGE_SHIFT;
	const char *name = region->peer->fabric->name;
	struct resource *mem = region->peer->mem;
	struct resource *res, *other;
	resource_size_t start;

	if (!mem)
		return request_free_mem_region(&iomem_resource, size, name);

	res = kzalloc_obj(*res);
	if (!res)
		return ERR_PTR(-ENOMEM);
	/* Not by allocate_resource(): that avoids what firmware calls reserved. */
	for (start = ALIGN(mem->start, SUBSECTION_SIZE);
	     start < mem->end && size - 1 <= mem->end - start;
	     start = ALIGN(other->end + 1, SUBSECTION_SIZE)) {
		*res = DEFINE_RES_NAMED(start, size, name,
					IORESOURCE_MEM | IORESOURCE_BUSY);
		/* Windows of the same peer: under &pgmap_fabric.lock they stay. */
		other = request_resource_conflict(mem, res);
		if (!other)
			return res;
	}

	kfree(res);
	return ERR_PTR(-ENOSPC);
}

static void pgmap_pfns_release(struct pgmap_window *window)
{
	struct resource *res = window->res;

	if (window->pagemap.type == MEMORY_DEVICE_PRIVATE) {
		release_mem_region(res->start, resource_size(res));
	} else {
		release_resource(res);
		kfree(res);
	}
}

/*
 * The only place that picks pfns for device memory and registers them. The
 * window comes back open and on no list.
 */
VISIBLE_IF_KUNIT struct pgmap_window *
pgmap_window_register(struct pgmap_region *region, struct pgmap_owner *owner)
{
	struct pgmap_window *window;
	struct dev_pagemap *pagemap;
	struct resource *res;
	void *addr;

	KUNIT_STATIC_STUB_REDIRECT(pgmap_window_register, region, owner);

	window = kzalloc_obj(*window);
	if (!window)
		return ERR_PTR(-ENOMEM);

	res = pgmap_pfns_request(region);
	if (IS_ERR(res)) {
		kfree(window);
		return ERR_CAST(res);
	}

	INIT_LIST_HEAD(&window->entry);
	window->region = region;
	window->res = res;
	window->owner = pgmap_owner_get(owner);

	pagemap = &window->pagemap;
	pagemap->type = region->peer->mem ? MEMORY_DEVICE_COHERENT :
					    MEMORY_DEVICE_PRIVATE;
	pagemap->flags = PGMAP_WINDOW;
	/* The resource is rounded up to what memory hotplug adds at once. */
	pagemap->range.start = res->start;
	pagemap->range.end = res->start + (region->nr_slots << PAGE_SHIFT) - 1;
	pagemap->nr_range = 1;
	pagemap->ops = region->pgmap_ops;
	pagemap->owner = owner;
	addr = memremap_pages(pagemap, region->peer->nid);
	if (IS_ERR(addr)) {
		pgmap_pfns_release(window);
		pgmap_owner_put(owner);
		kfree(window);
		return ERR_CAST(addr);
	}
	if (pagemap->type == MEMORY_DEVICE_COHERENT)
		atomic_inc(&pgmap_nr_coherent);

	return window;
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_window_register);

/* Close the window for good and give the memmap back. It has no page. */
static void pgmap_window_unregister(struct pgmap_window *window)
{
	list_del(&window->entry);
	/*
	 * Contains the grace period for those that still look at its memmap, or
	 * are in pgmap_window_get().
	 */
	memunmap_pages(&window->pagemap);
	if (window->pagemap.type == MEMORY_DEVICE_COHERENT)
		atomic_dec(&pgmap_nr_coherent);
	pgmap_pfns_release(window);
	/* No pagemap and no page refers to the owner any more. */
	pgmap_owner_put(window->owner);
	kfree(window);
}

static bool pgmap_window_closed(struct pgmap_window *window)
{
	return percpu_ref_is_dying(&window->pagemap.ref);
}

/*
 * Unregister a window that has no page and register its pfns again, for another
 * region or under another owner, without giving the memmap back in between. So
 * it can not fail, and moving a whole device needs the memmap of one region.
 */
static void pgmap_window_renew(struct pgmap_window *window,
			       struct pgmap_region *region,
			       struct pgmap_owner *owner)
{
	/* Nobody looks at these for a window that is not in use. */
	window->region = region;
	window->pagemap.ops = region->pgmap_ops;
	if (window->owner == owner && !pgmap_window_closed(window))
		return;

	if (!pgmap_window_closed(window))
		dev_pagemap_close(&window->pagemap);
	/* Without pages, it is a matter of RCU until the reference is gone. */
	dev_pagemap_wait_idle(&window->pagemap, MAX_SCHEDULE_TIMEOUT);
	dev_pagemap_renew(&window->pagemap, owner);
	pgmap_owner_get(owner);
	pgmap_owner_put(window->owner);
	window->owner = owner;
}

static unsigned long pgmap_window_resident(struct pgmap_window *window)
{
	unsigned long slot, nr, resident = 0;

	for (slot = 0; slot < window->region->nr_slots; slot += nr) {
		struct page *page = pfn_to_page(pgmap_window_pfn(window, slot));
		struct page_snapshot snap;

		nr = 1;
		/* Its own count: what a free page says of its head is stale. */
		if (page_ref_count(page)) {
			/* Nobody keeps it. If it is freed it counts wrong; so what. */
			snapshot_page(&snap, page);
			nr = clamp(folio_nr_pages(&snap.folio_snapshot), 1UL,
				   window->region->nr_slots - slot);
			resident += nr;
		}
		if (need_resched())
			cond_resched();
	}

	return resident;
}

/* --- moving pages --- */

/* What it takes to empty a window. */
struct pgmap_drain {
	struct pgmap_window *window;
	/* Where to rehome the pages to, or NULL to evacuate them. */
	struct pgmap_window *to;
	/* When to give up, in jiffies; but if @whole not within a sweep. */
	unsigned long deadline;
	bool whole;
	/* What is left when the time is up is lost, so it pays to use it up. */
	bool force;
	struct pgmap_stats *stats;
	/* Pages that have moved. */
	unsigned long moved;
	/* Why pages did not move, if it was not for being in use. */
	int err;
};

/*
 * The folio that begins at entry @i of the batch and is to be moved, or NULL. There
 * is no destination for it, or for this entry, yet.
 */
static struct folio *pgmap_batch_src(struct pgmap_scratch *scratch, unsigned long i)
{
	struct page *src = migrate_pfn_to_page(scratch->src[i]);

	if (!src || !(scratch->src[i] & MIGRATE_PFN_MIGRATE)) {
		scratch->dst[i] = 0;
		return NULL;
	}
	memset(&scratch->dst[i], 0,
	       folio_nr_pages(page_folio(src)) * sizeof(scratch->dst[0]));
	return page_folio(src);
}

/* Prepare destinations in the new window for the sources in the batch. */
static void pgmap_rehome_prepare(struct pgmap_drain *drain, unsigned long slot,
				 unsigned long nr)
{
	struct pgmap_scratch *scratch = drain->window->region->peer->scratch;
	struct dev_pagemap *pagemap = &drain->to->pagemap;
	unsigned long i, step;

	for (i = 0; i < nr; i += step) {
		struct folio *src = pgmap_batch_src(scratch, i);
		unsigned int order = src ? folio_order(src) : 0;
		struct page *dst;

		step = 1UL << order;
		if (!src)
			continue;

		/*
		 * Free, but for the way back: then somebody may still have to
		 * drop a reference to the page from which the slot came.
		 */
		dst = pfn_to_page(pgmap_window_pfn(drain->to, slot + i));
		if (page_ref_count(dst))
			continue;

		/* Open, and nobody else can close it: &pgmap_fabric.lock. */
		if (zone_device_folio_init((struct folio *)dst, pagemap, order))
			continue;
		dst->zone_device_data = NULL;

		scratch->dst[i] = migrate_pfn(page_to_pfn(dst));
		if (order)
			scratch->dst[i] |= MIGRATE_PFN_COMPOUND;
	}
}

/*
 * Makes large pages hard to get, and devices fail to copy. Every step that may fail
 * otherwise is an allocation, which failslab and fail_page_alloc make fail.
 */
static DECLARE_FAULT_ATTR(fail_pgmap);

/* Makes walks slow, for a change of the topology to overtake them. */
static DECLARE_FAULT_ATTR(slow_pgmap);
#define PGMAP_SLOW_MS	1000

static int __init pgmap_debugfs_init(void)
{
	fault_create_debugfs_attr("fail_pgmap", NULL, &fail_pgmap);
	fault_create_debugfs_attr("slow_pgmap", NULL, &slow_pgmap);
	return 0;
}
late_initcall(pgmap_debugfs_init);

VISIBLE_IF_KUNIT struct folio *pgmap_folio_alloc(unsigned int order)
{
	KUNIT_STATIC_STUB_REDIRECT(pgmap_folio_alloc, order);

	if (order && should_fail(&fail_pgmap, PAGE_SIZE << order))
		return NULL;

	/* A large one is nice to have, a small one has to be. */
	return folio_alloc(order ? GFP_TRANSHUGE | __GFP_NORETRY :
			   GFP_HIGHUSER_MOVABLE | __GFP_NOWARN |
			   __GFP_RETRY_MAYFAIL, order);
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_folio_alloc);

static bool pgmap_dst_alloc(struct pgmap_scratch *scratch, unsigned long i,
			    unsigned int order)
{
	struct folio *dst = pgmap_folio_alloc(order);

	if (!dst)
		return false;
	folio_lock(dst);
	scratch->dst[i] = migrate_pfn(folio_pfn(dst)) |
			  (order ? MIGRATE_PFN_COMPOUND : 0);
	return true;
}

static void pgmap_dst_free(struct pgmap_scratch *scratch, unsigned long i)
{
	struct folio *dst = page_folio(migrate_pfn_to_page(scratch->dst[i]));

	folio_unlock(dst);
	folio_put(dst);
	scratch->dst[i] = 0;
}

/*
 * Allocate system pages for the sources in the batch: large if there are, else
 * small ones, for which migrate_device_pages() splits the source.
 */
static void pgmap_evacuate_prepare(struct pgmap_drain *drain, unsigned long nr)
{
	struct pgmap_scratch *scratch = drain->window->region->peer->scratch;
	unsigned long i, j, step;
	bool none = false;

	for (i = 0; i < nr; i += step) {
		struct folio *src = pgmap_batch_src(scratch, i);
		unsigned int order = src ? folio_order(src) : 0;

		step = 1UL << order;
		/* To find out again for each page that there is none takes time. */
		if (!src || none || (order && pgmap_dst_alloc(scratch, i, order)))
			continue;

		for (j = 0; j < step; j++)
			if (!pgmap_dst_alloc(scratch, i + j, 0))
				break;
		if (j == step)
			continue;

		drain->err = -ENOMEM;
		none = true;
		while (j--)
			pgmap_dst_free(scratch, i + j);
	}
}

/* Does it take the device to move the pages? */
static bool pgmap_drain_copies(struct pgmap_drain *drain)
{
	return !drain->to || drain->to->pagemap.type == MEMORY_DEVICE_COHERENT;
}

/*
 * Have the batch copied to where it is going. Nobody can write to the pages until
 * migrate_device_finalize(): they are locked, in no page table, and were not migrated
 * if somebody else had a reference.
 */
static void pgmap_batch_copy(struct pgmap_drain *drain, unsigned long nr)
{
	struct pgmap_region *region = drain->window->region;
	struct pgmap_peer *peer = region->peer;
	struct pgmap_scratch *scratch = peer->scratch;
	unsigned long i, bytes = 0;
	int err;

	for (i = 0; i < nr; i++) {
		struct page *dst = migrate_pfn_to_page(scratch->dst[i]);

		if (dst)
			bytes += folio_size(page_folio(dst));
	}
	if (!bytes)
		return;

	err = -EIO;
	if (!pgmap_peer_is_lost(peer) && !should_fail(&fail_pgmap, bytes))
		err = (drain->to ? peer->ops->copy : peer->ops->copy_to_ram)
			(region, scratch->src, scratch->dst, nr);
	/* Lost meanwhile? Then nobody knows what it was that was copied. */
	if (!err && pgmap_peer_was_lost(peer))
		err = -EIO;
	if (!err) {
		drain->stats->bytes_copied += bytes;
		return;
	}

	drain->err = err;
	for (i = 0; i < nr; i++)
		if (migrate_pfn_to_page(scratch->dst[i]))
			pgmap_dst_free(scratch, i);
}

static void pgmap_drain_batch(struct pgmap_drain *drain, unsigned long slot,
			      unsigned long nr)
{
	struct pgmap_region *region = drain->window->region;
	struct pgmap_peer *peer = region->peer;
	struct pgmap_scratch *scratch = peer->scratch;
	unsigned long i, step, moved = 0;

	migrate_device_range(scratch->src, pgmap_window_pfn(drain->window, slot),
			     nr);
	if (drain->to)
		pgmap_rehome_prepare(drain, slot, nr);
	else
		pgmap_evacuate_prepare(drain, nr);
	if (pgmap_drain_copies(drain))
		pgmap_batch_copy(drain, nr);
	migrate_device_pages(scratch->src, scratch->dst, nr);

	for (i = 0; i < nr; i += step) {
		struct page *src = migrate_pfn_to_page(scratch->src[i]);
		struct page *dst = migrate_pfn_to_page(scratch->dst[i]);

		step = 1;
		if (!src || !dst)
			continue;
		step = folio_nr_pages(page_folio(dst));
		if (!(scratch->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		/* Both are locked, and @dst is in no page table yet. */
		if (drain->to)
			peer->ops->rehome(region, page_folio(src), page_folio(dst));
		moved += step;
	}

	migrate_device_finalize(scratch->src, scratch->dst, nr);

	drain->moved += moved;
	if (drain->to)
		drain->stats->pages_rehomed += moved;
	else
		drain->stats->pages_evacuated += moved;
}

/* Try to move each page of the window once, if there are any. */
static void pgmap_window_sweep(struct pgmap_drain *drain)
{
	unsigned long nr_slots = drain->window->region->nr_slots;
	unsigned long slot, nr;

	drain->err = 0;
	if (dev_pagemap_wait_idle(&drain->window->pagemap, 0))
		return;
	for (slot = 0; slot < nr_slots; slot += nr) {
		nr = min(PGMAP_BATCH, nr_slots - slot);
		pgmap_drain_batch(drain, slot, nr);
		if (!drain->whole && time_after(jiffies, drain->deadline))
			break;
		cond_resched();
	}
}

/* How long to wait before the next attempt: longer each time, while there is time. */
static unsigned long pgmap_wait(unsigned long *wait, unsigned long deadline)
{
	unsigned long left = time_before(jiffies, deadline) ? deadline - jiffies : 1;
	unsigned long now = min(*wait, left);

	*wait = min(*wait * 2, HZ / 10 + 1UL);
	return now;
}

/*
 * Empty a closed window: sweep until the last page is freed. A page can be missed
 * by a sweep because somebody has locked it (a CPU fault that brings it back, a
 * migration that brings it in) or refers to it. Nothing new can come in:
 *
 *	migrating into the window		closing it
 *	-------------------------		----------
 *	zone_device_page_init()
 *	  gets pgmap->ref, locks the page
 *						dev_pagemap_close()
 *						sweep: the page is locked, missed
 *	maps the page, unlocks it
 *						pgmap->ref not 0: sweep again
 *	zone_device_page_init()
 *	  -ENODEV
 *
 * Return: 0 if the window has no page left; no page table refers to it, and no
 * driver does. Otherwise -EBUSY, or why a page could not be moved.
 */
static int pgmap_window_drain(struct pgmap_drain *drain)
{
	struct dev_pagemap *pagemap = &drain->window->pagemap;
	struct pgmap_peer *peer = drain->window->region->peer;
	unsigned long wait = 1;

	lockdep_assert_held(&peer->fabric->lock);

	for (;;) {
		unsigned long moved = drain->moved;

		pgmap_window_sweep(drain);
		if (drain->moved != moved)
			wait = 1;
		if (dev_pagemap_wait_idle(pagemap, pgmap_wait(&wait, drain->deadline)))
			return 0;
		if (!time_before(jiffies, drain->deadline))
			return drain->err ?: -EBUSY;
		if (pgmap_drain_copies(drain) && pgmap_peer_is_lost(peer))
			return -EIO;
		/* A driver that can't copy rarely learns to by being asked often. */
		if (drain->err && drain->err != -ENOMEM && !drain->force)
			return drain->err;
	}
}

/*
 * Make sure that nobody maps a page of a closed window, at the price of what is in
 * it. The same loop, but a reference can only delay the end, not the deed.
 */
static int pgmap_window_poison(struct pgmap_window *window,
			       unsigned long deadline, struct pgmap_stats *stats)
{
	struct pgmap_region *region = window->region;
	unsigned long slot, nr, wait = 1;

	for (;;) {
		for (slot = 0; slot < region->nr_slots; slot += nr) {
			nr = min(PGMAP_BATCH, region->nr_slots - slot);
			stats->pages_poisoned +=
				migrate_device_poison(pgmap_window_pfn(window, slot),
						      nr);
		}
		if (dev_pagemap_wait_idle(&window->pagemap,
					  pgmap_wait(&wait, deadline)))
			return 0;
		if (!time_before(jiffies, deadline))
			return -EBUSY;
	}
}

/*
 * Name what holds the window up, in the log and to those who trace: the first page
 * that somebody refers to who does not map it, else one that there was no time for.
 */
static void pgmap_window_complain(struct pgmap_window *window, const char *what,
				  int err)
{
	const char *name = window->region->peer->name;
	int refs = 0, mappings = 0;
	unsigned long slot, pfn = 0;

	for (slot = 0; slot < window->region->nr_slots && refs <= mappings; slot++) {
		struct page *page = pfn_to_page(pgmap_window_pfn(window, slot));
		struct page_snapshot snap;

		if (!page_ref_count(page))
			continue;
		snapshot_page(&snap, page);
		pfn = page_to_pfn(page);
		refs = folio_ref_count(&snap.folio_snapshot);
		mappings = folio_mapcount(&snap.folio_snapshot);
	}

	trace_pgmap_stuck(name, what, pfn, refs, mappings, err);
	if (pfn)
		pr_warn_ratelimited("%s: can't %s: pfn %#lx has %d references, %d mappings (%pe)\n",
				    name, what, pfn, refs, mappings, ERR_PTR(err));
	else
		pr_warn_ratelimited("%s: can't %s: no page is in use, but the pagemap is (%pe)\n",
				    name, what, ERR_PTR(err));
}

/*
 * Get all pages of a closed window out: to the same slots of another one, or to
 * system memory if that is NULL. Each is tried once at least if @whole. Forced, or if
 * the peer is lost, what can't be moved goes nowhere. If it returns an error, there are
 * pages still.
 */
static int pgmap_window_empty(struct pgmap_window *window, struct pgmap_window *to,
			      bool whole, unsigned int flags, unsigned long deadline,
			      struct pgmap_stats *stats)
{
	struct pgmap_peer *peer = window->region->peer;
	struct pgmap_drain drain = {
		.window = window,
		.to = to,
		.deadline = deadline,
		.whole = whole,
		.force = flags & PGMAP_FORCE,
		.stats = stats,
	};
	bool copies = pgmap_drain_copies(&drain);
	int err = -EIO;

	if (!copies || !pgmap_peer_is_lost(peer)) {
		if (drain.force && time_before(jiffies, deadline))
			drain.deadline -= min((deadline - jiffies) / 2,
					      PGMAP_POISON_TIMEOUT);
		err = pgmap_window_drain(&drain);
		if (err)
			pgmap_window_complain(window, to ? "rehome" : "evacuate", err);
	}
	/* It may be the other page that is in use. */
	if (err && drain.force && to && !pgmap_peer_is_lost(peer)) {
		drain.to = NULL;
		err = pgmap_window_drain(&drain);
	}
	if (!err || !(drain.force || (copies && pgmap_peer_is_lost(peer))))
		return err;

	err = pgmap_window_poison(window, deadline, stats);
	if (err)
		pgmap_window_complain(window, "free", err);
	return err;
}

/*
 * Let regions give out no pages; pgmap_regions_reopen() undoes it. One grace period
 * for all of them, or a device with many would spend its time with waiting for those.
 */
static void pgmap_region_close_begin(struct pgmap_region *region)
{
	struct pgmap_window *window = pgmap_region_window(region);

	if (!window)
		return;
	RCU_INIT_POINTER(region->window, NULL);
	dev_pagemap_close_begin(&window->pagemap);
	region->closed = window;
}

static void pgmap_regions_close(struct pgmap_peer *peer)
{
	struct pgmap_region *region;

	list_for_each_entry(region, &peer->regions, entry)
		pgmap_region_close_begin(region);
	synchronize_rcu();
}

static void pgmap_region_close(struct pgmap_region *region)
{
	pgmap_region_close_begin(region);
	synchronize_rcu();
}

static void pgmap_region_reopen_begin(struct pgmap_region *region)
{
	if (region->closed)
		dev_pagemap_reopen_begin(&region->closed->pagemap);
}

static void pgmap_region_reopen_end(struct pgmap_region *region)
{
	if (!region->closed)
		return;
	dev_pagemap_reopen_end(&region->closed->pagemap);
	rcu_assign_pointer(region->window, region->closed);
	region->closed = NULL;
}

static void pgmap_regions_reopen(struct pgmap_peer *peer)
{
	struct pgmap_region *region;

	list_for_each_entry(region, &peer->regions, entry)
		pgmap_region_reopen_begin(region);
	synchronize_rcu();
	list_for_each_entry(region, &peer->regions, entry)
		pgmap_region_reopen_end(region);
}

static void pgmap_region_reopen(struct pgmap_region *region)
{
	pgmap_region_reopen_begin(region);
	synchronize_rcu();
	pgmap_region_reopen_end(region);
}

/* Does a closed region have pages that are in use? */
static bool pgmap_region_busy(struct pgmap_region *region)
{
	struct pgmap_window *window;

	list_for_each_entry(window, &region->windows, entry)
		if (!dev_pagemap_wait_idle(&window->pagemap, 0))
			return true;
	return false;
}

/*
 * Get those pages of a closed region out that nobody holds: try each, once. Returns
 * why some did not move, if it was not for being in use.
 */
static int pgmap_region_sweep(struct pgmap_region *region, unsigned int flags,
			      unsigned long deadline, struct pgmap_stats *stats)
{
	struct pgmap_window *window;
	int err = 0;

	if (pgmap_peer_is_lost(region->peer))
		return -EIO;
	list_for_each_entry(window, &region->windows, entry) {
		struct pgmap_drain drain = {
			.window = window,
			.deadline = deadline,
			.whole = flags & PGMAP_FORCE,
			.stats = stats,
		};

		pgmap_window_sweep(&drain);
		err = drain.err ?: err;
	}
	return err;
}

/*
 * Get all pages of a closed region out that has been swept: to system memory, or to
 * nowhere. Its windows stay registered until the caller has decided what to do with
 * them.
 */
static int pgmap_region_evacuate(struct pgmap_region *region, unsigned int flags,
				 unsigned long deadline,
				 struct pgmap_stats *stats)
{
	struct pgmap_window *window;
	int ret = 0;

	list_for_each_entry(window, &region->windows, entry)
		ret = pgmap_window_empty(window, NULL, false, flags, deadline,
					 stats) ?: ret;
	return ret;
}

/* All windows of the region are drained. */
static void pgmap_region_unregister_windows(struct pgmap_region *region)
{
	struct pgmap_window *window, *next;

	region->closed = NULL;
	list_for_each_entry_safe(window, next, &region->windows, entry)
		pgmap_window_unregister(window);
}

/*
 * Take the memory of a region back. If that fails the region works as before, or when
 * forced, or if the peer is lost, the pages that are left stay in closed windows.
 */
static int pgmap_region_take_back(struct pgmap_region *region, unsigned int flags,
				  unsigned long deadline, struct pgmap_stats *stats)
{
	int err;

	pgmap_region_close(region);
	pgmap_region_sweep(region, flags, deadline, stats);
	err = pgmap_region_evacuate(region, flags, deadline, stats);
	if (!err)
		pgmap_region_unregister_windows(region);
	else if (flags & PGMAP_FORCE || pgmap_peer_is_lost(region->peer))
		region->closed = NULL;
	else
		pgmap_region_reopen(region);
	return err;
}

/* A change of the topology on its way through the steps. */
struct pgmap_change {
	struct pgmap_fabric *fabric;
	/* Whose scratch is used: partition and links. */
	struct pgmap_scratch *scratch;
	/* Peers that get another owner, as a mask. */
	u64 movers;
	unsigned int flags;
	/* When it began, when to give up, and when to give up going back. In jiffies. */
	unsigned long start, deadline, undo_deadline;
	/* @undo_deadline is set. */
	bool undone;
	/* Forced: among how many regions the time that is left is divided. */
	unsigned int regions;
	struct pgmap_stats *stats;
};

/* The fabric is locked: it is this operation's turn, and its time begins. */
static void pgmap_change_start(struct pgmap_change *change, unsigned long timeout)
{
	lockdep_assert_held(&change->fabric->lock);

	change->start = jiffies;
	change->deadline = change->start + timeout;
}

/* Until when to try to go back: the same for all that has to. */
static unsigned long pgmap_change_undo_deadline(struct pgmap_change *change)
{
	if (!change->undone)
		change->undo_deadline = jiffies + (jiffies - change->start) +
					PGMAP_UNDO_TIMEOUT;
	change->undone = true;
	return change->undo_deadline;
}

/*
 * Until when to try to empty the next region. Forced, those that come later get their
 * share, as what is not moved in time is lost; planned, one failure is enough.
 */
static unsigned long pgmap_change_deadline(struct pgmap_change *change)
{
	unsigned long now = jiffies;

	if (!(change->flags & PGMAP_FORCE) || !change->regions ||
	    !time_before(now, change->deadline))
		return change->deadline;
	return now + (change->deadline - now) / change->regions;
}

/* Has an operation had to leave pages in a window that is no longer current? */
static bool pgmap_region_has_rest(struct pgmap_region *region)
{
	struct pgmap_window *current_window = pgmap_region_window(region);
	struct pgmap_window *window;

	list_for_each_entry(window, &region->windows, entry)
		if (window != current_window)
			return true;
	return false;
}

/*
 * Get such pages out, and unregister what they are in. Each is tried once; to wait for
 * them is worth it only for who is to poison them otherwise.
 */
static int pgmap_region_reap(struct pgmap_region *region,
			     struct pgmap_change *change)
{
	struct pgmap_window *window, *next, *to = pgmap_region_window(region);
	int ret = 0;

	if (!pgmap_region_has_rest(region))
		return 0;
	list_for_each_entry_safe(window, next, &region->windows, entry) {
		if (window == to)
			continue;
		if (pgmap_window_empty(window, to, true, change->flags,
				       change->flags & PGMAP_FORCE ?
				       pgmap_change_deadline(change) : jiffies,
				       change->stats))
			ret = -EBUSY;
		else
			pgmap_window_unregister(window);
	}
	if (change->regions)
		change->regions--;

	return ret;
}

/* How many regions of a peer have such pages? */
static unsigned int pgmap_peer_rests(struct pgmap_peer *peer)
{
	struct pgmap_region *region;
	unsigned int nr = 0;

	list_for_each_entry(region, &peer->regions, entry)
		nr += pgmap_region_has_rest(region);
	return nr;
}

static struct pgmap_window *pgmap_spare_find(struct pgmap_scratch *scratch,
					     unsigned long nr_slots)
{
	struct pgmap_window *window;

	list_for_each_entry(window, &scratch->spares, entry)
		if (window->region->nr_slots == nr_slots)
			return window;
	return NULL;
}

/* A window to move a region to. It may be gone, if it could not be emptied. */
static struct pgmap_window *pgmap_spare_get(struct pgmap_region *region,
					    struct pgmap_owner *owner)
{
	struct pgmap_scratch *scratch = region->peer->scratch;
	struct pgmap_window *window;

	window = pgmap_spare_find(scratch, region->nr_slots);
	if (!window) {
		window = pgmap_window_register(region, owner);
		if (!IS_ERR(window))
			list_add(&window->entry, &scratch->spares);
	}
	return window;
}

/* Register windows until no region of the peer lacks one to move to. */
static int pgmap_spares_register(struct pgmap_peer *peer,
				 struct pgmap_owner *owner)
{
	struct pgmap_region *region;

	list_for_each_entry(region, &peer->regions, entry) {
		struct pgmap_window *window;

		if (!pgmap_region_window(region))
			continue;
		window = pgmap_spare_get(region, owner);
		if (IS_ERR(window))
			return PTR_ERR(window);
	}

	return 0;
}

static void pgmap_spares_unregister(struct pgmap_peer *peer)
{
	struct pgmap_window *window, *next;

	list_for_each_entry_safe(window, next, &peer->scratch->spares, entry)
		pgmap_window_unregister(window);
}

/*
 * Make @new the current window and rehome the pages of the one that was. That one,
 * if it is drained, becomes a spare; otherwise it stays with the region, closed. Forced,
 * each page is tried once, and what stays is left to pgmap_region_reap(): nobody shall
 * wait for a page while others that could be saved have to.
 */
static int pgmap_region_switch(struct pgmap_region *region,
			       struct pgmap_window *new, unsigned long deadline,
			       struct pgmap_change *change)
{
	struct pgmap_window *old = pgmap_region_window(region);
	struct pgmap_drain once = {
		.window = old,
		.to = new,
		.deadline = jiffies,
		.whole = true,
		.stats = change->stats,
	};
	int err;

	list_move(&new->entry, &region->windows);
	rcu_assign_pointer(region->window, new);
	dev_pagemap_close(&old->pagemap);

	if (change->flags & PGMAP_FORCE)
		err = pgmap_window_drain(&once);
	else
		err = pgmap_window_empty(old, new, false, 0, deadline,
					 change->stats);
	if (!err)
		list_move(&old->entry, &region->peer->scratch->spares);
	return err;
}

/*
 * Give a region pages under @owner where there is no second window to move it to:
 * by way of system memory, which can fail. Then it has no device memory.
 */
static int pgmap_region_refill(struct pgmap_region *region,
			       struct pgmap_owner *owner, unsigned int flags,
			       unsigned long deadline, struct pgmap_stats *stats)
{
	struct pgmap_window *window = pgmap_region_window(region);
	int err;

	pgmap_region_close(region);
	pgmap_region_sweep(region, flags, deadline, stats);
	err = pgmap_region_evacuate(region, flags, deadline, stats);
	region->closed = NULL;
	if (err)
		return err;

	list_del_init(&window->entry);
	pgmap_region_unregister_windows(region);
	list_add(&window->entry, &region->windows);
	pgmap_window_renew(window, region, owner);
	rcu_assign_pointer(region->window, window);
	return 0;
}

/*
 * Rehome a region to a window under @owner. On error the region has the window from
 * before, and what could not be put back into that is left in a closed one; see "When
 * it can not finish". Forced, it has one under @owner in any case, or none if it could
 * not be refilled, and an error means that there are pages still in a closed one.
 */
static int pgmap_region_move(struct pgmap_region *region,
			     struct pgmap_owner *owner,
			     struct pgmap_change *change)
{
	struct pgmap_window *old = pgmap_region_window(region);
	unsigned long deadline = pgmap_change_deadline(change);
	struct pgmap_window *new;
	int err;

	if (!old || old->owner == owner)
		return 0;

	/* Also if nothing holds it up but its size. */
	if (!(change->flags & PGMAP_FORCE) && time_after(jiffies, deadline)) {
		pgmap_window_complain(old, "rehome", -EBUSY);
		return -EBUSY;
	}

	new = pgmap_spare_get(region, owner);
	if (IS_ERR(new))
		return change->flags & PGMAP_FORCE ?
		       pgmap_region_refill(region, owner, PGMAP_FORCE, deadline,
					   change->stats) : PTR_ERR(new);
	pgmap_window_renew(new, region, owner);

	err = pgmap_region_switch(region, new, deadline, change);
	if (!err || change->flags & PGMAP_FORCE)
		return err;

	dev_pagemap_reopen(&old->pagemap);
	pgmap_region_switch(region, old, pgmap_change_undo_deadline(change),
			    change);
	return err;
}

/*
 * The same on the way back, from which there is no way back: afterwards the region
 * gives pages under @owner, or none.
 */
static void pgmap_region_move_back(struct pgmap_region *region,
				   struct pgmap_owner *owner,
				   struct pgmap_change *change)
{
	unsigned long deadline = pgmap_change_undo_deadline(change);
	struct pgmap_window *old = pgmap_region_window(region);
	struct pgmap_window *new;

	if (!old || old->owner == owner)
		return;

	new = pgmap_spare_get(region, owner);
	if (IS_ERR(new)) {
		pgmap_region_refill(region, owner, 0, deadline, change->stats);
		return;
	}
	pgmap_window_renew(new, region, owner);
	pgmap_region_switch(region, new, deadline, change);
}

/* --- topology --- */

/* The first peer at or after *@i that is in @mask, or NULL. */
static struct pgmap_peer *pgmap_fabric_next(struct pgmap_fabric *fabric, u64 mask,
					    unsigned int *i)
{
	for (; *i < PGMAP_FABRIC_MAX_PEERS; (*i)++)
		if ((mask & BIT_ULL(*i)) && fabric->peers[*i])
			return fabric->peers[*i];
	return NULL;
}

static u64 pgmap_fabric_mask(struct pgmap_fabric *fabric)
{
	u64 mask = 0;
	unsigned int i;

	for (i = 0; i < PGMAP_FABRIC_MAX_PEERS; i++)
		if (fabric->peers[i])
			mask |= BIT_ULL(i);
	return mask;
}

static unsigned long pgmap_peer_resident(struct pgmap_peer *peer)
{
	struct pgmap_window *window;
	struct pgmap_region *region;
	unsigned long resident = 0;

	list_for_each_entry(region, &peer->regions, entry)
		list_for_each_entry(window, &region->windows, entry)
			resident += pgmap_window_resident(window);
	return resident;
}

/*
 * Who belongs together under &pgmap_scratch.links, and under which owner. Takes
 * the references in &pgmap_scratch.from and to, see pgmap_change_release().
 */
static int pgmap_change_partition(struct pgmap_change *change, u64 present)
{
	struct pgmap_partition *part = &change->scratch->partition;
	struct pgmap_fabric *fabric = change->fabric;
	struct pgmap_peer *peer, *other;
	unsigned int i, j;

	memset(part, 0, sizeof(*part));
	part->present = present;
	for (i = 0; (peer = pgmap_fabric_next(fabric, present, &i)); i++) {
		part->link[i] = change->scratch->links[i];
		part->weight[i] = pgmap_peer_resident(peer);
		part->old[i] = -1;
		if (!pgmap_peer_owner(peer))
			continue;
		/* An owner goes by the lowest of the peers that have it. */
		for (j = 0; (other = pgmap_fabric_next(fabric, present, &j)); j++) {
			if (pgmap_peer_owner(other) != pgmap_peer_owner(peer))
				continue;
			part->old[i] = j;
			break;
		}
	}

	pgmap_partition_solve(part);

	for (i = 0; (peer = pgmap_fabric_next(fabric, present, &i)); i++) {
		struct pgmap_scratch *scratch = peer->scratch;
		int cluster = part->cluster[i];
		struct pgmap_owner *owner = NULL;

		if (part->keep[cluster] >= 0) {
			other = fabric->peers[part->keep[cluster]];
			owner = pgmap_owner_get(pgmap_peer_owner(other));
		} else {
			/* New: made for the lowest member of the cluster. */
			for (j = 0; j < i; j++)
				if (part->cluster[j] == cluster)
					break;
			if (j < i)
				owner = pgmap_owner_get(fabric->peers[j]->scratch->to);
			else if (scratch->reserve)
				swap(owner, scratch->reserve);
			else
				/* There is no staying as it was if forced. */
				owner = pgmap_owner_alloc(GFP_KERNEL |
					(change->flags & PGMAP_FORCE ?
					 __GFP_NOFAIL : 0));
			if (!owner)
				return -ENOMEM;
		}
		scratch->to = owner;
		if (pgmap_peer_owner(peer))
			scratch->from = pgmap_owner_get(pgmap_peer_owner(peer));
		if (scratch->from != scratch->to)
			change->movers |= BIT_ULL(i);
	}

	return 0;
}

static void pgmap_change_release(struct pgmap_change *change, u64 present)
{
	struct pgmap_peer *peer;
	unsigned int i;

	for (i = 0; (peer = pgmap_fabric_next(change->fabric, present, &i)); i++) {
		pgmap_spares_unregister(peer);
		pgmap_owner_put(peer->scratch->from);
		pgmap_owner_put(peer->scratch->to);
		peer->scratch->from = NULL;
		peer->scratch->to = NULL;
		/* If there is none, the next change that needs it fails early. */
		if (!peer->scratch->reserve)
			peer->scratch->reserve = pgmap_owner_alloc(GFP_KERNEL);
	}
}

static void pgmap_peer_publish(struct pgmap_peer *peer, struct pgmap_owner *owner)
{
	struct pgmap_owner *last = pgmap_peer_owner(peer);

	/* A release: pairs with the smp_rmb() in pgmap_walk_begin(). */
	rcu_assign_pointer(peer->owner, owner ? pgmap_owner_get(owner) : NULL);
	pgmap_owner_put(last);
}

/* Hold the faults of a peer up, as their pages are about to be elsewhere. */
static void pgmap_peer_hold(struct pgmap_peer *peer)
{
	peer->scratch->since = ktime_get();
	WRITE_ONCE(peer->moves, peer->moves + 1);
	/* Pairs with the barriers in pgmap_walk_begin(), see there. */
	smp_mb();
}

static void pgmap_peer_release(struct pgmap_peer *peer, struct pgmap_stats *stats)
{
	u64 held = ktime_to_ns(ktime_sub(ktime_get(), peer->scratch->since));

	/* (C) Who sees this sees the owner that was published last. */
	smp_store_release(&peer->moves, peer->moves + 1);
	stats->stall_ns = max(stats->stall_ns, held);
	wake_up_all(&peer->fabric->wait);
}

/*
 * A walk that began under the old owner will be thrown away, but not before it has
 * brought pages to system memory that it does not recognise as its own any more.
 * So give it the time to end. It may take longer, for it can be in a page fault
 * that waits for user space: then pages bounce, and that is all.
 */
static void pgmap_peer_wait_walks(struct pgmap_peer *peer, unsigned long deadline)
{
	wait_event_timeout(peer->fabric->wait, !atomic_read(&peer->walks),
			   time_before(jiffies, deadline) ? deadline - jiffies : 0);
}

/*
 * Move all regions of a peer. On error some are under its new owner, some not; forced,
 * all are that can be, and pgmap_peer_reap() is to follow.
 */
static int pgmap_peer_move(struct pgmap_peer *peer, struct pgmap_change *change)
{
	struct pgmap_region *region;
	int err;

	list_for_each_entry(region, &peer->regions, entry) {
		err = pgmap_region_move(region, peer->scratch->to, change);
		if (err && !(change->flags & PGMAP_FORCE))
			return err;
	}
	return 0;
}

static int pgmap_peer_reap(struct pgmap_peer *peer, struct pgmap_change *change)
{
	struct pgmap_region *region;
	int ret = 0;

	list_for_each_entry(region, &peer->regions, entry)
		ret = pgmap_region_reap(region, change) ?: ret;
	return ret;
}

static void pgmap_peer_move_back(struct pgmap_peer *peer,
				 struct pgmap_change *change)
{
	struct pgmap_region *region;

	/* Nobody has mapped anything under the new owner: faults are held. */
	list_for_each_entry(region, &peer->regions, entry)
		pgmap_region_move_back(region, peer->scratch->from, change);
}

/* All that is left in closed windows has its share of the time, or of half of it. */
static int pgmap_change_reap(struct pgmap_change *change, u64 mask, bool half)
{
	struct pgmap_fabric *fabric = change->fabric;
	struct pgmap_peer *peer;
	unsigned int i, nr = 0;
	int ret = 0;

	for (i = 0; (peer = pgmap_fabric_next(fabric, mask, &i)); i++)
		nr += pgmap_peer_rests(peer);
	change->regions = half ? 2 * nr : nr;
	for (i = 0; nr && (peer = pgmap_fabric_next(fabric, mask, &i)); i++)
		ret = pgmap_peer_reap(peer, change) ?: ret;
	return ret;
}

/*
 * Steps 2 to 6. When it returns 0, every present peer has the owner in
 * &pgmap_scratch.to, and so has each page; otherwise the one in from.
 */
static int pgmap_change_apply(struct pgmap_change *change)
{
	bool force = change->flags & PGMAP_FORCE;
	struct pgmap_fabric *fabric = change->fabric;
	struct pgmap_stats *stats = change->stats;
	struct pgmap_peer *peer;
	unsigned long deadline;
	int err, ret = 0;
	unsigned int i;

	/* For those that have to go by way of system memory. */
	change->regions = 0;
	for (i = 0; (peer = pgmap_fabric_next(fabric, change->movers, &i)); i++) {
		err = pgmap_spares_register(peer, peer->scratch->to);
		if (err && !force)
			return err;
		change->regions += list_count_nodes(&peer->regions);
	}

	for (i = 0; (peer = pgmap_fabric_next(fabric, change->movers, &i)); i++) {
		pgmap_peer_hold(peer);
		pgmap_peer_publish(peer, peer->scratch->to);
	}
	deadline = jiffies + PGMAP_WALKS_TIMEOUT;
	if (time_after(deadline, change->deadline))
		deadline = change->deadline;
	for (i = 0; (peer = pgmap_fabric_next(fabric, change->movers, &i)); i++) {
		if (!peer->scratch->from)
			continue;
		if (peer->ops->unmap_foreign)
			peer->ops->unmap_foreign(peer);
		pgmap_peer_wait_walks(peer, deadline);
	}

	for (i = 0; (peer = pgmap_fabric_next(fabric, change->movers, &i)); i++) {
		ret = pgmap_peer_move(peer, change);
		if (ret)
			goto undo;
	}
	if (force)
		ret = pgmap_change_reap(change, change->movers, false);

	for (i = 0; (peer = pgmap_fabric_next(fabric, change->movers, &i)); i++) {
		pgmap_peer_release(peer, stats);
		if (peer->scratch->from)
			stats->peers_moved++;
	}
	return ret;

undo:
	/*
	 * All before any: a page that has moved is under an owner that another
	 * mover had before, and gets back.
	 */
	for (i = 0; (peer = pgmap_fabric_next(fabric, change->movers, &i)); i++)
		pgmap_peer_move_back(peer, change);
	for (i = 0; (peer = pgmap_fabric_next(fabric, change->movers, &i)); i++) {
		pgmap_peer_publish(peer, peer->scratch->from);
		/*
		 * A walk that nobody waited for any longer may have begun when
		 * the peer had the new owner the last time.
		 */
		if (peer->ops->unmap_foreign)
			peer->ops->unmap_foreign(peer);
		pgmap_peer_release(peer, stats);
	}
	return ret;
}

/* All steps. The links are in the scratch. */
static int pgmap_change(struct pgmap_change *change, u64 present)
{
	struct pgmap_fabric *fabric = change->fabric;
	int err, reap;

	lockdep_assert_held(&fabric->lock);

	reap = pgmap_change_reap(change, present, true);
	/* Who has the owner of what is left can map it, in whatever cluster. */
	if (reap && !(change->flags & PGMAP_FORCE))
		return reap;

	err = pgmap_change_partition(change, present);
	if (err)
		goto out_release;

	err = pgmap_change_apply(change) ?: reap;
	/* Forced, it happened even if not all of it worked. */
	if (!err || change->flags & PGMAP_FORCE)
		memcpy(fabric->links, change->scratch->links,
		       sizeof(fabric->links));

out_release:
	pgmap_change_release(change, present);
	return err;
}

#ifdef CONFIG_LOCKDEP
/*
 * Teach lockdep the order of locks before anybody gets it wrong. What drivers take
 * in their notifiers they teach it themselves, below fs_reclaim.
 */
static int __init pgmap_lockdep_init(void)
{
	static struct pgmap_fabric fabric __initdata;
	struct mm_struct *mm = mm_alloc();

	if (!mm)
		return -ENOMEM;

	pgmap_fabric_init(&fabric, "lockdep", NULL);
	mutex_lock(&fabric.lock);
	/* Who has it, and faults, may wait for a change of the topology. */
	mmap_read_lock(mm);
	fs_reclaim_acquire(GFP_KERNEL);
	lock_map_acquire(&__mmu_notifier_invalidate_range_start_map);
	lock_map_release(&__mmu_notifier_invalidate_range_start_map);
	fs_reclaim_release(GFP_KERNEL);
	mmap_read_unlock(mm);
	mutex_unlock(&fabric.lock);

	mmput(mm);
	return 0;
}
late_initcall(pgmap_lockdep_init);
#endif

/**
 * pgmap_fabric_init() - set up a fabric at run time
 * @fabric: zeroed by the caller
 * @name: for messages and resource names; must stay
 * @ops: callbacks, or NULL
 *
 * Nothing has to be undone when the last peer has left.
 *
 * Context: Any.
 */
void pgmap_fabric_init(struct pgmap_fabric *fabric, const char *name,
		       const struct pgmap_fabric_ops *ops)
{
	fabric->name = name;
	fabric->ops = ops;
	mutex_init(&fabric->lock);
	init_waitqueue_head(&fabric->wait);
}
EXPORT_SYMBOL_GPL(pgmap_fabric_init);

/**
 * pgmap_peer_join() - become part of a fabric
 * @fabric: the fabric
 * @peer: the peer: zeroed before the first time, or one that has left; name, ops and
 *	nid set
 * @timeout: give up after so long, in jiffies
 * @stats: what it did is added here; may be NULL
 *
 * Finds out the links of the peer, if the fabric can tell, and gives it an owner:
 * that of the cluster it now belongs to. Clusters may merge if they could have
 * before; then pages of other peers move.
 *
 * Context: May sleep. See &struct pgmap_fabric for the locks.
 * Return: 0; -EBUSY if the peer is a member already, or if pages of other peers
 *	   could not be moved in time; -ENODEV if it is lost; -ENOSPC if the fabric is
 *	   full; -ENOMEM or another error of memremap_pages(). On error nothing has
 *	   changed, save for what "When it can not finish" tells.
 */
int pgmap_peer_join(struct pgmap_fabric *fabric, struct pgmap_peer *peer,
		    unsigned long timeout, struct pgmap_stats *stats)
{
	struct pgmap_stats unused = {};
	struct pgmap_change change = {
		.fabric = fabric,
		.stats = stats ?: &unused,
	};
	struct pgmap_scratch *scratch;
	struct pgmap_peer *other;
	unsigned int i;
	u64 present;
	int err;

	if (WARN_ON_ONCE(!peer->ops || !peer->name))
		return -EINVAL;

	scratch = kvzalloc_obj(*scratch);
	if (!scratch)
		return -ENOMEM;
	INIT_LIST_HEAD(&scratch->spares);
	change.scratch = scratch;
	scratch->reserve = pgmap_owner_alloc(GFP_KERNEL);
	if (!scratch->reserve) {
		kvfree(scratch);
		return -ENOMEM;
	}

	mutex_lock(&fabric->lock);
	pgmap_change_start(&change, timeout);
	if (peer->scratch) {
		err = -EBUSY;
		goto err_unlock;
	}
	if (pgmap_peer_is_lost(peer)) {
		err = -ENODEV;
		goto err_unlock;
	}
	present = pgmap_fabric_mask(fabric);
	if (present == U64_MAX) {
		err = -ENOSPC;
		goto err_unlock;
	}

	peer->index = ffz(present);
	peer->fabric = fabric;
	peer->scratch = scratch;
	INIT_LIST_HEAD(&peer->regions);

	memcpy(scratch->links, fabric->links, sizeof(scratch->links));
	for (i = 0; (other = pgmap_fabric_next(fabric, present, &i)); i++) {
		if (!fabric->ops || !fabric->ops->linked ||
		    !fabric->ops->linked(peer, other) ||
		    !fabric->ops->linked(other, peer))
			continue;
		scratch->links[i] |= BIT_ULL(peer->index);
		scratch->links[peer->index] |= BIT_ULL(i);
	}

	fabric->peers[peer->index] = peer;
	err = pgmap_change(&change, present | BIT_ULL(peer->index));
	if (err)
		goto err_remove;
	mutex_unlock(&fabric->lock);

	return 0;

err_remove:
	fabric->peers[peer->index] = NULL;
	peer->scratch = NULL;
err_unlock:
	mutex_unlock(&fabric->lock);
	pgmap_owner_put(scratch->reserve);
	kvfree(scratch);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_peer_join);

/**
 * pgmap_peer_leave() - stop to be part of a fabric
 * @peer: the peer
 * @flags: 0, or %PGMAP_FORCE if it leaves in any case
 * @timeout: give up after so long, in jiffies
 * @stats: what it did is added here; may be NULL
 *
 * Brings all pages of the peer to system memory, which needs the device to be
 * able to copy, and unregisters them. When it returns 0, no page table, no other
 * peer and no walker of core mm refers to the peer's memory, the peer has dropped
 * its mappings of foreign memory, and no callback runs or will run for it. Its
 * regions need not be unregistered any more.
 *
 * If not all pages could be moved, the peer stays a member, and its memory works as
 * before, though some of its pages may be in system memory now.
 *
 * With %PGMAP_FORCE, or if the peer is lost, it is no member any more in any case: it
 * gives out no pages, has no owner and no foreign mappings, and nobody has mappings
 * of its pages, save those that were locked by somebody all the time. Pages that
 * could not be moved are poisoned, at once if the peer is lost. If it returns an
 * error, some are referred to still; then it has to be repeated until it returns 0,
 * before the memory behind struct pgmap_peer and its regions can be freed.
 *
 * Context: May sleep. See &struct pgmap_fabric for the locks.
 * Return: 0; -ENODEV if the peer is not a member; -EINVAL for unknown flags;
 *	   -EBUSY if pages stayed in use, -ENOMEM if there was no memory for them,
 *	   or the error of &pgmap_peer_ops.copy_to_ram. When forced, -EBUSY only.
 */
int pgmap_peer_leave(struct pgmap_peer *peer, unsigned int flags,
		     unsigned long timeout, struct pgmap_stats *stats)
{
	struct pgmap_fabric *fabric = peer->fabric;
	struct pgmap_region *region, *next;
	struct pgmap_scratch *scratch;
	struct pgmap_stats unused = {};
	struct pgmap_change change = {
		.fabric = fabric,
		.flags = flags,
		.stats = stats ?: &unused,
	};
	unsigned int i;
	int err, ret;

	if (flags & ~PGMAP_FORCE)
		return -EINVAL;
	if (!fabric)
		return -ENODEV;

	mutex_lock(&fabric->lock);
	pgmap_change_start(&change, timeout);
	scratch = peer->scratch;
	if (!scratch) {
		mutex_unlock(&fabric->lock);
		return -ENODEV;
	}

	/* There is nothing to come back to. */
	if (pgmap_peer_is_lost(peer))
		change.flags |= PGMAP_FORCE;

	/* All first, lest pages of one are moved to another. */
	pgmap_regions_close(peer);
	/*
	 * Again all, before one is waited for: a page that is held takes no time
	 * from others.
	 */
	list_for_each_entry(region, &peer->regions, entry) {
		err = pgmap_region_sweep(region, change.flags, change.deadline,
					 change.stats);
		if (change.flags & PGMAP_FORCE)
			continue;
		if ((err && err != -ENOMEM) || time_after(jiffies, change.deadline))
			break;
	}
again:
	ret = 0;
	change.regions = 0;
	list_for_each_entry(region, &peer->regions, entry)
		change.regions += pgmap_region_busy(region);
	list_for_each_entry(region, &peer->regions, entry) {
		if (!pgmap_region_busy(region))
			continue;
		err = pgmap_region_evacuate(region, change.flags,
					    pgmap_change_deadline(&change),
					    change.stats);
		if (change.regions)
			change.regions--;
		if (!err)
			continue;
		ret = err;
		if (!(change.flags & PGMAP_FORCE))
			break;
	}
	if (ret && !(change.flags & PGMAP_FORCE)) {
		if (pgmap_peer_is_lost(peer)) {
			change.flags |= PGMAP_FORCE;
			goto again;
		}
		pgmap_regions_reopen(peer);
		mutex_unlock(&fabric->lock);
		return ret;
	}

	/* From here on there is no way back. */
	pgmap_peer_publish(peer, NULL);
	if (peer->ops->unmap_foreign)
		peer->ops->unmap_foreign(peer);
	list_for_each_entry_safe(region, next, &peer->regions, entry) {
		region->closed = NULL;
		if (ret)
			continue;
		pgmap_region_unregister_windows(region);
		list_del_init(&region->entry);
	}

	if (pgmap_peer_joined(peer)) {
		for (i = 0; i < PGMAP_FABRIC_MAX_PEERS; i++)
			fabric->links[i] &= ~BIT_ULL(peer->index);
		fabric->links[peer->index] = 0;
		fabric->peers[peer->index] = NULL;

		/*
		 * The others may form larger clusters without this one. If that
		 * fails, or there is no time left for it, they go on in those they
		 * have, which are still good. To go back is to take no longer than
		 * there is time either.
		 */
		memcpy(scratch->links, fabric->links, sizeof(scratch->links));
		change.scratch = scratch;
		change.flags = 0;
		change.start = jiffies;
		change.undo_deadline = change.deadline;
		change.undone = true;
		if (time_before(change.start, change.deadline)) {
			change.deadline -= (change.deadline - change.start) / 2;
			pgmap_change(&change, pgmap_fabric_mask(fabric));
		}
	}

	if (!ret) {
		WRITE_ONCE(peer->lost, false);
		peer->scratch = NULL;
		pgmap_owner_put(scratch->reserve);
		kvfree(scratch);
	}
	mutex_unlock(&fabric->lock);

	return ret;
}
EXPORT_SYMBOL_GPL(pgmap_peer_leave);

/**
 * pgmap_peer_set_lost() - the device is gone, and its memory with it
 * @peer: a member of a fabric
 *
 * From now on what is copied from or to the peer is thrown away. A copy may begin
 * still, by somebody who has just looked: until pgmap_peer_leave() has returned the
 * driver has to keep what its callbacks access, or keep them from it, as by
 * drm_dev_enter(). The peer's walks end with -ENODEV. What is mapped stays so until
 * pgmap_peer_leave(), which is to follow, and which poisons it; until then it is up to
 * the driver's migrate_to_ram() to return VM_FAULT_HWPOISON if pgmap_peer_is_lost().
 *
 * Not to be called when pgmap_peer_leave() has returned 0: there would be nobody to
 * take it back, and the peer could not join again.
 *
 * Context: Any. Takes no lock, so that an operation that holds the fabric's can
 *	    learn of it.
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
	 * Who has read what the reset left behind finds the device lost.
	 */
	wmb();
}
EXPORT_SYMBOL_GPL(pgmap_peer_set_lost);

/**
 * pgmap_fabric_set_links() - links come up, go down, or both
 * @fabric: the fabric
 * @links: what changes; if a pair is named more than once, the last counts
 * @nr: number of entries
 * @flags: 0, or %PGMAP_FORCE if the links are gone already
 * @timeout: give up after so long, in jiffies
 * @stats: what it did is added here; may be NULL
 *
 * All links change in one step: the fabric's peers are divided anew, and those
 * that get another owner are moved. When it returns 0, no peer maps memory of a
 * peer outside its cluster. Links that go down in a planned way must work until
 * then; they are used again if it fails.
 *
 * With %PGMAP_FORCE pages that can't be moved in time are poisoned. Those of a region
 * for which there is no second window go to system memory; if one can't, the region has
 * no device memory any more: pgmap_window_get() returns NULL until
 * pgmap_region_unregister() has returned 0 and the region is registered again.
 *
 * Context: May sleep. See &struct pgmap_fabric for the locks.
 * Return: 0; -EINVAL for unknown flags, an empty change, a pair that is not one,
 *	   or a peer of another fabric; -EBUSY if pages could not be moved in time;
 *	   -ENOMEM or another error of memremap_pages(). On error nothing has
 *	   changed, save for what "When it can not finish" tells; when forced,
 *	   the links have, and pages that could not be moved remain in closed
 *	   windows, until the call is repeated and returns 0.
 */
int pgmap_fabric_set_links(struct pgmap_fabric *fabric,
			   const struct pgmap_link *links, unsigned int nr,
			   unsigned int flags, unsigned long timeout,
			   struct pgmap_stats *stats)
{
	struct pgmap_stats unused = {};
	struct pgmap_change change = {
		.fabric = fabric,
		.flags = flags,
		.stats = stats ?: &unused,
	};
	unsigned int i;
	int err;

	if (flags & ~PGMAP_FORCE || !nr)
		return -EINVAL;

	mutex_lock(&fabric->lock);
	pgmap_change_start(&change, timeout);
	for (i = 0; i < nr; i++) {
		const struct pgmap_link *link = &links[i];

		if (link->a == link->b ||
		    link->a->fabric != fabric || !pgmap_peer_joined(link->a) ||
		    link->b->fabric != fabric || !pgmap_peer_joined(link->b)) {
			err = -EINVAL;
			goto out_unlock;
		}
		if (!i) {
			change.scratch = link->a->scratch;
			memcpy(change.scratch->links, fabric->links,
			       sizeof(fabric->links));
		}
		if (link->up) {
			change.scratch->links[link->a->index] |= BIT_ULL(link->b->index);
			change.scratch->links[link->b->index] |= BIT_ULL(link->a->index);
		} else {
			change.scratch->links[link->a->index] &= ~BIT_ULL(link->b->index);
			change.scratch->links[link->b->index] &= ~BIT_ULL(link->a->index);
		}
	}
	err = pgmap_change(&change, pgmap_fabric_mask(fabric));

out_unlock:
	mutex_unlock(&fabric->lock);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_fabric_set_links);

/**
 * pgmap_peer_reaches_pci() - can a peer use another one's memory by PCI peer-to-peer?
 * @from: the peer that accesses
 * @to: the peer whose memory it is: all of its BARs are the same in this
 *
 * What &pgmap_fabric_ops.linked is for devices that have no other interconnect. Two
 * devices under one switch reach each other, unless ACS sends all traffic upstream;
 * beyond that it is a matter of the CPU and the host bridge. One direction can work
 * where the other one does not.
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

/**
 * pgmap_peers_share() - can two peers use each other's memory in place?
 * @a: a peer
 * @b: a peer
 *
 * Context: Any. The answer can be stale when it is used; for pages that
 *	    hmm_range_fault() found, pgmap_walk_retry() is the answer.
 * Return: true if both have the same owner.
 */
bool pgmap_peers_share(struct pgmap_peer *a, struct pgmap_peer *b)
{
	struct pgmap_owner *owner = rcu_access_pointer(a->owner);

	return owner && owner == rcu_access_pointer(b->owner);
}
EXPORT_SYMBOL_GPL(pgmap_peers_share);

/**
 * pgmap_peer_owner_id() - a number for a peer's owner, to show to people
 * @peer: a peer
 *
 * Context: Any. Can be stale when it is used.
 * Return: A number that no other owner has had since boot; 0 if the peer is not
 *	   part of a fabric.
 */
u64 pgmap_peer_owner_id(struct pgmap_peer *peer)
{
	struct pgmap_owner *owner;
	u64 id = 0;

	rcu_read_lock();
	owner = rcu_dereference(peer->owner);
	if (owner)
		id = owner->id;
	rcu_read_unlock();

	return id;
}
EXPORT_SYMBOL_GPL(pgmap_peer_owner_id);

/* --- regions --- */

/**
 * pgmap_region_register() - offer a run of slots as device pages
 * @peer: whose they are; a member of a fabric
 * @region: zeroed, or unregistered
 * @nr_slots: size in pages; whole 2 MiB subsections
 * @pgmap_ops: the driver's dev_pagemap callbacks. folio_free() is also called for
 *	pages that never held anything; their zone_device_data is NULL.
 *
 * When it returns 0, pgmap_window_get() gives pages under the peer's owner. They are
 * private, or coherent if the peer has &pgmap_peer.mem: then they are to be used singly,
 * and folio_free() may be called in an interrupt.
 *
 * Context: May sleep. See &struct pgmap_fabric for the locks.
 * Return: 0; -EINVAL for a bad size or a peer that lacks one of copy_to_ram(),
 *	   rehome(), and copy() if its memory is coherent, or then migrate_to_ram();
 *	   -ENODEV if the peer is not a member, or lost; -EBUSY if the region is
 *	   registered; -ENOSPC if &pgmap_peer.mem has no room;
 *	   or an error of memremap_pages().
 */
int pgmap_region_register(struct pgmap_peer *peer, struct pgmap_region *region,
			  unsigned long nr_slots,
			  const struct dev_pagemap_ops *pgmap_ops)
{
	struct pgmap_fabric *fabric = peer->fabric;
	struct pgmap_window *window;
	int err = 0;

	if (!fabric)
		return -ENODEV;
	if (!nr_slots || !IS_ALIGNED(nr_slots, PAGES_PER_SUBSECTION) ||
	    nr_slots > ULONG_MAX >> PAGE_SHIFT ||
	    !peer->ops->copy_to_ram || !peer->ops->rehome ||
	    (peer->mem && (!peer->ops->copy || !pgmap_ops->migrate_to_ram)))
		return -EINVAL;

	mutex_lock(&fabric->lock);
	if (!pgmap_peer_joined(peer) || pgmap_peer_is_lost(peer)) {
		err = -ENODEV;
		goto out_unlock;
	}
	/* One that has lost its memory is on its peer's list still. */
	if (region->peer && (!list_empty(&region->windows) ||
			     (!list_empty(&region->entry) && region->peer != peer))) {
		err = -EBUSY;
		goto out_unlock;
	}

	if (!region->peer)
		INIT_LIST_HEAD(&region->entry);
	region->peer = peer;
	region->nr_slots = nr_slots;
	region->pgmap_ops = pgmap_ops;
	INIT_LIST_HEAD(&region->windows);

	window = pgmap_window_register(region, pgmap_peer_owner(peer));
	if (IS_ERR(window)) {
		err = PTR_ERR(window);
		goto out_unlock;
	}
	list_add(&window->entry, &region->windows);
	if (list_empty(&region->entry))
		list_add_tail(&region->entry, &peer->regions);
	rcu_assign_pointer(region->window, window);

out_unlock:
	mutex_unlock(&fabric->lock);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_region_register);

/**
 * pgmap_region_unregister() - take a run of slots back
 * @region: the region
 * @flags: 0, or %PGMAP_FORCE if it must not give pages out again in any case
 * @timeout: give up after so long, in jiffies
 * @stats: what it did is added here; may be NULL
 *
 * Brings all pages of the region to system memory and unregisters them. When it
 * returns 0 nothing refers to them any more, and the region's memory can be freed.
 *
 * Context: May sleep. See &struct pgmap_fabric for the locks.
 * Return: 0, also if the region is not registered or its peer has left; -EINVAL for
 *	   unknown flags; otherwise as for pgmap_peer_leave(), and the region works
 *	   as before, or stays closed when forced or if the peer is lost.
 */
int pgmap_region_unregister(struct pgmap_region *region, unsigned int flags,
			    unsigned long timeout, struct pgmap_stats *stats)
{
	struct pgmap_stats unused = {};
	struct pgmap_fabric *fabric;
	int err = 0;

	if (flags & ~PGMAP_FORCE)
		return -EINVAL;
	if (!region->peer)
		return 0;

	fabric = region->peer->fabric;
	mutex_lock(&fabric->lock);
	if (!list_empty(&region->windows))
		err = pgmap_region_take_back(region, flags, jiffies + timeout,
					     stats ?: &unused);
	if (!err)
		list_del_init(&region->entry);
	mutex_unlock(&fabric->lock);

	return err;
}
EXPORT_SYMBOL_GPL(pgmap_region_unregister);

/* --- walks --- */

/* A test stops here, to be overtaken by a change of the topology. */
VISIBLE_IF_KUNIT void pgmap_walk_race(void)
{
	KUNIT_STATIC_STUB_REDIRECT(pgmap_walk_race);
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_walk_race);

/**
 * pgmap_walk_begin() - start to look pages up on behalf of a peer
 * @peer: the peer; NULL if device memory shall come back to system memory
 * @walk: set up here
 *
 * &pgmap_walk.owner is what belongs into &hmm_range.dev_private_owner. It stays
 * valid, and its address is not used again, until pgmap_walk_end().
 *
 * While the peer's own pages move to another window, this waits: a walk under the
 * new owner would take the pages that have not moved yet for foreign ones and
 * bring them to system memory.
 *
 *	pgmap_walk_begin()			topology change
 *	------------------			---------------
 *	read moves: even	(C)		moves++: odd
 *	walks++					smp_mb()		(A)
 *	smp_mb()	(A)			owner = new (release)	(B)
 *	read owner				wait until walks is 0
 *	smp_rmb()	(B)			moves++: even (release)	(C)
 *	read moves: as before?
 *
 * (A) A walk that is not waited for sees that moves is not what it was. (B) So does
 * one that saw the new owner. It is a count, and not a flag, since all of the right
 * side, and the way back too, may happen between any two lines of the left one.
 * (C) Who sees the move end sees the owner that was published last.
 *
 * Context: May sleep. The caller holds neither mmap_lock nor a lock that mmu
 *	    notifiers or the callbacks of &struct pgmap_peer_ops take.
 * Return: 0; -EINTR if a fatal signal is pending; -ENODEV if the peer is not a
 *	   member of a fabric, or lost. On error there is nothing to end.
 */
int pgmap_walk_begin(struct pgmap_peer *peer, struct pgmap_walk *walk)
{
	struct pgmap_fabric *fabric;
	struct pgmap_owner *owner;
	unsigned int moves;

	walk->peer = peer;
	walk->owner = NULL;
	if (!peer)
		return 0;

	fabric = READ_ONCE(peer->fabric);
	if (!fabric || pgmap_peer_is_lost(peer))
		return -ENODEV;

	/* It may wait for the holder of the lock, and so for its callbacks. */
	might_lock(&fabric->lock);
	if (current->mm)
		might_lock_read(&current->mm->mmap_lock);

	for (;;) {
		moves = smp_load_acquire(&peer->moves);		/* (C) */
		if (moves & 1) {
			if (wait_event_killable(fabric->wait,
						READ_ONCE(peer->moves) != moves))
				return -EINTR;
			continue;
		}
		pgmap_walk_race();

		atomic_inc(&peer->walks);
		smp_mb__after_atomic();		/* (A) */

		rcu_read_lock();
		owner = rcu_dereference(peer->owner);
		if (owner && kref_get_unless_zero(&owner->ref))
			walk->owner = owner;
		rcu_read_unlock();

		smp_rmb();			/* (B) */
		if (READ_ONCE(peer->moves) == moves && owner == walk->owner)
			break;
		pgmap_walk_end(walk);
		walk->peer = peer;
	}

	if (!owner) {
		pgmap_walk_end(walk);
		return -ENODEV;
	}

	if (should_fail(&slow_pgmap, 1))
		msleep(PGMAP_SLOW_MS);
	return 0;
}
EXPORT_SYMBOL_GPL(pgmap_walk_begin);

/**
 * pgmap_walk_retry() - did the peer change cluster during the walk?
 * @walk: from pgmap_walk_begin()
 *
 * To be asked in the same critical section as mmu_interval_read_retry(), once for
 * the whole range. P leaves the cluster of A while it looks up A's pages:
 *
 *	P's fault handler			topology change
 *	-----------------			---------------
 *	pgmap_walk_begin(): old owner
 *	hmm_range_fault()
 *	  A's page, owner matches
 *						P's owner = new
 *						unmap_foreign(P):
 *						  lock(P's page table)
 *						  unmap
 *						  unlock(P's page table)
 *	lock(P's page table)
 *	mmu_interval_read_retry(): no, A's
 *	  page did not move
 *	pgmap_walk_retry(): yes
 *	unlock(P's page table)
 *
 * If P takes its lock first, it maps the page and unmap_foreign() finds it there.
 * The lock orders the accesses to the owner; no barrier is needed.
 *
 * Context: The lock that the driver takes in unmap_foreign() is held.
 * Return: true if what was found must not be used.
 */
bool pgmap_walk_retry(const struct pgmap_walk *walk)
{
	return walk->peer && rcu_access_pointer(walk->peer->owner) != walk->owner;
}
EXPORT_SYMBOL_GPL(pgmap_walk_retry);

/**
 * pgmap_walk_end() - the walk is over
 * @walk: from pgmap_walk_begin()
 *
 * Context: Any.
 */
void pgmap_walk_end(struct pgmap_walk *walk)
{
	struct pgmap_peer *peer = walk->peer;

	if (!peer)
		return;
	pgmap_owner_put(walk->owner);
	walk->peer = NULL;
	walk->owner = NULL;
	if (atomic_dec_and_test(&peer->walks) && READ_ONCE(peer->moves) & 1)
		wake_up_all(&peer->fabric->wait);
}
EXPORT_SYMBOL_GPL(pgmap_walk_end);

/* Is it coherent memory that a walk under @owner must not use? */
static bool pgmap_page_foreign(struct page *page, struct pgmap_owner *owner)
{
	struct dev_pagemap *pagemap;

	if (!is_device_coherent_page(page))
		return false;
	pagemap = page_pgmap(page);
	return pagemap->flags & PGMAP_WINDOW && pagemap->owner != owner;
}

/*
 * The first foreign page of a range that has been walked, from entry @i, or the
 * number of entries. Nothing keeps what a walk has found:
 *
 *	pgmap_walk_next()			the window of a page
 *	-----------------			--------------------
 *	hmm_range_fault(): the page
 *	rcu_read_lock()
 *						invalidate: the sequence changes
 *						unmap the page, free it
 *	the sequence is as before? no		memunmap_pages(), or renew:
 *						  synchronize_rcu() {
 *	look at the page
 *	rcu_read_unlock()
 *						  }
 *						  free the memmap, change the owner
 *
 * If the sequence is as it was, pages are freed after the RCU read section began, and
 * until it ends, memmap, pagemap and owner stay. If not, the range is looked up again
 * in any case, for pgmap_range_retry() is true. System memory is not looked at.
 */
static unsigned long pgmap_walk_next(const struct pgmap_walk *walk,
				     const struct hmm_range *range, unsigned long i)
{
	unsigned long nr = (range->end - range->start) >> PAGE_SHIFT;

	while (i < nr) {
		unsigned long end = min(i + PGMAP_BATCH, nr);

		guard(rcu)();
		if (mmu_interval_check_retry(range->notifier, range->notifier_seq))
			return nr;
		for (; i < end; i++) {
			unsigned long pfn = range->hmm_pfns[i];

			if (!(pfn & HMM_PFN_VALID) ||
			    pfn_to_online_page(pfn & ~HMM_PFN_FLAGS))
				continue;
			if (pgmap_page_foreign(hmm_pfn_to_page(pfn), walk->owner))
				return i;
		}
	}

	return nr;
}

/**
 * pgmap_walk_hide() - remove what a walk must not use from its result
 * @walk: from pgmap_walk_begin()
 * @range: what hmm_range_fault() has returned 0 for, under &pgmap_walk.owner
 *
 * For who does not want pages to be faulted in, and calls hmm_range_fault() itself:
 * entries of coherent memory that the peer can't reach become empty, as those of
 * private memory are. pgmap_walk_fault() does it by itself.
 *
 * Context: Any.
 */
void pgmap_walk_hide(const struct pgmap_walk *walk, struct hmm_range *range)
{
	unsigned long nr = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long i;

	if (!atomic_read(&pgmap_nr_coherent))
		return;
	/* What is left is what hmm_range_fault() leaves of an entry too. */
	for (i = 0; (i = pgmap_walk_next(walk, range, i)) < nr; i++)
		range->hmm_pfns[i] &= HMM_PFN_DMA_MAPPED | HMM_PFN_P2PDMA |
				      HMM_PFN_P2PDMA_BUS;
}
EXPORT_SYMBOL_GPL(pgmap_walk_hide);

/*
 * Bring foreign coherent pages in [addr, end) to system memory, by what does that for
 * private ones when a page fault meets them. Best effort: the caller walks again.
 */
static int pgmap_walk_evict(const struct pgmap_walk *walk, struct mm_struct *mm,
			    unsigned long addr, unsigned long end)
{
	struct vm_area_struct *vma = NULL;
	vm_fault_t ret = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for (; addr < end && !(ret & VM_FAULT_ERROR); addr += PAGE_SIZE) {
		struct folio_walk fw;
		struct folio *folio;

		if (!vma || addr >= vma->vm_end)
			vma = vma_lookup(mm, addr);
		if (!vma || fatal_signal_pending(current))
			break;

		folio = folio_walk_start(&fw, vma, addr, 0);
		if (!folio)
			continue;
		/* It is not waited for: who has it may be about to free it. */
		if (!pgmap_page_foreign(fw.page, walk->owner) ||
		    !folio_trylock(folio)) {
			folio_walk_end(&fw, vma);
		} else {
			struct vm_fault vmf = {
				.vma = vma,
				.address = addr,
				.page = fw.page,
			};

			folio_get(folio);
			folio_walk_end(&fw, vma);
			ret = page_pgmap(vmf.page)->ops->migrate_to_ram(&vmf);
			folio_unlock(folio);
			folio_put(folio);
		}
		cond_resched();
	}
	mmap_read_unlock(mm);

	return vm_fault_to_errno(ret, 0);
}

/**
 * pgmap_walk_fault() - hmm_range_fault() for a walk that has begun
 * @walk: from pgmap_walk_begin()
 * @range: as for hmm_range_fault_unlocked_timeout(); the owner is filled in.
 *	&hmm_range.default_flags tell what is to be faulted in; pfn_flags_mask is 0.
 * @timeout: as for hmm_range_fault_unlocked_timeout()
 *
 * hmm_range_fault() brings private pages of other owners to system memory, or shows
 * nothing there. This does the same to coherent pages of peers in other clusters. To
 * do it there would cost every walker a look at the struct page of each page.
 *
 * Context: May sleep. Takes mmap_lock.
 * Return: 0, and the caller owes pgmap_range_retry() under its page table lock; -EBUSY
 *	   also if such pages do not go; -EFAULT also if one is lost; or an error of
 *	   hmm_range_fault_unlocked_timeout(). The walk goes on in any case.
 */
int pgmap_walk_fault(const struct pgmap_walk *walk, struct hmm_range *range,
		     unsigned long timeout)
{
	unsigned long nr = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long start = jiffies, spent = 0;
	unsigned long i, last = nr;
	int err;

	range->dev_private_owner = walk->owner;
	for (;;) {
		err = hmm_range_fault_unlocked_timeout(range, timeout - spent);
		if (err || !atomic_read(&pgmap_nr_coherent))
			return err;
		if (!(range->default_flags & HMM_PFN_REQ_FAULT)) {
			pgmap_walk_hide(walk, range);
			return 0;
		}

		i = pgmap_walk_next(walk, range, 0);
		if (i == nr)
			return 0;
		/* The same again: somebody keeps it. */
		if (i == last)
			schedule_timeout_killable(1);
		last = i;
		if (fatal_signal_pending(current))
			return -EINTR;
		if (timeout) {
			spent = jiffies - start;
			if (spent >= timeout)
				return -EBUSY;
		}

		err = pgmap_walk_evict(walk, range->notifier->mm,
				       range->start + (i << PAGE_SHIFT), range->end);
		if (err)
			return err;
	}
}
EXPORT_SYMBOL_GPL(pgmap_walk_fault);

/**
 * pgmap_range_fault() - hmm_range_fault() on behalf of a peer
 * @peer: as for pgmap_walk_begin()
 * @walk: set up here; if it returns 0 the caller owes pgmap_range_retry() under
 *	its page table lock, and pgmap_walk_end()
 * @range: as for pgmap_walk_fault()
 * @timeout: as for pgmap_walk_fault()
 *
 * Context: As for pgmap_walk_begin().
 * Return: 0 or the error of one of the two. On error there is nothing to end.
 */
int pgmap_range_fault(struct pgmap_peer *peer, struct pgmap_walk *walk,
		      struct hmm_range *range, unsigned long timeout)
{
	int err;

	err = pgmap_walk_begin(peer, walk);
	if (err)
		return err;

	err = pgmap_walk_fault(walk, range, timeout);
	if (err)
		pgmap_walk_end(walk);
	return err;
}
EXPORT_SYMBOL_GPL(pgmap_range_fault);
