//! The node's allocator, counting what a thread asks of it. An allocator's functions are `unsafe` by their trait; these count, and
//! hand everything on as it is.

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

thread_local! {
    // Without a destructor and initialised at compile time: reading it never allocates.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The allocator of a node, which counts per thread. Both sides pay for the counting: an addition.
pub(crate) struct Counting;

fn count_one() {
    // A thread that is ending has no counter any more; nobody asks for it either.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

/// How often `work` allocates or grows an allocation on this thread.
pub(crate) fn during(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

// SAFETY: everything is passed on, unchanged, to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller's promises about `layout` are the ones asked for.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: as in `alloc`.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        count_one();
        // SAFETY: `block` came from the allocator that it is handed back to.
        unsafe { MiMalloc.realloc(block, layout, new_bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { MiMalloc.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_counted_where_it_is_made() {
        let boxed = |n: u64| std::hint::black_box(Box::new(n));
        assert_eq!(during(|| drop((boxed(1), boxed(2)))), 2);
        assert_eq!(during(|| ()), 0);
    }
}
