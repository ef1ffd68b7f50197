//! What is read of the events to be sent in one go.

use std::collections::BTreeMap;

use super::batch::{Batch, Item};
use super::event::{Event, Line};

/// What goes in one go, by network.
#[derive(Debug, Default)]
pub struct Portion {
    pub batches: BTreeMap<Option<String>, Vec<Batch>>,
    pub metrics: usize,
}

impl Portion {
    pub(super) fn push(&mut self, network: Option<&str>, item: Item) {
        self.metrics += usize::from(matches!(item, Item::Metric(_)));
        let batches = self.batches.entry(network.map(str::to_owned)).or_default();
        let room = match batches.last_mut() {
            Some(batch) => batch.push(item),
            None => Err(item),
        };
        if let Err(item) = room {
            let mut batch = Batch::default();
            // An empty one has room.
            let _ = batch.push(item);
            batches.push(batch);
        }
    }

    /// Takes in what goes together with others; gives back what is sent alone. Parameters are those of the run's
    /// `networks` too.
    pub fn take(&mut self, line: Line, networks: &[String]) -> Option<Line> {
        match &line.event {
            Event::Metrics {
                network,
                step,
                values,
                ..
            } => {
                for (name, value) in values {
                    let item = Item::metric(name, *value, line.at, *step);
                    self.push(network.as_deref(), item);
                }
            }
            Event::Parameters { values } => {
                let runs = networks.iter().map(|network| Some(network.as_str()));
                for network in runs.chain([None]) {
                    for (name, value) in values {
                        self.push(network, Item::parameter(name, value));
                    }
                }
            }
            Event::Tags { values } => {
                for (name, value) in values {
                    self.push(None, Item::tag(name, value));
                }
            }
            _ => return Some(line),
        }
        None
    }
}
