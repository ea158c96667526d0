// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for shared owners of device memory, mm/hmm_owner.c.
 *
 * A mock device keeps its memory in system memory and its slots in an array. The
 * tests run on the memory of a real mm. If coherent_ram is given, they run a second time,
 * on devices whose memory is coherent.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/hmm.h>
#include <linux/huge_mm.h>
#include <linux/ioport.h>
#include <linux/kthread.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/moduleparam.h>
#include <linux/pgmap_owner.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <trace/events/pgmap_owner.h>

#include "../hmm_owner.h"
#include "../internal.h"

#define MOCK_REGIONS	3
#define MOCK_SLOTS	(2UL * PAGES_PER_SUBSECTION)
/* Coherent memory of a device. */
#define MOCK_MEM	((MOCK_REGIONS + 1) * MOCK_SLOTS << PAGE_SHIFT)
/* For moving what a test moves on a slow machine; and for what does not move. */
#define MOCK_TIMEOUT	HZ
/* The memory that tests write and check is one word in as many bytes. */
#define MOCK_STRIDE	64

static unsigned long long coherent_ram;
module_param(coherent_ram, ullong, 0444);
MODULE_PARM_DESC(coherent_ram, "where 64 MiB of memory are that the system does not use");

struct mock_region {
	struct pgmap_region region;
	struct mock_gpu *gpu;
	u8 *mem;
	/* One for each slot: in use. Its address is the page's zone_device_data. */
	u8 *live;
};

struct mock_gpu {
	struct pgmap_peer peer;
	struct mock_region regions[MOCK_REGIONS];
	struct resource mem;
	/* What the callbacks saw and shall do. */
	unsigned int unmaps;
	unsigned int rehomes;
	int copy_err;
	void (*on_copy)(struct mock_gpu *gpu);
	void (*on_unmap)(struct mock_gpu *gpu);
	void (*on_rehome)(struct mock_gpu *gpu, struct folio *new);
};

static struct mock_region *to_mock(struct pgmap_region *region)
{
	return container_of(region, struct mock_region, region);
}

static unsigned long mock_live(struct mock_gpu *gpu)
{
	unsigned long i, r, live = 0;

	for (r = 0; r < MOCK_REGIONS; r++)
		for (i = 0; i < MOCK_SLOTS; i++)
			live += gpu->regions[r].live[i];
	return live;
}

static void *mock_slot(struct page *page)
{
	struct mock_region *mr = to_mock(pgmap_page_window(page)->region);

	if (is_device_coherent_page(page))
		return page_address(page);
	return mr->mem + (pgmap_page_slot(page) << PAGE_SHIFT);
}

static bool mock_is_device(struct page *page)
{
	return is_device_private_page(page) || is_device_coherent_page(page);
}

static void mock_unmap_foreign(struct pgmap_peer *peer)
{
	struct mock_gpu *gpu = container_of(peer, struct mock_gpu, peer);

	gpu->unmaps++;
	if (gpu->on_unmap)
		gpu->on_unmap(gpu);
}

static void mock_copy(const unsigned long *src, const unsigned long *dst,
		      unsigned long nr)
{
	unsigned long i, step, first = 0, head = 0;

	for (i = 0; i < nr; i += step) {
		struct page *page = migrate_pfn_to_page(src[i]);
		struct page *to = migrate_pfn_to_page(dst[i]);
		unsigned long j;

		step = 1;
		/* A large source with small destinations has just its head. */
		if (page && folio_test_large(page_folio(page))) {
			first = i;
			head = migrate_pfn(page_to_pfn(page));
		}
		if (!page && head && i < first + HPAGE_PMD_NR)
			page = pfn_to_page((head >> MIGRATE_PFN_SHIFT) + i - first);
		if (!page || !to)
			continue;
		step = folio_nr_pages(page_folio(to));
		for (j = 0; j < step; j++)
			memcpy_to_page(folio_page(page_folio(to), j), 0,
				       mock_slot(page + j), PAGE_SIZE);
	}
}

static int mock_copy_to_ram(struct pgmap_region *region,
			    const unsigned long *src, const unsigned long *dst,
			    unsigned long nr)
{
	struct mock_gpu *gpu = to_mock(region)->gpu;

	if (gpu->copy_err)
		return gpu->copy_err;
	mock_copy(src, dst, nr);
	if (gpu->on_copy)
		gpu->on_copy(gpu);
	return 0;
}

static void mock_rehome(struct pgmap_region *region, struct folio *old,
			struct folio *new)
{
	struct mock_gpu *gpu = to_mock(region)->gpu;

	gpu->rehomes++;
	new->page.zone_device_data = old->page.zone_device_data;
	old->page.zone_device_data = NULL;
	if (gpu->on_rehome)
		gpu->on_rehome(gpu, new);
}

static const struct pgmap_peer_ops mock_peer_ops = {
	.unmap_foreign = mock_unmap_foreign,
	.copy_to_ram = mock_copy_to_ram,
	/* The mock copies to what the CPU can access. */
	.copy = mock_copy_to_ram,
	.rehome = mock_rehome,
};

static void mock_folio_free(struct folio *folio)
{
	u8 *live = folio->page.zone_device_data;

	if (live)
		memset(live, 0, folio_nr_pages(folio));
}

static void mock_folio_split(struct folio *head, struct folio *tail)
{
	u8 *live = head->page.zone_device_data;

	if (!tail)
		return;
	tail->pgmap = head->pgmap;
	tail->page.zone_device_data = live + folio_pfn(tail) - folio_pfn(head);
}

static vm_fault_t mock_migrate_to_ram(struct vm_fault *vmf)
{
	unsigned int order = folio_order(page_folio(vmf->page));
	unsigned long size = PAGE_SIZE << order;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = ALIGN_DOWN(vmf->address, size),
		.end = ALIGN_DOWN(vmf->address, size) + size,
		.pgmap_owner = page_pgmap(vmf->page)->owner,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			 MIGRATE_VMA_SELECT_DEVICE_COHERENT |
			 (order ? MIGRATE_VMA_SELECT_COMPOUND : 0),
		.fault_page = vmf->page,
	};
	vm_fault_t ret = VM_FAULT_SIGBUS;
	struct folio *folio;

	if (pgmap_peer_is_lost(pgmap_page_window(vmf->page)->region->peer))
		return VM_FAULT_HWPOISON;

	args.src = kvcalloc(1UL << order, sizeof(long), GFP_KERNEL);
	args.dst = kvcalloc(1UL << order, sizeof(long), GFP_KERNEL);
	if (!args.src || !args.dst || migrate_vma_setup(&args))
		goto out;
	if (args.src[0] & MIGRATE_PFN_MIGRATE) {
		folio = folio_alloc(order ? GFP_TRANSHUGE : GFP_HIGHUSER, order);
		if (folio) {
			folio_lock(folio);
			args.dst[0] = migrate_pfn(folio_pfn(folio)) |
				      (order ? MIGRATE_PFN_COMPOUND : 0);
			mock_copy(args.src, args.dst, 1UL << order);
			ret = 0;
		}
	} else {
		/* Somebody else is at it. */
		ret = 0;
	}
	migrate_vma_pages(&args);
	migrate_vma_finalize(&args);
out:
	kvfree(args.src);
	kvfree(args.dst);
	return ret;
}

static const struct dev_pagemap_ops mock_pgmap_ops = {
	.folio_free = mock_folio_free,
	.folio_split = mock_folio_split,
	.migrate_to_ram = mock_migrate_to_ram,
};

#define MOCK_GPUS	4
static const char * const mock_names[MOCK_GPUS] = { "mock0", "mock1", "mock2", "mock3" };

struct mock_ctx {
	struct pgmap_fabric fabric;
	/* What devices with coherent memory have theirs from; NULL for private memory. */
	struct resource *ram;
	struct mock_gpu *gpus[MOCK_GPUS];
	unsigned int nr_gpus;
	unsigned long addr;
	unsigned long len;
	/* Injected failures: the n-th call from now fails; 0 is never. */
	unsigned int fail_register;
	/* All calls fail. */
	bool fail_registers, fail_owner, fail_large, fail_small;
	unsigned int registers;
	/* Called by mock_migrate() while the pages are locked and not mapped. */
	void (*in_migrate)(struct kunit *test);
	struct mmu_interval_notifier notifier;
};

static bool mock_invalidate(struct mmu_interval_notifier *mni,
			    const struct mmu_notifier_range *range,
			    unsigned long seq)
{
	mmu_interval_set_seq(mni, seq);
	return true;
}

static const struct mmu_interval_notifier_ops mock_notifier_ops = {
	.invalidate = mock_invalidate,
};

static struct pgmap_window *mock_register(struct pgmap_region *region,
					  struct pgmap_owner *owner)
{
	struct kunit *test = kunit_get_current_test();
	struct mock_ctx *ctx = test->priv;
	struct pgmap_window *window;

	ctx->registers++;
	if (ctx->fail_registers || (ctx->fail_register && !--ctx->fail_register))
		return ERR_PTR(-ERANGE);

	kunit_deactivate_static_stub(test, pgmap_window_register);
	window = pgmap_window_register(region, owner);
	kunit_activate_static_stub(test, pgmap_window_register, mock_register);
	return window;
}

static struct pgmap_owner *mock_owner_alloc(gfp_t gfp)
{
	struct kunit *test = kunit_get_current_test();
	struct mock_ctx *ctx = test->priv;
	struct pgmap_owner *owner;

	if (ctx->fail_owner && !(gfp & __GFP_NOFAIL))
		return NULL;

	kunit_deactivate_static_stub(test, pgmap_owner_alloc);
	owner = pgmap_owner_alloc(gfp);
	kunit_activate_static_stub(test, pgmap_owner_alloc, mock_owner_alloc);
	return owner;
}

static struct folio *mock_folio_alloc(unsigned int order)
{
	struct kunit *test = kunit_get_current_test();
	struct mock_ctx *ctx = test->priv;
	struct folio *folio;

	if (order ? ctx->fail_large : ctx->fail_small)
		return NULL;

	kunit_deactivate_static_stub(test, pgmap_folio_alloc);
	folio = pgmap_folio_alloc(order);
	kunit_activate_static_stub(test, pgmap_folio_alloc, mock_folio_alloc);
	return folio;
}

static struct mock_gpu *mock_gpu_alloc(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *gpu = kunit_kzalloc(test, sizeof(*gpu), GFP_KERNEL);
	unsigned int r;

	KUNIT_ASSERT_NOT_NULL(test, gpu);
	gpu->peer.name = mock_names[ctx->nr_gpus];
	gpu->peer.ops = &mock_peer_ops;
	gpu->peer.nid = NUMA_NO_NODE;
	if (ctx->ram) {
		gpu->mem = DEFINE_RES_NAMED(ctx->ram->start + ctx->nr_gpus * MOCK_MEM,
					    MOCK_MEM, gpu->peer.name, IORESOURCE_MEM);
		KUNIT_ASSERT_EQ(test, 0, request_resource(ctx->ram, &gpu->mem));
		gpu->peer.mem = &gpu->mem;
	}
	for (r = 0; r < MOCK_REGIONS; r++) {
		gpu->regions[r].gpu = gpu;
		gpu->regions[r].live = vzalloc(MOCK_SLOTS);
		KUNIT_ASSERT_NOT_NULL(test, gpu->regions[r].live);
		if (ctx->ram)
			continue;
		gpu->regions[r].mem = vzalloc(MOCK_SLOTS << PAGE_SHIFT);
		KUNIT_ASSERT_NOT_NULL(test, gpu->regions[r].mem);
	}
	ctx->gpus[ctx->nr_gpus++] = gpu;
	return gpu;
}

/* A device with its first @regions regions registered. */
static struct mock_gpu *mock_gpu(struct kunit *test, unsigned int regions)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *gpu = mock_gpu_alloc(test);
	unsigned int r;

	KUNIT_ASSERT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &gpu->peer,
						 MOCK_TIMEOUT, NULL));
	for (r = 0; r < regions; r++)
		KUNIT_ASSERT_EQ(test, 0,
				pgmap_region_register(&gpu->peer,
						      &gpu->regions[r].region,
						      MOCK_SLOTS, &mock_pgmap_ops));
	return gpu;
}

struct move_param {
	const char *name;
	unsigned long nr;
	bool coherent;
};

static const struct move_param kind_params[] = {
	{ "private" },
	{ "coherent", .coherent = true },
};

KUNIT_ARRAY_PARAM_DESC(kind, kind_params, name);

static const struct move_param coherent_params[] = {
	{ "coherent", .coherent = true },
};

KUNIT_ARRAY_PARAM_DESC(coherent, coherent_params, name);

/* Of coherent memory, a huge page is as many single ones. */
static const struct move_param move_params[] = {
	{ "4K", 300 },
	{ "2M", HPAGE_PMD_NR },
	{ "coherent 4K", 300, true },
	{ "coherent 2M", HPAGE_PMD_NR, true },
};

KUNIT_ARRAY_PARAM_DESC(move, move_params, name);

static int mock_init(struct kunit *test)
{
	struct mock_ctx *ctx = kunit_kzalloc(test, sizeof(*ctx), GFP_KERNEL);
	const struct move_param *param = test->param_value;

	if (!ctx)
		return -ENOMEM;
	if (param && param->coherent) {
		if (!coherent_ram)
			kunit_skip(test, "no coherent_ram");
		ctx->ram = request_mem_region(coherent_ram, MOCK_GPUS * MOCK_MEM,
					      "pgmap_owner_kunit");
		if (!ctx->ram)
			return -EBUSY;
	}
	pgmap_fabric_init(&ctx->fabric, "mock", NULL);
	test->priv = ctx;
	return 0;
}

static void mock_exit(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	unsigned int i, r;

	if (!ctx)
		return;
	for (i = 0; i < ctx->nr_gpus; i++) {
		struct mock_gpu *gpu = ctx->gpus[i];
		int err;

		gpu->copy_err = 0;
		gpu->on_unmap = NULL;
		err = pgmap_peer_leave(&gpu->peer, 0, 5 * HZ, NULL);
		KUNIT_EXPECT_TRUE(test, !err || err == -ENODEV);
		KUNIT_EXPECT_EQ(test, 0, mock_live(gpu));
		for (r = 0; r < MOCK_REGIONS; r++) {
			vfree(gpu->regions[r].mem);
			vfree(gpu->regions[r].live);
		}
		if (gpu->peer.mem)
			release_resource(gpu->peer.mem);
	}
	if (ctx->ram)
		release_mem_region(ctx->ram->start, resource_size(ctx->ram));
}

/* --- user memory --- */

static void mock_mmap(struct kunit *test, unsigned long len)
{
	struct mock_ctx *ctx = test->priv;
	unsigned long addr, i;

	addr = kunit_vm_mmap(test, NULL, 0, len + HPAGE_PMD_SIZE,
			     PROT_READ | PROT_WRITE,
			     MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_FALSE(test, !addr || IS_ERR_VALUE(addr));
	ctx->addr = ALIGN(addr, HPAGE_PMD_SIZE);
	ctx->len = len;
	for (i = 0; i < len; i += MOCK_STRIDE)
		KUNIT_ASSERT_EQ(test, 0, put_user((u64)i * 0x9e3779b97f4a7c15ULL,
						  (u64 __user *)(ctx->addr + i)));
	KUNIT_ASSERT_EQ(test, 0,
			mmu_interval_notifier_insert(&ctx->notifier, current->mm,
						     ctx->addr, len,
						     &mock_notifier_ops));
}

static void mock_munmap(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;

	mmu_interval_notifier_remove(&ctx->notifier);
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(ctx->addr, ctx->len));
}

static bool mock_right(unsigned long offset, u64 value)
{
	return value == (u64)offset * 0x9e3779b97f4a7c15ULL;
}

/* What it takes to rehome so many pages. */
static u64 mock_rehome_bytes(struct kunit *test, u64 pages)
{
	struct mock_ctx *ctx = test->priv;

	return ctx->ram ? pages << PAGE_SHIFT : 0;
}

/* Reads through the CPU, which brings device pages back, if they are private. */
static unsigned long mock_wrong_bytes(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	unsigned long i, wrong = 0;
	u64 value;

	for (i = 0; i < ctx->len; i += MOCK_STRIDE) {
		if (get_user(value, (u64 __user *)(ctx->addr + i)) ||
		    !mock_right(i, value))
			wrong += MOCK_STRIDE;
	}
	return wrong;
}

/* Move @nr pages from page @first of the mapping to slots from @slot. */
static void mock_migrate(struct kunit *test, struct mock_gpu *gpu,
			 unsigned int r, unsigned long first, unsigned long nr,
			 unsigned long slot)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_region *mr = &gpu->regions[r];
	struct pgmap_window *window = pgmap_window_get(&mr->region);
	struct migrate_vma args = {
		.start = ctx->addr + (first << PAGE_SHIFT),
		.end = ctx->addr + ((first + nr) << PAGE_SHIFT),
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	unsigned long i, step, j;

	KUNIT_ASSERT_NOT_NULL(test, window);
	args.src = kvcalloc(nr, sizeof(long), GFP_KERNEL);
	args.dst = kvcalloc(nr, sizeof(long), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, args.src);
	KUNIT_ASSERT_NOT_NULL(test, args.dst);
	if (nr == HPAGE_PMD_NR && !(first % HPAGE_PMD_NR) && !ctx->ram)
		args.flags |= MIGRATE_VMA_SELECT_COMPOUND;

	mmap_read_lock(current->mm);
	args.vma = vma_lookup(current->mm, args.start);
	KUNIT_EXPECT_EQ(test, 0, migrate_vma_setup(&args));
	for (i = 0; i < nr; i += step) {
		struct page *src = migrate_pfn_to_page(args.src[i]);
		struct page *dst;
		unsigned int order;

		step = 1;
		if (!src || !(args.src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		order = folio_order(page_folio(src));
		step = 1UL << order;
		dst = pfn_to_page(pgmap_window_pfn(window, slot + i));
		if (zone_device_folio_init((struct folio *)dst,
					   &window->pagemap, order))
			continue;
		for (j = 0; j < step; j++)
			memcpy_from_page(mock_slot(dst + j),
					 folio_page(page_folio(src), j), 0,
					 PAGE_SIZE);
		dst->zone_device_data = &mr->live[slot + i];
		memset(&mr->live[slot + i], 1, step);
		args.dst[i] = migrate_pfn(page_to_pfn(dst)) |
			      (order ? MIGRATE_PFN_COMPOUND : 0);
	}
	migrate_vma_pages(&args);
	if (ctx->in_migrate)
		ctx->in_migrate(test);
	migrate_vma_finalize(&args);
	mmap_read_unlock(current->mm);

	kvfree(args.src);
	kvfree(args.dst);
	pgmap_window_put(window);
}

/* How many pages of the mapping can @peer use, on which device are they? */
struct mock_view {
	unsigned long system, own, peers, wrong;
};

static struct mock_view mock_look(struct kunit *test, struct mock_gpu *gpu)
{
	struct mock_ctx *ctx = test->priv;
	unsigned long i, nr = ctx->len >> PAGE_SHIFT;
	struct hmm_range range = {
		.notifier = &ctx->notifier,
		.start = ctx->addr,
		.end = ctx->addr + ctx->len,
	};
	struct mock_view view = {};
	struct pgmap_walk walk;

	range.hmm_pfns = kvcalloc(nr, sizeof(long), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, range.hmm_pfns);
	KUNIT_ASSERT_EQ(test, 0, pgmap_range_fault(&gpu->peer, &walk, &range, HZ));
	KUNIT_EXPECT_FALSE(test, pgmap_range_retry(&walk, &range));
	for (i = 0; i < nr; i++) {
		struct page *page;

		if (!(range.hmm_pfns[i] & HMM_PFN_VALID))
			continue;
		page = hmm_pfn_to_page(range.hmm_pfns[i]);
		if (!mock_is_device(page)) {
			view.system++;
			continue;
		}
		if (!mock_right(i << PAGE_SHIFT, *(u64 *)mock_slot(page)))
			view.wrong++;
		if (pgmap_page_window(page)->region->peer == &gpu->peer)
			view.own++;
		else
			view.peers++;
	}
	pgmap_walk_end(&walk);
	kvfree(range.hmm_pfns);
	return view;
}

static void mock_expect(struct kunit *test, struct mock_gpu *gpu,
			unsigned long own, unsigned long peers)
{
	struct mock_view view = mock_look(test, gpu);

	KUNIT_EXPECT_EQ_MSG(test, view.own, own, "%s", gpu->peer.name);
	KUNIT_EXPECT_EQ_MSG(test, view.peers, peers, "%s", gpu->peer.name);
	KUNIT_EXPECT_EQ(test, view.wrong, 0);
}

static int mock_link(struct kunit *test, struct mock_gpu *a, struct mock_gpu *b,
		     bool up, unsigned int flags, struct pgmap_stats *stats)
{
	struct mock_ctx *ctx = test->priv;
	struct pgmap_link link = { &a->peer, &b->peer, up };

	return pgmap_fabric_set_links(&ctx->fabric, &link, 1, flags,
				      MOCK_TIMEOUT, stats);
}

/* Somebody refers to the page behind a slot, until put_page(). */
static struct page *mock_hold(struct mock_gpu *gpu, unsigned int r,
			      unsigned long slot)
{
	struct pgmap_window *window = rcu_access_pointer(gpu->regions[r].region.window);
	struct page *page = pfn_to_page(pgmap_window_pfn(window, slot));

	get_page(page);
	return page;
}

/* --- somebody else, at the same time --- */

/* A thread that does one thing to the test's devices or memory. */
struct racer {
	struct kunit *test;
	struct mm_struct *mm;
	int (*func)(struct racer *racer);
	struct mock_gpu *gpu;
	/* Forked from @mm, by a thread before. */
	struct mm_struct *child;
	/* In and out of @func. */
	unsigned long addr;
	u64 value;
	struct pgmap_stats stats;
	int ret;
	struct completion runs, at_point, go, done;
};

static struct racer racer;

static int racer_main(void *data)
{
	current->kunit_test = racer.test;
	kthread_use_mm(racer.mm);
	complete(&racer.runs);
	racer.ret = racer.func(&racer);
	kthread_unuse_mm(racer.mm);
	current->kunit_test = NULL;
	complete(&racer.done);
	return 0;
}

static void race(struct kunit *test, int (*func)(struct racer *racer),
		 struct mock_gpu *gpu)
{
	struct mock_ctx *ctx = test->priv;

	racer = (struct racer){
		.test = test,
		.mm = current->mm,
		.func = func,
		.gpu = gpu,
		.child = racer.child,
		.addr = ctx->addr,
	};
	init_completion(&racer.runs);
	init_completion(&racer.at_point);
	init_completion(&racer.go);
	init_completion(&racer.done);
	if (IS_ERR(kthread_run(racer_main, NULL, "mock_racer"))) {
		racer.ret = -ENOMEM;
		complete(&racer.done);
		return;
	}
	wait_for_completion(&racer.runs);
}

/* The other one has to wait for us: it does not get through meanwhile. */
static void race_waits(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, 0, wait_for_completion_timeout(&racer.done, HZ / 20));
}

static void race_ends(struct kunit *test)
{
	KUNIT_ASSERT_NE(test, 0, wait_for_completion_timeout(&racer.done, 20 * HZ));
}

/* --- owners --- */

static void owner_is_unique(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 0), *b = mock_gpu(test, 0);
	u64 id = pgmap_peer_owner_id(&a->peer), last = id;
	unsigned int i;

	KUNIT_EXPECT_NE(test, id, pgmap_peer_owner_id(&b->peer));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));

	for (i = 0; i < 10; i++) {
		KUNIT_ASSERT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
		KUNIT_EXPECT_EQ(test, 0, pgmap_peer_owner_id(&a->peer));
		KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
		KUNIT_ASSERT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &a->peer,
							 HZ, NULL));
		KUNIT_EXPECT_GT(test, pgmap_peer_owner_id(&a->peer), last);
		last = pgmap_peer_owner_id(&a->peer);
	}
}

/* The address of an owner must not be used again as long as a walk has it. */
static void owner_outlives_walk(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 0);
	struct pgmap_walk walk, again;
	unsigned int i;

	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&a->peer, &walk));
	for (i = 0; i < 100; i++) {
		KUNIT_ASSERT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
		KUNIT_EXPECT_TRUE(test, pgmap_walk_retry(&walk));
		KUNIT_EXPECT_EQ(test, -ENODEV, pgmap_walk_begin(&a->peer, &again));
		KUNIT_ASSERT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &a->peer,
							 HZ, NULL));
		KUNIT_EXPECT_TRUE(test, pgmap_walk_retry(&walk));
	}
	pgmap_walk_end(&walk);
}

static void bad_arguments(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu_alloc(test);
	struct pgmap_region *region = &a->regions[0].region;
	struct pgmap_link link = { &a->peer, &a->peer, true };
	struct pgmap_walk walk;

	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_join(&ctx->fabric, &a->peer, 0, NULL));
	KUNIT_EXPECT_EQ(test, -ENODEV, pgmap_peer_leave(&b->peer, 0, 0, NULL));
	KUNIT_EXPECT_EQ(test, -EINVAL, pgmap_peer_leave(&a->peer, 2, 0, NULL));
	KUNIT_EXPECT_EQ(test, -ENODEV, pgmap_walk_begin(&b->peer, &walk));
	KUNIT_EXPECT_EQ(test, -ENODEV,
			pgmap_region_register(&b->peer, &b->regions[0].region,
					      MOCK_SLOTS, &mock_pgmap_ops));
	KUNIT_EXPECT_EQ(test, -EBUSY,
			pgmap_region_register(&a->peer, region, MOCK_SLOTS,
					      &mock_pgmap_ops));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			pgmap_region_register(&a->peer, &a->regions[1].region,
					      MOCK_SLOTS + 1, &mock_pgmap_ops));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			pgmap_region_register(&a->peer, &a->regions[1].region, 0,
					      &mock_pgmap_ops));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			pgmap_region_unregister(region, 2, 0, NULL));
	KUNIT_EXPECT_EQ(test, 0,
			pgmap_region_unregister(&b->regions[0].region, 0, 0, NULL));

	KUNIT_EXPECT_EQ(test, -EINVAL,
			pgmap_fabric_set_links(&ctx->fabric, &link, 1, 0, HZ, NULL));
	link.b = &b->peer;
	KUNIT_EXPECT_EQ(test, -EINVAL,
			pgmap_fabric_set_links(&ctx->fabric, &link, 1, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			pgmap_fabric_set_links(&ctx->fabric, &link, 0, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			pgmap_fabric_set_links(&ctx->fabric, &link, 1, 2, HZ, NULL));
}

/* --- windows --- */

static void window_life_cycle(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 0);
	struct mock_region *mr = &a->regions[0];
	struct pgmap_window *window;
	struct page *page;
	unsigned int i;

	KUNIT_EXPECT_NULL(test, pgmap_window_get(&mr->region));
	for (i = 0; i < 3; i++) {
		KUNIT_ASSERT_EQ(test, 0,
				pgmap_region_register(&a->peer, &mr->region,
						      MOCK_SLOTS, &mock_pgmap_ops));
		window = pgmap_window_get(&mr->region);
		KUNIT_ASSERT_NOT_NULL(test, window);
		KUNIT_EXPECT_PTR_EQ(test, window->pagemap.owner,
				    (void *)rcu_access_pointer(a->peer.owner));

		page = pfn_to_page(pgmap_window_pfn(window, 7));
		KUNIT_ASSERT_EQ(test, 0,
				zone_device_page_init(page, &window->pagemap, 0));
		page->zone_device_data = NULL;
		KUNIT_EXPECT_PTR_EQ(test, pgmap_page_window(page), window);
		KUNIT_EXPECT_EQ(test, pgmap_page_slot(page), 7);
		/* It is in use. */
		KUNIT_EXPECT_EQ(test, -EBUSY,
				zone_device_page_init(page, &window->pagemap, 0));

		/* The page is locked: the region can't go, and goes on. */
		KUNIT_EXPECT_EQ(test, -EBUSY,
				pgmap_region_unregister(&mr->region, 0, HZ / 10, NULL));
		KUNIT_ASSERT_EQ(test, 0,
				zone_device_page_init(page + 1, &window->pagemap, 0));
		page[1].zone_device_data = NULL;

		/* Forced, it stays closed. */
		KUNIT_EXPECT_EQ(test, -EBUSY,
				pgmap_region_unregister(&mr->region, PGMAP_FORCE,
							HZ / 10, NULL));
		KUNIT_EXPECT_EQ(test, -ENODEV,
				zone_device_page_init(page + 2, &window->pagemap, 0));
		KUNIT_EXPECT_NULL(test, pgmap_window_get(&mr->region));

		unlock_page(page);
		put_page(page);
		unlock_page(page + 1);
		put_page(page + 1);

		/* The memmap stays as long as somebody has the window. */
		KUNIT_EXPECT_EQ(test, -EBUSY,
				pgmap_region_unregister(&mr->region, 0, HZ / 10, NULL));
		pgmap_window_put(window);
		KUNIT_EXPECT_EQ(test, 0,
				pgmap_region_unregister(&mr->region, 0, HZ, NULL));
		KUNIT_EXPECT_NULL(test, pgmap_window_get(&mr->region));
	}
}

/* --- moving pages --- */

/*
 * Clusters merge and split: pages move, data and slots stay, and private memory is not
 * copied.
 */
static void link_up_and_down(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	unsigned long nr = param->nr;
	u64 big;

	mock_mmap(test, 4 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, nr, 0);
	mock_migrate(test, b, 0, HPAGE_PMD_NR, nr, 0);
	mock_migrate(test, b, 0, 2 * HPAGE_PMD_NR, nr, HPAGE_PMD_NR);
	KUNIT_ASSERT_EQ(test, mock_live(a), nr);
	KUNIT_ASSERT_EQ(test, mock_live(b), 2 * nr);
	mock_expect(test, a, nr, 0);
	mock_expect(test, b, 2 * nr, 0);
	big = pgmap_peer_owner_id(&b->peer);

	/* B has more pages: A moves. */
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, nr);
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 0);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, mock_rehome_bytes(test, nr));
	KUNIT_EXPECT_EQ(test, stats.peers_moved, 1);
	KUNIT_EXPECT_GT(test, stats.stall_ns, 0);
	KUNIT_EXPECT_EQ(test, a->unmaps, 1);
	KUNIT_EXPECT_EQ(test, b->unmaps, 0);
	KUNIT_EXPECT_EQ(test, big, pgmap_peer_owner_id(&a->peer));
	KUNIT_EXPECT_EQ(test, big, pgmap_peer_owner_id(&b->peer));
	KUNIT_EXPECT_EQ(test, mock_live(a), nr);
	mock_expect(test, a, nr, 2 * nr);
	mock_expect(test, b, 2 * nr, nr);

	/* Doing it again changes nothing. */
	memset(&stats, 0, sizeof(stats));
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 0);
	KUNIT_EXPECT_EQ(test, stats.peers_moved, 0);

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, false, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, nr);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, mock_rehome_bytes(test, nr));
	KUNIT_EXPECT_EQ(test, a->unmaps, 2);
	KUNIT_EXPECT_EQ(test, big, pgmap_peer_owner_id(&b->peer));
	KUNIT_EXPECT_NE(test, big, pgmap_peer_owner_id(&a->peer));
	mock_expect(test, a, nr, 0);
	mock_expect(test, b, 2 * nr, 0);

	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static void leave_evacuates(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, param->nr, 0);
	mock_expect(test, b, 0, param->nr);

	KUNIT_ASSERT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, 5 * HZ, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, param->nr);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, param->nr << PAGE_SHIFT);
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 0);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	KUNIT_EXPECT_NULL(test, pgmap_window_get(&a->regions[0].region));
	mock_expect(test, b, 0, 0);

	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* A peer with many regions needs one window more, not twice as many. */
static void regions_take_turns(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, MOCK_REGIONS), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	unsigned int r;

	mock_mmap(test, (MOCK_REGIONS + 2) * HPAGE_PMD_SIZE);
	for (r = 0; r < MOCK_REGIONS; r++)
		mock_migrate(test, a, r, r * HPAGE_PMD_NR, 100, r * 10);
	mock_migrate(test, b, 0, MOCK_REGIONS * HPAGE_PMD_NR, HPAGE_PMD_NR, 0);

	kunit_activate_static_stub(test, pgmap_window_register, mock_register);
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, ctx->registers, 1);
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 100 * MOCK_REGIONS);
	mock_expect(test, b, HPAGE_PMD_NR, 100 * MOCK_REGIONS);
	mock_expect(test, a, 100 * MOCK_REGIONS, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* Several links at once are one change. */
static void links_at_once(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *g[4];
	struct pgmap_link links[6];
	unsigned int i, j, n = 0;

	for (i = 0; i < 4; i++)
		g[i] = mock_gpu(test, 0);
	for (i = 0; i < 4; i++)
		for (j = 0; j < i; j++)
			links[n++] = (struct pgmap_link){ &g[i]->peer, &g[j]->peer, true };
	KUNIT_ASSERT_EQ(test, 0, pgmap_fabric_set_links(&ctx->fabric, links, n, 0,
							MOCK_TIMEOUT, NULL));
	for (i = 0; i < 4; i++) {
		KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&g[0]->peer, &g[i]->peer));
		KUNIT_EXPECT_LE(test, g[i]->unmaps, 1);
	}

	/* {0, 1} and {2, 3} remain. */
	for (i = 0; i < n; i++)
		links[i].up = false;
	links[0].up = true;
	links[5].up = true;
	KUNIT_ASSERT_EQ(test, 0, pgmap_fabric_set_links(&ctx->fabric, links, n, 0,
							MOCK_TIMEOUT, NULL));
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&g[0]->peer, &g[1]->peer));
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&g[2]->peer, &g[3]->peer));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&g[0]->peer, &g[2]->peer));
}

/* --- when something fails --- */

static void mock_unchanged(struct kunit *test, struct mock_gpu *a,
			   struct mock_gpu *b, u64 id_a, u64 id_b)
{
	struct pgmap_window *window;

	KUNIT_EXPECT_EQ(test, id_a, pgmap_peer_owner_id(&a->peer));
	KUNIT_EXPECT_EQ(test, id_b, pgmap_peer_owner_id(&b->peer));
	mock_expect(test, a, 200, 0);
	mock_expect(test, b, 300, 0);
	KUNIT_EXPECT_EQ(test, mock_live(a), 200);
	/* And new pages can be had. */
	window = pgmap_window_get(&a->regions[0].region);
	KUNIT_ASSERT_NOT_NULL(test, window);
	pgmap_window_put(window);
}

/* Fail whatever can be failed of a link change, then let it succeed. */
static void link_up_fails(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	u64 id_a = pgmap_peer_owner_id(&a->peer), id_b = pgmap_peer_owner_id(&b->peer);
	struct page *page;

	kunit_activate_static_stub(test, pgmap_window_register, mock_register);
	kunit_activate_static_stub(test, pgmap_owner_alloc, mock_owner_alloc);
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);

	/* Address space or memory for the memmap. */
	ctx->fail_register = 1;
	KUNIT_EXPECT_EQ(test, -ERANGE, mock_link(test, a, b, true, 0, NULL));
	mock_unchanged(test, a, b, id_a, id_b);
	KUNIT_EXPECT_EQ(test, a->unmaps + b->unmaps, 0);

	/*
	 * A page that somebody holds, in the second region: the first one has
	 * moved by then and has to go back.
	 */
	page = mock_hold(a, 1, 50);
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, true, 0, NULL));
	mock_unchanged(test, a, b, id_a, id_b);
	put_page(page);

	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_expect(test, a, 200, 300);
	mock_expect(test, b, 300, 200);

	/* To split them takes a new owner. One is in reserve, the next is not. */
	ctx->fail_owner = true;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, 0, NULL));
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	KUNIT_EXPECT_EQ(test, -ENOMEM, mock_link(test, a, b, false, 0, NULL));
	mock_expect(test, a, 200, 300);
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&a->peer, &b->peer));
	ctx->fail_owner = false;

	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* The link is gone, there are no windows: no device memory, but no harm. */
static void forced_link_down(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct page *page;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);

	/* No second window is to be had: it goes by way of system memory. */
	kunit_activate_static_stub(test, pgmap_window_register, mock_register);
	ctx->fail_registers = true;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 200);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	mock_expect(test, b, 300, 0);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_expect(test, a, 100, 0);
	mock_expect(test, b, 300, 0);

	/* Nor is there one, and it can't be emptied. */
	ctx->fail_registers = false;
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	page = mock_hold(a, 0, 3);
	ctx->fail_registers = true;
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, false, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 299);
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 1);
	KUNIT_EXPECT_NULL(test, pgmap_window_get(&a->regions[0].region));
	mock_expect(test, b, 300, 0);
	put_page(page);

	/* It can be had back. */
	ctx->fail_registers = false;
	KUNIT_EXPECT_EQ(test, 0, pgmap_region_unregister(&a->regions[0].region, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, 0,
			pgmap_region_register(&a->peer, &a->regions[0].region,
					      MOCK_SLOTS, &mock_pgmap_ops));
	mock_migrate(test, a, 0, 10, 50, 0);
	mock_expect(test, a, 50, 0);

	KUNIT_EXPECT_EQ(test, PAGE_SIZE, mock_wrong_bytes(test));
	mock_munmap(test);
}

static unsigned long stuck_pfn;

static void mock_stuck(void *data, const char *peer, const char *what,
		       unsigned long pfn, int refs, int mappings, int err)
{
	stuck_pfn = pfn;
}

static void leave_fails(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	u64 id_a = pgmap_peer_owner_id(&a->peer);
	struct mock_view view;
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);

	if (IS_ENABLED(CONFIG_TRACEPOINTS))
		KUNIT_ASSERT_EQ(test, 0, register_trace_pgmap_stuck(mock_stuck, NULL));

	/* The device can't copy. Of all pages that stay, the one that is held is named. */
	page = mock_hold(a, 0, 3);
	a->copy_err = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, pgmap_peer_leave(&a->peer, 0, MOCK_TIMEOUT, NULL));
	mock_unchanged(test, a, b, id_a, pgmap_peer_owner_id(&b->peer));
	a->copy_err = 0;
	if (IS_ENABLED(CONFIG_TRACEPOINTS))
		KUNIT_EXPECT_EQ(test, stuck_pfn, page_to_pfn(page));

	/* A page is held: others may be in system memory by now, that one not. */
	stuck_pfn = 0;
	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_leave(&a->peer, 0, MOCK_TIMEOUT, NULL));
	if (IS_ENABLED(CONFIG_TRACEPOINTS)) {
		unregister_trace_pgmap_stuck(mock_stuck, NULL);
		tracepoint_synchronize_unregister();
		KUNIT_EXPECT_EQ(test, stuck_pfn, page_to_pfn(page));
	}
	view = mock_look(test, a);
	KUNIT_EXPECT_EQ(test, view.own, 1);
	KUNIT_EXPECT_EQ(test, view.wrong, 0);
	KUNIT_EXPECT_EQ(test, id_a, pgmap_peer_owner_id(&a->peer));
	mock_migrate(test, a, 0, 0, 100, 0);
	view = mock_look(test, a);
	KUNIT_EXPECT_EQ(test, view.own, 100);
	put_page(page);

	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, 5 * HZ, NULL));
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static struct page *held_page;

/* Somebody refers to a page as soon as it has moved. */
static void mock_hold_moved(struct mock_gpu *gpu, struct folio *folio)
{
	if (held_page)
		return;
	held_page = folio_page(folio, 0);
	get_page(held_page);
}

/* The way back is barred too: nothing is lost, and the next change mends it. */
static void undo_fails(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	u64 id_a = pgmap_peer_owner_id(&a->peer);
	struct pgmap_stats stats = {};
	struct mock_view view;
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);

	held_page = NULL;
	a->on_rehome = mock_hold_moved;
	page = mock_hold(a, 1, 3);
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, true, 0, NULL));
	a->on_rehome = NULL;
	KUNIT_ASSERT_NOT_NULL(test, held_page);

	KUNIT_EXPECT_EQ(test, id_a, pgmap_peer_owner_id(&a->peer));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	KUNIT_EXPECT_EQ(test, mock_live(a), 200);
	/* New pages come under the old owner, in both regions. */
	KUNIT_EXPECT_PTR_EQ(test, (void *)rcu_access_pointer(a->peer.owner),
			    rcu_access_pointer(a->regions[0].region.window)->pagemap.owner);
	KUNIT_EXPECT_PTR_EQ(test, (void *)rcu_access_pointer(a->peer.owner),
			    rcu_access_pointer(a->regions[1].region.window)->pagemap.owner);
	view = mock_look(test, a);
	KUNIT_EXPECT_EQ(test, view.own, 199);
	KUNIT_EXPECT_EQ(test, view.wrong, 0);

	/* No other change before that page is where it belongs. */
	put_page(page);
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, true, 0, NULL));
	KUNIT_EXPECT_EQ(test, id_a, pgmap_peer_owner_id(&a->peer));
	put_page(held_page);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.bytes_copied,
			mock_rehome_bytes(test, stats.pages_rehomed));
	mock_expect(test, a, 200, 300);
	mock_expect(test, b, 300, 200);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static void mock_check_held(struct mock_gpu *gpu, struct folio *folio)
{
	struct kunit *test = kunit_get_current_test();
	struct mock_ctx *ctx = test->priv;

	/* C's page has A's owner from before, or had it until now. */
	KUNIT_EXPECT_TRUE(test, READ_ONCE(ctx->gpus[0]->peer.moves) & 1);
}

/*
 * A and C are not linked, but while C joins B, its pages have the owner that A had
 * with B. On the way back A gets that owner again: not before all of C's are gone.
 */
static void undo_of_two(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct mock_gpu *c = mock_gpu(test, 2);
	struct page *page;
	u64 id_a, id_c;

	mock_mmap(test, 4 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, HPAGE_PMD_NR, 500, 0);
	mock_migrate(test, c, 0, 2 * HPAGE_PMD_NR, 50, 0);
	mock_migrate(test, c, 1, 2 * HPAGE_PMD_NR + 50, 50, 0);
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, b, c, true, 0, NULL));
	mock_expect(test, a, 100, 500);
	mock_expect(test, c, 100, 0);
	id_a = pgmap_peer_owner_id(&a->peer);
	id_c = pgmap_peer_owner_id(&c->peer);

	page = mock_hold(c, 1, 3);
	c->rehomes = 0;
	c->unmaps = 0;
	c->on_rehome = mock_check_held;
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, false, 0, NULL));
	c->on_rehome = NULL;
	/* There and back, in part. */
	KUNIT_EXPECT_GE(test, c->rehomes, 100);
	KUNIT_EXPECT_EQ(test, c->unmaps, 2);
	put_page(page);

	KUNIT_EXPECT_EQ(test, id_a, pgmap_peer_owner_id(&a->peer));
	KUNIT_EXPECT_EQ(test, id_c, pgmap_peer_owner_id(&c->peer));
	mock_expect(test, a, 100, 500);
	mock_expect(test, b, 500, 100);
	mock_expect(test, c, 100, 0);

	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, 0, NULL));
	mock_expect(test, a, 100, 0);
	mock_expect(test, b, 500, 100);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* Forced, it is not done before nobody can map what is out of reach. */
static void forced_link_is_stuck(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct page *page;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 50, 0);
	mock_migrate(test, a, 0, 50, 50, HPAGE_PMD_NR + 10);
	mock_migrate(test, b, 0, 200, 300, 0);
	page = mock_hold(a, 0, 3);

	/* Nor does it fail for want of an owner. */
	kunit_activate_static_stub(test, pgmap_owner_alloc, mock_owner_alloc);
	ctx->fail_owner = true;
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, false, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 1);
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, false, PGMAP_FORCE, NULL));
	KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page)));
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, NULL));
	mock_expect(test, b, 300, 0);

	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, NULL));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	mock_munmap(test);
}

/* Forced, a device that has one page stuck saves all others, and is out. */
static void forced_leave_is_stuck(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct pgmap_walk walk;
	struct page *page;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	/* More than is tried at once. */
	mock_migrate(test, a, 1, 100, 50, 0);
	mock_migrate(test, a, 1, 150, 50, HPAGE_PMD_NR + 10);
	page = mock_hold(a, 0, 3);

	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_leave(&a->peer, PGMAP_FORCE,
						       MOCK_TIMEOUT, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 199);
	KUNIT_EXPECT_EQ(test, mock_live(a), 1);
	KUNIT_EXPECT_NULL(test, pgmap_window_get(&a->regions[0].region));
	KUNIT_EXPECT_NULL(test, pgmap_window_get(&a->regions[1].region));
	KUNIT_EXPECT_EQ(test, -ENODEV, pgmap_walk_begin(&a->peer, &walk));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	KUNIT_EXPECT_EQ(test, -EINVAL, mock_link(test, a, b, false, 0, NULL));
	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_join(&ctx->fabric, &a->peer, HZ, NULL));

	/* It is referred to, but nobody maps it, and its address is poisoned. */
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 1);
	KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page)));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), PAGE_SIZE);

	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	KUNIT_EXPECT_EQ(test, -ENODEV, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
	mock_munmap(test);
}

/* What nobody maps has no data any more, whoever refers to it. */
static void unmapped_is_left_alone(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1);
	unsigned long src, dst = 0;
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 10, 0);
	page = mock_hold(a, 0, 3);
	mock_munmap(test);
	KUNIT_EXPECT_EQ(test, mock_live(a), 1);
	KUNIT_ASSERT_EQ(test, 0, migrate_device_range(&src, page_to_pfn(page), 1));
	KUNIT_EXPECT_EQ(test, 0, src & MIGRATE_PFN_MIGRATE);
	migrate_device_finalize(&src, &dst, 1);
	put_page(page);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
}

/* A device that is torn out takes its pages with it, and nothing else. */
static void lost_pages_are_poisoned(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	struct hmm_range range = {
		.notifier = &ctx->notifier,
		.default_flags = HMM_PFN_REQ_FAULT,
	};
	unsigned long nr = param->nr, anon, pfn;
	struct pgmap_stats stats = {};
	struct pgmap_walk walk;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 4 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, nr, 0);
	mock_migrate(test, a, 1, HPAGE_PMD_NR, nr, 0);
	mock_migrate(test, b, 0, 2 * HPAGE_PMD_NR, nr, 0);
	mock_expect(test, b, nr, 2 * nr);
	anon = get_mm_counter_sum(current->mm, MM_ANONPAGES);

	pgmap_peer_set_lost(&a->peer);
	KUNIT_EXPECT_EQ(test, -ENODEV, pgmap_walk_begin(&a->peer, &walk));
	a->copy_err = -EDOM;
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 2 * nr);
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 0);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	KUNIT_EXPECT_EQ(test, anon - 2 * nr,
			get_mm_counter_sum(current->mm, MM_ANONPAGES));

	/* Others: what is theirs is there, what was on A is an error. */
	mock_expect(test, b, nr, 0);
	range.hmm_pfns = &pfn;
	range.start = ctx->addr;
	range.end = ctx->addr + PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, -EFAULT,
			pgmap_range_fault(&b->peer, &walk, &range, HZ));

	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 2 * nr << PAGE_SHIFT);
	/* It goes with the mapping. */
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(ctx->addr, HPAGE_PMD_SIZE));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test),
			(nr << PAGE_SHIFT) + HPAGE_PMD_SIZE);

	/* And the device can be plugged in again. */
	a->copy_err = 0;
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &a->peer, HZ, NULL));
	KUNIT_EXPECT_EQ(test, 0, pgmap_walk_begin(&a->peer, &walk));
	pgmap_walk_end(&walk);
	mock_munmap(test);
}

static void mock_lose(struct mock_gpu *gpu)
{
	pgmap_peer_set_lost(&gpu->peer);
}

/* Torn out during the copy: nobody gets to see what was copied. */
static void lost_while_copying(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1);
	struct pgmap_stats stats = {};

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	a->on_copy = mock_lose;
	/* Planned or not, there is nothing to come back to. */
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 0);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 100);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 100 << PAGE_SHIFT);
	mock_munmap(test);
}

static int race_lose(struct racer *racer)
{
	/* By then all that can leave has left. */
	msleep(500);
	pgmap_peer_set_lost(&racer->gpu->peer);
	return 0;
}

/* Torn out during a planned removal that waits: what is left is lost, at once. */
static void lost_while_waiting(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2);
	struct pgmap_stats stats = {};
	unsigned long start = jiffies;
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	page = mock_hold(a, 0, 3);
	race(test, race_lose, a);
	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_leave(&a->peer, 0, 2 * HZ, &stats));
	race_ends(test);
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 199);
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 1);
	KUNIT_EXPECT_NULL(test, pgmap_window_get(&a->regions[1].region));
	KUNIT_EXPECT_TRUE(test, time_before(jiffies, start + 3 * HZ));
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), PAGE_SIZE);
	mock_munmap(test);
}

/* There is no large page to evacuate to. */
static void leave_splits_large(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1);
	struct pgmap_stats stats = {};

	kunit_activate_static_stub(test, pgmap_folio_alloc, mock_folio_alloc);
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, HPAGE_PMD_NR, 0);
	mock_expect(test, a, HPAGE_PMD_NR, 0);
	ctx->fail_large = true;
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, 5 * HZ, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, HPAGE_PMD_SIZE);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* There is nothing to evacuate to: planned, it stays; forced, it is lost. */
static void leave_without_memory(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	unsigned long start;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	kunit_activate_static_stub(test, pgmap_folio_alloc, mock_folio_alloc);
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, param->nr, 0);
	ctx->fail_large = true;
	ctx->fail_small = true;
	start = jiffies;
	KUNIT_EXPECT_EQ(test, -ENOMEM, pgmap_peer_leave(&a->peer, 0, HZ, &stats));
	KUNIT_EXPECT_TRUE(test, time_before(jiffies, start + HZ + HZ / 2));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 0);
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 0);
	mock_expect(test, a, param->nr, 0);
	mock_expect(test, b, 0, param->nr);

	start = jiffies;
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, PGMAP_FORCE, HZ, &stats));
	KUNIT_EXPECT_TRUE(test, time_before(jiffies, start + HZ + HZ / 2));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 0);
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, param->nr);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), param->nr << PAGE_SHIFT);
	mock_munmap(test);
}

static void join_fails(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 0), *b = mock_gpu_alloc(test);
	struct pgmap_walk walk;

	kunit_activate_static_stub(test, pgmap_owner_alloc, mock_owner_alloc);
	ctx->fail_owner = true;
	KUNIT_EXPECT_EQ(test, -ENOMEM, pgmap_peer_join(&ctx->fabric, &b->peer,
						       HZ, NULL));
	ctx->fail_owner = false;
	KUNIT_EXPECT_EQ(test, -ENODEV, pgmap_walk_begin(&b->peer, &walk));
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &b->peer, HZ, NULL));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
}

/* --- walks --- */

static void walk_sees_change(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 0), *b = mock_gpu(test, 0);
	struct pgmap_walk walk[2], none;
	bool moved[2];

	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(NULL, &none));
	KUNIT_EXPECT_NULL(test, none.owner);
	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&a->peer, &walk[0]));
	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&b->peer, &walk[1]));
	KUNIT_EXPECT_FALSE(test, pgmap_walk_retry(&walk[0]));

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	moved[0] = pgmap_walk_retry(&walk[0]);
	moved[1] = pgmap_walk_retry(&walk[1]);
	/* One of them moved, the other one need not notice. */
	KUNIT_EXPECT_NE(test, moved[0], moved[1]);
	KUNIT_EXPECT_EQ(test, moved[0], a->unmaps == 1);
	KUNIT_EXPECT_FALSE(test, pgmap_walk_retry(&none));
	pgmap_walk_end(&walk[0]);
	pgmap_walk_end(&walk[1]);
	pgmap_walk_end(&none);
}

static void mock_check_published(struct mock_gpu *gpu)
{
	struct kunit *test = kunit_get_current_test();
	struct mock_ctx *ctx = test->priv;

	/* Who retries now sees the new owner; no page has moved yet. */
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&ctx->gpus[0]->peer,
						  &ctx->gpus[1]->peer));
	KUNIT_EXPECT_EQ(test, gpu->rehomes, 0);
}

static void owner_first_then_mappings(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 200, 0);
	a->on_unmap = mock_check_published;
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	KUNIT_EXPECT_EQ(test, a->unmaps, 1);
	KUNIT_EXPECT_EQ(test, a->rehomes, 100);
	mock_munmap(test);
}

/* --- races: each test is one of the diagrams, with the window held open --- */

static void mock_walk_race(void)
{
	complete(&racer.at_point);
	wait_for_completion(&racer.go);
}

static int race_walk(struct racer *racer)
{
	struct pgmap_walk walk;
	int err = pgmap_walk_begin(&racer->gpu->peer, &walk);

	if (err)
		return err;
	racer->value = pgmap_peer_owner_id(&racer->gpu->peer);
	/* Moved, all of them. */
	err = racer->gpu->rehomes == 100 ? 0 : -EXDEV;
	pgmap_walk_end(&walk);
	return err;
}

static void race_let_walk(struct mock_gpu *gpu)
{
	complete_all(&racer.go);
	race_waits(kunit_get_current_test());
}

static void race_walk_in_unmap(struct mock_gpu *gpu)
{
	struct kunit *test = kunit_get_current_test();

	/* The new owner is published, the pages are still in the old window. */
	race(test, race_walk, gpu);
	race_waits(test);
}

/* A fault of a peer whose pages move waits, so that its pages do not bounce. */
static void walk_is_held_up(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 200, 0);

	a->on_unmap = race_walk_in_unmap;
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	a->on_unmap = NULL;
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_EQ(test, racer.value, pgmap_peer_owner_id(&b->peer));
	mock_munmap(test);
}

/*
 * pgmap_walk_begin(): the walk has seen that nothing moves, and is not counted yet,
 * when the change begins. It must not go on under the new owner.
 */
static void race_walk_against_change(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 200, 0);

	kunit_activate_static_stub(test, pgmap_walk_race, mock_walk_race);
	race(test, race_walk, a);
	KUNIT_ASSERT_NE(test, 0, wait_for_completion_timeout(&racer.at_point, HZ));
	a->on_unmap = race_let_walk;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	a->on_unmap = NULL;
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_EQ(test, racer.value, pgmap_peer_owner_id(&b->peer));
	mock_munmap(test);
}

/* A walk that has been counted is waited for before a page moves. */
static void race_counted_walk(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct pgmap_walk walk;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 200, 0);
	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&a->peer, &walk));
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	/* It does not end, so its time was up. */
	KUNIT_EXPECT_GE(test, stats.stall_ns, 90 * NSEC_PER_MSEC);
	KUNIT_EXPECT_TRUE(test, pgmap_walk_retry(&walk));
	pgmap_walk_end(&walk);
	mock_munmap(test);
}

static int race_leave(struct racer *racer)
{
	return pgmap_peer_leave(&racer->gpu->peer, 0, 10 * HZ, &racer->stats);
}

static void race_in_migrate(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;

	race(test, race_leave, ctx->gpus[0]);
	race_waits(test);
}

/* pgmap_window_drain(): the pages come into use while the window is swept. */
static void race_migrate_against_leave(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	ctx->in_migrate = race_in_migrate;
	mock_migrate(test, a, 0, 0, param->nr, 0);
	ctx->in_migrate = NULL;
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_EQ(test, racer.stats.pages_evacuated, param->nr);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	mock_expect(test, b, 0, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static int race_cpu_fault(struct racer *racer)
{
	return get_user(racer->value, (u64 __user *)racer->addr);
}

/* The first page of the memory is about to be elsewhere, and the CPU wants it. */
static void race_fault_in_rehome(struct mock_gpu *gpu, struct folio *folio)
{
	struct kunit *test = kunit_get_current_test();

	gpu->on_rehome = NULL;
	race(test, race_cpu_fault, gpu);
	race_waits(test);
}

static void race_cpu_fault_against_rehome(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};

	mock_mmap(test, 4 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, param->nr, 0);
	mock_migrate(test, b, 0, HPAGE_PMD_NR, param->nr, 0);
	mock_migrate(test, b, 0, 2 * HPAGE_PMD_NR, param->nr, HPAGE_PMD_NR);
	a->on_rehome = race_fault_in_rehome;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_TRUE(test, mock_right(0, racer.value));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, param->nr);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, mock_rehome_bytes(test, param->nr));
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static int race_fork(struct racer *racer)
{
	racer->child = mm_alloc();
	if (!racer->child)
		return -ENOMEM;
	/* It outlives this thread. */
	mm_update_next_owner(racer->child);
	return dup_mmap(racer->child, racer->mm);
}

static int race_exit(struct racer *racer)
{
	struct mock_ctx *ctx = racer->test->priv;

	mmput(racer->child);
	return vm_munmap(ctx->addr, HPAGE_PMD_SIZE);
}

static void race_fork_in_rehome(struct mock_gpu *gpu, struct folio *folio)
{
	struct kunit *test = kunit_get_current_test();

	gpu->on_rehome = NULL;
	/* It waits for nobody, and copies a migration entry. */
	race(test, race_fork, gpu);
	race_ends(test);
}

/* What is forked while it is about to be elsewhere, is there in the child too. */
static void race_fork_against_rehome(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct mm_struct *parent;

	mock_mmap(test, 4 * HPAGE_PMD_SIZE);
	parent = current->mm;
	mock_migrate(test, a, 0, 0, param->nr, 0);
	mock_migrate(test, b, 0, HPAGE_PMD_NR, param->nr, 0);
	mock_migrate(test, b, 0, 2 * HPAGE_PMD_NR, param->nr, HPAGE_PMD_NR);
	a->on_rehome = race_fork_in_rehome;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_ASSERT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, param->nr);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, mock_rehome_bytes(test, param->nr));

	mock_munmap(test);
	KUNIT_EXPECT_EQ(test, mock_live(a), param->nr);
	kthread_unuse_mm(parent);
	kthread_use_mm(racer.child);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	kthread_unuse_mm(racer.child);
	kthread_use_mm(parent);
	KUNIT_EXPECT_EQ(test, mock_live(a), param->coherent ? param->nr : 0);
	mmput(racer.child);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
}

static void race_exit_in_rehome(struct mock_gpu *gpu, struct folio *folio)
{
	struct kunit *test = kunit_get_current_test();

	gpu->on_rehome = NULL;
	race(test, race_exit, gpu);
	race_ends(test);
}

/* Whoever had the page mapped goes: the one that it moves to is free again. */
static void race_exit_against_rehome(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);

	mock_mmap(test, 4 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, param->nr, 0);
	mock_migrate(test, b, 0, HPAGE_PMD_NR, param->nr, 0);
	mock_migrate(test, b, 0, 2 * HPAGE_PMD_NR, param->nr, HPAGE_PMD_NR);
	race(test, race_fork, a);
	race_ends(test);
	KUNIT_ASSERT_EQ(test, 0, racer.ret);
	a->on_rehome = race_exit_in_rehome;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	KUNIT_EXPECT_EQ(test, mock_live(b), 2 * param->nr);
	mock_munmap(test);
}

/* A device that writes to what is shared with a child gets a page of its own. */
static void write_breaks_cow(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1);
	struct mock_ctx *ctx = test->priv;
	struct hmm_range range = {
		.notifier = &ctx->notifier,
		.default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
	};
	struct pgmap_walk walk;
	unsigned long pfn = 0;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, param->nr, 0);
	race(test, race_fork, a);
	race_ends(test);
	KUNIT_ASSERT_EQ(test, 0, racer.ret);

	range.hmm_pfns = &pfn;
	range.start = ctx->addr;
	range.end = ctx->addr + PAGE_SIZE;
	KUNIT_ASSERT_EQ(test, 0, pgmap_range_fault(&a->peer, &walk, &range, HZ));
	KUNIT_EXPECT_TRUE(test, pfn & HMM_PFN_WRITE);
	KUNIT_EXPECT_FALSE(test, mock_is_device(hmm_pfn_to_page(pfn)));
	pgmap_walk_end(&walk);
	mmput(racer.child);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static void race_fault_in_copy(struct mock_gpu *gpu)
{
	struct kunit *test = kunit_get_current_test();

	gpu->on_copy = NULL;
	race(test, race_cpu_fault, gpu);
	race_waits(test);
}

static void race_cpu_fault_against_evacuation(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1);

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, param->nr, 0);
	a->on_copy = race_fault_in_copy;
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, 5 * HZ, NULL));
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_TRUE(test, mock_right(0, racer.value));
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static void race_fault_in_lost_copy(struct mock_gpu *gpu)
{
	pgmap_peer_set_lost(&gpu->peer);
	race_fault_in_copy(gpu);
}

/* Nobody sees what was copied while the device went. */
static void race_cpu_fault_against_loss(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1);

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, param->nr, 0);
	a->on_copy = race_fault_in_lost_copy;
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, 5 * HZ, NULL));
	race_ends(test);
	/* Of coherent memory, it may see what the bus gives, until that is poisoned. */
	if (!param->coherent || racer.ret)
		KUNIT_EXPECT_EQ(test, -EFAULT, racer.ret);
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), param->nr << PAGE_SHIFT);
	mock_munmap(test);
}

static int race_links(struct racer *racer)
{
	struct mock_ctx *ctx = racer->test->priv;
	unsigned int i;
	int err = 0;

	for (i = 0; i < 20 && !err; i++)
		err = mock_link(racer->test, ctx->gpus[1], ctx->gpus[2], !(i & 1), 0, NULL);
	return err;
}

/* Two changes at once, that share a device, are one after the other. */
static void race_changes(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct mock_gpu *c = mock_gpu(test, 1);
	unsigned int i;

	mock_mmap(test, 4 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 50, 0);
	mock_migrate(test, b, 0, 100, 60, 0);
	mock_migrate(test, c, 0, 200, 70, 0);
	race(test, race_links, NULL);
	for (i = 0; i < 20; i++)
		KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, !(i & 1), 0, NULL));
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);

	/* The last ones went down. */
	mock_expect(test, a, 50, 0);
	mock_expect(test, b, 60, 0);
	mock_expect(test, c, 70, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static int race_come_and_go(struct racer *racer)
{
	struct mock_ctx *ctx = racer->test->priv;
	unsigned int i;
	int err = 0;

	for (i = 0; i < 20 && !err; i++) {
		err = pgmap_peer_leave(&racer->gpu->peer, 0, 5 * HZ, NULL) ?:
		      pgmap_peer_join(&ctx->fabric, &racer->gpu->peer, 5 * HZ, NULL);
	}
	return err;
}

/* One joins while another one leaves. */
static void race_join_against_leave(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 0);
	struct mock_gpu *c = mock_gpu(test, 1);
	unsigned int i;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, c, true, 0, NULL));
	race(test, race_come_and_go, b);
	for (i = 0; i < 10; i++) {
		KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&c->peer, 0, 5 * HZ, NULL));
		KUNIT_EXPECT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &c->peer,
							 5 * HZ, NULL));
		KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &c->peer));
		KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, c, true, 0, NULL));
	}
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	mock_expect(test, a, 100, 0);
	mock_expect(test, c, 0, 100);
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* --- coherent memory --- */

static int mock_fault(struct kunit *test, struct mock_gpu *gpu, unsigned long page,
		      unsigned long timeout, unsigned long *pfn)
{
	struct mock_ctx *ctx = test->priv;
	struct hmm_range range = {
		.notifier = &ctx->notifier,
		.start = ctx->addr + (page << PAGE_SHIFT),
		.end = ctx->addr + ((page + 1) << PAGE_SHIFT),
		.default_flags = HMM_PFN_REQ_FAULT,
		.hmm_pfns = pfn,
	};
	struct pgmap_walk walk;
	int err;

	*pfn = 0;
	err = pgmap_range_fault(&gpu->peer, &walk, &range, timeout);
	if (err)
		return err;
	KUNIT_EXPECT_FALSE(test, pgmap_range_retry(&walk, &range));
	pgmap_walk_end(&walk);
	return 0;
}

/* Who can't reach a page gets it in system memory; who does not fault, not at all. */
static void foreign_is_moved(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct mock_gpu *c = mock_gpu(test, 0);
	struct mock_view view;
	unsigned long pfn;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, c, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 100, 50, 0);

	view = mock_look(test, b);
	KUNIT_EXPECT_EQ(test, view.own, 50);
	KUNIT_EXPECT_EQ(test, view.peers, 0);
	KUNIT_EXPECT_EQ(test, view.system, 2 * HPAGE_PMD_NR - 150);
	KUNIT_EXPECT_EQ(test, mock_live(a), 100);

	KUNIT_ASSERT_EQ(test, 0, mock_fault(test, c, 7, HZ, &pfn));
	KUNIT_EXPECT_TRUE(test, mock_is_device(hmm_pfn_to_page(pfn)));
	KUNIT_ASSERT_EQ(test, 0, mock_fault(test, b, 7, HZ, &pfn));
	KUNIT_EXPECT_FALSE(test, mock_is_device(hmm_pfn_to_page(pfn)));
	KUNIT_EXPECT_EQ(test, mock_live(a), 99);
	mock_expect(test, c, 0, 99);

	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* That ends if the page does not go. */
static void foreign_is_held(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 0);
	struct mock_gpu *c = mock_gpu(test, 1);
	unsigned long start, pfn;
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 10, 0);
	page = mock_hold(a, 0, 3);
	start = jiffies;
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_fault(test, b, 3, HZ / 5, &pfn));
	KUNIT_EXPECT_TRUE(test, time_before(jiffies, start + HZ));
	lock_page(page);
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_fault(test, b, 3, HZ / 5, &pfn));
	unlock_page(page);
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, mock_fault(test, b, 3, HZ, &pfn));
	KUNIT_EXPECT_EQ(test, mock_live(a), 9);

	/* In a window that is closed. It can be in a section that has other memory too. */
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, c, true, 0, NULL));
	mock_migrate(test, c, 0, 200, 300, 0);
	page = mock_hold(a, 0, 4);
	lock_page(page);
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, c, false, PGMAP_FORCE, NULL));
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_fault(test, b, 4, HZ / 5, &pfn));
	unlock_page(page);
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, mock_fault(test, b, 4, HZ, &pfn));
	KUNIT_EXPECT_FALSE(test, mock_is_device(hmm_pfn_to_page(pfn)));
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static void foreign_is_lost(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 0);
	unsigned long pfn;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 10, 0);
	pgmap_peer_set_lost(&a->peer);
	KUNIT_EXPECT_EQ(test, -EFAULT, mock_fault(test, b, 3, HZ, &pfn));
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, -EFAULT, mock_fault(test, b, 3, HZ, &pfn));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 10 << PAGE_SHIFT);
	mock_munmap(test);
}

/* The device can't copy: planned, nothing changes. */
static void rehome_fails(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	u64 id_a = pgmap_peer_owner_id(&a->peer), id_b = pgmap_peer_owner_id(&b->peer);
	struct pgmap_stats stats = {};

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	a->copy_err = -EDOM;
	KUNIT_EXPECT_EQ(test, -EDOM, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 0);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);
	mock_unchanged(test, a, b, id_a, id_b);
	a->copy_err = 0;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_expect(test, a, 200, 300);

	/* Forced, they are lost: there is no other way to get them. */
	a->copy_err = -EDOM;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 200);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	mock_expect(test, b, 300, 0);
	a->copy_err = 0;
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 200 << PAGE_SHIFT);
	mock_munmap(test);
}

/* Torn out during the copy: nobody gets to see what was copied, nor waits. */
static void lost_while_rehoming(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	a->on_copy = mock_lose;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 0);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 100);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	mock_expect(test, b, 300, 0);
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 100 << PAGE_SHIFT);
	mock_munmap(test);
}

/* Nothing is idle: planned, nothing changes; forced, it goes by way of system memory. */
static void rehome_without_room(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	u64 id_a = pgmap_peer_owner_id(&a->peer), id_b = pgmap_peer_owner_id(&b->peer);
	unsigned long used = 2 * MOCK_SLOTS << PAGE_SHIFT;
	struct pgmap_stats stats = {};
	struct resource rest;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	rest = DEFINE_RES_NAMED(a->mem.start + used, MOCK_MEM - used, "rest",
				IORESOURCE_MEM);
	KUNIT_ASSERT_EQ(test, 0, request_resource(&a->mem, &rest));
	KUNIT_EXPECT_EQ(test, -ENOSPC,
			pgmap_region_register(&a->peer, &a->regions[2].region,
					      MOCK_SLOTS, &mock_pgmap_ops));
	KUNIT_EXPECT_EQ(test, -ENOSPC, mock_link(test, a, b, true, 0, NULL));
	mock_unchanged(test, a, b, id_a, id_b);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 200);
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&a->peer, &b->peer));
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_expect(test, b, 300, 100);
	release_resource(&rest);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* Who refers to a page may write to it until he does not. */
static void referred_is_not_copied(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1);
	unsigned long src, dst = 0;
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 10, 0);
	page = mock_hold(a, 0, 3);
	KUNIT_ASSERT_EQ(test, 0, migrate_device_range(&src, page_to_pfn(page), 1));
	KUNIT_EXPECT_EQ(test, 0, src & MIGRATE_PFN_MIGRATE);
	migrate_device_finalize(&src, &dst, 1);
	put_page(page);
	KUNIT_ASSERT_EQ(test, 0, migrate_device_range(&src, page_to_pfn(page), 1));
	KUNIT_EXPECT_NE(test, 0, src & MIGRATE_PFN_MIGRATE);
	migrate_device_pages(&src, &dst, 1);
	migrate_device_finalize(&src, &dst, 1);
	mock_expect(test, a, 10, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* I/O to a page does not keep it in page tables when it is lost. */
static void pinned_is_poisoned(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct mock_ctx *ctx = test->priv;
	struct pgmap_stats stats = {};
	struct page *page;
	unsigned long pfn;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 50, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(ctx->addr + 3 * PAGE_SIZE, 1,
						     FOLL_WRITE, &page));
	KUNIT_EXPECT_TRUE(test, mock_is_device(page));
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, false, 0, NULL));
	KUNIT_EXPECT_TRUE(test, folio_mapped(page_folio(page)));
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_link(test, a, b, false, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 1);
	KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page)));
	KUNIT_EXPECT_EQ(test, -EFAULT, mock_fault(test, b, 3, HZ, &pfn));
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, NULL));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), PAGE_SIZE);

	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(ctx->addr + 203 * PAGE_SIZE, 1,
						     FOLL_WRITE, &page));
	pgmap_peer_set_lost(&b->peer);
	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_leave(&b->peer, 0, HZ / 5, NULL));
	KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page)));
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&b->peer, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 301 * PAGE_SIZE);
	mock_munmap(test);
}

/* What is pinned for long is in system memory. */
static void longterm_pin_moves(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1);
	struct mock_ctx *ctx = test->priv;
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 10, 0);
	KUNIT_ASSERT_EQ(test, 1,
			pin_user_pages_fast(ctx->addr, 1, FOLL_WRITE | FOLL_LONGTERM,
					    &page));
	KUNIT_EXPECT_FALSE(test, mock_is_device(page));
	KUNIT_EXPECT_EQ(test, mock_live(a), 9);
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

static struct kunit_case pgmap_owner_cases[] = {
	KUNIT_CASE(owner_is_unique),
	KUNIT_CASE(owner_outlives_walk),
	KUNIT_CASE_PARAM(bad_arguments, kind_gen_params),
	KUNIT_CASE_PARAM(window_life_cycle, kind_gen_params),
	KUNIT_CASE_PARAM(link_up_and_down, move_gen_params),
	KUNIT_CASE_PARAM(leave_evacuates, move_gen_params),
	KUNIT_CASE_PARAM(regions_take_turns, kind_gen_params),
	KUNIT_CASE(links_at_once),
	KUNIT_CASE_PARAM(link_up_fails, kind_gen_params),
	KUNIT_CASE_PARAM(forced_link_down, kind_gen_params),
	KUNIT_CASE_PARAM(leave_fails, kind_gen_params),
	KUNIT_CASE_PARAM(undo_fails, kind_gen_params),
	KUNIT_CASE_PARAM(undo_of_two, kind_gen_params),
	KUNIT_CASE_PARAM(forced_link_is_stuck, kind_gen_params),
	KUNIT_CASE_PARAM(forced_leave_is_stuck, kind_gen_params),
	KUNIT_CASE_PARAM(unmapped_is_left_alone, kind_gen_params),
	KUNIT_CASE_PARAM(lost_pages_are_poisoned, move_gen_params),
	KUNIT_CASE_PARAM(lost_while_copying, kind_gen_params),
	KUNIT_CASE_PARAM(lost_while_waiting, kind_gen_params),
	KUNIT_CASE(leave_splits_large),
	KUNIT_CASE_PARAM(leave_without_memory, move_gen_params),
	KUNIT_CASE(join_fails),
	KUNIT_CASE(walk_sees_change),
	KUNIT_CASE(walk_is_held_up),
	KUNIT_CASE_PARAM(owner_first_then_mappings, kind_gen_params),
	KUNIT_CASE_PARAM(race_walk_against_change, kind_gen_params),
	KUNIT_CASE_PARAM(race_counted_walk, kind_gen_params),
	KUNIT_CASE_PARAM(race_migrate_against_leave, move_gen_params),
	KUNIT_CASE_PARAM(race_cpu_fault_against_rehome, move_gen_params),
	KUNIT_CASE_PARAM(write_breaks_cow, move_gen_params),
	KUNIT_CASE_PARAM(race_fork_against_rehome, move_gen_params),
	KUNIT_CASE_PARAM(race_exit_against_rehome, move_gen_params),
	KUNIT_CASE_PARAM(race_cpu_fault_against_evacuation, move_gen_params),
	KUNIT_CASE_PARAM(race_cpu_fault_against_loss, move_gen_params),
	KUNIT_CASE_PARAM_ATTR(race_changes, kind_gen_params, { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE_PARAM_ATTR(race_join_against_leave, kind_gen_params,
			      { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE_PARAM(foreign_is_moved, coherent_gen_params),
	KUNIT_CASE_PARAM(foreign_is_held, coherent_gen_params),
	KUNIT_CASE_PARAM(foreign_is_lost, coherent_gen_params),
	KUNIT_CASE_PARAM(rehome_fails, coherent_gen_params),
	KUNIT_CASE_PARAM(lost_while_rehoming, coherent_gen_params),
	KUNIT_CASE_PARAM(rehome_without_room, coherent_gen_params),
	KUNIT_CASE_PARAM(referred_is_not_copied, coherent_gen_params),
	KUNIT_CASE_PARAM(pinned_is_poisoned, coherent_gen_params),
	KUNIT_CASE_PARAM(longterm_pin_moves, coherent_gen_params),
	{}
};

static struct kunit_suite pgmap_owner_suite = {
	.name = "pgmap_owner",
	.init = mock_init,
	.exit = mock_exit,
	.test_cases = pgmap_owner_cases,
};

kunit_test_suite(pgmap_owner_suite);

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_DESCRIPTION("KUnit tests for shared owners of device memory");
MODULE_LICENSE("GPL");
