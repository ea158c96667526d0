// SPDX-License-Identifier: GPL-2.0
/*
 * Soak test: contents of memory, and checks of them.
 *
 * Every word of a thread's memory is known at any time. A word of an earlier version of its
 * page is stale, any other unexpected word is wrong. A page is only lost if a device was torn
 * out or its removal was forced since the page was last good.
 */
#define _GNU_SOURCE
#include <time.h>

#include "devmem_soak.h"

__thread struct thread *self;

/* --- messages --- */

void say_history(struct thread *t)
{
	unsigned int i;

	if (!t)
		return;
	say("  worker %u, life %lu, thread %u, step %lu%s; before that:\n", t->worker,
	    t->life, t->index, t->step, t->is_kid ? ", in a child" : "");
	for (i = t->nr_log > LOG ? t->nr_log - LOG : 0; i < t->nr_log; i++) {
		struct entry *e = &t->log[i % LOG];

		say("  %s, pages %zu+%zu, device %u: %d\n", e->what, e->p, e->n, e->slot,
		    e->err);
	}
}

void note(struct thread *t, const char *what, size_t p, size_t n, int err)
{
	t->log[t->nr_log++ % LOG] = (struct entry){ what, p, n, t->slot, err };
	count(&shared->actors[1 + t->worker].steps, 1);
}

/* --- pages --- */

void say_where(struct thread *t, size_t p)
{
	__u32 now = 0, before = p - t->look_p < RUN ? t->look[p - t->look_p] : 0;
	int err = -ENODEV, s;

	for (s = 0; s < MAX_DEVS && err; s++)
		if (t->files[s].fd >= 0)
			err = dm_query(t->files[s].fd, page(t, p), DM_PAGE, &now);
	say("  page %zu at %p: QUERY says %#x (%d), and said %#x before\n", p,
	    (void *)page(t, p), now, err, before);
}

/* A number that has not been in any page. */
__u64 fresh(struct thread *t)
{
	return dm_mix(t->seed + dm_mix(++t->version));
}

/* An operation begins. */
void begin(struct thread *t)
{
	t->losses = load(&shared->losses.ended);
	t->deaths = load(&shared->deaths.ended);
}

/* A page has new contents. */
void page_is(struct thread *t, size_t p, __u64 base, __u64 step)
{
	struct page *pg = &t->m.pages[p];

	memmove(&pg->is[1], &pg->is[0], sizeof(pg->is) - sizeof(pg->is[0]));
	pg->is[0] = (struct content){ base, step };
	pg->losses = t->losses;
}

/*
 * Replace pages by new ones, in one of several ways. No thread maps memory elsewhere, so a hole
 * stays a hole.
 */
void do_renew(struct thread *t, size_t p, size_t n)
{
	int how = chance(t, 3), flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t len = n * DM_PAGE;
	void *at = page(t, p);
	bool good = true;

	begin(t);
	flags |= how == 1 ? MAP_FIXED : MAP_FIXED_NOREPLACE;
	if (how == 0)
		good = !madvise(at, len, MADV_DONTNEED);
	if (how == 2)
		good = !munmap(at, len);
	if (how && good)
		good = mmap(at, len, PROT_READ | PROT_WRITE, flags, -1, 0) == at;
	if (!good)
		fail("new pages %zu+%zu: %s", p, n, strerror(errno));
	madvise(at, len, t->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	note(t, "renew", p, n, how);
	for (; n; n--)
		page_is(t, p++, 0, 0);
}

void bus_error(int sig, siginfo_t *info, void *context)
{
	unsigned long addr = (unsigned long)info->si_addr, guard = self ? self->guard : 0;

	(void)context;
	if (!guard || addr - guard >= DM_PAGE || info->si_code != BUS_MCEERR_AR)
		fail("signal %d with code %d at %#lx, while the page at %#lx was used",
		     sig, info->si_code, addr, guard);
	count(&shared->sigbus, 1);
	siglongjmp(self->jump, 1);
}

static void page_wrong(struct thread *t, size_t p, const __u64 *words)
{
	struct content *is = t->m.pages[p].is;
	size_t i, v, first = PAGE_WORDS;
	__u64 wrong = 0, stale = 0;

	/* Before all else, as this process can be killed at any time. */
	store(&shared->suspect, true);
	for (i = 0; i < PAGE_WORDS; i++) {
		__u64 diff = words[i] ^ (is->base + i * is->step);

		if (diff && first == PAGE_WORDS)
			first = i;
		for (v = 1; v < VERSIONS && words[i] != is[v].base + i * is[v].step; v++)
			;
		for (; diff; diff >>= 8)
			*(v < VERSIONS ? &stale : &wrong) += !!(diff & 0xff);
	}
	count(&shared->wrong, wrong);
	count(&shared->stale, stale);
	say_where(t, p);
	fail("page %zu: the CPU finds %llu wrong and %llu stale bytes, and at %p %#llx, not %#llx",
	     p, wrong, stale, (void *)&words[first], words[first],
	     is->base + first * is->step);
}

/*
 * The CPU writes or checks all of a page. False if the page is lost; a page of zeroes has taken
 * its place then.
 */
static bool page_cpu(struct thread *t, size_t p, bool write)
{
	const struct content is = { write ? fresh(t) : t->m.pages[p].is->base,
				    write ? 1 : t->m.pages[p].is->step };
	__u64 *words = (__u64 *)page(t, p);
	size_t i;

	begin(t);
	store(&t->guard, (unsigned long)words);
	if (sigsetjmp(t->jump, 0)) {
		store(&t->guard, 0);
		note(t, "lost", p, 1, 0);
		if (!happened_since(&shared->losses, t->m.pages[p].losses))
			fail("page %zu is lost, and there was no loss since it was good", p);
		count(&shared->lost, 1);
		do_renew(t, p, 1);
		return false;
	}
	for (i = 0; i < PAGE_WORDS; i++) {
		if (write)
			__atomic_store_n(&words[i], is.base + i, __ATOMIC_RELAXED);
		else if (load(&words[i]) != is.base + i * is.step)
			page_wrong(t, p, words);
	}
	store(&t->guard, 0);
	count(&shared->actors[1 + t->worker].steps, 1);
	if (write)
		page_is(t, p, is.base, is.step);
	t->m.pages[p].losses = t->losses;
	count(&shared->checked, write ? 0 : DM_PAGE);
	return true;
}

/*
 * Is a page of either range lost? The CPU can access coherent pages of a device that is gone
 * until the removal has poisoned them, so look again for a while.
 */
bool any_lost(struct thread *t, size_t p, size_t np, size_t q, size_t nq)
{
	time_t end = time(NULL) + (dm_coherent("coherent_ram") ? WATCHDOG / 2 : 0);
	bool lost = false;
	size_t i;

	for (;;) {
		for (i = 0; i < np; i++)
			lost |= !page_cpu(t, p + i, false);
		for (i = 0; i < nq; i++)
			lost |= !page_cpu(t, q + i, false);
		if (lost || time(NULL) >= end)
			return lost;
		usleep(10000);
	}
}

void do_write(struct thread *t, size_t p, size_t n)
{
	note(t, "write", p, n, 0);
	for (; n; n--, p++)
		while (!page_cpu(t, p, true))
			;
}

void do_check(struct thread *t, size_t p, size_t n)
{
	note(t, "check", p, n, 0);
	for (; n; n--)
		page_cpu(t, p++, false);
}

/* The part of DEVMEM_OP_CHECKSUM of a page that begins with word k of its range. */
__u64 content_sum(const struct content *is, __u64 k)
{
	const __u64 n = PAGE_WORDS, sum_i = n * (n - 1) / 2;
	const __u64 sum_ii = (n - 1) * n * (2 * n - 1) / 6;

	return is->base * (n * (2 * k + 1) + 2 * sum_i) +
	       is->step * (sum_i * (2 * k + 1) + 2 * sum_ii);
}
