// SPDX-License-Identifier: GPL-2.0
/*
 * DMA addresses of system memory: the engine of a virtual GPU is a CPU.
 */
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/mm.h>

#include "devmem_drv.h"

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
