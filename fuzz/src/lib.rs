//! What every target holds its reader to, beside that nothing panics or overflows: time and memory in proportion to the
//! input and to what its header declares.

pub mod readers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes in use, and the most of them since the last input began.
struct Counted;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counted = Counted;

impl Counted {
    fn took(bytes: usize) {
        let in_use = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(in_use, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::took(size);
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What a reader may take beside a multiple of what it reads.
const SPARE_BYTES: usize = 64 << 20;

/// For each MiB, and at least.
const TIME: Duration = Duration::from_secs(1);

/// The most that any input has taken so far.
static SLOWEST_US: AtomicUsize = AtomicUsize::new(0);
static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Says so where `found` is a new maximum, in the way of libFuzzer's figures, which have whole seconds alone.
fn told(most: &AtomicUsize, name: &str, found: usize) {
    if most.fetch_max(found, Ordering::Relaxed) < found {
        eprintln!("stat::{name}: {found}");
    }
}

/// Runs `reader` on `bytes`.
///
/// # Panics
/// It took more than 1 s of processor time per MiB of the input and of what it declares, or more than twice as many bytes
/// of memory and 64 MiB.
pub fn limited(reader: readers::Reader, bytes: &[u8]) {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let begun = processor_time();
    let declared = reader(bytes);
    let took = processor_time() - begun;
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    told(&SLOWEST_US, "slowest_input_us", took.as_micros() as usize);
    told(&LARGEST_BYTES, "largest_input_bytes", peak);
    let size = bytes.len() + declared;
    let most = 2 * size + SPARE_BYTES;
    assert!(
        peak <= most,
        "{peak} bytes of memory for {size}, expected at most {most}"
    );
    let most = TIME * (size >> 20).max(1) as u32;
    assert!(
        took <= most,
        "{took:?} for {size} bytes, expected at most {most:?}"
    );
}

/// Of all threads of this process.
fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to where the time is.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
