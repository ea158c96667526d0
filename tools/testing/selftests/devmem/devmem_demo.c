// SPDX-License-Identifier: GPL-2.0
/*
 * A demonstration of device memory in clusters, with the virtual GPUs of
 * drm_devmem: a process has its memory spread over four GPUs in two clusters,
 * and the interconnect changes under it.
 *
 *	(1) each GPU works on what its neighbour holds, in place
 *	(2) a link goes down: its cluster splits
 *	(3) the link comes back: the two merge
 *	(4) a GPU leaves while the process writes
 *	(5) a GPU joins and is linked
 *
 * After each step a GPU that reaches the memory verifies every byte without moving
 * it. At the end the CPU does.
 *
 *	devmem_demo [-m MiB]
 *
 * The exit status is 0 if everything was right, 1 if not, 4 if there are no virtual
 * GPUs.
 */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <time.h>

#include "../kselftest.h"
#include "devmem_util.h"

#define GPUS		4
#define MIB_DEFAULT	512
#define MIB_MIN		64
#define MIB_STEP	8
/* Memory of a GPU beyond its share. */
#define SLACK		(16 * DM_MIB)
#define BLOCK		(64 * 1024UL)
/* Verified by one command. */
#define SEGMENT		DM_HUGE
/* Memory of a writer of step 4. */
#define STRIPE		(4 * DM_MIB)
#define NOBODY		GPUS

/**
 * struct gpu - one of the GPUs
 * @dev: the device; @fd is -1 if it is not there
 * @owner_id: its cluster
 * @stats: of the device, when it was last looked at
 */
struct gpu {
	struct dm_dev dev;
	__u64 owner_id;
	struct devmem_stats stats;
};

/**
 * struct writer - a thread that goes on writing while a GPU leaves
 * @gpu: by which GPU; NOBODY: by the CPU
 * @first: first block of its stripe
 * @passes: how often it has written all of it
 * @blocks: written in all
 * @longest_ns: longest time that one write took
 */
struct writer {
	pthread_t thread;
	unsigned int gpu;
	size_t first;
	unsigned long passes;
	unsigned long blocks;
	__u64 longest_ns;
	int err;
};

static int ctl = -1;
static struct gpu gpus[GPUS];
static struct dm_area area;
/* Share k of the memory starts with block k * share and is to be on GPU k. */
static size_t share;
static bool stop;
static unsigned int problems;
static __u64 wrong_bytes;
static __u64 copied_by_links;
/* Owners in the order in which they appeared: A, B, C ... */
static __u64 letters[26];

static __printf(1, 2) void problem(const char *format, ...)
{
	va_list args;

	printf("  WRONG: ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	problems++;
}

static void remove_gpus(void)
{
	unsigned int g;
	int err;

	for (g = 0; g < GPUS; g++) {
		if (gpus[g].dev.fd < 0)
			continue;
		err = dm_destroy(ctl, gpus[g].dev.id, 0, NULL);
		if (err)
			problem("GPU %u cannot be removed: %s", g, strerror(-err));
		close(gpus[g].dev.fd);
		gpus[g].dev.fd = -1;
	}
}

/* End the demonstration if a request has failed. */
static void check(int err, const char *what)
{
	if (err >= 0)
		return;
	printf("  WRONG: %s: %s\n", what, strerror(-err));
	remove_gpus();
	exit(1);
}

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* --- what is where --- */

static char letter(__u64 owner_id)
{
	unsigned int i;

	for (i = 0; i < 26; i++) {
		if (!letters[i])
			letters[i] = owner_id;
		if (letters[i] == owner_id)
			return 'A' + i;
	}
	return '?';
}

static void look_at_topology(void)
{
	struct devmem_topology_entry entries[DEVMEM_MAX_DEVICES];
	int nr = dm_topology(ctl, entries, DEVMEM_MAX_DEVICES), i;
	unsigned int g;

	check(nr, "TOPOLOGY");
	for (g = 0; g < GPUS; g++) {
		if (gpus[g].dev.fd < 0)
			continue;
		gpus[g].owner_id = 0;
		for (i = 0; i < nr; i++)
			if (entries[i].id == gpus[g].dev.id)
				gpus[g].owner_id = entries[i].owner_id;
		if (!gpus[g].owner_id)
			problem("GPU %u has no cluster", g);
	}
}

static bool reaches(unsigned int a, unsigned int b)
{
	return gpus[a].dev.fd >= 0 && gpus[b].dev.fd >= 0 &&
	       gpus[a].owner_id == gpus[b].owner_id;
}

static unsigned int any_gpu(void)
{
	unsigned int g;

	for (g = 0; g < GPUS; g++)
		if (gpus[g].dev.fd >= 0)
			break;
	return g;
}

static void look_at_share(unsigned int k, struct dm_where *where)
{
	check(dm_where(gpus[any_gpu()].dev.fd, dm_block(&area, k * share),
		       share * BLOCK, where), "QUERY");
}

/* Which GPU holds all of share @k? NOBODY: system memory. */
static unsigned int holder(unsigned int k, const struct dm_where *where)
{
	unsigned int g;

	if (where->system == share * BLOCK / DM_PAGE)
		return NOBODY;
	for (g = 0; g < GPUS; g++)
		if (gpus[g].dev.fd >= 0 && where->device[gpus[g].dev.id] ==
					   share * BLOCK / DM_PAGE)
			return g;
	problem("share %u is scattered: %lu pages nowhere, %lu in system memory",
		k, where->none, where->system);
	return NOBODY;
}

static void print_pages(unsigned long pages)
{
	if (!pages)
		printf("        .");
	else if (pages % (DM_MIB / DM_PAGE))
		printf(" %8.1f", (double)pages * DM_PAGE / DM_MIB);
	else
		printf(" %8lu", pages * DM_PAGE / DM_MIB);
}

static void print_table(void)
{
	struct dm_where where[GPUS];
	unsigned int g, k;

	printf("  MiB      cluster  reaches  |");
	for (k = 0; k < GPUS; k++) {
		look_at_share(k, &where[k]);
		printf("  share %u", k);
	}
	printf("\n");

	for (g = 0; g < GPUS; g++) {
		if (gpus[g].dev.fd < 0) {
			printf("  GPU %u    -                 |\n", g);
			continue;
		}
		printf("  GPU %u    %c        ", g, letter(gpus[g].owner_id));
		for (k = 0; k < GPUS; k++)
			printf("%c ", reaches(g, k) ? '0' + k : ' ');
		printf(" |");
		for (k = 0; k < GPUS; k++)
			print_pages(where[k].device[gpus[g].dev.id]);
		printf("\n");
	}
	printf("  system                     |");
	for (k = 0; k < GPUS; k++)
		print_pages(where[k].system);
	printf("\n");
}

/* Each share is on its GPU, or in system memory if that GPU is not there. */
static void expect_holders(void)
{
	struct dm_where where;
	unsigned int k, want, found;

	for (k = 0; k < GPUS; k++) {
		look_at_share(k, &where);
		want = gpus[k].dev.fd >= 0 ? k : NOBODY;
		found = holder(k, &where);
		if (found != want)
			problem("share %u is not where it should be", k);
	}
}

/* --- verification --- */

static void remember_stats(void)
{
	unsigned int g;

	for (g = 0; g < GPUS; g++)
		if (gpus[g].dev.fd >= 0)
			check(dm_stats(gpus[g].dev.fd, &gpus[g].stats), "STATS");
}

/* What has happened since remember_stats()? */
static void count_pages(__u64 *mapped_peer, __u64 *migrated)
{
	struct devmem_stats stats;
	unsigned int g;

	*mapped_peer = 0;
	*migrated = 0;
	for (g = 0; g < GPUS; g++) {
		if (gpus[g].dev.fd < 0)
			continue;
		check(dm_stats(gpus[g].dev.fd, &stats), "STATS");
		*mapped_peer += stats.mapped_peer - gpus[g].stats.mapped_peer;
		*migrated += stats.migrated_in - gpus[g].stats.migrated_in;
		*migrated += stats.migrated_out - gpus[g].stats.migrated_out;
	}
}

static void expect_no_violations(void)
{
	struct devmem_stats stats;
	unsigned int g;

	for (g = 0; g < GPUS; g++) {
		if (gpus[g].dev.fd < 0)
			continue;
		check(dm_stats(gpus[g].dev.fd, &stats), "STATS");
		if (stats.violations || stats.link_errors)
			problem("GPU %u used a link that was down: %llu times",
				g, stats.violations + stats.link_errors);
	}
}

static __u64 verify_range(int fd, size_t first, size_t nr)
{
	size_t step = SEGMENT / BLOCK, b, bad;
	__u64 sum, wrong = 0;

	for (b = first; b < first + nr; b += step) {
		check(dm_checksum(fd, dm_block(&area, b), SEGMENT, &sum),
		      "CHECKSUM");
		if (sum == dm_area_sum(&area, b, step))
			continue;
		/* Count the wrong bytes. This brings them to system memory. */
		bad = dm_area_wrong(&area, b, step);
		if (!bad)
			problem("the GPU reads at %#zx what the CPU does not",
				b * BLOCK);
		wrong += bad ?: 1;
	}
	return wrong;
}

/*
 * Verify every byte by a GPU that reaches it: by a neighbour of the GPU that holds
 * it, if there is one.
 */
static __u64 verify(bool first)
{
	__u64 wrong = 0, mapped, migrated, foreign = 0;
	struct dm_where where;
	unsigned int g, k, held, by;

	remember_stats();
	printf("  shares verified by GPU");
	for (k = 0; k < GPUS; k++) {
		look_at_share(k, &where);
		held = holder(k, &where);
		by = held;
		for (g = 0; g < GPUS && held != NOBODY; g++)
			if (g != held && reaches(g, held))
				by = g;
		if (held == NOBODY)
			by = any_gpu();
		else if (by != held)
			foreign += share * BLOCK / DM_PAGE;
		printf("%s %u", k ? "," : "", by);
		fflush(stdout);
		wrong += verify_range(gpus[by].dev.fd, k * share, share);
	}
	count_pages(&mapped, &migrated);
	printf(": %llu pages over a link, %llu migrated\n", foreign, migrated);

	if (migrated)
		problem("pages moved when a GPU read them");
	/* In later steps, some pages are still mapped. */
	if (mapped > foreign || (first && mapped < foreign))
		problem("%llu pages were mapped over a link", mapped);
	expect_holders();
	expect_no_violations();
	return wrong;
}

/* The end of each step. */
static void report(const struct devmem_op_stats *stats, const __u64 *owners,
		   bool first)
{
	char owners_of[GPUS * 2 + 8] = "";
	unsigned int g, nr = 0;
	__u64 wrong;

	look_at_topology();
	for (g = 0; g < GPUS; g++) {
		if (gpus[g].dev.fd < 0 || owners[g] == gpus[g].owner_id)
			continue;
		snprintf(owners_of + strlen(owners_of), sizeof(owners_of) - strlen(owners_of),
			 "%s%u", nr++ ? " " : "GPU ", g);
	}
	if (nr != stats->peers_moved)
		problem("%llu GPUs got a new owner, but %u have one",
			stats->peers_moved, nr);

	print_table();
	wrong = verify(first);
	printf("  rehomed  left  evacuated  copied (B)  new owner  wrong bytes\n");
	printf("  %7llu  %4llu  %9llu  %10llu  %-9s  %11llu\n\n",
	       stats->pages_rehomed, stats->pages_left, stats->pages_evacuated,
	       stats->bytes_copied, nr ? owners_of : "none", wrong);
	wrong_bytes += wrong;
}

/* --- the steps --- */

static void remember_owners(__u64 *owners)
{
	unsigned int g;

	look_at_topology();
	for (g = 0; g < GPUS; g++)
		owners[g] = gpus[g].owner_id;
}

static void set_link(unsigned int a, unsigned int b, bool up,
		     struct devmem_op_stats *stats)
{
	struct devmem_link link = {
		.a = gpus[a].dev.id,
		.b = gpus[b].dev.id,
		.up = up,
	};

	check(dm_links(ctl, &link, 1, 0, stats), "LINK");
	look_at_topology();
	if (reaches(a, b) != up)
		problem("GPU %u and %u %s", a, b, up ? "do not share a cluster" :
			"still share a cluster");
}

static void add_gpu(unsigned int g)
{
	__u64 size = share * BLOCK + SLACK;

	check(dm_create(ctl, size, 0, &gpus[g].dev), "CREATE");
}

/* Move a share to its GPU, and print a dot for each 16 MiB. */
static void fill_gpu(unsigned int g, bool write)
{
	size_t step = SEGMENT / BLOCK, b, first = g * share, i;
	struct dm_where where;

	printf("  share %u to GPU %u ", g, g);
	for (b = first; b < first + share; b += step) {
		for (i = b; i < b + step && write; i++)
			dm_block_write(&area, i, dm_fresh(i, g, 1));
		check(dm_migrate(gpus[g].dev.fd, dm_block(&area, b), SEGMENT,
				 DEVMEM_MIGRATE_TO_DEVICE), "MIGRATE");
		if (!((b - first) * BLOCK % (16 * DM_MIB))) {
			printf(".");
			fflush(stdout);
		}
	}
	look_at_share(g, &where);
	printf(" %lu MiB\n", where.device[gpus[g].dev.id] * DM_PAGE / DM_MIB);
}

static void step_in_place(void)
{
	struct devmem_op_stats stats = {};
	__u64 owners[GPUS];

	printf("step 1: each GPU works in place on what its neighbour holds\n");
	remember_owners(owners);
	report(&stats, owners, true);
}

/*
 * A split rehomes the share of the GPU that leaves the cluster, if it is private memory. If
 * it is coherent, it stays, and both GPUs get a new owner. A merge waits for no page.
 */
static void step_link(bool up)
{
	bool coherent = dm_coherent("coherent_ram");
	size_t pages = coherent ? 0 : share * BLOCK / DM_PAGE;
	struct devmem_op_stats stats;
	__u64 owners[GPUS];

	if (up)
		printf("step 3: the link comes back: the two merge\n");
	else
		printf("step 2: the link between GPU 0 and 1 goes down: a split\n");
	remember_owners(owners);
	set_link(0, 1, up, &stats);
	copied_by_links += stats.bytes_copied;
	if (stats.bytes_copied || stats.pages_evacuated)
		problem("pages were copied");
	if (up ? stats.pages_rehomed > pages : stats.pages_rehomed != pages)
		problem("rehomed %llu pages of %zu", stats.pages_rehomed, pages);
	if (!up && stats.pages_left)
		problem("%llu pages are left over", stats.pages_left);
	if (stats.peers_moved != (coherent && !up ? 2 : 1))
		problem("%llu GPUs got a new owner", stats.peers_moved);
	report(&stats, owners, false);
}

static void *write_on(void *arg)
{
	struct writer *w = arg;
	size_t nr = STRIPE / BLOCK, b;
	__u64 base, start, took;

	while (!w->err) {
		for (b = w->first; b < w->first + nr && !w->err; b++) {
			if (__atomic_load_n(&stop, __ATOMIC_ACQUIRE))
				return NULL;
			base = dm_fresh(b, w->gpu, 2 + w->passes);
			start = now_ns();
			if (w->gpu == NOBODY)
				dm_block_write(&area, b, base);
			else
				w->err = dm_fill(gpus[w->gpu].dev.fd,
						 dm_block(&area, b), BLOCK, base);
			took = now_ns() - start;
			if (took > w->longest_ns)
				w->longest_ns = took;
			area.base[b] = base;
			w->blocks++;
		}
		__atomic_fetch_add(&w->passes, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* Wait until each writer has written its stripe again. */
static void wait_for_writers(struct writer *writers)
{
	unsigned long target[2];
	unsigned int i;

	for (i = 0; i < 2; i++)
		target[i] = __atomic_load_n(&writers[i].passes,
					    __ATOMIC_ACQUIRE) + 1;
	for (i = 0; i < 2; i++)
		while (__atomic_load_n(&writers[i].passes, __ATOMIC_ACQUIRE) <
		       target[i] && !writers[i].err)
			sched_yield();
}

static void step_leave(void)
{
	struct writer writers[2] = {
		{ .gpu = 2, .first = 3 * share },
		{ .gpu = NOBODY, .first = 3 * share + STRIPE / BLOCK },
	};
	struct devmem_op_stats stats;
	__u64 owners[GPUS];
	unsigned int i;

	printf("step 4: GPU 3 leaves while GPU 2 and the CPU write to what it holds\n");
	remember_owners(owners);
	/* GPU 2 writes over the link, in place. The CPU begins later, as it moves pages. */
	check(-pthread_create(&writers[0].thread, NULL, write_on, &writers[0]),
	      "thread");
	while (!__atomic_load_n(&writers[0].passes, __ATOMIC_ACQUIRE) &&
	       !writers[0].err)
		sched_yield();
	check(-pthread_create(&writers[1].thread, NULL, write_on, &writers[1]),
	      "thread");

	check(dm_destroy(ctl, gpus[3].dev.id, 0, &stats), "DESTROY");
	close(gpus[3].dev.fd);
	gpus[3].dev.fd = -1;

	wait_for_writers(writers);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < 2; i++) {
		check(-pthread_join(writers[i].thread, NULL), "thread");
		if (writers[i].err)
			problem("GPU %u could not write: %s", writers[i].gpu,
				strerror(-writers[i].err));
		printf("  %s wrote %lu MiB meanwhile; 64 KiB took %.1f ms at most\n",
		       writers[i].gpu == NOBODY ? "the CPU" : "GPU 2  ",
		       writers[i].blocks * BLOCK / DM_MIB,
		       writers[i].longest_ns / 1e6);
	}
	if (stats.bytes_copied != stats.pages_evacuated * DM_PAGE)
		problem("copied %llu bytes for %llu pages", stats.bytes_copied,
			stats.pages_evacuated);
	if (stats.pages_rehomed)
		problem("%llu pages were rehomed", stats.pages_rehomed);
	report(&stats, owners, false);
}

static void step_join(void)
{
	struct devmem_op_stats stats;
	__u64 owners[GPUS];

	printf("step 5: a GPU joins, is linked to GPU 2, and gets its share\n");
	add_gpu(3);
	remember_owners(owners);
	set_link(2, 3, true, &stats);
	copied_by_links += stats.bytes_copied;
	if (stats.bytes_copied || stats.pages_evacuated || stats.pages_rehomed)
		problem("the link-up of a GPU without pages moved pages");
	fill_gpu(3, false);
	report(&stats, owners, false);
}

static void last_look(void)
{
	__u64 wrong = 0;
	size_t b;

	printf("at last the CPU reads all of it ");
	for (b = 0; b < area.nr; b++) {
		wrong += dm_block_wrong(&area, b);
		if (!(b % (area.nr / 32))) {
			printf(".");
			fflush(stdout);
		}
	}
	printf(" %llu wrong bytes\n", wrong);
	wrong_bytes += wrong;
	expect_no_violations();
}

int main(int argc, char **argv)
{
	unsigned long mib = MIB_DEFAULT;
	__u64 start = now_ns();
	unsigned int g;
	char *end = "";
	int opt;

	while ((opt = getopt(argc, argv, "m:")) != -1) {
		if (opt == 'm')
			mib = strtoul(optarg, &end, 0);
		if (opt != 'm' || *end || mib < MIB_MIN || mib % MIB_STEP) {
			fprintf(stderr, "usage: %s [-m MiB], a multiple of %u from %u on\n",
				argv[0], MIB_STEP, MIB_MIN);
			return 1;
		}
	}

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (g = 0; g < GPUS; g++)
		gpus[g].dev.fd = -1;
	ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	if (ctl < 0) {
		fprintf(stderr, "%s: %s%s\n", DEVMEM_CTL_PATH, strerror(errno),
			errno == ENOENT ? " (CONFIG_DRM_DEVMEM, modprobe drm_devmem)" :
			"");
		return KSFT_SKIP;
	}

	share = mib * DM_MIB / GPUS / BLOCK;
	check(dm_area_init(&area, mib * DM_MIB, BLOCK, true), "memory");
	printf("%lu MiB of patterned memory on %u GPUs in 2 clusters\n", mib, GPUS);
	for (g = 0; g < GPUS; g++)
		add_gpu(g);
	set_link(0, 1, true, NULL);
	set_link(2, 3, true, NULL);
	for (g = 0; g < GPUS; g++)
		fill_gpu(g, true);
	printf("\n");

	step_in_place();
	step_link(false);
	step_link(true);
	step_leave();
	step_join();
	last_look();
	remove_gpus();

	printf("%llu s\n", (now_ns() - start) / 1000000000ULL);
	printf("demo: 5 steps, %zu bytes verified after each, %llu wrong bytes, ",
	       area.len, wrong_bytes);
	printf("%llu bytes copied by splits and merges%s\n", copied_by_links,
	       problems ? "; FAILED" : "");
	return wrong_bytes || copied_by_links || problems;
}
