/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What becomes of the data.
 *
 * One page of an address that a parent and, after fork(), a child have. It is
 * migrated to a device, used there by a peer of the device's cluster, brought
 * back by CPU faults, and evacuated or poisoned when the device leaves. The
 * device may die at any time.
 */
#include "common.h"

bool stale_data;	/* who reads gets what was written last, or an error */
bool entry_left;	/* no page table names a page that was unregistered */
bool peer_maps;		/* nor does the page table of another device */
bool late_copy;		/* what is copied to a device that is known to be lost stays */

mtype = { RAM, MIG_RAM, DEV, MIG_DEV, POISON, POISON_PFN };

#define PARENT	0
#define CHILD	1

/* Page tables of the parent and the child; what the peer has mapped. */
mtype pte[2] = { RAM, 0 };
mtype peer;
/* The child's vma can be found from the page. fork() has shared the pages. */
bool linked, shared;

/* The device page: references, folio lock. It is idle when it has none. */
byte refs;
bool locked, closed;
/* rmap walks that are under way; each holds the anon_vma's lock for reading. */
byte walking;

/* Is it what has been written last that the device has, or system memory? */
mtype = { LAST, OLD, INVENTED };
mtype dev = LAST, ram = LAST;
/* A copy between the two, while the page is locked. */
mtype copy = LAST;

/*
 * A device that is torn out is dead before anybody knows, and its driver looks
 * for that after it has read. Another one is reset on purpose: that is announced
 * first, and afterwards its memory looks as good as any.
 */
bool told_first, dead, lost;

/* The peer's lock, its mmu interval notifier, its engine's fault under way. */
bool peer_lock, faulting, stale, peer_writes;
byte invalidating;

#define READ_DEV	(dead -> INVENTED : dev)

inline write(to, other)
{
	to = LAST;
	other = OLD;
	copy = (locked -> OLD : copy)
}

/* --- mmu notifiers, for the parent's mm --- */

inline invalidate_start()
{
	invalidating++;
	d_step {
		!peer_lock ->
		stale = faulting;
		peer = 0;
		peer_writes = false
	}
}

inline invalidate_end()
{
	invalidating--
}

/* --- migration --- */

/* try_to_migrate(): in each mm, with the page locked and a reference. */
inline unmap_all()
{
	walking++;
	if
	:: pte[PARENT] == DEV ->
		invalidate_start();
		d_step {
			if
			:: pte[PARENT] == DEV ->
				pte[PARENT] = MIG_DEV;
				refs--
			:: else
			fi;
			invalidate_end()
		}
	:: else
	fi;
	d_step {
		if
		:: linked && pte[CHILD] == DEV ->
			pte[CHILD] = MIG_DEV;
			refs--
		:: else
		fi;
		walking--
	}
}

/* What a page held that nobody has is of no account. */
inline page_put()
{
	d_step {
		refs--;
		copy = LAST;
		if
		:: refs == 0 -> dev = LAST
		:: else
		fi
	}
}

inline replace(mm, old, new)
{
	if
	:: pte[mm] == old ->
		pte[mm] = new;
		if
		:: new == DEV -> refs++
		:: else
		fi
	:: else
	fi
}

/* remove_migration_ptes() */
inline replace_all(old, new)
{
	d_step {
		walking++;
		replace(PARENT, old, new)
	};
	d_step {
		if
		:: linked -> replace(CHILD, old, new)
		:: else
		fi;
		walking--
	}
}

/*
 * Migrate the page to system memory. It is locked; the caller has the only
 * reference that is not a mapping's, else it stays where it is.
 */
inline migrate_to_ram(by_core)
{
	/* A page that nobody maps has no data: migrate_device_get_anon_vma(). */
	ok = pte[PARENT] == DEV || pte[CHILD] == DEV;
	unmap_all();
	ok = ok && refs == 1 && !(by_core && lost);
	if
	:: ok ->
		/* copy_to_ram() */
		copy = READ_DEV;
#ifndef NO_ALIVE_CHECK
		/* What the driver has to tell after it has read. */
		ok = ok && !(told_first -> lost && !by_core : dead);
#endif
#ifndef NO_LOST_CHECK
		ok = ok && !(by_core && lost);
#endif
	:: else
	fi;
	if
	:: ok ->
		ram = copy;
		replace_all(MIG_DEV, RAM)
	:: else ->
		replace_all(MIG_DEV, DEV)
	fi;
	d_step {
		locked = false;
		ok = false
	};
	page_put()
}

/* migrate_vma_*() by the device's driver, for the parent. */
proctype driver()
{
	bool ok, late;

	do
	:: break
	:: d_step { refs == 0 && pte[PARENT] == RAM -> ok = false };
#ifndef NO_MIGRATE_NOTIFY
		/* Also told to a peer that has the same owner. */
		invalidate_start();
#endif
		d_step {
			if
			:: pte[PARENT] == RAM && !shared ->
				pte[PARENT] = MIG_RAM;
				ok = true
			:: else
			fi;
#ifndef NO_MIGRATE_NOTIFY
			invalidate_end()
#endif
		};
		if
		:: ok ->
			/* zone_device_page_init() */
			d_step {
				ok = !closed;
				refs = ok;
				locked = ok
			};
			if
			:: ok ->
				/* copy_to_devmem() */
				d_step { dev = ram; late = lost };
#ifdef NO_LOST_CHECK_IN
				ok = told_first || !dead;
#else
				ok = !(told_first -> lost : dead);
#endif
				if
				:: ok ->
					CHECK(late_copy, !late);
					replace_all(MIG_RAM, DEV)
				:: else -> replace_all(MIG_RAM, RAM)
				fi;
				locked = false;
				page_put()
			:: else ->
				replace_all(MIG_RAM, RAM)
			fi
		:: else
		fi;
		d_step { ok = false; late = false }
	od
}

/* --- who uses the data --- */

/* The CPU, in either mm. */
proctype cpu()
{
	bool ok;

	do
	:: break
	:: d_step { pte[PARENT] == RAM || pte[CHILD] == RAM -> CHECK(stale_data, ram == LAST) }
	:: d_step { pte[PARENT] == RAM && !shared -> write(ram, dev) }
	:: d_step {
			/* do_swap_page() */
			(pte[PARENT] == DEV || pte[CHILD] == DEV) && !locked ->
			locked = true;
			refs++
		};
		migrate_to_ram(false)
	od
}

/* A peer of the cluster: hmm_range_fault(), map, use. */
proctype engine()
{
	mtype found;

	do
	:: break
	:: d_step {
			/* mmu_interval_read_begin() */
			peer == 0 && invalidating == 0 ->
			faulting = true
		};
		/* An entry that is shared is read only. */
		d_step {
			if
			:: pte[PARENT] == RAM || pte[PARENT] == DEV ->
				found = pte[PARENT];
				peer_writes = !shared
			:: else
			fi
		};
		d_step { !peer_lock -> peer_lock = true };
		if
#ifndef NO_SEQ_RETRY
		:: stale
#endif
		:: !stale -> peer = found
#ifdef NO_SEQ_RETRY
		:: stale -> peer = found
#endif
		fi;
		d_step {
			peer_lock = false;
			faulting = false;
			stale = false;
			found = 0
		}
	:: d_step { peer == RAM -> CHECK(stale_data, ram == LAST) }
	:: d_step { peer == DEV && !dead -> CHECK(stale_data, dev == LAST) }
	:: d_step { peer == RAM && peer_writes -> write(ram, dev) }
	:: d_step { peer == DEV && peer_writes && !dead -> write(dev, ram) }
	od
}

/* fork(): the child's vma is there before the entries are copied. */
proctype forker()
{
	if
	:: true
#ifndef NO_LINK_FIRST
	:: d_step { walking == 0 -> linked = true };
#else
	:: true ->
#endif
		invalidate_start();
		d_step {
			shared = true;
			pte[CHILD] = pte[PARENT];
			if
			:: pte[CHILD] == DEV -> refs++
			:: else
			fi;
			invalidate_end()
		}
#ifdef NO_LINK_FIRST
		d_step { walking == 0 -> linked = true }
#endif
	fi
}

/* --- the device goes --- */

proctype death()
{
	if
	:: true
	:: d_step { told_first = true; lost = true };
		dead = true
	:: dead = true;
		lost = true
	fi
}

/* pgmap_peer_leave(), forced; the page is the peer's only one. */
proctype leave()
{
	bool ok, poison;

	closed = true;
again:	do
	:: d_step { refs > 0 -> refs++ };
		if
		:: d_step { !locked -> locked = true };
			poison = poison || lost;
			if
			:: !poison ->
				migrate_to_ram(true);
				/* An error that asking again won't change. */
				poison = refs > 0 && (lost || dead)
			:: else ->
#ifdef NO_POISON
				locked = false;
				page_put();
				refs == 0;
				goto again;
#endif
				/* migrate_device_poison() */
				unmap_all();
#ifdef NO_RMAP_ALL
				d_step { replace(PARENT, MIG_DEV, POISON) };
#else
#ifdef NO_PLAIN_MARKER
				replace_all(MIG_DEV, POISON_PFN);
#else
				replace_all(MIG_DEV, POISON);
#endif
#endif
				locked = false;
				page_put()
			fi
		:: else ->
			page_put()
		fi;
		/* Until there is something to do again. */
		refs == 0 || !locked
	:: d_step {
			refs == 0 ->
			CHECK(entry_left, pte[PARENT] == RAM || pte[PARENT] == MIG_RAM || pte[PARENT] == POISON);
			CHECK(entry_left, pte[CHILD] == 0 || pte[CHILD] == RAM || pte[CHILD] == MIG_RAM || pte[CHILD] == POISON);
			CHECK(peer_maps, peer != DEV)
		};
		break
	od
}

init {
	atomic {
		run driver();
		run cpu();
		run engine();
		run forker();
		run death();
		run leave()
	}
}
