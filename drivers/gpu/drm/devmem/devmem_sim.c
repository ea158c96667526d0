// SPDX-License-Identifier: GPL-2.0
/*
 * The simulated backend: device memory is memory of the system that nobody but
 * this file touches, and the CPU does what an engine would.
 */
#include <linux/atomic.h>
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "devmem_drv.h"

static int devmem_sim_init_chunk(struct devmem_chunk *chunk)
{
	chunk->memory = __vmalloc(chunk->size, GFP_KERNEL | __GFP_NOWARN |
				  __GFP_RETRY_MAYFAIL);
	return chunk->memory ? 0 : -ENOMEM;
}

static void devmem_sim_fini_chunk(struct devmem_chunk *chunk)
{
	vfree(chunk->memory);
}

/* What a bus gives for a device that does not answer. */
static void devmem_sim_read(struct devmem_chunk *chunk, u64 offset, void *buf,
			    size_t len)
{
	if (READ_ONCE(chunk->dev->dead))
		memset(buf, 0xff, len);
	else
		memcpy(buf, chunk->memory + offset, len);
}

static void devmem_sim_write(struct devmem_chunk *chunk, u64 offset,
			     const void *buf, size_t len)
{
	memcpy(chunk->memory + offset, buf, len);
}

static void devmem_sim_clear(struct devmem_chunk *chunk, u64 offset, size_t len)
{
	memset(chunk->memory + offset, 0, len);
}

static u64 devmem_sim_atomic_add(struct devmem_chunk *chunk, u64 offset,
				 u64 value)
{
	if (READ_ONCE(chunk->dev->dead))
		return ~0ULL;
	return atomic64_fetch_add(value, chunk->memory + offset);
}

const struct devmem_backend_ops devmem_sim_ops = {
	.init_chunk = devmem_sim_init_chunk,
	.fini_chunk = devmem_sim_fini_chunk,
	.read = devmem_sim_read,
	.write = devmem_sim_write,
	.clear = devmem_sim_clear,
	.atomic_add = devmem_sim_atomic_add,
};

/*
 * The page behind a DMA address. The engine is the CPU, so this must be the very
 * page that was mapped: see devmem_dma_probe().
 */
struct page *devmem_dma_page(struct devmem_device *dev, dma_addr_t addr)
{
	return pfn_to_page(PHYS_PFN(dma_to_phys(dev->drm.dev, addr)));
}

/*
 * Refuse to work where a DMA mapping is more than another name of the page: an
 * IOMMU in front of the device, bounce buffers, encrypted memory.
 */
int devmem_dma_probe(struct devmem_device *dev)
{
	struct device *device = dev->drm.dev;
	struct page *page;
	dma_addr_t addr;
	int err = 0;

	page = alloc_page(GFP_KERNEL);
	if (!page)
		return -ENOMEM;

	addr = dma_map_page(device, page, 0, PAGE_SIZE, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(device, addr)) {
		err = -EOPNOTSUPP;
		goto out_free;
	}
	if (dma_to_phys(device, addr) != page_to_phys(page))
		err = -EOPNOTSUPP;
	dma_unmap_page(device, addr, PAGE_SIZE, DMA_BIDIRECTIONAL);

out_free:
	__free_page(page);
	return err;
}
