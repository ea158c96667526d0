// SPDX-License-Identifier: GPL-2.0
/*
 * Cards of drm_devmem that come and go while they are used; see devmem_card.h.
 *
 * The machine needs slots with hot-plug, and $DEVMEM_HOST must name the terminal of the host
 * that plugs cards. The program reads from sysfs which kind of slots these are, and how
 * much room they have. $DEVMEM_TOGETHER is 1 if cards in two of the slots reach each other's
 * memory, and 0 if they do not.
 *
 * devmem_hotplug_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_hotplug_all runs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "devmem_harness.h"
#include "devmem_card.h"

#define NR_CARDS	2
#define NR_SLOTS	3

#define PART		(DM_HUGE / BLOCK)

static struct card cards[NR_CARDS] = {
	{ .port = "p0", .name = "c0", .mib = 64, .dev.fd = -1 },
	{ .port = "p1", .name = "c1", .mib = 32, .dev.fd = -1 },
};

/* A card with a DMA engine. */
static struct card edu = { .port = "p2", .name = "c2", .mib = 16, .dev.fd = -1 };

/* --- the machine --- */

static struct {
	/* Slots that the PCIe driver handles, and slots that ACPI handles. */
	unsigned int native, acpi;
	/* A PCIe slot is below a switch. */
	bool switched;
	/* Size of the smallest window for prefetchable memory, in bytes. */
	unsigned long long room;
} slots;

/* Behind the BARs and the ROM. */
#define PCI_FIRST_WINDOW	7
/* Of <linux/ioport.h>. */
#define PREFETCHABLE_MEM	0x2200

/* The size of a bridge's window for prefetchable memory. */
static unsigned long long bridge_room(const char *bridge)
{
	unsigned long long start, end, flags, room = 0;
	FILE *file = NULL;
	char *path;
	int line;

	if (asprintf(&path, "%s/resource", bridge) > 0) {
		file = fopen(path, "r");
		free(path);
	}
	if (!file)
		return 0;
	for (line = 0; fscanf(file, "%llx %llx %llx", &start, &end, &flags) == 3; line++)
		if (line >= PCI_FIRST_WINDOW && end > start &&
		    (flags & PREFETCHABLE_MEM) == PREFETCHABLE_MEM)
			room = end - start + 1;
	fclose(file);
	return room;
}

static void slots_find(void)
{
	static const char * const dirs[] = {
		"/sys/bus/pci_express/drivers/pciehp", SYS_PCI "slots",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		DIR *dir = opendir(dirs[i]);
		struct dirent *entry;

		while (dir && (entry = readdir(dir))) {
			char path[512], real[PATH_MAX], *at;
			unsigned long long room;

			if (entry->d_name[0] == '.')
				continue;
			slots.acpi += i;
			if (i || entry->d_type != DT_LNK)
				continue;
			/* A service of its port, such as .../0000:00:10.0/0000:00:10.0:pcie004. */
			snprintf(path, sizeof(path), "%s/%s", dirs[i], entry->d_name);
			at = realpath(path, real) ? strrchr(real, '/') : NULL;
			if (!at || !strstr(at, ":pcie"))
				continue;
			*at = 0;
			room = bridge_room(real);
			if (!slots.native || room < slots.room)
				slots.room = room;
			slots.native++;
			/* In pci0000:00/0000:00:10.0, anything below the root port is a switch. */
			at = strstr(real, "/pci");
			at = at ? strchr(at + 1, '/') : NULL;
			slots.switched |= at && strchr(at + 1, '/');
		}
		if (dir)
			closedir(dir);
	}
	/* SYS_PCI slots also lists those of the PCIe driver. */
	slots.acpi -= slots.acpi < slots.native ? slots.acpi : slots.native;
}

static unsigned int nr_slots(void)
{
	return slots.native ?: slots.acpi;
}

static bool cards_apart(void)
{
	const char *together = getenv("DEVMEM_TOGETHER");

	return together && !atoi(together);
}

/* Tests that do not depend on the topology run on another machine. */
static bool other_topology(void)
{
	return slots.switched || cards_apart();
}

static bool coherent_cards(void)
{
	return dm_coherent("coherent_cards");
}

static bool acpi_slots(void)
{
	return !slots.native;
}

/* --- ways --- */

static bool is_module(void)
{
	return !access("/sys/module/drm_devmem/initstate", F_OK);
}

/* rmmod: 0, or -EAGAIN while the module is in use. */
static int unload_driver(void)
{
	return syscall(SYS_delete_module, "drm_devmem", O_NONBLOCK) ? -errno : 0;
}

static bool cards_go(enum way way, bool unload)
{
	if (!unload)
		return card_go(&cards[0], way);
	/* While a card is bound, or open, the module is in use. */
	return unload_driver() == -EAGAIN && card_go(&cards[0], UNBIND) &&
	       card_go(&cards[1], UNBIND);
}

static bool cards_back(enum way way, bool unload)
{
	const char *load = coherent_cards() ?
		"modprobe drm_devmem cards=1 coherent_cards=1" : "modprobe drm_devmem cards=1";

	if (!unload)
		return card_back(&cards[0], way);
	/* A work item frees the memory that pins the module. */
	if (!dm_soon(unload_driver() != -EAGAIN))
		return false;
	return !system(load) && card_use(&cards[0]) && card_use(&cards[1]);
}

/* Rounds of the load before the card goes. */
#define LOAD_ROUNDS	(DM_ALL ? 12 : 3)

/*
 * Both cards read some blocks. An error is right if the card is gone, or if pages can be
 * lost.
 */
static bool load_sums(const struct dm_area *area, const int *fds, size_t b, size_t nr,
		      bool lossy)
{
	int i, err;
	__u64 sum;

	for (i = 0; i < NR_CARDS; i++) {
		err = dm_checksum(fds[i], dm_block(area, b), nr * BLOCK, &sum);
		if (!err && sum != dm_area_sum(area, b, nr))
			return false;
		if (err && err != -ENODEV && err != -EBUSY &&
		    !(lossy && (err == -EFAULT || err == -EIO)))
			return false;
	}
	return true;
}

/*
 * A process that uses both cards all the time, and checks everything that it reads, until
 * @stop is set. It may lose pages only if @lossy. It counts its rounds in @rounds, from the
 * first time that it has pages on the first card.
 */
static int load_main(struct card *c, const bool *stop, unsigned int *rounds, bool lossy)
{
	bool moved = false;
	struct dm_area area;
	unsigned long round;
	size_t half, p;
	int fds[NR_CARDS], i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = 0; i < NR_CARDS; i++) {
		fds[i] = dm_open(c[i].dev.minor);
		if (fds[i] < 0)
			return 2;
	}
	if (dm_area_init(&area, 2 * DM_HUGE, BLOCK, getpid() & 1))
		return 3;
	half = area.nr / 2;
	area_fill(&area, -1, 0, area.nr, getpid());

	for (round = 0; !__atomic_load_n(stop, __ATOMIC_ACQUIRE); round++) {
		size_t b = round % 2 * half, card = round / 2 % NR_CARDS;

		/* This fails while the card is gone. */
		if (dm_migrate(fds[card], dm_block(&area, b), half * BLOCK,
			       DEVMEM_MIGRATE_TO_DEVICE) > 0 && !card)
			moved = true;
		if (!load_sums(&area, fds, b, half, lossy))
			return 4;
		for (p = b * BLOCK / DM_PAGE; p < (b + half) * BLOCK / DM_PAGE; p += 61) {
			int ret = page_look(&area, p);

			if (ret < 0 || (ret && !lossy))
				return 6;
		}
		/* Replace lost memory, or soon all of it would be lost. */
		if (lossy && pages_lost(&area, b, half)) {
			madvise(dm_block(&area, b), half * BLOCK, MADV_DONTNEED);
			area_fill(&area, -1, b, half, round);
		}
		if (moved)
			__atomic_fetch_add(rounds, 1, __ATOMIC_RELEASE);
	}
	i = pages_lost(&area, 0, area.nr);
	return i < 0 || (i && !lossy) ? 7 : 0;
}

/* --- tests --- */

FIXTURE(cards)
{
	struct dm_area area;
	bool *stop;
	unsigned int *rounds;
	pid_t load[2];
};

FIXTURE_VARIANT(cards)
{
	enum way way;
	bool lost, unload;
};

FIXTURE_VARIANT_ADD(cards, unbind) { .way = UNBIND };
FIXTURE_VARIANT_ADD(cards, remove) { .way = REMOVE };
FIXTURE_VARIANT_ADD(cards, power_off) { .way = POWER };
FIXTURE_VARIANT_ADD(cards, device_del) { .way = BUTTON };
FIXTURE_VARIANT_ADD(cards, reset) { .way = RESET };
FIXTURE_VARIANT_ADD(cards, unload) { .unload = true };
FIXTURE_VARIANT_ADD(cards, torn_out) { .way = TEAR, .lost = true };
FIXTURE_VARIANT_ADD(cards, dead) { .way = DIE, .lost = true };
FIXTURE_VARIANT_ADD(cards, error) { .way = ERROR, .lost = true };

/* Wait until all cards are there, and open their devices. */
static bool cards_use(void)
{
	int i;

	bus_watch();
	for (i = 0; i < NR_CARDS; i++)
		if (!(card_find(&cards[i]) ? card_use(&cards[i]) : card_plug(&cards[i], "")))
			return false;
	return true;
}

FIXTURE_SETUP(cards)
{
	int i;

	if (nr_slots() < NR_SLOTS)
		SKIP(return, "the machine has %u slots, this test needs %u", nr_slots(), NR_SLOTS);
	if (variant->lost && acpi_slots())
		SKIP(return, "a card cannot be torn out of an ACPI slot");
	if (variant->unload && !is_module())
		SKIP(return, "drm_devmem is built in");
	ASSERT_TRUE(cards_use());
	self->stop = mmap(NULL, DM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			  -1, 0);
	ASSERT_NE(MAP_FAILED, self->stop);
	self->rounds = (unsigned int *)self->stop + 1;

	/* A part for each card, and one in system memory. */
	ASSERT_EQ(0, dm_area_init(&self->area, 3 * DM_HUGE, BLOCK, true));
	ASSERT_TRUE(area_fill(&self->area, -1, 0, self->area.nr, 1));
	for (i = 0; i < NR_CARDS; i++)
		ASSERT_TRUE(area_move(&self->area, cards[i].dev.fd, i * PART, PART));
}

FIXTURE_TEARDOWN(cards)
{
	int i;

	for (i = 0; i < NR_CARDS; i++)
		card_close(&cards[i]);
}

/* All pages of the first card are lost, or none. Nothing else is lost. */
static void look(struct __test_metadata *_metadata, const struct dm_area *area, bool lost)
{
	EXPECT_EQ(lost ? (long)(DM_HUGE / DM_PAGE) : 0, pages_lost(area, 0, PART));
	EXPECT_EQ(0, pages_lost(area, PART, 2 * PART));
}

/*
 * The CPU can read coherent memory of a dead card. The driver does not notice that the card is
 * dead before a device uses it. When this returns, the pages are lost.
 */
static bool card_noticed(struct card *c, const struct dm_area *area)
{
	struct devmem_info info;
	__u64 sum;

	if (!coherent_cards())
		return true;
	if (!dm_soon((dm_checksum(c->dev.fd, area->mem, DM_PAGE, &sum),
		      dm_info(c->dev.fd, &info) == -ENODEV)))
		return false;
	/* The removal, which has begun, poisons the pages. */
	return dm_soon(pages_lost(area, 0, PART) == (long)(DM_HUGE / DM_PAGE));
}

/* The card of a process that has pages there, and open files, goes. */
TEST_F(cards, goes)
{
	struct devmem_hold hold = { .addr = (unsigned long)self->area.mem, .ms = 1 };
	struct card *c = &cards[0];
	struct devmem_info info;
	struct devmem_stats stats;
	__u32 pages[1];
	__u64 sum;

	/* The module cannot be unloaded while a file is open. */
	if (variant->unload)
		card_close(&cards[1]);
	ASSERT_TRUE(cards_go(variant->way, variant->unload));
	/* The driver finds a card dead when it is used. */
	if (variant->lost)
		ASSERT_TRUE(card_noticed(c, &self->area));
	look(_metadata, &self->area, variant->lost);
	ASSERT_TRUE(card_wait(c, way_is_back(variant->way)));

	EXPECT_EQ(-ENODEV, dm_info(c->dev.fd, &info));
	EXPECT_EQ(-ENODEV, dm_stats(c->dev.fd, &stats));
	EXPECT_EQ(-ENODEV, dm_checksum(c->dev.fd, self->area.mem, DM_PAGE, &sum));
	EXPECT_EQ(-ENODEV, dm_migrate(c->dev.fd, self->area.mem, DM_PAGE,
				      DEVMEM_MIGRATE_TO_DEVICE));
	EXPECT_EQ(-ENODEV, dm_query(c->dev.fd, self->area.mem, DM_PAGE, pages));
	EXPECT_EQ(-ENODEV, dm_ioctl(c->dev.fd, DRM_IOCTL_DEVMEM_HOLD, &hold));
	if (!variant->unload) {
		EXPECT_TRUE(area_sum_right(&self->area, cards[1].dev.fd, PART, 2 * PART));
		EXPECT_EQ(variant->lost ? -EFAULT : 0,
			  dm_checksum(cards[1].dev.fd, self->area.mem, DM_PAGE, &sum));
	}
	card_close(c);

	/* It comes back, and the same process uses it. */
	ASSERT_TRUE(cards_back(variant->way, variant->unload));
	look(_metadata, &self->area, variant->lost);
	if (variant->lost)
		ASSERT_EQ(0, madvise(self->area.mem, DM_HUGE, MADV_DONTNEED));
	ASSERT_TRUE(area_fill(&self->area, -1, 0, PART, 2));
	ASSERT_TRUE(area_move(&self->area, c->dev.fd, 0, PART));
	EXPECT_TRUE(area_sum_right(&self->area, c->dev.fd, 0, PART));
	ASSERT_TRUE(area_fill(&self->area, c->dev.fd, 0, PART, 3));
	look(_metadata, &self->area, false);
}

/* Wait until each process has done @nr more rounds; false if one does not. */
static bool load_goes_on(const unsigned int *rounds, unsigned int nr)
{
	unsigned int was[2] = {
		__atomic_load_n(&rounds[0], __ATOMIC_ACQUIRE),
		__atomic_load_n(&rounds[1], __ATOMIC_ACQUIRE),
	};

	return dm_soon(__atomic_load_n(&rounds[0], __ATOMIC_ACQUIRE) >= was[0] + nr &&
		       __atomic_load_n(&rounds[1], __ATOMIC_ACQUIRE) >= was[1] + nr);
}

TEST_F(cards, goes_under_load)
{
	struct card *c = &cards[0];
	int i, status;

	if (variant->lost && coherent_cards())
		SKIP(return, "the CPU reads wrong data of a dead card without an error");
	for (i = 0; i < 2; i++) {
		self->load[i] = fork();
		ASSERT_GE(self->load[i], 0);
		if (!self->load[i])
			_exit(load_main(cards, self->stop, &self->rounds[i], variant->lost));
	}
	ASSERT_TRUE(load_goes_on(self->rounds, LOAD_ROUNDS));
	if (variant->unload)
		for (i = 0; i < NR_CARDS; i++)
			card_close(&cards[i]);
	ASSERT_TRUE(cards_go(variant->way, variant->unload));
	EXPECT_TRUE(card_wait(c, way_is_back(variant->way)));
	look(_metadata, &self->area, variant->lost);
	/* The processes go on without the card. */
	EXPECT_TRUE(load_goes_on(self->rounds, 1));

	__atomic_store_n(self->stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(self->load[i], waitpid(self->load[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	card_close(c);
	ASSERT_TRUE(cards_back(variant->way, variant->unload));
	EXPECT_TRUE(area_sum_right(&self->area, cards[1].dev.fd, PART, 2 * PART));
}

/* The last file is closed long after the card has gone. */
TEST_F(cards, is_closed_late)
{
	struct card *c = &cards[0];
	int fd, status;
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		__u64 sum;

		fd = dm_open(c->dev.minor);
		_exit(fd < 0 || dm_checksum(fd, self->area.mem, DM_PAGE, &sum) ? 1 :
		      (raise(SIGSTOP), close(fd) ? 2 : 0));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	ASSERT_TRUE(cards_go(variant->way, variant->unload));
	if (variant->lost)
		ASSERT_TRUE(card_noticed(c, &self->area));
	look(_metadata, &self->area, variant->lost);
	card_close(c);
	ASSERT_TRUE(card_wait(c, way_is_back(variant->way)));
	/* The module stays as long as there are open files. */
	if (variant->unload) {
		card_close(&cards[1]);
		EXPECT_EQ(-EAGAIN, unload_driver());
	} else {
		ASSERT_TRUE(cards_back(variant->way, false));
	}
	ASSERT_EQ(0, kill(pid, SIGCONT));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	if (variant->unload)
		ASSERT_TRUE(cards_back(variant->way, true));
	EXPECT_TRUE(area_move(&self->area, c->dev.fd, 2 * PART, PART));
	EXPECT_EQ(0, pages_lost(&self->area, PART, 2 * PART));
}

/* Tests without variants. */
FIXTURE(slots) { };

FIXTURE_SETUP(slots)
{
	bus_watch();
}

FIXTURE_TEARDOWN(slots)
{
}

/* Which cards reach each other's memory follows from PCI: see $DEVMEM_TOGETHER. */
TEST_F(slots, clusters)
{
	struct devmem_link link = { .up = 1 };
	const char *want = getenv("DEVMEM_TOGETHER");
	struct dm_area area;
	struct dm_where where;
	bool together;
	int ctl;

	if (!want)
		SKIP(return, "$DEVMEM_TOGETHER is not set");
	if (nr_slots() < NR_CARDS)
		SKIP(return, "the machine has %u slots, this test needs %u", nr_slots(), NR_CARDS);
	together = atoi(want);
	ASSERT_TRUE(cards_use());
	EXPECT_EQ(together, same_owner(&cards[0], &cards[1]));

	ASSERT_EQ(0, dm_area_init(&area, DM_HUGE, BLOCK, true));
	ASSERT_TRUE(area_fill(&area, -1, 0, PART, 1));
	ASSERT_TRUE(area_move(&area, cards[0].dev.fd, 0, PART));
	EXPECT_TRUE(area_sum_right(&area, cards[1].dev.fd, 0, PART));
	ASSERT_EQ(0, dm_where(cards[0].dev.fd, area.mem, area.len, &where));
	EXPECT_EQ(together ? DM_HUGE / DM_PAGE : 0, where.device[cards[0].dev.id]);

	/* There is a link where there can be one, and only there. */
	ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	ASSERT_GE(ctl, 0);
	link.a = cards[0].dev.id;
	link.b = cards[1].dev.id;
	EXPECT_EQ(together ? 0 : -EOPNOTSUPP, dm_links(ctl, &link, 1, 0, NULL));
	if (together) {
		link.up = 0;
		EXPECT_EQ(0, dm_links(ctl, &link, 1, 0, NULL));
		EXPECT_FALSE(same_owner(&cards[0], &cards[1]));
		EXPECT_EQ(0, pages_lost(&area, 0, PART));
		link.up = 1;
		EXPECT_EQ(0, dm_links(ctl, &link, 1, 0, NULL));
		EXPECT_TRUE(same_owner(&cards[0], &cards[1]));
	}
	/* A card is removed as a card. */
	EXPECT_EQ(-EOPNOTSUPP, dm_destroy(ctl, cards[0].dev.id, DEVMEM_LOST, NULL));
	close(ctl);
}

/* The machine does not go to sleep, because a card would lose its memory. */
TEST_F(slots, suspend)
{
	struct dm_area area;
	char step[16] = "";
	int fd;

	if (nr_slots() < NR_SLOTS)
		SKIP(return, "the machine has %u slots, this test needs %u", nr_slots(), NR_SLOTS);
	ASSERT_TRUE(cards_use());
	ASSERT_EQ(0, dm_area_init(&area, DM_HUGE, BLOCK, true));
	ASSERT_TRUE(area_fill(&area, -1, 0, PART, 1));
	ASSERT_TRUE(area_move(&area, cards[0].dev.fd, 0, PART));

	fd = open("/sys/power/state", O_WRONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-1, write(fd, "freeze", 6));
	EXPECT_EQ(EBUSY, errno);
	close(fd);
	/* Other drivers refuse in a later step. */
	fd = open("/sys/power/suspend_stats/last_failed_step", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_LT(0, read(fd, step, sizeof(step) - 1));
	EXPECT_STREQ("prepare\n", step);
	close(fd);
	EXPECT_TRUE(area_sum_right(&area, cards[0].dev.fd, 0, PART));
	EXPECT_EQ(0, pages_lost(&area, 0, PART));
}

#define REFUSED	"dmesg | grep -q '8 MiB of memory can.*t be used'"

/* From 16 MiB to 16 GiB, without as much memory on the host. */
TEST_F(slots, sizes)
{
	struct card small = { .port = "p2", .name = "c3", .mib = 8, .dev.fd = -1 };
	struct card large = { .port = "p2", .name = "c4", .mib = 16 << 10, .dev.fd = -1 };
	struct dm_area area;
	struct dm_where where;

	if (slots.room < large.mib * DM_MIB)
		SKIP(return, "a slot has room for %llu MiB, this needs %u", slots.room / DM_MIB,
		     large.mib);
	ASSERT_TRUE(host_do("plug %s %s %u", small.port, small.name, small.mib));
	ASSERT_TRUE(dm_soon(!system(REFUSED)));
	EXPECT_FALSE(card_find(&small));
	ASSERT_TRUE(card_go(&small, TEAR));

	ASSERT_TRUE(card_plug(&large, ""));
	ASSERT_EQ(0, dm_area_init(&area, DM_HUGE, BLOCK, true));
	ASSERT_TRUE(area_fill(&area, -1, 0, PART, 1));
	ASSERT_TRUE(area_move(&area, large.dev.fd, 0, PART));
	ASSERT_EQ(0, dm_where(large.dev.fd, area.mem, area.len, &where));
	EXPECT_EQ(DM_HUGE / DM_PAGE, where.device[large.dev.id]);
	EXPECT_TRUE(area_sum_right(&area, large.dev.fd, 0, PART));
	ASSERT_TRUE(card_go(&large, POWER));
	EXPECT_TRUE(card_wait(&large, false));
	EXPECT_EQ(0, pages_lost(&area, 0, PART));
	card_close(&large);
}

/* The DMA engine of a card copies from and to system memory and other cards. */
TEST_F(slots, dma)
{
	struct devmem_stats before, after;
	struct dm_where where;
	struct dm_area area;
	size_t b;

	if (nr_slots() < NR_SLOTS)
		SKIP(return, "the machine has %u slots, this test needs %u", nr_slots(), NR_SLOTS);
	if (cards_apart())
		SKIP(return, "the cards do not reach each other");
	ASSERT_TRUE(cards_use());
	ASSERT_TRUE(card_plug(&edu, "edu"));

	/* One huge page each: on the card, in system memory, on another card. */
	ASSERT_EQ(0, dm_area_init(&area, 3 * DM_HUGE, BLOCK, true));
	ASSERT_TRUE(area_fill(&area, -1, 0, area.nr, 1));
	ASSERT_TRUE(area_move(&area, edu.dev.fd, 0, PART));
	ASSERT_TRUE(area_move(&area, cards[0].dev.fd, 2 * PART, PART));
	ASSERT_EQ(0, dm_stats(edu.dev.fd, &before));
	for (b = 0; b < 3; b++) {
		char *to = dm_block(&area, b * PART);
		char *from = dm_block(&area, (b + 1) % 3 * PART + 1);

		ASSERT_EQ(0, dm_copy(edu.dev.fd, to, from, DM_PAGE));
		/* A part of a page, to another offset. */
		ASSERT_EQ(0, dm_copy(edu.dev.fd, to + DM_PAGE + 512, from + 64, 1024));
	}
	ASSERT_EQ(0, dm_stats(edu.dev.fd, &after));
	EXPECT_EQ(3 * (DM_PAGE + 1024), after.bytes_dma - before.bytes_dma);
	/* In place. The CPU reads it last, because that brings it to system memory. */
	ASSERT_EQ(0, dm_where(edu.dev.fd, area.mem, area.len, &where));
	EXPECT_EQ(DM_HUGE / DM_PAGE, where.device[edu.dev.id]);
	EXPECT_EQ(DM_HUGE / DM_PAGE, where.device[cards[0].dev.id]);
	for (b = 0; b < 3; b++) {
		char *to = dm_block(&area, b * PART);
		char *from = dm_block(&area, (b + 1) % 3 * PART + 1);

		EXPECT_EQ(0, memcmp(to, from, DM_PAGE));
		EXPECT_EQ(0, memcmp(to + DM_PAGE + 512, from + 64, 1024));
	}

	card_close(&edu);
	ASSERT_TRUE(card_go(&edu, POWER));
	EXPECT_TRUE(card_wait(&edu, false));
}

/* An engine with 28 bits cannot reach most of memory, so the CPU copies. */
TEST_F(slots, dma_of_28_bits)
{
	struct dm_area area;

	if (nr_slots() < NR_SLOTS)
		SKIP(return, "the machine has %u slots, this test needs %u", nr_slots(), NR_SLOTS);
	ASSERT_TRUE(card_plug(&edu, "edu 28"));
	ASSERT_EQ(0, dm_area_init(&area, 2 * DM_HUGE, BLOCK, true));
	ASSERT_TRUE(area_fill(&area, -1, 0, area.nr, 1));
	ASSERT_TRUE(area_move(&area, edu.dev.fd, 0, PART));
	ASSERT_EQ(0, dm_copy(edu.dev.fd, area.mem, area.mem + DM_HUGE, DM_PAGE));
	ASSERT_EQ(0, dm_copy(edu.dev.fd, area.mem + DM_HUGE + DM_PAGE, area.mem, DM_PAGE));
	EXPECT_EQ(0, memcmp(area.mem, area.mem + DM_HUGE, DM_PAGE));
	EXPECT_EQ(0, memcmp(area.mem, area.mem + DM_HUGE + DM_PAGE, DM_PAGE));

	card_close(&edu);
	ASSERT_TRUE(card_go(&edu, POWER));
	EXPECT_TRUE(card_wait(&edu, false));
}

/* Copy until the card has gone. What a successful copy wrote is right. */
static int copy_main(const struct dm_area *area)
{
	char *from = dm_block(area, 0), *to = dm_block(area, PART);
	int err;

	for (;;) {
		memset(to, 0, DM_PAGE);
		err = dm_copy(edu.dev.fd, to, from, DM_PAGE);
		if (err)
			return err == -ENODEV ? 0 : -err;
		if (memcmp(to, from, DM_PAGE))
			return 255;
	}
}

static void goes_while_it_copies(struct __test_metadata *_metadata, enum way way)
{
	struct devmem_stats stats;
	struct dm_area area;
	int status;
	pid_t pid;

	if (nr_slots() < NR_SLOTS)
		SKIP(return, "the machine has %u slots, this test needs %u", nr_slots(), NR_SLOTS);
	if (way == TEAR && acpi_slots())
		SKIP(return, "a card cannot be torn out of an ACPI slot");
	ASSERT_TRUE(card_plug(&edu, "edu"));
	ASSERT_EQ(0, dm_area_init(&area, 2 * DM_HUGE, BLOCK, true));
	ASSERT_TRUE(area_fill(&area, -1, 0, area.nr, 1));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(copy_main(&area));
	ASSERT_TRUE(dm_soon(!dm_stats(edu.dev.fd, &stats) && stats.bytes_dma));
	ASSERT_TRUE(card_go(&edu, way));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(card_wait(&edu, false));
	card_close(&edu);
}

TEST_F(slots, removed_while_it_copies)
{
	goes_while_it_copies(_metadata, POWER);
}

TEST_F(slots, torn_out_while_it_copies)
{
	goes_while_it_copies(_metadata, TEAR);
}

/* --- the program --- */

/* Only devmem_hotplug_all runs these: they repeat what other tests show. */
static const struct dm_left left_to_all[] = {
	/* Each of these is an orderly removal, as unbind is. */
	{ "cards.remove.goes_under_load", coherent_cards },
	{ "cards.power_off.goes_under_load", coherent_cards },
	{ "cards.device_del.goes_under_load", coherent_cards },
	/* These do not depend on the topology. */
	{ "cards.*", other_topology },
	{ "slots.[!c]*", other_topology },
	/* These do not depend on the kind of slot. */
	{ "cards.[!dp]*", acpi_slots },
	{ "cards.dead.*", acpi_slots },
	{ "cards.*.is_closed_late", acpi_slots },
	{ "slots.*", acpi_slots },
	{ }
};

static const char *unsuitable(void)
{
	if (!getenv("DEVMEM_HOST"))
		return "no host that plugs cards: $DEVMEM_HOST is not set";
	/* Another program has loaded it: this one needs another parameter. */
	if (!access("/sys/module/drm_devmem", F_OK) && access(DRIVER, F_OK))
		dm_modprobe("-r", NULL);
	if (!access("/sys/module/drm_devmem", F_OK) && access(DRIVER, F_OK))
		return "drm_devmem is loaded without cards=1, and in use";
	slots_find();
	return nr_slots() ? NULL : "the machine has no slots with hot-plug";
}

static void machine(void)
{
	const char *together = getenv("DEVMEM_TOGETHER");

	ksft_print_msg("cards: %s; slots: %u of %s%s, room for %llu MiB; together: %s\n",
		       coherent_cards() ? "coherent" : "private", nr_slots(),
		       acpi_slots() ? "ACPI" : "PCIe", slots.switched ? " at a switch" : "",
		       slots.room / DM_MIB, !together ? "unknown" : atoi(together) ? "yes" : "no");
}

int main(int argc, char **argv)
{
	const struct dm_program program = {
		.unsuitable = unsuitable,
		.args = "cards=1",
		.machine = machine,
		.left = left_to_all,
	};

	return dm_main(argc, argv, &program);
}
