/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a forced operation destroys, while the device works.
 *
 * Two regions of two batches each are to be evacuated in one time. Somebody holds
 * on to a page in the first batch, for as long as he likes. What is left when the
 * time is up is poisoned.
 */
#include "common.h"

bool lost_needlessly;	/* what is poisoned could not be moved */

#define BATCHES	2
#define REGIONS	2
bool resident[4], tried[4];
bool held = true, expired;

proctype clock()
{
	expired = true
}

proctype holder()
{
	held = false
}

/* pgmap_empty() */
proctype evacuate()
{
	byte region, i;
	bool first;

	for (region : 0 .. REGIONS - 1) {
		first = true;
		/* pgmap_window_drain() */
		do
		:: /* pgmap_window_sweep() */
			i = region * BATCHES;
			do
			:: i == region * BATCHES + BATCHES -> break
			:: else ->
				d_step {
					resident[i] = i == 0 && held;
					tried[i] = true;
					i++
				};
#ifndef NO_WHOLE_SWEEP
				if
				:: expired && !first -> break
				:: else
				fi
#else
				if
				:: expired -> break
				:: else
				fi
#endif
			od;
			first = false;
			if
			:: !resident[region * BATCHES] && !resident[region * BATCHES + 1] -> break
			:: expired -> break
			:: else
			fi
		od;
		/* pgmap_window_sweep(), which poisons */
		skip;
		d_step {
			for (i : region * BATCHES .. region * BATCHES + BATCHES - 1) {
				if
				:: resident[i] ->
					CHECK(lost_needlessly, tried[i]);
					resident[i] = false
				:: else
				fi
			};
			i = 0
		}
	}
}

init {
	d_step {
		resident[0] = true;
		resident[1] = true;
		resident[2] = true;
		resident[3] = true
	};
	atomic {
		run clock();
		run holder();
		run evacuate()
	}
}
