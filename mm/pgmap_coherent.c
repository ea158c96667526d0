// SPDX-License-Identifier: GPL-2.0
/*
 * Coherent memory: device memory that the CPU can access.
 *
 * Its pfns are physical addresses, so a page cannot be rehomed without a copy. It
 * never is. Page tables have present entries for it, and hmm_range_fault() returns
 * them to every caller, so the owner of its windows does not matter: a walk looks
 * for coherent pages afterwards and asks for each whether the peer reaches it.
 */
#include <linux/hmm.h>
#include <linux/ioport.h>
#include <linux/jiffies.h>
#include <linux/memory_hotplug.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "pgmap_internal.h"

/*
 * The pfns between which there has been coherent memory; a walk looks at no page
 * outside of these. Written under pgmap_coherent_lock.
 */
static unsigned long pgmap_coherent_start = ULONG_MAX, pgmap_coherent_end;
static DEFINE_SPINLOCK(pgmap_coherent_lock);

static void pgmap_coherent_extend(const struct resource *res)
{
	guard(spinlock)(&pgmap_coherent_lock);
	WRITE_ONCE(pgmap_coherent_start,
		   min(pgmap_coherent_start, PHYS_PFN(res->start)));
	WRITE_ONCE(pgmap_coherent_end,
		   max(pgmap_coherent_end, PHYS_PFN(res->end) + 1));
}

/*
 * Take a free part of the peer's memory for a window. Not by allocate_resource(),
 * which avoids what firmware calls reserved. Under &pgmap_peer.lock, no
 * other window is placed there.
 */
struct resource *pgmap_coherent_request(struct pgmap_region *region)
{
	resource_size_t size = (resource_size_t)region->nr_slots << PAGE_SHIFT;
	struct resource *mem = region->peer->mem;
	struct resource *res, *other;
	resource_size_t start;

	res = kzalloc_obj(*res);
	if (!res)
		return ERR_PTR(-ENOMEM);
	for (start = ALIGN(mem->start, SUBSECTION_SIZE);
	     start < mem->end && size - 1 <= mem->end - start;
	     start = ALIGN(other->end + 1, SUBSECTION_SIZE)) {
		*res = DEFINE_RES_NAMED(start, size, region->peer->fabric->name,
					IORESOURCE_MEM | IORESOURCE_BUSY);
		other = request_resource_conflict(mem, res);
		if (!other) {
			pgmap_coherent_extend(res);
			return res;
		}
	}

	kfree(res);
	return ERR_PTR(-ENOSPC);
}

void pgmap_coherent_release(struct resource *res)
{
	release_resource(res);
	kfree(res);
}

/* Is this coherent memory that the walk must not use? */
static bool pgmap_page_foreign(struct page *page, const struct pgmap_walk *walk)
{
	return is_device_coherent_page(page) &&
	       page_pgmap(page)->flags & PGMAP_WINDOW &&
	       !pgmap_walk_reaches(walk, page_pgmap(page));
}

/*
 * The first foreign page of a range that has been walked, from entry @i, or the
 * number of entries. Nothing keeps the pages that a walk has found:
 *
 *	pgmap_walk_next()			the window of a page
 *	-----------------			--------------------
 *	hmm_range_fault(): the page
 *	rcu_read_lock()
 *						invalidate: the sequence changes
 *						unmap the page, free it
 *	the sequence is as before? no		memunmap_pages():
 *						  synchronize_rcu() {
 *	look at the page
 *	rcu_read_unlock()
 *						  }
 *						  free the memmap
 *
 * If the sequence is as it was, pages are freed after the RCU read section began, and
 * memmap and pagemap stay until it ends. If not, the caller looks the range up again
 * in any case, as pgmap_range_retry() is true.
 */
static unsigned long pgmap_walk_next(const struct pgmap_walk *walk,
				     const struct hmm_range *range, unsigned long i)
{
	unsigned long nr = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long first = READ_ONCE(pgmap_coherent_start);
	unsigned long last = READ_ONCE(pgmap_coherent_end);

	if (first >= last)
		return nr;
	while (i < nr) {
		unsigned long end = min(i + PGMAP_BATCH, nr);

		guard(rcu)();
		if (mmu_interval_check_retry(range->notifier, range->notifier_seq))
			return nr;
		while (i < end) {
			unsigned long entry = range->hmm_pfns[i];
			unsigned long pfn = entry & ~HMM_PFN_FLAGS;
			unsigned long step = 1;

			if (!(entry & HMM_PFN_VALID)) {
				i++;
				continue;
			}
			/* To the end of the block that one entry maps. */
			step <<= hmm_pfn_to_map_order(entry);
			step -= pfn & (step - 1);
			if (pfn < last && pfn + step > first &&
			    pgmap_page_foreign(hmm_pfn_to_page(entry), walk))
				return i;
			i += step;
		}
	}

	return nr;
}

/**
 * pgmap_walk_hide() - remove what a walk must not use from its result
 * @walk: from pgmap_walk_begin()
 * @range: a range for which hmm_range_fault() returned 0, under &pgmap_walk.owner
 *
 * For callers that do not fault pages in and call hmm_range_fault() themselves.
 * Entries of coherent memory that the peer cannot reach become empty, as those of
 * private memory are. pgmap_walk_fault() calls this function by itself.
 *
 * Context: Any.
 */
void pgmap_walk_hide(const struct pgmap_walk *walk, struct hmm_range *range)
{
	unsigned long nr = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long i;

	/* The flags that stay are those that hmm_range_fault() keeps in an entry. */
	for (i = 0; (i = pgmap_walk_next(walk, range, i)) < nr; i++)
		range->hmm_pfns[i] &= HMM_PFN_DMA_MAPPED | HMM_PFN_P2PDMA |
				      HMM_PFN_P2PDMA_BUS;
}
EXPORT_SYMBOL_GPL(pgmap_walk_hide);

/* Have the driver of a foreign page at @addr bring it home. */
static vm_fault_t pgmap_page_bring_home(const struct pgmap_walk *walk,
					struct vm_area_struct *vma,
					unsigned long addr)
{
	struct folio_walk fw;
	struct folio *folio = folio_walk_start(&fw, vma, addr, 0);
	struct vm_fault vmf = { .vma = vma, .address = addr };
	vm_fault_t ret = 0;

	if (!folio)
		return 0;
	/* Do not wait for the lock: its holder may be freeing the folio. */
	if (!pgmap_page_foreign(fw.page, walk) || !folio_trylock(folio)) {
		folio_walk_end(&fw, vma);
		return 0;
	}
	folio_get(folio);
	vmf.page = fw.page;
	folio_walk_end(&fw, vma);
	ret = page_pgmap(vmf.page)->ops->migrate_to_ram(&vmf);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

/*
 * Bring foreign coherent pages in [addr, end) to system memory, by the callback that
 * does so for private pages after a page fault. Best effort: the caller walks again.
 */
static int pgmap_walk_evict(const struct pgmap_walk *walk, struct mm_struct *mm,
			    unsigned long addr, unsigned long end)
{
	struct vm_area_struct *vma = NULL;
	vm_fault_t ret = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for (; addr < end && !(ret & VM_FAULT_ERROR); addr += PAGE_SIZE) {
		if (!vma || addr >= vma->vm_end)
			vma = vma_lookup(mm, addr);
		if (!vma || fatal_signal_pending(current))
			break;
		ret = pgmap_page_bring_home(walk, vma, addr);
		cond_resched();
	}
	mmap_read_unlock(mm);

	return vm_fault_to_errno(ret, 0);
}

/*
 * hmm_range_fault() brings private pages that the peer cannot reach to system memory,
 * or does not return them. Do the same for coherent pages. To do it there would cost
 * every walker a look at the struct page of each page.
 */
int pgmap_coherent_fault(const struct pgmap_walk *walk, struct hmm_range *range,
			 unsigned long timeout)
{
	unsigned long nr = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long start = jiffies, spent = 0;
	unsigned long i, last = nr;
	int err;

	for (;;) {
		err = hmm_range_fault_unlocked_timeout(range, timeout - spent);
		if (err)
			return err;
		if (!(range->default_flags & HMM_PFN_REQ_FAULT)) {
			pgmap_walk_hide(walk, range);
			return 0;
		}

		i = pgmap_walk_next(walk, range, 0);
		if (i == nr)
			return 0;
		/* The same page again: it is in use. */
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
