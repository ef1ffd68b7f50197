//! This machine's clock against a server's.

use std::time::Duration;

use serde_json::json;

use super::Finding;

const CHECK: &str = "clock";

/// Beyond this, certificates and tokens fail, and runs of several machines are out of order.
const MAX_DIFFERENCE: Duration = Duration::from_secs(300);

/// `ahead`: whether the server's clock is ahead.
pub fn finding(difference: Duration, ahead: bool) -> Finding {
    let seconds = difference.as_secs();
    let facts = json!({"difference_seconds": seconds, "server_is_ahead": ahead});
    let word = if ahead { "behind" } else { "ahead of" };
    let finding = match difference > MAX_DIFFERENCE {
        true => Finding::warning(
            CHECK,
            format!("{seconds} s {word} the MLflow server's"),
            "one of the clocks is wrong: check with 'timedatectl' that this machine uses NTP",
        ),
        false => Finding::ok(
            CHECK,
            format!("within {} s of the MLflow server's", seconds.max(2)),
        ),
    };
    finding.with(facts)
}
