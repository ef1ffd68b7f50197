//! Benchmark of the all-reduce of a gradient: `mpirun -n 2 target/release/deps/all_reduce-…`, built with
//! `cargo bench --no-run --features mpi --bench all_reduce`.

use std::time::Instant;

use ctseg_engine::distributed::mpi::Mpi;
use ctseg_engine::distributed::process_group::Collective;

/// Numbers of weights: the coarse stage, the refining stage, nnU-Net's 3d_fullres.
const COUNTS: [usize; 3] = [500_000, 5_600_000, 31_000_000];

const ROUNDS: usize = 7;

fn main() {
    let mpi = Mpi::init().expect("MPI");
    for count in COUNTS {
        let mut values = vec![1.0f32; count];
        let mut seconds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                mpi.all_reduce_f32(&mut values).expect("a sum");
                let taken = started.elapsed().as_secs_f64();
                values.fill(1.0);
                taken
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        if mpi.rank == 0 {
            println!(
                "{} processes, {count} values: {:.1} ms (median of {ROUNDS}), {:.2} GB/s",
                mpi.size,
                1e3 * seconds[ROUNDS / 2],
                4e-9 * count as f64 / seconds[ROUNDS / 2]
            );
        }
    }
    mpi.shutdown().expect("shutdown");
}
