//! Prometheus' text format, version 0.0.4: families of samples, each with its help and type.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write;

/// Labels of a sample: names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A value that only goes up; its name ends in `_total`.
    Counter,
}

/// Builds the text.
pub(super) struct Exposition {
    /// Labels of every sample.
    common: Labels,
    text: String,
}

impl Exposition {
    pub(super) fn new(common: Labels) -> Self {
        Self {
            common,
            text: String::new(),
        }
    }

    /// Adds a family with its samples (own labels and values), or nothing without samples. Each name occurs once.
    pub(super) fn family(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let mut lines = String::new();
        for (own, value) in samples {
            let labels = self.common.iter().chain(&own);
            let labels: Vec<String> = labels
                .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
                .collect();
            // Writing to a string cannot fail.
            let _ = match labels.is_empty() {
                true => writeln!(lines, "{name} {}", number(value)),
                false => writeln!(lines, "{name}{{{}}} {}", labels.join(","), number(value)),
            };
        }
        if lines.is_empty() {
            return;
        }
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
    }

    /// Adds a family of one sample without own labels.
    pub(super) fn value(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help, [(Labels::new(), value)]);
    }

    pub(super) fn text(self) -> String {
        self.text
    }
}

fn escaped(value: &str) -> String {
    let value = value.replace('\\', r"\\");
    value.replace('"', "\\\"").replace('\n', r"\n")
}

/// In the format of Go's ParseFloat.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped() {
        let mut exposition = Exposition::new(vec![("command", "fit".to_owned())]);
        let odd = vec![("task", "a \"b\" \\ c\nd".to_owned())];
        let samples = [(odd, 1.5), (Labels::new(), f64::NAN)];
        exposition.family("ctseg_x", Kind::Gauge, "One\nof \\ them.", samples);
        exposition.family("ctseg_none", Kind::Gauge, "Nothing.", []);
        exposition.value("ctseg_y_total", Kind::Counter, "All.", 3.0);
        assert_eq!(
            exposition.text(),
            "# HELP ctseg_x One\\nof \\\\ them.\n# TYPE ctseg_x gauge\n\
             ctseg_x{command=\"fit\",task=\"a \\\"b\\\" \\\\ c\\nd\"} 1.5\n\
             ctseg_x{command=\"fit\"} NaN\n\
             # HELP ctseg_y_total All.\n# TYPE ctseg_y_total counter\n\
             ctseg_y_total{command=\"fit\"} 3\n"
        );
        assert_eq!(number(f64::NEG_INFINITY), "-Inf");
        assert_eq!(number(f64::INFINITY), "+Inf");
    }
}
