// SPDX-License-Identifier: GPL-2.0
/*
 * Getting pages out of windows: rehome, evacuate, poison.
 */
#define pr_fmt(fmt) "pgmap_owner: " fmt

#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/export.h>
#include <linux/fault-inject.h>
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include "pgmap_internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pgmap_owner.h>

/*
 * Makes large pages hard to get, and devices fail to copy. Every other step that can
 * fail is an allocation, for which there are failslab and fail_page_alloc.
 */
static DECLARE_FAULT_ATTR(fail_pgmap);

static int __init pgmap_debugfs_init(void)
{
	fault_create_debugfs_attr("fail_pgmap", NULL, &fail_pgmap);
	return 0;
}
late_initcall(pgmap_debugfs_init);

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

		/* NULL if somebody still holds the page from its last use. */
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

	if (order && should_fail(&fail_pgmap, PAGE_SIZE << order))
		return NULL;

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
 * Have the driver copy the batch to system memory. Nobody can write to the pages until
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

	if (!pgmap_peer_is_lost(peer) && !should_fail(&fail_pgmap, bytes))
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

	drain->moved += moved;
	if (drain->to)
		drain->stats->pages_rehomed += moved;
	else
		drain->stats->pages_evacuated += moved;
}

/**
 * pgmap_window_sweep() - try to move each page of a closed window once
 * @window: the window
 * @drain: where to, and until when
 */
void pgmap_window_sweep(struct pgmap_window *window, struct pgmap_drain *drain)
{
	unsigned long nr_slots = window->region->nr_slots;
	unsigned long slot, nr;

	lockdep_assert_held(&window->region->peer->lock);

	drain->err = 0;
	if (!atomic_long_read(&window->pages))
		return;
	for (slot = 0; slot < nr_slots; slot += nr) {
		nr = min(PGMAP_BATCH, nr_slots - slot);
		pgmap_drain_batch(window, drain, slot, nr);
		if (!drain->force && time_after(jiffies, drain->deadline))
			break;
		cond_resched();
	}
}

/* How long to wait before the next attempt: longer each time, while there is time. */
static unsigned long pgmap_wait(unsigned long *wait, unsigned long deadline)
{
	unsigned long left = time_before(jiffies, deadline) ? deadline - jiffies : 0;
	unsigned long now = min(*wait, left);

	*wait = min(*wait * 2, HZ / 10 + 1UL);
	return now;
}

/**
 * pgmap_window_drain() - empty a closed window
 * @window: the window
 * @drain: where to, and until when
 *
 * Sweep until the last page is freed. A sweep misses a page that somebody has locked
 * (a CPU fault that brings it back, a migration that brings it in) or refers to. No
 * new page appears:
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
 * Context: May sleep. &pgmap_peer.lock is held. A fatal signal ends it.
 * Return: 0 if no page of the window is left, in no page table and with no driver;
 *	   otherwise -EBUSY, or the reason why a page could not be moved.
 */
int pgmap_window_drain(struct pgmap_window *window, struct pgmap_drain *drain)
{
	struct pgmap_peer *peer = window->region->peer;
	unsigned long wait = 1, now;

	for (;;) {
		unsigned long moved = drain->moved;

		pgmap_window_sweep(window, drain);
		if (drain->moved != moved)
			wait = 1;
		now = pgmap_wait(&wait, drain->deadline);
		/* Without pages, it is a matter of RCU until the reference is gone. */
		if (!atomic_long_read(&window->pages))
			now = max(now, PGMAP_IDLE_TIMEOUT);
		if (dev_pagemap_wait_idle(&window->pagemap, now))
			return 0;
		if (pgmap_peer_is_lost(peer))
			return -EIO;
		if (!time_before(jiffies, drain->deadline) ||
		    fatal_signal_pending(current))
			return drain->err ?: -EBUSY;
		/* A driver that cannot copy is not asked again and again. */
		if (drain->err && drain->err != -ENOMEM && !drain->force)
			return drain->err;
	}
}

/**
 * pgmap_window_poison() - replace all page table entries of a closed window
 * @window: the window
 * @stats: what was done is added here
 *
 * The data of its pages is lost. A page that somebody has locked is left; all others
 * are in no page table afterwards, whoever refers to them.
 */
void pgmap_window_poison(struct pgmap_window *window, struct pgmap_stats *stats)
{
	unsigned long nr_slots = window->region->nr_slots;
	unsigned long slot, nr;

	lockdep_assert_held(&window->region->peer->lock);

	if (!atomic_long_read(&window->pages))
		return;
	for (slot = 0; slot < nr_slots; slot += nr) {
		nr = min(PGMAP_BATCH, nr_slots - slot);
		stats->pages_poisoned +=
			migrate_device_poison(pgmap_window_pfn(window, slot), nr);
		cond_resched();
	}
}

/**
 * pgmap_window_complain() - name a page that holds an operation up
 * @window: a closed window that could not be drained
 * @what: what could not be done
 * @err: why
 *
 * Names the first page with references beyond its mappings, or else a page for which
 * there was no time, in the log and in a trace event.
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
