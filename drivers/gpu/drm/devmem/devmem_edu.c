// SPDX-License-Identifier: GPL-2.0
/*
 * The DMA engine of a card: an edu device of QEMU, as function 1 of the slot.
 *
 * It does not tell how many bits of an address it takes, and ignores the others: what
 * it is asked to write would be written somewhere else. It is taken for the 28 that QEMU
 * gives it by default, until it has been seen to read from above.
 */
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/iopoll.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pci-p2pdma.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "devmem_drv.h"

#define EDU_VENDOR		0x1234
#define EDU_DEVICE		0x11e8
#define EDU_BAR			0
#define EDU_ID			0x0
#define EDU_ID_VALUE		0xed
#define EDU_DMA_SRC		0x80
#define EDU_DMA_DST		0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_CMD		0x98
#define EDU_DMA_RUN		BIT(0)
#define EDU_DMA_FROM_EDU	BIT(1)
/*
 * Where the engine's own memory is, for its DMA. It is one page, but the byte after the
 * end of a transfer has to be in there too, or older QEMU stops the machine.
 */
#define EDU_BUFFER		0x40000
#define EDU_MAX			SZ_2K
/* A transfer takes it a tenth of a second. */
#define EDU_POLL_US		1000
#define EDU_TIMEOUT_US		(5 * USEC_PER_SEC)
#define EDU_BITS		28

/**
 * struct devmem_edu - an engine
 * @pdev: the function
 * @regs: its registers
 * @link: in devmem_edus
 * @works: nothing has gone wrong with it
 * @end: the last address that it can be given, or 0
 */
struct devmem_edu {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct list_head link;
	bool works;
	u64 end;
};

/*
 * One transfer at a time. Protects the list and what is in it. Taken under the notifier
 * lock of drm_gpusvm: nothing is allocated under it.
 */
static DEFINE_MUTEX(devmem_edu_lock);
static LIST_HEAD(devmem_edus);

static struct devmem_edu *devmem_edu_find(struct pci_dev *card)
{
	struct devmem_edu *edu;

	lockdep_assert_held(&devmem_edu_lock);

	list_for_each_entry(edu, &devmem_edus, link)
		if (edu->pdev->bus == card->bus &&
		    PCI_SLOT(edu->pdev->devfn) == PCI_SLOT(card->devfn))
			return edu->works ? edu : NULL;
	return NULL;
}

static bool devmem_edu_reaches(const struct devmem_edu *edu, u64 addr, size_t len)
{
	return addr <= edu->end && len - 1 <= edu->end - addr;
}

/*
 * One transfer between the engine's memory and @addr. An engine that is gone, or must
 * not access memory any more, seems to have done what it was asked for: so it is looked
 * at afterwards.
 */
static int devmem_edu_run(struct devmem_edu *edu, dma_addr_t addr, size_t len,
			  bool write)
{
	void __iomem *regs = edu->regs;
	u16 command;
	u32 cmd;
	int err;

	lockdep_assert_held(&devmem_edu_lock);

	if (!devmem_edu_reaches(edu, addr, len))
		return -EOPNOTSUPP;

	writeq(write ? EDU_BUFFER : addr, regs + EDU_DMA_SRC);
	writeq(write ? addr : EDU_BUFFER, regs + EDU_DMA_DST);
	writeq(len, regs + EDU_DMA_COUNT);
	writeq(EDU_DMA_RUN | (write ? EDU_DMA_FROM_EDU : 0), regs + EDU_DMA_CMD);
	err = readl_poll_timeout(regs + EDU_DMA_CMD, cmd,
				 !(cmd & EDU_DMA_RUN) || PCI_POSSIBLE_ERROR(cmd),
				 EDU_POLL_US, EDU_TIMEOUT_US);
	pci_read_config_word(edu->pdev, PCI_COMMAND, &command);
	if (!err && (readl(regs + EDU_ID) & 0xff) == EDU_ID_VALUE &&
	    !PCI_POSSIBLE_ERROR(command) && command & PCI_COMMAND_MASTER)
		return 0;

	/* It must not access memory any more that has another user soon. */
	pci_clear_master(edu->pdev);
	edu->works = false;
	return -EOPNOTSUPP;
}

/* A transfer from or to a place: mapped for as long as that takes. */
static int devmem_edu_move(struct devmem_edu *edu, const struct devmem_place *place,
			   size_t len, bool write)
{
	enum dma_data_direction dir = write ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	unsigned long attrs = place->page ? 0 : DMA_ATTR_MMIO;
	struct device *dma = &edu->pdev->dev;
	struct p2pdma_provider *provider;
	dma_addr_t addr;
	phys_addr_t phys;
	int err;

	if (place->page) {
		phys = page_to_phys(place->page) + place->offset;
	} else {
		provider = devmem_pci_provider(place, &phys);
		if (!provider)
			return -EOPNOTSUPP;
		switch (pci_p2pdma_map_type(provider, dma)) {
		case PCI_P2PDMA_MAP_BUS_ADDR:
			addr = pci_p2pdma_bus_addr_map(provider, phys);
			return devmem_edu_run(edu, addr, len, write);
		case PCI_P2PDMA_MAP_THRU_HOST_BRIDGE:
			break;
		default:
			return -EOPNOTSUPP;
		}
	}

	/*
	 * dma_map_phys() warns of what is out of reach. Mapped it has the same address,
	 * see devmem_dma_probe().
	 */
	if (!devmem_edu_reaches(edu, phys, len))
		return -EOPNOTSUPP;
	addr = dma_map_phys(dma, phys, len, dir, attrs);
	if (dma_mapping_error(dma, addr))
		return -EOPNOTSUPP;
	err = devmem_edu_run(edu, addr, len, write);
	dma_unmap_phys(dma, addr, len, dir, attrs);
	return err;
}

/**
 * devmem_edu_copy() - have the DMA engine of a card copy
 * @card: function 0
 * @dst: where to
 * @src: where from
 * @len: in bytes
 *
 * Context: May sleep. The caller keeps the places, and checks afterwards that their
 *	    devices are still there.
 * Return: 0; -EOPNOTSUPP if there is no engine, or it can't, or not any more: then what
 *	   is in @dst is undefined.
 */
int devmem_edu_copy(struct pci_dev *card, const struct devmem_place *dst,
		    const struct devmem_place *src, size_t len)
{
	struct devmem_place from = *src, to = *dst;
	struct devmem_edu *edu;
	size_t step;
	int err = 0;

	guard(mutex)(&devmem_edu_lock);
	edu = devmem_edu_find(card);
	if (!edu)
		return -EOPNOTSUPP;
	for (; len && !err; len -= step) {
		step = min(len, EDU_MAX);
		err = devmem_edu_move(edu, &from, step, false) ?:
		      devmem_edu_move(edu, &to, step, true);
		from.offset += step;
		to.offset += step;
	}
	return err;
}

/**
 * devmem_edu_try() - find out what the DMA engine of a card can reach
 * @card: function 0, bound and with no memory in use
 * @mem: where the CPU sees the card's memory
 * @bar: which BAR that is
 *
 * If it reads from the end of that what is there, it can be given all addresses of as
 * many bits.
 *
 * Context: May sleep.
 * Return: -EPROBE_DEFER if there is an engine that is not ready, else 0.
 */
int devmem_edu_try(struct pci_dev *card, void __iomem *mem, int bar)
{
	size_t last = pci_resource_len(card, bar) - EDU_MAX;
	u64 addr = pci_bus_address(card, bar) + last;
	struct devmem_place to = {};
	struct devmem_edu *edu;
	struct pci_dev *pdev;
	bool ready;
	u64 old;
	u8 *at;

	pdev = pci_get_slot(card->bus, PCI_DEVFN(PCI_SLOT(card->devfn), 1));
	/* If it has no driver it will have ours soon. */
	ready = !pdev || pdev->vendor != EDU_VENDOR || pdev->device != EDU_DEVICE ||
		device_is_bound(&pdev->dev);
	pci_dev_put(pdev);
	if (!ready)
		return -EPROBE_DEFER;

	/* Written to only where the engine can reach in any case. */
	to.page = alloc_page(GFP_KERNEL | GFP_DMA | __GFP_ZERO);
	if (!to.page)
		return 0;

	guard(mutex)(&devmem_edu_lock);
	edu = devmem_edu_find(card);
	if (!edu || page_to_phys(to.page) >> EDU_BITS)
		goto out_free;
	at = page_address(to.page);
	memset(at + EDU_MAX, 0x5a, EDU_MAX);
	memcpy_toio(mem + last, at + EDU_MAX, EDU_MAX);

	old = edu->end;
	edu->end = DMA_BIT_MASK(fls64(addr + EDU_MAX - 1));
	if (devmem_edu_run(edu, addr, EDU_MAX, false) ||
	    devmem_edu_move(edu, &to, EDU_MAX, true) ||
	    memcmp(at, at + EDU_MAX, EDU_MAX) ||
	    dma_set_mask_and_coherent(&edu->pdev->dev, edu->end)) {
		edu->end = old;
	}
out_free:
	if (edu && edu->works)
		pci_info(edu->pdev, "reaches addresses of %u bits\n", fls64(edu->end));
	__free_page(to.page);
	return 0;
}

static int devmem_edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct devmem_edu *edu;
	int err;

	/* Others are no engines of cards. */
	if (PCI_FUNC(pdev->devfn) != 1)
		return -ENODEV;
	edu = devm_kzalloc(&pdev->dev, sizeof(*edu), GFP_KERNEL);
	if (!edu)
		return -ENOMEM;
	edu->pdev = pdev;
	edu->works = true;

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	edu->regs = pcim_iomap_region(pdev, EDU_BAR, "drm_devmem");
	if (IS_ERR(edu->regs))
		return PTR_ERR(edu->regs);
	/* Else it is of no use until it has been tried. */
	if (!dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(EDU_BITS)))
		edu->end = DMA_BIT_MASK(EDU_BITS);
	pci_set_master(pdev);
	/* What it is to be like after a reset. */
	pci_save_state(pdev);

	pci_set_drvdata(pdev, edu);
	guard(mutex)(&devmem_edu_lock);
	list_add(&edu->link, &devmem_edus);
	return 0;
}

static void devmem_edu_remove(struct pci_dev *pdev)
{
	struct devmem_edu *edu = pci_get_drvdata(pdev);

	scoped_guard(mutex, &devmem_edu_lock)
		list_del(&edu->link);
	pci_clear_master(pdev);
}

/* What it was asked for when it was reset has failed. */
static pci_ers_result_t devmem_edu_error(struct pci_dev *pdev, pci_channel_state_t state)
{
	if (state == pci_channel_io_normal)
		return PCI_ERS_RESULT_CAN_RECOVER;
	return state == pci_channel_io_frozen ? PCI_ERS_RESULT_NEED_RESET :
	       PCI_ERS_RESULT_DISCONNECT;
}

static pci_ers_result_t devmem_edu_reset(struct pci_dev *pdev)
{
	struct devmem_edu *edu = pci_get_drvdata(pdev);

	guard(mutex)(&devmem_edu_lock);
	pci_restore_state(pdev);
	/* It was cleared if a transfer went wrong, and that may have been saved. */
	pci_set_master(pdev);
	edu->works = true;
	return PCI_ERS_RESULT_RECOVERED;
}

static void devmem_edu_reset_done(struct pci_dev *pdev)
{
	devmem_edu_reset(pdev);
}

static const struct pci_error_handlers devmem_edu_errors = {
	.error_detected = devmem_edu_error,
	.slot_reset = devmem_edu_reset,
	.reset_done = devmem_edu_reset_done,
};

static const struct pci_device_id devmem_edu_ids[] = {
	{ PCI_DEVICE(EDU_VENDOR, EDU_DEVICE) },
	{ }
};

static struct pci_driver devmem_edu_driver = {
	.name = "drm_devmem_dma",
	.id_table = devmem_edu_ids,
	.probe = devmem_edu_probe,
	.remove = devmem_edu_remove,
	.err_handler = &devmem_edu_errors,
};

int devmem_edu_init(void)
{
	/* It is taken with a lock that mmu notifiers take. */
	if (IS_ENABLED(CONFIG_LOCKDEP)) {
		fs_reclaim_acquire(GFP_KERNEL);
		might_lock(&devmem_edu_lock);
		fs_reclaim_release(GFP_KERNEL);
	}
	return pci_register_driver(&devmem_edu_driver);
}

void devmem_edu_exit(void)
{
	pci_unregister_driver(&devmem_edu_driver);
}
