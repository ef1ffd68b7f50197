//! This machine's clock against a server's.

use std::time::Duration;

use serde_json::json;

use super::Finding;
use ctseg_tracking::mlflow::probe::ClockSkew;

const CHECK: &str = "clock";

/// Beyond this, certificates and tokens fail, and runs of several machines are out of order.
const MAX_DIFFERENCE: Duration = Duration::from_secs(300);

pub fn finding(skew: ClockSkew) -> Finding {
    let seconds = skew.difference.as_secs();
    let facts = json!({"difference_seconds": seconds, "server_is_ahead": skew.server_is_ahead});
    let word = match skew.server_is_ahead {
        true => "behind",
        false => "ahead of",
    };
    let finding = match skew.difference > MAX_DIFFERENCE {
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
