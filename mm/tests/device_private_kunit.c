// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for device private memory: the walk of page tables that refer to
 * it, its migration by pfn, and the life cycle of its pagemap.
 *
 * The device is made up. Its memory holds one word per page, which becomes the
 * first word of the page when that is migrated to the system. Only the tests
 * migrate pages: a CPU fault on a device page ends in SIGBUS.
 *
 * All waits are bounded, so that a broken kernel fails a test instead of
 * hanging it. A pagemap that can't be unmapped in time is leaked.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/hmm.h>
#include <linux/hw_breakpoint.h>
#include <linux/ioport.h>
#include <linux/kthread.h>
#include <linux/leafops.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/perf_event.h>
#include <linux/rcupdate.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>

#define DP_TIMEOUT	(10 * HZ)

/* One registration of device memory, by far larger than what the tests use. */
struct dp_map {
	struct dev_pagemap pgmap;
	struct completion unmapped;
	bool unmapping;
	unsigned long pfn;
	atomic_long_t freed;
};

struct dp_ctx {
	struct dp_map *map[2];
	unsigned long vma_start;	/* 2 PMDs long */
	unsigned long addr;		/* PMD aligned, a PMD long, inside of it */
	u32 *mem;			/* the memory of map[0] */

	/* Scratch space for one PMD */
	unsigned long *src;
	unsigned long *dst;
	unsigned long *pfns;

	/* What the watchpoint on the owner saw */
	struct task_struct *walker;
	int hits;
	int depth;

	/* The same on the pagemap of a page */
	const unsigned long *pagemap;
	int gone;
};

static struct dp_map *dp_map_of(const struct folio *folio)
{
	return container_of(folio->pgmap, struct dp_map, pgmap);
}

static void dp_folio_free(struct folio *folio)
{
	atomic_long_add(folio_nr_pages(folio), &dp_map_of(folio)->freed);
}

static vm_fault_t dp_migrate_to_ram(struct vm_fault *vmf)
{
	return VM_FAULT_SIGBUS;
}

static const struct dev_pagemap_ops dp_pagemap_ops = {
	.folio_free	= dp_folio_free,
	.migrate_to_ram	= dp_migrate_to_ram,
};

static struct dp_map *dp_map_alloc(void)
{
	struct dp_map *map;
	struct resource *res;
	void *ret;

	map = kzalloc_obj(*map);
	if (!map)
		return ERR_PTR(-ENOMEM);

	res = request_free_mem_region(&iomem_resource, HPAGE_PMD_SIZE,
				      "device_private_kunit");
	if (IS_ERR(res)) {
		kfree(map);
		return ERR_CAST(res);
	}

	init_completion(&map->unmapped);
	map->pfn = PHYS_PFN(res->start);
	map->pgmap.type = MEMORY_DEVICE_PRIVATE;
	map->pgmap.range.start = res->start;
	map->pgmap.range.end = res->end;
	map->pgmap.nr_range = 1;
	map->pgmap.ops = &dp_pagemap_ops;
	map->pgmap.owner = map;

	ret = memremap_pages(&map->pgmap, numa_mem_id());
	if (IS_ERR(ret)) {
		release_mem_region(res->start, resource_size(res));
		kfree(map);
		return ERR_CAST(ret);
	}
	return map;
}

static int dp_unmap_thread(void *arg)
{
	struct dp_map *map = arg;

	memunmap_pages(&map->pgmap);
	release_mem_region(map->pgmap.range.start,
			   range_len(&map->pgmap.range));
	complete_all(&map->unmapped);
	return 0;
}

static int dp_unmap_start(struct dp_map *map)
{
	if (map->unmapping)
		return 0;
	map->unmapping = true;
	return PTR_ERR_OR_ZERO(kthread_run(dp_unmap_thread, map, "dp_unmap"));
}

/* Returns whether the unmap is over, and if so frees the map. */
static bool dp_unmap_finish(struct dp_map **pmap)
{
	struct dp_map *map = *pmap;

	*pmap = NULL;
	if (!wait_for_completion_timeout(&map->unmapped, DP_TIMEOUT))
		return false;
	kfree(map);
	return true;
}

/* The page at @idx, now locked and with one reference, or an error. */
static struct page *dp_page_init(struct dp_map *map, unsigned long idx,
				 unsigned int order)
{
	struct page *page = pfn_to_page(map->pfn + idx);
	int ret;

	ret = zone_device_folio_init((struct folio *)page, &map->pgmap, order);
	return ret ? ERR_PTR(ret) : page;
}

static void dp_page_free(struct page *page)
{
	unlock_page(page);
	put_page(page);
}

static void dp_clear_dst(struct dp_ctx *ctx)
{
	memset(ctx->dst, 0, HPAGE_PMD_NR * sizeof(*ctx->dst));
}

/* Back the start of the user memory by one folio of the device, at @idx. */
static void dp_populate_at(struct kunit *test, unsigned long idx,
			   unsigned int order)
{
	struct dp_ctx *ctx = test->priv;
	struct migrate_vma args = {
		.src	= ctx->src,
		.dst	= ctx->dst,
		.start	= ctx->addr,
		.end	= ctx->addr + (PAGE_SIZE << order),
		.flags	= MIGRATE_VMA_SELECT_SYSTEM |
			  (order ? MIGRATE_VMA_SELECT_COMPOUND : 0),
		.pgmap_owner = ctx->map[0],
	};
	struct page *page;
	bool migrated = false;
	int i, ret;

	dp_clear_dst(ctx);
	for (i = 0; i < HPAGE_PMD_NR; i++)
		ctx->mem[i] = 0x1000 + i;

	mmap_read_lock(current->mm);
	args.vma = vma_lookup(current->mm, ctx->addr);
	ret = args.vma ? migrate_vma_setup(&args) : -ENOENT;
	if (!ret) {
		page = dp_page_init(ctx->map[0], idx, order);
		if (!IS_ERR(page))
			ctx->dst[0] = migrate_pfn(page_to_pfn(page)) |
				      (order ? MIGRATE_PFN_COMPOUND : 0);
		migrate_vma_pages(&args);
		migrated = ctx->src[0] & MIGRATE_PFN_MIGRATE;
		migrate_vma_finalize(&args);
	}
	mmap_read_unlock(current->mm);

	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_TRUE_MSG(test, migrated, "no page on the device");
}

static void dp_populate(struct kunit *test, unsigned int order)
{
	dp_populate_at(test, 0, order);
}

static bool dp_invalidate(struct mmu_interval_notifier *mni,
			  const struct mmu_notifier_range *range,
			  unsigned long cur_seq)
{
	mmu_interval_set_seq(mni, cur_seq);
	return true;
}

static const struct mmu_interval_notifier_ops dp_mni_ops = {
	.invalidate	= dp_invalidate,
};

static int dp_range_fault(struct mm_struct *mm, unsigned long start,
			  unsigned long npages, unsigned long *pfns,
			  void *owner, unsigned long flags)
{
	struct mmu_interval_notifier mni = {};
	struct hmm_range range = {
		.notifier	= &mni,
		.start		= start,
		.end		= start + npages * PAGE_SIZE,
		.hmm_pfns	= pfns,
		.default_flags	= flags,
		.dev_private_owner = owner,
	};
	int ret;

	memset(pfns, 0, npages * sizeof(*pfns));
	ret = mmu_interval_notifier_insert(&mni, mm, start, npages * PAGE_SIZE,
					   &dp_mni_ops);
	if (ret)
		return ret;

	range.notifier_seq = mmu_interval_read_begin(&mni);
	mmap_read_lock(mm);
	ret = hmm_range_fault(&range);
	mmap_read_unlock(mm);

	mmu_interval_notifier_remove(&mni);
	return ret;
}

/* A range that starts inside of a huge device page gets the pfns from there. */
static void hmm_pmd_offset(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	const unsigned long first = 37, npages = 64;
	unsigned long i;
	int ret;

	dp_populate(test, HPAGE_PMD_ORDER);

	ret = dp_range_fault(current->mm, ctx->addr + first * PAGE_SIZE, npages,
			     ctx->pfns, ctx->map[0], 0);
	KUNIT_ASSERT_EQ(test, ret, 0);
	for (i = 0; i < npages; i++) {
		KUNIT_ASSERT_TRUE(test, ctx->pfns[i] & HMM_PFN_VALID);
		KUNIT_ASSERT_EQ(test, ctx->pfns[i] & ~HMM_PFN_FLAGS,
				ctx->map[0]->pfn + first + i);
	}
}

#ifdef CONFIG_HAVE_HW_BREAKPOINT
static void dp_owner_read(struct perf_event *bp, struct perf_sample_data *data,
			  struct pt_regs *regs)
{
	struct dp_ctx *ctx = bp->overflow_handler_context;

	if (current != ctx->walker)
		return;
	if (!ctx->hits++ || rcu_preempt_depth() < ctx->depth)
		ctx->depth = rcu_preempt_depth();
}

/* The lowest depth seen since the last call, -1 if nothing was seen. */
static int dp_owner_depth(struct dp_ctx *ctx)
{
	int hits;

	/* The handler interrupts this very thread. */
	barrier();
	hits = ctx->hits;
	ctx->hits = 0;
	barrier();
	return hits ? ctx->depth : -1;
}

/*
 * hmm_range_fault() looks at the owner of a device page in an RCU read section. A
 * watchpoint on the owner tells.
 */
static void dp_walk_rcu(struct kunit *test, unsigned int order)
{
	struct perf_event * __percpu *bp;
	struct dp_ctx *ctx = test->priv;
	int outside, inside, walk, ret;
	struct perf_event_attr attr;

	if (!IS_ENABLED(CONFIG_PREEMPT_RCU))
		kunit_skip(test, "needs preemptible RCU");

	dp_populate(test, order);

	hw_breakpoint_init(&attr);
	attr.bp_addr = (unsigned long)&ctx->map[0]->pgmap.owner;
	attr.bp_len = sizeof(void *);
	attr.bp_type = HW_BREAKPOINT_RW;
	bp = register_wide_hw_breakpoint(&attr, dp_owner_read, ctx);
	KUNIT_ASSERT_FALSE(test, IS_ERR_PCPU(bp));

	/* The handler may be in RCU read sections of its own: calibrate. */
	WRITE_ONCE(ctx->walker, current);
	READ_ONCE(ctx->map[0]->pgmap.owner);
	outside = dp_owner_depth(ctx);

	rcu_read_lock();
	READ_ONCE(ctx->map[0]->pgmap.owner);
	rcu_read_unlock();
	inside = dp_owner_depth(ctx);

	ret = dp_range_fault(current->mm, ctx->addr, 1UL << order, ctx->pfns,
			     ctx->map[0], 0);
	walk = dp_owner_depth(ctx);
	unregister_wide_hw_breakpoint(bp);

	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_GE_MSG(test, outside, 0, "the watchpoint does not work");
	KUNIT_ASSERT_EQ(test, inside, outside + 1);
	KUNIT_EXPECT_GE(test, walk, inside);
}

static void dp_pagemap_written(struct perf_event *bp,
			       struct perf_sample_data *data,
			       struct pt_regs *regs)
{
	struct dp_ctx *ctx = bp->overflow_handler_context;

	ctx->hits++;
	ctx->gone += !READ_ONCE(*ctx->pagemap);
}

/* At no time of a split has a page no pagemap. */
static void split_keeps_pagemap(struct kunit *test)
{
	struct perf_event * __percpu *bp;
	struct dp_ctx *ctx = test->priv;
	struct perf_event_attr attr;
	struct folio *folio;
	struct page *page;
	int ret;

	dp_populate(test, HPAGE_PMD_ORDER);
	folio = pfn_folio(ctx->map[0]->pfn);
	page = folio_page(folio, 1);
	ctx->pagemap = &page->compound_info;

	hw_breakpoint_init(&attr);
	attr.bp_addr = (unsigned long)ctx->pagemap;
	attr.bp_len = sizeof(*ctx->pagemap);
	attr.bp_type = HW_BREAKPOINT_W;
	bp = register_wide_hw_breakpoint(&attr, dp_pagemap_written, ctx);
	KUNIT_ASSERT_FALSE(test, IS_ERR_PCPU(bp));

	folio_get(folio);
	folio_lock(folio);
	ret = split_folio(folio);
	folio_unlock(folio);
	folio_put(folio);
	unregister_wide_hw_breakpoint(bp);

	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_GT_MSG(test, ctx->hits, 0, "the watchpoint does not work");
	KUNIT_EXPECT_EQ(test, ctx->gone, 0);
	KUNIT_EXPECT_PTR_EQ(test, page_pgmap(page), &ctx->map[0]->pgmap);
}
#else
static void dp_walk_rcu(struct kunit *test, unsigned int order)
{
	kunit_skip(test, "needs watchpoints");
}

static void split_keeps_pagemap(struct kunit *test)
{
	kunit_skip(test, "needs watchpoints");
}
#endif

static void hmm_pte_rcu(struct kunit *test)
{
	dp_walk_rcu(test, 0);
}

static void hmm_pmd_rcu(struct kunit *test)
{
	dp_walk_rcu(test, HPAGE_PMD_ORDER);
}

/*
 * The memmap of the last page to be freed stays for as long as those who may
 * have found the page before are in their RCU read sections.
 */
static void unmap_waits_for_rcu(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	unsigned long pfn, deadline;
	struct page *page;
	bool gone = false;
	int round;

	if (!IS_ENABLED(CONFIG_PREEMPT_RCU) || num_online_cpus() < 2)
		kunit_skip(test, "needs preemptible RCU and two CPUs");

	for (round = 0; round < 8 && !gone; round++) {
		if (!ctx->map[0])
			ctx->map[0] = dp_map_alloc();
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, ctx->map[0]);
		pfn = ctx->map[0]->pfn;
		page = dp_page_init(ctx->map[0], 0, 0);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, page);

		/* From here on the unmap waits for that page alone. */
		KUNIT_ASSERT_EQ(test, dp_unmap_start(ctx->map[0]), 0);
		deadline = jiffies + DP_TIMEOUT;
		while (!percpu_ref_is_dying(&ctx->map[0]->pgmap.ref) &&
		       time_before(jiffies, deadline))
			msleep(20);
		rcu_barrier();

		/*
		 * The memory hotplug lock waits for a grace period by itself,
		 * unless it has just been in use. Use it, as a driver does that
		 * registers its memory anew before it lets go of the old.
		 */
		ctx->map[1] = dp_map_alloc();
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, ctx->map[1]);

		rcu_read_lock();
		dp_page_free(page);
		deadline = jiffies + HZ / 2;
		while (pfn_valid(pfn) && time_before(jiffies, deadline))
			cpu_relax();
		gone = !pfn_valid(pfn);
		rcu_read_unlock();

		KUNIT_ASSERT_TRUE(test, dp_unmap_finish(&ctx->map[0]));
		KUNIT_ASSERT_EQ(test, dp_unmap_start(ctx->map[1]), 0);
		KUNIT_ASSERT_TRUE(test, dp_unmap_finish(&ctx->map[1]));
	}
	KUNIT_EXPECT_FALSE_MSG(test, gone,
			       "memmap freed under a reader in round %d", round);
}

/* A pagemap that is being unmapped hands out no more pages. */
static void init_refused_when_dying(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct dp_map *map = ctx->map[0];
	unsigned int orders[] = { 0, HPAGE_PMD_ORDER };
	unsigned long deadline;
	struct page *busy, *page;
	int i;

	busy = dp_page_init(map, 0, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, busy);

	KUNIT_ASSERT_EQ(test, dp_unmap_start(map), 0);
	deadline = jiffies + DP_TIMEOUT;
	while (!percpu_ref_is_dying(&map->pgmap.ref) &&
	       time_before(jiffies, deadline))
		msleep(20);
	rcu_barrier();

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		page = dp_page_init(map, HPAGE_PMD_NR, orders[i]);
		KUNIT_EXPECT_TRUE_MSG(test, PTR_ERR_OR_ZERO(page) == -ENODEV,
				      "order %u was granted", orders[i]);
		if (!IS_ERR(page))
			dp_page_free(page);

		page = pfn_to_page(map->pfn + HPAGE_PMD_NR);
		KUNIT_EXPECT_EQ(test, page_ref_count(page), 0);
		KUNIT_EXPECT_FALSE(test, PageLocked(page));
	}

	dp_page_free(busy);
	KUNIT_EXPECT_TRUE(test, dp_unmap_finish(&ctx->map[0]));
}

/*
 * Evict what is left of the user memory to single pages of the system, every
 * @step-th page of what is found. Returns the number of pages that moved.
 */
static int dp_evict(struct dp_ctx *ctx, int step)
{
	int i, moved = 0;

	dp_clear_dst(ctx);
	migrate_device_range(ctx->src, ctx->map[0]->pfn, HPAGE_PMD_NR);

	for (i = 0; i < HPAGE_PMD_NR; i += step) {
		struct page *page;

		page = alloc_page(GFP_HIGHUSER | __GFP_ZERO | __GFP_NOFAIL);
		*(u32 *)page_address(page) = ctx->mem[i];
		lock_page(page);
		ctx->dst[i] = migrate_pfn(page_to_pfn(page));
	}

	migrate_device_pages(ctx->src, ctx->dst, HPAGE_PMD_NR);
	for (i = 0; i < HPAGE_PMD_NR; i++)
		if (ctx->dst[i] && (ctx->src[i] & MIGRATE_PFN_MIGRATE))
			moved++;
	migrate_device_finalize(ctx->src, ctx->dst, HPAGE_PMD_NR);
	return moved;
}

/* A huge page can be evicted if there are but small ones, or too few of them. */
static void evict_huge_to_small(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	int i, wrong = 0;
	u32 val;

	dp_populate(test, HPAGE_PMD_ORDER);

	KUNIT_EXPECT_EQ(test, dp_evict(ctx, 2), HPAGE_PMD_NR / 2);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ctx->map[0]->freed),
			HPAGE_PMD_NR / 2);
	KUNIT_EXPECT_EQ(test, dp_evict(ctx, 1), HPAGE_PMD_NR / 2);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ctx->map[0]->freed),
			HPAGE_PMD_NR);

	for (i = 0; i < HPAGE_PMD_NR; i++)
		if (get_user(val, (u32 __user *)(ctx->addr + i * PAGE_SIZE)) ||
		    val != ctx->mem[i])
			wrong++;
	KUNIT_EXPECT_EQ(test, wrong, 0);
}

/*
 * A huge page may be unmapped while it is evicted. What is unmapped is the
 * entry for the migration then, and the migration keeps its page.
 */
static void evict_zap_huge(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct folio *folio;
	int refs;

	dp_populate(test, HPAGE_PMD_ORDER);
	folio = pfn_folio(ctx->map[0]->pfn);

	dp_clear_dst(ctx);
	migrate_device_range(ctx->src, ctx->map[0]->pfn, HPAGE_PMD_NR);
	KUNIT_ASSERT_TRUE(test, ctx->src[0] & MIGRATE_PFN_MIGRATE);

	refs = folio_ref_count(folio);
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(ctx->vma_start, 2 * HPAGE_PMD_SIZE));

	/* Without the reference that it counts on the rest would crash. */
	KUNIT_ASSERT_EQ(test, folio_ref_count(folio), refs);
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 0);

	migrate_device_finalize(ctx->src, ctx->dst, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ctx->map[0]->freed),
			HPAGE_PMD_NR);
}

/*
 * If the memory is unmapped while it is evicted, as when a process exits, the
 * migration still looks for its entries through rmap.
 */
static void evict_outlives_vma(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct anon_vma *anon_vma;
	unsigned long mapping;
	int refs;

	dp_populate(test, 0);

	dp_clear_dst(ctx);
	migrate_device_range(ctx->src, ctx->map[0]->pfn, 1);
	KUNIT_ASSERT_TRUE(test, ctx->src[0] & MIGRATE_PFN_MIGRATE);

	mapping = (unsigned long)pfn_folio(ctx->map[0]->pfn)->mapping;
	KUNIT_EXPECT_TRUE(test, mapping & FOLIO_MAPPING_ANON);
	anon_vma = (struct anon_vma *)(mapping & ~FOLIO_MAPPING_FLAGS);

	KUNIT_EXPECT_EQ(test, 0, vm_munmap(ctx->vma_start, 2 * HPAGE_PMD_SIZE));
	refs = atomic_read(&anon_vma->refcount);
	migrate_device_finalize(ctx->src, ctx->dst, 1);

	KUNIT_EXPECT_EQ_MSG(test, refs, 1, "rmap walk in a freed anon_vma");
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ctx->map[0]->freed), 1);
}

/* What a fork leaves to the parent of the entry of a huge page. */
static pmd_t dp_share_huge(unsigned long addr, struct folio *folio)
{
	pmd_t *pmdp = pmd_off(current->mm, addr);
	spinlock_t *ptl = pmd_lock(current->mm, pmdp);
	pmd_t pmd;

	pmd = softleaf_to_pmd(make_readable_device_private_entry(folio_pfn(folio)));
	pmd = pmd_swp_mksoft_dirty(pmd);
	set_pmd_at(current->mm, addr, pmdp, pmd);
	ClearPageAnonExclusive(&folio->page);
	spin_unlock(ptl);
	return pmd;
}

/*
 * The entry of a huge page that is shared and soft-dirty is read-only, and is
 * not taken for another when a migration that did not happen puts it back. A
 * kernel that takes it for another one warns: the case itself does not fail.
 */
static void soft_dirty_is_put_back(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct dp_map *map = ctx->map[0];
	pmd_t before, after;

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "needs soft-dirty bits");

	dp_populate(test, HPAGE_PMD_ORDER);
	before = dp_share_huge(ctx->addr, pfn_folio(map->pfn));

	dp_clear_dst(ctx);
	migrate_device_range(ctx->src, map->pfn, HPAGE_PMD_NR);
	KUNIT_EXPECT_TRUE(test, ctx->src[0] & MIGRATE_PFN_MIGRATE);
	migrate_device_finalize(ctx->src, ctx->dst, HPAGE_PMD_NR);

	after = pmdp_get(pmd_off(current->mm, ctx->addr));
	KUNIT_EXPECT_EQ(test, pmd_val(after), pmd_val(before));
}

/* A page that was mapped by memory that is locked is free when nobody maps it. */
static void mlocked_is_freed(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct vm_area_struct *vma;

	dp_populate(test, 0);

	mmap_write_lock(current->mm);
	vma = vma_lookup(current->mm, ctx->addr);
	vm_flags_set(vma, VM_LOCKED);
	current->mm->locked_vm += vma_pages(vma);
	mmap_write_unlock(current->mm);

	KUNIT_EXPECT_EQ(test, 0, vm_munmap(ctx->vma_start, 2 * HPAGE_PMD_SIZE));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ctx->map[0]->freed), 1);
}

struct dp_fault_arg {
	struct dp_ctx *ctx;
	struct mm_struct *mm;
	struct completion done;
	int ret;
};

static int dp_fault_thread(void *data)
{
	struct dp_fault_arg *arg = data;

	/* Not the owner, and so has the page faulted back. */
	arg->ret = dp_range_fault(arg->mm, arg->ctx->addr, HPAGE_PMD_NR,
				  arg->ctx->pfns, NULL, HMM_PFN_REQ_FAULT);
	complete(&arg->done);
	return 0;
}

/* A fault on a huge device page that is locked sleeps until it is unlocked. */
static void huge_fault_waits(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct dp_fault_arg arg = {
		.ctx = ctx,
		.mm = current->mm,
	};
	struct task_struct *task;
	struct folio *folio;
	int i, asleep = 0;

	dp_populate(test, HPAGE_PMD_ORDER);
	folio = pfn_folio(ctx->map[0]->pfn);
	folio_get(folio);
	folio_lock(folio);

	init_completion(&arg.done);
	task = kthread_create(dp_fault_thread, &arg, "dp_fault");
	if (IS_ERR(task)) {
		folio_unlock(folio);
		folio_put(folio);
		KUNIT_FAIL_AND_ABORT(test, "no thread");
	}
	get_task_struct(task);
	wake_up_process(task);

	/* One who retries without end may sleep too, but not all the time. */
	for (i = 0; i < 200 && asleep < 20; i++) {
		msleep(20);
		if (READ_ONCE(task->__state) == TASK_UNINTERRUPTIBLE)
			asleep++;
		else
			asleep = 0;
	}
	KUNIT_EXPECT_FALSE(test, completion_done(&arg.done));
	KUNIT_EXPECT_EQ_MSG(test, asleep, 20, "the fault spins");

	folio_unlock(folio);
	folio_put(folio);

	/* @arg is on the stack: there is no way out without the thread. */
	wait_for_completion(&arg.done);
	put_task_struct(task);
	KUNIT_EXPECT_EQ(test, arg.ret, -EFAULT);
}

/* The order that a page had before it was freed last has no effect. */
static void range_ignores_stale_order(struct kunit *test)
{
	const int idx = HPAGE_PMD_NR / 2;
	struct dp_ctx *ctx = test->priv;
	struct dp_map *map = ctx->map[0];
	bool found = false;
	struct page *page;
	int i, extra = 0;

	page = dp_page_init(map, 0, HPAGE_PMD_ORDER);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, page);
	dp_page_free(page);

	/* In the middle of what was one folio. */
	dp_populate_at(test, idx, 0);

	dp_clear_dst(ctx);
	migrate_device_range(ctx->src, map->pfn, HPAGE_PMD_NR);
	for (i = 0; i < HPAGE_PMD_NR; i++) {
		page = migrate_pfn_to_page(ctx->src[i]);
		if (i == idx)
			found = page == pfn_to_page(map->pfn + idx) &&
				ctx->src[i] & MIGRATE_PFN_MIGRATE;
		else
			extra += ctx->src[i] != 0;
	}
	migrate_device_finalize(ctx->src, ctx->dst, HPAGE_PMD_NR);

	KUNIT_EXPECT_TRUE(test, found);
	KUNIT_EXPECT_EQ(test, extra, 0);
}

/* A closed pagemap refuses pages, and takes them again once it is open. */
static void close_reopen(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct dp_map *map = ctx->map[0];
	struct page *page;
	int i;

	/* With a page in use, and with none: the latter completes the wait. */
	for (i = 0; i < 4; i++) {
		struct page *busy = NULL;

		if (i & 1) {
			busy = dp_page_init(map, 0, 0);
			KUNIT_ASSERT_NOT_ERR_OR_NULL(test, busy);
		}

		dev_pagemap_close(&map->pgmap);
		page = dp_page_init(map, 1, 0);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(page), -ENODEV);
		if (!IS_ERR(page))
			dp_page_free(page);
		KUNIT_EXPECT_EQ(test, !busy,
				dev_pagemap_wait_idle(&map->pgmap,
						      busy ? 0 : DP_TIMEOUT));

		dev_pagemap_reopen(&map->pgmap);
		page = dp_page_init(map, 1, 0);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, page);
		dp_page_free(page);
		if (busy)
			dp_page_free(busy);
	}

	/* It does not look idle for having been so when it was closed before. */
	page = dp_page_init(map, 0, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, page);
	dev_pagemap_close(&map->pgmap);
	KUNIT_EXPECT_FALSE(test, dev_pagemap_wait_idle(&map->pgmap, HZ / 10));
	dp_page_free(page);
}

/* Waiting for the pages in use does not use up the event, and ends. */
static void close_wait_idle(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct dp_map *map = ctx->map[0];
	struct page *page;

	page = dp_page_init(map, 0, HPAGE_PMD_ORDER);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, page);

	dev_pagemap_close(&map->pgmap);
	KUNIT_EXPECT_FALSE(test, dev_pagemap_wait_idle(&map->pgmap, 0));
	KUNIT_EXPECT_FALSE(test, dev_pagemap_wait_idle(&map->pgmap, HZ / 10));

	dp_page_free(page);
	KUNIT_EXPECT_TRUE(test, dev_pagemap_wait_idle(&map->pgmap, DP_TIMEOUT));
	KUNIT_EXPECT_TRUE(test, dev_pagemap_wait_idle(&map->pgmap, 0));

	KUNIT_ASSERT_EQ(test, dp_unmap_start(map), 0);
	KUNIT_EXPECT_TRUE(test, dp_unmap_finish(&ctx->map[0]));
}

#define DP_RACER_FOLIOS	32

struct dp_racer {
	struct dp_map *map;
	struct completion done;
	int granted;
};

/* Take huge pages until there is no more, or they are refused. */
static int dp_racer_thread(void *data)
{
	struct dp_racer *racer = data;
	int i;

	for (i = 0; i < DP_RACER_FOLIOS; i++) {
		if (IS_ERR(dp_page_init(racer->map, i * HPAGE_PMD_NR,
					HPAGE_PMD_ORDER)))
			break;
		WRITE_ONCE(racer->granted, i + 1);
	}
	complete(&racer->done);
	return 0;
}

/* When close returns, all pages that were or will be granted can be seen. */
static void close_sees_all(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	struct dp_map *map = ctx->map[0];
	int round, i, seen, partial = 0;
	struct task_struct *task;
	struct dp_racer racer;
	struct page *page;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs two CPUs");

	KUNIT_ASSERT_LE(test, DP_RACER_FOLIOS * HPAGE_PMD_SIZE,
			range_len(&map->pgmap.range));

	for (round = 0; round < 3 * DP_RACER_FOLIOS; round++) {
		racer = (struct dp_racer) { .map = map };
		init_completion(&racer.done);
		task = kthread_run(dp_racer_thread, &racer, "dp_racer");
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);

		/* Right after a page was granted, so in the middle of the next. */
		while (READ_ONCE(racer.granted) < 1 + round / 3 &&
		       !completion_done(&racer.done))
			cpu_relax();
		dev_pagemap_close(&map->pgmap);

		seen = 0;
		for (i = 0; i < DP_RACER_FOLIOS; i++) {
			page = pfn_to_page(map->pfn + i * HPAGE_PMD_NR);
			seen += page_ref_count(page) == 1;
		}

		wait_for_completion(&racer.done);
		KUNIT_EXPECT_EQ(test, seen, racer.granted);
		partial += racer.granted < DP_RACER_FOLIOS;

		for (i = 0; i < racer.granted; i++)
			dp_page_free(pfn_to_page(map->pfn + i * HPAGE_PMD_NR));
		KUNIT_ASSERT_TRUE(test, dev_pagemap_wait_idle(&map->pgmap,
							      DP_TIMEOUT));
		dev_pagemap_reopen(&map->pgmap);
	}
	kunit_info(test, "%d of %d rounds were closed half way", partial, round);
}

static int dp_init(struct kunit *test)
{
	unsigned long addr;
	struct dp_ctx *ctx;

	if (!thp_migration_supported())
		kunit_skip(test, "needs huge pages of the device");

	ctx = kunit_kzalloc(test, sizeof(*ctx), GFP_KERNEL);
	if (!ctx)
		return -ENOMEM;
	test->priv = ctx;

	ctx->mem = kunit_kcalloc(test, HPAGE_PMD_NR, sizeof(*ctx->mem), GFP_KERNEL);
	ctx->src = kunit_kcalloc(test, HPAGE_PMD_NR, sizeof(*ctx->src), GFP_KERNEL);
	ctx->dst = kunit_kcalloc(test, HPAGE_PMD_NR, sizeof(*ctx->dst), GFP_KERNEL);
	ctx->pfns = kunit_kcalloc(test, HPAGE_PMD_NR, sizeof(*ctx->pfns), GFP_KERNEL);
	if (!ctx->mem || !ctx->src || !ctx->dst || !ctx->pfns)
		return -ENOMEM;

	addr = kunit_vm_mmap(test, NULL, 0, 2 * HPAGE_PMD_SIZE,
			     PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
	if (IS_ERR_VALUE(addr) || !addr)
		return -ENOMEM;
	ctx->vma_start = addr;
	ctx->addr = ALIGN(addr, HPAGE_PMD_SIZE);

	ctx->map[0] = dp_map_alloc();
	if (IS_ERR(ctx->map[0])) {
		int ret = PTR_ERR(ctx->map[0]);

		ctx->map[0] = NULL;
		return ret;
	}
	return 0;
}

/* Runs when the mm of the test is gone, and with it all that was mapped. */
static void dp_exit(struct kunit *test)
{
	struct dp_ctx *ctx = test->priv;
	int i;

	if (!ctx)
		return;

	for (i = 0; i < ARRAY_SIZE(ctx->map); i++) {
		if (IS_ERR_OR_NULL(ctx->map[i]))
			continue;
		KUNIT_EXPECT_EQ(test, dp_unmap_start(ctx->map[i]), 0);
		KUNIT_EXPECT_TRUE_MSG(test, dp_unmap_finish(&ctx->map[i]),
				      "pages left behind");
	}
}

static struct kunit_case dp_test_cases[] = {
	KUNIT_CASE(hmm_pmd_offset),
	KUNIT_CASE(hmm_pte_rcu),
	KUNIT_CASE(hmm_pmd_rcu),
	KUNIT_CASE(split_keeps_pagemap),
	KUNIT_CASE(unmap_waits_for_rcu),
	KUNIT_CASE(init_refused_when_dying),
	KUNIT_CASE(evict_huge_to_small),
	KUNIT_CASE(evict_zap_huge),
	KUNIT_CASE(evict_outlives_vma),
	KUNIT_CASE(soft_dirty_is_put_back),
	KUNIT_CASE(mlocked_is_freed),
	KUNIT_CASE(huge_fault_waits),
	KUNIT_CASE(range_ignores_stale_order),
	KUNIT_CASE(close_reopen),
	KUNIT_CASE(close_wait_idle),
	KUNIT_CASE(close_sees_all),
	{}
};

static struct kunit_suite dp_test_suite = {
	.name = "device_private",
	.init = dp_init,
	.exit = dp_exit,
	.test_cases = dp_test_cases,
};

kunit_test_suite(dp_test_suite);

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_DESCRIPTION("KUnit tests for device private memory");
MODULE_LICENSE("GPL");
