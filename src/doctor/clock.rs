//! This machine's clock against a server's.

use std::time::Duration;

use serde_json::json;

use super::Finding;

const CHECK: &str = "clock";

/// Certificates and tokens begin to fail, and runs of several machines no longer follow one another.
const WRONG: Duration = Duration::from_secs(300);

/// `ahead`: whether it is the server's that is further on.
pub fn judged(difference: Duration, ahead: bool) -> Finding {
    let seconds = difference.as_secs();
    let facts = json!({"difference_seconds": seconds, "server_is_ahead": ahead});
    let word = if ahead { "behind" } else { "ahead of" };
    let finding = match difference > WRONG {
        true => Finding::warning(
            CHECK,
            format!("{seconds} s {word} the MLflow server's"),
            "one of them is wrong: 'timedatectl' shows whether this machine's is kept right (NTP)",
        ),
        false => Finding::ok(
            CHECK,
            format!("within {} s of the MLflow server's", seconds.max(2)),
        ),
    };
    finding.with(facts)
}
