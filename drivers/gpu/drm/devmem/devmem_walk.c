// SPDX-License-Identifier: GPL-2.0
/*
 * Walks over a process' page table that fill no device page table: where does
 * each page live, and bring all of them back to system memory.
 */
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "devmem_drv.h"

/* Pages per walk. */
#define DEVMEM_WALK_BATCH	2048UL

/**
 * struct devmem_walk - a range of a process that is looked at
 * @notifier: tells when it changes
 * @lock: what a driver's page table lock would be: while it is held for read,
 *	no page that was found and not invalidated can go away
 */
struct devmem_walk {
	struct mmu_interval_notifier notifier;
	struct rw_semaphore lock;
};

static bool devmem_walk_invalidate(struct mmu_interval_notifier *notifier,
				   const struct mmu_notifier_range *range,
				   unsigned long cur_seq)
{
	struct devmem_walk *walk =
		container_of(notifier, struct devmem_walk, notifier);

	if (mmu_notifier_range_blockable(range))
		down_write(&walk->lock);
	else if (!down_write_trylock(&walk->lock))
		return false;
	mmu_interval_set_seq(notifier, cur_seq);
	up_write(&walk->lock);

	return true;
}

static const struct mmu_interval_notifier_ops devmem_walk_ops = {
	.invalidate = devmem_walk_invalidate,
};

/* What one page is; called with the page held in place by devmem_walk.lock. */
static u32 devmem_walk_entry(unsigned long pfn)
{
	struct drm_pagemap *dpagemap;
	struct page *page;
	u32 huge = 0;

	page = hmm_pfn_to_page(pfn);
	if (hmm_pfn_to_map_order(pfn) == PMD_ORDER)
		huge = DEVMEM_PAGE_HUGE;

	if (!is_device_private_page(page) && !is_device_coherent_page(page))
		return DEVMEM_PAGE_SYSTEM | huge;

	/*
	 * It was found under an owner of our fabric, so it is ours; or it is coherent
	 * memory of a device that is in no fabric.
	 */
	dpagemap = drm_pagemap_page_to_dpagemap(page);
	if (!dpagemap)
		return DEVMEM_PAGE_OTHER | huge;
	return DEVMEM_PAGE_DEVICE | to_devmem_device(dpagemap->drm)->id << 8 |
	       huge;
}

/*
 * Fill in the entries of pages that are in system memory or @peer's cluster. If
 * @held is given, it becomes a reference to the last page of a device that is found.
 */
static int devmem_walk_batch(struct devmem_walk *walk, struct pgmap_peer *peer,
			     unsigned long start, unsigned long nr, u32 *entries,
			     unsigned long *pfns, struct folio **held)
{
	struct hmm_range range = {
		.notifier = &walk->notifier,
		.start = start,
		.end = start + (nr << PAGE_SHIFT),
		.hmm_pfns = pfns,
	};
	unsigned long deadline = jiffies + DEVMEM_FAULT_TIMEOUT, i;
	struct pgmap_walk pgmap_walk;
	bool retry;
	int err;

	do {
		if (fatal_signal_pending(current))
			return -EINTR;
		/* Others keep it moving. */
		if (!time_before(jiffies, deadline))
			return -EBUSY;

		err = pgmap_range_fault(peer, &pgmap_walk, &range,
					DEVMEM_FAULT_TIMEOUT);
		retry = err == -EBUSY;
		if (retry)
			continue;
		if (err)
			return err;

		down_read(&walk->lock);
		retry = pgmap_range_retry(&pgmap_walk, &range);
		for (i = 0; i < nr && !retry; i++) {
			if (!(pfns[i] & HMM_PFN_VALID))
				continue;
			entries[i] = devmem_walk_entry(pfns[i]);
			if (held && DEVMEM_PAGE_KIND(entries[i]) == DEVMEM_PAGE_DEVICE) {
				*held = page_folio(hmm_pfn_to_page(pfns[i]));
				folio_get(*held);
			}
		}
		up_read(&walk->lock);
	} while (retry);

	return 0;
}

/**
 * devmem_walk_query() - where does each page live?
 * @devs: one of each cluster whose pages are looked for; the caller refers to them
 * @nr_devs: number of @devs
 * @mm: the current process'
 * @start: first address
 * @nr: number of pages
 * @entries: (out) one per page, see &struct devmem_query
 * @held: NULL; or a pointer to NULL, and @nr is 1: (out) the page, referred to, if a
 *	device has it
 *
 * hmm_range_fault() shows the device pages of one owner only, so there is one
 * walk per cluster. Nothing is faulted in.
 *
 * Context: May sleep, and takes the mmap lock.
 * Return: 0 or a negative errno, and then nothing is held.
 */
int devmem_walk_query(struct devmem_device **devs, unsigned int nr_devs,
		      struct mm_struct *mm, unsigned long start,
		      unsigned long nr, u32 *entries, struct folio **held)
{
	struct devmem_walk walk = {};
	unsigned long *pfns, n, i;
	unsigned int p;
	int err;

	pfns = kvzalloc_objs(*pfns, min(nr, DEVMEM_WALK_BATCH));
	if (!pfns)
		return -ENOMEM;
	memset(entries, 0, nr * sizeof(*entries));

	init_rwsem(&walk.lock);
	err = mmu_interval_notifier_insert(&walk.notifier, mm, start,
					   nr << PAGE_SHIFT, &devmem_walk_ops);
	if (err)
		goto out_free;

	/* A request for one page ends when the page is found. */
	for (p = 0; p < nr_devs && !err && !(held && *held); p++) {
		for (i = 0; i < nr && !err; i += n) {
			n = min(nr - i, DEVMEM_WALK_BATCH);
			err = devmem_walk_batch(&walk, &devs[p]->peer,
						start + (i << PAGE_SHIFT), n,
						entries + i, pfns, held);
		}
		/* It has left: there is nothing to see of it. */
		if (err == -ENODEV)
			err = 0;
	}

	mmu_interval_notifier_remove(&walk.notifier);
out_free:
	kvfree(pfns);
	return err;
}

/**
 * devmem_walk_to_system() - bring pages of all devices to system memory
 * @mm: the current process'
 * @start: first address
 * @end: end address, exclusive
 *
 * Context: May sleep.
 * Return: 0 or a negative errno.
 */
int devmem_walk_to_system(struct mm_struct *mm, unsigned long start,
			  unsigned long end)
{
	struct devmem_walk walk = {};
	struct hmm_range range = {
		.notifier = &walk.notifier,
		.default_flags = HMM_PFN_REQ_FAULT,
	};
	struct pgmap_walk pgmap_walk;
	unsigned long *pfns;
	int err;

	pfns = kvzalloc_objs(*pfns, DEVMEM_WALK_BATCH);
	if (!pfns)
		return -ENOMEM;

	init_rwsem(&walk.lock);
	err = mmu_interval_notifier_insert(&walk.notifier, mm, start,
					   end - start, &devmem_walk_ops);
	if (err)
		goto out_free;

	range.hmm_pfns = pfns;
	for (range.start = start; range.start < end && !err;
	     range.start = range.end) {
		range.end = min(range.start + (DEVMEM_WALK_BATCH << PAGE_SHIFT),
				end);
		/* On behalf of no peer: device memory of any kind is brought back. */
		err = pgmap_range_fault(NULL, &pgmap_walk, &range,
					DEVMEM_FAULT_TIMEOUT);
		if (fatal_signal_pending(current))
			err = -EINTR;
	}

	mmu_interval_notifier_remove(&walk.notifier);
out_free:
	kvfree(pfns);
	return err;
}
