/* SPDX-License-Identifier: GPL-2.0 */
/*
 * drm_devmem: virtual GPUs whose memory has struct pages.
 *
 * Locking order:
 *
 *	devmem_device.end_lock		the end of one device
 *	  devmem_ctl_lock		the registry and the topology; for bookkeeping only
 *	pgmap_peer.lock			in the core
 *	  pgmap_fabric.lock		in the core
 *	    devmem_device.vms_lock	in unmap_foreign
 *	      drm_gpusvm.notifier_lock	the "driver lock" of hmm.rst
 *	devmem_file.lock
 *	  devmem_vm.lock		faults and commands of one address space
 *	    mmap_lock
 *	      mmu_interval_notifier
 *		drm_gpusvm.notifier_lock
 *	mmap_lock, folio lock
 *	  devmem_chunk.lock		allocation of slots
 *	devmem_device.allocs_lock	spinlock, leaf
 *	devmem_pieces_lock		spinlock, leaf
 *
 * Under devmem_ctl_lock nothing is waited for. No mmap_lock is taken under a lock that
 * unmap_foreign takes: a user can keep it for as long as a page fault lasts.
 */
#ifndef _DEVMEM_DRV_H_
#define _DEVMEM_DRV_H_

#include <linux/bitfield.h>
#include <linux/bits.h>
#include <linux/completion.h>
#include <linux/gpu_buddy.h>
#include <linux/jiffies.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pgmap_owner.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/types.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <drm/drm_device.h>
#include <drm/drm_gpusvm.h>
#include <drm/drm_pagemap.h>

#include "devmem_test.h"
#include "devmem_topo.h"

struct devmem_chunk;
struct devmem_device;
struct drm_file;
struct resource;

/* The size of a huge page, and the most that is allocated as one piece. */
#define DEVMEM_HUGE_SIZE	SZ_2M

/* How long a page may keep moving before a request gives up. */
#define DEVMEM_FAULT_TIMEOUT	(10 * HZ)

/*
 * An address on the interconnect names a byte of some device's memory. The
 * serial number makes an address of a device that has left differ from any of a
 * later device with the same id.
 */
#define DEVMEM_ADDR_OFFSET	GENMASK_ULL(35, 0)
#define DEVMEM_ADDR_ID		GENMASK_ULL(41, 36)
#define DEVMEM_ADDR_SERIAL	GENMASK_ULL(57, 42)

/* An entry of a device's page table. */
#define DEVMEM_PTE_VALID	BIT_ULL(0)
#define DEVMEM_PTE_WRITE	BIT_ULL(1)
/* The address is one of the interconnect; else it is a DMA address. */
#define DEVMEM_PTE_DEVICE	BIT_ULL(2)
#define DEVMEM_PTE_ADDR		PAGE_MASK

/**
 * struct devmem_place - where bytes are, for a DMA engine
 * @page: in system memory; or NULL
 * @dev: in this device's memory
 * @offset: in @page or in the memory of @dev
 */
struct devmem_place {
	struct page *page;
	struct devmem_device *dev;
	u64 offset;
};

/**
 * struct devmem_backend_ops - what makes up a kind of device
 *
 * All offsets are within the device's memory. No access crosses the end of a chunk.
 */
struct devmem_backend_ops {
	/** @end: Free what @devmem_config of the device referred to. Nothing uses it. */
	void (*end)(struct devmem_device *dev);
	/** @alive: Optional: does the hardware answer, and has it done so all the time? */
	bool (*alive)(struct devmem_device *dev);
	/**
	 * @dma: Optional: copy by a DMA engine, up to a page. -EOPNOTSUPP: the CPU
	 * has to do it.
	 */
	int (*dma)(struct devmem_device *dev, const struct devmem_place *dst,
		   const struct devmem_place *src, size_t len);
	/** @init_chunk: Optional: get memory for a chunk. Contents are undefined. */
	int (*init_chunk)(struct devmem_chunk *chunk);
	/** @fini_chunk: Give it back. Optional like @init_chunk. */
	void (*fini_chunk)(struct devmem_chunk *chunk);
	/** @read: Device memory to kernel memory. */
	void (*read)(struct devmem_device *dev, u64 offset, void *buf, size_t len);
	/** @write: Kernel memory to device memory. */
	void (*write)(struct devmem_device *dev, u64 offset, const void *buf,
		      size_t len);
	/** @clear: Zero device memory. */
	void (*clear)(struct devmem_device *dev, u64 offset, size_t len);
	/** @atomic_add: Atomic for all devices. Returns the old value. */
	u64 (*atomic_add)(struct devmem_device *dev, u64 offset, u64 value);
};

/**
 * struct devmem_chunk - a part of a device's memory, one &struct pgmap_region
 * @dpagemap: the region, and whose reference count keeps the chunk
 * @dev: the device; valid as long as @dpagemap has references
 * @ops: of @dev, usable when @dev is gone
 * @offset: byte offset in the device's memory
 * @size: in bytes
 * @memory: private to the backend
 * @buddy: which slots are free
 * @free_work: frees the chunk
 */
struct devmem_chunk {
	struct drm_pagemap dpagemap;
	struct devmem_device *dev;
	const struct devmem_backend_ops *ops;
	u64 offset;
	u64 size;
	void *memory;
	/** @lock: protects @buddy */
	struct mutex lock;
	struct gpu_buddy buddy;
	struct work_struct free_work;
};

/**
 * struct devmem_config - what a virtual GPU is to be like
 * @id: from devmem_id_get()
 * @ops: its backend
 * @priv: for @ops
 * @at: where coherent memory is mapped, or NULL
 * @mem: where the CPU sees coherent memory, see &pgmap_peer.mem; or NULL
 * @mem_size: bytes of memory
 * @chunk_size: bytes of a chunk
 */
struct devmem_config {
	unsigned int id;
	const struct devmem_backend_ops *ops;
	void *priv;
	void *at;
	struct resource *mem;
	u64 mem_size;
	u64 chunk_size;
};

/* See struct devmem_stats. */
struct devmem_counters {
	atomic64_t device_faults;
	atomic64_t fault_retries;
	atomic64_t mapped_system;
	atomic64_t mapped_local;
	atomic64_t mapped_peer;
	atomic64_t migrated_in;
	atomic64_t migrated_out;
	atomic64_t evictions;
	atomic64_t bytes_copied;
	atomic64_t bytes_dma;
	atomic64_t link_errors;
	atomic64_t violations;
};

/**
 * struct devmem_device - a virtual GPU
 * @drm: the DRM device
 * @peer: in the fabric of all virtual GPUs
 * @id: index in devmem_devices; immutable
 * @serial: see %DEVMEM_ADDR_SERIAL; immutable
 * @ops: backend; immutable
 * @priv: of @ops; immutable
 * @at: see &devmem_config.at; immutable
 * @registered: requests can find the device. Set once
 * @dead: the hardware is gone: its memory reads as ones. Set once, without a lock;
 *	checked after each access, for before does not help
 * @mem_size: bytes of memory; immutable
 * @chunk_size: bytes of a chunk, except perhaps the last; immutable
 * @nr_chunks: number of @chunks; immutable
 * @chunks: the memory. Each holds a reference on its &devmem_chunk.dpagemap
 *	until the device has left the fabric.
 * @next_chunk: where to look for free memory first; a hint
 * @allocated: pages that are allocated
 * @vms: address spaces, by &devmem_vm.link
 * @allocs: allocations by age, oldest first
 * @counters: for DRM_IOCTL_DEVMEM_STATS
 * @end: frees the device after it has left the fabric
 * @leftover: has a device leave whose pages were locked or referred to
 * @ended: the device is free, except for references to it
 */
struct devmem_device {
	struct drm_device drm;
	struct pgmap_peer peer;
	unsigned int id;
	u16 serial;
	const struct devmem_backend_ops *ops;
	void *priv;
	void *at;
	bool registered;
	bool dead;
	u64 mem_size;
	u64 chunk_size;
	unsigned int nr_chunks;
	struct devmem_chunk **chunks;
	unsigned int next_chunk;
	atomic64_t allocated;
	/** @vms_lock: protects @vms */
	struct mutex vms_lock;
	struct list_head vms;
	/** @allocs_lock: protects @allocs */
	spinlock_t allocs_lock;
	struct list_head allocs;
	struct devmem_counters counters;
	/** @end_lock: serialises what ends the use of the device */
	struct mutex end_lock;
	struct work_struct end;
	struct delayed_work leftover;
	struct completion ended;
};

#define to_devmem_device(_drm) \
	container_of(_drm, struct devmem_device, drm)
#define to_devmem_chunk(_dpagemap) \
	container_of(_dpagemap, struct devmem_chunk, dpagemap)

/**
 * struct devmem_vm - an address space of a device
 * @svm: mirrors the process
 * @dev: the device
 * @link: in &devmem_device.vms
 * @tables: the page table: one array of entries per 2 MiB of address space. A
 *	table is added under @lock and stays until the end. The entries are
 *	protected by &drm_gpusvm.notifier_lock: set and used under read (and
 *	@lock), cleared under write.
 * @gc: ranges whose address space is gone
 * @buf: a page for the engine; protected by @lock
 */
struct devmem_vm {
	struct drm_gpusvm svm;
	struct devmem_device *dev;
	struct list_head link;
	/**
	 * @lock: serialises faults and commands. The "driver lock" of
	 * drm_gpusvm.
	 */
	struct mutex lock;
	struct xarray tables;
	/** @gc_lock: protects @gc */
	spinlock_t gc_lock;
	struct list_head gc;
	void *buf;
};

/**
 * struct devmem_file - an open file
 * @vm: made by the first request that needs it
 */
struct devmem_file {
	/** @lock: protects @vm until it is set */
	struct mutex lock;
	struct devmem_vm *vm;
};

static inline struct devmem_device *devmem_peer_device(struct pgmap_peer *peer)
{
	return container_of(peer, struct devmem_device, peer);
}

/* Can either use the other's memory through PCI? What the fabric asks, too. */
static inline bool devmem_reach_pci(struct devmem_device *a, struct devmem_device *b)
{
	return pgmap_peer_reaches_pci(&a->peer, &b->peer) &&
	       pgmap_peer_reaches_pci(&b->peer, &a->peer);
}

/* devmem_drv.c */
extern const struct drm_driver devmem_driver;
extern struct fault_attr devmem_fail_copy;

/* devmem_ioctl.c */
int devmem_ioctl_info(struct drm_device *drm, void *data, struct drm_file *file);
int devmem_ioctl_exec(struct drm_device *drm, void *data, struct drm_file *file);
int devmem_ioctl_migrate(struct drm_device *drm, void *data, struct drm_file *file);
int devmem_ioctl_query(struct drm_device *drm, void *data, struct drm_file *file);
int devmem_ioctl_hold(struct drm_device *drm, void *data, struct drm_file *file);
int devmem_ioctl_stats(struct drm_device *drm, void *data, struct drm_file *file);

/* devmem_ctl.c */
int devmem_ctl_init(void);
void devmem_ctl_exit(void);

/* devmem_device.c */
extern struct devmem_device __rcu *devmem_devices[DEVMEM_MAX_DEVICES];
extern struct workqueue_struct *devmem_end_wq;
extern struct srcu_struct devmem_srcu;
extern struct mutex devmem_ctl_lock;
extern struct pgmap_fabric devmem_fabric;
extern struct devmem_topo devmem_topo;

int devmem_id_get(void);
void devmem_id_put(unsigned int id);
struct devmem_device *devmem_device_find(unsigned int id);
struct devmem_device *devmem_device_get(unsigned int id);
unsigned int devmem_devices_get(struct devmem_device **devs, bool each_cluster);
void devmem_devices_put(struct devmem_device **devs, unsigned int nr);
struct devmem_device *devmem_device_create(struct device *parent,
					   const struct devmem_config *config);
void devmem_device_kill(struct devmem_device *dev);
void devmem_device_quiesce(struct devmem_device *dev);
int devmem_device_remove(struct devmem_device *dev, unsigned int flags,
			 unsigned long timeout, struct pgmap_stats *stats);

/* devmem_mem.c */
extern struct workqueue_struct *devmem_wq;

int devmem_mem_init(struct devmem_device *dev);
void devmem_mem_fini(struct devmem_device *dev);
int devmem_mem_register(struct devmem_device *dev);
u64 devmem_mem_free(struct devmem_device *dev);
int devmem_mem_evict(struct devmem_device *dev);
struct devmem_chunk *devmem_chunk_get(struct devmem_device *dev, unsigned int n);

/* devmem_migrate.c */
int devmem_mem_migrate(struct devmem_device *dev, struct mm_struct *mm,
		       unsigned long start, unsigned long end);

/* devmem_svm.c */
struct devmem_vm *devmem_vm_create(struct devmem_device *dev,
				   struct mm_struct *mm);
void devmem_vm_destroy(struct devmem_vm *vm);
int devmem_vm_fault(struct devmem_vm *vm, unsigned long addr, bool write);
u64 devmem_vm_lookup(struct devmem_vm *vm, unsigned long addr);
void devmem_vms_invalidate(struct devmem_device *dev);

/* devmem_engine.c */
int devmem_access(struct devmem_device *dev, u64 pte, unsigned int offset,
		  void *buf, size_t len, bool write);
int devmem_engine_exec(struct devmem_vm *vm, struct devmem_exec *exec);

/* devmem_walk.c */
int devmem_walk_query(struct devmem_device **devs, unsigned int nr_devs,
		      struct mm_struct *mm, unsigned long start,
		      unsigned long nr, u32 *entries, struct folio **held);
int devmem_walk_to_system(struct mm_struct *mm, unsigned long start,
			  unsigned long end);

/* devmem_sim.c */
int devmem_sim_init(void);
void devmem_sim_exit(void);
bool devmem_sim_is_coherent(void);
struct devmem_device *devmem_sim_create(unsigned int id, u64 mem_size, u64 chunk_size);
bool devmem_is_sim(struct devmem_device *dev);

/* devmem_dma.c */
struct page *devmem_dma_page(struct devmem_device *dev, dma_addr_t addr);
int devmem_dma_probe(struct devmem_device *dev);

/* devmem_edu.c */
struct pci_dev;
int devmem_edu_init(void);
void devmem_edu_exit(void);
int devmem_edu_try(struct pci_dev *card, void __iomem *mem, int bar);
int devmem_edu_copy(struct pci_dev *card, const struct devmem_place *dst,
		    const struct devmem_place *src, size_t len);

/* devmem_pci.c */
struct p2pdma_provider;
struct p2pdma_provider *devmem_pci_provider(const struct devmem_place *place,
					    phys_addr_t *phys);
#ifdef CONFIG_PCI
int devmem_pci_init(void);
void devmem_pci_exit(void);
#else
static inline int devmem_pci_init(void) { return 0; }
static inline void devmem_pci_exit(void) { }
#endif

/* Was the device there until now? Then what has been read from it is true. */
static inline bool devmem_alive(struct devmem_device *dev)
{
	/* After the accesses. */
	rmb();
	return !READ_ONCE(dev->dead) && (!dev->ops->alive || dev->ops->alive(dev));
}

static inline u64 devmem_addr(struct devmem_device *dev, u64 offset)
{
	return FIELD_PREP(DEVMEM_ADDR_SERIAL, dev->serial) |
	       FIELD_PREP(DEVMEM_ADDR_ID, dev->id) |
	       FIELD_PREP(DEVMEM_ADDR_OFFSET, offset);
}

#endif /* _DEVMEM_DRV_H_ */
