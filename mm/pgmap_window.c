// SPDX-License-Identifier: GPL-2.0
/*
 * Windows: registrations of device memory.
 *
 * This is the only file that picks pfns for device memory and registers them.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/export.h>
#include <linux/ioport.h>
#include <linux/memory_hotplug.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/percpu-refcount.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "pgmap_internal.h"

static struct pgmap_window *pgmap_window_tryget(struct pgmap_region *region)
{
	struct pgmap_window *window;

	guard(rcu)();
	/*
	 * A window that is closed was replaced before. It is not used for another
	 * region during this read section: the core waits for a grace period after
	 * it has closed a window.
	 */
	do {
		window = rcu_dereference(region->window);
	} while (window && !percpu_ref_tryget_live_rcu(&window->pagemap.ref));

	return window;
}

/**
 * pgmap_window_get() - where new pages of a region come from
 * @region: the region
 *
 * The window stays registered for @region, under the same owner, until
 * pgmap_window_put(). The core may close it at any time. Then
 * pgmap_window_folio() fails, and the caller gives up or starts again.
 *
 * A window that is in use cannot be drained, so the core waits for the reference
 * as it waits for a page. Hold it for one migration only, and not across a call
 * of a function of the fabric.
 *
 * Context: May sleep: while a region without pages changes its owner, which takes
 *	    two RCU grace periods. mmap_lock can be held.
 * Return: The current window, or NULL if the region has no device memory to give:
 *	   it is not registered, its pages are being evacuated, its peer is lost, or a
 *	   fatal signal is pending.
 */
struct pgmap_window *pgmap_window_get(struct pgmap_region *region)
{
	struct pgmap_window *window = pgmap_window_tryget(region);

	might_sleep();
	if (window || !READ_ONCE(region->renewing))
		return window ?: pgmap_window_tryget(region);
	if (wait_event_killable(region->peer->fabric->wait,
				!READ_ONCE(region->renewing)))
		return NULL;
	return pgmap_window_tryget(region);
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

/**
 * pgmap_window_folio() - make free slots ready for use
 * @window: from pgmap_window_get()
 * @slot: first slot; the caller has exclusive use of 1 << @order slots
 * @order: order of the folio
 *
 * The folio is locked, has one reference, and zone_device_data is NULL. The driver
 * initialises pages of its regions with this function only, as it counts them.
 *
 * Context: Any.
 * Return: The folio; or NULL if the window is closed, or if a page of the slots
 *	   still has a reference from its last use. Then the caller frees the slots
 *	   and does without.
 */
struct folio *pgmap_window_folio(struct pgmap_window *window, unsigned long slot,
				 unsigned int order)
{
	/* Not pfn_folio(): of a page that was a tail, that is the head of then. */
	struct folio *folio = (struct folio *)pfn_to_page(pgmap_window_pfn(window, slot));

	/* First: as soon as the page can be found it has to be counted. */
	atomic_long_add(1L << order, &window->pages);
	/* Pairs with pgmap_peer_exposed(), see there. */
	smp_mb__after_atomic();
	if (zone_device_folio_init(folio, &window->pagemap, order)) {
		atomic_long_sub(1L << order, &window->pages);
		return NULL;
	}
	folio->page.zone_device_data = NULL;
	return folio;
}
EXPORT_SYMBOL_GPL(pgmap_window_folio);

/* The &dev_pagemap_ops.folio_free of all windows. */
static void pgmap_folio_free(struct folio *folio)
{
	struct pgmap_window *window = pgmap_page_window(&folio->page);
	unsigned long nr = folio_nr_pages(folio);

	/* The driver may use the slots again at once, in whatever order. */
	window->region->pgmap_ops->folio_free(folio);
	/* The pagemap has its reference for this folio until we return. */
	WARN_ON_ONCE(atomic_long_sub_return(nr, &window->pages) < 0);
}

static int pgmap_pfns_request(struct pgmap_window *window)
{
	struct pgmap_region *region = window->region;
	resource_size_t size = (resource_size_t)region->nr_slots << PAGE_SHIFT;
	const char *name = region->peer->fabric->name;

	if (region->peer->mem)
		window->res = pgmap_coherent_request(region);
	else
		window->res = request_free_mem_region(&iomem_resource, size, name);
	return PTR_ERR_OR_ZERO(window->res);
}

static void pgmap_pfns_release(struct pgmap_window *window)
{
	struct resource *res = window->res;

	if (window->pagemap.type == MEMORY_DEVICE_PRIVATE)
		release_mem_region(res->start, resource_size(res));
	else
		pgmap_coherent_release(res);
}

/*
 * Register a window. It is open, on no list, and not the current one.
 *
 * Return: The window; -ENOSPC if there is no room for coherent memory; or an error
 * of memremap_pages().
 */
VISIBLE_IF_KUNIT struct pgmap_window *
pgmap_window_register(struct pgmap_region *region, struct pgmap_owner *owner)
{
	struct pgmap_peer *peer = region->peer;
	struct pgmap_window *window;
	struct dev_pagemap *pagemap;
	void *addr;
	int err;

	KUNIT_STATIC_STUB_REDIRECT(pgmap_window_register, region, owner);

	window = kzalloc_obj(*window);
	if (!window)
		return ERR_PTR(-ENOMEM);

	INIT_LIST_HEAD(&window->entry);
	window->region = region;
	pagemap = &window->pagemap;
	pagemap->type = peer->mem ? MEMORY_DEVICE_COHERENT :
				    MEMORY_DEVICE_PRIVATE;
	err = pgmap_pfns_request(window);
	if (err)
		goto err_free;

	window->ops = *region->pgmap_ops;
	window->ops.folio_free = pgmap_folio_free;
	pagemap->flags = PGMAP_WINDOW;
	/* The resource is rounded up to what memory hotplug adds at once. */
	pagemap->range.start = window->res->start;
	pagemap->range.end = window->res->start +
			     (region->nr_slots << PAGE_SHIFT) - 1;
	pagemap->nr_range = 1;
	pagemap->ops = &window->ops;
	pagemap->owner = owner;
	addr = memremap_pages(pagemap, peer->nid);
	if (IS_ERR(addr)) {
		err = PTR_ERR(addr);
		goto err_release;
	}
	return window;

err_release:
	pgmap_pfns_release(window);
err_free:
	kfree(window);
	return ERR_PTR(err);
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_window_register);

/*
 * Give the memmap of a window back that is on no list. No page of it is in use, or
 * this waits without limit.
 */
void pgmap_window_unregister(struct pgmap_window *window)
{
	/*
	 * Contains the grace period for those that still look at its memmap, or
	 * are in pgmap_window_get().
	 */
	memunmap_pages(&window->pagemap);
	pgmap_pfns_release(window);
	kfree(window);
}

/*
 * Register the pfns of a window again, for another region or under another owner,
 * without giving back the memmap in between: so this cannot fail. The window is
 * closed, and a grace period has passed since its last page was freed. It comes
 * back open.
 */
void pgmap_window_renew(struct pgmap_window *window, struct pgmap_region *region,
			struct pgmap_owner *owner)
{
	window->region = region;
	window->ops = *region->pgmap_ops;
	window->ops.folio_free = pgmap_folio_free;
	dev_pagemap_renew(&window->pagemap, owner);
}
