/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pgmap_owner

#if !defined(_TRACE_PGMAP_OWNER_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PGMAP_OWNER_H

#include <linux/tracepoint.h>

/* A page, or if @refs is 0 a pagemap, that an operation could not get out of use. */
TRACE_EVENT(pgmap_stuck,
	    TP_PROTO(const char *peer, const char *what, unsigned long pfn,
		     int refs, int mappings, int err),

	    TP_ARGS(peer, what, pfn, refs, mappings, err),

	    TP_STRUCT__entry(__string(peer, peer)
			     __string(what, what)
			     __field(unsigned long, pfn)
			     __field(int, refs)
			     __field(int, mappings)
			     __field(int, err)
			     ),

	    TP_fast_assign(__assign_str(peer);
			   __assign_str(what);
			   __entry->pfn = pfn;
			   __entry->refs = refs;
			   __entry->mappings = mappings;
			   __entry->err = err;
			   ),

	    TP_printk("%s: can't %s: pfn=0x%lx refs=%d mappings=%d err=%d",
		      __get_str(peer), __get_str(what), __entry->pfn,
		      __entry->refs, __entry->mappings, __entry->err)
);

#endif /* _TRACE_PGMAP_OWNER_H */

#include <trace/define_trace.h>
