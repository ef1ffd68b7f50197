//! Numbers of bytes with their unit.

/// In decimal units (1 kB = 1000 bytes), for disks and files: `1.5 GB`.
pub fn decimal(bytes: u64) -> String {
    in_units(bytes, 1000.0, ["B", "kB", "MB", "GB", "TB"])
}

/// In binary units (1 KiB = 1024 bytes), for memory: `1.5 GiB`.
pub fn binary(bytes: u64) -> String {
    in_units(bytes, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

fn in_units(bytes: u64, step: f64, units: [&str; 5]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_printed_in_the_largest_fitting_unit() {
        assert_eq!(decimal(999), "999 B");
        assert_eq!(decimal(1_500_000), "1.5 MB");
        assert_eq!(binary(3 << 29), "1.5 GiB");
        assert_eq!(binary(1 << 60), "1048576.0 TiB");
    }
}
