/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Peers change cluster.
 *
 * Three peers, A, B and C, and a page of B's memory. A faults on that page at any time;
 * a worker moves the page to windows under the owner that B has by then, or finds that
 * it cannot; CPU faults and migrations move it as well. Two callers change links, and
 * remove peers, at the same time.
 *
 * It begins in any state in which no change is under way, and each change has to end
 * in such a state if no other is under way. So two changes by each caller stand for any
 * number. By symmetry, A stands for C, and the page for all pages.
 */
#include "common.h"

bool out_of_reach;	/* no peer maps memory of a peer that it is not linked to */
bool not_settled;	/* a change that ends leaves all as another one needs it */

#define A	0
#define B	1
#define C	2
#define NONE	0

/* &pgmap_peer.cluster and &pgmap_peer.owner. Numbers are used again if nothing has them. */
byte cluster[3], owner[3];
/* By the sum of the two peers: A-B, A-C, B-C. */
bool link[4];
#define LINKED(i, j)	link[(i) + (j)]
/* What the callers of changes have been told: may A use the page? */
bool reach;

/* &pgmap_fabric.lock, &pgmap_peer.lock of B */
bool fabric_lock, move_lock;

/* The current window of B's region, and a closed one: under which owner. */
byte current, before;
/* Where the page's data is. */
mtype = { RAM, CURRENT, BEFORE };
mtype page = RAM;
#define PAGE_OWNER	(page == CURRENT -> current : before)
/* Coherent memory is not rehomed, and its owner does not matter. */
bool coherent;

/* The device page table of A, and a fault of A that is under way. */
bool lock, mapped, stale, lost_reach;
byte walk_owner, walk_cluster;

/*
 * struct pgmap_change: which peers move, and the owner of those that stay. Protected
 * by fabric_lock.
 */
byte movers[2], from[2];
bool leaving[2];

#define IS(n)	(cluster[A] == n || cluster[B] == n || cluster[C] == n || \
		 owner[A] == n || owner[B] == n || owner[C] == n || \
		 current == n || before == n || from[0] == n || from[1] == n || \
		 walk_owner == n || walk_cluster == n)
#define FREE(n, more)	(!IS(n) -> n : more)
#define NEW_ID	FREE(1, FREE(2, FREE(3, FREE(4, FREE(5, FREE(6, FREE(7, FREE(8, \
		FREE(9, FREE(10, FREE(11, 12)))))))))))

#define BIT(p)		(1 << (p))
#define IN(set, p)	((set) & BIT(p))
#define MEMBERS(n)	((cluster[A] == (n)) | (cluster[B] == (n)) << 1 | (cluster[C] == (n)) << 2)

/* --- the page moves, and who maps it is told --- */

inline move_page(to)
{
#ifndef NO_REHOME_NOTIFY
	d_step {
		!lock ->
		stale = true;
		mapped = false;
		page = to
	}
#else
	page = to
#endif
}

/* --- a fault of A: pgmap_range_fault(), pgmap_range_retry() --- */

proctype fault()
{
	bool found;

	do
	:: break
	:: d_step { owner[A] != NONE -> lost_reach = false; stale = false };
#ifdef NO_WALK_ACQUIRE
		/* The owner is read before the sequence number. */
		walk_owner = owner[A];
		walk_cluster = cluster[A];
		lost_reach = false;
#else
		walk_owner = owner[A];
		walk_cluster = cluster[A];
#endif
		if
		:: d_step {
				page != RAM && walk_owner != NONE &&
				(PAGE_OWNER == walk_owner && !coherent ||
				 cluster[B] == walk_cluster && walk_cluster != NONE) ->
				found = true
			}
		:: else
		fi;
#ifdef OWNER_RETRY_UNLOCKED
		found = found && !lost_reach;
#endif
		d_step { !lock -> lock = true };
#if !defined(NO_OWNER_RETRY) && !defined(OWNER_RETRY_UNLOCKED)
		found = found && !lost_reach;
#endif
		d_step {
			found = found && !stale;
			if
			:: found ->
				CHECK(out_of_reach, reach);
				mapped = true
			:: else
			fi;
			lock = false;
			walk_owner = NONE;
			walk_cluster = NONE;
			found = false
		}
	od
}

/* --- migrations to the device, and back --- */

proctype driver()
{
	do
	:: break
	:: d_step { page == RAM && current != NONE -> page = CURRENT }
	:: page != RAM && current != NONE -> move_page(RAM)
	od
}

/* --- pgmap_peer_rehome(), with move_lock held; the page moves if nobody holds it --- */

inline rehome()
{
	if
	:: d_step {
			current != cluster[B] && current != NONE && cluster[B] != NONE &&
			page != BEFORE && !coherent ->
			to = cluster[B]
		};
		/* pgmap_region_switch() */
#ifndef NO_SWITCH_LOCK
		d_step { !fabric_lock -> fabric_lock = true; to = cluster[B] };
#endif
		d_step {
			if
			:: to != NONE ->
				before = current;
				current = to;
				page = (page == CURRENT -> BEFORE : page)
			:: else
			fi;
			to = NONE;
#ifndef NO_SWITCH_LOCK
			fabric_lock = false
#endif
		}
	:: else
	fi;
	if
	:: page == BEFORE && current != NONE -> move_page(CURRENT)
	:: true
	fi;
	d_step { before = (page == BEFORE -> before : NONE) }
}

proctype worker()
{
	byte to;

	do
	:: break
	:: d_step { !move_lock && current != NONE && !coherent -> move_lock = true };
		rehome();
		move_lock = false
	od
}

/* --- changes of the topology --- */

#define PICK(set, p, new, old)	(IN(set, p) -> (new) : old)

inline set_cluster(whom, to_id)
{
	cluster[A] = PICK(whom, A, to_id, cluster[A]);
	cluster[B] = PICK(whom, B, to_id, cluster[B]);
	cluster[C] = PICK(whom, C, to_id, cluster[C])
}

/* pgmap_peer_publish() */
inline publish(whom)
{
	owner[A] = PICK(whom, A, cluster[A], owner[A]);
	owner[B] = PICK(whom, B, cluster[B], owner[B]);
	owner[C] = PICK(whom, C, cluster[C], owner[C])
}

/* A has lost another peer: walks under way begin again, and its mappings go. */
inline cut()
{
#ifdef UNMAP_BEFORE_PUBLISH
	d_step { !lock -> mapped = false };
#endif
	lost_reach = true;
#if !defined(NO_UNMAP_FOREIGN) && !defined(UNMAP_BEFORE_PUBLISH)
#ifndef NO_UNMAP_LOCK
	d_step { !lock -> mapped = false }
#else
	mapped = false
#endif
#endif
}

/* pgmap_peer_exposed(), of B. New pages can appear in the current window. */
#define EXPOSED	(coherent -> page != RAM : \
		 current != NONE && current != cluster[B] || page == BEFORE)

/*
 * pgmap_change_settle(), pgmap_peer_remove(): peers leave others. If B is one of them,
 * and its pages could still be found, those that stay get a new owner.
 */
inline settle(moving, stay)
{
	atomic {
		n = 0;
		if
		:: IN(moving, B) && EXPOSED -> n = MEMBERS(stay)
		:: else
		fi;
		publish(moving);
#ifndef NO_RETIRE
		if
		:: n ->
			id = NEW_ID;
			set_cluster(n, id);
			publish(n);
			id = NONE
		:: else
		fi;
#endif
		n = (n | moving) & BIT(A)
#ifdef NO_CUT
			& moving
#endif
	};
	if
	:: n -> cut()
	:: else
	fi;
	n = 0
}

/* pgmap_settle_others(): is one under way that moves peers from or to this cluster? */
#define TOUCHES(k, p, c)	(IN(movers[k], p) && (owner[p] == (c) || cluster[p] == (c)))
#define CONCERNS(k, c)	(TOUCHES(k, A, c) || TOUCHES(k, B, c) || TOUCHES(k, C, c))

inline settle_others(c)
{
#ifndef NO_SETTLE_OTHERS
	if
	:: (c) != NONE && CONCERNS(1 - me, c) ->
		settle(movers[1 - me], from[1 - me]);
		d_step {
			movers[1 - me] = 0;
			from[1 - me] = NONE
		}
	:: else
	fi
#endif
}

/* What holds when no change is under way. */
#define MATCHES(p)	(cluster[p] != NONE && cluster[p] != cluster[B] && !coherent && \
			 (current == cluster[p] || page == BEFORE && before == cluster[p]))
#define SETTLED \
	(owner[A] == cluster[A] && owner[B] == cluster[B] && owner[C] == cluster[C] && \
	 !MATCHES(A) && !MATCHES(C) && (LINKED(A, B) == reach || reach))

/* The operation returns. What it tells the caller must be true. */
inline done()
{
	d_step {
		if
		:: concern && !LINKED(A, B) ->
			reach = false;
			CHECK(out_of_reach, !mapped)
		:: else
		fi;
		concern = false;
		movers[me] = 0;
		from[me] = NONE;
		CHECK(not_settled, movers[1 - me] || leaving[1 - me] || SETTLED);
		fabric_lock = false
	}
}

inline down(i, j)
{
	d_step {
		!fabric_lock && LINKED(i, j) ->
		fabric_lock = true;
		LINKED(i, j) = false;
		concern = (i) + (j) == A + B
	};
	settle_others(cluster[i]);
	settle_others(cluster[j]);
	/* pgmap_cluster_split(): one of the two moves, and the third peer with one of them. */
	atomic {
		if
		:: cluster[i] == cluster[j] && cluster[i] != NONE ->
			from[me] = cluster[i];
			if
			:: movers[me] = BIT(i)
			:: movers[me] = BIT(j)
			fi;
			n = 3 - (i) - (j);
			if
			:: cluster[n] == from[me] -> movers[me] = movers[me] | BIT(n)
			:: true
			fi;
			n = 0;
			id = NEW_ID;
			set_cluster(movers[me], id);
			id = NONE
		:: else
		fi
	};
	/* Planned: move what can be moved first, without the lock. */
	if
	:: movers[me] ->
		fabric_lock = false;
		if
		:: IN(movers[me], B) ->
			d_step { !move_lock -> move_lock = true };
			rehome();
			move_lock = false
		:: true
		fi;
		d_step { !fabric_lock -> fabric_lock = true }
	/* Forced. */
	:: true
	fi;
	if
	:: movers[me] -> settle(movers[me], from[me])
	:: else
	fi;
	done()
}

/* Is everybody in the one set linked to everybody in the other one? */
#define APART(s, t, i, j)	((IN(s, i) && IN(t, j) || IN(s, j) && IN(t, i)) && !LINKED(i, j))
#define ALL_LINKED(s, t)	!(APART(s, t, A, B) || APART(s, t, A, C) || APART(s, t, B, C))

/* A link comes up, or has become of use; pgmap_change_grow(). */
inline up(i, j)
{
	d_step {
		!fabric_lock && cluster[i] != NONE && cluster[j] != NONE ->
		fabric_lock = true;
		LINKED(i, j) = true;
		reach = reach || (i) + (j) == A + B
	};
	if
	:: cluster[i] != cluster[j] && ALL_LINKED(MEMBERS(cluster[i]), MEMBERS(cluster[j])) ->
		settle_others(cluster[i]);
		settle_others(cluster[j]);
		/* pgmap_cluster_merge(): one of the owners is kept. */
		atomic {
			if
			:: n = cluster[i]
			:: n = cluster[j]
			fi;
			id = MEMBERS(cluster[i]) | MEMBERS(cluster[j]);
			set_cluster(id, n);
			publish(id);
			id = NONE;
			n = 0
		}
	:: else
	fi;
	done()
}

/* pgmap_peer_leave(), of a peer that is lost. If B's page is locked, it stays. */
inline leave(x)
{
	d_step { !move_lock && cluster[x] != NONE -> move_lock = true; leaving[me] = true };
	if
	:: (x) == B ->
		/* pgmap_peer_close() */
		d_step {
			before = (page == CURRENT -> current : before);
			page = (page == CURRENT -> BEFORE : page);
			current = NONE
		};
		if
		:: page == BEFORE -> move_page(RAM)
		:: true
		fi;
		d_step { before = (page == BEFORE -> before : NONE) }
	:: else
	fi;
	d_step { !fabric_lock -> fabric_lock = true };
	settle_others(cluster[x]);
	settle_others(owner[x]);
	/* pgmap_peer_remove() */
	d_step {
		from[me] = cluster[x];
		cluster[x] = NONE;
		concern = (x) != C && LINKED(A, B);
		if
		:: (x) == A ->
			LINKED(A, B) = false;
			LINKED(A, C) = false
		:: (x) == B ->
			LINKED(A, B) = false;
			LINKED(B, C) = false
		:: else
		fi
	};
	settle(BIT(x), from[me]);
	d_step {
		leaving[me] = false;
		move_lock = false
	};
	done()
}

proctype change(bit me)
{
	byte to, n, id, count;
	bool concern;

	do
	:: break
	:: d_step { count < 2 -> count++ };
		if
		:: down(A, B)
		:: down(B, C)
		:: down(A, C)
		:: up(A, B)
		:: up(B, C)
		:: up(A, C)
		:: leave(A)
		:: leave(B)
		:: true
		fi
	od
}

/* Any state in which no change is under way. */
init {
	atomic {
		if
		:: link[A + B] = true
		:: true
		fi;
		if
		:: link[A + C] = true
		:: true
		fi;
		if
		:: link[B + C] = true
		:: true
		fi;
		cluster[A] = 1;
		if
		:: LINKED(A, B) -> cluster[B] = 1
		:: cluster[B] = 2
		:: !LINKED(A, B) && !LINKED(B, C) -> cluster[B] = NONE
		fi;
		if
		:: LINKED(A, C) && (cluster[B] != 1 || LINKED(B, C)) -> cluster[C] = 1
		:: LINKED(B, C) && cluster[B] == 2 -> cluster[C] = 2
		:: cluster[C] = 3
		fi;
		owner[A] = cluster[A];
		owner[B] = cluster[B];
		owner[C] = cluster[C];
		reach = LINKED(A, B);
		if
		:: coherent = true
		:: true
		fi;
		if
		:: cluster[B] != NONE -> current = cluster[B]
		:: cluster[B] != NONE && !coherent -> current = 4
		:: cluster[B] == NONE
		fi;
		if
		:: current != NONE -> page = CURRENT
		:: before = 5 -> page = BEFORE
		:: true
		fi;
		if
		:: page != RAM && cluster[A] == cluster[B] -> mapped = true
		:: true
		fi
	};
	atomic {
		run fault();
		run driver();
		run worker();
		run change(0);
		run change(1)
	}
}
