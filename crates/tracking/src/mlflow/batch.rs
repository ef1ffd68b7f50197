//! Batches of metrics, parameters and tags, within the limits of MLflow's servers (`mlflow/utils/validation.py` of
//! MLflow 3.17: 1000 metrics, 100 parameters, 100 tags, 1000 items in total, 1 MB).

use serde_json::{Value, json};

use super::event::Number;

const MAX_METRICS: usize = 1000;
const MAX_PARAMETERS: usize = 100;
const MAX_TAGS: usize = 100;
const MAX_ITEMS: usize = 1000;
/// A little under 1 MB, which leaves room for the rest of the request.
const MAX_BYTES: usize = 900_000;

const MAX_KEY_CHARACTERS: usize = 250;
const MAX_PARAMETER_CHARACTERS: usize = 6000;
const MAX_TAG_CHARACTERS: usize = 8000;

/// One item, as the REST API expects it.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Metric(Value),
    Parameter(Value),
    Tag(Value),
}

/// Items for one `log-batch` request.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    items: Vec<Item>,
    metrics: usize,
    parameters: usize,
    tags: usize,
    bytes: usize,
}

impl Item {
    pub fn metric(name: &str, value: Number, at: i64, step: u64) -> Self {
        Self::Metric(json!({
            "key": valid_name(name), "value": value, "timestamp": at, "step": step,
        }))
    }

    pub fn parameter(name: &str, value: &str) -> Self {
        let value = truncated(value, MAX_PARAMETER_CHARACTERS);
        Self::Parameter(json!({"key": valid_name(name), "value": value}))
    }

    pub fn tag(name: &str, value: &str) -> Self {
        Self::Tag(tag(name, value))
    }

    fn value(&self) -> &Value {
        match self {
            Self::Metric(value) | Self::Parameter(value) | Self::Tag(value) => value,
        }
    }

    /// Its key, for messages.
    pub fn name(&self) -> &str {
        self.value()["key"].as_str().unwrap_or_default()
    }
}

/// A tag, as the REST API expects it.
pub fn tag(name: &str, value: &str) -> Value {
    json!({"key": valid_name(name), "value": truncated(value, MAX_TAG_CHARACTERS)})
}

impl Batch {
    /// Adds the item, or returns it if the batch is full.
    pub fn push(&mut self, item: Item) -> Result<(), Item> {
        let bytes = item.value().to_string().len() + 1;
        let (count, most) = match &item {
            Item::Metric(_) => (&mut self.metrics, MAX_METRICS),
            Item::Parameter(_) => (&mut self.parameters, MAX_PARAMETERS),
            Item::Tag(_) => (&mut self.tags, MAX_TAGS),
        };
        let full =
            *count == most || self.items.len() == MAX_ITEMS || self.bytes + bytes > MAX_BYTES;
        if full && !self.items.is_empty() {
            return Err(item);
        }
        *count += 1;
        self.bytes += bytes;
        self.items.push(item);
        Ok(())
    }

    pub fn metrics(&self) -> usize {
        self.metrics
    }

    /// The two halves of a batch; with fewer than two items, the item if any.
    pub fn split(mut self) -> Result<(Self, Self), Option<Item>> {
        if self.items.len() < 2 {
            return Err(self.items.pop());
        }
        let second = self.items.split_off(self.items.len() / 2);
        let of = |items: Vec<Item>| {
            let mut batch = Self::default();
            for item in items {
                // Half a batch always fits.
                let _ = batch.push(item);
            }
            batch
        };
        Ok((of(self.items), of(second)))
    }

    /// The request body for the run `run_id`.
    pub fn request(&self, run_id: &str) -> Value {
        let of = |wanted: fn(&Item) -> bool| -> Vec<&Value> {
            let items = self.items.iter().filter(|item| wanted(item));
            items.map(Item::value).collect()
        };
        json!({
            "run_id": run_id,
            "metrics": of(|item| matches!(item, Item::Metric(_))),
            "params": of(|item| matches!(item, Item::Parameter(_))),
            "tags": of(|item| matches!(item, Item::Tag(_))),
        })
    }
}

/// `name` as MLflow accepts it: letters, digits and `_-. :/`, no path part that is empty, `.` or `..`, at most 250
/// characters.
pub fn valid_name(name: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_alphanumeric() || "_-. :".contains(letter) => letter,
        _ => '_',
    };
    let part = |part: &str| match part {
        "" | "." | ".." => "_".repeat(part.len().max(1)),
        part => part.chars().map(letter).collect(),
    };
    let name = name.split('/').map(part).collect::<Vec<_>>().join("/");
    match name.char_indices().nth(MAX_KEY_CHARACTERS) {
        Some(_) => {
            // Distinguishes it from other long names with the same beginning.
            let mark = format!("-{:08x}", checksum(&name));
            let kept: String = name.chars().take(MAX_KEY_CHARACTERS - mark.len()).collect();
            format!("{kept}{mark}")
        }
        None => name,
    }
}

/// FNV-1a.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// `text` in at most `most` characters, with a note if it was cut.
pub fn truncated(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let note = format!(" … [cut, {count} characters]");
    let kept: String = text.chars().take(most - note.chars().count()).collect();
    kept + &note
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut items: impl Iterator<Item = Item>) -> Batch {
        let mut batch = Batch::default();
        while items.next().is_some_and(|item| batch.push(item).is_ok()) {}
        batch
    }

    #[test]
    fn a_batch_keeps_the_servers_limits() {
        let metric = |step| Item::metric("loss", Number(0.5), 1, step);
        let tag = |index: u64| Item::tag(&format!("t{index}"), "x");
        let parameter = |index: u64| Item::parameter(&format!("p{index}"), "x");
        assert_eq!(filled((0..5000).map(metric)).metrics(), 1000);
        assert_eq!(filled((0..500).map(tag)).items.len(), 100);
        assert_eq!(filled((0..500).map(parameter)).items.len(), 100);
        let mixed = (0..5000).map(|index| match index {
            0..50 => tag(index),
            index => metric(index),
        });
        let mixed = filled(mixed);
        assert_eq!((mixed.items.len(), mixed.metrics()), (1000, 950));
        let long = "ä".repeat(MAX_PARAMETER_CHARACTERS);
        let wide = filled((0..100).map(|index| Item::parameter(&index.to_string(), &long)));
        let bytes = wide.request("r").to_string().len();
        assert!(wide.items.len() > 50 && bytes < 1_000_000, "{bytes}");
    }

    #[test]
    fn a_batch_is_split_down_to_one_item() {
        let batch = filled((0..3).map(|step| Item::metric("loss", Number(0.5), 1, step)));
        let (first, second) = batch.split().unwrap();
        assert_eq!((first.metrics(), second.metrics()), (1, 2));
        assert_eq!(first.split().unwrap_err().unwrap().name(), "loss");
    }

    #[test]
    fn long_values_are_cut_with_a_note() {
        let text = "ü".repeat(9000);
        let short = truncated(&text, MAX_PARAMETER_CHARACTERS);
        assert_eq!(short.chars().count(), MAX_PARAMETER_CHARACTERS);
        assert!(short.ends_with("ü … [cut, 9000 characters]"));
        assert_eq!(truncated("abc", 3), "abc");
    }

    #[test]
    fn names_are_what_servers_accept() {
        for (name, permitted) in [
            ("validation_dice/left lung", "validation_dice/left lung"),
            ("Größe (mm)", "Größe _mm_"),
            ("/a//b/", "_/a/_/b/_"),
            ("../x", "__/x"),
            ("", "_"),
        ] {
            assert_eq!(valid_name(name), permitted);
        }
        let long = valid_name(&"a".repeat(300));
        assert_eq!(long.len(), MAX_KEY_CHARACTERS);
        assert_ne!(long, valid_name(&"a".repeat(301)));
    }
}
