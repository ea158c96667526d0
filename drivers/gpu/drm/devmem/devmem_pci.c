// SPDX-License-Identifier: GPL-2.0
/*
 * The PCI backend: a card of QEMU, whose memory is a BAR.
 *
 * Function 0 is an ivshmem-plain device, BAR 2 is the memory. If there is an edu
 * device as function 1, it is the card's DMA engine, see devmem_edu.c; else the CPU
 * copies.
 *
 * The first register of ivshmem, the interrupt mask, is of no use without interrupts,
 * and holds a magic value. It reads back differently once the card is lost, or was
 * reset, or does not decode its BARs: then data read before that is invalid.
 *
 *	reading memory				card
 *	--------------				----
 *	read the BAR
 *						is lost
 *	read the BAR: ones, or zeroes
 *	read the register: not the magic value
 *	throw away what was read
 *
 * With the parameter coherent_cards the memory is coherent: the CPU maps it like system
 * memory, and so do processes. What they read is not checked.
 */
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pci-p2pdma.h>
#include <linux/slab.h>

#include <drm/drm_drv.h>
#include <drm/drm_print.h>

#include "devmem_drv.h"

#define IVSHMEM_BAR_REGS	0
#define IVSHMEM_BAR_MEM		2
#define IVSHMEM_INTR_MASK	0x0
#define IVSHMEM_OURS		0x646d656dU

#define DEVMEM_CARD_CHUNK	SZ_64M
#define DEVMEM_CARD_MIN		SZ_16M
#define DEVMEM_CARD_MAX		SZ_16G

/*
 * How long an orderly removal waits for pages that are in use, and one by force. PCI's locks
 * are held meanwhile. Each page is moved at least once in any case, if the card is there.
 */
#define DEVMEM_CARD_TIMEOUT	(5 * HZ)
#define DEVMEM_CARD_FORCE	(HZ / 2)

static bool cards;
module_param(cards, bool, 0444);
MODULE_PARM_DESC(cards,
		 "whether to use ivshmem-plain devices, which have other uses too (default: no)");

static bool coherent_cards;
module_param(coherent_cards, bool, 0444);
MODULE_PARM_DESC(coherent_cards,
		 "whether memory of PCI cards is coherent; their BAR has to be cacheable");

/**
 * struct devmem_card - a card, as long as the driver is bound to it
 * @pdev: function 0
 * @regs: its registers
 * @mem: its memory
 * @bar: the same if it is coherent, or NULL. The virtual GPU frees both then: pages of it
 *	may be referred to when the driver is unbound
 * @provider: the same for the DMA of other devices; NULL if there can't be any
 * @dev: the virtual GPU, with a reference; NULL when it has been removed. Used by what has
 *	the device lock, and has disabled @loss; and by that
 * @loss: removes it when the card is found to be gone
 * @watched: @loss is enabled. Protected by the device lock
 */
struct devmem_card {
	struct pci_dev *pdev;
	void __iomem *regs;
	void __iomem *mem;
	struct resource *bar;
	struct p2pdma_provider *provider;
	struct devmem_device *dev;
	struct work_struct loss;
	bool watched;
};

/* --- memory --- */

static void __iomem *devmem_pci_at(struct devmem_device *dev, u64 offset)
{
	struct devmem_card *card = dev->priv;

	return card->mem + offset;
}

static void devmem_pci_read(struct devmem_device *dev, u64 offset, void *buf,
			    size_t len)
{
	memcpy_fromio(buf, devmem_pci_at(dev, offset), len);
}

static void devmem_pci_write(struct devmem_device *dev, u64 offset,
			     const void *buf, size_t len)
{
	memcpy_toio(devmem_pci_at(dev, offset), buf, len);
}

static void devmem_pci_clear(struct devmem_device *dev, u64 offset, size_t len)
{
	memset_io(devmem_pci_at(dev, offset), 0, len);
}

/* The engines of all devices are CPUs when it comes to this. */
static u64 devmem_pci_atomic_add(struct devmem_device *dev, u64 offset, u64 value)
{
	static DEFINE_SPINLOCK(lock);
	void __iomem *at = devmem_pci_at(dev, offset);
	struct devmem_card *card = dev->priv;
	u64 old;

	/* Processes can do the same there at the same time. */
	if (card->bar)
		return atomic64_fetch_add(value, (atomic64_t __force *)at);

	guard(spinlock)(&lock);
	old = readq(at);
	writeq(old + value, at);
	/* The lock does not order writes that are combined. */
	wmb();
	return old;
}

static bool devmem_pci_alive(struct devmem_device *dev)
{
	struct devmem_card *card = dev->priv;

	if (readl(card->regs + IVSHMEM_INTR_MASK) == IVSHMEM_OURS)
		return true;

	/* First, so that whatever fails for it is known to be for good. */
	pgmap_peer_set_lost(&dev->peer);
	schedule_work(&card->loss);
	return false;
}

/* --- the DMA engine --- */

/* Whose memory a place is in, for the DMA of others, and where the CPU sees it. */
struct p2pdma_provider *devmem_pci_provider(const struct devmem_place *place,
					    phys_addr_t *phys)
{
	struct devmem_card *card = place->dev->priv;

	*phys = pci_resource_start(card->pdev, IVSHMEM_BAR_MEM) + place->offset;
	return card->provider;
}

static int devmem_pci_dma(struct devmem_device *dev, const struct devmem_place *dst,
			  const struct devmem_place *src, size_t len)
{
	struct devmem_card *card = dev->priv;

	/* In a cluster of cards there are no others. */
	return devmem_edu_copy(card->pdev, dst, src, len);
}

static void devmem_bar_unmap(struct resource *bar, void *at)
{
	if (!bar)
		return;
	memunmap(at);
	release_resource(bar);
	kfree(bar);
}

/* The card may be gone by now, but not its struct device. */
static void devmem_pci_end(struct devmem_device *dev)
{
	devmem_bar_unmap(dev->peer.mem, dev->at);
}

static const struct devmem_backend_ops devmem_pci_ops = {
	.end = devmem_pci_end,
	.alive = devmem_pci_alive,
	.dma = devmem_pci_dma,
	.read = devmem_pci_read,
	.write = devmem_pci_write,
	.clear = devmem_pci_clear,
	.atomic_add = devmem_pci_atomic_add,
};

/* --- coming and going --- */

/*
 * Map the memory. What coherent pages will be made of is mapped cacheable, as they are. It
 * is not managed by devres, because a page that is pinned when the card is removed outlives
 * the binding. As long as its struct page exists, memremap_pages() refuses the same addresses
 * for another card.
 */
static int devmem_card_map(struct devmem_card *card)
{
	struct device *dev = &card->pdev->dev;
	resource_size_t start = pci_resource_start(card->pdev, IVSHMEM_BAR_MEM);
	resource_size_t size = pci_resource_len(card->pdev, IVSHMEM_BAR_MEM);
	struct resource *bar;
	void *mem;
	int err;

	if (card->mem)
		return 0;
	if (!coherent_cards) {
		if (!devm_request_mem_region(dev, start, size, "drm_devmem"))
			return -EBUSY;
		card->mem = devm_ioremap_wc(dev, start, size);
		return card->mem ? 0 : -ENOMEM;
	}

	bar = kzalloc_obj(*bar);
	if (!bar)
		return -ENOMEM;
	*bar = DEFINE_RES_NAMED(start, size, "drm_devmem", IORESOURCE_MEM | IORESOURCE_BUSY);
	err = request_resource(&card->pdev->resource[IVSHMEM_BAR_MEM], bar);
	if (err)
		goto err_free;
	mem = memremap(start, size, MEMREMAP_WB);
	if (!mem) {
		err = -ENOMEM;
		goto err_release;
	}
	card->bar = bar;
	card->mem = (void __iomem __force *)mem;
	return 0;

err_release:
	release_resource(bar);
err_free:
	kfree(bar);
	return err;
}

/* Coherent memory is no longer that of the card's driver. */
static void devmem_card_forget(struct devmem_card *card)
{
	if (card->bar)
		card->mem = NULL;
	card->bar = NULL;
}

static void devmem_card_unmap(struct devmem_card *card)
{
	devmem_bar_unmap(card->bar, (void __force *)card->mem);
	devmem_card_forget(card);
}

static int devmem_card_add(struct devmem_card *card)
{
	u64 size = pci_resource_len(card->pdev, IVSHMEM_BAR_MEM);
	struct devmem_config config = {
		.ops = &devmem_pci_ops,
		.priv = card,
		.mem_size = size,
		.chunk_size = min_t(u64, size, DEVMEM_CARD_CHUNK),
	};
	struct devmem_device *dev;
	int err, id;

	writel(IVSHMEM_OURS, card->regs + IVSHMEM_INTR_MASK);
	if (readl(card->regs + IVSHMEM_INTR_MASK) != IVSHMEM_OURS)
		return -ENODEV;

	/* After a reset. -EBUSY: pages of before are in use. */
	err = devmem_card_map(card);
	if (err)
		return err;
	id = devmem_id_get();
	if (id < 0)
		return id;
	config.id = id;
	config.mem = card->bar;
	config.at = card->bar ? (void __force *)card->mem : NULL;
	dev = devmem_device_create(&card->pdev->dev, &config);
	if (IS_ERR(dev)) {
		devmem_id_put(id);
		return PTR_ERR(dev);
	}
	card->dev = dev;
	card->watched = true;
	enable_work(&card->loss);
	/* Found to be gone before that? */
	if (pgmap_peer_is_lost(&dev->peer))
		schedule_work(&card->loss);
	return 0;
}

/* When it returns, only the caller adds or removes the virtual GPU. */
static void devmem_card_unwatch(struct devmem_card *card)
{
	if (card->watched)
		disable_work_sync(&card->loss);
	card->watched = false;
}

/*
 * Take the virtual GPU out of use. What is on it is saved, or lost if the card is. This
 * cannot fail, and waits for pages that are in use for a limited time only. When it returns,
 * no thread accesses the card, with one exception: a reference to a page of coherent memory
 * stays valid, as does its struct page. Data read through it is whatever the addresses give,
 * as the card is removed.
 */
static void devmem_card_remove(struct devmem_card *card, bool lost)
{
	struct devmem_device *dev = card->dev;
	struct pgmap_stats stats = {};
	int err = -EIO;

	if (!dev)
		return;
	if (lost)
		devmem_device_kill(dev);
	else
		err = devmem_device_remove(dev, 0, DEVMEM_CARD_TIMEOUT, &stats);
	if (err)
		err = devmem_device_remove(dev, PGMAP_FORCE, DEVMEM_CARD_FORCE, &stats);
	pci_info(card->pdev, "%s: %llu pages went to system memory, %llu are lost%s\n",
		 lost ? "lost" : "removed", stats.pages_evacuated, stats.pages_poisoned,
		 err ? "; more are in use, and freed later" : "");
	if (err)
		devmem_device_kill(dev);
	devmem_device_quiesce(dev);
	/* Nothing of a user is waited for from here on. */
	if (!err)
		wait_for_completion(&dev->ended);
	devmem_card_forget(card);
	card->dev = NULL;
	drm_dev_put(&dev->drm);
}

static void devmem_card_loss(struct work_struct *work)
{
	struct devmem_card *card = container_of(work, struct devmem_card, loss);

	/* The loss may be that of an earlier virtual GPU of this card. */
	if (card->dev && pgmap_peer_is_lost(&card->dev->peer))
		devmem_card_remove(card, true);
}

static int devmem_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct devmem_card *card;
	u64 size;
	int err;

	card = devm_kzalloc(&pdev->dev, sizeof(*card), GFP_KERNEL);
	if (!card)
		return -ENOMEM;
	card->pdev = pdev;
	INIT_WORK(&card->loss, devmem_card_loss);
	disable_work(&card->loss);

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	/* What it is to be like after a reset. */
	pci_save_state(pdev);

	size = pci_resource_len(pdev, IVSHMEM_BAR_MEM);
	if (size < DEVMEM_CARD_MIN || size > DEVMEM_CARD_MAX || !is_power_of_2(size)) {
		pci_err(pdev, "%llu MiB of memory can't be used\n", size >> 20);
		return -EINVAL;
	}

	card->regs = pcim_iomap_region(pdev, IVSHMEM_BAR_REGS, "drm_devmem");
	if (IS_ERR(card->regs))
		return PTR_ERR(card->regs);
	err = devmem_card_map(card);
	if (err)
		return err;

	err = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (err)
		goto err_unmap;
	/* Without it, the engine can't reach memory of cards. */
	err = pcim_p2pdma_init(pdev);
	if (!err)
		card->provider = pcim_p2pdma_provider(pdev, IVSHMEM_BAR_MEM);
	else if (err != -EOPNOTSUPP)
		goto err_unmap;
	err = devmem_edu_try(pdev, card->mem, IVSHMEM_BAR_MEM);
	if (err)
		goto err_unmap;

	pci_set_drvdata(pdev, card);
	err = devmem_card_add(card);
	if (err)
		goto err_unmap;
	return 0;

err_unmap:
	devmem_card_unmap(card);
	return err;
}

/* In order, if the card is there. */
static void devmem_card_retire(struct devmem_card *card)
{
	devmem_card_unwatch(card);
	devmem_card_remove(card, pci_dev_is_disconnected(card->pdev) ||
			   (card->dev && !devmem_alive(card->dev)));
}

static void devmem_pci_remove(struct pci_dev *pdev)
{
	devmem_card_retire(pci_get_drvdata(pdev));
	devmem_card_unmap(pci_get_drvdata(pdev));
}

/* --- errors --- */

/* What a reset leaves of the memory depends on its kind: none is relied on. */
static pci_ers_result_t devmem_pci_error(struct pci_dev *pdev, pci_channel_state_t state)
{
	struct devmem_card *card = pci_get_drvdata(pdev);

	if (state == pci_channel_io_normal)
		return PCI_ERS_RESULT_CAN_RECOVER;

	devmem_card_unwatch(card);
	devmem_card_remove(card, true);
	return state == pci_channel_io_frozen ? PCI_ERS_RESULT_NEED_RESET :
	       PCI_ERS_RESULT_DISCONNECT;
}

static pci_ers_result_t devmem_pci_slot_reset(struct pci_dev *pdev)
{
	struct devmem_card *card = pci_get_drvdata(pdev);
	int err;

	/* Another function may have wanted a reset that we did not ask for. */
	devmem_card_unwatch(card);
	devmem_card_remove(card, true);
	pci_restore_state(pdev);
	err = devmem_card_add(card);
	if (!err)
		return PCI_ERS_RESULT_RECOVERED;
	pci_err(pdev, "does not come back (%pe)\n", ERR_PTR(err));
	return PCI_ERS_RESULT_DISCONNECT;
}

/* A reset that was asked for: what is on the card can be saved. */
static void devmem_pci_reset_prepare(struct pci_dev *pdev)
{
	devmem_card_retire(pci_get_drvdata(pdev));
}

static void devmem_pci_reset_done(struct pci_dev *pdev)
{
	int err = devmem_card_add(pci_get_drvdata(pdev));

	if (err)
		pci_err(pdev, "does not come back (%pe)\n", ERR_PTR(err));
}

static const struct pci_error_handlers devmem_pci_errors = {
	.error_detected = devmem_pci_error,
	.slot_reset = devmem_pci_slot_reset,
	.reset_prepare = devmem_pci_reset_prepare,
	.reset_done = devmem_pci_reset_done,
};

/* What is in a card does not survive, and there may be no room for it elsewhere. */
static int devmem_pci_suspend(struct device *dev)
{
	return -EBUSY;
}

static const struct dev_pm_ops devmem_pci_pm = {
	.prepare = devmem_pci_suspend,
};

/* No MODULE_DEVICE_TABLE: ivshmem has uses of its own, so the user asks for it. */
static const struct pci_device_id devmem_pci_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1110) },
	{ }
};

static struct pci_driver devmem_pci_driver = {
	.name = "drm_devmem",
	.id_table = devmem_pci_ids,
	.probe = devmem_pci_probe,
	.remove = devmem_pci_remove,
	.err_handler = &devmem_pci_errors,
	.driver.pm = &devmem_pci_pm,
};

int devmem_pci_init(void)
{
	int err;

	if (!cards)
		return 0;
	/* First, or all cards with an engine would have to wait for it. */
	err = devmem_edu_init();
	if (err)
		return err;
	err = pci_register_driver(&devmem_pci_driver);
	if (err)
		devmem_edu_exit();
	return err;
}

void devmem_pci_exit(void)
{
	if (!cards)
		return;
	pci_unregister_driver(&devmem_pci_driver);
	devmem_edu_exit();
}
