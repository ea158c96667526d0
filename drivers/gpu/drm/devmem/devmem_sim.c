// SPDX-License-Identifier: GPL-2.0
/*
 * The simulated backend: device memory is memory of the system that only
 * this file accesses, and the CPU does what an engine would.
 *
 * With the parameter coherent_ram the memory is coherent instead: parts of a range that
 * the system does not use, as by memmap= on the kernel's command line.
 */
#include <linux/atomic.h>
#include <linux/device/faux.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "devmem_drv.h"

static char *coherent_ram;
module_param(coherent_ram, charp, 0444);
MODULE_PARM_DESC(coherent_ram,
		 "size@start of unused memory that simulated devices are to have as theirs, coherent");

/* Where that is; or NULL. */
static struct resource *devmem_sim_ram;

int devmem_sim_init(void)
{
	unsigned long long start, size;
	char *p;

	if (!coherent_ram)
		return 0;

	size = memparse(coherent_ram, &p);
	if (!size || *p != '@')
		return -EINVAL;
	start = memparse(p + 1, &p);
	if (*p || !IS_ALIGNED(start | size, DEVMEM_HUGE_SIZE) || start + size < start)
		return -EINVAL;

	/* Memory that the system uses is busy. */
	devmem_sim_ram = request_mem_region(start, size, "drm_devmem");
	return devmem_sim_ram ? 0 : -EBUSY;
}

void devmem_sim_exit(void)
{
	if (devmem_sim_ram)
		release_mem_region(devmem_sim_ram->start,
				   resource_size(devmem_sim_ram));
}

bool devmem_sim_is_coherent(void)
{
	return devmem_sim_ram;
}

static int devmem_sim_init_chunk(struct devmem_chunk *chunk)
{
	if (devmem_sim_is_coherent())
		return 0;

	chunk->memory = __vmalloc(chunk->size, GFP_KERNEL | __GFP_NOWARN |
				  __GFP_RETRY_MAYFAIL);
	return chunk->memory ? 0 : -ENOMEM;
}

static void devmem_sim_fini_chunk(struct devmem_chunk *chunk)
{
	vfree(chunk->memory);
}

static void *devmem_sim_at(struct devmem_device *dev, u64 offset)
{
	struct devmem_chunk *chunk;

	/* Coherent: mapped as a whole. */
	if (dev->at)
		return dev->at + offset;

	chunk = dev->chunks[div64_u64(offset, dev->chunk_size)];
	return chunk->memory + (offset - chunk->offset);
}

/* What a bus gives for a device that does not answer. */
static void devmem_sim_read(struct devmem_device *dev, u64 offset, void *buf,
			    size_t len)
{
	if (READ_ONCE(dev->dead))
		memset(buf, 0xff, len);
	else
		memcpy(buf, devmem_sim_at(dev, offset), len);
}

static void devmem_sim_write(struct devmem_device *dev, u64 offset,
			     const void *buf, size_t len)
{
	memcpy(devmem_sim_at(dev, offset), buf, len);
}

static void devmem_sim_clear(struct devmem_device *dev, u64 offset, size_t len)
{
	memset(devmem_sim_at(dev, offset), 0, len);
}

static u64 devmem_sim_atomic_add(struct devmem_device *dev, u64 offset, u64 value)
{
	if (READ_ONCE(dev->dead))
		return ~0ULL;
	return atomic64_fetch_add(value, devmem_sim_at(dev, offset));
}

/* Coherent memory for a device. */
static struct resource *devmem_sim_mem_get(u64 size, void **at)
{
	struct resource *mem;
	u64 start;

	if (size - 1 > DEVMEM_ADDR_OFFSET)
		return ERR_PTR(-ENOMEM);

	mem = kzalloc_obj(*mem);
	if (!mem)
		return ERR_PTR(-ENOMEM);
	/* Not by allocate_resource(): that avoids what firmware calls reserved. */
	for (start = devmem_sim_ram->start; start + size - 1 <= devmem_sim_ram->end;
	     start += DEVMEM_HUGE_SIZE) {
		*mem = DEFINE_RES_NAMED(start, size, "drm_devmem",
					IORESOURCE_MEM | IORESOURCE_BUSY);
		if (request_resource(devmem_sim_ram, mem))
			continue;
		*at = memremap(start, size, MEMREMAP_WB);
		if (*at)
			return mem;
		release_resource(mem);
		break;
	}

	kfree(mem);
	return ERR_PTR(-ENOMEM);
}

static void devmem_sim_mem_put(struct resource *mem, void *at)
{
	if (!mem)
		return;
	memunmap(at);
	release_resource(mem);
	kfree(mem);
}

static void devmem_sim_end(struct devmem_device *dev)
{
	faux_device_destroy(to_faux_device(dev->drm.dev));
	devmem_sim_mem_put(dev->peer.mem, dev->at);
}

static const struct devmem_backend_ops devmem_sim_ops = {
	.end = devmem_sim_end,
	.init_chunk = devmem_sim_init_chunk,
	.fini_chunk = devmem_sim_fini_chunk,
	.read = devmem_sim_read,
	.write = devmem_sim_write,
	.clear = devmem_sim_clear,
	.atomic_add = devmem_sim_atomic_add,
};

/**
 * devmem_sim_create() - make a simulated device
 * @id: from devmem_id_get()
 * @mem_size: bytes of memory
 * @chunk_size: bytes of a chunk
 *
 * Context: May sleep.
 * Return: The device, with a reference for the caller; or an error pointer.
 */
struct devmem_device *devmem_sim_create(unsigned int id, u64 mem_size, u64 chunk_size)
{
	struct devmem_config config = {
		.id = id,
		.ops = &devmem_sim_ops,
		.mem_size = mem_size,
		.chunk_size = chunk_size,
	};
	struct devmem_device *dev;
	struct faux_device *faux;
	char name[16];
	int err;

	if (devmem_sim_is_coherent()) {
		config.mem = devmem_sim_mem_get(mem_size, &config.at);
		if (IS_ERR(config.mem))
			return ERR_CAST(config.mem);
	}

	snprintf(name, sizeof(name), "drm-devmem.%u", id);
	faux = faux_device_create(name, NULL, NULL);
	if (!faux) {
		dev = ERR_PTR(-ENOMEM);
		goto err_mem;
	}

	err = dma_coerce_mask_and_coherent(&faux->dev, DMA_BIT_MASK(64));
	dev = err ? ERR_PTR(err) : devmem_device_create(&faux->dev, &config);
	if (!IS_ERR(dev))
		return dev;

	faux_device_destroy(faux);
err_mem:
	devmem_sim_mem_put(config.mem, config.at);
	return dev;
}

bool devmem_is_sim(struct devmem_device *dev)
{
	return dev->ops == &devmem_sim_ops;
}
