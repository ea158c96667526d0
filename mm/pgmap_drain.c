// SPDX-License-Identifier: GPL-2.0
/*
 * Getting pages out of windows: rehome, evacuate, poison.
 */
#define pr_fmt(fmt) "pgmap_owner: " fmt

#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/export.h>
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include "pgmap_internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pgmap_owner.h>

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
static void pgmap_rehome_prepare(struct pgmap_scratch *scratch,
				 struct pgmap_window *to, unsigned long slot,
				 unsigned long nr)
{
	unsigned long i, step;

	for (i = 0; i < nr; i += step) {
		struct folio *src = pgmap_batch_src(scratch, i);
		unsigned int order = src ? folio_order(src) : 0;
		struct folio *dst;

		step = 1UL << order;
		if (!src)
			continue;

		/* NULL if the page still has a reference from its last use. */
		dst = pgmap_window_folio(to, slot + i, order);
		if (!dst)
			continue;
		scratch->dst[i] = migrate_pfn(folio_pfn(dst));
		if (order)
			scratch->dst[i] |= MIGRATE_PFN_COMPOUND;
	}
}

VISIBLE_IF_KUNIT struct folio *pgmap_folio_alloc(unsigned int order)
{
	KUNIT_STATIC_STUB_REDIRECT(pgmap_folio_alloc, order);

	/* A large folio saves time; a small one is needed. */
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
 * Allocate system pages for the sources in the batch: large ones, or else small ones,
 * for which migrate_device_pages() splits the source.
 *
 * Return: 0, or -ENOMEM if there is none for some of them.
 */
static int pgmap_evacuate_prepare(struct pgmap_scratch *scratch, unsigned long nr)
{
	unsigned long i, j, step;
	int err = 0;

	for (i = 0; i < nr; i += step) {
		struct folio *src = pgmap_batch_src(scratch, i);
		unsigned int order = src ? folio_order(src) : 0;

		step = 1UL << order;
		/* After a failure, do not make reclaim try again for each page. */
		if (!src || err || (order && pgmap_dst_alloc(scratch, i, order)))
			continue;

		for (j = 0; j < step; j++)
			if (!pgmap_dst_alloc(scratch, i + j, 0))
				break;
		if (j == step)
			continue;

		err = -ENOMEM;
		while (j--)
			pgmap_dst_free(scratch, i + j);
	}
	return err;
}

/*
 * Have the driver copy the batch to system memory. The pages do not change until
 * migrate_device_finalize(): they are locked, in no page table, and those with other
 * references are not part of the batch.
 */
static int pgmap_batch_copy(struct pgmap_region *region, unsigned long nr,
			    struct pgmap_stats *stats)
{
	struct pgmap_peer *peer = region->peer;
	struct pgmap_scratch *scratch = peer->scratch;
	unsigned long i, bytes = 0;
	int err = -EIO;

	for (i = 0; i < nr; i++) {
		struct page *dst = migrate_pfn_to_page(scratch->dst[i]);

		if (dst)
			bytes += folio_size(page_folio(dst));
	}
	if (!bytes)
		return 0;

	if (!pgmap_peer_is_lost(peer))
		err = peer->ops->copy_to_ram(region, scratch->src, scratch->dst, nr);
	/* If the peer was lost meanwhile, the copy is invalid. */
	if (!err && pgmap_peer_was_lost(peer))
		err = -EIO;
	if (!err) {
		stats->bytes_copied += bytes;
		return 0;
	}

	for (i = 0; i < nr; i++)
		if (migrate_pfn_to_page(scratch->dst[i]))
			pgmap_dst_free(scratch, i);
	return err;
}

/* Number of pages that migrate; for those that are rehomed the driver is told. */
static unsigned long pgmap_batch_moved(struct pgmap_region *region,
				       struct pgmap_window *to, unsigned long nr)
{
	struct pgmap_peer *peer = region->peer;
	struct pgmap_scratch *scratch = peer->scratch;
	unsigned long i, step, moved = 0;

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
		if (to)
			peer->ops->rehome(region, page_folio(src), page_folio(dst));
		moved += step;
	}
	return moved;
}

static void pgmap_drain_batch(struct pgmap_window *window, struct pgmap_drain *drain,
			      unsigned long slot, unsigned long nr)
{
	struct pgmap_region *region = window->region;
	struct pgmap_scratch *scratch = region->peer->scratch;
	unsigned long moved;
	int err;

	if (drain->poison) {
		drain->stats->pages_poisoned +=
			migrate_device_poison(pgmap_window_pfn(window, slot), nr);
		return;
	}
	migrate_device_range(scratch->src, pgmap_window_pfn(window, slot), nr);
	if (drain->to) {
		pgmap_rehome_prepare(scratch, drain->to, slot, nr);
	} else {
		err = pgmap_evacuate_prepare(scratch, nr);
		err = pgmap_batch_copy(region, nr, drain->stats) ?: err;
		drain->err = err ?: drain->err;
	}
	migrate_device_pages(scratch->src, scratch->dst, nr);
	moved = pgmap_batch_moved(region, drain->to, nr);
	migrate_device_finalize(scratch->src, scratch->dst, nr);

	if (drain->to)
		drain->stats->pages_rehomed += moved;
	else
		drain->stats->pages_evacuated += moved;
}

/*
 * Try to move each page of a closed window once, or poison it. Then the data is lost, and
 * only a page that is locked is left: all others are in no page table, whatever their
 * references.
 */
static void pgmap_window_sweep(struct pgmap_window *window, struct pgmap_drain *drain)
{
	unsigned long nr_slots = window->region->nr_slots;
	struct pgmap_peer *peer = window->region->peer;
	unsigned long slot, nr;

	lockdep_assert_held(&peer->lock);

	drain->err = 0;
	if (!atomic_long_read(&window->pages))
		return;
	for (slot = 0; slot < nr_slots; slot += nr) {
		if (!drain->poison && (pgmap_peer_is_lost(peer) ||
				       (!drain->all && time_after(jiffies, drain->deadline))))
			break;
		nr = min(PGMAP_BATCH, nr_slots - slot);
		pgmap_drain_batch(window, drain, slot, nr);
		cond_resched();
	}
}

/*
 * Try to empty a closed window: each page once. This misses a page that is locked (by a
 * CPU fault that brings it back, or a migration that brings it in) or referred to, and the
 * caller tries again. No new page appears:
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
 * Return: 0 if no page of the window is in use, in no page table and by no driver;
 * otherwise -EBUSY, or the reason why a page could not be moved.
 */
int pgmap_window_drain(struct pgmap_window *window, struct pgmap_drain *drain)
{
	unsigned long wait = 0;

	pgmap_window_sweep(window, drain);
	/* Without pages, it is a matter of RCU until the reference is gone. */
	if (!atomic_long_read(&window->pages))
		wait = PGMAP_IDLE_TIMEOUT;
	return dev_pagemap_wait_idle(&window->pagemap, wait) ? 0 : drain->err ?: -EBUSY;
}

/*
 * Name a page that holds an operation up, in the log and in a trace event: the first page
 * with references beyond its mappings, or else a page for which there was no time.
 */
void pgmap_window_complain(struct pgmap_window *window, const char *what, int err)
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
		pr_warn_ratelimited("%s: cannot %s: pfn %#lx has %d references, %d mappings (%pe)\n",
				    name, what, pfn, refs, mappings, ERR_PTR(err));
	else
		pr_warn_ratelimited("%s: cannot %s: no page is in use, but the pagemap is (%pe)\n",
				    name, what, ERR_PTR(err));
}
