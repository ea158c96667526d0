/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Peers change cluster.
 *
 * Four peers, A to D, and a page of B's memory. Either A or B looks the page up and maps
 * it. The page moves to system memory and back. The page also moves to windows under the
 * present owner of B. The model may leave out any move, so moving can fail at any point.
 * A stands for all peers that use the page, and the page stands for all pages.
 *
 * Links go down and come up, and peers leave and join, in any order and without end. Two
 * planned changes can be under way at the same time. A forced change is a planned change
 * during which nothing moves. What a change does under &pgmap_fabric.lock is one step,
 * except that walks can come between the new owner, the new sequence number, and
 * unmap_foreign().
 */
#include "common.h"

bool out_of_reach;	/* no peer maps memory of a peer that it is not linked to */
bool bounces;		/* a peer uses its own memory and that of its cluster in place */
bool two_lists;		/* a peer is on the list of no more than one change */
bool not_settled;	/* without a change under way, no owner finds another cluster's page */

#define A	0
#define B	1
#define C	2
#define D	3
#define NONE	0

/* &pgmap_peer.cluster and &pgmap_peer.owner. */
byte cluster[4], owner[4];

/* A bit for each pair of peers. */
byte links;
#define PAIR(i, j)	(1 << ((i) + (j) - ((i) == A || (j) == A)))
#define LINKED(i, j)	(links & PAIR(i, j))
#define OF_A		(PAIR(A, B) | PAIR(A, C) | PAIR(A, D))
#define OF_B		(PAIR(A, B) | PAIR(B, C) | PAIR(B, D))
#define OF_C		(PAIR(A, C) | PAIR(B, C) | PAIR(C, D))
#define OF_D		(PAIR(A, D) | PAIR(B, D) | PAIR(C, D))
/* May A use the page, as far as the callers of changes know? */
bool reach;

/* The owner of the current window of B, and of a closed window with a leftover. */
byte current, before;
mtype = { RAM, CURRENT, BEFORE };
mtype page = RAM;
/* Coherent memory has one window, whose owner does not matter. */
bool coherent;
#define PAGE_OWNER	(page == CURRENT -> current : before)

/* &pgmap_fabric.lock is held for more than one step. */
bool busy;

/*
 * &pgmap_fabric.changes: the peers that each planned change moves. Does the change take
 * the link A-B down?
 */
byte movers[2];
bool parts[2];
/* Peers that have been merged, and that are to be rehomed: pgmap_change_end(). */
byte merged;

/* The peer that looks the page up, and its walk. */
bit me;
mtype = { IDLE, OWNER, CLUSTER, BEGUN, FOUND, CHECKED, LOCKED };
mtype walk = IDLE;
byte walk_owner, walk_cluster;
bool mapped;

#if defined(NO_SWITCH_LOCK) || defined(NO_PUBLISH_CHECK)
/* The owner that a window has been registered under. */
byte window;
#endif
#ifdef COUNT_LATE
/* The page is in use, and &pgmap_window.pages does not count it. */
bool uncounted;
#define COUNTED		!uncounted
#else
#define COUNTED		true
#endif

/* --- owners: only the equality of two numbers matters --- */

byte new, more;
#define HAS(p, n)	(cluster[p] == n || owner[p] == n)

/* pgmap_owner_new(), for all peers that move and for one of them. */
inline new_owner()
{
	new = 14;
	more = 15
#ifdef OWNER_REUSE
	;
	if
	:: page == BEFORE && !HAS(A, before) && !HAS(B, before) && !HAS(C, before) &&
	   !HAS(D, before) ->
		new = before
	:: else
	fi
#endif
}

byte name[16];
byte names;

inline rename(id)
{
	if
	:: id != NONE && name[id] == NONE ->
		names++;
		name[id] = names
	:: else
	fi;
	id = name[id]
}

/*
 * Number the owners in the order in which the variables name them. Then states that differ
 * in the numbers only are equal.
 */
inline rename_owners()
{
	rename(cluster[A]);
	rename(cluster[B]);
	rename(cluster[C]);
	rename(cluster[D]);
	rename(owner[A]);
	rename(owner[B]);
	rename(owner[C]);
	rename(owner[D]);
	rename(current);
	rename(before);
	rename(walk_owner);
	rename(walk_cluster)
#if defined(NO_SWITCH_LOCK) || defined(NO_PUBLISH_CHECK)
	;
	rename(window)
#endif
	;
	names = 0;
	do
	:: names < 16 ->
		name[names] = NONE;
		names++
	:: else -> break
	od;
	names = 0;
	new = NONE;
	more = NONE
}

/* --- a walk: pgmap_range_fault(), pgmap_range_retry() --- */

/* The comparison of owners in mm/hmm.c, and pgmap_walk_reaches(). */
#ifdef NO_OWN
#define OWN(p)		false
#else
#define OWN(p)		(p == B)
#endif
#ifdef NO_MATES
#define MATE(n)		false
#elif defined(NO_CLUSTER_CHECK)
#define MATE(n)		(cluster[B] != NONE)
#elif defined(REACH_BY_OWNER)
#define MATE(n)		(n != NONE && owner[B] == n)
#else
#define MATE(n)		(n != NONE && cluster[B] == n)
#endif
#define REACHES(p, walk_owner, walk_cluster) \
	(!coherent && PAGE_OWNER == walk_owner || OWN(p) || MATE(walk_cluster))

inline end_walk(next)
{
	walk = next;
	walk_owner = NONE;
	walk_cluster = NONE
}

/* The mmu notifier drops the mapping. mmu_interval_read_retry() returns true afterwards. */
inline notify()
{
	mapped = false;
	walk = (walk == FOUND || walk == CHECKED -> IDLE : walk)
}

proctype pages()
{
end:	do
	/* pgmap_walk_begin(). The CPU may do the two reads in either order. */
	:: d_step {
			walk == IDLE && owner[me] != NONE ->
			walk_owner = owner[me];
			walk = OWNER;
			rename_owners()
		}
	:: d_step {
			walk == OWNER ->
			walk_cluster = cluster[me];
			walk = BEGUN;
			rename_owners()
		}
	:: d_step {
			walk == IDLE && owner[me] != NONE ->
			walk_cluster = cluster[me];
			walk = CLUSTER;
			rename_owners()
		}
	:: d_step {
			walk == CLUSTER ->
			walk_owner = owner[me];
			walk = BEGUN;
			rename_owners()
		}
	/* hmm_range_fault() */
	:: d_step {
			walk == BEGUN ->
			if
			:: page != RAM && REACHES(me, walk_owner, walk_cluster) -> end_walk(FOUND)
			:: else ->
				CHECK(bounces, page == RAM || me == A);
				end_walk(IDLE)
			fi;
			rename_owners()
		}
#ifdef WALK_RETRY_UNLOCKED
	:: d_step { walk == FOUND -> walk = CHECKED }
	:: d_step { walk == CHECKED -> walk = LOCKED }
#else
	/* The driver takes its lock, and pgmap_range_retry() returns false. */
	:: d_step { walk == FOUND -> walk = LOCKED }
#endif
	:: d_step {
			walk == LOCKED ->
			CHECK(out_of_reach, reach || me == B);
			mapped = (me == A);
			walk = IDLE
		}
	/* A walk of A during which nothing changes. */
	:: d_step {
			page != RAM && cluster[B] != NONE && cluster[A] == cluster[B] ->
			CHECK(bounces, REACHES(A, owner[A], cluster[A]))
		}

	/* A migration to the device. */
	:: d_step {
			page == RAM && cluster[B] != NONE && (coherent || current != NONE) ->
#ifdef COUNT_LATE
			uncounted = true;
#endif
			page = CURRENT
		}
#ifdef COUNT_LATE
	:: d_step { uncounted -> uncounted = false }
#endif
#ifdef NO_SWITCH_CLOSE
	:: d_step { page == RAM && before != NONE -> page = BEFORE }
#endif
	/* A CPU fault or an evacuation. */
	:: d_step {
			page != RAM && walk != LOCKED ->
			notify();
			page = RAM;
			before = NONE;
			rename_owners()
		}

	/* pgmap_region_register(), pgmap_region_publish() */
#ifdef NO_PUBLISH_CHECK
	:: d_step {
			current == NONE && cluster[B] != NONE && !coherent && window == NONE ->
			window = cluster[B];
			rename_owners()
		}
	:: d_step {
			current == NONE && window != NONE && !busy ->
			current = (cluster[B] != NONE -> window : NONE);
			window = NONE;
			rename_owners()
		}
#else
	:: d_step {
			current == NONE && cluster[B] != NONE && !coherent && !busy ->
			current = cluster[B];
			rename_owners()
		}
#endif
	/* pgmap_region_switch(). Without a page: pgmap_pass_renew(). */
#ifdef NO_SWITCH_LOCK
	:: d_step {
			current != NONE && current != cluster[B] && page != BEFORE &&
			window == NONE ->
			window = cluster[B];
			rename_owners()
		}
	:: d_step {
			window != NONE && page != BEFORE ->
			if
			:: current != NONE ->
				before = (page == CURRENT -> current : NONE);
				page = (page == CURRENT -> BEFORE : page);
				current = window
			:: else
			fi;
			window = NONE;
			rename_owners()
		}
#else
	:: d_step {
			current != NONE && current != cluster[B] && page != BEFORE && !busy ->
#ifdef NO_SWITCH_CLOSE
			before = current;
#else
			before = (page == CURRENT -> current : NONE);
#endif
			page = (page == CURRENT -> BEFORE : page);
			current = cluster[B];
			rename_owners()
		}
#endif
	/* pgmap_region_drain_leftovers() */
	:: d_step {
			page == BEFORE && current != NONE && walk != LOCKED ->
#ifndef NO_REHOME_NOTIFY
			notify();
#endif
			page = CURRENT;
			before = NONE;
			rename_owners()
		}
	od
}	/* unreached: this goes on without end. */

/* --- changes of the topology --- */

#define BIT(p)		(1 << (p))
#define IN(set, p)	(((set) >> (p)) & 1)
#define MEMBERS(n)	((cluster[A] == (n)) | (cluster[B] == (n)) << 1 | \
			 (cluster[C] == (n)) << 2 | (cluster[D] == (n)) << 3)
#define PICK(set, p, new, old)	(IN(set, p) -> (new) : old)

inline set_cluster(whom, id)
{
	cluster[A] = PICK(whom, A, id, cluster[A]);
	cluster[B] = PICK(whom, B, id, cluster[B]);
	cluster[C] = PICK(whom, C, id, cluster[C]);
	cluster[D] = PICK(whom, D, id, cluster[D])
}

/* pgmap_peer_publish() */
inline publish(whom)
{
	owner[A] = PICK(whom, A, cluster[A], owner[A]);
	owner[B] = PICK(whom, B, cluster[B], owner[B]);
	owner[C] = PICK(whom, C, cluster[C], owner[C]);
	owner[D] = PICK(whom, D, cluster[D], owner[D])
}

/* The links between the peers of a set and all other peers. */
#define CROSSES(s, i, j)	(IN(s, i) != IN(s, j) -> PAIR(i, j) : 0)
#define BORDER(s) \
	(CROSSES(s, A, B) | CROSSES(s, A, C) | CROSSES(s, A, D) | \
	 CROSSES(s, B, C) | CROSSES(s, B, D) | CROSSES(s, C, D))

/* pgmap_peer_exposed(), of B. */
#ifdef NO_EXPOSED_REOPEN
#define EXPOSED_EMPTY	false
#else
#define EXPOSED_EMPTY	(current != NONE && current != cluster[B])
#endif
#ifdef NO_EXPOSED_COHERENT
#define EXPOSED_COHERENT	false
#else
#define EXPOSED_COHERENT	(page != RAM)
#endif
#define EXPOSED	(coherent -> EXPOSED_COHERENT : \
		 page != RAM && COUNTED && PAGE_OWNER != cluster[B] || EXPOSED_EMPTY)

/*
 * Does a planned change move peers from or to this cluster? pgmap_settle_others() ends
 * that change. The model waits for finish(), which can happen at any time.
 */
#define TOUCHES(k, p, n)	(IN(movers[k], p) && (owner[p] == (n) || cluster[p] == (n)))
#define CONCERNS(k, n)	(TOUCHES(k, A, n) || TOUCHES(k, B, n) || TOUCHES(k, C, n) || \
			 TOUCHES(k, D, n))
#ifdef NO_END_LISTED
#define TOUCHED(n)	(CONCERNS(0, n) || CONCERNS(1, n))
#else
#define MERGED(p, n)	(IN(merged, p) && cluster[p] == (n))
#define TOUCHED(n)	(CONCERNS(0, n) || CONCERNS(1, n) || MERGED(A, n) || MERGED(B, n) || \
			 MERGED(C, n) || MERGED(D, n))
#endif

#ifdef NO_SETTLE_SPLIT
#define SPLIT_TOUCHED(n)	false
#else
#define SPLIT_TOUCHED(n)	TOUCHED(n)
#endif
#ifdef NO_SETTLE_GROW
#define GROW_TOUCHED(n)		false
#else
#define GROW_TOUCHED(n)		TOUCHED(n)
#endif
#ifdef NO_SETTLE_LEAVE
#define LEAVE_TOUCHED(n)	false
#else
#define LEAVE_TOUCHED(n)	TOUCHED(n)
#endif

/* What holds when no change is under way. */
#define MATCHES(p)	(cluster[p] != NONE && cluster[p] != cluster[B] && !coherent && \
			 (current == cluster[p] || page == BEFORE && before == cluster[p]))
#define SETTLED \
	(owner[A] == cluster[A] && owner[B] == cluster[B] && owner[C] == cluster[C] && \
	 owner[D] == cluster[D] && !MATCHES(A) && !MATCHES(C) && !MATCHES(D))

/* C and D play the same role: put them in order. */
#define RANK(p)		((LINKED(A, p) != 0) << 5 | (LINKED(B, p) != 0) << 4 | \
			 (cluster[p] == cluster[A]) << 3 | (cluster[p] == cluster[B]) << 2 | \
			 (cluster[p] == NONE) << 1 | IN(movers[0], p))
#define SWAP(x, i, j)	x = ((x) & ~(1 << (i)) & ~(1 << (j))) | (((x) >> (i)) & 1) << (j) | \
			    (((x) >> (j)) & 1) << (i)

inline swap_alike()
{
	if
	:: RANK(C) > RANK(D) ->
		new = cluster[C];
		cluster[C] = cluster[D];
		cluster[D] = new;
		new = owner[C];
		owner[C] = owner[D];
		owner[D] = new;
		SWAP(links, 1, 2);
		SWAP(links, 3, 4);
		SWAP(movers[0], C, D);
		SWAP(movers[1], C, D);
		SWAP(merged, C, D)
	:: else
	fi
}

/* An operation returns. */
inline done()
{
	reach = reach && (LINKED(A, B) || parts[0] || parts[1]);
	CHECK(out_of_reach, reach || !mapped);
	CHECK(not_settled, movers[0] || SETTLED);
	swap_alike();
	i = 0;
	set = 0;
	stay = 0;
	busy = false;
	rename_owners()
}

/*
 * pgmap_change_split(). The link between i and j goes down, or all links between a set of
 * peers and all others. A single peer of the set can be divided from the set as well.
 */
inline down()
{
	if
	:: cluster[i] == cluster[j] ->
		if
		:: IN(set, single) && single != i ->
			links = links & ~(BORDER(set) | BORDER(BIT(single)))
		:: single == i -> links = links & ~BORDER(set)
		:: else -> links = links & ~PAIR(i, j)
		fi;
		stay = (movers[0] != 0);
		CHECK(two_lists, !(set & (movers[1 - stay] | merged)));
		movers[stay] = set;
		parts[stay] = cluster[A] == cluster[B] && cluster[A] != NONE && !LINKED(A, B);
		new_owner();
		set_cluster(set, new);
		cluster[single] = (IN(set, single) && single != i -> more : cluster[single])
	:: else -> links = links & ~PAIR(i, j)
	fi;
	done()
}
#define CAN_DOWN \
	(cluster[i] != NONE && cluster[j] != NONE && !movers[1] && \
	 !((owner[i] == owner[j] || cluster[i] == cluster[j]) && SPLIT_TOUCHED(cluster[i])))

/* pgmap_link_set() */
inline up()
{
	links = links | PAIR(i, j);
	if
	:: i + j == A + B ->
		reach = true;
		parts[0] = false;
		parts[1] = false
	:: else
	fi;
	done()
}

/* Is each peer of the one set linked to each peer of the other set? */
#define APART(s, t, p, q)	((IN(s, p) && IN(t, q) || IN(s, q) && IN(t, p)) && !LINKED(p, q))
#define ALL_LINKED(s, t)	!(APART(s, t, A, B) || APART(s, t, A, C) || APART(s, t, A, D) || \
				  APART(s, t, B, C) || APART(s, t, B, D) || APART(s, t, C, D))

/* pgmap_change_grow(), for two clusters: that of j keeps its owner. */
inline merge()
{
	set = MEMBERS(cluster[i]);
	set_cluster(set, cluster[j]);
	publish(set);
	merged = merged | set;
	done()
}
#define CAN_MERGE \
	(cluster[i] != NONE && cluster[j] != NONE && cluster[i] != cluster[j] && \
	 !GROW_TOUCHED(cluster[i]) && !GROW_TOUCHED(cluster[j]) && \
	 ALL_LINKED(MEMBERS(cluster[i]), MEMBERS(cluster[j])))

/* pgmap_peer_join(), after pgmap_peer_leave() has returned 0. */
inline join()
{
	new_owner();
	cluster[i] = new;
	owner[i] = new;
	done()
}
#define CAN_JOIN	(cluster[i] == NONE && (i != B || page == RAM))

/*
 * The peers of the set get the owner of their cluster. pgmap_cluster_retire() gives the
 * peers that stay a new owner.
 */
inline settle()
{
	publish(set);
#ifndef NO_RETIRE
	if
	:: stay ->
		new_owner();
		set_cluster(stay, new);
		publish(stay)
	:: else
	fi;
#endif
	busy = IN(set | stay, me);
	if
	:: busy ->
		i = 0;
		rename_owners()
	:: else -> done()
	fi
}

/* pgmap_peer_remove() */
inline leave()
{
	set = BIT(i);
	CHECK(two_lists, !(set & (movers[0] | movers[1] | merged)));
	stay = cluster[i];
	cluster[i] = NONE;
	links = links & ~BORDER(set);
	/* If the page is still there, then it is locked. The window is closed. */
	if
	:: i == B ->
		before = (page == CURRENT -> current : before);
		page = (page == CURRENT && !coherent -> BEFORE : page);
		current = NONE
	:: else
	fi;
#ifdef NO_LEAVE_RETIRE
	stay = 0;
#else
	stay = (i == B && EXPOSED -> MEMBERS(stay) : 0);
#endif
	settle()
}
#define CAN_LEAVE	(cluster[i] != NONE && !LEAVE_TOUCHED(cluster[i]))

/* pgmap_change_settle() */
inline finish()
{
	set = movers[i];
	parts[0] = (i == 0 -> parts[1] : parts[0]);
	movers[0] = (i == 0 -> movers[1] : movers[0]);
	parts[1] = false;
	movers[1] = 0;
	stay = (IN(set, B) && EXPOSED -> MEMBERS(owner[B]) : 0);
	settle()
}
#define CAN_FINISH	(i < 2 && movers[i])

/* unmap_foreign(), of a peer whose cluster is retired, that leaves, or that moves. */
#ifdef NO_RETIRE_UNMAP
#define UNMAPS		(IN(stay, me) == 0)
#elif defined(NO_LEAVE_UNMAP)
#define UNMAPS		(owner[me] != NONE)
#elif defined(NO_UNMAP_FOREIGN)
#define UNMAPS		(IN(stay, me) || owner[me] == NONE)
#else
#define UNMAPS		true
#endif
/* Does the sequence number of the peer change? */
#ifdef NO_RETIRE_SEQ
#define BUMPS		(IN(stay, me) == 0)
#else
#define BUMPS		true
#endif
/* Has the walk read the sequence number already? */
#ifdef NO_WALK_ACQUIRE
#define SEQ_READ	(walk == BEGUN || walk == FOUND)
#else
#define SEQ_READ	(walk == OWNER || walk == CLUSTER || walk == BEGUN || walk == FOUND)
#endif

/* The sequence number changes. pgmap_walk_retry() returns true to walks under way. */
inline bump()
{
#ifndef NO_WALK_RETRY
	if
	:: SEQ_READ && BUMPS -> end_walk(IDLE)
	:: else
	fi;
#endif
	rename_owners()
}

inline pick(p)
{
	if
	:: p = A
	:: p = B
	:: p = C
	:: p = D
	fi
}

inline pick_more(p)
{
	if
	:: p != i && p != j -> set = set | BIT(p)
	:: true
	fi
}

proctype changes()
{
	byte i, j, set, stay, single;

end:	do
	:: atomic {
			!busy ->
			pick(i);
			if
			:: pick(j);
				if
				:: i != j && CAN_DOWN ->
					set = BIT(i);
					if
					:: cluster[i] == cluster[j] ->
						pick_more(A);
						pick_more(B);
						pick_more(C);
						pick_more(D);
						set = set & MEMBERS(cluster[i]);
						pick(single)
					:: else
					fi;
					d_step { down() }
				:: i < j && cluster[i] != NONE && cluster[j] != NONE ->
					d_step { up() }
				:: i != j && CAN_MERGE -> d_step { merge() }
				:: else -> i = 0
				fi
			:: CAN_JOIN -> d_step { join() }
			:: CAN_LEAVE -> d_step { leave() }
			:: CAN_FINISH -> d_step { finish() }
			:: merged ->
				d_step {
					merged = 0;
					done()
				}
			fi;
			j = 0;
			single = 0
		}
	/* The peer that looks the page up loses access to another peer. */
	:: busy ->
#ifdef UNMAP_BEFORE_PUBLISH
		d_step { walk != LOCKED -> mapped = mapped && !UNMAPS };
		d_step {
			bump();
			done()
		}
#else
		d_step { bump() };
		d_step {
#ifndef NO_UNMAP_LOCK
			walk != LOCKED ->
#endif
			mapped = mapped && !UNMAPS;
			done()
		}
#endif
	od
}	/* unreached: this goes on without end. */

init {
	atomic {
		if
		:: coherent = true
		:: true
		fi;
		if
		:: me = A
		:: me = B
		fi;
		run pages();
		run changes()
	}
}
