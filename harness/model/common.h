/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the models share.
 *
 * A property is a flag that is never set: its name then stands in the message
 * of the assertion, which is how run.py knows which of them was violated. It sets
 * the flags of those that it does not ask for.
 */
#define CHECK(property, what)	assert((what) || property)

/*
 * RCU. A grace period waits for the readers that are inside when it begins,
 * and for no others. One process at a time calls synchronize_rcu().
 */
byte rcu_readers, rcu_awaited;

#define rcu_enter(me)	rcu_readers = rcu_readers | (1 << me)
#define rcu_leave(me)	rcu_readers = rcu_readers & ~(1 << me); \
			rcu_awaited = rcu_awaited & ~(1 << me)

inline rcu_read_lock(me)
{
	rcu_enter(me)
}

inline rcu_read_unlock(me)
{
	d_step { rcu_leave(me) }
}

inline synchronize_rcu()
{
	rcu_awaited = rcu_readers;
	rcu_awaited == 0
}
