//! Child runs for the networks of a run, such as its folds.

use std::sync::Arc;

use super::api::NewRun;
use super::batch::Item;
use super::delivery::{Delivery, find_or_create_run};
use super::error::Fault;
use super::event::Event;
use super::event_reader::Lines;
use super::portion::Portion;

impl Delivery {
    /// The run ID for a network's events; creates the child run if needed.
    pub(super) fn run_id_of(&mut self, network: Option<&str>) -> Result<String, Fault> {
        let Some(network) = network.filter(|_| self.start.networks > 1) else {
            return Ok(self.cursor.run_id.clone());
        };
        if let Some(id) = self.cursor.networks.get(network) {
            return Ok(id.clone());
        }
        let link = Arc::clone(&self.link);
        let run = find_or_create_run(
            &Self::api(&link),
            &NewRun {
                experiment: &self.cursor.experiment_id,
                key: &format!("{}/{network}", self.start.key),
                name: &format!("{} {network}", self.start.name),
                parent: Some(&self.cursor.run_id),
                user: self.start.user.as_deref(),
                start_time: super::spool::now().min(self.started_at),
                tags: &[("ctseg.run", &self.start.run), ("ctseg.network", network)],
            },
        )?;
        self.log_network_parameters(&run.id, network)?;
        let networks = &mut self.cursor.networks;
        networks.insert(network.to_owned(), run.id.clone());
        self.save()?;
        Ok(run.id)
    }

    /// Logs the run's parameters in a network's run too, so that folds can be compared by them.
    fn log_network_parameters(&mut self, run: &str, network: &str) -> Result<(), Fault> {
        let mut portion = Portion::default();
        let own = match network.strip_prefix("fold ") {
            Some(fold) => ("fold", fold),
            None => ("network", network),
        };
        portion.push(None, Item::parameter(own.0, own.1));
        let mut lines = Lines::open(&self.run, 0)?;
        while let Some(positioned) = lines.next()? {
            let line = positioned.line;
            let parameters = line.filter(|line| matches!(line.event, Event::Parameters { .. }));
            parameters.and_then(|line| portion.take(line, &[]));
        }
        for batch in portion.batches.into_values().flatten() {
            self.log(run, batch)?;
        }
        Ok(())
    }
}
