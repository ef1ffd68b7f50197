//! The runs of a run's networks, such as those of its folds, which lie below it.

use std::sync::Arc;

use super::api::NewRun;
use super::batch::Item;
use super::delivery::{Delivery, found_or_made};
use super::error::Fault;
use super::event::Event;
use super::event_reader::Lines;
use super::page::Portion;

impl Delivery {
    /// The server's number for the run that a network's events belong to.
    pub(super) fn target(&mut self, network: Option<&str>) -> Result<String, Fault> {
        let Some(network) = network.filter(|_| self.begun.networks > 1) else {
            return Ok(self.standing.run_id.clone());
        };
        if let Some(id) = self.standing.networks.get(network) {
            return Ok(id.clone());
        }
        let link = Arc::clone(&self.link);
        let run = found_or_made(
            &Self::api(&link),
            &NewRun {
                experiment: &self.standing.experiment_id,
                key: &format!("{}/{network}", self.begun.key),
                name: &format!("{} {network}", self.begun.name),
                parent: Some(&self.standing.run_id),
                user: self.begun.user.as_deref(),
                begun: super::spool::now().min(self.begun_at),
                tags: &[("ctseg.run", &self.begun.run), ("ctseg.network", network)],
            },
        )?;
        self.parameters_of_network(&run.id, network)?;
        let networks = &mut self.standing.networks;
        networks.insert(network.to_owned(), run.id.clone());
        self.save()?;
        Ok(run.id)
    }

    /// Logs the parameters told so far in the run of a network too, so that folds can be compared by them.
    fn parameters_of_network(&mut self, run: &str, network: &str) -> Result<(), Fault> {
        let mut portion = Portion::default();
        let own = match network.strip_prefix("fold ") {
            Some(fold) => ("fold", fold),
            None => ("network", network),
        };
        portion.push(None, Item::parameter(own.0, own.1));
        let mut lines = Lines::open(&self.run, 0)?;
        while let Some(placed) = lines.next()? {
            let line = placed.line;
            let told = line.filter(|line| matches!(line.event, Event::Parameters { .. }));
            told.and_then(|line| portion.take(line, &[]));
        }
        for batch in portion.batches.into_values().flatten() {
            self.log(run, batch)?;
        }
        Ok(())
    }
}
