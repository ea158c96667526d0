// SPDX-License-Identifier: GPL-2.0
/*
 * Walks: looking up pages on behalf of a peer.
 */
#include <kunit/static_stub.h>
#include <linux/export.h>
#include <linux/hmm.h>
#include <linux/mm.h>

#include "pgmap_internal.h"

/**
 * pgmap_walk_begin() - start to look up pages on behalf of a peer
 * @peer: the peer; NULL to bring device memory to system memory
 * @walk: set up here
 *
 * A driver that calls hmm_range_fault() itself sets &hmm_range.dev_private_owner to
 * &pgmap_walk.owner, and &hmm_range.walk to @walk. Nothing is held: a walk need not be
 * ended, and a task can have several.
 *
 *	pgmap_walk_begin()			losing access to a peer
 *	------------------			-----------------------
 *	read seq (acquire)	(A)		owner, cluster = new
 *	read owner, cluster			seq++ (release)		(A)
 *						unmap_foreign()
 *	under the driver's lock:		  takes the driver's lock
 *	  seq as before?
 *
 * (A) A walk that reads the new sequence number reads the new owner. A walk that has
 * the old number is caught by pgmap_walk_retry().
 *
 * Context: Any.
 * Return: 0; -ENODEV if the peer is not a member of a fabric, or lost.
 */
int pgmap_walk_begin(struct pgmap_peer *peer, struct pgmap_walk *walk)
{
	*walk = (struct pgmap_walk){ .peer = peer };
	if (!peer)
		return 0;

	walk->seq = smp_load_acquire(&peer->seq);		/* (A) */
	walk->owner = READ_ONCE(peer->owner);
	walk->cluster = READ_ONCE(peer->cluster);
	return walk->owner && !pgmap_peer_is_lost(peer) ? 0 : -ENODEV;
}
EXPORT_SYMBOL_GPL(pgmap_walk_begin);

/**
 * pgmap_walk_reaches() - can a walk use pages of a pagemap whose owner is another one?
 * @walk: the walk, or NULL
 * @pagemap: the pagemap of a page that the walk has met
 *
 * The peer's own memory, and that of the peers of its cluster, whatever owner their
 * windows still have. Not the owner is compared, but the cluster: a mover leaves its cluster
 * before it gets its owner. If the walk's peer has left since the walk began,
 * pgmap_walk_retry() tells. If the page's peer leaves later and the page does not move, the
 * walk's peer gets a new owner.
 *
 * Context: RCU read section or page table lock, with the page mapped there: then the
 *	    pagemap is registered, and so is its peer.
 * Return: true if the page can be used as it is.
 */
bool pgmap_walk_reaches(const struct pgmap_walk *walk,
			const struct dev_pagemap *pagemap)
{
	const struct pgmap_peer *peer;

	if (!walk || !walk->peer || !(pagemap->flags & PGMAP_WINDOW))
		return false;
	peer = container_of(pagemap, struct pgmap_window, pagemap)->region->peer;
	return peer == walk->peer ||
	       (walk->cluster && READ_ONCE(peer->cluster) == walk->cluster);
}

/**
 * pgmap_walk_retry() - has the peer lost access to another one during the walk?
 * @walk: from pgmap_walk_begin()
 *
 * To be asked in the same critical section as mmu_interval_read_retry(), once for
 * the whole range. P leaves the cluster of A while it looks up A's pages:
 *
 *	P's fault handler			topology change
 *	-----------------			---------------
 *	pgmap_walk_begin(): old owner
 *	hmm_range_fault()
 *	  A's page, owner matches
 *						P's owner = new, seq++
 *						unmap_foreign(P):
 *						  lock(P's page table)
 *						  unmap
 *						  unlock(P's page table)
 *	lock(P's page table)
 *	mmu_interval_read_retry(): no, A's
 *	  page did not move
 *	pgmap_walk_retry(): yes
 *	unlock(P's page table)
 *
 * If P takes its lock first, it maps the page and unmap_foreign() finds it there.
 * The lock orders the accesses to the sequence number; no barrier is needed.
 *
 * Context: The lock that the driver takes in unmap_foreign() is held.
 * Return: true if the result of the walk must not be used.
 */
bool pgmap_walk_retry(const struct pgmap_walk *walk)
{
	return walk->peer && READ_ONCE(walk->peer->seq) != walk->seq;
}
EXPORT_SYMBOL_GPL(pgmap_walk_retry);

/**
 * pgmap_walk_fault() - hmm_range_fault() for a walk that has begun
 * @walk: from pgmap_walk_begin()
 * @range: as for hmm_range_fault_unlocked_timeout(); the owner is filled in.
 *	&hmm_range.default_flags tell what is to be faulted in; pfn_flags_mask is 0.
 * @timeout: as for hmm_range_fault_unlocked_timeout()
 *
 * Pages that the peer cannot reach are brought to system memory, or left out if pages
 * are not to be faulted in.
 *
 * Context: May sleep. Takes mmap_lock.
 * Return: 0, and the caller must ask pgmap_range_retry() under its page table lock;
 *	   -EBUSY also if such pages do not move; -EFAULT also if one is lost; or an
 *	   error of hmm_range_fault_unlocked_timeout(). The walk goes on in any case.
 */
int pgmap_walk_fault(const struct pgmap_walk *walk, struct hmm_range *range,
		     unsigned long timeout)
{
	range->dev_private_owner = walk->owner;
	range->walk = walk;
	return pgmap_coherent_fault(walk, range, timeout);
}
EXPORT_SYMBOL_GPL(pgmap_walk_fault);

/**
 * pgmap_range_fault() - hmm_range_fault() on behalf of a peer
 * @peer: as for pgmap_walk_begin()
 * @walk: set up here, for pgmap_range_retry()
 * @range: as for pgmap_walk_fault()
 * @timeout: as for pgmap_walk_fault()
 *
 * Context: May sleep. Takes mmap_lock.
 * Return: 0 or the error of one of the two.
 */
int pgmap_range_fault(struct pgmap_peer *peer, struct pgmap_walk *walk,
		      struct hmm_range *range, unsigned long timeout)
{
	return pgmap_walk_begin(peer, walk) ?: pgmap_walk_fault(walk, range, timeout);
}
EXPORT_SYMBOL_GPL(pgmap_range_fault);
