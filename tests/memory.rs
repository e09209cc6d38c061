//! What a member holds in memory while it masks, sums and opens large vectors, counted by the allocator.
//!
//! Blobs that the member has stored are handed back to it from where they stand, as a node hands back mapped files.
#![expect(
    unsafe_code,
    clippy::disallowed_types,
    clippy::print_stderr,
    reason = "an allocator that counts, under a lock, and says what"
)]

#[path = "shards/moved.rs"]
mod moved;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;

use moved::{AT_WORK, moved};

/// Smaller allocations are not counted, in bytes.
const LARGE: usize = 64 << 10;
/// More than are ever held at a time.
const PLACES: usize = 4096;

/// The large allocations that the first member made and nobody has freed: address and bytes.
struct Book {
    places: [(usize, usize); PLACES],
    held: usize,
    most: usize,
    /// Allocations that found no room here.
    unnoted: usize,
}

static BOOK: Mutex<Book> = Mutex::new(Book {
    places: [(0, 0); PLACES],
    held: 0,
    most: 0,
    unnoted: 0,
});

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Book {
    fn take(&mut self, address: usize, bytes: usize) {
        if let Some(place) = self.places.iter_mut().find(|place| place.0 == 0) {
            *place = (address, bytes);
            self.held += bytes;
            self.most = self.most.max(self.held);
        } else {
            self.unnoted += 1;
        }
    }

    fn give(&mut self, address: usize) {
        if let Some(place) = self.places.iter_mut().find(|place| place.0 == address) {
            self.held -= place.1;
            *place = (0, 0);
        }
    }
}

// SAFETY: every call goes on to the system's allocator as it came; beside it only addresses are noted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let memory = unsafe { System.alloc(layout) };
        if layout.size() >= LARGE
            && AT_WORK.load(SeqCst)
            && let Ok(mut book) = BOOK.lock()
        {
            book.take(memory.addr(), layout.size());
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() >= LARGE
            && let Ok(mut book) = BOOK.lock()
        {
            book.give(memory.addr());
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The most bytes of large allocations that a member of so many held at a time, in hundredths of its vector.
fn most_held(members: usize, coordinates: usize) -> usize {
    if let Ok(mut book) = BOOK.lock() {
        book.most = book.held;
    }
    moved(members, coordinates).expect("the sum is opened everywhere");
    let book = BOOK.lock().expect("nobody panicked");
    let (most, unnoted) = (book.most, book.unnoted);
    drop(book);
    assert_eq!(unnoted, 0, "allocations beyond {PLACES} at a time");
    most * 100 / (coordinates * 4)
}

/// Three: a delta and its copy for the case that it does not count, then a sum and two factors of an adapter.
/// One test: what it counts is of the whole process. `CONCLAVE_MEMORY_MIB` names another size of the vectors that eight
/// members move in shards: 512 takes two minutes, 14 GB of memory and 25 GB of temporary files.
#[expect(clippy::disallowed_methods, reason = "a test may be told a size")]
#[test]
fn a_member_holds_three_vectors_whatever_the_size_of_the_federation() {
    const COORDINATES: usize = 2_000_000;
    let few = most_held(4, COORDINATES);
    let more = most_held(7, COORDINATES);
    let vast = std::env::var("CONCLAVE_MEMORY_MIB").ok();
    let vast = vast.map(|mebibytes| mebibytes.parse::<usize>().expect("a number") << 18);
    let sharded = most_held(8, vast.unwrap_or(COORDINATES));
    let many = most_held(12, COORDINATES);
    eprintln!("most held, % of a vector: {few} {more} {sharded} {many}");
    for (members, most) in [(4, few), (7, more), (8, sharded), (12, many)] {
        assert!(
            most <= 320,
            "one of {members} members held {most} % of a vector"
        );
        assert!(
            most >= 200,
            "only {most} % were counted of one of {members} members"
        );
    }
    assert!(
        more <= few + 5,
        "{few} % with four members, {more} % with seven"
    );
    assert!(
        many <= sharded + 5,
        "{sharded} % with eight members, {many} % with twelve"
    );
}
