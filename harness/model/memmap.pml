/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How long the memmap of a window stays, and what comes into the window.
 *
 * One window, one slot in it, one virtual address. Walkers of both levels look
 * at the page from the page table, a driver migrates data into the window, a
 * CPU fault brings it back or fails to, and the window is closed, emptied and
 * then unregistered, renewed for another region, or opened again.
 */
#include "common.h"

bool freed_memmap;	/* no walker or user reads a freed memmap, pgmap, owner */
bool live_owner;	/* the owner of a live pagemap never changes */
bool other_region;	/* a window serves the region that it was asked for */
bool closed_window;	/* no page comes into use in a closed window */
bool entry_left;	/* no page table refers to an unregistered page */

mtype = { RAM, MIG_RAM, DEV, MIG_DEV };
mtype pte = DEV;

/* The window: &dev_pagemap.ref, &dev_pagemap.done, &pgmap_window.region. */
bool live = true, done, memmap = true, new_owner, new_region;
#ifndef NO_PAGE_REF
byte users = 1;
#else
byte users;
#endif
/* Is it &pgmap_region.window? */
bool current = true;
/* dev_pagemap_close() has returned. */
bool closed;

/* The page: references, one of which is that of the page table; folio lock. */
byte refs = 1;
bool locked;

#define PTE_WALKER	0
#define PMD_WALKER	1
#define DRIVER		2
#define CPU		3
#define OWNER		4

/*
 * percpu_ref_put(). The last one completes &dev_pagemap.done, some time later
 * but in the same RCU read section.
 */
inline users_put(me)
{
	d_step {
		users--;
		last = !live && users == 0;
		rcu_enter(me)
	}
	d_step {
		if
		:: last -> done = true
		:: else
		fi;
		rcu_leave(me)
	}
}

inline page_put(me)
{
	d_step {
		refs--;
		free = refs == 0
	}
	if
	:: free ->
#ifndef NO_PAGE_REF
		users_put(me)
#endif
	:: else
	fi
}

/* --- walkers of page tables: mm/hmm.c, mm/migrate_device.c --- */

proctype walker(bit me)
{
	bool met, owner;

	if
	:: me == PMD_WALKER ->
		/* pmdp_get_lockless(): nothing keeps the page. */
		d_step {
			met = pte == DEV;
			owner = new_owner
		}
	:: else
	fi;

	rcu_read_lock(me);
	if
	:: me == PMD_WALKER ->
#ifndef NO_PMD_RECHECK
		d_step {
			met = met && pte == DEV;
			owner = new_owner
		}
#endif
	:: else ->
		/* ptep_get() */
		d_step {
			met = pte == DEV;
			owner = new_owner
		}
	fi;
	if
	:: met ->
		/* page_pgmap(page)->owner */
		CHECK(freed_memmap, memmap);
		CHECK(live_owner, owner == new_owner)
	:: else
	fi;
	rcu_read_unlock(me)
}

/* --- a migration into the window --- */

proctype driver()
{
	bool last, free, got;

	do
	:: break
	/* A slot is free when its page has been. */
	:: atomic { pte == RAM && refs == 0 -> got = false };

		/* pgmap_window_get() */
		rcu_read_lock(DRIVER);
again:		if
		:: !current ->
			rcu_read_unlock(DRIVER);
			goto next
		:: else
		fi;
#ifdef NO_WINDOW_RCU
		rcu_read_unlock(DRIVER);
		CHECK(freed_memmap, memmap);
#endif
#ifndef NO_WINDOW_REF
		if
		:: d_step { live -> users++ }
		:: else -> goto again
		fi;
#endif
#ifndef NO_WINDOW_RCU
		rcu_read_unlock(DRIVER);
#endif
		CHECK(freed_memmap, memmap);
		CHECK(other_region, !new_region);

		/* migrate_vma_setup() */
		if
		:: d_step { pte == RAM -> pte = MIG_RAM }
		:: else -> goto put
		fi;

		/* zone_device_page_init() */
		rcu_read_lock(DRIVER);
		if
#ifndef NO_TRYGET_LIVE
		:: d_step { live -> users++ } -> got = true
		:: else
#else
		:: d_step { true -> users++ } -> got = true
#endif
		fi;
		if
		:: got ->
			CHECK(freed_memmap, memmap);
			CHECK(closed_window, !closed);
			d_step {
				locked = true;
				refs = 1;
#ifdef NO_PAGE_REF
				users--;
#endif
			}
		:: else
		fi;
		rcu_read_unlock(DRIVER);

		/* migrate_vma_finalize() */
		if
		:: got ->
			d_step {
				pte = DEV;
				refs++
			};
			locked = false;
			page_put(DRIVER)
		:: else ->
			pte = RAM
		fi;
put:
#ifndef NO_WINDOW_REF
		users_put(DRIVER);
#endif
next:		skip
	od
}

/* --- do_swap_page(): the data comes back, unless the driver can't copy --- */

proctype cpu()
{
	bool last, free;

	do
	:: break
	:: d_step {
			pte == DEV && !locked ->
			locked = true;
			refs++
		};
		d_step {
			pte = MIG_DEV;
			refs--
		};
		if
		:: pte = RAM
		:: d_step {
				pte = DEV;
				refs++
			}
		fi;
		locked = false;
		page_put(CPU)
	od
}

/* --- the owner of the window: mm/pgmap_window.c, mm/memremap.c --- */

/* pgmap_window_sweep(), of a window with one page. */
inline sweep()
{
	if
	:: d_step { refs > 0 -> refs++ } ->
		if
		:: d_step { !locked -> locked = true } ->
			if
			:: d_step {
					pte == DEV ->
					pte = MIG_DEV;
					refs--
				} ->
				if
				:: refs == 1 ->
					pte = RAM
				:: else ->
					/* Somebody else refers to it. */
					d_step {
						pte = DEV;
						refs++
					}
				fi
			:: else
			fi;
			locked = false
		:: else
		fi;
		page_put(OWNER)
	:: else
	fi
}

/* percpu_ref_kill() */
inline kill()
{
	d_step {
		live = false;
		if
		:: users == 0 -> done = true
		:: else
		fi
	}
}

proctype owner()
{
	bool last, free;

again:	current = false;
#ifndef NO_CLOSE
	kill();
#ifndef NO_CLOSE_GRACE_PERIOD
	synchronize_rcu();
#endif
	closed = true;
#endif
	/* pgmap_empty() */
	do
	:: sweep();
#ifdef NO_CLOSE
		if
		:: users == 0 -> break
		:: else
		fi
#else
#ifdef NO_SWEEP_AGAIN
		done -> break
#else
		/* When it is time to look again, there is a page to be had. */
		if
		:: done -> break
		:: refs > 0 && !locked
		:: goto reopen
		fi
#endif
#endif
	od;

	if
	:: true ->
		/* memunmap_pages() */
#ifdef NO_CLOSE
		kill();
#endif
		done;
#ifndef NO_MEMUNMAP_GRACE_PERIOD
		synchronize_rcu();
#endif
		memmap = false;
		CHECK(entry_left, pte == RAM || pte == MIG_RAM)
	:: true ->
		/* pgmap_window_renew(), dev_pagemap_renew() */
		new_region = true;
#ifdef NO_CLOSE
		kill();
#endif
		done;
#ifndef NO_RENEW_GRACE_PERIOD
		synchronize_rcu();
#endif
		d_step {
			new_owner = true;
			closed = false;
			done = false;
			live = true
		};
		CHECK(entry_left, pte == RAM || pte == MIG_RAM)
	fi;
	goto out;

#if !defined(NO_CLOSE) && !defined(NO_SWEEP_AGAIN)
reopen:	skip;
	/* pgmap_region_reopen(), and another attempt later on */
	d_step {
		closed = false;
		live = true
	};
#ifndef NO_REOPEN_GRACE_PERIOD
	synchronize_rcu();
#endif
#ifndef NO_REOPEN_REINIT
	done = false;
#endif
	current = true;
	goto again;
#endif
out:	skip
}

init {
	atomic {
		run walker(PTE_WALKER);
		run walker(PMD_WALKER);
		run driver();
		run cpu();
		run owner()
	}
}
