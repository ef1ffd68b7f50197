//! A portion of events, uploaded in one step.

use std::collections::BTreeMap;

use super::batch::{Batch, Item};
use super::event::{Event, Line};

/// Batches by network.
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
            // An empty batch has room.
            let _ = batch.push(item);
            batches.push(batch);
        }
    }

    /// Adds an event, or returns one that must be uploaded alone. Parameters are also added for the run's `networks`.
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
