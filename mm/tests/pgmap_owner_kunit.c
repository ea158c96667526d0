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

#include "../internal.h"
#include "../pgmap_internal.h"

#define MOCK_REGIONS	4
#define MOCK_SLOTS	(2UL * PAGES_PER_SUBSECTION)
/* Coherent memory of a device. */
#define MOCK_MEM	(MOCK_REGIONS * MOCK_SLOTS << PAGE_SHIFT)
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
	/* All calls fail. */
	bool fail_registers, fail_large, fail_small;
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
	if (ctx->fail_registers)
		return ERR_PTR(-ERANGE);

	kunit_deactivate_static_stub(test, pgmap_window_register);
	window = pgmap_window_register(region, owner);
	kunit_activate_static_stub(test, pgmap_window_register, mock_register);
	return window;
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

	KUNIT_ASSERT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &gpu->peer, NULL));
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

static const struct move_param private_params[] = {
	{ "4K", 300 },
	{ "2M", HPAGE_PMD_NR },
};

KUNIT_ARRAY_PARAM_DESC(private, private_params, name);

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
		unsigned int order;
		struct folio *folio;
		struct page *dst;

		step = 1;
		if (!src || !(args.src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		order = folio_order(page_folio(src));
		step = 1UL << order;
		folio = pgmap_window_folio(window, slot + i, order);
		if (!folio)
			continue;
		dst = folio_page(folio, 0);
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
	/* Pages can be on the move. */
	do {
		KUNIT_ASSERT_EQ(test, 0, pgmap_range_fault(&gpu->peer, &walk, &range, HZ));
	} while (pgmap_range_retry(&walk, &range));
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
	kvfree(range.hmm_pfns);
	return view;
}

/* Pages that are on the move are not seen for a moment; those out of reach never are. */
static void mock_expect(struct kunit *test, struct mock_gpu *gpu,
			unsigned long own, unsigned long peers)
{
	struct mock_view view;
	unsigned int i;

	for (i = 0; i < 3000; i++) {
		view = mock_look(test, gpu);
		KUNIT_EXPECT_LE_MSG(test, view.peers, peers, "%s", gpu->peer.name);
		KUNIT_EXPECT_EQ(test, view.wrong, 0);
		if (view.own == own && view.peers >= peers)
			return;
		msleep(20);
	}
	KUNIT_EXPECT_EQ_MSG(test, view.own, own, "%s", gpu->peer.name);
	KUNIT_EXPECT_EQ_MSG(test, view.peers, peers, "%s", gpu->peer.name);
}

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
	do {
		err = pgmap_range_fault(&gpu->peer, &walk, &range, timeout);
	} while (!err && pgmap_range_retry(&walk, &range));
	return err;
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
		KUNIT_ASSERT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &a->peer, NULL));
		KUNIT_EXPECT_GT(test, pgmap_peer_owner_id(&a->peer), last);
		last = pgmap_peer_owner_id(&a->peer);
	}
}

/* A walk from before notices, however often the peer has left and joined. */
static void walk_notices_rejoin(struct kunit *test)
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
		KUNIT_ASSERT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &a->peer, NULL));
		KUNIT_EXPECT_TRUE(test, pgmap_walk_retry(&walk));
	}
}

static void bad_arguments(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu_alloc(test);
	struct pgmap_region *region = &a->regions[0].region;
	struct pgmap_link link = { &a->peer, &a->peer, true };
	struct pgmap_walk walk;

	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_join(&ctx->fabric, &a->peer, NULL));
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
	struct folio *folio, *next;
	struct pgmap_window *window;
	unsigned int i;

	KUNIT_EXPECT_NULL(test, pgmap_window_get(&mr->region));
	for (i = 0; i < 3; i++) {
		KUNIT_ASSERT_EQ(test, 0,
				pgmap_region_register(&a->peer, &mr->region,
						      MOCK_SLOTS, &mock_pgmap_ops));
		window = pgmap_window_get(&mr->region);
		KUNIT_ASSERT_NOT_NULL(test, window);
		KUNIT_EXPECT_PTR_EQ(test, window->pagemap.owner, (void *)a->peer.owner);

		folio = pgmap_window_folio(window, 7, 0);
		KUNIT_ASSERT_NOT_NULL(test, folio);
		KUNIT_EXPECT_PTR_EQ(test, pgmap_page_window(&folio->page), window);
		KUNIT_EXPECT_EQ(test, pgmap_page_slot(&folio->page), 7);
		KUNIT_EXPECT_EQ(test, atomic_long_read(&window->pages), 1);
		/* It is in use. */
		KUNIT_EXPECT_NULL(test, pgmap_window_folio(window, 7, 0));
		KUNIT_EXPECT_EQ(test, atomic_long_read(&window->pages), 1);

		/* The page is locked: the region cannot go, and works as before. */
		KUNIT_EXPECT_EQ(test, -EBUSY,
				pgmap_region_unregister(&mr->region, 0, HZ / 10, NULL));
		next = pgmap_window_folio(window, 8, 0);
		KUNIT_ASSERT_NOT_NULL(test, next);

		/* Forced, it stays closed. */
		KUNIT_EXPECT_EQ(test, -EBUSY,
				pgmap_region_unregister(&mr->region, PGMAP_FORCE,
							HZ / 10, NULL));
		KUNIT_EXPECT_NULL(test, pgmap_window_folio(window, 9, 0));
		KUNIT_EXPECT_NULL(test, pgmap_window_get(&mr->region));

		folio_unlock(folio);
		folio_put(folio);
		folio_unlock(next);
		folio_put(next);
		KUNIT_EXPECT_EQ(test, atomic_long_read(&window->pages), 0);

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

/* The region has only windows with the owner of its peer. */
static bool mock_settled(struct mock_gpu *gpu)
{
	unsigned int r;

	guard(mutex)(&gpu->peer.lock);
	for (r = 0; r < MOCK_REGIONS; r++) {
		struct pgmap_region *region = &gpu->regions[r].region;

		if (region->peer && !list_empty(&region->windows) &&
		    (!list_is_singular(&region->windows) ||
		     (!gpu->peer.mem && pgmap_window_owner(pgmap_region_window(region)) !=
					gpu->peer.owner)))
			return false;
	}
	return true;
}

/* Wait for the work item that moves leftovers. */
static void mock_wait_settled(struct kunit *test, struct mock_gpu *gpu)
{
	unsigned int i;

	for (i = 0; i < 6000 && !mock_settled(gpu); i++)
		msleep(20);
	KUNIT_EXPECT_TRUE(test, mock_settled(gpu));
}

/* Clusters merge and split: private pages move, data and slots stay, nothing is copied. */
static void link_up_and_down(struct kunit *test)
{
	const struct move_param *param = test->param_value;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	unsigned long nr = param->nr, moves = param->coherent ? 0 : nr;
	struct pgmap_stats stats = {};
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

	/* B has more pages: A gets its owner. None of them loses a mapping. */
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, moves);
	KUNIT_EXPECT_EQ(test, stats.pages_evacuated, 0);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);
	KUNIT_EXPECT_EQ(test, stats.peers_moved, 1);
	KUNIT_EXPECT_EQ(test, a->unmaps + b->unmaps, 0);
	KUNIT_EXPECT_EQ(test, big, pgmap_peer_owner_id(&a->peer));
	KUNIT_EXPECT_EQ(test, big, pgmap_peer_owner_id(&b->peer));
	KUNIT_EXPECT_TRUE(test, mock_settled(a));
	KUNIT_EXPECT_EQ(test, mock_live(a), nr);
	mock_expect(test, a, nr, 2 * nr);
	mock_expect(test, b, 2 * nr, nr);

	/* Doing it again changes nothing. */
	memset(&stats, 0, sizeof(stats));
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 0);
	KUNIT_EXPECT_EQ(test, stats.peers_moved, 0);

	/* A moves. B need not notice, but for coherent pages, which do not move. */
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, false, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, moves);
	KUNIT_EXPECT_EQ(test, stats.pages_left, 0);
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);
	KUNIT_EXPECT_EQ(test, a->unmaps, 1);
	KUNIT_EXPECT_EQ(test, b->unmaps, param->coherent);
	if (!param->coherent)
		KUNIT_EXPECT_EQ(test, big, pgmap_peer_owner_id(&b->peer));
	KUNIT_EXPECT_NE(test, pgmap_peer_owner_id(&a->peer), pgmap_peer_owner_id(&b->peer));
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

/* A peer with many regions needs a few windows more, not twice as many. */
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
	KUNIT_EXPECT_EQ(test, ctx->registers, MOCK_REGIONS - 1);
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 100 * MOCK_REGIONS);
	KUNIT_EXPECT_TRUE(test, mock_settled(a));
	mock_expect(test, b, HPAGE_PMD_NR, 100 * MOCK_REGIONS);
	mock_expect(test, a, 100 * MOCK_REGIONS, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* Regions without pages need no window more, and no page is looked for. */
static void empty_regions_stay(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, MOCK_REGIONS), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct pgmap_window *window;

	kunit_activate_static_stub(test, pgmap_window_register, mock_register);
	ctx->fail_registers = true;
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, false, 0, &stats));
	KUNIT_EXPECT_EQ(test, ctx->registers, 0);
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 0);
	KUNIT_EXPECT_TRUE(test, mock_settled(a));
	KUNIT_EXPECT_TRUE(test, mock_settled(b));
	window = pgmap_window_get(&a->regions[0].region);
	KUNIT_ASSERT_NOT_NULL(test, window);
	pgmap_window_put(window);
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

/* There is no window to move to: nobody maps what it cannot reach, and nothing is lost. */
static void change_without_memory(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	u64 id;

	kunit_activate_static_stub(test, pgmap_window_register, mock_register);
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);

	/* The stub is for this thread alone. */
	disable_delayed_work_sync(&a->peer.work);
	ctx->fail_registers = true;
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, &stats));
	mock_expect(test, a, 200, 300);
	mock_expect(test, b, 300, 200);
	id = pgmap_peer_owner_id(&b->peer);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, 0, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 0);
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	KUNIT_EXPECT_NE(test, id, pgmap_peer_owner_id(&b->peer));
	KUNIT_EXPECT_EQ(test, b->unmaps, 1);
	mock_expect(test, a, 200, 0);
	mock_expect(test, b, 300, 0);
	/* New pages too. */
	mock_migrate(test, a, 0, 500, 10, 200);
	mock_expect(test, a, 210, 0);
	mock_expect(test, b, 300, 0);

	/* A work item does it when there is memory. */
	ctx->fail_registers = false;
	enable_delayed_work(&a->peer.work);
	mod_delayed_work(system_unbound_wq, &a->peer.work, 0);
	mock_wait_settled(test, a);
	mock_wait_settled(test, b);
	mock_expect(test, a, 210, 0);
	mock_expect(test, b, 300, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* New pages appear under the owner that a peer had, until its regions are renewed. */
static void forced_before_renewal(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, b, 0, 200, 300, 0);
	disable_delayed_work_sync(&a->peer.work);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, NULL));
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_expect(test, a, 100, 0);
	mock_expect(test, b, 300, 0);
	enable_delayed_work(&a->peer.work);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

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

/* The link is dead: nothing is moved, waited for, or lost. */
static void forced_link_down(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct page *page;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	mock_expect(test, a, 200, 300);
	mock_expect(test, b, 300, 200);

	page = mock_hold(a, 0, 3);
	lock_page(page);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed + stats.pages_poisoned, 0);
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	/* Both have lost the other one. */
	KUNIT_EXPECT_EQ(test, a->unmaps, 1);
	KUNIT_EXPECT_EQ(test, b->unmaps, 1);
	mock_expect(test, a, 200, 0);
	mock_expect(test, b, 300, 0);
	unlock_page(page);
	put_page(page);

	mock_wait_settled(test, a);
	mock_wait_settled(test, b);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
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

static int race_link_down(struct racer *racer)
{
	struct mock_ctx *ctx = racer->test->priv;
	struct pgmap_link link = { &ctx->gpus[0]->peer, &ctx->gpus[1]->peer, false };

	return pgmap_fabric_set_links(&ctx->fabric, &link, 1, 0, 60 * HZ, &racer->stats);
}

static int race_both_down(struct racer *racer)
{
	struct mock_ctx *ctx = racer->test->priv;
	struct pgmap_link links[2] = {
		{ &ctx->gpus[0]->peer, &ctx->gpus[1]->peer, false },
		{ &ctx->gpus[2]->peer, &ctx->gpus[1]->peer, false },
	};

	return pgmap_fabric_set_links(&ctx->fabric, links, 2, 0, 60 * HZ,
				      &racer->stats);
}

/* A page that is held: the change goes on without it when its time is up. */
static void held_page_is_left_over(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct page *page;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, a, 1, 100, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	if (IS_ENABLED(CONFIG_TRACEPOINTS))
		KUNIT_ASSERT_EQ(test, 0, register_trace_pgmap_stuck(mock_stuck, NULL));
	page = mock_hold(a, 0, 3);

	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, 0, &stats));
	if (IS_ENABLED(CONFIG_TRACEPOINTS)) {
		unregister_trace_pgmap_stuck(mock_stuck, NULL);
		tracepoint_synchronize_unregister();
		KUNIT_EXPECT_EQ(test, stuck_pfn, page_to_pfn(page));
	}
	KUNIT_EXPECT_EQ(test, stats.pages_rehomed, 199);
	KUNIT_EXPECT_EQ(test, stats.pages_left, 1);
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 0);
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	/* B could still map that page under the owner that it had. */
	KUNIT_EXPECT_EQ(test, b->unmaps, 1);
	mock_expect(test, a, 200, 0);
	mock_expect(test, b, 300, 0);
	KUNIT_EXPECT_FALSE(test, mock_settled(a));

	/* It is in nobody's way. */
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_expect(test, a, 200, 300);
	mock_expect(test, b, 300, 200);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, NULL));
	mock_expect(test, b, 300, 0);

	put_page(page);
	mock_wait_settled(test, a);
	mock_expect(test, a, 200, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* While a planned change waits for a page, all else goes on. */
static void others_do_not_wait(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct mock_gpu *c = mock_gpu(test, 1), *d;
	struct mock_view view;
	struct page *page;
	unsigned long pfn;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	page = mock_hold(a, 0, 3);
	race(test, race_link_down, NULL);
	while (READ_ONCE(a->rehomes) < 99)
		msleep(20);

	/* The device whose pages they are: they do not bounce. It can use those of B still. */
	mock_expect(test, a, 100, 300);
	KUNIT_EXPECT_EQ(test, mock_live(a), 100);
	/* New pages are for those of the cluster that is to be. */
	mock_migrate(test, a, 0, 100, 10, 200);
	view = mock_look(test, b);
	KUNIT_EXPECT_EQ(test, view.own, 300);
	KUNIT_EXPECT_LE(test, view.peers, 1);
	/* A device that joins, one that leaves, links between others. */
	d = mock_gpu(test, 1);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, c, d, true, 0, NULL));
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&c->peer, &d->peer));
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&d->peer, 0, HZ, NULL));
	KUNIT_EXPECT_FALSE(test, completion_done(&racer.done));

	/* Links of the same cluster: they end the change that is under way. */
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, b, c, true, 0, NULL));
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&a->peer, &b->peer));
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&c->peer, &b->peer));
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	view = mock_look(test, b);
	KUNIT_EXPECT_EQ(test, view.own, 300);
	KUNIT_EXPECT_EQ(test, view.peers, 0);
	mock_expect(test, a, 110, 0);

	put_page(page);
	mock_wait_settled(test, a);
	mock_expect(test, a, 110, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_fault(test, b, 0, HZ, &pfn));
	KUNIT_EXPECT_FALSE(test, mock_is_device(hmm_pfn_to_page(pfn)));
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	mock_munmap(test);
}

/* Lost while a planned change waits for one of its pages: it is dealt with at once. */
static void lost_during_change(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct page *page;

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	page = mock_hold(a, 0, 3);
	race(test, race_link_down, NULL);
	while (READ_ONCE(a->rehomes) < 99)
		msleep(20);

	pgmap_peer_set_lost(&a->peer);
	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_leave(&a->peer, 0, HZ / 10, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 100);
	KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page)));
	/* The change does not wait for it either. */
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	mock_expect(test, b, 300, 0);
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 100 << PAGE_SHIFT);
	mock_munmap(test);
}

static int race_leave_long(struct racer *racer)
{
	return pgmap_peer_leave(&racer->gpu->peer, 0, 600 * HZ, NULL);
}

/* A planned removal that waits for a page does not hold up a forced one. */
static void force_overtakes(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1);
	struct pgmap_stats stats = {};
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	page = mock_hold(a, 0, 3);
	race(test, race_leave_long, a);
	while (mock_live(a) > 1)
		msleep(20);

	KUNIT_EXPECT_EQ(test, -EBUSY,
			pgmap_peer_leave(&a->peer, PGMAP_FORCE, HZ / 10, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 1);
	race_ends(test);
	KUNIT_EXPECT_EQ(test, racer.ret, -EBUSY);
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&a->peer, PGMAP_FORCE, HZ, NULL));
	mock_munmap(test);
}

/* Peers that move together use each other's memory all the time. */
static void movers_share(struct kunit *test)
{
	struct mock_ctx *ctx = test->priv;
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);
	struct mock_gpu *c = mock_gpu(test, 1);
	struct pgmap_link links[3];
	struct page *page;

	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 300, 0);
	links[0] = (struct pgmap_link){ &a->peer, &b->peer, true };
	links[1] = (struct pgmap_link){ &c->peer, &b->peer, true };
	links[2] = (struct pgmap_link){ &a->peer, &c->peer, true };
	KUNIT_ASSERT_EQ(test, 0, pgmap_fabric_set_links(&ctx->fabric, links, 3, 0,
							MOCK_TIMEOUT, NULL));
	mock_expect(test, c, 0, 400);
	page = mock_hold(a, 0, 3);
	race(test, race_both_down, NULL);
	while (READ_ONCE(a->rehomes) < 99)
		msleep(20);
	/* In the new window, under the next owner of both, and 301 under the last. */
	mock_expect(test, c, 0, 400);
	put_page(page);
	race_ends(test);
	KUNIT_EXPECT_EQ(test, 0, racer.ret);
	KUNIT_EXPECT_TRUE(test, pgmap_peers_share(&a->peer, &c->peer));
	mock_expect(test, c, 0, 100);
	mock_expect(test, b, 300, 0);
	KUNIT_EXPECT_EQ(test, b->unmaps, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
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
	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_join(&ctx->fabric, &a->peer, NULL));

	/* B cannot find the page under the owner that they had in common. */
	KUNIT_EXPECT_EQ(test, b->unmaps, 1);
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
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &a->peer, NULL));
	KUNIT_EXPECT_EQ(test, 0, pgmap_walk_begin(&a->peer, &walk));
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

/* --- walks --- */

static void walk_sees_change(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 0), *b = mock_gpu(test, 0);
	struct pgmap_walk walk[2], none;

	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(NULL, &none));
	KUNIT_EXPECT_NULL(test, none.owner);
	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&a->peer, &walk[0]));
	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&b->peer, &walk[1]));
	KUNIT_EXPECT_FALSE(test, pgmap_walk_retry(&walk[0]));

	/* What they have found can be used after they have come together. */
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	KUNIT_EXPECT_FALSE(test, pgmap_walk_retry(&walk[0]));
	KUNIT_EXPECT_FALSE(test, pgmap_walk_retry(&walk[1]));

	/* One of them moves, the other one need not notice: it has no pages. */
	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&a->peer, &walk[0]));
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, false, 0, NULL));
	KUNIT_EXPECT_NE(test, pgmap_walk_retry(&walk[0]), pgmap_walk_retry(&walk[1]));
	KUNIT_EXPECT_EQ(test, pgmap_walk_retry(&walk[0]), a->unmaps == 1);
	KUNIT_EXPECT_FALSE(test, pgmap_walk_retry(&none));
}

static struct pgmap_walk mock_walk;

static void mock_check_published(struct mock_gpu *gpu)
{
	struct kunit *test = kunit_get_current_test();
	struct mock_ctx *ctx = test->priv;

	/* A walk that is checked now fails, and all pages have moved. */
	KUNIT_EXPECT_FALSE(test, pgmap_peers_share(&ctx->gpus[0]->peer,
						   &ctx->gpus[1]->peer));
	KUNIT_EXPECT_TRUE(test, pgmap_walk_retry(&mock_walk));
	KUNIT_EXPECT_EQ(test, gpu->rehomes, gpu->peer.mem ? 0 : 100);
}

static void owner_first_then_mappings(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 1), *b = mock_gpu(test, 1);

	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	mock_mmap(test, 2 * HPAGE_PMD_SIZE);
	mock_migrate(test, a, 0, 0, 100, 0);
	mock_migrate(test, b, 0, 200, 200, 0);
	KUNIT_ASSERT_EQ(test, 0, pgmap_walk_begin(&a->peer, &mock_walk));
	a->on_unmap = mock_check_published;
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, b, false, 0, NULL));
	KUNIT_EXPECT_EQ(test, a->unmaps, 1);
	a->on_unmap = NULL;
	mock_munmap(test);
}

/* --- races: each test is one of the diagrams, with the window held open --- */

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
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);
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
	KUNIT_EXPECT_EQ(test, stats.bytes_copied, 0);

	mock_munmap(test);
	KUNIT_EXPECT_EQ(test, mock_live(a), param->nr);
	kthread_unuse_mm(parent);
	kthread_use_mm(racer.child);
	KUNIT_EXPECT_EQ(test, 0, mock_wrong_bytes(test));
	kthread_unuse_mm(racer.child);
	kthread_use_mm(parent);
	KUNIT_EXPECT_EQ(test, mock_live(a), 0);
	mmput(racer.child);
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
		      pgmap_peer_join(&ctx->fabric, &racer->gpu->peer, NULL);
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
		KUNIT_EXPECT_EQ(test, 0, pgmap_peer_join(&ctx->fabric, &c->peer, NULL));
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

	/* On a device that has been in the same cluster. */
	KUNIT_ASSERT_EQ(test, 0, mock_link(test, a, c, true, 0, NULL));
	KUNIT_EXPECT_EQ(test, 0, mock_fault(test, c, 4, HZ, &pfn));
	KUNIT_EXPECT_TRUE(test, mock_is_device(hmm_pfn_to_page(pfn)));
	page = mock_hold(a, 0, 4);
	lock_page(page);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, c, false, PGMAP_FORCE, NULL));
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_fault(test, c, 4, HZ / 5, &pfn));
	unlock_page(page);
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0, mock_fault(test, c, 4, HZ, &pfn));
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

/* There is no room for another region. */
static void memory_is_full(struct kunit *test)
{
	struct mock_gpu *a = mock_gpu(test, 2);
	unsigned long used = 2 * MOCK_SLOTS << PAGE_SHIFT;
	struct resource rest;

	rest = DEFINE_RES_NAMED(a->mem.start + used, MOCK_MEM - used, "rest",
				IORESOURCE_MEM);
	KUNIT_ASSERT_EQ(test, 0, request_resource(&a->mem, &rest));
	KUNIT_EXPECT_EQ(test, -ENOSPC,
			pgmap_region_register(&a->peer, &a->regions[2].region,
					      MOCK_SLOTS, &mock_pgmap_ops));
	release_resource(&rest);
	KUNIT_EXPECT_EQ(test, 0,
			pgmap_region_register(&a->peer, &a->regions[2].region,
					      MOCK_SLOTS, &mock_pgmap_ops));
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
	/* It is in the way of no change of links, and stays where it is. */
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, 0, NULL));
	KUNIT_EXPECT_TRUE(test, folio_mapped(page_folio(page)));
	KUNIT_EXPECT_EQ(test, -EBUSY, mock_fault(test, b, 3, HZ / 10, &pfn));
	mock_expect(test, a, 50, 0);
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, true, 0, NULL));
	KUNIT_EXPECT_EQ(test, 0, mock_link(test, a, b, false, PGMAP_FORCE, &stats));
	KUNIT_EXPECT_EQ(test, stats.pages_poisoned, 0);
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 0);

	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(ctx->addr + 203 * PAGE_SIZE, 1,
						     FOLL_WRITE, &page));
	pgmap_peer_set_lost(&b->peer);
	KUNIT_EXPECT_EQ(test, -EBUSY, pgmap_peer_leave(&b->peer, 0, HZ / 5, NULL));
	KUNIT_EXPECT_FALSE(test, folio_mapped(page_folio(page)));
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, 0, pgmap_peer_leave(&b->peer, 0, HZ, NULL));
	KUNIT_EXPECT_EQ(test, mock_wrong_bytes(test), 300 * PAGE_SIZE);
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
	KUNIT_CASE(walk_notices_rejoin),
	KUNIT_CASE_PARAM(bad_arguments, kind_gen_params),
	KUNIT_CASE_PARAM(window_life_cycle, kind_gen_params),
	KUNIT_CASE_PARAM(link_up_and_down, move_gen_params),
	KUNIT_CASE_PARAM(leave_evacuates, move_gen_params),
	KUNIT_CASE(regions_take_turns),
	KUNIT_CASE(empty_regions_stay),
	KUNIT_CASE(links_at_once),
	KUNIT_CASE(change_without_memory),
	KUNIT_CASE(forced_before_renewal),
	KUNIT_CASE_PARAM(forced_link_down, kind_gen_params),
	KUNIT_CASE_PARAM(leave_fails, kind_gen_params),
	KUNIT_CASE(held_page_is_left_over),
	KUNIT_CASE(others_do_not_wait),
	KUNIT_CASE(lost_during_change),
	KUNIT_CASE(force_overtakes),
	KUNIT_CASE(movers_share),
	KUNIT_CASE_PARAM(forced_leave_is_stuck, kind_gen_params),
	KUNIT_CASE_PARAM(unmapped_is_left_alone, kind_gen_params),
	KUNIT_CASE_PARAM(lost_pages_are_poisoned, move_gen_params),
	KUNIT_CASE_PARAM(lost_while_copying, kind_gen_params),
	KUNIT_CASE_PARAM(lost_while_waiting, kind_gen_params),
	KUNIT_CASE(leave_splits_large),
	KUNIT_CASE_PARAM(leave_without_memory, move_gen_params),
	KUNIT_CASE(walk_sees_change),
	KUNIT_CASE_PARAM(owner_first_then_mappings, kind_gen_params),
	KUNIT_CASE_PARAM(race_migrate_against_leave, move_gen_params),
	KUNIT_CASE_PARAM(race_cpu_fault_against_rehome, private_gen_params),
	KUNIT_CASE_PARAM(write_breaks_cow, move_gen_params),
	KUNIT_CASE_PARAM(race_fork_against_rehome, private_gen_params),
	KUNIT_CASE_PARAM(race_exit_against_rehome, private_gen_params),
	KUNIT_CASE_PARAM(race_cpu_fault_against_evacuation, move_gen_params),
	KUNIT_CASE_PARAM(race_cpu_fault_against_loss, move_gen_params),
	KUNIT_CASE_PARAM_ATTR(race_changes, kind_gen_params, { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE_PARAM_ATTR(race_join_against_leave, kind_gen_params,
			      { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE_PARAM(foreign_is_moved, coherent_gen_params),
	KUNIT_CASE_PARAM(foreign_is_held, coherent_gen_params),
	KUNIT_CASE_PARAM(foreign_is_lost, coherent_gen_params),
	KUNIT_CASE_PARAM(memory_is_full, coherent_gen_params),
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
