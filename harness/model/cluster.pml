/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A peer changes cluster.
 *
 * A has the owner MAIN for good. P joins the cluster of A, or leaves it for an
 * owner of its own, or leaves the fabric and comes back; two callers ask for such
 * changes, one after another. A page of P moves to a window under P's new owner,
 * a page of A stays where it is. Both devices fault at any time, on either page.
 */
#include "common.h"

bool out_of_reach;	/* nobody maps a page of a device that it is not linked to */
bool own_bounces;	/* a peer's own pages do not bounce to system memory */
bool reused_owner;	/* the owner of a walk stays, and so does its address */
bool freed_owner;	/* nobody takes a reference on an owner that is freed */
bool not_undone;	/* a change that failed has changed nothing */

/* Owners are addresses, with a count of references each. */
#define NOBODY	0
#define MAIN	1
#define ADDRESSES 4
byte refs[ADDRESSES];
/* kfree_rcu(): a walk may be about to look at an address, which is not free yet. */
bool reader, late[ADDRESSES];

/* &pgmap_fabric.lock; are A and P linked? */
bool fabric_lock, linked;
/* What the callers of changes have been told: may A and P use each other? */
bool may_reach;

/* &pgmap_peer.owner and walks of P; the owner of the window of its page. */
byte owner, page_owner, walks;
/* Are P's faults held up? Has that begun since P's walk began? */
bool held, held_since;
#ifndef NO_HOLD_COUNT
#define HELD	held_since
#else
#define HELD	held
#endif
/* P's change did not wait for a walk until its end. */
bool gave_up;
/* The owner of P's walk, if it holds no reference, and if it has been freed. */
byte borrowed;
bool reused;
/*
 * P's page is stuck where a change that failed has moved it to. Its data is safe.
 * The caller knows that something may be left: the change returned an error.
 */
bool leftover;

/* Page tables of P and A: the lock, a foreign page mapped, invalidated since. */
bool p_lock, p_foreign;
bool a_lock, a_foreign, a_stale;

/* --- owners --- */

inline get(o)
{
	if
	:: o != NOBODY -> refs[o]++
	:: else
	fi
}

inline put(o)
{
	d_step {
		if
		:: o != NOBODY ->
			refs[o]--;
			if
			:: refs[o] == 0 ->
#ifndef NO_OWNER_RCU
				late[o] = reader;
#endif
				reused = reused || borrowed == o
			:: else
			fi
		:: else
		fi;
		o = NOBODY
	}
}

inline reader_leave()
{
	reader = false;
	late[MAIN] = false;
	late[2] = false;
	late[3] = false
}

/* --- P's fault handler --- */

inline walk_end()
{
#ifndef NO_WALK_REF
	put(mine);
#endif
	d_step {
		walks--;
		if
		:: walks == 0 -> gave_up = false
		:: else
		fi;
		mine = NOBODY;
		borrowed = NOBODY;
		reused = false
	}
}

proctype p_fault()
{
	byte mine;
	bool again, foreign;

	do
	:: break
	:: true ->
		/* pgmap_walk_begin() */
#ifndef NO_HOLD
		d_step { !held -> held_since = false };
#endif
#ifdef NO_WALK_BARRIER_A
		again = HELD;
#endif
		walks++;
#ifdef NO_WALK_BARRIER_B
		again = HELD;
#endif
		d_step {
			reader = true;
			mine = owner
		};
		d_step {
#ifndef NO_WALK_REF
			/* kref_get_unless_zero() */
			CHECK(freed_owner, mine == NOBODY || refs[mine] > 0 || late[mine]);
			if
			:: refs[mine] > 0 -> refs[mine]++
			:: else -> mine = NOBODY
			fi;
#else
			borrowed = mine;
			reused = refs[mine] == 0;
#endif
			reader_leave()
		};
#if !defined(NO_WALK_BARRIER_A) && !defined(NO_WALK_BARRIER_B)
		again = HELD;
#endif
		if
		:: !again && mine != NOBODY ->
			/* hmm_range_fault() */
			if
			:: d_step { true ->
					CHECK(reused_owner, !reused);
					foreign = mine == MAIN
				}
			:: d_step { true ->
					CHECK(own_bounces, page_owner == mine || page_owner == NOBODY || gave_up || leftover);
				}
			fi;

			/* pgmap_walk_retry(), and map. P's own pages are of no interest here. */
#ifdef OWNER_RETRY_UNLOCKED
			foreign = foreign && owner == mine;
#endif
			d_step { !p_lock -> p_lock = true };
#if !defined(NO_OWNER_RETRY) && !defined(OWNER_RETRY_UNLOCKED)
			foreign = foreign && owner == mine;
#endif
			d_step {
				if
				:: foreign ->
					CHECK(out_of_reach, may_reach);
					p_foreign = true
				:: else
				fi;
				p_lock = false;
				foreign = false
			}
		:: else
		fi;
		walk_end();
		again = false
	od
}

/* --- A's fault handler; A never changes cluster, and is never held up --- */

proctype a_fault()
{
	bool found;

	do
	:: break
	:: d_step { true -> a_stale = false; found = page_owner == MAIN };
		d_step { !a_lock -> a_lock = true };
		d_step {
			if
			:: found && !a_stale ->
				CHECK(out_of_reach, may_reach);
				a_foreign = true
			:: else
			fi;
			a_lock = false;
			found = false
		}
	od
}

/* --- changes of the topology --- */

inline publish(o)
{
	d_step {
		get(o);
		last = owner;
		owner = o
	};
	put(last)
}

/* The driver takes its lock, and drops what is foreign. */
inline unmap_foreign()
{
#ifndef NO_UNMAP_LOCK
	d_step { !p_lock -> p_foreign = false }
#else
	p_foreign = false
#endif
}

/* Move P's page. Whoever maps it is told, and pages that move are seen by that. */
inline move(o)
{
#ifndef NO_REHOME_NOTIFY
	d_step {
		!a_lock ->
		a_stale = true;
		a_foreign = false;
#else
	d_step {
#endif
		get(o);
		last = page_owner;
		page_owner = o;
		leftover = false
	};
	put(last)
}

/* A change returns. What it has reported must be true. */
inline done(known)
{
	d_step {
		CHECK(not_undone, page_owner == owner || leftover);
		if
		:: !linked && !(known) ->
			CHECK(out_of_reach, !p_foreign && !a_foreign);
			may_reach = false
		:: else
		fi;
		fabric_lock = false
	}
}

proctype change()
{
	byte from, to, last;
	bool up, failed;
#ifdef NO_HOLD_BARRIER_A
	bool walking;
#endif

	do
	:: break

	/* pgmap_peer_leave() */
	:: d_step {
#ifndef NO_FABRIC_LOCK
			!fabric_lock && owner != NOBODY -> fabric_lock = true
#else
			owner != NOBODY -> skip
#endif
		};
		move(NOBODY);
		publish(NOBODY);
#ifndef NO_LEAVE_UNMAP
		unmap_foreign();
#endif
		d_step {
			/* It does not wait for walks, which may last until P is back. */
			gave_up = walks > 0;
			linked = false
		};
		done(false)

	/* pgmap_peer_join(), pgmap_fabric_set_links() */
	:: d_step {
#ifndef NO_FABRIC_LOCK
			!fabric_lock -> fabric_lock = true
#else
			true -> skip
#endif
		};
#ifndef NO_REAP
		/* pgmap_region_reap() */
		if
		:: leftover ->
			if
			:: move(owner)
			:: done(true);
				goto next
			fi
		:: else
		fi;
#endif
		/* pgmap_change_partition(), pgmap_spares_register() */
		atomic {
			if
			:: owner != NOBODY -> up = true
			:: up = false
			fi;
			from = owner;
			if
			:: up ->
				to = MAIN;
				may_reach = true
			:: !up && !linked && owner != NOBODY -> to = owner
			:: !up && !(!linked && owner != NOBODY) && refs[2] == 0 && !late[2] -> to = 2
			:: !up && !(!linked && owner != NOBODY) && (refs[2] != 0 || late[2]) -> to = 3
			fi;
			if
			:: from == to ->
				linked = up;
				from = NOBODY;
				to = NOBODY;
				done(false);
				goto next
			:: else
			fi;
			get(from);
			get(to)
		};

		/* pgmap_peer_hold() */
#ifdef NO_HOLD_BARRIER_A
		walking = walks > 0;
#endif
#ifndef NO_HOLD
		d_step {
			held = true;
			held_since = true
		};
#endif
#ifdef UNMAP_BEFORE_PUBLISH
		unmap_foreign();
#endif
		publish(to);
		if
		:: from != NOBODY ->
#if !defined(NO_UNMAP_FOREIGN) && !defined(UNMAP_BEFORE_PUBLISH)
			unmap_foreign();
#endif
			/* pgmap_peer_wait_walks(): no longer than PGMAP_WALKS_TIMEOUT. */
#ifndef NO_WAIT_WALKS
			if
#ifdef NO_HOLD_BARRIER_A
			:: !walking
#endif
			:: walks == 0
			:: d_step { walks > 0 -> gave_up = true }
			fi
#endif
		:: else
		fi;

		/* pgmap_peer_move(): there are other pages, which can be stuck. */
		if
		:: true -> failed = true
		:: true ->
			move(to);
			if
			:: true -> failed = true
			:: true
			fi
		fi;
		if
		:: failed ->
			/* pgmap_peer_move_back() */
#ifndef NO_UNDO
			if
			:: page_owner != from -> move(from)
			:: page_owner != from -> leftover = true
			:: else
			fi;
#endif
#ifdef NO_UNDO_ORDER_C
			held = false;
#endif
			publish(from);
#ifndef NO_UNDO_UNMAP
			unmap_foreign();
#endif
			d_step {
				failed = false;
				up = !up && from != NOBODY
			}
		:: else
		fi;

		/* pgmap_peer_release(), pgmap_change_release() */
		d_step {
			held = false;
			linked = up
		};
		put(to);
		put(from);
		done(leftover);
next:		up = false
	od
}

init {
	d_step {
		/* A, and a page of A. */
		refs[MAIN] = 2;
		if
		:: true ->
			linked = true;
			may_reach = true;
			owner = MAIN
		:: true ->
			owner = 2
		:: true
		fi;
		page_owner = owner;
		get(owner);
		get(owner)
	};
	atomic {
		run p_fault();
		run a_fault();
		run change();
		run change()
	}
}
